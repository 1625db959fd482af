"""Many images of one sampler, kept as features: interrupted, the drawing goes on from there; a later call may want more images."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddimkit.errors import DDIMKitError
from ddimkit.models.bundle import ModelBundle
from ddimkit.noise import NORMAL_SCHEME
from ddimkit.quality.evaluator import Evaluator
from ddimkit.quality.features import to_bytes
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.grid import model_code
from ddimkit.tradeoff.rows import sampler_to_dict, shared_settings
from ddimkit.weights._tensorfile import read_tensors, write_tensors

__all__ = ["Drawn", "draw"]

_KIND = "ddimkit-drawn"
_SCHEMA = 2
_SAVE_EVERY_SECONDS = 30.0
_IMAGES = 64
_BATCH = {"cpu": 64}
_BATCH_DEVICE = 1000


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images of consecutive seeds.

    Attributes:
        features: (N, d) float32.
        images: (M, C, H, W) unsigned bytes, the first ones.
        first: the seed of the first.
    """

    features: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    images: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    first: int = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self.features)

    @property
    def seeds(self) -> range:
        """The seeds, one an image."""
        return range(self.first, self.first + len(self))

    def joined(self, features: Tensor, images: Tensor) -> "Drawn":
        """With the images of the following seeds."""
        if not len(self):
            return Drawn(features, images[:_IMAGES], self.first)
        return Drawn(torch.cat((self.features, features)), torch.cat((self.images, images))[:_IMAGES], self.first)

    def beginning(self, count: int) -> "Drawn":
        """The first so many."""
        return Drawn(self.features[:count], self.images[:count], self.first)


def draw(
    sampler: PlanSampler,
    bundle: ModelBundle,
    count: int,
    evaluator: Evaluator,
    *,
    device: torch.device,
    first: int = 0,
    batch: int | None = None,
    path: Path | None = None,
    progress: Callable[[int], None] | None = None,
    end: float = math.inf,
    whole_batches: bool = False,
) -> Drawn:
    """The images of a sampler from ``count`` consecutive seeds, as features; fewer where there was no time for more.

    Args:
        sampler: what draws them.
        bundle: the model.
        count: how many.
        evaluator: whose extractor makes the features.
        device: where the model is.
        first: the first seed.
        batch: images drawn at once; None for 64 on the CPU and 1000 elsewhere.
        path: file that keeps what is drawn; more images than asked for stay in it. None keeps nothing.
        progress: called before each batch with the number of images drawn so far, kept ones included.
        end: no batch is begun after this time of ``time.monotonic``; what was drawn until then is returned.
        whole_batches: whether the last batch is drawn whole too, for a model that is compiled for one size.

    Raises:
        ValueError: a batch below 1.
        DDIMKitError: the file is damaged, or of another model, sampler, extractor or first seed.
    """
    identity = _identity(sampler, bundle, evaluator, first)
    drawn, saved = _kept(path, identity, first), time.monotonic()
    kept, batch = len(drawn), _BATCH.get(device.type, _BATCH_DEVICE) if batch is None else batch
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    while len(drawn) < count and time.monotonic() < end:
        if progress is not None:
            progress(len(drawn))
        size = batch if whole_batches else min(batch, count - len(drawn))
        seeds = range(drawn.seeds.stop, drawn.seeds.stop + size)
        made = bundle.draw(sampler, seeds, device=device)
        features = torch.from_numpy(evaluator.extractor(made)).to(torch.float32)
        drawn = drawn.joined(features, to_bytes(made[:_IMAGES]).cpu())
        if path is not None and time.monotonic() - saved > _SAVE_EVERY_SECONDS:
            _keep(drawn, path, identity)
            saved, kept = time.monotonic(), len(drawn)
    if path is not None and len(drawn) > kept:
        _keep(drawn, path, identity)
    return drawn.beginning(count)


def _identity(sampler: PlanSampler, bundle: ModelBundle, evaluator: Evaluator, first: int) -> str:
    """What decides every image and feature; a schedule by its constructor, since its last bits depend on the processor."""
    schedule, extractor = sampler.schedule, evaluator.extractor
    named = dict(schedule.spec) if schedule.spec is not None else schedule.sha256
    parts: list[Any] = [sampler_to_dict(sampler), shared_settings(sampler), named, NORMAL_SCHEME, first]
    parts += [bundle.weights_sha256(), model_code(bundle), bundle.sample_shape, extractor.sha256, extractor.rounding]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _keep(drawn: Drawn, path: Path, identity: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    tensors = {"features": drawn.features, "images": drawn.images}
    write_tensors(partial, tensors, kind=_KIND, schema=_SCHEMA, settings={"identity": identity})
    partial.replace(path)


def _kept(path: Path | None, identity: str, first: int) -> Drawn:
    if path is None or not path.exists():
        return Drawn(first=first)
    file = read_tensors(path, kind=_KIND, schema=_SCHEMA)
    if file.settings.get("identity") != identity:
        raise DDIMKitError(f"{path} holds images of another model, sampler or extractor: choose another folder, or remove it")
    return Drawn(file.tensors["features"], file.tensors["images"], first)
