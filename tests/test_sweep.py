"""The sweep: what was asked for, measured once, gone on with where it stopped."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddimkit import DDIMKitError, DDIMSampler, DDPMSampler, ModelBundle, NoiseSchedule, PlanSampler, Study, sweep
from ddimkit.samplers.named import sigma_hat
from ddimkit.tradeoff.evaluation import Evaluation
from ddimkit.tradeoff.grid import labelled, newcomers, sampler_grid
from ddimkit.tradeoff.rows import label_of
from ddimkit.tradeoff.sweep import check_folder, forget
from plugins import AdamsBashforth2
from probes import Counting, smooth
from studies import SCHEDULE, SHAPE, TOTAL, blue, toy, toy_evaluator

SETTINGS: dict[str, Any] = {"steps": (10, 4, 2), "seeds": range(2), "rounds": 1, "device": "cpu"}


@dataclass
class Log:
    """A progress callback that keeps what it is told, and stops the run once a round is done and said so often."""

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


def measured(*, out: Path | None = None, progress: Log | None = None, bundle: ModelBundle | None = None, **changes: Any) -> Study:
    return sweep(bundle or toy(), out=out, progress=progress, **{**SETTINGS, **changes})


def labels(found: Study) -> list[str]:
    return [row.label for row in found.rows]


def same_images(first: Study, second: Study) -> bool:
    return first.images.keys() == second.images.keys() and all(
        np.array_equal(first.images[k], second.images[k]) for k in first.images
    )


def test_rows_are_what_was_asked_for(tmp_path: Path) -> None:
    found = measured(steps=[4, 2], etas=(0.0, 0.5), rounds=2)
    assert labels(found) == [f"DDPM-{TOTAL}", "DDIM-4", "DDIM-2", "DDIM-4 eta 0.5", "DDIM-2 eta 0.5"]
    assert found.baseline == f"DDPM-{TOTAL}"
    assert (found.settings["rounds"], found.settings["batch"], found.settings["seeds"]) == (2, 2, [0, 1])
    assert {"processor", "cores", "threads", "device"} <= found.machine.keys()
    assert found.versions.keys() == {"python", "torch", "numpy", "ddimkit"}
    for row in found.rows:
        assert row.quality is None
        assert row.source == "not evaluated"
        assert row.times is not None
        assert 0 < row.times.per_sample_seconds == row.times.seconds / 2
        assert row.same_seed is not None
    assert found.row("DDIM-4").same_seed == 0
    found.save(tmp_path / "results.json")
    assert labels(Study.load(tmp_path / "results.json")) == labels(found)


def test_images_are_those_of_the_sampler() -> None:
    bundle = toy()
    found = measured(bundle=bundle, seeds=[5, 3], etas=(0.0, 1.0))
    for row in found.rows:
        expected = row.sampler.sample(bundle.model, (2, *SHAPE), seed=[5, 3])
        assert np.array_equal(found.images[row.label], expected.numpy()), row.label


def test_any_sampler_may_be_the_baseline() -> None:
    bundle = toy()
    found = measured(bundle=bundle, baseline=bundle.sampler(DDIMSampler, steps=10), steps=(4, 10))
    assert labels(found) == ["DDIM-10", "DDIM-4"]
    assert found.base.sampler == bundle.sampler(DDIMSampler, steps=10)


def test_samplers_stand_as_they_are_beside_kinds() -> None:
    bundle = toy()
    own = bundle.sampler(DDIMSampler, timesteps=[19, 7, 2])
    found = measured(bundle=bundle, samplers=(own, DDIMSampler, AdamsBashforth2), steps=(4,))
    assert labels(found) == ["DDPM-20", "DDIM-3 list", "DDIM-4", "AdamsBashforth2-4"]
    assert found.row("DDIM-3 list").sampler == own


def test_a_fixed_table_has_its_own_number_of_calls() -> None:
    """Whatever count it is asked for, and it is one row."""
    bundle = toy()
    plan = bundle.sampler(DDPMSampler, steps=3).plan()

    def table(schedule: NoiseSchedule, *, steps: int, **settings: Any) -> PlanSampler:
        return PlanSampler.from_plan(schedule, plan, **settings)

    found = measured(bundle=bundle, samplers=(table,), steps=(2, 4))
    assert labels(found) == ["DDPM-20", "BarePlan-3 table"]
    assert [row.calls for row in found.rows] == [20, 3]
    assert [label_of(s) for s in sampler_grid(bundle, (2, 4), (), (table,), eta_max_steps=2)] == ["DDPM-20"]


def test_no_sampler_is_run_twice_and_equal_labels_are_numbered() -> None:
    bundle = toy()
    lists = [bundle.sampler(DDIMSampler, timesteps=times) for times in ([19, 7], [19, 8])]
    made = sampler_grid(bundle, (TOTAL, 4, 4), (0.0, 0.0), (DDPMSampler, DDIMSampler, DDIMSampler, *lists))
    assert list(labelled(made)) == ["DDPM-20", "DDPM-4", "DDIM-20", "DDIM-4", "DDIM-2 list", "DDIM-2 list (2)"]


def test_kinds_that_add_noise_stop_at_the_limit() -> None:
    made = sampler_grid(toy(), (2, 4), (0.0, 0.5), (DDIMSampler, sigma_hat), eta_max_steps=2)
    assert [label_of(s) for s in made] == ["DDPM-20", "DDIM-2", "DDIM-4", "DDIM-2 eta 0.5", "sigma-hat-2"]


def test_newcomers_see_the_zero_of_the_scale_and_samplers_of_few_calls() -> None:
    assert [label_of(s) for s in newcomers(toy())] == ["DDIM-10", "DPM++2M-10", "DPM++2M-20", "DPM++2M-SDE-10"]


@pytest.mark.parametrize("stop_at", [0, 1, 5])
def test_an_interrupted_sweep_goes_on_with_the_rounds_it_has(tmp_path: Path, stop_at: int) -> None:
    expected, log = measured(rounds=2), Log()
    measured(progress=log, rounds=2)
    first = next(i for i, (_, _, what) in enumerate(log.said) if what.startswith("round 2"))
    with pytest.raises(KeyboardInterrupt):
        measured(out=tmp_path, progress=Log(first + stop_at), rounds=2)
    bundle = toy()
    found = measured(bundle=bundle, out=tmp_path, rounds=2)
    assert same_images(found, expected)
    assert calls(bundle) < 0.8 * calls_of(2)
    again = toy()
    once_more = measured(bundle=again, out=tmp_path, rounds=2)
    assert calls(again) == 0
    assert once_more.to_dict() == found.to_dict()
    assert same_images(once_more, found)


def calls_of(rounds: int) -> int:
    bundle = toy()
    measured(bundle=bundle, rounds=rounds)
    return calls(bundle)


OTHERS: list[dict[str, Any]] = [
    {"steps": (10, 4, 3)},
    {"seeds": range(1, 3)},
    {"seeds": range(3)},
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
    measured(out=tmp_path)
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


def save(path: Path, write: Callable[..., None], *parts: Any, **named: Any) -> None:
    with path.open("wb") as file:
        write(file, *parts, **named)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: truncate(path),
    "changed": lambda path: flip(path),
    "empty": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text("[1]"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "an array": lambda path: save(path, np.save, np.zeros(3)),
    "no state": lambda path: save(path, np.savez, arr_0=np.zeros(3)),
    "state a list": lambda path: save(path, np.savez, state=np.array("[1]")),
    "state of another kind": lambda path: save(path, np.savez, state=np.array('{"moments": 1}')),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_is_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    measured(out=tmp_path)
    damage(tmp_path / "progress.npz")
    with pytest.raises(DDIMKitError, match=r"holds a damaged sweep .*: remove it, or choose another folder") as caught:
        measured(out=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_plug_ins_and_bundles_of_others() -> None:
    bundle = toy(blue, clip=None, name="theirs")
    found = measured(bundle=bundle, samplers=(AdamsBashforth2, DDIMSampler, DDPMSampler), etas=(0.0, 0.3), steps=(4,))
    assert labels(found) == ["DDPM-20", "AdamsBashforth2-4", "DDIM-4", "DDIM-4 eta 0.3", "DDPM-4"]
    assert found.model["name"] == "theirs"
    drawn = bundle.sampler(AdamsBashforth2, steps=4).sample(blue, (2, *SHAPE), seed=[0, 1])
    assert np.array_equal(found.images["AdamsBashforth2-4"], drawn.numpy())


def test_a_function_that_makes_samplers_will_do() -> None:
    def fancy(schedule: Any, *, steps: int, **settings: Any) -> PlanSampler:
        return DDIMSampler(schedule, steps=steps, spacing="linspace", **settings)

    found = measured(samplers=(fancy,), steps=(3,))
    assert found.rows[1].label == "DDIM-3 linspace"
    assert tuple(found.rows[1].sampler.timesteps) == (19, 10, 0)


@pytest.mark.promise(39)
def test_a_sweep_evaluates_what_it_draws(tmp_path: Path) -> None:
    evaluator, bundle = toy_evaluator(), toy()
    found = measured(bundle=bundle, out=tmp_path, steps=(4,), etas=(0.0, 1.0), evaluation=Evaluation(evaluator, images=50))
    assert labels(found) == ["DDPM-20", "DDIM-4", "DDIM-4 eta 1", "DDIM-10"]  # the zero of the scale is run too
    assert found.label == evaluator.reference.label
    for row in found.rows:
        assert row.quality is not None
        assert row.quality.count == 50
        drawn = row.sampler.sample(bundle.model, (50, *SHAPE), seed=range(50))
        assert row.quality.kernel.value == pytest.approx(evaluator.evaluate(drawn, range(50)).kernel.value)
    apart = found.rows[0].quality.kernel - found.rows[1].quality.kernel
    assert found.difference("DDPM-20", "DDIM-4").interval == pytest.approx(apart.interval)
    before = calls(bundle)
    again = measured(bundle=bundle, out=tmp_path, steps=(4,), etas=(0.0, 1.0), evaluation=Evaluation(evaluator, images=50))
    assert calls(bundle) == before
    assert again.to_dict() == found.to_dict()


def test_an_unwritable_folder_is_noticed_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bundle = toy()
    with pytest.raises(OSError, match="cannot be written to"):
        measured(bundle=bundle, out=tmp_path / "file")
    assert calls(bundle) == 0
    assert check_folder(str(tmp_path / "new")) == tmp_path / "new"
    assert not list((tmp_path / "new").iterdir())


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"steps": ()}, ValueError, "needs seeds, steps and rounds"),
    ({"seeds": ()}, ValueError, "got 0 seeds"),
    ({"rounds": 0}, ValueError, "and 0"),
    ({"rounds": 1.5}, ValueError, r"and 1\.5"),
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
def test_wrong_settings_are_refused_before_the_model_is_called(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    bundle = toy()
    with pytest.raises(error, match=message):
        measured(bundle=bundle, **change)
    assert calls(bundle) == 0


@pytest.mark.parametrize("counts", [{"images": 4}, {"images": 5, "long_images": -1}, {"long_images": 1}])
def test_too_few_images_to_evaluate_are_refused(counts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be 0 or at least 5"):
        Evaluation(toy_evaluator(), **counts)


def test_numpy_numbers_are_numbers() -> None:
    found = measured(steps=np.array([4, 2]), seeds=np.arange(2), etas=np.array([0.0]))
    assert same_images(found, measured(steps=[4, 2]))


def test_the_number_of_images_fills_the_time_there_is() -> None:
    samplers = labelled(sampler_grid(toy(), (10, 4), (0.0,), (DDIMSampler,)))
    counts = Evaluation(toy_evaluator(), seconds=34.0).counts(samplers, 0.01)
    assert set(counts.values()) == {96}  # 34 s at 10 ms a call are 3,400 calls, and 34 calls an image
    assert set(Evaluation(toy_evaluator(), seconds=0.1).counts(samplers, 1.0).values()) == {64}
    assert set(Evaluation(toy_evaluator(), seconds=1e9).counts(samplers, 1.0).values()) == {2000}
