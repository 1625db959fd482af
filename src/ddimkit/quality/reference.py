r"""What generated images are compared with: a split of real images, seen through one extractor."""

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddimkit._repr import short_repr
from ddimkit.errors import WeightsError
from ddimkit.quality.distances import KernelSample, nearest
from ddimkit.quality.estimate import RealKernel
from ddimkit.quality.features import Extractor, Rounding
from ddimkit.quality.statistics import KERNEL_WIDTH, FeatureStatistics, FloatArray, KernelStatistics, as_features
from ddimkit.weights._tensorfile import read_tensors, write_tensors

__all__ = ["Label", "Reference", "Training"]

_KIND = "ddimkit-reference"
_SCHEMA = 2
_KEPT = 2000
_FEWEST_HELD_OUT = 100
_ROUNDING = 1e-4

Images = Tensor | NDArray[np.uint8]


@dataclass(frozen=True)
class Label:
    """What a metric is relative to; metrics of different labels cannot be compared.

    Attributes:
        reference: the real images, as in ``"mnist test"``.
        images: how many there are.
        spread: trace of the covariance of their features, of the kept ones where these are wider than 192; with ``images`` it tells
            one set of real images from another.
        extractor: name of the feature network.
        extractor_sha256: hash of its weights.
        rounding: what was done to the pixels first.
    """

    reference: str
    images: int
    spread: float
    extractor: str
    extractor_sha256: str
    rounding: Rounding

    def check(self, other: "Label") -> None:
        """Raise a ValueError that names every difference, if there is one; the spread may differ by rounding, 1e-4 of it."""
        ours, theirs = asdict(self), asdict(other)
        if math.isclose(self.spread, other.spread, rel_tol=_ROUNDING):
            theirs["spread"] = self.spread
        apart = [f"{key} {ours[key]!r} and {theirs[key]!r}" for key in ours if ours[key] != theirs[key]]
        if apart:
            raise ValueError(f"metrics of different references or extractors cannot be compared: {'; '.join(apart)}")


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

    __repr__ = short_repr

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
        spread = np.linspace(0, len(x) - 1, min(kept, len(x))).astype(np.int64)
        kept_features = _compact(x[spread]).astype(np.float64)  # as a file keeps them
        wide = x.shape[1] > KERNEL_WIDTH
        kernel = KernelSample(kept_features) if wide else _rounded(KernelStatistics.of(x))
        decisive = FeatureStatistics.of(kept_features) if wide else statistics
        total = float(f"{np.trace(decisive.covariance):.9g}") if decisive.count > 1 else 0.0
        label = Label(name, len(x), total, extractor.name, extractor.sha256, extractor.rounding)
        return cls(label, statistics, kernel, kept_features, extractor.count_classes(x))

    @cached_property
    def real(self) -> RealKernel:
        """The kept images and their mean kernels, for the real images' part in the uncertainty of kernel distances."""
        return RealKernel(self.features, self.kernel.mean_kernel(self.features), self.label.images)

    def save(self, path: str | Path) -> str:
        """Write as safetensors, rounded: the kernel's sums to float32, the features to float16 where that is enough.

        Returns:
            the file's SHA-256.
        """
        arrays: dict[str, NDArray[Any]] = {
            "mean": self.statistics.mean,
            "scatter": self.statistics.scatter,
            "features": _compact(self.features),
            "classes": self.classes,
        }
        if isinstance(self.kernel, KernelStatistics):
            arrays |= {"third": self.kernel.third.astype(np.float32), "own": np.array([self.kernel.own])}
        tensors = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
        return write_tensors(path, tensors, kind=_KIND, schema=_SCHEMA, settings={"label": asdict(self.label)})

    @classmethod
    def load(cls, path: str | Path, *, sha256: str | None = None) -> "Reference":
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
            kernel = KernelStatistics(label.images, arrays["third"].astype(np.float64), float(arrays["own"][0]))
            return cls(label, statistics, kernel, features, arrays["classes"])
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is no reference that this version can read: {error}") from error


@dataclass(frozen=True, eq=False)
class Training:
    """The images that a model was trained on, to look for copies of them among what it draws.

    Attributes:
        features: (N, d) of every training image.
        threshold: a distance: of other real images, one in a hundred has a training image that near.
        extractor_sha256: hash of what made the features.
    """

    features: FloatArray
    threshold: float
    extractor_sha256: str

    __repr__ = short_repr

    @classmethod
    def of(cls, images: Images, held_out: Images, extractor: Extractor) -> "Training":
        """From the training images (N, C, H, W), and real images that the model has not seen, floating point or bytes.

        Raises:
            ValueError: fewer than 100 images held out.
        """
        if len(held_out) < _FEWEST_HELD_OUT:
            raise ValueError(f"one image in a hundred takes at least {_FEWEST_HELD_OUT} images held out, got {len(held_out)}")
        features = extractor(images)
        return cls(features, float(np.quantile(nearest(extractor(held_out), features).distance, 0.01)), extractor.sha256)

    def near(self, features: ArrayLike) -> NDArray[np.bool_]:
        """(N,): whether an image lies as near to a training image as the threshold."""
        found: NDArray[np.bool_] = nearest(features, self.features).distance <= self.threshold
        return found


def _rounded(kernel: KernelStatistics) -> KernelStatistics:
    """The sums as a file keeps them, in single precision: a kernel distance of 1e-4 then errs by less than 1e-8."""
    return KernelStatistics(kernel.count, kernel.third.astype(np.float32).astype(np.float64), kernel.own)


def _compact(features: FloatArray) -> NDArray[np.float16] | NDArray[np.float32]:
    """In half precision, or in single where their range or the kernel distance, which rests on them if they are wide, needs it."""
    half = features.shape[1] <= KERNEL_WIDTH and np.abs(features).max() < np.finfo(np.float16).max
    return features.astype(np.float16) if half else features.astype(np.float32)
