r"""Metrics with their uncertainty: first-order influences of every image, paired by seeds.

To first order a metric D of n images is :math:`D + \frac1n \sum_i (w_i - 1)\, g(x_i)` where image i counts :math:`w_i` times; g is
the influence of an image. A bootstrap that draws w from a Poisson distribution of mean 1 has the variance
:math:`\frac1{n^2} \sum_i g(x_i)^2` in the limit of infinitely many replicates, and that limit is what is computed here. The plain
bootstrap, which computes D anew, is no choice: near 0 a squared distance has no first order, and repeated images make its intervals
far too wide.

Images of one seed by two samplers are alike, so the metrics of two samplers covary:
:math:`\operatorname{cov}(D_a, D_b) = \frac1{n_a n_b} \sum_s g_a(s)\, g_b(s)` over the seeds s that both have. The real images are a
sample too. They are the same for all samplers, and their influences h add :math:`\frac1m \operatorname{cov}_r(h_a, h_b)`.

Source: Davison and Hinkley, *Bootstrap Methods and their Application*, 1997, section 2.7; for Poisson weights Hanley and
MacGibbon, *Creating non-parametric bootstrap samples using Poisson frequencies*, 2006.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddimkit._repr import short_repr
from ddimkit.quality.distances import KernelSample, class_distance, manifolds
from ddimkit.quality.statistics import KERNEL_WIDTH, FeatureStatistics, FloatArray, KernelStatistics, as_features, augmented, blocks

__all__ = [
    "Z95",
    "Estimate",
    "Influence",
    "RealKernel",
    "covariance",
    "estimate_class_distance",
    "estimate_frechet",
    "estimate_kernel",
    "estimate_mean",
    "estimate_precision_recall",
    "estimate_share",
]

Z95 = NormalDist().inv_cdf(0.975)
"""Half the width of a 95 % interval, in standard errors."""

_SHARE = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Influence:
    """How much a metric changes with each image it rests on, to first order.

    Attributes:
        seeds: (N,) int64, ascending, one an image.
        generated: (N,) of mean 0, in the order of ``seeds``.
        real: (M,) of mean 0, of some of the real images; None where these are taken as they are.
        real_images: number of real images, of which the M are a part.
    """

    seeds: NDArray[np.int64]
    generated: FloatArray
    real: FloatArray | None = None
    real_images: int = 0

    __repr__ = short_repr

    @classmethod
    def of(cls, seeds: Sequence[int], generated: FloatArray, real: FloatArray | None = None, real_images: int = 0) -> "Influence":
        """Of images in any order of their seeds.

        Raises:
            ValueError: a seed twice or below 0, or another number of seeds than of images.
        """
        keys = np.asarray(seeds, dtype=np.int64)
        order = np.argsort(keys, kind="stable")
        if len(keys) != len(generated) or (np.diff(keys[order]) == 0).any() or (keys < 0).any():
            raise ValueError("every image needs a seed of its own, at least 0")
        return cls(keys[order], generated[order], real, real_images)


def covariance(a: Influence, b: Influence) -> float:
    """The covariance of two metrics: over the seeds that both have, and over the real images where both know them."""
    _, here, there = np.intersect1d(a.seeds, b.seeds, assume_unique=True, return_indices=True)
    found = float(a.generated[here] @ b.generated[there]) / (len(a.seeds) * len(b.seeds))
    if a.real is not None and b.real is not None and a.real.shape == b.real.shape:
        found += float(a.real @ b.real) / len(a.real) / a.real_images
    return found


@dataclass(frozen=True, eq=False)
class Estimate:
    """A metric with its 95 % interval.

    Attributes:
        value: the metric.
        low: lower end of the interval, at most ``value``.
        high: upper end, at least ``value``.
        influence: what differences from other estimates are computed with; None where a file kept the interval alone.
    """

    value: float
    low: float
    high: float
    influence: Influence | None = None

    __repr__ = short_repr

    @classmethod
    def of(cls, value: float, influence: Influence, bounds: tuple[float, float] = (-math.inf, math.inf)) -> "Estimate":
        """The estimate of a metric whose influences are known: ± 1.96 standard errors, within the bounds of the metric."""
        reach = Z95 * math.sqrt(max(0.0, covariance(influence, influence)))
        return cls(value, max(bounds[0], value - reach), min(bounds[1], value + reach), influence)

    @classmethod
    def around(cls, value: float, variance: float) -> "Estimate":
        """The estimate of a normal variable."""
        reach = Z95 * math.sqrt(max(0.0, variance))
        return cls(value, value - reach, value + reach)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.low, self.high

    @property
    def margin(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    @property
    def is_zero(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference, paired by seeds.

        Raises:
            ValueError: one of the two was read from a file, which keeps no influences.
        """
        if self.influence is None or other.influence is None:
            raise ValueError("an estimate read from a file cannot be paired by seeds: take Study.difference, or evaluate again")
        pair = covariance(self.influence, other.influence)
        variance = covariance(self.influence, self.influence) + covariance(other.influence, other.influence) - 2 * pair
        return Estimate.around(self.value - other.value, variance)

    def to_dict(self) -> dict[str, float]:
        """Plain JSON values, rounded to what the interval resolves."""
        return {name: float(f"{getattr(self, name):.7g}") for name in ("value", "low", "high")}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Estimate":
        """Read what :meth:`to_dict` gave.

        Raises:
            ValueError: numbers that are not finite, or an interval that does not hold the value.
        """
        value, low, high = (float(saved[name]) for name in ("value", "low", "high"))
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"an estimate must be finite and lie in its interval, got {value} in [{low}, {high}]")
        return cls(value, low, high)


def estimate_mean(values: FloatArray, seeds: Sequence[int]) -> Estimate:
    """The mean of one number an image, (N,)."""
    mean = float(np.mean(values))
    return Estimate.of(mean, Influence.of(seeds, values - mean))


def estimate_share(held: NDArray[np.bool_], seeds: Sequence[int]) -> Estimate:
    r"""The share p of images (N,) that something holds of, with Wilson's interval, which lies in [0, 1] and holds p.

    .. math:: \frac{p + z^2/2N \pm z \sqrt{p(1-p)/N + z^2/4N^2}}{1 + z^2/N}

    Source: Wilson, *Probable Inference, the Law of Succession, and Statistical Inference*, 1927.
    """
    share, count = float(np.mean(held)), len(held)
    middle, reach = share + Z95**2 / (2 * count), Z95 * math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2))
    low, high = ((middle + side * reach) / (1 + Z95**2 / count) for side in (-1, 1))
    influence = Influence.of(seeds, held.astype(np.float64) - share)
    return Estimate(share, min(share, max(0.0, low)), max(share, min(1.0, high)), influence)


def estimate_frechet(features: FloatArray, reference: FeatureStatistics, seeds: Sequence[int]) -> Estimate:
    r"""The squared Fréchet distance of features (N, d) from a reference, which is taken as it is.

    The influence of x is :math:`2 (x-\mu)^T(\mu-m) + (x-\mu)^T (I-T) (x-\mu)` less its mean, where m and R are the reference's mean
    and covariance and :math:`T = S^{-1/2} (S^{1/2} R S^{1/2})^{1/2} S^{-1/2}` maps the covariance S of the features to R.
    """
    x = as_features(features, len(reference.mean))
    own = FeatureStatistics.of(x)
    centred = x - own.mean
    stretch = np.eye(x.shape[1]) - _transport(own.covariance, reference.covariance)
    bent = np.einsum("nd,nd->n", centred @ stretch, centred)
    influence = 2 * centred @ (own.mean - reference.mean) + bent - bent.mean()
    return Estimate.of(own.frechet(reference), Influence.of(seeds, influence), (0.0, math.inf))


def _transport(s: FloatArray, r: FloatArray) -> FloatArray:
    """(d, d): the symmetric T with T S T = R on the directions in which S is not 0."""
    values, vectors = np.linalg.eigh(s)
    values = np.maximum(values, 0.0)
    inverse = np.where(values > values.max() * 1e-10, 1 / np.sqrt(np.maximum(values, 1e-300)), 0.0)
    root, undo = (vectors * np.sqrt(values)) @ vectors.T, (vectors * inverse) @ vectors.T
    inner, frame = np.linalg.eigh(root @ r @ root)
    found: FloatArray = undo @ (frame * np.sqrt(np.maximum(inner, 0.0))) @ frame.T @ undo
    return found


def estimate_precision_recall(real: FloatArray, generated: FloatArray, seeds: Sequence[int]) -> tuple[Estimate, Estimate]:
    """Precision and recall of generated features (N, d) beside real ones (M, d), which are taken as they are.

    Precision is a share of the generated images. Recall loses, with a generated image, the real images that lie in its ball alone:
    that share is its influence, the jackknife's, which rather overstates the scatter.

    Raises:
        ValueError: as :func:`~ddimkit.quality.distances.precision_recall`.
    """
    found = manifolds(real, generated)
    influence = found.alone * (len(generated) / len(real))
    recall = Estimate.of(float((found.cover > 0).mean()), Influence.of(seeds, influence - influence.mean()), _SHARE)
    return estimate_share(found.realistic, seeds), recall


def estimate_class_distance(classes: NDArray[np.int64], wanted: NDArray[np.int64], seeds: Sequence[int]) -> Estimate:
    """The total variation distance of the classes (N,) of images from wanted counts (K,).

    The influence of an image is that of its class: half the sign of what the class has too much, less the mean.

    Raises:
        ValueError: there are no images, or nothing is wanted.
    """
    counts = np.bincount(classes, minlength=len(wanted))
    value = class_distance(counts, wanted)
    influence = np.sign(counts / counts.sum() - wanted / wanted.sum())[classes] / 2
    return Estimate.of(value, Influence.of(seeds, influence - influence.mean()), _SHARE)


@dataclass(frozen=True, eq=False)
class RealKernel:
    """Some of the real images, for their part in the uncertainty of a kernel distance.

    Attributes:
        features: (M, d), of some of the real images.
        among: (M,) mean kernel of each with all real images.
        images: number of real images.
    """

    features: FloatArray
    among: FloatArray
    images: int

    def influence(self, generated: FloatArray) -> FloatArray:
        """(M,): twice each image's mean kernel with the real images, less that with generated features (N, d); of mean 0."""
        wide = generated.shape[1] > KERNEL_WIDTH
        across = (KernelSample(generated) if wide else KernelStatistics.of(generated)).mean_kernel(self.features)
        found: FloatArray = 2 * (self.among - across)
        found -= found.mean()
        return found


def estimate_kernel(
    features: FloatArray, reference: KernelStatistics | KernelSample, seeds: Sequence[int], real: RealKernel | None = None
) -> Estimate:
    r"""The unbiased squared kernel distance of features (N, d) from a reference.

    The influence of :math:`x_i` is twice :math:`h_i = \frac1{n-1}\sum_{j \ne i} k(x_i, x_j) - m(x_i)`, m the mean kernel with the
    reference, less the mean of h. As h is itself a mean over n − 1 images, :math:`4 \operatorname{Var}(h) / n` holds the variance
    :math:`2\tau^2/n^2` of the second order twice, :math:`\tau^2` the mean square of the doubly centred kernel: the influence is
    made that much smaller, though never below the second order alone. The influence of a real image r is
    :math:`2\,(m(r) - g(r))` less its mean, g the mean kernel with the generated images.

    Args:
        features: one row an image.
        reference: the kernel's sums over the real images.
        seeds: one an image.
        real: some of the real images; None takes the reference as it is.
    """
    x = as_features(features, reference.width)
    n, u, across = len(x), augmented(x), reference.mean_kernel(x)
    if n < 2:
        raise ValueError(f"a kernel distance needs at least 2 images, got {n}")
    own = np.einsum("nd,nd->n", u, u) ** 3
    rows = np.concatenate([((part @ u.T) ** 3).sum(axis=1) for _, part in blocks(u)]) - own
    rows /= n - 1
    influence = rows - across
    influence -= influence.mean()
    first, second = 4 * float(influence @ influence) / (n - 1) / n, 2 * _second_order(u, rows) / n**2
    shrunk = math.sqrt(max(second / first, 1 - second / first)) if first > 0 else 0.0
    value = float(rows.mean() - 2 * across.mean() + reference.within)
    around = (None, 0) if real is None else (real.influence(x), real.images)
    return Estimate.of(value, Influence.of(seeds, 2 * shrunk * influence, *around))


def _second_order(u: FloatArray, rows: FloatArray) -> float:
    """The mean square, over pairs of different images, of the kernel less both its row means."""
    n, total = len(u), 0.0
    for first, part in blocks(u):
        here = np.arange(first, first + len(part))
        kernel = (part @ u.T) ** 3 - rows[here, None] - rows + rows.mean()
        kernel[np.arange(len(part)), here] = 0.0
        total += float(np.vdot(kernel, kernel))
    return total / (n * (n - 1))
