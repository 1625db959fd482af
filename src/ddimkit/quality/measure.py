"""The quality of a set of generated images: every distance to the reference, with what it is relative to."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddimkit.quality.estimate import (
    Estimate,
    bootstrap_weights,
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
    "Distance",
    "Figure",
    "Quality",
    "difference",
    "judge",
    "judge_images",
    "other_seed_distance",
    "same_seed_distance",
    "same_seed_share",
]

Distance = Literal["kernel", "frechet"]
Figure = Literal["kernel", "frechet", "precision", "recall", "class_distance", "memorised"]

_FIGURES = get_args(Figure)


@dataclass(frozen=True)
class Quality:
    """What was found of some generated images.

    Attributes:
        label: the reference, extractor and rounding; figures of different labels cannot be compared.
        seeds: ranges of seeds (first, one after the last), one seed an image.
        kernel: unbiased squared kernel distance: comparable between any numbers of images.
        frechet: squared Fréchet distance: falls with the number of images, comparable at equal numbers only.
        precision: share of the images that look like a real one.
        recall: share of the real images that some image looks like.
        manifold: how many images of each kind the last two rest on; they are comparable at equal numbers only.
        classes: images in each class the extractor sees; empty where it knows none.
        class_distance: total variation distance of the classes' frequencies from the reference's, 0 to 1; None without classes.
        memorised: share of the images that lie nearer to a training image than all but one in a hundred of other real images do;
            None where the training images are not at hand.
        training_sha256: which training images and which threshold.
    """

    label: Label
    seeds: tuple[tuple[int, int], ...]
    kernel: Estimate
    frechet: Estimate
    precision: Estimate
    recall: Estimate
    manifold: int
    classes: tuple[int, ...]
    class_distance: Estimate | None
    memorised: Estimate | None = None
    training_sha256: str | None = None

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(after - first for first, after in self.seeds)

    def estimate(self, figure: Figure) -> Estimate:
        """A figure by its name.

        Raises:
            ValueError: no figure has this name, or it is not known of these images.
        """
        if figure not in _FIGURES:
            raise ValueError(f"the figures are {', '.join(_FIGURES)}, got {figure!r}")
        found: Estimate | None = getattr(self, figure)
        if found is None:
            raise ValueError(f"{figure} is not known of these images: it needs an extractor with classes, or the training images")
        return found

    def distances_only(self) -> "Quality":
        """The same with the replicates of the two distances alone, for files that hold hundreds of these."""
        bare: dict[str, Any] = {}
        for name in _FIGURES:
            if name not in get_args(Distance) and getattr(self, name) is not None:
                bare[name] = Estimate(self.estimate(name).value, ())
        return replace(self, **bare)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the intervals stand beside the figures for whoever reads the file."""
        plain = asdict(self)
        for name in _FIGURES:
            if plain[name] is not None:
                estimate = self.estimate(name)
                plain[name] |= {"interval": estimate.interval() if estimate.replicates else None}
        return plain | {"count": self.count}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Quality":
        """Read what :meth:`to_dict` gave."""
        fields: dict[str, Any] = {key: value for key, value in saved.items() if key != "count"}
        for name in _FIGURES:
            if fields.get(name) is not None:
                fields[name] = Estimate(float(saved[name]["value"]), tuple(saved[name]["replicates"]))
        fields["label"] = Label(**saved["label"])
        fields["seeds"] = tuple((int(first), int(after)) for first, after in saved["seeds"])
        fields["classes"] = tuple(saved["classes"])
        return cls(**fields)


def judge(
    features: ArrayLike, seeds: Sequence[int], reference: Reference, extractor: Extractor, training: Training | None = None
) -> Quality:
    """Every figure of images whose features (N, d) ``extractor`` made.

    Args:
        features: one row an image.
        seeds: each image's own seed, which pairs its bootstrap weights with those of other samplers' images.
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
    if len(seeds) != len(x) or len(x) < 5:
        raise ValueError(f"judging takes at least 5 images and a seed for each, got {len(x)} images and {len(seeds)} seeds")
    weights = bootstrap_weights(seeds)
    manifold = min(len(x), len(reference.features))
    precision, recall = estimate_precision_recall(reference.features[:manifold], x[:manifold], weights[:, :manifold])
    counts = extractor.count_classes(x)
    classes = extractor.classes(x) if len(counts) else None
    return Quality(
        label,
        _ranges(seeds),
        estimate_kernel(x, reference.kernel, weights),
        estimate_frechet(x, reference.statistics, weights),
        precision,
        recall,
        manifold,
        tuple(int(n) for n in counts),
        None if classes is None else estimate_class_distance(classes, reference.classes, weights),
        None if training is None else estimate_share(training.near(x), weights),
        None if training is None else training.sha256,
    )


def judge_images(images: Tensor | NDArray[np.uint8], seeds: Sequence[int], reference: Reference, extractor: Extractor) -> Quality:
    """:func:`judge` of images (N, C, H, W), floating point in [−1, 1] or unsigned bytes."""
    return judge(extractor(images), seeds, reference, extractor)


def difference(a: Quality, b: Quality, figure: Figure = "kernel") -> Estimate:
    """How much larger a figure of a is than b's, paired by their seeds; ``is_zero`` says "no difference".

    Raises:
        ValueError: different labels, naming what differs; a figure that depends on the number of images, of different numbers.
    """
    a.label.check(b.label)
    if figure == "memorised" and a.training_sha256 != b.training_sha256:
        raise ValueError("memorised shares of different training images cannot be compared")
    by_manifold = figure in ("precision", "recall")
    counts = (a.manifold, b.manifold) if by_manifold else (a.count, b.count)
    if figure not in ("kernel", "memorised") and counts[0] != counts[1]:
        raise ValueError(f"{figure} of {counts[0]} and {counts[1]} images differs by their numbers alone: use 'kernel'")
    return a.estimate(figure) - b.estimate(figure)


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
