"""Intervals: right on average, paired by seeds, and narrow only where the data are."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimkit.quality import Estimate, FeatureStatistics, Influence, KernelStatistics, covariance
from ddimkit.quality.estimate import (
    Z95,
    RealKernel,
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


def error(estimate: Estimate) -> float:
    """The standard error that an interval stands for."""
    return estimate.margin / Z95


@pytest.mark.promise(41)
@given(order=st.permutations(range(12)))
def test_influences_belong_to_seeds(order: list[int]) -> None:
    """Images in any order give the same pairing."""
    values = np.random.default_rng(0).normal(size=12)
    values -= values.mean()
    straight, mixed = Influence.of(range(12), values), Influence.of(order, values[order])
    assert covariance(straight, mixed) == pytest.approx(float(values @ values) / 144)
    half = Influence.of(range(6, 18), values)
    assert covariance(straight, half) == pytest.approx(float(values[6:] @ values[:6]) / 144)
    assert covariance(straight, Influence.of(range(12, 24), values)) == 0


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("name", ["kernel", "frechet"])
def test_intervals_are_as_wide_as_the_figures_scatter(name: str, shift: float) -> None:
    """Over 60 sets of 200 images, at no difference at all and far from it; the plain bootstrap is 1.7 to 4 times too wide at 0."""
    seeds, found = range(200), []
    for seed in range(60):
        x = drawn(seed, 200, shift)
        found.append(estimate_kernel(x, KERNEL, seeds) if name == "kernel" else estimate_frechet(x, GAUSSIAN, seeds))
    scatter = np.std([e.value for e in found], ddof=1)
    believed = np.mean([error(e) for e in found])
    assert 0.75 * scatter < believed < 1.4 * scatter


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize(("name", "most"), [("precision", 1.3), ("recall", 1.8)])
def test_intervals_of_precision_and_recall_are_as_wide_as_they_scatter(name: str, most: float, shift: float) -> None:
    """Recall's are rather wider: a ball that is taken away is in truth half made good by its neighbours."""
    seeds, found = range(200), []
    for seed in range(60):
        both = estimate_precision_recall(REFERENCE[:400, :8], drawn(seed, 200, shift)[:, :8], seeds)
        found.append(both[0] if name == "precision" else both[1])
    scatter = np.std([e.value for e in found], ddof=1)
    assert 0.75 * scatter < np.mean([error(e) for e in found]) < most * scatter


@pytest.mark.parametrize("count", [64, 400])
def test_none_of_a_few_is_not_known_to_be_none(count: int) -> None:
    """0 of n leaves up to 3.84/(n + 3.84), Wilson's bound; and all of n as much below 1."""
    seeds = range(count)
    none, every = (estimate_share(np.full(count, held), seeds) for held in (False, True))
    assert none.value == 0
    assert none.interval == (0.0, pytest.approx(Z95**2 / (count + Z95**2)))
    assert every.interval == (pytest.approx(count / (count + Z95**2)), 1.0)
    some = estimate_share(np.arange(count) < count // 4, seeds)
    assert some.value == 0.25
    assert error(some) == pytest.approx(np.sqrt(0.25 * 0.75 / count), rel=0.2)


def test_intervals_of_class_distances_are_as_wide_as_they_scatter() -> None:
    wanted, chances = np.full(10, 100), np.array([0.2, 0.15, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05])
    seeds = range(300)
    sets = [np.random.default_rng(seed).choice(10, 300, p=chances) for seed in range(100)]
    found = [estimate_class_distance(classes, wanted, seeds) for classes in sets]
    assert np.mean([e.value for e in found]) == pytest.approx(0.18, abs=0.02)
    scatter = np.std([e.value for e in found], ddof=1)
    assert 0.8 * scatter < np.mean([error(e) for e in found]) < 1.4 * scatter


def test_the_plain_bootstrap_is_too_wide_near_0() -> None:
    """Why influences are used: drawn anew with repeated rows, the Fréchet distance scatters far more than it does."""
    sets = [drawn(seed, 200, 0.0) for seed in range(40)]
    scatter = np.std([FeatureStatistics.of(x).frechet(GAUSSIAN) for x in sets], ddof=1)
    draw = np.random.default_rng(0)
    plain = [np.std([FeatureStatistics.of(x[draw.integers(0, 200, 200)]).frechet(GAUSSIAN) for _ in range(60)]) for x in sets[:10]]
    assert np.mean(plain) > 1.5 * scatter


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """The kernel distance is unbiased, so its truth is known: that of the distributions, here against a fixed reference."""
    seeds = range(150)
    truth = np.mean([KernelStatistics.of(drawn(10_000 + i, 4000, 0.2)).distance(KERNEL) for i in range(10)])
    held = 0
    for seed in range(120):
        low, high = estimate_kernel(drawn(seed, 150, 0.2), KERNEL, seeds).interval
        held += low <= truth <= high
    assert 0.88 <= held / 120 <= 1


@pytest.mark.parametrize("width", [1, 3, 10])
def test_intervals_hold_0_where_there_is_no_difference(width: int) -> None:
    """Few dimensions are the hardest: the figure is far from normal, and its first order often small by chance."""
    reference = KernelStatistics.of(np.random.default_rng(7).normal(size=(20_000, width)))
    seeds, held = range(200), 0
    for seed in range(80):
        x = np.random.default_rng(1000 + seed).normal(size=(200, width))
        found = estimate_kernel(x, reference, seeds)
        assert error(found) > 0
        held += found.is_zero
    assert held >= 68  # 76 expected; 68 is 4 standard deviations below


def test_values_are_the_distances_themselves() -> None:
    x = drawn(1, 300, 0.1)
    seeds = range(300)
    assert estimate_kernel(x, KERNEL, seeds).value == pytest.approx(KernelStatistics.of(x).distance(KERNEL), rel=1e-9)
    assert estimate_frechet(x, GAUSSIAN, seeds).value == FeatureStatistics.of(x).frechet(GAUSSIAN)
    assert estimate_mean(x[:, 0], seeds).value == pytest.approx(x[:, 0].mean())


def test_estimates_walk_blocks() -> None:
    """More images than one block of pairs: as many images twice over give half the variance."""
    small, large = (estimate_kernel(drawn(3, n, 0.5), KERNEL, range(n)) for n in (700, 2800))
    assert error(small) / error(large) == pytest.approx(2.0, rel=0.25)


@pytest.mark.promise(41)
@pytest.mark.parametrize("name", ["kernel", "frechet"])
def test_pairing_finds_what_single_intervals_cannot(name: str) -> None:
    """The same images, hardly moved: the intervals overlap nearly wholly, that of the difference leaves 0 out."""
    x, seeds = drawn(5, 400, 0.1), range(400)
    estimate, reference = (estimate_kernel, KERNEL) if name == "kernel" else (estimate_frechet, GAUSSIAN)
    a, b = estimate(x, reference, seeds), estimate(x + 0.03, reference, seeds)
    assert a.interval[1] > b.interval[0]
    assert not (b - a).is_zero
    assert (b - a).value == pytest.approx(b.value - a.value)
    assert error(b - a) < 0.5 * error(a)


@pytest.mark.promise(41)
def test_equal_configurations_show_no_difference() -> None:
    x, seeds = drawn(6, 300, 0.1), range(300)
    apart = estimate_kernel(x, KERNEL, seeds) - estimate_kernel(x, KERNEL, seeds)
    assert apart.value == 0
    assert apart.is_zero
    other = estimate_kernel(drawn(7, 300, 0.1), KERNEL, range(300, 600))
    assert (other - estimate_kernel(x, KERNEL, seeds)).is_zero


def test_features_that_never_vary_are_borne() -> None:
    """Dead features, as a network's rectified ones can be."""
    flat = np.array([1.0] * 12 + [0.0] * 4)
    x, reference = drawn(8, 100, 0.0) * flat, REFERENCE * flat
    found = estimate_frechet(x, FeatureStatistics.of(reference), range(100))
    assert np.isfinite(found.interval).all()
    assert error(found) > 0


@pytest.mark.promise(53)
@given(held=st.lists(st.booleans(), min_size=1, max_size=60))
def test_shares_and_their_intervals_lie_in_0_to_1(held: list[bool]) -> None:
    found = estimate_share(np.array(held), range(len(held)))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


@pytest.mark.promise(53)
def test_squared_distances_and_their_intervals_are_never_below_0() -> None:
    x = drawn(1, 60, 0.0)
    found = estimate_frechet(x, FeatureStatistics.of(x), range(60))
    assert 0 <= found.low <= found.value <= found.high
    assert FeatureStatistics.of(x).frechet(FeatureStatistics.of(x)) >= 0
    near = estimate_class_distance(np.arange(10), np.full(10, 5), range(10))
    assert 0 <= near.low <= near.value <= near.high <= 1


@pytest.mark.promise(41)
def test_differences_of_paired_sets_scatter_as_their_intervals_say() -> None:
    """Two samplers that move the same noise differently, over 80 sets of noise; unpaired, it would be far larger."""
    seeds, found = range(150), []
    for seed in range(80):
        x = drawn(seed, 150, 0.0)
        found.append((estimate_kernel(1.1 * x, KERNEL, seeds), estimate_kernel(x + 0.1, KERNEL, seeds)))
    apart = [a - b for a, b in found]
    scatter = np.std([e.value for e in apart], ddof=1)
    assert 0.75 * scatter < np.mean([error(e) for e in apart]) < 1.4 * scatter


def test_the_real_images_are_a_sample_too() -> None:
    """The same generated images beside 60 sets of real ones: the scatter is what the real images' influences say."""
    x, seeds, alone, whole, values = drawn(0, 600, 0.3), range(600), [], [], []
    for seed in range(60):
        real = np.random.default_rng(500 + seed).normal(size=(300, WIDTH))
        kernel = KernelStatistics.of(real)
        part = RealKernel(real[:150], kernel.mean_kernel(real[:150]), 300)
        alone.append(error(estimate_kernel(x, kernel, seeds)))
        found = estimate_kernel(x, kernel, seeds, part)
        whole.append(error(found))
        values.append(found.value)
    of_real = np.sqrt(np.mean(whole) ** 2 - np.mean(alone) ** 2)
    assert 0.75 * np.std(values) < of_real < 1.4 * np.std(values)


def test_the_real_images_cancel_between_samplers_that_are_alike() -> None:
    real = np.random.default_rng(3).normal(size=(300, WIDTH))
    kernel = KernelStatistics.of(real)
    part = RealKernel(real, kernel.mean_kernel(real), 300)
    a, b = (estimate_kernel(drawn(1, 400, 0.3) + shift, kernel, range(400), part) for shift in (0.0, 0.01))
    assert error(b - a) < 0.2 * error(a)


def test_estimates_survive_json_without_their_influences() -> None:
    found = estimate_mean(drawn(1, 30, 0.0)[:, 0], range(30))
    read = Estimate.from_dict(json.loads(json.dumps(found.to_dict())))
    assert read.interval == pytest.approx(found.interval, rel=1e-6)
    with pytest.raises(ValueError, match="cannot be paired by seeds"):
        _ = read - found


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Influence.of([1, 1], np.zeros(2)), "of its own"),
        (lambda: Influence.of([-1, 1], np.zeros(2)), "at least 0"),
        (lambda: Influence.of([1, 2, 3], np.zeros(2)), "of its own"),
        (lambda: Estimate.from_dict({"value": 1.0, "low": 2.0, "high": 3.0}), "lie in its interval"),
        (lambda: Estimate.from_dict({"value": float("nan"), "low": 2.0, "high": 3.0}), "finite"),
        (lambda: estimate_kernel(np.zeros((1, WIDTH)), KERNEL, [0]), "at least 2"),
        (lambda: estimate_kernel(np.zeros((5, 3)), KERNEL, range(5)), "width 3"),
    ],
)
def test_bad_estimates_raise(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call()
