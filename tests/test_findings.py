"""What is said of a study follows from its numbers, either way: findings, the answer, the fit of times, and comparisons."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimkit import DDIMKitError, DDIMSampler, DPMSolverPPSampler
from ddimkit.quality.estimate import Z95, Estimate
from ddimkit.tradeoff.answer import answer
from ddimkit.tradeoff.compare import compare
from ddimkit.tradeoff.findings import MOST, findings
from ddimkit.tradeoff.fit import fit_power, time_fit
from ddimkit.tradeoff.rows import Row
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.wording import count_of, decimal, duration, percent, plural, size, with_margin
from studies import LINE, LINEAR, ddim, ddpm, line, row, study

STEPS = (10, 20, 50)
FLAT: dict[int, float | None] = dict.fromkeys((10, 20, 50, 100, 250), 2.0)


def sde(steps: int, distance: float | None = None, **settings: Any) -> Row:
    return row(DPMSolverPPSampler(LINEAR, steps=steps, order=2, eta=1.0), distance, **settings)


def noisy(factor: float, **settings: Any) -> list[Row]:
    """DDIM with and without noise, which takes so many times as long."""
    return [*[ddim(s) for s in STEPS], *[ddim(s, eta=0.5, seconds=factor * s / 100, **settings) for s in STEPS]]


def grown(power: float) -> list[Row]:
    return [ddim(s, seconds=0.1 * (s / 10) ** power) for s in STEPS]


UNEVEN = (0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.5, 1.5, 1.5)
WIDE = {"error": 0.5, "count": 464}

# A study, what its findings must say, and what they must not.
TABLE: dict[str, tuple[Study, str, str]] = {
    "non-inferior": (
        study(*line(LINE)),
        "DDIM-50 is non-inferior to DDPM-1000 in KID at a margin of 5 % of the gap (difference 0.050 ± 0.018), with 50 NFE instead",
        "not distinguishable",
    ),
    "better than the baseline": (
        study(*line(LINE | {20: 0.5})),
        "DDIM-20 has a lower KID than DDPM-1000 (by 0.500 ±",
        "non-inferior",
    ),
    "worse than the baseline": (
        study(*line({10: 3.0, 20: 1.5})),
        "DDIM-20 has a higher KID than DDPM-1000 (by 0.500 ±",
        "lower KID",
    ),
    "too few images to tell": (
        study(*line({10: 3.0, 20: 1.1}, **WIDE), correlation=0.0),
        "DDIM-20 and DDPM-1000 are not distinguishable (n = 464 to 2,000, ±1) in KID",
        "non-inferior",
    ),
    "too few images to tell that it is better": (
        study(*line({10: 3.0, 20: 0.9}, **WIDE), correlation=0.0),
        "DDIM-20 and DDPM-1000 are not distinguishable (n = 464 to 2,000, ±1) in KID",
        "has a lower KID than DDPM",
    ),
    "DDIM alone": (
        study(*line({10: 3.0, 20: 2.0, 50: 1.01, 100: 1.0, 250: 1.0})),
        "DDIM alone needs 50 steps, 60 with 20 % more for safety: more are not known to lower its KID; that closes 100 % (95 %",
        "lowest known KID",
    ),
    "DDIM alone, and more were not tried": (
        study(*line({10: 3.0, 20: 2.0})),
        "for safety: more were not evaluated",
        "are not known",
    ),
    "DDIM gains beyond a hundred": (
        study(*line({10: 3.0, 100: 2.0, 250: 1.0})),
        "DDIM alone needs 250 steps, 300 with 20 % more for safety",
        "DDIM alone needs 100",
    ),
    "few calls, stochastic": (
        study(ddim(10, 3.0), sde(10, 2.0)),
        "the best stochastic sampler, DPM++2M-SDE-10, has a lower KID than the best deterministic sampler, DDIM-10, by 1.000 ±",
        "distinguishable",
    ),
    "few calls, deterministic": (
        study(ddim(10, 2.0), sde(10, 3.0)),
        "the best deterministic sampler, DDIM-10, has a lower KID than the best stochastic sampler, DPM++2M-SDE-10, by 1.000 ±",
        "distinguishable",
    ),
    "few calls, unresolved": (
        study(ddim(10, 3.0), sde(10, 3.0)),
        "DDIM-10, and the best stochastic sampler, DPM++2M-SDE-10, are not distinguishable (n = 2,000, ±0.02) in KID",
        "has a lower KID than the best",
    ),
    "more steps are worse": (
        study(*line({10: 3.0, 20: 1.0, 50: 2.5})),
        "More steps raise the KID in 1 of 3 pairs of step counts, most from DDIM-20 to DDIM-50 (by 1.500 ±",
        "No sampler",
    ),
    "more steps are not worse": (
        study(*line({10: 3.0, 20: 2.0, 50: 2.0})),
        "No sampler is known to get worse with more steps (3 pairs of step counts, n = 2,000).",
        "More steps raise",
    ),
    "eta lowers and raises": (
        study(*line({10: 3.0, 20: 2.0, 50: 1.0}), ddim(10, 2.0, eta=0.5), ddim(20, 3.0, eta=0.5), ddim(50, 1.0, eta=0.5)),
        "below that of eta 0 in 1 of 3 pairs, raises it in 1, and is not distinguishable (n = 2,000, ±0.02) in 1.",
        "no difference",
    ),
    "eta, all resolved": (study(ddim(10, 3.0), ddim(10, 2.0, eta=0.5)), "in 1 of 1 pair, raises it in 0.", "raises it in 0, and"),
    "the same image": (study(*line(LINE)), "A seed gives the same image with 10 as with 250 steps of DDIM.", "another"),
    "another image with few": (
        study(ddim(10, same_seed=0.6), ddim(20), ddim(50)),
        "A seed gives the same image with 20 as with 50 steps of DDIM, and another with 10.",
        "with 10 as",
    ),
    "another image": (
        study(ddim(10, same_seed=0.6), ddim(20)),
        "A seed gives another image with 10 than with 20 steps",
        "the same",
    ),
    "a gap in the same image": (
        study(ddim(10), ddim(20, same_seed=0.5), ddim(50), ddim(100)),
        "the same image with 50 as with 100 steps of DDIM, and another with 20.",
        "with 10 as",
    ),
    "time in proportion": (study(*grown(1)), "DDIM's time grows in proportion to the steps: slope 1.000 on", "slowly"),
    "time grows more slowly": (study(*grown(0.5)), "grows more slowly than the steps: slope 0.500", "proportion"),
    "time grows faster": (study(*grown(1.5)), "grows faster than the steps: slope 1.500", "proportion"),
    "noise takes time": (
        study(*noisy(1.2)),
        "takes 20.0 % more time than with eta 0 (95 % interval 20.0 to 20.0 %)",
        "distinguish",
    ),
    "noise saves time": (study(*noisy(0.8)), "takes 20.0 % less time than with eta 0", "more time"),
    "noise takes no time that can be told": (
        study(*noisy(1.01, pace=UNEVEN)),
        "The times of DDIM with eta above 0 and with eta 0 are not distinguishable (n = 3 pairs, ±",
        "more time",
    ),
    "a slow stretch hits both": (
        study(*[ddim(s, pace=UNEVEN) for s in STEPS], *[ddim(s, eta=0.5, seconds=1.05 * s / 100, pace=UNEVEN) for s in STEPS]),
        "takes 5.0 % more time than with eta 0 (95 % interval 5.0 to 5.0 %)",
        "distinguishable",
    ),
    "the baseline beside DDIM": (study(ddim(1000, seconds=8.0)), "DDPM-1000 takes 1.25 × the time of DDIM-1000", "takes 1.00"),
    "the baseline as fast": (
        study(ddim(1000)),
        "DDPM-1000 takes 1.00 × the time of DDIM-1000 (95 % interval 1.00 to 1.00)",
        "1.25",
    ),
    "a steady machine": (study(ddim(10)), "The machine was steady", "unsteady"),
    "an unsteady machine": (study(ddim(10, pace=UNEVEN)), "unsteady: the quartiles of DDIM-10's time are", "was steady"),
    "little overhead": (study(ddim(10)), "Nearly all time is the model's: its overhead is at most 0.1 % of a run", "itself"),
    "overhead above the time itself": (
        study(ddim(10, overhead=1.2023)),
        "The sampler's overhead is not resolved: DDIM-10 took no longer with the model than with one that returns a constant.",
        "120",
    ),
    "overhead as long as the time itself": (study(ddim(10, overhead=1.0)), "overhead is not resolved: DDIM-10", "100 %"),
    "overhead just below the time itself": (study(ddim(10, overhead=0.99)), "at most 99 % of a run", "not resolved"),
    "much overhead": (
        study(ddim(10, overhead=0.8)),
        "The sampler itself takes time: its overhead is at most 80 % of a run",
        "Nearly",
    ),
    "a contradiction": (
        study(*line(LINE, source="a study; contradicted by 300 images of this run (9)")),
        "This run's images contradict the KID of the earlier study for DDIM-10 and 4 more (|z| > 3).",
        "no difference",
    ),
    "no contradiction": (study(*line(LINE)), "DDIM-50", "contradict"),
}


@pytest.mark.promise(41)
@pytest.mark.parametrize(("made", "said", "unsaid"), TABLE.values(), ids=TABLE)
def test_findings_follow_the_numbers(made: Study, said: str, unsaid: str) -> None:
    text = "\n".join(findings(made))
    assert said in text
    assert unsaid not in text


@pytest.mark.promise(41)
@given(
    st.dictionaries(st.sampled_from([5, 10, 20, 50, 100, 250, 500]), st.none() | st.floats(0.1, 9.0), max_size=5),
    st.dictionaries(st.sampled_from([5, 10, 20, 50]), st.none() | st.floats(0.1, 9.0), max_size=3),
    st.none() | st.floats(0.1, 9.0),
    st.floats(0.001, 3.0),
    st.booleans(),
)
def test_there_are_at_most_ten_findings_of_one_sentence(
    plain: dict[int, float | None], eta: dict[int, float | None], base: float | None, error: float, timed: bool
) -> None:
    rows = [*line(plain, error=error, timed=timed), *line(eta, eta=0.5, error=error, timed=timed)]
    found = findings(study(*rows, baseline=ddpm(base, timed=timed)))
    assert len(found) <= MOST
    for sentence in found:
        assert sentence.endswith(".")
        assert not re.search(r"[.!?] [A-Z]", sentence)
        assert "no difference" not in sentence
        assert "nan" not in sentence


@pytest.mark.promise(42)
@given(st.lists(st.floats(0.5, 5.0), min_size=5, max_size=5), st.floats(0.001, 0.5), st.floats(0.0, 0.95))
def test_where_more_steps_are_worse_is_counted_from_the_rows(distances: list[float], error: float, correlation: float) -> None:
    """An oracle without simultaneous intervals: it may count more pairs, and none that is not known by itself is counted."""
    made = study(*line(dict(zip((5, 10, 20, 50, 100), distances, strict=True)), error=error), correlation=correlation)
    alone = Z95 * error * np.sqrt(2 * (1 - correlation))
    clear = sum(b - a > alone for i, a in enumerate(distances) for b in distances[i + 1 :])
    sure = sum(b - a > 2 * alone for i, a in enumerate(distances) for b in distances[i + 1 :])
    said = next(s for s in findings(made) if "more steps" in s.lower() and "pairs" in s)
    counted = re.match(r"More steps raise the KID in (\d+) of 10 pairs", said)
    assert sure <= (int(counted[1]) if counted else 0) <= clear


def test_what_was_not_measured_is_not_spoken_of() -> None:
    assert findings(study(baseline=ddpm(timed=False))) == []
    assert not any("KID" in sentence for sentence in findings(study(*noisy(1.0), baseline=ddpm())))
    untimed = "\n".join(findings(study(*line(LINE, timed=False), baseline=ddpm(1.0, timed=False))))
    assert "KID" in untimed
    assert "time" not in untimed


def test_the_answer_says_what_to_use_how_long_it_takes_and_how_good_it_is() -> None:
    use, quality = answer(study(*line(LINE)))
    assert use == ("Use DDIM with 60 calls: about 600 ms for 16 images, 16.7 × as fast as DDPM-1000 (95 % interval 16.7 to 16.7).")
    assert quality.startswith("The KID of DDIM-50 is 1.050 ± 0.039 (2,000 images; other real images 0). It closes 98 % (95 %")
    assert quality.endswith("of the gap from DDIM-10 to DDPM-1000, known to be at least 95 %.")
    unknown = answer(study(*line({10: 3.0, 20: 1.5})))[1]
    assert unknown.endswith("of the gap from DDIM-10 to DDPM-1000, not known to be 95 %.")
    assert "would tell" in answer(study(*line({10: 3.0, 20: 1.05}, error=0.1), correlation=0.0))[1]
    assert "no gap between DDIM-10 and DDPM-1000 is known" in answer(study(*line(FLAT), baseline=ddpm(2.0)))[1]


def test_without_quality_the_answer_rests_on_times() -> None:
    for made in (study(*line(dict.fromkeys(STEPS)), baseline=ddpm()), study(*line(LINE), baseline=ddpm())):
        use, wanted = answer(made)
        assert use == "The fastest is DDIM-10: 100 ms for 16 images, 100 × as fast as DDPM-1000 (95 % interval 100 to 100)."
        assert "--evaluator" in wanted
    assert answer(study())[0] == "Nothing but the baseline was measured."


def test_without_times_the_answer_rests_on_quality() -> None:
    assert answer(study(*line(LINE, timed=False)))[0] == "Use DDIM with 60 calls."


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (decimal(0.00062), "0.00062"),
        (decimal(1234.5), "1200"),
        (decimal(-0.5), "-0.5"),
        (duration(0.0214), "21 ms"),
        (duration(1.34), "1.3 s"),
        (duration(240), "4 min"),
        (duration(6120), "1.7 h"),
        (plural(1, "pair"), "1 pair"),
        (plural(2345, "pair"), "2,345 pairs"),
        (with_margin(Estimate(-0.5, -0.75, -0.25)), "-0.50 ± 0.25"),
        (size(Estimate(-0.5, -0.75, -0.25)), "0.50 ± 0.25"),
        (percent(Estimate(1.053, 0.95, 1.16)), "105 % (95 % interval 95 to 116 %)"),
        (count_of([ddim(10, 1.0), ddim(20, 1.0, count=10_000), ddim(50)]), "2,000 to 10,000"),
    ],
)
def test_numbers_as_text(made: str, text: str) -> None:
    assert made == text


@given(
    slope=st.floats(-3, 3),
    scale=st.floats(1e-3, 1e3),
    steps=st.lists(st.integers(1, 1000), min_size=3, max_size=8, unique=True),
)
def test_a_power_law_is_found(slope: float, scale: float, steps: list[int]) -> None:
    fit = fit_power(steps, [scale * s**slope for s in steps])
    assert fit is not None
    assert fit.slope == pytest.approx(slope, abs=1e-6)
    for s in steps:
        assert fit(s) == pytest.approx(scale * s**slope, rel=1e-6)
    assert abs(slope) < 1e-3 or fit.r_squared == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("steps", [(10,), (10, 20), (10, 10, 20)])
def test_too_few_step_counts_are_not_fitted(steps: tuple[int, ...]) -> None:
    assert fit_power(steps, [1.0] * len(steps)) is None


def test_scattered_times_have_a_low_r_squared() -> None:
    fit = fit_power((1, 2, 4, 8), (1, 5, 0.5, 3))
    assert fit is not None
    assert fit.r_squared < 0.2


def test_only_timed_rows_of_plain_ddim_are_fitted() -> None:
    others = [ddim(5, eta=0.5, seconds=99.0), sde(6, seconds=99.0), ddim(250, timed=False)]
    found = time_fit(study(*grown(1), *others))
    assert found is not None
    assert found.slope == pytest.approx(1)
    assert time_fit(study(ddim(10), ddim(20), *others)) is None


def slower(factor: float, gain: float = 1.0, **settings: Any) -> list[Row]:
    return [ddim(s, seconds=factor * s / 100 / gain, **settings) for s in STEPS]


def test_speed_ups_that_are_maintained() -> None:
    found = compare(study(*slower(1)), study(*slower(3, 1.05), baseline=ddpm(seconds=30.0)))
    assert found.maintained
    assert found.finding == "Speed-ups are maintained: over 3 samplers the largest change is +5.0 % (DDIM-10)."
    assert [pair.label for pair in found.pairs] == ["DDPM-1000", "DDIM-10", "DDIM-20", "DDIM-50"]
    assert [gain.value for gain in found.pairs[1].gains] == pytest.approx([100, 105])


def test_speed_ups_that_are_not_maintained() -> None:
    found = compare(study(*slower(1)), study(*slower(1)[:2], ddim(50, seconds=1.0)))
    assert found.maintained is False
    assert found.finding == "Speed-ups are not maintained for 1 of 3 samplers: DDIM-50 20× against 10×."


def test_speed_ups_whose_intervals_overlap_cannot_be_told() -> None:
    found = compare(study(*slower(1, pace=UNEVEN)), study(*slower(1, 1.2, pace=UNEVEN)))
    assert found.maintained is None
    assert found.finding.startswith("Whether speed-ups are maintained is not resolved")


def test_only_what_both_timed_is_compared() -> None:
    first, second = study(*slower(1), ddim(10, eta=0.5)), study(ddim(20), ddim(20, eta=0.5), ddim(50, timed=False))
    assert [pair.label for pair in compare(first, second).pairs] == ["DDPM-1000", "DDIM-20"]
    for other in (study(ddim(250)), study(*line(dict.fromkeys(STEPS), timed=False)), study(*slower(1), baseline=ddpm(timed=False))):
        with pytest.raises(DDIMKitError, match="timed no sampler in common: sweep the same steps"):
            compare(first, other)


def test_a_sampler_is_known_by_its_settings_not_by_its_label() -> None:
    renamed = replace(ddim(10), label="mine")
    assert [pair.label for pair in compare(study(renamed), study(ddim(10))).pairs] == ["DDPM-1000", "mine"]
    other = row(DDIMSampler(LINEAR, steps=10, spacing="leading"), label="mine")
    with pytest.raises(DDIMKitError, match="no sampler in common"):
        compare(study(renamed), study(other))


def test_differences_are_named() -> None:
    first = study(*slower(1))
    other = replace(first, machine={**first.machine, "cores": 64, "gpu": "a GPU"}, model={**first.model, "weights_sha256": "0"})
    assert compare(first, other).differences == (
        "model weights_sha256: None against 0",
        "machine cores: 2 against 64",
        "machine gpu: None against a GPU",
    )
    assert compare(first, first).differences == ()
