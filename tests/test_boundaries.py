"""Verdicts and intervals exactly on their bounds, where the distances of made-up studies have no error."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ddimkit import DDIMKitError, DDIMSampler, recommend
from ddimkit.quality import Estimate
from ddimkit.quality.estimate import (
    Influence,
    RealKernel,
    covariance,
    estimate_kernel,
    estimate_share,
)
from ddimkit.quality.measure import check_comparable, same_seed_share
from ddimkit.quality.statistics import KernelStatistics
from ddimkit.samplers import DDPMSampler
from ddimkit.tradeoff.evaluation import Evaluation, contradicts
from ddimkit.tradeoff.gap import Closing, Gap
from ddimkit.tradeoff.presets import presets, presets_of
from ddimkit.tradeoff.recommend import candidates, plain_ddim
from ddimkit.tradeoff.rows import SAME_IMAGE
from ddimkit.tradeoff.study import Study
from studies import LINEAR, ddim, ddpm, quality, row, study, toy, toy_evaluator

EXACT = {"error": 0.0}
ABOVE, BELOW = math.nextafter(2.0, 3.0), math.nextafter(2.0, 1.0)


def exact(distances: dict[int, float], *more: Any, base: float = 1.0) -> Study:
    """DDIM at so many steps, beside a baseline, all without errors."""
    return study(*(ddim(steps, d, **EXACT) for steps, d in distances.items()), *more, baseline=ddpm(base, **EXACT))


def test_a_share_closed_exactly_is_not_known_to_be_closed() -> None:
    """Half of the gap from 3 to 1 is at 2: the interval must lie above 0, and does not at 0 itself."""
    for distance, known in ((ABOVE, False), (2.0, False), (BELOW, True)):
        of = exact({10: 3.0, 20: distance})
        (closing,) = Gap(of).closings([of.row("DDIM-20")], 0.5)
        assert closing.known is known
        assert recommend(of, close=0.5).known is known


def test_images_that_would_tell_are_named_only_where_the_figure_is_above() -> None:
    measured = ddim(20, 2.0, count=100)
    for value, needed in ((0.5, 400), (0.0, None), (-0.5, None)):
        assert Closing(measured, 0.5, Estimate(value, value - 1.0, value + 1.0)).images_needed == needed
    assert Closing(measured, 0.5, Estimate(1.0, 0.0, 2.0)).images_needed == 100
    assert Closing(measured, 0.5, Estimate(1.0, 1e-9, 2.0)).images_needed is None  # known already
    assert Closing(measured, 0.5, Estimate(1e-160, -1.0, 1.0)).images_needed is None  # more than a float can count


def test_a_gap_of_exactly_nothing_is_not_known() -> None:
    for base, known in ((3.0, False), (math.nextafter(3.0, 1.0), True)):
        of = exact({10: 3.0, 20: 2.0}, base=base)
        assert Gap(of).is_known is known
        assert (Gap(of).closed(of.row("DDIM-20")) is None) is not known


@pytest.mark.parametrize(
    ("close", "buffer", "fits"), [(1.0, 0.0, True), (0.0, 0.2, False), (1.0000001, 0.2, False), (0.5, -1e-9, False)]
)
def test_the_bounds_of_share_and_buffer(close: float, buffer: float, fits: bool) -> None:
    of = exact({10: 3.0, 20: 0.5})
    if fits:
        assert recommend(of, close=close, buffer=buffer).calls == 20
    else:
        with pytest.raises(ValueError, match="close must lie in"):
            recommend(of, close=close, buffer=buffer)
    with pytest.raises(ValueError, match="buffer"):
        recommend(of, buffer=math.inf)


def test_a_figure_on_the_bound_itself_falls_short() -> None:
    of = exact({10: 3.0, 20: 2.0})
    assert any("the figure itself falls short" in reason for reason in recommend(of, close=0.5).reasons)


@pytest.mark.parametrize(("longer", "taken"), [(1.5, True), (math.nextafter(1.5, 2.0), False)])
def test_a_longer_list_that_is_exactly_as_good_is_taken_for_safety(longer: float, taken: bool) -> None:
    lists = [
        row(DDIMSampler(LINEAR, timesteps=times), distance, **EXACT)
        for times, distance in (([999, 500], 1.5), ([999, 600, 300], longer), ([999, 700, 400, 200], 1.5))
    ]
    found = recommend(exact({10: 3.0}, *lists), close=0.5)
    assert found.calls == (3 if taken else 2)


def test_a_longer_list_must_be_refinable_where_the_shorter_is() -> None:
    lists = [
        row(DDIMSampler(LINEAR, timesteps=times), 1.5, same_seed=apart, **EXACT)
        for times, apart in (([999, 500], 0.1), ([999, 600, 300], SAME_IMAGE))
    ]
    assert recommend(exact({10: 3.0}, *lists), close=0.5).calls == 2
    assert recommend(exact({10: 3.0}, replace(lists[0], same_seed=SAME_IMAGE), lists[1]), close=0.5).calls == 3


@pytest.mark.parametrize(("seeds", "apart"), [((5, 10), True), ((5, 11), False), ((14, 19), False), ((15, 20), True)])
def test_seeds_that_only_touch_are_disjoint(seeds: tuple[int, int], apart: bool) -> None:
    """Quality by the seeds 10 to 14: others may choose, which 10 and 14 may not."""
    both = []
    for label, distance in (("a", 1.0), ("b", 2.0)):
        made = row(DDIMSampler(LINEAR, 20), 2.0, label=label, **EXACT)
        measured, chose = quality(2.0, 0.0, count=5, first=10), quality(distance, 0.0, first=seeds[0], count=seeds[1] - seeds[0])
        both.append(replace(made, quality=measured, selection=chose))
    found = [r.label for r in candidates(exact({10: 3.0}, *both), refinable=False) if r.calls == 20]
    assert found == (["a"] if apart else ["a", "b"])


def test_the_usual_procedure_begins_at_exactly_a_hundred_and_goes_down_while_equal() -> None:
    found = plain_ddim(exact({10: 3.0, 50: 1.0, 100: 1.0, 101: 1.0}))
    assert found is not None
    assert (found[0].label, found[1]) == ("DDIM-50", 60)
    assert plain_ddim(exact({10: 3.0})) is None
    two = plain_ddim(exact({10: 3.0, 20: 2.0}))
    assert two is not None
    assert two[0].label == "DDIM-20"
    # A hundred and one steps alone are good: the search begins at a hundred, finds it worse, and goes up.
    for more in ({}, {50: 1.0}):
        up = plain_ddim(exact({10: 3.0, **more, 100: math.nextafter(1.0, 2.0), 101: 1.0}))
        assert up is not None
        assert up[0].label == "DDIM-101"


def test_a_row_is_refinable_strictly_below_the_bound() -> None:
    assert not ddim(10, 1.0, same_seed=SAME_IMAGE).refinable
    assert ddim(10, 1.0, same_seed=math.nextafter(SAME_IMAGE, 0)).refinable


def test_presets_close_their_share_strictly() -> None:
    """20, 50 and 100 steps close exactly 50, 80 and 95 %, and the next counts a little more."""
    shares = {20: 0.5, 25: 0.51, 50: 0.8, 60: 0.81, 100: 0.95, 150: 0.96}
    of = exact({10: 3.0, **{steps: 3 - 2 * share for steps, share in shares.items()}})
    found = {name: made.row.calls for name, made in presets_of(of).items() if made.row is not None}
    for name, steps, more in (("realtime", 20, 25), ("interactive", 50, 60), ("production", 100, 150)):
        share = shares[steps]
        lead = (1 - share) * 3.0 + share * 1.0 - (3 - 2 * share)
        assert found[name] == (steps if lead > 0 else more)
    assert found["research"] == 150


def test_presets_of_an_unmeasured_model_have_at_most_its_timesteps() -> None:
    assert {name: made.calls for name, made in presets(toy(name="unknown")).items()} == {
        "realtime": 20,
        "interactive": 20,
        "production": 20,
        "research": 20,
    }


@pytest.mark.parametrize(
    ("low", "high", "zero"), [(0.0, 1.0, True), (-1.0, 0.0, True), (5e-324, 1.0, False), (-1.0, -5e-324, False), (0.0, 0.0, True)]
)
def test_an_interval_that_ends_at_zero_holds_it(low: float, high: float, zero: bool) -> None:
    assert Estimate((low + high) / 2, low, high).is_zero is zero


@pytest.mark.parametrize(("value", "fits"), [(0.0, True), (1.0, True), (math.nextafter(1.0, 2), False), (-5e-324, False)])
def test_an_estimate_may_lie_on_the_end_of_its_interval(value: float, fits: bool) -> None:
    saved = {"value": value, "low": 0.0, "high": 1.0}
    if fits:
        assert Estimate.from_dict(saved).value == value
    else:
        with pytest.raises(ValueError, match="lie in its interval"):
            Estimate.from_dict(saved)


def test_shares_of_none_and_of_all_have_intervals_of_some_width() -> None:
    for held, value in ((np.zeros(10, bool), 0.0), (np.ones(10, bool), 1.0)):
        found = estimate_share(held, range(10))
        assert found.value == value
        assert (found.low == 0.0) is (value == 0.0)
        assert (found.high == 1.0) is (value == 1.0)
        assert found.high - found.low > 0.2


def test_a_seed_of_zero_is_a_seed_and_the_fewest_images_are_two() -> None:
    assert Influence.of([0, 1], np.zeros(2)).seeds.tolist() == [0, 1]
    x = np.random.default_rng(0).normal(size=(2, 3))
    reference = KernelStatistics.of(np.random.default_rng(1).normal(size=(6, 3)))
    assert math.isfinite(estimate_kernel(x, reference, [0, 1]).value)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        estimate_kernel(x[:1], reference, [0])


def test_equal_images_have_a_kernel_distance_without_scatter() -> None:
    """The influences are all 0, by which nothing is divided."""
    reference = KernelStatistics.of(np.ones((6, 3)))
    found = estimate_kernel(np.ones((4, 3)), reference, range(4))
    assert found.value == pytest.approx(0.0, abs=1e-12)
    assert found.margin == pytest.approx(0.0, abs=1e-12)


def test_real_images_count_where_both_know_as_many_of_them() -> None:
    a = Influence.of([0], np.zeros(1), np.array([1.0, -1.0]), 10)
    b = Influence.of([5], np.zeros(1), np.array([1.0, 0.0, -1.0]), 10)
    assert covariance(a, a) == pytest.approx(0.1)
    assert covariance(a, b) == 0.0
    assert RealKernel(np.zeros((2, 3)), np.zeros(2), 2).influence(np.zeros((4, 3))).tolist() == [0.0, 0.0]


def test_frechet_distances_are_compared_at_equal_numbers_and_shares_by_the_manifold() -> None:
    a, b = quality(1.0, count=2000), quality(1.0, count=2001)
    with pytest.raises(ValueError, match="differs by their numbers"):
        check_comparable(a, b, "frechet")
    check_comparable(a, b, "kernel")
    check_comparable(a, b, "precision")  # both rest on 1000 images
    with pytest.raises(ValueError, match="differs by their numbers"):
        check_comparable(a, replace(a, manifold=999), "recall")


def test_same_seed_share_of_a_run_with_itself_and_of_images_that_are_all_equal() -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (3, 4))
    assert same_seed_share(images, images) == 0.0
    with pytest.raises(ValueError, match="two different images"):
        same_seed_share(images, np.zeros((3, 4)))


@pytest.mark.parametrize(("apart", "clear"), [(3.0, False), (3.001, True)])
def test_a_contradiction_is_more_than_three_standard_errors(apart: float, clear: bool) -> None:
    assert contradicts(quality(0.0, 0.0), quality(0.0, 1.0)) is False
    assert contradicts(quality(apart, 0.0), quality(0.0, 1.0)) is clear


def test_nothing_is_left_to_choose_beside_a_baseline_alone() -> None:
    with pytest.raises(DDIMKitError, match="nothing to choose"):
        Gap(study(baseline=ddpm(1.0)))
    only = row(DDPMSampler(LINEAR, 20), 2.0, **EXACT)
    assert Gap(study(only, baseline=ddpm(1.0, **EXACT))).zero is only


@pytest.mark.parametrize(("buffer", "said"), [(0.0, False), (0.01, True)])
def test_calls_for_safety_are_said_where_there_are_any(buffer: float, said: bool) -> None:
    found = recommend(exact({10: 3.0, 20: 0.5}), buffer=buffer)
    assert any("For safety" in reason for reason in found.reasons) is said
    assert found.calls == 20 + said


def test_the_fewest_images_are_five() -> None:
    evaluator = toy_evaluator()
    features = np.random.default_rng(0).normal(size=(5, 4))
    assert evaluator.evaluate_features(features, range(5)).count == 5
    with pytest.raises(ValueError, match="at least 5 images"):
        evaluator.evaluate_features(features[:4], range(4))
    assert Evaluation(evaluator, images=5, long_images=0).images == 5
    for images in (1, 4, -1):
        with pytest.raises(ValueError, match="at least 5"):
            Evaluation(evaluator, images=images)
