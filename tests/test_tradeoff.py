"""The sweep: what it measures, in which order, and how it goes on after it was stopped."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from curves import SCHEDULE, SHAPE, TOTAL, blue, toy
from ddimkit import DDIMKitError, DDIMSampler, DDPMSampler, ModelBundle, PlanSampler, TradeoffCurve, sweep
from ddimkit.tradeoff import configurations as configuring
from ddimkit.tradeoff import sweep as sweeping
from ddimkit.tradeoff.sweep import configurations, forget
from ddimkit.tradeoff.timing import TimedRun, time_run
from plugins import AdamsBashforth2
from probes import Counting, smooth

SEEDS, ROUNDS, LONG = range(2), 2, 8
SETTINGS: dict[str, Any] = {"steps": (10, 4, 2), "seeds": SEEDS, "rounds": ROUNDS, "device": "cpu"}
FIELDS = {
    "sampler",
    "steps",
    "eta",
    "timesteps",
    "seeds",
    "nfe",
    "total_seconds",
    "total_seconds_spread",
    "per_sample_seconds",
    "speedup",
    "speedup_spread",
    "sampler_overhead_seconds",
    "peak_memory_bytes",
    "peak_memory_note",
    "quality",
    "quality_note",
    "same_seed_distance",
    "predicted_distance",
    "record",
    "baseline",
    "round_seconds",
}


@pytest.fixture(autouse=True)
def shorter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs of more than 8 steps are long ones here, and memory, whose profiler is slow, is measured where a test asks."""
    for module in (sweeping, configuring):
        monkeypatch.setattr(module, "LONG", LONG)
    monkeypatch.setattr(sweeping, "measure_peak_memory", lambda *_: (123, "not measured here"))
    return iter([None])


@dataclass
class Log:
    """A progress callback that keeps what it is told, and stops the run at one of its calls."""

    stop_at: int | None = None
    said: list[tuple[int, int, str]] = field(default_factory=list)

    def __call__(self, done: int, total: int, what: str) -> None:
        self.said.append((done, total, what))
        if self.stop_at == len(self.said) - 1:
            raise KeyboardInterrupt


class Shifted(nn.Module):
    """A module of one weight."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return smooth(x, t) + self.shift


def calls(bundle: ModelBundle) -> int:
    assert isinstance(bundle.model, Counting)
    return bundle.model.calls


def measured(
    *, out: Path | None = None, progress: Log | None = None, bundle: ModelBundle | None = None, **changes: Any
) -> TradeoffCurve:
    return sweep(bundle or toy(), out=out, progress=progress, **{**SETTINGS, **changes})


def same_samples(first: TradeoffCurve, second: TradeoffCurve) -> bool:
    return first.samples.keys() == second.samples.keys() and all(
        np.array_equal(first.samples[k], second.samples[k]) for k in first.samples
    )


def test_results_are_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = json.loads(json.dumps(measured(steps=[4, 2], etas=(0.0, 0.5)).to_dict()))
    wanted = {"schema_version", "model", "machine", "versions", "settings", "configurations", "floor", "noise"}
    assert set(found) == wanted | {"finest", "other_seeds_distance"}
    assert found["schema_version"] == 2
    assert found["settings"] == {"device": "cpu", "batch": 2, "dtype": "float32", "rounds": 2}
    assert {"processor", "cores", "threads", "device"} <= found["machine"].keys()
    assert found["versions"].keys() == {"python", "torch", "numpy", "ddimkit"}
    rows = found["configurations"]
    named = [(c["sampler"], c["steps"], c["eta"]) for c in rows]
    assert named == [("DDPMSampler", TOTAL, 1.0), *(("DDIMSampler", s, e) for e in (0.0, 0.5) for s in (4, 2))]
    for c in rows:
        assert c.keys() == FIELDS
        assert c["baseline"] == (c["sampler"] == "DDPMSampler")
        assert c["seeds"] == [0, 1] == c["record"]["call"]["seeds"]
        assert c["nfe"] == len(c["timesteps"]) == c["steps"]
        assert 0 < c["per_sample_seconds"] == c["total_seconds"] / 2
        assert 0 < c["total_seconds_spread"]["low"] <= c["total_seconds_spread"]["high"]
        assert 0 < c["speedup_spread"]["low"] <= c["speedup"] <= c["speedup_spread"]["high"]
        assert c["sampler_overhead_seconds"] > 0
        assert len(c["round_seconds"]) == (1 if c["baseline"] else ROUNDS)
        assert c["total_seconds"] == median(c["round_seconds"])
        assert c["quality"] is None
        assert c["quality_note"] == "not judged in this run"
        assert (c["same_seed_distance"] is None) == (c["sampler"] == "DDIMSampler" and (c["steps"], c["eta"]) == (4, 0))
        assert c["peak_memory_note"]
        assert c["peak_memory_bytes"] is None or c["peak_memory_bytes"] >= 2 * 4 * np.prod(SHAPE)
    assert rows[0]["speedup"] == 1


def test_memory_that_cannot_be_measured_is_null_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "measure_peak_memory", lambda *_: (None, "no profiler here"))
    found = measured(steps=[2]).to_dict()["configurations"]
    assert [(c["peak_memory_bytes"], c["peak_memory_note"]) for c in found] == [(None, "no profiler here")] * 2


def test_the_baseline_runs_whole_once_and_others_in_rotated_order() -> None:
    log, bundle = Log(), toy()
    measured(progress=log, bundle=bundle, rounds=3)
    opening = f"first {LONG} rows of DDPM-{TOTAL}"
    # DDIM-10 is a long one here, and runs in the first round only.
    assert [what for *_, what in log.said] == [
        f"round 1/3: DDPM-{TOTAL}",
        *(f"round 1/3: {name}" for name in (opening, "DDIM-10", "DDIM-4", "DDIM-2")),
        *(f"round 2/3: {name}" for name in (opening, "DDIM-4", "DDIM-2")),
        *(f"round 3/3: {name}" for name in (opening, "DDIM-2", "DDIM-4")),
        "done",
    ]
    total = TOTAL + 3 * LONG + 10 + 3 * (4 + 2)
    assert {said[1] for said in log.said} == {total}
    assert [said[0] for said in log.said] == sorted(said[0] for said in log.said)
    assert log.said[-1] == (total, total, "done")
    assert calls(bundle) == total + 3  # and three to warm up


def test_spreads_are_over_rounds_or_tenths() -> None:
    spreads = {c.label: (c.total_seconds_spread.over, c.total_seconds_spread.runs) for c in measured(rounds=3).configurations}
    tenths = "tenths of one run"
    assert spreads == {"DDPM-20": (tenths, 10), "DDIM-10": (tenths, 10), "DDIM-4": ("rounds", 3), "DDIM-2": ("rounds", 3)}


def test_seconds_are_kept_by_round_even_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(1)

    def timed(*arguments: Any) -> TimedRun:
        return replace(time_run(*arguments), seconds=float(next(clock)))

    monkeypatch.setattr(sweeping, "time_run", timed)
    with pytest.raises(KeyboardInterrupt):
        measured(out=tmp_path, rounds=3, progress=Log(6))
    found = {c.label: c.round_seconds for c in measured(out=tmp_path, rounds=3).configurations}
    # Run 1 warms up, and so does run 8, after the interruption; 3, 7 and 11 are the baseline's first rows.
    assert found == {"DDPM-20": (2,), "DDIM-10": (4,), "DDIM-4": (5, 9, 13), "DDIM-2": (6, 10, 12)}


def test_samples_are_those_of_the_sampler() -> None:
    bundle = toy()
    found = measured(bundle=bundle, seeds=[5, 3], etas=(0.0, 1.0))
    made = [bundle.sampler(DDPMSampler, steps=TOTAL)]
    made += [bundle.sampler(DDIMSampler, steps=s, eta=e) for e in (0.0, 1.0) for s in (10, 4, 2)]
    assert len(found.samples) == len(made) == len(found.configurations)
    for sampler, c in zip(made, found.configurations, strict=True):
        expected = sampler.sample(bundle.model, (2, *SHAPE), seed=[5, 3])
        assert np.array_equal(found.samples[c.label], expected.numpy()), c.label
        assert c.timesteps == tuple(sampler.timesteps)


@pytest.mark.parametrize("stop_at", [0, 1, 3, 6, 8])
def test_an_interrupted_sweep_goes_on(tmp_path: Path, stop_at: int) -> None:
    whole, bundle = toy(), toy()
    expected = measured(bundle=whole)
    with pytest.raises(KeyboardInterrupt):
        measured(bundle=bundle, out=tmp_path, progress=Log(stop_at))
    first = calls(bundle)
    later = Log()
    found = measured(bundle=bundle, out=tmp_path, progress=later)
    assert same_samples(found, expected)
    # Nothing is repeated but the three calls that warm up, where there was a first part to warm up for.
    assert calls(bundle) == calls(whole) + (3 if first and stop_at < 8 else 0)
    assert [c.total_seconds > 0 for c in found.configurations] == [True] * 4
    again = measured(bundle=bundle, out=tmp_path)
    assert calls(bundle) == calls(whole) + (3 if first and stop_at < 8 else 0)
    assert again == found
    assert same_samples(again, found)


def test_a_sweep_that_died_between_two_files_goes_on(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"

    def progress(done: int, total: int, what: str) -> None:
        if what.endswith("DDIM-10"):
            shutil.copy(tmp_path / "progress.json", kept)
        if what.endswith("DDIM-4"):
            raise KeyboardInterrupt

    bundle = toy()
    with pytest.raises(KeyboardInterrupt):
        sweep(bundle, out=tmp_path, progress=progress, **SETTINGS)
    # The images of DDIM-10 were written, the figures not.
    kept.replace(tmp_path / "progress.json")
    assert same_samples(measured(out=tmp_path), measured())


OTHERS: list[dict[str, Any]] = [
    {"steps": (10, 4, 3)},
    {"steps": (10, 2, 4)},
    {"seeds": range(1, 3)},
    {"seeds": range(3)},
    {"rounds": 3},
    {"etas": (0.5,)},
    {"samplers": (AdamsBashforth2,)},
    {"samplers": (partial(DDIMSampler, spacing="leading"),)},
    {"bundle": toy(name="other")},
    {"bundle": toy(clip=None)},
    {"bundle": toy(prediction="v")},
    {"bundle": ModelBundle(smooth, SCHEDULE, sample_shape=(1, 2, 2), prediction="x0", clip=(-1, 1), name="toy")},
]


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: "-".join(change))
def test_another_sweep_in_the_same_folder_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(out=tmp_path, progress=Log(3))
    with pytest.raises(DDIMKitError, match="another model, machine or other settings: choose another folder") as caught:
        measured(out=tmp_path, **change)
    assert str(tmp_path) in str(caught.value)
    forget(tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_weights_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    for shift in (0.0, 0.5):
        bundle = toy(Shifted(shift).eval())
        if shift:
            with pytest.raises(DDIMKitError, match="another model"):
                measured(bundle=bundle, steps=[2], out=tmp_path)
        else:
            measured(bundle=bundle, steps=[2], out=tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[120] ^= 0xFF
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "state cut off": lambda folder: truncate(folder / "progress.json"),
    "state a list": lambda folder: (folder / "progress.json").write_text("[1]"),
    "state of another kind": lambda folder: (folder / "progress.json").write_text('{"moments": 1}'),
    "state no text": lambda folder: (folder / "progress.json").write_bytes(b"\xff\xfe\x00"),
    "images cut off": lambda folder: truncate(folder / "samples.npz"),
    "images changed": lambda folder: flip(folder / "samples.npz"),
    "images empty": lambda folder: (folder / "samples.npz").write_bytes(b""),
    "images gone": lambda folder: (folder / "samples.npz").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_is_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(out=tmp_path, progress=Log(3))
    damage(tmp_path)
    with pytest.raises(DDIMKitError, match=r"holds a damaged sweep .*: remove it, or choose another folder") as caught:
        measured(out=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_plug_ins_and_bundles_of_others() -> None:
    bundle = toy(blue, clip=None, name="theirs")
    found = measured(bundle=bundle, samplers=(AdamsBashforth2, DDIMSampler, DDPMSampler), etas=(0.0, 0.3), steps=(4,))
    named = [(c.label, c.eta) for c in found.configurations]
    expected = [("DDPM-20", 1.0), ("AdamsBashforth2-4", None), ("DDIM-4", 0.0), ("DDIM-4 eta 0.3", 0.3), ("DDPM-4", 1.0)]
    assert named == expected
    assert found.model["name"] == "theirs"
    assert found.configurations[1].record["sampler"] == "plugins.AdamsBashforth2"
    drawn = bundle.sampler(AdamsBashforth2, steps=4).sample(blue, (2, *SHAPE), seed=0)
    assert np.array_equal(found.samples["AdamsBashforth2-4"], drawn.numpy())


def test_a_function_that_makes_samplers_will_do() -> None:
    def fancy(schedule: Any, *, steps: int, **settings: Any) -> PlanSampler:
        return DDIMSampler(schedule, steps=steps, spacing="linspace", **settings)

    found = measured(samplers=(fancy,), steps=(3,))
    assert found.configurations[1].label == "fancy-3"
    assert found.configurations[1].timesteps == (19, 10, 0)


def labels(**settings: Any) -> list[str]:
    return [c.label for c in configurations(toy(), **{"samplers": (DDIMSampler,), "etas": (0.0,), **settings})]


def test_etas_above_0_stop_at_the_limit() -> None:
    found = labels(steps=(2, 4), etas=(0.0, 0.5), eta_max_steps=2)
    assert found == ["DDPM-20", "DDIM-2", "DDIM-4", "DDIM-2 eta 0.5"]
    assert len(labels(steps=(2, 4), etas=(0.0, 0.5), eta_max_steps=0)) == 3


def test_the_baseline_is_not_run_a_second_time() -> None:
    assert labels(steps=(TOTAL, 4), samplers=(DDPMSampler,)) == ["DDPM-20", "DDPM-4"]


@pytest.mark.parametrize(
    "settings",
    [{"steps": (2, 2)}, {"steps": (2,), "etas": (0.5, 0.5)}, {"steps": (2,), "samplers": (DDIMSampler, DDIMSampler)}],
    ids=["steps", "etas", "samplers"],
)
def test_the_same_configuration_twice_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"asked for twice: .*DDIM-2"):
        labels(**settings)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"steps": ()}, ValueError, "needs seeds, steps and rounds"),
    ({"seeds": ()}, ValueError, "got 0 seeds"),
    ({"rounds": 0}, ValueError, "and 0 rounds"),
    ({"steps": (21,)}, ValueError, r"1\.\.20 .* got 21"),
    ({"steps": (0,)}, ValueError, r"1\.\.20 .* got 0"),
    ({"steps": 10}, TypeError, "steps must be a sequence of ints, .* got 10"),
    ({"steps": (2.5,)}, TypeError, "steps must be a sequence of ints"),
    ({"seeds": 3}, TypeError, "seeds must be a sequence of ints, .* got 3"),
    ({"etas": 0.5}, TypeError, r"etas must be a sequence of numbers, .* got 0\.5"),
    ({"etas": (1.5,)}, ValueError, r"\[0, 1\].* got 1\.5"),
    ({"seeds": (-1,)}, ValueError, r"2\^63"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_wrong_settings_are_refused_before_the_model_is_asked(change: dict[str, Any], error: type[Exception], message: str) -> None:
    bundle = toy()
    with pytest.raises(error, match=message):
        measured(bundle=bundle, **change)
    assert calls(bundle) == 0


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    found = measured(steps=np.array([4, 2]), seeds=np.arange(2), etas=np.array([0.0]))
    assert same_samples(found, measured(steps=[4, 2]))
    found.save(tmp_path / "results.json")
    assert TradeoffCurve.load(tmp_path / "results.json") == found
