"""Intervals: right on average, paired by seeds, and narrow only where the data are."""

import numpy as np
import pytest

from ddimkit.quality import Estimate, FeatureStatistics, KernelStatistics, bootstrap_weights
from ddimkit.quality.estimate import (
    estimate_class_distance,
    estimate_frechet,
    estimate_kernel,
    estimate_mean,
    estimate_precision_recall,
    estimate_share,
)

WIDTH = 16
REFERENCE = np.random.default_rng(99).normal(size=(4000, WIDTH))
GAUSSIAN, KERNEL = FeatureStatistics.of(REFERENCE), KernelStatistics.of(REFERENCE)


def drawn(seed: int, count: int, shift: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (count, WIDTH))


@pytest.mark.promise(41)
def test_weights_belong_to_seeds() -> None:
    """Any order and subset of seeds gives each seed the same column."""
    whole = bootstrap_weights(range(50))
    np.testing.assert_array_equal(bootstrap_weights([7, 3, 40]), whole[:, [7, 3, 40]])
    np.testing.assert_array_equal(bootstrap_weights(range(50), 8), whole[:8])


def test_weights_are_poisson_of_mean_one() -> None:
    weights = bootstrap_weights(range(2000))
    share = [float((weights == k).mean()) for k in range(4)]
    np.testing.assert_allclose(share, np.exp(-1) / np.array([1, 1, 2, 6]), atol=0.002)
    apart = np.corrcoef(weights[:, :200].T)
    assert np.abs(apart - np.eye(200)).max() < 0.3


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("name", ["kernel", "frechet"])
def test_intervals_are_as_wide_as_the_figures_scatter(name: str, shift: float) -> None:
    """Over 60 sets of 200 images, at no difference at all and far from it; the plain bootstrap is 1.7 to 4 times too wide at 0."""
    weights, found = bootstrap_weights(range(200)), []
    for seed in range(60):
        x = drawn(seed, 200, shift)
        found.append(estimate_kernel(x, KERNEL, weights) if name == "kernel" else estimate_frechet(x, GAUSSIAN, weights))
    scatter = np.std([e.value for e in found], ddof=1)
    believed = np.mean([np.std(e.replicates) for e in found])
    assert 0.75 * scatter < believed < 1.4 * scatter


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize(("name", "most"), [("precision", 1.3), ("recall", 1.8)])
def test_intervals_of_precision_and_recall_are_as_wide_as_they_scatter(name: str, most: float, shift: float) -> None:
    """Recall's are rather wider: a ball that is taken away is in truth half made good by its neighbours."""
    weights, found = bootstrap_weights(range(200)), []
    for seed in range(60):
        both = estimate_precision_recall(REFERENCE[:400, :8], drawn(seed, 200, shift)[:, :8], weights)
        found.append(both[0] if name == "precision" else both[1])
    scatter = np.std([e.value for e in found], ddof=1)
    assert 0.75 * scatter < np.mean([np.std(e.replicates) for e in found]) < most * scatter


@pytest.mark.parametrize("count", [64, 400])
def test_none_of_a_few_is_not_known_to_be_none(count: int) -> None:
    """0 of n leaves up to 2.5/n; and all of n as much below 1."""
    weights = bootstrap_weights(range(count))
    none, every = (estimate_share(np.full(count, held), weights) for held in (False, True))
    assert none.value == 0
    assert none.interval()[1] == pytest.approx(2.51 / count, rel=0.05)
    assert none.interval()[0] == pytest.approx(0, abs=0.01 / count)
    assert every.interval()[0] == pytest.approx(1 - 2.51 / count, abs=0.1 / count)
    some = estimate_share(np.arange(count) < count // 4, weights)
    assert some.value == 0.25
    assert np.std(some.replicates) == pytest.approx(np.sqrt(0.25 * 0.75 / count), rel=0.2)


def test_intervals_of_class_distances_are_as_wide_as_they_scatter() -> None:
    wanted, chances = np.full(10, 100), np.array([0.2, 0.15, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05])
    weights = bootstrap_weights(range(300))
    sets = [np.random.default_rng(seed).choice(10, 300, p=chances) for seed in range(100)]
    found = [estimate_class_distance(classes, wanted, weights) for classes in sets]
    assert np.mean([e.value for e in found]) == pytest.approx(0.18, abs=0.02)
    scatter = np.std([e.value for e in found], ddof=1)
    assert 0.8 * scatter < np.mean([np.std(e.replicates) for e in found]) < 1.4 * scatter


def test_the_plain_bootstrap_is_too_wide_near_0() -> None:
    """Why the replicates are linearised: drawn anew with repeated rows, the Fréchet distance scatters far more than it does."""
    sets = [drawn(seed, 200, 0.0) for seed in range(40)]
    scatter = np.std([FeatureStatistics.of(x).frechet(GAUSSIAN) for x in sets], ddof=1)
    draw = np.random.default_rng(0)
    plain = [np.std([FeatureStatistics.of(x[draw.integers(0, 200, 200)]).frechet(GAUSSIAN) for _ in range(60)]) for x in sets[:10]]
    assert np.mean(plain) > 1.5 * scatter


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """The kernel distance is unbiased, so its truth is known: that of the distributions, here against a fixed reference."""
    weights = bootstrap_weights(range(150))
    truth = np.mean([KernelStatistics.of(drawn(10_000 + i, 4000, 0.2)).distance(KERNEL) for i in range(10)])
    held = 0
    for seed in range(120):
        low, high = estimate_kernel(drawn(seed, 150, 0.2), KERNEL, weights).interval()
        held += low <= truth <= high
    assert 0.88 <= held / 120 <= 1


@pytest.mark.parametrize("width", [1, 3, 10])
def test_intervals_hold_0_where_there_is_no_difference(width: int) -> None:
    """Few dimensions are the hardest: the figure is far from normal, and its first order often small by chance."""
    reference = KernelStatistics.of(np.random.default_rng(7).normal(size=(20_000, width)))
    weights, held = bootstrap_weights(range(200)), 0
    for seed in range(80):
        x = np.random.default_rng(1000 + seed).normal(size=(200, width))
        found = estimate_kernel(x, reference, weights)
        assert np.std(found.replicates) > 0
        held += found.is_zero
    assert held >= 68  # 76 expected; 68 is 4 standard deviations below


def test_values_are_the_distances_themselves() -> None:
    x = drawn(1, 300, 0.1)
    weights = bootstrap_weights(range(300))
    assert estimate_kernel(x, KERNEL, weights).value == pytest.approx(KernelStatistics.of(x).distance(KERNEL), rel=1e-9)
    assert estimate_frechet(x, GAUSSIAN, weights).value == FeatureStatistics.of(x).frechet(GAUSSIAN)
    assert estimate_mean(x[:, 0], weights).value == pytest.approx(x[:, 0].mean())


def test_estimates_walk_blocks() -> None:
    """More images than one block of pairs: as many images twice over give half the variance."""
    small, large = (estimate_kernel(drawn(3, n, 0.5), KERNEL, bootstrap_weights(range(n))) for n in (700, 2800))
    assert np.std(small.replicates) / np.std(large.replicates) == pytest.approx(2.0, rel=0.25)


@pytest.mark.promise(41)
@pytest.mark.parametrize("name", ["kernel", "frechet"])
def test_pairing_finds_what_single_intervals_cannot(name: str) -> None:
    """The same images, hardly moved: the intervals overlap nearly wholly, that of the difference leaves 0 out."""
    x, weights = drawn(5, 400, 0.1), bootstrap_weights(range(400))
    estimate, reference = (estimate_kernel, KERNEL) if name == "kernel" else (estimate_frechet, GAUSSIAN)
    a, b = estimate(x, reference, weights), estimate(x + 0.03, reference, weights)
    assert a.interval()[1] > b.interval()[0]
    assert not (b - a).is_zero
    assert (b - a).value == pytest.approx(b.value - a.value)
    assert np.std((b - a).replicates) < 0.5 * np.std(a.replicates)


@pytest.mark.promise(41)
def test_equal_configurations_show_no_difference() -> None:
    x, weights = drawn(6, 300, 0.1), bootstrap_weights(range(300))
    apart = estimate_kernel(x, KERNEL, weights) - estimate_kernel(x, KERNEL, weights)
    assert apart.value == 0
    assert apart.is_zero
    other = estimate_kernel(drawn(7, 300, 0.1), KERNEL, bootstrap_weights(range(300, 600)))
    assert (other - estimate_kernel(x, KERNEL, weights)).is_zero


def test_features_that_never_vary_are_borne() -> None:
    """Dead features, as a network's rectified ones can be."""
    flat = np.array([1.0] * 12 + [0.0] * 4)
    x, reference = drawn(8, 100, 0.0) * flat, REFERENCE * flat
    found = estimate_frechet(x, FeatureStatistics.of(reference), bootstrap_weights(range(100)))
    assert np.isfinite(found.replicates).all()
    assert np.std(found.replicates) > 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bootstrap_weights([1, 1]), "its own"),
        (lambda: bootstrap_weights([-1, 1]), "at least 0"),
        (lambda: bootstrap_weights([1, 2], 1), "at least 2 replicates"),
        (lambda: Estimate(1.0, (1.0, 2.0)).interval(1.0), "between 0 and 1"),
        (lambda: Estimate(1.0, (1.0, 2.0)) - Estimate(1.0, (1.0,)), "argument"),
        (lambda: estimate_kernel(np.zeros((1, WIDTH)), KERNEL, np.ones((2, 1))), "at least 2"),
        (lambda: estimate_kernel(np.zeros((5, 3)), KERNEL, np.ones((2, 5))), "width 3"),
    ],
)
def test_bad_estimates_raise(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call()
