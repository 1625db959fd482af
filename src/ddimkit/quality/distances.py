r"""Distances between two sets of features: kernel distance, precision and recall, nearest neighbours.

Each takes arrays (N, d), works in float64, and walks the pairs in blocks, so that memory grows with N and not with N². The Fréchet
distance needs sums only: :meth:`~ddimkit.quality.statistics.FeatureStatistics.frechet`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddimkit.quality.statistics import FloatArray, as_features, as_two, augmented, blocks

__all__ = [
    "KernelSample",
    "Manifolds",
    "Neighbours",
    "PrecisionRecall",
    "class_distance",
    "kernel_distance",
    "manifolds",
    "nearest",
    "precision_recall",
]

_BLOCK = 256


def kernel_distance(x: ArrayLike, y: ArrayLike) -> float:
    r"""The unbiased squared maximum mean discrepancy of the cubic kernel :math:`k(x, y) = (x^T y / d + 1)^3` ("KID").

    .. math:: \frac{1}{m(m-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{n(n-1)} \sum_{i \ne j} k(y_i, y_j)
        - \frac{2}{mn} \sum_{i,j} k(x_i, y_j)

    Its mean is 0 for equal distributions whatever m and n, so it is at times below 0.

    Args:
        x: (m, d) features.
        y: (n, d) features.

    Raises:
        ValueError: features that are not (N, d) of one width, not finite, or fewer than two rows.

    Source: Bińkowski, Sutherland, Arbel and Gretton, *Demystifying MMD GANs*, 2018, eq. 4.
    """
    u, v = as_two(x, y)
    if min(len(u), len(v)) < 2:
        raise ValueError(f"a kernel distance needs at least 2 images a set, got {len(u)} and {len(v)}")
    u, v = augmented(u), augmented(v)
    return _within(u) + _within(v) - 2 * _sum(u, v) / (len(u) * len(v))


def _sum(u: FloatArray, v: FloatArray) -> float:
    return sum(float(((part @ v.T) ** 3).sum()) for _, part in blocks(u, _BLOCK))


def _within(u: FloatArray) -> float:
    own = float((np.einsum("nd,nd->n", u, u) ** 3).sum())
    return (_sum(u, u) - own) / (len(u) * (len(u) - 1))


@dataclass(frozen=True, eq=False)
class KernelSample:
    """Real images whose features are too wide for :class:`~ddimkit.quality.statistics.KernelStatistics`, kept one by one.

    Attributes:
        features: (M, d) float64.
    """

    features: FloatArray

    @property
    def width(self) -> int:
        """The features' width d."""
        return int(self.features.shape[1])

    @cached_property
    def within(self) -> float:
        """Mean kernel of two different images of the set."""
        if len(self.features) < 2:
            raise ValueError(f"a kernel distance needs at least 2 images, got {len(self.features)}")
        return _within(augmented(self.features))

    def mean_kernel(self, features: ArrayLike) -> FloatArray:
        """(N,): each row's mean kernel with the images of this set."""
        u, v = augmented(as_features(features, self.width)), augmented(self.features)
        return np.concatenate([((part @ v.T) ** 3).mean(axis=1) for _, part in blocks(u, _BLOCK)])


@dataclass(frozen=True)
class PrecisionRecall:
    """Improved precision and recall.

    Attributes:
        precision: share of the generated images that lie within the real images' manifold: how real they look.
        recall: share of the real images that lie within the generated images' manifold: how much of the variety is covered.
        k: the neighbour whose distance is the radius of a ball of the manifold.
    """

    precision: float
    recall: float
    k: int


def precision_recall(real: ArrayLike, generated: ArrayLike, *, k: int = 3) -> PrecisionRecall:
    """Precision and recall by manifolds made of balls, each up to the k-th nearest neighbour of a point in its own set.

    Both depend on the sizes of the sets: compare at equal sizes only.

    Args:
        real: (m, d) features of real images.
        generated: (n, d) features of generated images.
        k: which neighbour, at least 1.

    Raises:
        ValueError: k < 1, or a set of k images or fewer.

    Source: Kynkäänniemi, Karras, Laine, Lehtinen and Aila, *Improved Precision and Recall Metric for Assessing Generative
    Models*, 2019, eq. 1 and 2.
    """
    found = manifolds(real, generated, k=k)
    return PrecisionRecall(float(found.realistic.mean()), float((found.cover > 0).mean()), k)


@dataclass(frozen=True, eq=False)
class Manifolds:
    """Which images lie within the other set's manifold.

    Attributes:
        realistic: (n,) whether each generated image lies within the real images' manifold.
        cover: (m,) in how many generated images' balls each real image lies.
        alone: (n,) how many real images lie in this generated image's ball and in no other.
    """

    realistic: NDArray[np.bool_]
    cover: NDArray[np.int64]
    alone: NDArray[np.int64]


def manifolds(real: ArrayLike, generated: ArrayLike, *, k: int = 3) -> Manifolds:
    """What :func:`precision_recall` counts, image by image; the arguments and errors are the same."""
    x, y = as_two(real, generated)
    if k < 1 or min(len(x), len(y)) <= k:
        raise ValueError(f"k must be at least 1 and below the number of images, got k={k} for {len(x)} and {len(y)} images")
    centre = x.mean(axis=0)  # features far from 0 would lose digits when squares are expanded
    x, y = x - centre, y - centre
    real_radii, radii = _radii(x, k), _radii(y, k)
    realistic = np.concatenate([(_squared_distances(part, x) <= real_radii).any(axis=1) for _, part in blocks(y, _BLOCK)])
    cover, alone = np.empty(len(x), dtype=np.int64), np.zeros(len(y), dtype=np.int64)
    for first, part in blocks(x, _BLOCK):
        inside = _squared_distances(part, y) <= radii
        cover[first : first + len(part)] = inside.sum(axis=1)
        alone += inside[inside.sum(axis=1) == 1].sum(axis=0)
    return Manifolds(realistic, cover, alone)


def _radii(x: FloatArray, k: int) -> FloatArray:
    """(N,): squared distance to the k-th nearest other point."""
    found = np.empty(len(x))
    for first, part in blocks(x, _BLOCK):
        squared = _squared_distances(part, x)
        squared[np.arange(len(part)), first + np.arange(len(part))] = np.inf
        found[first : first + len(part)] = np.partition(squared, k - 1, axis=1)[:, k - 1]
    return found


def class_distance(counts: ArrayLike, wanted: ArrayLike) -> float:
    """Total variation distance between the frequencies of two lists of counts (K,): 0 equal, 1 disjoint."""
    a, b = np.asarray(counts, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    if a.shape != b.shape or a.sum() <= 0 or b.sum() <= 0:
        raise ValueError(f"class counts must be of one length and not all 0, got {a.shape} and {b.shape}")
    return float(np.abs(a / a.sum() - b / b.sum()).sum() / 2)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest row of one set for each row of another.

    Attributes:
        index: (N,) which row it is.
        distance: (N,) Euclidean distance to it.
    """

    index: NDArray[np.intp]
    distance: FloatArray


def nearest(x: ArrayLike, among: ArrayLike) -> Neighbours:
    """The nearest row of ``among`` (M, d) for each row of ``x`` (N, d), as in looking for memorised training images.

    Raises:
        ValueError: features that are not (N, d) of one width, or an empty ``among``.
    """
    a, b = as_two(x, among)
    if not len(b):
        raise ValueError("there is nothing to be near to: among is empty")
    centre = b.mean(axis=0)  # features far from 0 would lose digits when squares are expanded
    a, b = a - centre, b - centre
    index, distance = np.empty(len(a), dtype=np.intp), np.empty(len(a))
    for first, part in blocks(a, _BLOCK):
        squared = _squared_distances(part, b)
        best = squared.argmin(axis=1)
        index[first : first + len(part)] = best
        # Anew from the difference: the expanded square loses the digits of near copies.
        distance[first : first + len(part)] = np.linalg.norm(part - b[best], axis=1)
    return Neighbours(index, distance)


def _squared_distances(x: FloatArray, y: FloatArray) -> FloatArray:
    """(N, M), |x|² + |y|² − 2 x·y."""
    squared: FloatArray = np.einsum("nd,nd->n", x, x)[:, None] + np.einsum("md,md->m", y, y) - 2 * (x @ y.T)
    return np.maximum(squared, 0.0, out=squared)
