r"""Figures with their uncertainty: a linearised bootstrap, paired by seeds.

To first order a distance D of n images is :math:`D + \frac1n \sum_i (w_i - 1)\, g(x_i)` where image i counts :math:`w_i` times,
g its influence. A replicate takes w Poisson of mean 1. The plain bootstrap, which computes D anew, is no choice here: near 0 a
squared distance has no first order, and repeated rows then make the intervals far too wide.

w is a function of the image's seed and the replicate's number alone. So replicate r of two configurations counts the same seeds
equally often, however many images each has and wherever they were made, and the replicates of a difference are the differences of
the replicates.

Source: Davison and Hinkley, *Bootstrap Methods and their Application*, 1997, section 2.7; for Poisson weights Hanley and
MacGibbon, *Creating non-parametric bootstrap samples using Poisson frequencies*, 2006.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from ddimkit.noise import STREAM_BOOTSTRAP, philox4x32
from ddimkit.quality.distances import KernelSample, class_distance, manifolds
from ddimkit.quality.statistics import FeatureStatistics, FloatArray, KernelStatistics, as_features, augmented

__all__ = [
    "REPLICATES",
    "Estimate",
    "bootstrap_weights",
    "estimate_class_distance",
    "estimate_frechet",
    "estimate_kernel",
    "estimate_mean",
    "estimate_precision_recall",
    "estimate_share",
]

REPLICATES = 400
"""Bootstrap replicates of every estimate."""

_BLOCK = 1024
_TAIL = 20  # a Poisson weight of 20 or more has a probability of 1e-19


@dataclass(frozen=True)
class Estimate:
    """A figure with its bootstrap replicates.

    Attributes:
        value: the figure.
        replicates: what it came out as in each replicate; empty where a file kept the figure alone.
    """

    value: float
    replicates: tuple[float, ...]

    @classmethod
    def of(cls, value: float, influence: FloatArray, weights: FloatArray) -> "Estimate":
        """The estimate of a figure whose first-order dependence on each image is known.

        Args:
            value: the figure.
            influence: (N,), of mean 0.
            weights: (R, N), as :func:`bootstrap_weights` makes them.
        """
        moved = value + (weights - 1) @ influence / len(influence)
        return cls(value, tuple(float(f"{r:.7g}") for r in moved))  # an interval has no more digits, and files stay small

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The quantiles of the replicates between which the figure of endlessly many such sets of images lies about so often.

        Raises:
            ValueError: a level outside (0, 1), or a figure without its replicates.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}")
        if not self.replicates:
            raise ValueError("this figure was kept without its replicates: judge the images again for an interval")
        low, high = np.quantile(self.replicates, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference, paired by seeds.

        Raises:
            ValueError: other numbers of replicates.
        """
        pairs = zip(self.replicates, other.replicates, strict=True)
        return Estimate(self.value - other.value, tuple(a - b for a, b in pairs))

    @property
    def is_zero(self) -> bool:
        """Whether the 95 % interval holds 0, so that these images show no difference."""
        low, high = self.interval()
        return low <= 0 <= high


def bootstrap_weights(seeds: Sequence[int], replicates: int = REPLICATES) -> FloatArray:
    """(R, N): how often the image of each seed counts in each replicate, Poisson of mean 1.

    Args:
        seeds: one an image, each in [0, 2^63), no two alike.
        replicates: number of replicates.

    Raises:
        ValueError: a seed twice, or fewer than 2 replicates.
    """
    if len(set(seeds)) != len(seeds) or min(seeds, default=0) < 0:
        raise ValueError("a seed stands for one image: give every image its own, at least 0")
    if replicates < 2:
        raise ValueError(f"there must be at least 2 replicates, got {replicates}")
    keys = torch.tensor([operator.index(seed) for seed in seeds], dtype=torch.int64)
    block = torch.arange(-(-replicates // 4), dtype=torch.int64)[:, None]
    zero = torch.zeros((), dtype=torch.int64)
    words = philox4x32((block, zero, zero + STREAM_BOOTSTRAP, zero), (keys & 0xFFFFFFFF, keys >> 32))
    uniforms = (torch.stack(words, dim=1).reshape(-1, len(keys))[:replicates].to(torch.float64) + 0.5) * 2.0**-32
    chances = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(_TAIL)])
    return np.searchsorted(chances, uniforms.numpy()).astype(np.float64)


def estimate_mean(values: FloatArray, weights: FloatArray) -> Estimate:
    """The mean of one number an image, (N,)."""
    mean = float(np.mean(values))
    return Estimate.of(mean, values - mean, weights)


def estimate_share(held: NDArray[np.bool_], weights: FloatArray) -> Estimate:
    """The share of images (N,) that something holds of.

    Where it holds of none or of all, no reweighting changes that. What the share may still be is then taken from the posterior of
    Jeffreys' prior, about χ²/2N away with one degree of freedom: 2.5/N at the 97.5 % quantile.
    """
    share = float(np.mean(held))
    if 0 < share < 1:
        return estimate_mean(held.astype(np.float64), weights)
    rank = np.argsort(np.argsort(weights.sum(axis=1), kind="stable")) + 0.5
    normal = np.array([NormalDist().inv_cdf((1 + r / len(rank)) / 2) for r in rank])
    return Estimate(share, tuple(float(f"{abs(share - min(1.0, z)):.7g}") for z in normal**2 / (2 * len(held))))


def estimate_frechet(features: FloatArray, reference: FeatureStatistics, weights: FloatArray) -> Estimate:
    r"""The Fréchet distance of features (N, d) from a reference, which is taken as it is.

    The influence of x is :math:`2 (x-\mu)^T(\mu-m) + (x-\mu)^T (I-T) (x-\mu)` less its mean, where m and R are the reference's mean
    and covariance and :math:`T = S^{-1/2} (S^{1/2} R S^{1/2})^{1/2} S^{-1/2}` maps the covariance S of the features to R.
    """
    x = as_features(features, len(reference.mean))
    own = FeatureStatistics.of(x)
    centred = x - own.mean
    stretch = np.eye(x.shape[1]) - _transport(own.covariance, reference.covariance)
    bent = np.einsum("nd,nd->n", centred @ stretch, centred)
    return Estimate.of(own.frechet(reference), 2 * centred @ (own.mean - reference.mean) + bent - bent.mean(), weights)


def _transport(s: FloatArray, r: FloatArray) -> FloatArray:
    """(d, d): the symmetric T with T S T = R on the directions in which S is not 0."""
    values, vectors = np.linalg.eigh(s)
    values = np.maximum(values, 0.0)
    inverse = np.where(values > values.max() * 1e-10, 1 / np.sqrt(np.maximum(values, 1e-300)), 0.0)
    root, undo = (vectors * np.sqrt(values)) @ vectors.T, (vectors * inverse) @ vectors.T
    inner, frame = np.linalg.eigh(root @ r @ root)
    found: FloatArray = undo @ (frame * np.sqrt(np.maximum(inner, 0.0))) @ frame.T @ undo
    return found


def estimate_precision_recall(real: FloatArray, generated: FloatArray, weights: FloatArray) -> tuple[Estimate, Estimate]:
    """Precision and recall of generated features (N, d) beside real ones (M, d), which are taken as they are.

    Precision is a mean over the generated images. Recall loses, with a generated image, the real images that lie in its ball alone:
    that share is its influence, the jackknife's, which rather overstates the scatter.

    Raises:
        ValueError: as :func:`~ddimkit.quality.distances.precision_recall`.
    """
    found = manifolds(real, generated)
    influence = found.alone * (len(generated) / len(real))
    recall = Estimate.of(float((found.cover > 0).mean()), influence - influence.mean(), weights)
    return estimate_share(found.realistic, weights), recall


def estimate_class_distance(classes: NDArray[np.int64], wanted: NDArray[np.int64], weights: FloatArray) -> Estimate:
    """The total variation distance of the classes (N,) of images from wanted counts (K,).

    The influence of an image is that of its class: half the sign of what the class has too much, less the mean.

    Raises:
        ValueError: there are no images, or nothing is wanted.
    """
    counts = np.bincount(classes, minlength=len(wanted))
    value = class_distance(counts, wanted)
    influence = np.sign(counts / counts.sum() - wanted / wanted.sum())[classes] / 2
    return Estimate.of(value, influence - influence.mean(), weights)


def estimate_kernel(features: FloatArray, reference: KernelStatistics | KernelSample, weights: FloatArray) -> Estimate:
    r"""The unbiased kernel distance of features (N, d) from a reference, which is taken as it is.

    The influence of :math:`x_i` is twice :math:`h_i = \frac1{n-1}\sum_{j \ne i} k(x_i, x_j) - m(x_i)`, m the mean kernel with the
    reference, less the mean of h. As h is itself a mean over n − 1 images, :math:`4 \operatorname{Var}(h) / n` holds the variance
    :math:`2\tau^2/n^2` of the second order twice, :math:`\tau^2` the mean square of the doubly centred kernel: the influence is
    made that much smaller, though never below the second order alone.
    """
    x = as_features(features, reference.width)
    n, u, across = len(x), augmented(x), reference.mean_kernel(x)
    if n < 2:
        raise ValueError(f"a kernel distance needs at least 2 images, got {n}")
    own = np.einsum("nd,nd->n", u, u) ** 3
    rows = np.concatenate([((part @ u.T) ** 3).sum(axis=1) for part in _blocks(u)]) - own
    rows /= n - 1
    influence = rows - across
    influence -= influence.mean()
    first, second = 4 * float(influence @ influence) / (n - 1) / n, 2 * _second_order(u, rows) / n**2
    shrunk = math.sqrt(max(second / first, 1 - second / first)) if first > 0 else 0.0
    value = float(rows.mean() - 2 * across.mean() + reference.within)
    return Estimate.of(value, 2 * shrunk * influence, weights)


def _second_order(u: FloatArray, rows: FloatArray) -> float:
    """The mean square, over pairs of different images, of the kernel less both its row means."""
    n, total, first = len(u), 0.0, 0
    for part in _blocks(u):
        here = slice(first, first + len(part))
        kernel = (part @ u.T) ** 3 - rows[here, None] - rows + rows.mean()
        kernel[np.arange(len(part)), np.arange(first, first + len(part))] = 0.0
        total, first = total + float(np.vdot(kernel, kernel)), first + len(part)
    return total / (n * (n - 1))


def _blocks(u: FloatArray) -> list[FloatArray]:
    return [u[first : first + _BLOCK] for first in range(0, len(u), _BLOCK)]
