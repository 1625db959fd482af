"""The features that were kept beside the images, and what is made from them without a second pass over the images."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddimkit.generate.export import each_shard, open_shards
from ddimkit.generate.manifest import Manifest
from ddimkit.generate.shards import Shard
from ddimkit.quality.evaluator import Evaluator
from ddimkit.quality.measure import Quality
from ddimkit.quality.statistics import KERNEL_WIDTH, FeatureStatistics, KernelStatistics

__all__ = ["feature_sums", "measure"]

_MOST = 200_000
"""Images of which intervals are computed: the time grows with their square."""


def feature_sums(folder: str | Path, blocks: range | None = None) -> tuple[FeatureStatistics, KernelStatistics | None]:
    """The sums of the features of some blocks, from which the Fréchet distance and the kernel distance follow.

    Sums of different blocks are joined by their ``merge``, whichever process made them.

    Args:
        folder: of :func:`~ddimkit.generate.generate`, with an extractor.
        blocks: which blocks, each of which must be there; None for all.

    Returns:
        count, mean and scatter; and the kernel's sums, None for features wider than 192.

    Raises:
        FileNotFoundError: a block or the manifest is missing.
        WeightsError: a shard or the manifest is damaged.
        ValueError: no features were kept, or no blocks are named.
    """
    shards, moments, kernel = open_shards(folder), None, None
    for block in range(len(shards.blocks)) if blocks is None else blocks:
        features = _features(shards.read(block), folder)
        part = FeatureStatistics.of(features)
        moments = part if moments is None else moments.merge(part)
        if features.shape[1] <= KERNEL_WIDTH:
            sums = KernelStatistics.of(features)
            kernel = sums if kernel is None else kernel.merge(sums)
    if moments is None:
        raise ValueError("name one block at least")
    return moments, kernel


def measure(folder: str | Path, evaluator: Evaluator) -> Quality:
    """The metrics of a whole folder, with intervals, from the features that were kept.

    Args:
        folder: of :func:`~ddimkit.generate.generate`, with the evaluator's extractor.
        evaluator: extractor and real images.

    Raises:
        FileNotFoundError: the folder has no manifest.
        DDIMKitError: blocks are missing.
        WeightsError: a shard or the manifest is damaged.
        ValueError: no features were kept, or they are of another extractor; more than 200,000 images.
    """
    saved, label = Manifest.load(folder).configuration["features"], evaluator.reference.label
    shards = open_shards(folder)
    if saved is not None and saved["sha256"] != label.extractor_sha256:
        raise ValueError(f"{folder} keeps features of {saved['name']!r}, not of the evaluator's {label.extractor!r}")
    if len(shards.blocks.seeds) > _MOST:
        raise ValueError(f"intervals are computed of {_MOST} images at most, {folder} has more: use feature_sums")
    features = np.concatenate([_features(shard, folder) for shard in each_shard(shards)])
    return evaluator.evaluate_features(features, shards.blocks.seeds)


def _features(shard: Shard, folder: str | Path) -> NDArray[np.float64]:
    if shard.features is None:
        raise ValueError(f"{folder} keeps no features: generate with an extractor, on the command line with --quality")
    return shard.features.astype(np.float64)
