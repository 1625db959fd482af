"""Distances between feature sets against closed forms, double loops and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimkit.quality import (
    FeatureStatistics,
    KernelStatistics,
    class_distance,
    kernel_distance,
    nearest,
    precision_recall,
    same_seed_distance,
    same_seed_share,
)


def normal(seed: int, count: int, width: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (count, width))


def gaussian(mean: np.ndarray, covariance: np.ndarray, count: int = 50_000) -> FeatureStatistics:
    return FeatureStatistics(count, mean, covariance * (count - 1))


def spd(seed: int, width: int) -> np.ndarray:
    a = normal(seed, width, width)
    return a @ a.T + 0.1 * np.eye(width)


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_frechet_distance_of_gaussians_in_closed_form(seed: int, width: int) -> None:
    """S₂ = A S₁ A with A positive has (S₁ S₂)^½ of trace tr(A S₁): the optimal map is linear."""
    s1, a = spd(seed, width), spd(seed + 1, width)
    s2 = a @ s1 @ a
    m1, m2 = normal(seed + 2, 2, width)
    exact = ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(a @ s1)
    found = gaussian(m1, s1).frechet(gaussian(m2, (s2 + s2.T) / 2))
    assert found == pytest.approx(exact, rel=1e-8, abs=1e-8 * np.trace(s2))


def test_frechet_distance_bears_singular_covariances() -> None:
    """One direction each, at right angles: nothing is shared; the same direction: |σ₁ − σ₂|²."""
    across, along = np.diag([4.0, 0.0, 0.0]), np.diag([0.0, 9.0, 0.0])
    zero = np.zeros(3)
    assert gaussian(zero, across).frechet(gaussian(zero, along)) == pytest.approx(13.0, abs=1e-12)
    assert gaussian(zero, across).frechet(gaussian(zero, np.diag([25.0, 0.0, 0.0]))) == pytest.approx(9.0, abs=1e-12)
    assert gaussian(zero, across).frechet(gaussian(zero, across)) == pytest.approx(0.0, abs=1e-12)


def test_frechet_distance_agrees_with_numbers_from_definitions() -> None:
    """Covariances with n − 1, means plain: from numpy's own estimators and a matrix root by eigenvalues of the product."""
    x, y = normal(0, 40, 5), normal(1, 60, 5, 0.5)
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(c1 @ c2).astype(complex)).sum().real
    exact = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1 + c2) - 2 * root
    assert FeatureStatistics.of(x).frechet(FeatureStatistics.of(y)) == pytest.approx(exact, rel=1e-10)


@pytest.mark.promise(40)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 60), max_size=6))
def test_statistics_of_parts_merge_to_those_of_the_whole(seed: int, cuts: list[int]) -> None:
    """Whatever the batches and their order: every image counts exactly once."""
    x = normal(seed, 60, 4, 3.0)
    parts = np.split(x, sorted(cuts))
    merged, kernels = FeatureStatistics.empty(4), KernelStatistics.of(parts[0])
    for part in parts[::-1]:
        merged = merged.merge(FeatureStatistics.of(part))
    for part in parts[1:]:
        kernels = kernels.merge(KernelStatistics.of(part))
    whole = FeatureStatistics.of(x)
    assert merged.count == 60
    np.testing.assert_allclose(merged.mean, whole.mean, atol=1e-13)
    np.testing.assert_allclose(merged.scatter, whole.scatter, atol=1e-10)
    assert kernels.count == 60
    assert kernels.within == pytest.approx(KernelStatistics.of(x).within, rel=1e-12)


def test_statistics_keep_their_digits_far_from_zero() -> None:
    """A mean of 10⁶ beside a spread of 1: sums of squares would lose 12 of 16 digits."""
    x = normal(3, 500, 2, 0.0)
    moved = FeatureStatistics.of(x[:200] + 1e6).merge(FeatureStatistics.of(x[200:] + 1e6))
    np.testing.assert_allclose(moved.covariance, np.cov(x, rowvar=False), rtol=1e-9)


def loop_kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    m, n = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


@given(st.integers(0, 10**6), st.integers(2, 15), st.integers(2, 15), st.integers(1, 7))
@settings(max_examples=40)
def test_kernel_distance_equals_the_double_loop(seed: int, m: int, n: int, width: int) -> None:
    x, y = normal(seed, m, width), normal(seed + 1, n, width, 0.7)
    exact = loop_kernel_distance(x, y)
    assert kernel_distance(x, y) == pytest.approx(exact, rel=1e-9, abs=1e-9)
    a, b = KernelStatistics.of(x), KernelStatistics.of(y)
    assert a.width == width
    assert a.distance(b) == pytest.approx(exact, rel=1e-9, abs=1e-9)
    direct = [np.mean([(u @ v / width + 1) ** 3 for v in y]) for u in x]
    np.testing.assert_allclose(b.mean_kernel(x), direct, rtol=1e-10)


def test_kernel_distance_walks_blocks() -> None:
    """More rows than one block, against the sums, which know no blocks of pairs."""
    x, y = normal(0, 1500, 5), normal(1, 1100, 5)
    assert kernel_distance(x, y) == pytest.approx(KernelStatistics.of(x).distance(KernelStatistics.of(y)), rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    """Of equal distributions it is 0 on average, even with four images a set, where a biased one would be 0.6."""
    found = [kernel_distance(normal(2 * i, 4, 3), normal(2 * i + 1, 4, 3)) for i in range(600)]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(len(found))
    assert min(found) < 0


@given(st.integers(0, 10**6), st.integers(5, 30), st.integers(5, 30), st.integers(1, 4))
@settings(max_examples=40)
def test_precision_and_recall_equal_brute_force(seed: int, m: int, n: int, k: int) -> None:
    x, y = normal(seed, m, 2), normal(seed + 1, n, 2, 1.0)

    def share(points: np.ndarray, centres: np.ndarray) -> float:
        inside = 0
        for p in points:
            for i, c in enumerate(centres):
                radius = sorted(float(np.linalg.norm(c - o)) for j, o in enumerate(centres) if j != i)[k - 1]
                if np.linalg.norm(p - c) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    found = precision_recall(x, y, k=k)
    assert found.precision == pytest.approx(share(y, x))
    assert found.recall == pytest.approx(share(x, y))


def test_precision_sees_what_is_unreal_and_recall_what_is_missing() -> None:
    real = np.concatenate([normal(0, 200, 2), normal(1, 200, 2, 20.0)])
    half, strange = normal(2, 400, 2), np.concatenate([normal(3, 200, 2), normal(4, 200, 2, -20.0)])
    assert precision_recall(real, half).precision > 0.9
    assert precision_recall(real, half).recall < 0.55
    assert precision_recall(real, strange).precision < 0.55


def test_nearest_finds_copies_to_the_last_digit() -> None:
    among = normal(0, 2500, 6, 1000.0)
    picked = np.array([2400, 3, 1999])
    found = nearest(among[picked] + 1e-6, among)
    np.testing.assert_array_equal(found.index, picked)
    np.testing.assert_allclose(found.distance, 1e-6 * math.sqrt(6), rtol=1e-4)


def test_class_distance_by_hand() -> None:
    assert class_distance([5, 5], [50, 50]) == 0
    assert class_distance([10, 0], [0, 3]) == 1
    assert class_distance([3, 1], [1, 1]) == pytest.approx(0.25)


def test_same_seed_distance_is_on_the_scale_of_pixels() -> None:
    black, white = -np.ones((2, 1, 4, 4)), np.ones((2, 1, 4, 4))
    np.testing.assert_array_equal(same_seed_distance(black, white), [1.0, 1.0])
    np.testing.assert_array_equal(same_seed_distance(black, black), [0.0, 0.0])


def test_same_seed_shares_are_of_the_distance_between_seeds() -> None:
    finest = np.array([[-1.0], [0.0], [1.0]])  # 1, a half and a half apart on the scale of pixels
    assert same_seed_share(finest + 0.1, finest) == pytest.approx(0.05 / (0.5 + 0.5 + 1.0) * 3)
    assert same_seed_share(finest, finest) == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: FeatureStatistics.of([1.0, 2.0]), r"\(N, d\)"),
        (lambda: FeatureStatistics.of([[math.nan]]), "NaN"),
        (lambda: FeatureStatistics.of([[1.0]]).covariance, "at least 2"),
        (lambda: FeatureStatistics.of(np.eye(2)).merge(FeatureStatistics.of(np.eye(3))), "width 2"),
        (lambda: FeatureStatistics.of(np.eye(2)).frechet(FeatureStatistics.of(np.eye(3))), "width 2"),
        (lambda: KernelStatistics.of(np.zeros((2, 193))), "too wide"),
        (lambda: KernelStatistics.of(np.eye(2)).distance(KernelStatistics.of(np.eye(3))), "cannot be compared"),
        (lambda: KernelStatistics.of([[1.0]]).within, "at least 2"),
        (lambda: kernel_distance([[1.0]], [[1.0], [2.0]]), "at least 2"),
        (lambda: kernel_distance(np.eye(2), np.eye(3)), "width 3"),
        (lambda: precision_recall(np.eye(3), np.eye(3), k=3), "below the number"),
        (lambda: precision_recall(np.eye(3), np.eye(3), k=0), "at least 1"),
        (lambda: nearest(np.eye(2), np.zeros((0, 2))), "empty"),
        (lambda: class_distance([1, 2], [1, 2, 3]), "one length"),
        (lambda: class_distance([0, 0], [1, 2]), "not all 0"),
        (lambda: same_seed_distance(np.zeros((2, 3)), np.zeros((3, 3))), "same images"),
        (lambda: same_seed_share(np.ones((2, 3)), np.zeros((2, 3))), "two different images"),
    ],
)
def test_bad_features_raise_naming_the_fault(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call()
