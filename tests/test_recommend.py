"""Recommendations: the fewest calls known to close a share of the gap, and always an answer."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimkit import DDIMKitError, DDIMSampler, DDPMSampler, DPMSolverPPSampler, UniPCSampler, load_pretrained, preset, recommend
from ddimkit.quality.estimate import Z95
from ddimkit.tradeoff.gap import Gap, simultaneous
from ddimkit.tradeoff.presets import PRESETS, presets, presets_of
from ddimkit.tradeoff.recommend import candidates, nearest_known, plain_ddim
from ddimkit.tradeoff.study import Study
from studies import LINEAR, ddim, ddpm, line, row, study, toy

SHARP = {"error": 0.001}


def made(distances: dict[int, float], *more: Any, **settings: Any) -> Study:
    """A gap of 2 from 3 at DDIM-10 to 1 at DDPM-1000, sharply known."""
    rows = line({10: 3.0, **distances}, **{**SHARP, **settings})
    return study(*rows, *more, baseline=ddpm(1.0, **{**SHARP, **settings}))


@given(distance=st.floats(0.5, 3.5), share=st.floats(0.05, 1.0), error=st.floats(0.001, 0.3), correlation=st.floats(0.0, 0.95))
def test_known_to_close_a_share_is_what_the_interval_says(distance: float, share: float, error: float, correlation: float) -> None:
    """An independent transcription: the variance of (1−q)·D10 + q·D0 − D from the covariance matrix."""
    of = study(*line({10: 3.0, 20: distance}, error=error), baseline=ddpm(1.0, error=error), correlation=correlation)
    (found,) = Gap(of).closings([of.row("DDIM-20")], share)
    weights = np.array([share, 1 - share, -1.0])
    matrix = error**2 * (np.full((3, 3), correlation) + (1 - correlation) * np.eye(3))
    value, reach = (1 - share) * 3 + share - distance, Z95 * math.sqrt(float(weights @ matrix @ weights))
    assert found.lead.value == pytest.approx(value, abs=1e-9)
    assert found.lead.interval == pytest.approx((value - reach, value + reach), abs=1e-9)
    if abs(value - reach) > 1e-9:
        assert found.known is (value - reach > 0)


@given(distance=st.floats(0.2, 2.8), error=st.floats(0.001, 0.2))
def test_the_share_closed_is_that_of_the_gap_and_its_interval_inverts_the_test(distance: float, error: float) -> None:
    of = study(*line({10: 3.0, 20: distance}, error=error), baseline=ddpm(1.0, error=error), correlation=0.5)
    gap = Gap(of)
    closed = gap.closed(of.row("DDIM-20"))
    assert closed is not None
    assert closed.value == pytest.approx((3 - distance) / 2)
    for end in closed.interval:
        if 0 < end < 1:
            lead = of.contrast({"DDIM-10": 1 - end, "DDPM-1000": end, "DDIM-20": -1.0})
            assert min(abs(lead.low), abs(lead.high)) < 1e-6
    assert gap.closed(of.base).interval == (1.0, 1.0)
    assert gap.closed(of.row("DDIM-10")).interval == (0.0, 0.0)


def test_no_share_is_printed_where_no_gap_is_known() -> None:
    of = study(*line({10: 1.05, 20: 1.04}, error=0.1), baseline=ddpm(1.0, error=0.1), correlation=0.0)
    assert not Gap(of).is_known
    assert Gap(of).closed(of.row("DDIM-20")) is None
    assert "%" not in recommend(of).reasons[1]


def test_the_fewest_calls_known_are_taken() -> None:
    of = made({20: 1.5, 50: 1.05, 100: 1.02})
    assert recommend(of, close=0.5, buffer=0.0).calls == 20
    assert recommend(of, close=0.8, buffer=0.0).calls == 50
    assert recommend(of, close=0.97, buffer=0.0).calls == 50
    assert recommend(of, close=0.98, buffer=0.0).calls == 100
    found = recommend(of, close=0.97)
    assert (found.calls, found.sampler.nfe, found.row.calls, found.known) == (60, 60, 50, True)
    assert found.closed.value == pytest.approx(0.975)
    assert "60 instead of 50" in found.reasons[-1]


def test_the_buffer_does_not_leave_the_schedule() -> None:
    of = study(*line({10: 3.0, 900: 1.0}, **SHARP), baseline=ddpm(1.0, **SHARP))
    assert recommend(of).calls == 1000


@given(share=st.floats(0.01, 1.0), refinable=st.booleans(), error=st.floats(0.001, 3.0), seed=st.integers(0, 99))
def test_there_is_always_an_answer(share: float, refinable: bool, error: float, seed: int) -> None:
    distances = np.random.default_rng(seed).uniform(0.5, 3.5, 4)
    of = study(*line(dict(zip((10, 20, 50, 100), distances, strict=True)), error=error), baseline=ddpm(1.0, error=error))
    found = recommend(of, close=share, refinable=refinable)
    assert found.calls == found.sampler.nfe
    assert found.answer
    assert found.known or any("known" in reason for reason in found.reasons)


def test_where_nothing_is_known_the_nearest_is_named_with_how_many_images_would_tell() -> None:
    of = study(*line({10: 3.0, 20: 1.0, 50: 1.04}, error=0.2, count=500), baseline=ddpm(1.0, error=0.2), correlation=0.0)
    found = recommend(of, close=0.95)
    assert not found.known
    assert found.row.label == "DDIM-20"
    assert found.images_needed > 500
    halved = study(*line({10: 3.0, 20: 1.0, 50: 1.04}, error=0.1, count=2000), baseline=ddpm(1.0, error=0.1), correlation=0.0)
    assert recommend(halved, close=0.95).images_needed == pytest.approx(found.images_needed, rel=0.01)
    short = recommend(made({20: 2.0}), close=0.95)
    assert (short.known, short.images_needed) == (False, None)
    assert "the figure itself falls short" in short.reasons[-1]


def test_of_each_number_of_calls_the_row_that_other_seeds_chose_is_looked_at() -> None:
    """The best by the seeds that measured it would flatter itself."""
    lucky = row(DPMSolverPPSampler(LINEAR, steps=20, order=2), 1.0, selected=1.4, **SHARP)
    chosen = row(UniPCSampler(LINEAR, steps=20, order=2), 1.1, selected=1.2, **SHARP)
    of = made({50: 1.01}, lucky, chosen)
    assert [r.label for r in candidates(of, refinable=False)] == ["DDIM-10", "UniPC2-20", "DDIM-50"]
    by_its_own_seeds = replace(chosen, selection=chosen.quality)
    again = made({50: 1.01}, lucky, by_its_own_seeds)
    assert [r.label for r in candidates(again, refinable=False)] == ["DDIM-10", "DPM++2M-20", "DDIM-50"]


def test_rows_that_draw_another_image_are_left_out_where_refining_matters() -> None:
    noisy = row(DPMSolverPPSampler(LINEAR, steps=20, order=2, eta=1.0), 1.0, **SHARP)
    other = row(UniPCSampler(LINEAR, steps=20, order=2), 1.0, same_seed=0.5, **SHARP)
    unknown = row(UniPCSampler(LINEAR, steps=20, order=3), 1.0, same_seed=None, **SHARP)
    of = made({50: 1.2}, noisy, other, unknown)
    assert [r.label for r in candidates(of, refinable=True)] == ["DDIM-10", "DDIM-50"]
    assert len(candidates(of, refinable=False)) == 5
    assert candidates(of, refinable=False, sampler="UniPC3") == [unknown]


def test_a_list_has_no_calls_to_add_and_the_next_longer_one_is_taken_if_it_is_not_known_to_be_worse() -> None:
    def listed(times: list[int], distance: float) -> Any:
        return row(DDIMSampler(LINEAR, timesteps=times), distance, label=f"list-{len(times)}", **SHARP)

    short, long = listed([999, 600, 300], 1.0), listed([999, 800, 600, 300], 1.0)
    assert recommend(made({}, short, long)).calls == 4
    assert recommend(made({}, short, listed([999, 800, 600, 300], 1.5))).calls == 3
    assert "no further calls" in recommend(made({}, short)).reasons[-1]
    assert recommend(made({}, short, long), buffer=0.0).calls == 3


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_intervals_of_many_are_simultaneous(correlation: float) -> None:
    """Over 2,000 studies whose true distances are known, any of 8 intervals misses in 5 %; single ones would in up to 34 %."""
    counts, numbers = (20, 30, 40, 50, 60, 70, 80, 90), np.random.default_rng(0)
    matrix = np.full((8, 8), correlation) + (1 - correlation) * np.eye(8)
    of = study(*line(dict.fromkeys(counts, 0.0), error=1.0), baseline=ddpm(0.0, error=1.0), correlation=correlation)
    reach = [e.high for e in simultaneous(of, [{f"DDIM-{n}": 1.0} for n in counts])]
    draws = numbers.multivariate_normal(np.zeros(8), matrix, 20_000)
    missed = float((np.abs(draws) > np.array(reach)).any(axis=1).mean())
    assert missed == pytest.approx(0.05, abs=0.008)
    assert simultaneous(of, [{"DDIM-20": 1.0}])[0].high == pytest.approx(Z95)


def test_the_nearest_known_is_that_of_the_lowest_upper_end() -> None:
    sure, unsure = ddim(20, 1.1, error=0.01), ddim(50, 1.0, error=0.5)
    of = study(ddim(10, 3.0, **SHARP), sure, unsure, baseline=ddpm(1.0, **SHARP))
    assert nearest_known(of, of.rows).label == "DDPM-1000"
    assert nearest_known(of, of.rows[1:]).label == "DDIM-20"


def test_plain_ddim_needs_the_steps_below_which_it_is_known_to_be_worse() -> None:
    of = made({20: 1.5, 50: 1.2, 100: 1.2, 250: 1.2})
    found, steps = plain_ddim(of)
    assert (found.calls, steps) == (50, 60)
    assert plain_ddim(made({20: 1.5, 50: 1.4, 100: 1.3, 250: 1.1, 500: 1.1}))[0].calls == 250
    assert plain_ddim(made({20: 1.1, 50: 1.4, 100: 1.3}))[0].calls == 20
    flat = made({20: 3.0, 50: 3.0, 100: 3.0})
    assert plain_ddim(flat)[0].calls == 10
    assert plain_ddim(study(*line({10: 3.0}))) is None


def test_the_zero_of_the_scale_is_ddim_with_10_steps_or_what_comes_next() -> None:
    assert Gap(made({20: 2.0})).zero.label == "DDIM-10"
    assert Gap(study(ddim(20, 2.0), ddim(15, 2.5))).zero.label == "DDIM-15"
    assert Gap(study(ddim(20, 2.0, eta=1.0))).zero.label == "DDIM-20 eta 1"


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: recommend(made({20: 2.0}), close=0.0), ValueError, r"close must lie in \(0, 1\]"),
        (lambda: recommend(made({20: 2.0}), close=1.1), ValueError, r"close must lie in \(0, 1\]"),
        (lambda: recommend(made({20: 2.0}), buffer=-0.1), ValueError, "buffer be at least 0"),
        (lambda: recommend(study(ddim(10))), DDIMKitError, "only|alone"),
        (lambda: recommend(study(ddim(10, 1.0), baseline=ddpm())), DDIMKitError, "baseline DDPM-1000 was not measured"),
        (lambda: recommend(made({20: 2.0}), sampler="Heun"), DDIMKitError, "'Heun'"),
        (lambda: preset("huge", model=toy()), ValueError, "the presets are realtime"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_presets_close_their_shares() -> None:
    of = made({20: 1.9, 50: 1.3, 100: 1.04, 250: 1.0})
    found = presets_of(of)
    assert list(found) == list(PRESETS)
    assert [choice.calls for choice in found.values()] == [20, 50, 120, 250]
    assert [choice.known for choice in found.values()] == [True] * 4


def test_the_baseline_is_researchs_where_nothing_is_nearer_and_the_image_may_change() -> None:
    of = study(*line({10: 3.0, 20: 2.0}, **SHARP), baseline=ddpm(1.0, **SHARP))
    assert presets_of(of, refinable=False)["research"].sampler == of.base.sampler
    assert presets_of(of, refinable=True)["research"].calls == 20


def test_a_model_without_a_study_gets_plain_ddim_and_is_told() -> None:
    found = presets(toy())
    assert {name: choice.calls for name, choice in found.items()} == dict.fromkeys(PRESETS, 20)  # the toy has 20 timesteps
    assert all("No study of this model" in choice.reasons[0] for choice in found.values())
    assert isinstance(preset("fast", model=toy()), DDIMSampler)


@pytest.mark.parametrize("refinable", [True, False])
def test_the_bundled_models_presets_rest_on_its_study(refinable: bool) -> None:
    mnist = load_pretrained("mnist")
    found = presets(mnist, refinable=refinable)
    assert found["realtime"].calls < 10
    for name, other in (("fast", "realtime"), ("balanced", "interactive"), ("quality", "production")):
        assert preset(name, model=mnist, refinable=refinable) == found[other].sampler  # type: ignore[arg-type]
    for choice in found.values():
        assert choice.row is not None
        assert choice.row.refinable or not refinable
        assert (choice.sampler.prediction, choice.sampler.clip) == (mnist.prediction, mnist.clip)
    assert not isinstance(found["realtime"].sampler, DDPMSampler)
