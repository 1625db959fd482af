"""One block, drawn: seeds to bytes, with the conditions that follow from the seeds."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddimkit.generate.blocks import Blocks
from ddimkit.generate.shards import Shard
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.features import Extractor, to_bytes
from ddimkit.sampling import PlanSampler

__all__ = ["Drawing", "fixed_arithmetic"]


@dataclass(frozen=True, eq=False)
class Drawing:
    """How blocks are drawn.

    Args:
        bundle: the model.
        sampler: a sampler of it.
        device: where, which the model is on.
        extractor: makes features that are kept beside the images; None for none.

    Raises:
        TypeError: a sampler that is none.
        ValueError: samples that are not (C, H, W).
    """

    bundle: ModelBundle
    sampler: PlanSampler
    device: torch.device
    extractor: Extractor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, PlanSampler):
            raise TypeError(f"sampler must be a PlanSampler, as bundle.sampler(DDIMSampler, steps=50) gives, got {self.sampler!r}")
        if len(self.bundle.sample_shape) != 3:
            raise ValueError(f"only samples of shape (C, H, W) can be written as images, got {self.bundle.sample_shape}")

    def draw(self, blocks: Blocks, block: int) -> Shard:
        """The images of a block, from one call of exactly ``batch`` samples.

        Raises:
            ValueError: ``decode`` gives no images (B, C, H, W).
        """
        seeds, count = blocks.padded(block), len(blocks.seeds_of(block))
        given = self.bundle.model_kwargs(seeds, self.device)
        shape = len(seeds), *self.bundle.sample_shape
        x = self.sampler.sample(self.bundle.model, shape, seed=seeds, device=self.device, model_kwargs=given)
        with torch.no_grad():
            images = to_bytes(self.bundle.decoded(x))
        if images.ndim != 4 or len(images) != len(seeds):
            raise ValueError(f"decode must give images (B, C, H, W) of {len(seeds)} samples, got shape {tuple(images.shape)}")
        return Shard(
            images.permute(0, 2, 3, 1)[:count].cpu().numpy(),
            np.array(seeds[:count], dtype=np.int64),
            _labels(given, count),
            None if self.extractor is None else _half(self.extractor, images)[:count],
        )


def _labels(given: Mapping[str, Any], count: int) -> NDArray[np.int64] | None:
    """The one integer a sample among the conditions, its class; None where there is none, or more than one."""
    found = [v for v in given.values() if isinstance(v, Tensor) and v.ndim == 1 and v.dtype in (torch.int64, torch.int32)]
    return found[0][:count].cpu().to(torch.int64).numpy() if len(found) == 1 else None


def _half(extractor: Extractor, images: Tensor) -> NDArray[np.float16]:
    """Features in half precision.

    Raises:
        ValueError: half precision cannot hold them.
    """
    features = extractor(images, batch_size=len(images))
    most = float(np.abs(features).max())
    if not most < float(np.finfo(np.float16).max):
        raise ValueError(f"features of {extractor.name} reach {most:g}, which half precision cannot hold")
    return features.astype(np.float16)


@contextmanager
def fixed_arithmetic(threads: int) -> Generator[None]:
    """A fixed number of threads and deterministic convolutions, within; both are as before afterwards."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(threads)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
