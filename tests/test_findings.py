"""What is said of a curve follows from its numbers, either way; and curves are kept, read and compared."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curves import BASELINE, LABEL, curve, quality, result
from ddimkit import DDIMKitError, TradeoffCurve
from ddimkit.quality import Estimate, Quality
from ddimkit.tradeoff.compare import compare
from ddimkit.tradeoff.eta_cost import median_interval
from ddimkit.tradeoff.findings import findings, fit_power, main_line
from ddimkit.tradeoff.results import ConfigurationResult, Spread

GOLDEN = Path(__file__).parent / "golden" / "curve_v1.json"
GOLDEN_ROUNDS = Path(__file__).parent / "golden" / "curve_v1_rounds.json"
GOLDEN_QUALITY = Path(__file__).parent / "golden" / "curve_v2.json"
STEPS = (10, 20, 50)


def line(**settings: Any) -> list[ConfigurationResult]:
    return [result(steps=s, **settings) for s in STEPS]


def grown(power: float) -> list[ConfigurationResult]:
    return [result(steps=s, seconds=0.1 * (s / 10) ** power) for s in STEPS]


def etas(ratio: float, **settings: Any) -> list[ConfigurationResult]:
    return line() + [result(steps=s, eta=0.5, seconds=ratio * s / 100, **settings) for s in STEPS]


def with_rounds() -> TradeoffCurve:
    """What the second golden file holds."""
    base = result("DDPMSampler", 20, 1.0, baseline=True, rounds=[1.0])
    return curve(*[result(steps=s, eta=e, rounds=(1.0, 1.25, 0.5)) for e in (0.0, 0.5) for s in (4, 2)], baseline=base)


DRIFT = (1.0, 3.0, 0.5)


def paired(*ratios: float, drift: Sequence[float] = DRIFT, gain: float = 1.0) -> list[ConfigurationResult]:
    """A machine that changes its pace every round; noise takes these ratios of the time in turn, over steps and then rounds.

    ``gain`` is the ratio of speed-ups, which must not count.
    """
    plain = line(rounds=drift)
    turn = itertools.cycle(ratios)
    noisy = [result(steps=s, eta=0.5, speedup=1000 / s / gain, rounds=[next(turn) * d for d in drift]) for s in STEPS]
    return plain + noisy


# A curve, what its findings must say, and what they must not.
TABLE: dict[str, tuple[TradeoffCurve, str, str]] = {
    "time in proportion to steps": (curve(*grown(1)), "DDIM's time grows in proportion to the number of steps", "slowly"),
    "a slope is stated": (curve(*grown(1)), "is 1.000 (R² 1.0000)", "faster"),
    "time grows more slowly": (curve(*grown(0.5)), "time grows more slowly than the number of steps", "proportion"),
    "time hardly grows": (curve(*grown(0.01)), "the fitted slope on log-log axes is 0.010", "proportion"),
    "time grows faster": (curve(*grown(1.5)), "time grows faster than the number of steps", "proportion"),
    "speed-ups of the calls": (curve(*line()), "Speed-up of DDIM over DDPM-1000: 20.0× at 50, 50.0× at 20, 100.0× at 10", "alone"),
    "speed-ups as expected": (curve(*line()), "Each is within 10% of the ratio of their model calls", "Not explained"),
    "speed-ups off": (
        curve(result(steps=10, speedup=40.0), *line()[1:]),
        "Not explained by the model calls alone (10% tolerance): 10 steps: 40.0× where the calls alone give 100.0×.",
        "Each is within",
    ),
    "no speed-up": (curve(*line(speedup=1.0)), "50 steps: 1.0× where the calls alone give 20.0×", "Each is within"),
    "little overhead": (curve(*line()), "Nearly all time is the model's: its overhead is at most 0.10% of a run", "itself"),
    "overhead dominates": (
        curve(result(steps=20, overhead=0.8)),
        "The sampler itself takes a share of the time: its overhead is at most 80.00% of a run (DDIM-20)",
        "Nearly all",
    ),
    "noise is free": (
        curve(*paired(1.2, 0.9, 1.01, 0.8, 1.1, 0.99, 1.3, 0.7, 1.0)),
        "costs no time that these runs can tell from chance: of 9 pairs of runs in one round it took longer in 4, "
        "and the median ratio to eta 0 is 1.000 (95% interval 0.800 to 1.200).",
        "hardly",
    ),
    "noise is free, whatever the speed-ups": (curve(*paired(1.0, gain=1.5)), "costs no time that these runs", "hardly"),
    "noise is dear": (
        curve(*paired(1.5, 1.4, 1.6)),
        "Noise (eta above 0) costs time: of 9 pairs of runs in one round it took longer in 9, "
        "and the median ratio to eta 0 is 1.500 (95% interval 1.400 to 1.600).",
        "chance",
    ),
    "noise is dear, whatever the speed-ups": (curve(*paired(1.2, gain=0.8)), "Noise (eta above 0) costs time:", "chance"),
    "noise is dear in too few pairs": (curve(*paired(1.5, 1.5, 0.9)), "costs no time that these runs can tell", "costs time"),
    "noise is dear in most of few pairs": (
        curve(*paired(*[1.5] * 7, 0.9, 0.8)),
        "tell from chance: of 9 pairs of runs in one round it took longer in 7, "
        "and the median ratio to eta 0 is 1.500 (95% interval 0.900 to 1.500).",
        "costs time",
    ),
    # 20 of 27, which the interval takes for enough: 7 are below its lower end.
    "noise is dear without a clear majority": (
        curve(*paired(*[1.5] * 20, *[0.9] * 7, drift=[1.0] * 9)),
        "seems to cost time, though not in a clear majority of the pairs: of 27 pairs of runs in one round it took longer in 20, "
        "and the median ratio to eta 0 is 1.500 (95% interval 1.500 to 1.500).",
        "costs time",
    ),
    "noise is dear in a clear majority": (
        curve(*paired(*[1.5] * 21, *[0.9] * 6, drift=[1.0] * 9)),
        "costs time: of 27 pairs of runs in one round it took longer in 21",
        "chance",
    ),
    "noise costs little": (curve(*paired(1.03)), "costs hardly any time: of 9 pairs", "chance"),
    "noise saves time": (
        curve(*paired(0.5)),
        "tell from chance: of 9 pairs of runs in one round it took longer in 0",
        "costs time",
    ),
    "noise in one round": (
        curve(*paired(1.5, drift=[1.0])),
        "Whether noise (eta above 0) costs time cannot be told from 3 pairs of runs: take more rounds.",
        "median",
    ),
    "noise in results without rounds": (
        curve(*etas(1.5)),
        "costs time cannot be told from results that keep no seconds of each round.",
        "median",
    ),
    "noise without a run to compare with": (
        curve(*paired(1.0), result("OtherSampler", 10, 0.5, rounds=(99, 99)), result(steps=5, eta=0.5, rounds=(99, 99))),
        "of 9 pairs of runs",
        "99",
    ),
    "memory is flat": (curve(*line()), "peak memory does not depend on the configuration: 1.0 MiB", "differs"),
    "memory grows": (
        curve(*[result(steps=s, memory=s * 2**20) for s in STEPS]),
        "Peak memory differs between configurations: 1.0 to 50.0 MiB beyond the weights, most for DDIM-50",
        "does not depend",
    ),
    "memory unknown": (
        curve(*line(memory=None), baseline=replace(BASELINE, peak_memory_bytes=None, peak_memory_note="no profiler here")),
        "Peak memory could not be measured: no profiler here",
        "MiB",
    ),
    "a steady machine": (curve(*line()), "The machine was steady", "not steady"),
    "an unsteady machine": (
        curve(*line(), result(steps=5, spread=0.3)),
        "not steady: times spread over more than 25% for DDIM-5.",
        "was steady",
    ),
    "a stall in a run": (
        curve(
            *line(), replace(result(steps=5), total_seconds=1.0, total_seconds_spread=Spread(0.05, 0.051, 10, "tenths of one run"))
        ),
        "not steady: times spread over more than 25% for DDIM-5.",
        "was steady",
    ),
    "one run tells nothing of steadiness": (curve(result(runs=1, spread=0.3)), "The machine was steady", "not steady"),
}


@pytest.mark.parametrize(("made", "said", "unsaid"), TABLE.values(), ids=TABLE)
def test_findings_follow_the_numbers(made: TradeoffCurve, said: str, unsaid: str) -> None:
    text = "\n".join(findings(made))
    assert said in text
    assert unsaid not in text


def test_refining_is_said_to_draw_the_same_image_or_another() -> None:
    made = [replace(result(steps=steps), same_seed_distance=apart) for steps, apart in ((50, 0.02), (10, 0.3), (5, None))]
    finest = result(steps=1000)
    said = findings(curve(finest, *made, finest="DDIM-1000", other_seeds_distance=0.4))
    wanted = (
        "Refining: with 1000 steps a seed draws the same image as with 50 and another than with 10. Distance to the image of the "
        "same seed, as a share of the distance between different seeds: 0.75 at 10, 0.05 at 50."
    )
    assert wanted in said
    made = [replace(c, quality=quality(2.0 if c.steps == 50 else 9.0)) for c in made]
    for distance, word in ((1.0, "better than"), (3.0, "worse than"), (2.0, "no different from")):
        better = replace(finest, quality=quality(distance))
        text = "\n".join(findings(curve(better, *made, finest="DDIM-1000", other_seeds_distance=0.4)))
        assert f"By kernel distance the images of 1000 steps are {word} those of 50: the difference is {2 - distance:.2g} (" in text
    noisy = replace(result(steps=50, eta=1.0), same_seed_distance=0.3)
    for unsaid in (curve(finest, noisy, finest="DDIM-1000", other_seeds_distance=0.4), curve(finest, *made, finest="DDIM-1000")):
        assert not any(s.startswith("Refining") for s in findings(unsaid))


def test_what_was_not_measured_is_not_spoken_of() -> None:
    text = "\n".join(findings(curve(result(steps=10), result(steps=20))))
    assert "log-log" not in text
    assert "eta" not in text
    assert len(findings(curve())) == 3  # a baseline alone: overhead, memory, steadiness


def test_the_main_line_is_the_first_samplers_at_its_smallest_eta() -> None:
    other = [result("OtherSampler", s, None) for s in STEPS]
    noisy = [result(steps=s, eta=e) for s in STEPS for e in (1.0, 0.2)]
    assert [(c.sampler, c.steps, c.eta) for c in main_line(curve(*noisy, *other))] == [
        ("DDIMSampler", s, 0.2) for s in (50, 20, 10)
    ]
    assert [(c.sampler, c.steps) for c in main_line(curve(*other, *noisy))] == [("OtherSampler", s) for s in (50, 20, 10)]
    assert main_line(curve()) == []


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


@pytest.mark.parametrize(("count", "place"), [(0, 0), (5, 0), (6, 1), (8, 1), (9, 2), (25, 8), (27, 8), (100, 40)])
def test_the_interval_of_a_median_is_that_of_the_tables(count: int, place: int) -> None:
    values = [float(v) for v in range(count, 0, -1)]
    assert median_interval(values) == ((place, count + 1 - place) if place else None)


@given(count=st.integers(0, 200), confidence=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_is_the_narrowest_that_keeps_its_confidence(count: int, confidence: float) -> None:
    found = median_interval(range(1, count + 1), confidence)
    place = int(found[0]) if found else 0
    # It misses the median where fewer than `place` of the fair throws fall on one side.
    missed = [2 * sum(math.comb(count, i) for i in range(k)) / 2**count for k in (place, place + 1)]
    assert missed[0] <= 1 - confidence
    assert missed[1] > 1 - confidence or place == count


@pytest.mark.parametrize("steps", [(), (10,), (10, 20), (10, 10, 20)])
def test_too_few_step_counts_are_not_fitted(steps: tuple[int, ...]) -> None:
    assert fit_power(steps, [1.0] * len(steps)) is None


def test_times_that_do_not_change_have_no_slope() -> None:
    fit = fit_power(STEPS, [0.5] * 3)
    assert fit is not None
    assert fit.slope == pytest.approx(0, abs=1e-12)
    assert fit(77) == pytest.approx(0.5)


def test_scattered_times_have_a_low_r_squared() -> None:
    fit = fit_power((1, 2, 4, 8), (1, 5, 0.5, 3))
    assert fit is not None
    assert fit.r_squared < 0.2


def slower(factor: float, gain: float = 1.0, **settings: Any) -> list[ConfigurationResult]:
    return [result(steps=s, seconds=factor * s / 100, speedup=gain * 1000 / s, **settings) for s in STEPS]


def test_speed_ups_that_are_maintained() -> None:
    found = compare(curve(*line()), curve(*slower(3, 1.05), baseline=replace(BASELINE, total_seconds=30.0)))
    assert found.maintained
    assert found.finding == ("Relative speed-ups are maintained: over 3 configurations the largest change is +5.0% (DDIM-10).")
    assert found.rows()[0][:4] == ("DDPM-1000", "10", "30", "0.333×")
    assert found.rows()[1] == ("DDIM-10", "0.1", "0.3", "0.333×", "100×", "105×", "1.050")


def test_speed_ups_that_are_not_maintained() -> None:
    moved = [*slower(3)[:2], result(steps=50, speedup=10.0)]
    found = compare(curve(*line()), curve(*moved))
    assert not found.maintained
    assert found.finding == "Relative speed-ups are not maintained for 1 of 3 configurations: DDIM-50 20× against 10×."


def test_speed_ups_within_their_quartiles_cannot_be_told() -> None:
    found = compare(curve(*line(spread=0.3)), curve(*slower(1, 1.5, spread=0.3)))
    assert found.maintained is None
    assert found.finding.startswith("Whether relative speed-ups are maintained cannot be told")
    assert compare(curve(*line(spread=0.1)), curve(*slower(1, 1.5, spread=0.1))).maintained is False


def test_only_what_both_have_is_compared() -> None:
    found = compare(curve(*line(), result(eta=0.5)), curve(result(steps=20), result(steps=20, eta=0.5)))
    assert [(a.label, b.label) for a, b in found.pairs] == [("DDPM-1000", "DDPM-1000"), ("DDIM-20", "DDIM-20")]


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(DDIMKitError, match="no configuration in common: sweep the same steps"):
        compare(curve(result(steps=10)), curve(result(steps=20), result(steps=10, eta=1.0)))


def test_differences_are_named() -> None:
    first = curve(*line())
    other = replace(first, machine={**first.machine, "cores": 64, "gpu": "a GPU"}, model={**first.model, "schedule_sha256": "0"})
    differences = compare(first, other).differences
    assert differences[0].startswith("model schedule_sha256:")
    assert differences[1:] == ("machine cores: 2 against 64", "machine gpu: None against a GPU")
    assert compare(first, first).differences == ()


def test_results_round_trip(tmp_path: Path) -> None:
    path, made = tmp_path / "results.json", curve(*paired(1.1), result("MySampler", 7, None, memory=None))
    made.save(path)
    assert TradeoffCurve.load(path) == made
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_the_first_schema_stays_readable() -> None:
    found = TradeoffCurve.load(GOLDEN)
    assert keeps(found.to_dict(), {**json.loads(GOLDEN.read_text()), "schema_version": 2})
    assert found == curve(*etas(1.1), result("MySampler", 7, None, memory=None))
    assert all(c.round_seconds == () for c in found.configurations)


def test_seconds_of_rounds_stay_readable() -> None:
    found = TradeoffCurve.load(GOLDEN_ROUNDS)
    assert keeps(found.to_dict(), {**json.loads(GOLDEN_ROUNDS.read_text()), "schema_version": 2})
    assert found == with_rounds()
    assert found.configurations[1].round_seconds == (0.04, 0.05, 0.02)


def with_quality() -> TradeoffCurve:
    share, distance = Estimate(0.5, (0.4, 0.6)), Estimate(1.5, (1.0, 2.0))
    figures = (distance, distance, share, share, 9, (4, 5), share, share, "456")
    judged = Quality(LABEL, ((0, 9),), *figures)
    results = [replace(c, quality=judged, quality_note="this run", predicted_distance=0.25) for c in (BASELINE, result())]
    return curve(results[1], baseline=results[0], floor=judged, noise=judged, finest="DDIM-10", other_seeds_distance=0.4)


def test_the_second_schema_stays_readable() -> None:
    found = TradeoffCurve.load(GOLDEN_QUALITY)
    assert keeps(found.to_dict(), json.loads(GOLDEN_QUALITY.read_text()))
    assert found == with_quality()


def test_quality_of_the_first_schema_is_to_be_judged_again(tmp_path: Path) -> None:
    """Its figures had no intervals."""
    saved = json.loads(GOLDEN.read_text())
    saved["configurations"][1]["quality"] = {"label": {}, "kernel": 0.5, "precision": 0.4}
    saved["floor"] = {"kernel": 0.1}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(saved))
    found = TradeoffCurve.load(path)
    assert found.configurations[1].quality is None
    assert "judge it again" in found.configurations[1].quality_note
    assert found.floor is None


def keeps(now: Any, before: Any) -> bool:
    """Whether all that was saved is still there; fields may have come since."""
    if isinstance(before, dict):
        return all(key in now and keeps(now[key], value) for key, value in before.items())
    if isinstance(before, list):
        return len(now) == len(before) and all(map(keeps, now, before))
    return bool(now == before)


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(GOLDEN.read_text()), **changes})


def with_result(**changes: Any) -> str:
    saved = json.loads(GOLDEN.read_text())
    saved["configurations"][1].update(changes)
    return json.dumps(saved)


WRONG: dict[str, tuple[str, str]] = {
    "empty": ("", "not the results.json of a sweep"),
    "cut off": (GOLDEN.read_text()[:500] if GOLDEN.exists() else "", "not the results.json of a sweep"),
    "a list": ("[1, 2]", "not the results.json of a sweep"),
    "a number": ("3", "not the results.json of a sweep"),
    "something else": ('{"a": 1}', "not the results.json of a sweep"),
    "a later schema": (changed(schema_version=3), "is of schema 3; this version reads schema 1 and 2"),
    "no results": (changed(configurations=[]), "no baseline"),
    "results that are no list": (changed(configurations=3), "not the results.json of a sweep"),
    "two baselines": (with_result(baseline=True), "no baseline, or several"),
    "a field too many": (with_result(mood="good"), "not the results.json of a sweep"),
    "rounds that are a number": (with_result(round_seconds=3), "not the results.json of a sweep"),
    "a spread that is a number": (with_result(speedup_spread=3), "not the results.json of a sweep"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(DDIMKitError, match=message) as caught:
        TradeoffCurve.load(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_of_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DDIMKitError, match=r"not the results\.json of a sweep"):
        TradeoffCurve.load(tmp_path / "results.json")
