r"""What a set of features leaves behind: sums in float64, of constant size, that merge.

:class:`FeatureStatistics` holds count, mean and scatter, and gives the Fréchet distance. :class:`KernelStatistics` holds the mean
embedding of the cubic kernel, and gives the unbiased kernel distance: the kernel is a polynomial, so the embedding is finite, and
nothing else of the features is needed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddimkit._repr import short_repr
from ddimkit.schedule import FloatArray

__all__ = ["KERNEL_WIDTH", "FeatureStatistics", "FloatArray", "KernelStatistics", "as_features"]

KERNEL_WIDTH = 192
"""Wider features are not kept as sums of their kernel: the embedding would be larger than any set of images."""

_CHUNK = 512


def as_features(features: ArrayLike, width: int | None = None) -> FloatArray:
    """Features as a float64 array (N, d).

    Raises:
        ValueError: they are not (N, d), of another width than asked, or not finite.
    """
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"features must be (N, d), one row an image, got shape {x.shape}")
    if width is not None and x.shape[1] != width:
        raise ValueError(f"features of width {x.shape[1]} cannot be joined with features of width {width}")
    if not np.isfinite(x).all():
        raise ValueError("features hold NaN or infinity: look at the images")
    return x


def as_two(x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Two sets of features of one width, as :func:`as_features`."""
    u = as_features(x)
    return u, as_features(y, u.shape[1])


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    r"""Count n, mean and scatter :math:`\sum_i (x_i - \mu)(x_i - \mu)^T` of features.

    Attributes:
        count: number of images.
        mean: (d,) float64.
        scatter: (d, d) float64.
    """

    count: int
    mean: FloatArray
    scatter: FloatArray

    __repr__ = short_repr

    @classmethod
    def of(cls, features: ArrayLike) -> "FeatureStatistics":
        """The statistics of features (N, d)."""
        x = as_features(features)
        if not len(x):
            return cls.empty(x.shape[1])
        mean = x.mean(axis=0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    @classmethod
    def empty(cls, width: int) -> "FeatureStatistics":
        """The statistics of no features of a width."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """The statistics of both sets together, whichever process or batch each came from.

        Source: Chan, Golub and LeVeque, *Algorithms for Computing the Sample Variance*, 1983, eq. 2.1.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"features of width {len(self.mean)} cannot be joined with features of width {len(other.mean)}")
        count = self.count + other.count
        if count == 0:
            return self
        apart, share = other.mean - self.mean, other.count / count
        between = np.outer(apart, apart) * (self.count * share)
        return FeatureStatistics(count, self.mean + share * apart, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> FloatArray:
        """(d, d), the unbiased estimate ``scatter / (n - 1)``.

        Raises:
            ValueError: fewer than two images.
        """
        if self.count <= 1:
            raise ValueError(f"a covariance needs at least 2 images, got {self.count}")
        return self.scatter / (self.count - 1)

    @cached_property
    def _factor(self) -> FloatArray:
        """(d, d) F with F Fᵀ the covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        factor: FloatArray = vectors * np.sqrt(np.maximum(values, 0.0))
        return factor

    def frechet(self, other: "FeatureStatistics") -> float:
        r"""Squared Fréchet distance of the two normal distributions of these means and covariances.

        .. math:: |\mu_1 - \mu_2|^2 + \operatorname{tr}(\Sigma_1) + \operatorname{tr}(\Sigma_2)
            - 2 \operatorname{tr}\bigl((\Sigma_1 \Sigma_2)^{1/2}\bigr)

        The last trace is the sum of the singular values of :math:`F_1^T F_2`, with :math:`F_i F_i^T = \Sigma_i`, which needs no
        root of a small eigenvalue and bears singular covariances. Biased upwards for small n: compare at equal n only.

        Raises:
            ValueError: different widths, or fewer than two images.

        Source: Dowson and Landau, *The Fréchet Distance between Multivariate Normal Distributions*, 1982; Heusel et al. 2017.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"features of width {len(self.mean)} cannot be compared with features of width {len(other.mean)}")
        apart = self.mean - other.mean
        shared = np.linalg.svd(self._factor.T @ other._factor, compute_uv=False).sum()
        found = float(apart @ apart + np.trace(self.covariance) + np.trace(other.covariance) - 2 * shared)
        return max(0.0, found)  # of equal sets rounding leaves a little on either side of 0


@dataclass(frozen=True, eq=False)
class KernelStatistics:
    r"""The sums from which the unbiased distance of the cubic kernel follows, :math:`k(x, y) = (x^T y / d + 1)^3`.

    With :math:`u = (x / \sqrt d, 1)` the kernel is :math:`\langle u^{\otimes 3}, v^{\otimes 3}\rangle`, so a set is known by its
    count n, its sum of :math:`u^{\otimes 3}` and its sum of k(x, x).

    Attributes:
        count: number of images.
        third: ((d + 3 choose 3),) float64, the distinct entries of the summed cubes, each times the root of how often it stands
            in the full tensor.
        own: the sum of k(x, x).
    """

    count: int
    third: FloatArray
    own: float

    __repr__ = short_repr

    @classmethod
    def of(cls, features: ArrayLike) -> "KernelStatistics":
        """The sums of features (N, d).

        Raises:
            ValueError: d is above 192, where the embedding is larger than any set of images; use
                :func:`~ddimkit.quality.distances.kernel_distance` on the features themselves.
        """
        x = as_features(features)
        if x.shape[1] > KERNEL_WIDTH:
            raise ValueError(f"features of width {x.shape[1]} are too wide to be kept as sums, at most {KERNEL_WIDTH}")
        u = augmented(x)
        triples, scale = _triples(u.shape[1])
        total = np.zeros((u.shape[1],) * 3)
        for _, part in blocks(u, _CHUNK):
            total += (part.T @ _squares(part)).reshape(total.shape)
        return cls(len(x), total[triples] * scale, float((np.einsum("nd,nd->n", u, u) ** 3).sum()))

    def merge(self, other: "KernelStatistics") -> "KernelStatistics":
        """The sums of both sets together."""
        self._check(other)
        return KernelStatistics(self.count + other.count, self.third + other.third, self.own + other.own)

    @property
    def within(self) -> float:
        """Mean kernel of two different images of the set.

        Raises:
            ValueError: fewer than two images.
        """
        if self.count < 2:
            raise ValueError(f"a kernel distance needs at least 2 images, got {self.count}")
        return float(self.third @ self.third - self.own) / (self.count * (self.count - 1))

    def mean_kernel(self, features: ArrayLike) -> FloatArray:
        """(N,): each row's mean kernel with the images of this set."""
        u = augmented(as_features(features, self.width))
        triples, scale = _triples(u.shape[1])
        full = np.zeros((u.shape[1],) * 3)
        full[triples] = self.third * scale  # every ordering's share on the entry i <= j <= k
        table = full.reshape(len(full), -1).T
        means = [np.einsum("ni,ni->n", part, _squares(part) @ table) for _, part in blocks(u, _CHUNK)]
        return np.concatenate([*means, np.empty(0)]) / self.count

    @property
    def width(self) -> int:
        """The features' width d."""
        return next(d for d in range(1, KERNEL_WIDTH + 1) if math.comb(d + 3, 3) == len(self.third))

    def distance(self, other: "KernelStatistics") -> float:
        """The unbiased estimate of the squared maximum mean discrepancy; 0 on average for equal distributions, and so at times < 0.

        Raises:
            ValueError: different widths, or fewer than two images.

        Source: Bińkowski, Sutherland, Arbel and Gretton, *Demystifying MMD GANs*, 2018, eq. 4.
        """
        self._check(other)
        return self.within + other.within - 2 * float(self.third @ other.third) / (self.count * other.count)

    def _check(self, other: "KernelStatistics") -> None:
        if self.third.shape != other.third.shape:
            raise ValueError(f"features of width {self.width} and {other.width} cannot be compared")


def blocks(x: FloatArray, size: int = 1024) -> Iterator[tuple[int, FloatArray]]:
    """The rows in blocks, each with the number of its first row: memory then grows with N, where the pairs are N²."""
    for first in range(0, len(x), size):
        yield first, x[first : first + size]


def augmented(x: FloatArray) -> FloatArray:
    """(N, d + 1): each row over the root of d, and a 1."""
    return np.concatenate((x / math.sqrt(x.shape[1]), np.ones((len(x), 1))), axis=1)


def _squares(u: FloatArray) -> FloatArray:
    """(N, D²): the products of every two entries of each row of (N, D)."""
    return (u[:, :, None] * u[:, None, :]).reshape(len(u), u.shape[1] ** 2)


@lru_cache(maxsize=4)
def _triples(width: int) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]], FloatArray]:
    """The indices i <= j <= k of a symmetric cube's distinct entries, and the roots of how many orderings each has."""
    i, j, k = (index.reshape(-1) for index in np.indices((width,) * 3))
    kept = (i <= j) & (j <= k)
    i, j, k = i[kept], j[kept], k[kept]
    orderings = np.where((i == j) & (j == k), 1.0, np.where((i == j) | (j == k), 3.0, 6.0))
    return (i, j, k), np.sqrt(orderings)
