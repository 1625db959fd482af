"""Bulk generation: any number of processes, each drawing blocks that are missing until none is."""

import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddimkit._arguments import check_device, model_device
from ddimkit._numbers import integer, number
from ddimkit.errors import WeightsError
from ddimkit.generate.blocks import Blocks
from ddimkit.generate.claims import Claims, missing_blocks
from ddimkit.generate.drawing import Drawing, fixed_arithmetic
from ddimkit.generate.manifest import Manifest
from ddimkit.generate.shards import Shard, Shards
from ddimkit.generate.writer import Writer
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.features import Extractor
from ddimkit.sampling import PlanSampler

__all__ = ["Generated", "generate"]


@dataclass(frozen=True)
class Generated:
    """What a call of :func:`generate` left behind.

    Attributes:
        folder: where the images are.
        asked: how many images there are to be.
        images: how many there are.
        drawn: how many of them this process drew.
        seconds: that it took.
        set_aside: files that were damaged, under their new names; their blocks were drawn again.
    """

    folder: Path
    asked: int
    images: int
    drawn: int
    seconds: float
    set_aside: tuple[Path, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all images are there."""
        return self.images == self.asked


def generate(
    bundle: ModelBundle,
    sampler: PlanSampler,
    seeds: range,
    folder: str | Path,
    *,
    batch: int = 256,
    device: torch.device | str | None = None,
    threads: int | None = None,
    extractor: Extractor | None = None,
    rank: int = 0,
    world_size: int = 1,
    max_seconds: float | None = None,
    mixed_machines: bool = False,
    progress: bool = False,
) -> Generated:
    """Draw the images of consecutive seeds into a folder; images that are there already are not drawn again.

    Any number of processes may work on one folder, with the same arguments but ``rank`` and ``device``. They need no connection:
    the files are the only state. A process returns once all images are there. It may be killed at any moment,
    and the same call goes on.

    Args:
        bundle: the model, on ``device``, with its conditions. Where they hold one integer a sample, it is kept as ``labels``.
            Images of latent models are decoded.
        sampler: a sampler of the model.
        seeds: consecutive seeds, one an image.
        folder: is made where it is missing.
        batch: samples of one call. The seeds are cut into blocks of so many, and each block is drawn in one call of exactly this
            shape, so that an image does not depend on which process draws it.
        device: where; default: that of the model's first parameter, else the CPU.
        threads: of torch on the CPU during the run; default: those of the folder, else torch's present number.
        extractor: makes features that are kept beside the images, in half precision.
        rank: which of ``world_size`` equal shares this process draws first; then it draws what is missing of the others.
        world_size: how many processes are expected. More or fewer may come.
        max_seconds: no block is begun that would probably end after so long; None for no limit.
        mixed_machines: whether another processor, GPU, number of threads or version than the folder's may go on. The noise is the
            same, the images agree to rounding.
        progress: whether to show a bar of all processes' images.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range; the folder holds images of another configuration or
            machine, saying what differs.
        OSError: the folder cannot be written to, or the disk is full; what is there stays.
        NonFiniteError: an image holds NaN or infinity.

    >>> import tempfile
    >>> from ddimkit import DDIMSampler, load_pretrained
    >>> from ddimkit.generate import generate
    >>> mnist = load_pretrained("mnist")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     generate(mnist, mnist.sampler(DDIMSampler, steps=2), range(10), folder, batch=4).images
    10
    """
    began = time.monotonic()
    rank, world_size = integer(rank, "rank"), integer(world_size, "world_size")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in 0..{world_size - 1}, got {rank}")
    blocks = Blocks(seeds, batch)
    where = model_device(bundle.model) if device is None else check_device(device)
    drawing = Drawing(bundle, sampler, where, extractor)
    end = None if max_seconds is None else began + _checked_seconds(max_seconds)
    if threads is not None and integer(threads, "threads") < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    folder = _made(Path(folder))
    with fixed_arithmetic(_threads(folder, threads)):
        manifest = Manifest.of(drawing, blocks, torch.get_num_threads()).settle(folder, mixed_machines=mixed_machines)
        shards, own = Shards(folder, blocks, manifest.sha256), blocks.share(rank, world_size)
        set_aside = _set_aside_damaged(shards, own)
        drawn, whole = _draw_missing(drawing, shards, own, end, progress)
    if whole and rank == 0:
        shards.clear_partial()
    images = len(seeds) if whole else shards.images(shards.present())
    return Generated(folder, len(seeds), images, drawn, time.monotonic() - began, set_aside)


def _draw_missing(drawing: Drawing, shards: Shards, own: range, end: float | None, progress: bool) -> tuple[int, bool]:
    """Draw what is missing until a time of the monotonic clock; how many images were drawn, and whether nothing is missing."""
    drawn, slowest = 0, 0.0
    with closing(Claims(shards.folder / "claims")) as claims, _Bar(shards, progress) as bar:

        def write(block: int, shard: Shard) -> None:
            shards.write(block, shard)
            claims.release(block)
            bar.update()

        with Writer(write) as writer:
            for block in missing_blocks(shards, claims, own, writer.flush):
                now = time.monotonic()
                if end is not None and now + slowest > end:
                    return drawn, False
                shard = drawing.draw(shards.blocks, block)
                writer.put(block, shard)
                drawn, slowest = drawn + len(shard.seeds), max(slowest, time.monotonic() - now)
    return drawn, True


def _made(folder: Path) -> Path:
    """The folder, made where it is missing, after a test file was written to it.

    Raises:
        OSError: it cannot be made or written to, naming it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise OSError(error.errno, f"images cannot be written to {folder}: {error.strerror or error}") from error


def _checked_seconds(value: float) -> float:
    seconds = number(value, "max_seconds")
    if not seconds >= 0:  # NaN too
        raise ValueError(f"max_seconds must be at least 0, got {seconds}")
    return seconds


def _threads(folder: Path, threads: int | None) -> int:
    """Threads as given, else those of the folder's manifest, else torch's."""
    if threads is not None:
        return integer(threads, "threads")
    try:
        return int(Manifest.load(folder).machine["threads"])
    except FileNotFoundError:
        return torch.get_num_threads()


def _set_aside_damaged(shards: Shards, own: range) -> tuple[Path, ...]:
    """Check the files of a share that are there, and set the damaged ones aside; their new names."""
    found = list[Path]()
    for block in sorted(shards.present(own)):
        with suppress(FileNotFoundError):  # another process has just set it aside
            try:
                shards.read(block)
            except WeightsError:
                found.append(shards.set_aside(block))
    return tuple(found)


class _Bar:
    """A bar of all processes' images, which are counted in the folder, at most every second and for a twentieth of the time."""

    def __init__(self, shards: Shards, shown: bool) -> None:
        self._shards, self._shown, self._next = shards, shown, 0.0
        self._bar: Any = None

    def __enter__(self) -> "_Bar":
        if self._shown:
            from tqdm import tqdm

            images = self._shards.images(self._shards.present())
            self._bar = tqdm(total=len(self._shards.blocks.seeds), initial=images, unit="image")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self.update(last=True)
            self._bar.close()

    def update(self, *, last: bool = False) -> None:
        """Show the number of images that are there now."""
        began = time.monotonic()
        if self._bar is None or (began < self._next and not last):
            return
        self._bar.n = self._shards.images(self._shards.present())
        self._bar.refresh()
        now = time.monotonic()
        self._next = now + max(1.0, 20 * (now - began))
