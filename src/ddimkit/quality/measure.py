"""The quality of a set of generated images: every distance to the reference, with what it is relative to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddimkit._repr import short_repr
from ddimkit.quality.estimate import (
    Estimate,
    estimate_class_distance,
    estimate_frechet,
    estimate_kernel,
    estimate_precision_recall,
    estimate_share,
)
from ddimkit.quality.features import Extractor
from ddimkit.quality.reference import Label, Reference, Training
from ddimkit.quality.statistics import FloatArray, as_features

__all__ = [
    "METRICS",
    "Distance",
    "Metric",
    "Quality",
    "check_comparable",
    "difference",
    "evaluate",
    "evaluate_images",
    "other_seed_distance",
    "same_seed_distance",
    "same_seed_share",
]

Distance = Literal["kernel", "frechet"]
Metric = Literal["kernel", "frechet", "precision", "recall", "class_distance", "memorised"]
"""Names of the metrics of a :class:`Quality`."""

METRICS: tuple[Metric, ...] = get_args(Metric)
"""The same names, in the order of tables."""

_FEWEST = 5


@dataclass(frozen=True, eq=False)
class Quality:
    """The metrics of some generated images.

    Attributes:
        label: the reference, extractor and rounding; metrics of different labels cannot be compared.
        seeds: ranges of seeds (first, one after the last), one seed an image.
        kernel: unbiased squared kernel distance ("KID"): comparable between any numbers of images.
        frechet: squared Fréchet distance ("FID"): falls with the number of images, comparable at equal numbers only.
        precision: share of the images that look like a real one.
        recall: share of the real images that some image looks like.
        manifold: how many images of each kind the last two rest on; they are comparable at equal numbers only.
        classes: images in each class the extractor sees; empty where it knows none.
        class_distance: total variation distance of the classes' frequencies from the reference's, 0 to 1; None without classes.
        memorised: share of the images that lie nearer to a training image than all but one in a hundred of other real images do;
            None where the training images are not at hand.
        training: number of training images and the distance that counts as near; None where they are not at hand.
    """

    label: Label
    seeds: tuple[tuple[int, int], ...]
    kernel: Estimate
    frechet: Estimate
    precision: Estimate
    recall: Estimate
    manifold: int
    classes: tuple[int, ...] = ()
    class_distance: Estimate | None = None
    memorised: Estimate | None = None
    training: tuple[int, float] | None = None

    __repr__ = short_repr

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(after - first for first, after in self.seeds)

    def estimate(self, metric: Metric) -> Estimate:
        """A metric by its name.

        Raises:
            ValueError: no metric has this name, or it is not known of these images.
        """
        if metric not in METRICS:
            raise ValueError(f"the metrics are {', '.join(METRICS)}, got {metric!r}")
        found: Estimate | None = getattr(self, metric)
        if found is None:
            raise ValueError(f"{metric} is not known of these images: it needs an extractor with classes, or the training images")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: metrics with their intervals; the label is left to the file, which states it once."""
        metrics: dict[str, Any] = {name: self.estimate(name).to_dict() for name in METRICS if getattr(self, name) is not None}
        rest: dict[str, Any] = {"seeds": self.seeds, "manifold": self.manifold, "classes": self.classes, "training": self.training}
        return metrics | {name: value for name, value in rest.items() if value not in (None, ())}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], label: Label) -> "Quality":
        """Read what :meth:`to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: something is missing, of another kind, not finite or outside its own interval.
        """
        fields: dict[str, Any] = {name: Estimate.from_dict(saved[name]) for name in METRICS if name in saved}
        fields["seeds"] = tuple((int(first), int(after)) for first, after in saved["seeds"])
        fields["classes"] = tuple(int(n) for n in saved.get("classes", ()))
        if "training" in saved:
            images, threshold = saved["training"]
            fields["training"] = int(images), float(threshold)
        return cls(label=label, manifold=int(saved["manifold"]), **fields)


def evaluate(
    features: ArrayLike, seeds: Sequence[int], reference: Reference, extractor: Extractor, training: Training | None = None
) -> Quality:
    """Every metric of images whose features (N, d) ``extractor`` made.

    Args:
        features: one row an image.
        seeds: each image's own seed, which pairs it with other samplers' images.
        reference: the real images, seen through the same extractor.
        extractor: what made the features.
        training: the images the model was trained on, to look for memorised ones.

    Raises:
        ValueError: reference or training images are of another extractor or rounding, a seed twice, or too few images (5).
    """
    x = as_features(features, len(reference.statistics.mean))
    label = reference.label
    if training is not None and training.extractor_sha256 != extractor.sha256:
        raise ValueError(f"the training images were seen through another extractor, {training.extractor_sha256!r}")
    label.check(replace(label, extractor=extractor.name, extractor_sha256=extractor.sha256, rounding=extractor.rounding))
    if len(seeds) != len(x) or len(x) < _FEWEST:
        raise ValueError(f"evaluation takes at least {_FEWEST} images and a seed for each, got {len(x)} images, {len(seeds)} seeds")
    manifold = min(len(x), len(reference.features))
    precision, recall = estimate_precision_recall(reference.features[:manifold], x[:manifold], seeds[:manifold])
    counts = extractor.count_classes(x)
    classes = extractor.classes(x) if len(counts) else None
    return Quality(
        label,
        _ranges(seeds),
        estimate_kernel(x, reference.kernel, seeds, reference.real),
        estimate_frechet(x, reference.statistics, seeds),
        precision,
        recall,
        manifold,
        tuple(int(n) for n in counts),
        None if classes is None else estimate_class_distance(classes, reference.classes, seeds),
        None if training is None else estimate_share(training.near(x), seeds),
        None if training is None else (len(training.features), training.threshold),
    )


def evaluate_images(
    images: Tensor | NDArray[np.uint8], seeds: Sequence[int], reference: Reference, extractor: Extractor
) -> Quality:
    """:func:`evaluate` of images (N, C, H, W), floating point in [−1, 1] or unsigned bytes."""
    return evaluate(extractor(images), seeds, reference, extractor)


def difference(a: Quality, b: Quality, metric: Metric = "kernel") -> Estimate:
    """How much larger a metric of a is than b's, paired by their seeds; ``is_zero`` tells that the two are not distinguishable.

    Raises:
        ValueError: different labels, naming what differs; a metric that depends on the number of images, of different numbers;
            metrics read from a file, which keeps no influences.
    """
    check_comparable(a, b, metric)
    return a.estimate(metric) - b.estimate(metric)


def check_comparable(a: Quality, b: Quality, metric: Metric) -> None:
    """Raise a ValueError where a metric of two sets of images cannot be compared, as :func:`difference` says."""
    a.label.check(b.label)
    if metric == "memorised" and not _same_training(a.training, b.training):
        raise ValueError("memorised shares of different training images cannot be compared")
    by_manifold = metric in ("precision", "recall")
    counts = (a.manifold, b.manifold) if by_manifold else (a.count, b.count)
    if metric not in ("kernel", "memorised") and counts[0] != counts[1]:
        raise ValueError(f"{metric} of {counts[0]} and {counts[1]} images differs by their numbers alone: use 'kernel'")


def _same_training(a: tuple[int, float] | None, b: tuple[int, float] | None) -> bool:
    if a is None or b is None:
        return a is b
    return a[0] == b[0] and math.isclose(a[1], b[1], rel_tol=1e-4)  # features differ by rounding between processors


def same_seed_distance(images: ArrayLike | Tensor, finest: ArrayLike | Tensor) -> FloatArray:
    r"""(N,): root mean square difference of each image from the one of the same seed, on the scale [0, 1] of pixels.

    Args:
        images: (N, \*) in [−1, 1].
        finest: of the same seeds, from the finest run of the same sampler.
    """
    a, b = np.asarray(images, dtype=np.float64), np.asarray(finest, dtype=np.float64)
    if a.shape != b.shape or not a.size:
        raise ValueError(f"both runs must have drawn the same images, got shapes {a.shape} and {b.shape}")
    found: FloatArray = np.sqrt(((a - b) ** 2).reshape(len(a), -1).mean(axis=1)) / 2
    return found


def other_seed_distance(images: ArrayLike | Tensor) -> float:
    """The mean of :func:`same_seed_distance` between images (N, ...) of different seeds, each beside the next."""
    return float(same_seed_distance(np.roll(np.asarray(images), 1, axis=0), images).mean())


def same_seed_share(images: ArrayLike | Tensor, finest: ArrayLike | Tensor) -> float:
    """The mean of :func:`same_seed_distance`, as a share of that between the finest run's images of different seeds.

    Raises:
        ValueError: fewer than two images, or other images than the finest run's.
    """
    others = other_seed_distance(finest)
    if not others:
        raise ValueError("the finest run must have drawn two different images at least")
    return float(same_seed_distance(images, finest).mean() / others)


def _ranges(seeds: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Seeds in ascending order as ranges (first, one after the last)."""
    ordered = np.sort(np.asarray(seeds, dtype=np.int64))
    cuts = np.flatnonzero(np.diff(ordered) != 1) + 1
    return tuple((int(part[0]), int(part[-1]) + 1) for part in np.split(ordered, cuts))
