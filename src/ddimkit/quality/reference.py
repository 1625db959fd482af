r"""What generated images are compared with: a split of real images, seen through one extractor."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ddimkit.errors import WeightsError
from ddimkit.quality.distances import KernelSample, nearest
from ddimkit.quality.features import Extractor, Rounding
from ddimkit.quality.statistics import KERNEL_WIDTH, FeatureStatistics, FloatArray, KernelStatistics, as_features
from ddimkit.tensorfile import read_tensors, write_tensors

__all__ = ["Label", "Reference", "Training"]

_KIND = "ddimkit-reference"
_SCHEMA = 1
_KEPT = 2000


@dataclass(frozen=True)
class Label:
    """What a quality figure is relative to; figures of different labels cannot be compared.

    Attributes:
        reference: the real images, as in ``"mnist test"``.
        images: how many there are.
        statistics_sha256: hash of their features' mean and scatter.
        extractor: name of the feature network.
        extractor_sha256: hash of its weights.
        rounding: what was done to the pixels first.
    """

    reference: str
    images: int
    statistics_sha256: str
    extractor: str
    extractor_sha256: str
    rounding: Rounding

    def check(self, other: "Label") -> None:
        """Raise a ValueError that names every difference, if there is one."""
        ours, theirs = asdict(self), asdict(other)
        apart = [f"{key} {ours[key]!r} and {theirs[key]!r}" for key in ours if ours[key] != theirs[key]]
        if apart:
            raise ValueError(f"quality figures of different measures cannot be compared: {'; '.join(apart)}")


@dataclass(frozen=True, eq=False)
class Reference:
    """Real images, as far as distances to them need them.

    Attributes:
        label: which images, through which extractor.
        statistics: of all features.
        kernel: the kernel's sums over all features; over the kept ones where features are wider than 192.
        features: (M, d) of M images spread evenly over the split, for precision and recall.
        classes: (K,) how many images the extractor sees in each class; empty where it knows none.
    """

    label: Label
    statistics: FeatureStatistics
    kernel: KernelStatistics | KernelSample
    features: FloatArray
    classes: NDArray[np.int64]

    @classmethod
    def of(cls, name: str, features: ArrayLike, extractor: Extractor, *, kept: int = _KEPT) -> "Reference":
        """The reference of real images' features (N, d), made by ``extractor``.

        Args:
            name: data set and split, as in ``"mnist test"``.
            features: of all images.
            extractor: what made them.
            kept: how many rows are kept for precision and recall, and for the kernel distance of features wider than 192.
        """
        x = as_features(features)
        statistics = FeatureStatistics.of(x)
        sha256 = hashlib.sha256(statistics.mean.tobytes() + statistics.scatter.tobytes()).hexdigest()
        label = Label(name, len(x), sha256, extractor.name, extractor.sha256, extractor.rounding)
        spread = np.linspace(0, len(x) - 1, min(kept, len(x))).astype(np.int64)
        kept_features = _compact(x[spread]).astype(np.float64)  # as a file keeps them
        kernel = KernelStatistics.of(x) if x.shape[1] <= KERNEL_WIDTH else KernelSample(kept_features)
        return cls(label, statistics, kernel, kept_features, extractor.count_classes(x))

    def save(self, path: Path) -> str:
        """Write as safetensors, the kept features rounded to float16 where that is enough; returns the file's SHA-256."""
        arrays: dict[str, NDArray[Any]] = {
            "mean": self.statistics.mean,
            "scatter": self.statistics.scatter,
            "features": _compact(self.features),
            "classes": self.classes,
        }
        if isinstance(self.kernel, KernelStatistics):
            arrays |= {"third": self.kernel.third, "own": np.array([self.kernel.own])}
        tensors = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
        return write_tensors(path, tensors, kind=_KIND, schema=_SCHEMA, settings={"label": asdict(self.label)})

    @classmethod
    def load(cls, path: Path, *, sha256: str | None = None) -> "Reference":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            WeightsError: another hash than ``sha256``, or no reference of this version's.
        """
        file = read_tensors(path, kind=_KIND, schema=_SCHEMA, sha256=sha256)
        try:
            arrays = {name: value.numpy() for name, value in file.tensors.items()}
            label = Label(**file.settings["label"])
            statistics = FeatureStatistics(label.images, arrays["mean"], arrays["scatter"])
            features = arrays["features"].astype(np.float64)
            if features.shape[1] > KERNEL_WIDTH:
                return cls(label, statistics, KernelSample(features), features, arrays["classes"])
            kernel = KernelStatistics(label.images, arrays["third"], float(arrays["own"][0]))
            return cls(label, statistics, kernel, features, arrays["classes"])
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is no reference that this version can read: {error}") from error


@dataclass(frozen=True, eq=False)
class Training:
    """The images that a model was trained on, to look for copies of them among what it draws.

    Attributes:
        features: (N, d) of every training image.
        threshold: a distance: of other real images, one in a hundred has a training image that near.
    """

    features: FloatArray
    threshold: float

    @classmethod
    def of(cls, features: ArrayLike, held_out: ArrayLike) -> "Training":
        """From the features of the training images (N, d), and of real images that the model has not seen (M, d).

        Raises:
            ValueError: features that are not (N, d) of one width, or fewer than 100 images held out.
        """
        x, others = as_features(features), as_features(held_out)
        if len(others) < 100:
            raise ValueError(f"one image in a hundred takes at least 100 images held out, got {len(others)}")
        return cls(x, float(np.quantile(nearest(others, x).distance, 0.01)))

    def near(self, features: ArrayLike) -> FloatArray:
        """(N,): 1 where an image lies nearer to a training image than the threshold, else 0."""
        return (nearest(features, self.features).distance < self.threshold).astype(np.float64)


def _compact(features: FloatArray) -> NDArray[np.float16] | NDArray[np.float32]:
    """In half precision, or in single where their range or the kernel distance, which rests on them if they are wide, needs it."""
    half = features.shape[1] <= KERNEL_WIDTH and np.abs(features).max() < np.finfo(np.float16).max
    return features.astype(np.float16) if half else features.astype(np.float32)
