"""The proof that a folder is whole: its files, their checksums, their seeds, and a sample of blocks drawn again."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ddimkit._arguments import check_device, model_device
from ddimkit._numbers import integer
from ddimkit.errors import WeightsError
from ddimkit.generate.drawing import Drawing, fixed_arithmetic
from ddimkit.generate.export import open_shards
from ddimkit.generate.manifest import Manifest, describe_arithmetic, differences
from ddimkit.generate.shards import Shards
from ddimkit.models.bundle import ModelBundle

__all__ = ["Redrawn", "Verification", "verify"]

_NEAR = 1.0
"""Mean difference in levels of a byte up to which a block of another machine counts as the same."""


@dataclass(frozen=True)
class Redrawn:
    """A block drawn again.

    Attributes:
        block: its number.
        share: share of its bytes that differ.
        mean: mean difference, in levels of a byte.
        largest: largest difference, in levels of a byte.
    """

    block: int
    share: float
    mean: float
    largest: int


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found.

    Attributes:
        folder: the folder.
        asked: how many images there are to be.
        images: how many there are, each seed exactly once, in files whose checksums hold.
        missing: blocks without a file.
        damaged: what is wrong with a file, a line each.
        strange: files that belong to no block: parts of interrupted writes, and what was set aside.
        redrawn: blocks drawn again and compared.
        elsewhere: how this machine differs from the folder's, and manifests of further machines that drew, a line each; where there
            are any, blocks drawn again agree to rounding only.
    """

    folder: Path
    asked: int
    images: int
    missing: tuple[int, ...]
    damaged: tuple[str, ...]
    strange: tuple[Path, ...]
    redrawn: tuple[Redrawn, ...]
    elsewhere: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether all images are there and sound, and blocks drawn again are the same, to the byte where one machine did both."""
        same = all(found.mean <= _NEAR if self.elsewhere else found.share == 0 for found in self.redrawn)
        return self.images == self.asked and not self.damaged and same

    def __str__(self) -> str:
        missing = f"missing: {len(self.missing)} blocks, the first is {self.missing[0]}" if self.missing else "missing: none"
        lines = [f"{self.folder}: {self.images} of {self.asked} images, each seed once, checksums hold", missing]
        lines += [f"damaged: {line}" for line in self.damaged] or ["damaged: none"]
        lines += [f"not of the set: {name}" for name in self.strange]
        lines += [f"to rounding only: {line}" for line in self.elsewhere]
        lines += [
            f"drawn again: block {found.block}, "
            + (f"{found.share:.3%} of its bytes differ, by {found.largest} at most" if found.share else "the same to the byte")
            for found in self.redrawn
        ]
        return "\n".join([*lines, "good" if self.good else "NOT good"])


def verify(
    folder: str | Path,
    bundle: ModelBundle | None = None,
    *,
    redraw: int = 3,
    device: torch.device | str | None = None,
) -> Verification:
    """Check a folder that :func:`~ddimkit.generate.generate` made; nothing in it is changed.

    Args:
        folder: the folder.
        bundle: the model, to draw some blocks again; None to draw none.
        redraw: how many blocks are drawn again, chosen at random.
        device: where; default: that of the model's first parameter, else the CPU.

    Raises:
        FileNotFoundError: the folder has no manifest.
        WeightsError: its manifest is damaged.
        ValueError: the model is not the folder's; a negative number of blocks.
    """
    shards, manifest = open_shards(folder), Manifest.load(folder)
    sound, damaged = list[int](), list[str]()
    for block in sorted(shards.present()):
        try:
            shards.read(block)
            sound.append(block)
        except (WeightsError, OSError) as error:  # a folder of that name, or a file that cannot be read
            damaged.append(str(error))
    chosen = secrets.SystemRandom().sample(sound, min(_checked(redraw), len(sound))) if bundle is not None else []
    redrawn, elsewhere = list[Redrawn](), list[str]()
    if bundle is not None:
        where = model_device(bundle.model) if device is None else check_device(device)
        drawing = Drawing(bundle, manifest.sampler(bundle.schedule), where)
        _check_model(manifest, drawing, shards)
        with fixed_arithmetic(manifest.machine["threads"]):
            elsewhere = differences(manifest.machine, describe_arithmetic(where, torch.get_num_threads()))
            elsewhere += [f"{path.name} is of another machine that drew here" for path in _others(Path(folder))]
            redrawn = [_compare(shards, drawing, block) for block in sorted(chosen)]
    return Verification(
        Path(folder),
        len(shards.blocks.seeds),
        shards.images(set(sound)),
        tuple(sorted(set(range(len(shards.blocks))) - shards.present())),
        tuple(damaged),
        tuple(shards.strange()),
        tuple(redrawn),
        tuple(elsewhere),
    )


def _others(folder: Path) -> list[Path]:
    """The manifests of further machines, which ``mixed_machines`` let draw."""
    return sorted(folder.glob("manifest-*.json"))


def _checked(redraw: int) -> int:
    redraw = integer(redraw, "redraw")
    if redraw < 0:
        raise ValueError(f"redraw must be at least 0, got {redraw}")
    return redraw


def _check_model(manifest: Manifest, drawing: Drawing, shards: Shards) -> None:
    """Raise a ValueError unless the model and its conditions are the folder's."""
    saved = manifest.configuration
    ours = json.loads(json.dumps(Manifest.of(drawing, shards.blocks, 1).configuration))
    apart = [line for key in ("model", "conditions_sha256") for line in differences(saved[key], ours[key], key)]
    if apart:
        raise ValueError(f"{shards.folder} was drawn with another model: {'; '.join(apart)}")


def _compare(shards: Shards, drawing: Drawing, block: int) -> Redrawn:
    saved, anew = shards.read(block).images.astype(np.int16), drawing.draw(shards.blocks, block).images
    apart = np.abs(saved - anew)
    return Redrawn(block, float((apart > 0).mean()), float(apart.mean()), int(apart.max()))
