"""Recommendations follow from the numbers, and say when the numbers do not suffice."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curves import BASELINE, LABEL, LINE, judged, quality, result, study
from ddimkit import DDIMKitError
from ddimkit.tradeoff.recommend import Scale, quality_kept, recommend


def test_the_smallest_count_within_the_tolerance_and_a_fifth_more() -> None:
    found = recommend(study(*judged(LINE)), tolerance=0.1)
    assert found.allowed == pytest.approx(0.104, abs=0.003)
    assert (found.bare, found.steps) == (50, 60)
    assert (found.sampler, found.eta) == ("DDIMSampler", 0.0)
    assert [v.verdict for v in found.verdicts] == ["within", "within", "within", "worse", "worse"]
    assert [v.steps for v in found.verdicts] == [250, 100, 50, 20, 10]
    assert "60 steps" in " ".join(found.reasons)
    assert "DDIM-20 is outside" in " ".join(found.reasons)
    assert "10 % of its distance" in " ".join(found.reasons)
    assert "buffer of 20 %" in " ".join(found.reasons)
    assert json.loads(json.dumps(found.to_dict()))["steps"] == 60


@pytest.mark.parametrize(("tolerance", "bare"), [(0.01, 250), (0.03, 100), (0.1, 50), (0.6, 20), (5.0, 10)])
def test_a_wider_tolerance_takes_fewer_steps(tolerance: float, bare: int) -> None:
    assert recommend(study(*judged(LINE)), tolerance=tolerance).bare == bare


@pytest.mark.parametrize(("buffer", "steps"), [(0.0, 50), (0.2, 60), (0.21, 61), (100.0, 1000)])
def test_the_buffer_rounds_up_and_ends_at_the_baseline(buffer: float, steps: int) -> None:
    assert recommend(study(*judged(LINE)), tolerance=0.1, buffer=buffer).steps == steps


@pytest.mark.promise(42)
def test_more_steps_are_not_assumed_to_be_better() -> None:
    """The search goes down from 100 and stops at the first count outside, though a smaller one is within again."""
    found = recommend(study(*judged({10: 1.0, 20: 1.5, 50: 1.0, 100: 1.0})), tolerance=0.1)
    assert found.bare == 50
    better = recommend(study(*judged({10: 0.5, 20: 0.7, 50: 0.9, 100: 1.0, 1000: 1.4})), tolerance=0.1)
    assert better.bare == 10


def test_what_is_better_than_the_baseline_keeps_all_of_its_quality_and_no_more() -> None:
    said = " ".join(recommend(study(*judged({10: 0.5, 100: 0.4})), tolerance=0.1).reasons)
    assert "10 steps are the fewest known to keep 80% of the baseline's quality: 100% (95 % interval 100% to 100%)" in said


def test_where_a_hundred_are_not_enough_the_search_goes_up() -> None:
    found = recommend(study(*judged({50: 2.0, 100: 1.5, 250: 1.3, 500: 1.01, 1000: 1.0})), tolerance=0.1)
    assert (found.bare, found.steps) == (500, 600)


def test_without_a_hundred_the_search_begins_at_the_largest() -> None:
    assert recommend(study(*judged({10: 1.01, 20: 1.0})), tolerance=0.1).bare == 10


def test_nothing_within_is_said() -> None:
    found = recommend(study(*judged({10: 3.0, 100: 2.0})), tolerance=0.1)
    assert found.steps is None
    assert "No step count is within it; the closest is DDIM-100" in " ".join(found.reasons)


def test_too_few_samples_are_said_and_how_many_would_do() -> None:
    found = recommend(study(*judged({10: 1.0, 100: 1.0}, width=0.2)), tolerance=0.1)
    assert found.steps is None
    assert found.verdicts[0].verdict == "cannot tell"
    said = " ".join(found.reasons)
    assert "cannot tell" in said
    assert "no difference" in said
    wanted = int(said.split("about ")[1].split(" ")[0].replace(",", ""))
    assert 8_000 < wanted < 25_000  # half-width 0.39 against 0.104: 14 times the 1000 samples


def test_an_undecided_count_is_not_recommended() -> None:
    """100 is within; 50 has too wide an interval: the answer stays at 100, and says why."""
    found = recommend(study(*judged({50: 1.0}, width=0.2), *judged({100: 1.0})), tolerance=0.1)
    assert found.bare == 100
    assert "DDIM-50 is undecided" in " ".join(found.reasons)


def test_the_eighty_twenty_point() -> None:
    assert quality_kept(1.0, 1.0, 0.0, 0.01) == 1
    assert quality_kept(2.0, 1.0, 0.5, 0.1) == pytest.approx(0.6 / 1.6)
    assert quality_kept(-1.0, -2.0, 0.0, 0.1) == 1  # below the floor is at the floor
    assert quality_kept(0.0, 0.0, 0.0, 0.0) == 1
    found = recommend(study(*judged(LINE)), tolerance=0.1)
    assert found.balanced == 50
    assert "50 steps are the fewest known to keep 80%" in found.reasons[-1]
    assert recommend(study(*judged({10: 9.0})), tolerance=0.1).balanced is None


def test_the_share_kept_is_as_unsure_as_the_baseline() -> None:
    """What both have in common cancels in the difference, but not in the share."""
    base, here = quality(0.001, common=0.0004, width=0), quality(0.0012, common=0.0004, width=0)
    found = Scale(base, quality(0.0, common=0.00002, width=0)).verdict("DDIM-50", 50, here)
    assert found.interval[1] - found.interval[0] < 1e-9
    low, high = found.kept_interval
    shares = [quality_kept(b, a, 0.0, 0.00002 * 1.96) for a, b in zip(base.kernel.replicates, here.kernel.replicates, strict=True)]
    assert low == pytest.approx(np.quantile(shares, 0.025), rel=0.05)
    assert low < 0.65 < 0.85 < high


def test_a_share_that_is_not_known_to_be_kept_is_no_eighty_twenty_point() -> None:
    found = recommend(study(*judged({20: 1.0, 100: 1.0}, width=0.2)), tolerance=0.1)
    assert found.balanced is None
    assert found.verdicts[1].kept == 1
    assert found.verdicts[1].kept_interval[0] < 0.8 < found.verdicts[1].kept_interval[1]
    assert "by the figure alone 20 steps do" in found.reasons[-1]
    assert "No step count keeps" in recommend(study(*judged({10: 9.0})), tolerance=0.1).reasons[-1]


def test_of_several_samplers_the_one_with_the_fewest_steps() -> None:
    both = study(*judged(LINE), *judged({10: 1.5, 20: 1.0, 50: 1.0, 100: 1.0}, eta=1.0))
    assert (recommend(both, tolerance=0.1).eta, recommend(both, tolerance=0.1).bare) == (1.0, 20)
    assert (recommend(both, tolerance=0.1, eta=0.0).eta, recommend(both, tolerance=0.1, eta=0.0).bare) == (0.0, 50)


@given(
    st.dictionaries(st.sampled_from([5, 10, 20, 50, 100, 250, 500, 1000]), st.floats(0.5, 3.0), min_size=1),
    st.floats(0.01, 2.0),
    st.floats(0.0, 1.0),
)
def test_every_recommendation_is_within_and_covered_by_its_buffer(
    distances: dict[int, float], tolerance: float, buffer: float
) -> None:
    found = recommend(study(*judged(distances)), tolerance=tolerance, buffer=buffer)
    assert len(found.reasons) >= 2
    if found.bare is None:
        assert found.steps is None
        return
    assert found.steps == min(1000, math.ceil(found.bare * (1 + buffer) - 1e-9))
    chosen = next(v for v in found.verdicts if v.steps == found.bare)
    assert chosen.verdict == "within"
    assert chosen.interval[1] <= found.allowed
    assert chosen.excess == pytest.approx(distances[found.bare] - 1.0)


@pytest.mark.promise(39)
def test_configurations_of_another_measure_are_refused() -> None:
    other = replace(result(), quality=replace(quality(1.0), label=replace(LABEL, rounding="none")))
    with pytest.raises(ValueError, match="rounding"):
        recommend(study(other))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: recommend(study(*judged(LINE)), tolerance=0.0), ValueError, "tolerance"),
        (lambda: recommend(study(*judged(LINE)), buffer=-0.1), ValueError, "buffer"),
        (lambda: recommend(study(*judged(LINE)), tolerance=math.nan), ValueError, "tolerance"),
        (lambda: recommend(study(*judged(LINE)), sampler="Other"), ValueError, "'Other'"),
        (lambda: recommend(study(result())), ValueError, "nothing judged"),
        (lambda: recommend(study(*judged(LINE)), distance="fid"), ValueError, "'fid'"),
        (lambda: recommend(replace(study(*judged(LINE)), configurations=(BASELINE, *judged(LINE)))), DDIMKitError, "DDPM-1000"),
        (lambda: recommend(replace(study(*judged(LINE)), floor=None)), DDIMKitError, "floor"),
    ],
)
def test_what_cannot_be_answered_raises(call, error, says: str) -> None:
    with pytest.raises(error, match=says):
        call()


@pytest.mark.promise(42)
def test_where_only_fewer_steps_are_within_they_are_taken() -> None:
    assert recommend(study(*judged({5: 1.0, 10: 3.0})), tolerance=0.1).bare == 5
    found = recommend(study(*judged({20: 1.0, 50: 1.0, 100: 2.0})), tolerance=0.1)
    assert found.bare == 50
    assert "DDIM-100 is worse" in " ".join(found.reasons)


def test_of_equals_the_closer_one() -> None:
    both = study(*judged({10: 3.0, 50: 1.0}), *judged({10: 2.0, 50: 1.06}, eta=1.0))
    assert (recommend(both, tolerance=0.1).bare, recommend(both, tolerance=0.1).eta) == (50, 0.0)
    assert recommend(study(*judged({10: 3.0}), *judged({10: 2.0}, eta=1.0)), tolerance=0.1).eta == 1.0


def test_small_percentages_are_not_rounded_away() -> None:
    assert "0.5 % of its distance" in recommend(study(*judged(LINE)), tolerance=0.005).reasons[0]
    assert "buffer of 12.5 %" in recommend(study(*judged(LINE)), tolerance=0.1, buffer=0.125).reasons[1]
