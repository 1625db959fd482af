"""Searched timestep lists: never worse on their objective than the best named spacing, and honest where nothing was gained."""

from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimkit import (
    DDIMSampler,
    DDPMSampler,
    DPMSolverPPSampler,
    ModelBundle,
    NoiseSchedule,
    PlanSampler,
    UniPCSampler,
    optimize_timesteps,
)
from ddimkit.analytic import GaussianDenoiser, gaussian_error
from ddimkit.learning import GaussianObjective, NetworkObjective, QualityObjective
from ddimkit.quality import Evaluator, Extractor, Reference
from ddimkit.timesteps import Spacing
from studies import toy

LINEAR = NoiseSchedule.linear()
MEAN, SPECTRUM = np.linspace(-1, 1, 30), np.geomspace(1e-4, 20, 30)
GAUSSIAN = GaussianObjective(MEAN, SPECTRUM)


def named_errors(template: PlanSampler, steps: int) -> dict[str, float]:
    """Of those that give so many timesteps and begin in noise."""
    made = {name: replace(template, steps=steps, timesteps=(), spacing=name) for name in get_args(Spacing)}
    made = {name: s for name, s in made.items() if s.nfe == steps and LINEAR.alpha_bars[s.timesteps[0]] <= 0.01}
    return {name: gaussian_error(s.plan(), MEAN, SPECTRUM, schedule=LINEAR).frechet for name, s in made.items()}


@dataclass(frozen=True)
class Misled:
    """A search that sees the sum of the timesteps, validated by something else."""

    interval: tuple[float, float]

    def value(self, sampler: PlanSampler) -> float:
        return float(sum(sampler.timesteps))

    def gain(self, sampler: PlanSampler, than: PlanSampler) -> tuple[float, float]:
        assert sum(sampler.timesteps) < sum(than.timesteps)
        return self.interval


@pytest.mark.parametrize(
    "template", [DDIMSampler(LINEAR, 5), DDPMSampler(LINEAR, 5), DPMSolverPPSampler(LINEAR, 5, order=3), UniPCSampler(LINEAR, 5)]
)
@pytest.mark.parametrize("steps", [1, 6, 12])
def test_lists_are_better_than_every_named_spacing(template: PlanSampler, steps: int) -> None:
    found = optimize_timesteps(template, steps, objective=GAUSSIAN)
    sampler = replace(template, steps=None, timesteps=found)
    assert len(found) == steps
    assert sampler.timesteps == tuple(found)
    exact = gaussian_error(sampler.plan(), MEAN, SPECTRUM, schedule=LINEAR).frechet
    named = named_errors(template, steps)
    assert exact <= min(named.values()) * (1 + 1e-12)
    if steps > 1:
        assert found.gained
        assert exact < 0.9 * min(named.values())
        assert found.gain[0] == pytest.approx(named[found.named] - exact, rel=1e-6)
        assert "a gain of" in found.reason
    assert found.evaluations <= 400


@pytest.mark.parametrize("evaluations", [7, 12, 20])
@pytest.mark.parametrize("steps", [2, 6, 8, 10, 50])
def test_no_list_is_worse_than_a_named_spacing_however_short_the_search(steps: int, evaluations: int) -> None:
    template = DDIMSampler(LINEAR, 5)
    found = optimize_timesteps(template, steps, objective=GaussianObjective(0.0, SPECTRUM), evaluations=evaluations)
    objective = GaussianObjective(0.0, SPECTRUM, bins=10_000)
    value = objective.value(replace(template, steps=None, timesteps=found))
    begin = {name: replace(template, steps=steps, spacing=name) for name in get_args(Spacing)}
    for name, sampler in begin.items():
        if sampler.nfe == steps and LINEAR.alpha_bars[sampler.timesteps[0]] <= 0.01:
            assert value <= objective.value(sampler) * (1 + 1e-9), name


def test_the_best_of_all_named_spacings_is_named() -> None:
    """``quadratic_song2021`` too, where it gives as many timesteps."""
    preferred = replace(DDIMSampler(LINEAR, 5), spacing="quadratic_song2021").timesteps

    @dataclass(frozen=True)
    class Fond(Misled):
        def value(self, sampler: PlanSampler) -> float:
            return float(sampler.timesteps != preferred)

    assert optimize_timesteps(DDIMSampler(LINEAR, 5), 5, objective=Fond((0.0, 0.0)), evaluations=7).named == "quadratic_song2021"
    preferred = replace(DDIMSampler(LINEAR, 2), spacing="leading").timesteps
    assert LINEAR.alpha_bars[preferred[0]] > 0.01  # begins too late to be compared
    assert optimize_timesteps(DDIMSampler(LINEAR, 5), 2, objective=Fond((0.0, 0.0))).named != "leading"


def test_a_gain_is_by_every_eigenvalue() -> None:
    """In one bin all directions are alike, which flatters a list made for that bin."""
    coarse = GaussianObjective(0.0, SPECTRUM, bins=1)
    mine, other = DDIMSampler(LINEAR, 20), DDIMSampler(LINEAR, 10)
    exact = [gaussian_error(s.plan(), 0.0, SPECTRUM, schedule=LINEAR).frechet for s in (mine, other)]
    assert coarse.gain(mine, other) == (pytest.approx(exact[1] - exact[0]),) * 2
    assert coarse.value(other) - coarse.value(mine) != pytest.approx(exact[1] - exact[0], rel=0.01)


def test_an_objective_that_is_not_a_number_is_no_best() -> None:
    @dataclass(frozen=True)
    class Broken(Misled):
        ever: float

        def value(self, sampler: PlanSampler) -> float:
            return 1.0 if sampler.timesteps == DDIMSampler(LINEAR, 5).timesteps else self.ever

    found = optimize_timesteps(DDIMSampler(LINEAR, 5), 5, objective=Broken((0.0, 0.0), float("nan")))
    assert (found.named, found.value) == ("trailing", 1.0)
    with pytest.raises(ValueError, match="must be finite"):
        optimize_timesteps(DDIMSampler(LINEAR, 5), 4, objective=Broken((0.0, 0.0), float("nan")))


@settings(max_examples=15, deadline=None)
@given(total=st.integers(2, 40), data=st.data())
def test_lists_are_valid_for_any_schedule(total: int, data: st.DataObject) -> None:
    schedule, steps = NoiseSchedule.cosine(total), data.draw(st.integers(1, total))
    found = optimize_timesteps(DDIMSampler(schedule, 1), steps, objective=GAUSSIAN, evaluations=40)
    assert replace(DDIMSampler(schedule, 1), steps=None, timesteps=found).nfe == steps


def test_what_validation_does_not_confirm_is_not_returned() -> None:
    """Not even where it is merely unsure."""
    template = DDIMSampler(LINEAR, 5)
    for interval in ((-1.0, 2.0), (-2.0, -1.0), (0.0, 0.0)):
        found = optimize_timesteps(template, 5, objective=Misled(interval))
        assert not found.gained
        assert tuple(found) == replace(template, spacing=found.named).timesteps
        assert found.value == found.named_value
        assert "nothing was gained" in found.reason
    found = optimize_timesteps(template, 5, objective=Misled((0.5, 1.0)))
    assert found.gained
    assert tuple(found)[1:] == (3, 2, 1, 0)


def test_the_search_asks_no_more_than_it_may() -> None:
    asked = list[tuple[int, ...]]()

    class Counted(Misled):
        def value(self, sampler: PlanSampler) -> float:
            asked.append(tuple(sampler.timesteps))
            return super().value(sampler)

    found = optimize_timesteps(DDIMSampler(LINEAR, 5), 20, objective=Counted((0.5, 1.0)), evaluations=30)
    assert len(asked) == len(set(asked)) == found.evaluations == 30


def exact_bundle(**settings: Any) -> ModelBundle:
    model = GaussianDenoiser(LINEAR, MEAN[:16] + 0.3, SPECTRUM[-16:])
    return ModelBundle(model, LINEAR, sample_shape=(1, 4, 4), prediction="x0", clip=None, **settings)


def test_a_networks_lists_gain_on_unseen_seeds() -> None:
    bundle = exact_bundle()
    objective = NetworkObjective(bundle, seeds=range(8), unseen=range(100, 132), fine_steps=100)
    template = bundle.sampler(DDIMSampler, steps=5)
    found = optimize_timesteps(template, 5, objective=objective, evaluations=150)
    assert found.gained
    best, named = replace(template, steps=None, timesteps=found), replace(template, spacing=found.named)
    apart = objective.difference(best, named)
    assert apart.interval == found.gain
    assert apart.value > 0
    fine = replace(template, steps=100).sample(bundle.model, (32, 1, 4, 4), seed=range(100, 132))
    errors = [
        float((s.sample(bundle.model, (32, 1, 4, 4), seed=range(100, 132)) - fine).square().mean(dim=(1, 2, 3)).sqrt().mean())
        for s in (best, named)
    ]
    assert apart.value == pytest.approx(errors[1] - errors[0], rel=1e-4)


def test_batches_are_as_large_as_asked_and_do_not_matter() -> None:
    bundle, sizes = exact_bundle(), list[int]()
    inner = bundle.model
    bundle = replace(bundle, model=lambda x, t: sizes.append(len(x)) or inner(x, t))
    values = {
        NetworkObjective(bundle, range(5), range(10, 14), 20, batch=b).value(bundle.sampler(DDIMSampler, steps=3)) for b in (2, 5)
    }
    assert max(values) == pytest.approx(min(values), rel=1e-5)
    assert set(sizes) == {1, 2, 5}


def test_features_decide_where_they_are_given() -> None:
    bundle = exact_bundle()
    dark = Extractor(lambda x: x.flatten(1)[:, :1], name="one pixel", sha256="1", rounding="none")
    pixels, features = (
        NetworkObjective(bundle, range(4), range(10, 14), 20, extractor=extractor).value(bundle.sampler(DDIMSampler, steps=3))
        for extractor in (None, dark)
    )
    assert pixels != features


def test_samplers_with_noise_have_no_fine_image_to_come_close_to() -> None:
    bundle = toy()
    for template in (bundle.sampler(DDIMSampler, steps=3, eta=0.5), bundle.sampler(DDPMSampler, steps=3, variance="learned_range")):
        with pytest.raises(ValueError, match="eta=0"):
            optimize_timesteps(template, 3, objective=NetworkObjective(bundle, range(2), range(5, 7)))


def real_images(count: int, seed: int) -> torch.Tensor:
    """What the exact bundle's model knows."""
    numbers = np.random.default_rng(seed).normal(size=(count, 16)) * np.sqrt(SPECTRUM[-16:]) + MEAN[:16] + 0.3
    return torch.tensor(numbers, dtype=torch.float32).reshape(count, 1, 4, 4)


def exact_evaluator() -> Evaluator:
    pixels = Extractor(lambda x: x.flatten(1), name="pixels", sha256="1", rounding="none")
    reference = Reference.of("toy", pixels(real_images(400, 0)), pixels)
    return Evaluator.of(pixels, reference, real_images(100, 1), noise_images=100)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_quality_itself_can_be_searched_for_with_and_without_noise(name: str) -> None:
    bundle, evaluator = exact_bundle(), exact_evaluator()
    objective = QualityObjective(bundle, evaluator, seeds=range(100), unseen=range(1000, 1200), batch=50)
    template = bundle.sampler(DDIMSampler, steps=4, eta=float(name == "ddpm"))
    found = optimize_timesteps(template, 4, objective=objective, evaluations=60)
    assert found.gained
    best, named = replace(template, steps=None, timesteps=found), replace(template, spacing=found.named)
    drawn = [s.sample(bundle.model, (200, 1, 4, 4), seed=range(1000, 1200)) for s in (best, named)]
    fresh = [evaluator.evaluate(x, range(1000, 1200)).kernel for x in drawn]
    assert fresh[0].value < fresh[1].value
    assert (fresh[1] - fresh[0]).interval == pytest.approx(found.gain, rel=1e-4)
    assert found.value == pytest.approx(
        evaluator.evaluate(best.sample(bundle.model, (100, 1, 4, 4), seed=range(100)), range(100)).kernel.value
    )


def test_short_schedules_have_fewer_fine_steps() -> None:
    bundle = toy()
    objective = NetworkObjective(bundle, range(2), range(5, 7), fine_steps=200)
    assert objective.value(bundle.sampler(DDIMSampler, steps=20)) == 0


def test_the_fine_images_are_drawn_once() -> None:
    bundle = toy()
    objective = NetworkObjective(bundle, range(2), range(5, 7), fine_steps=20)
    sampler = bundle.sampler(DDIMSampler, steps=4)
    objective.value(sampler)
    calls = bundle.model.calls
    objective.value(replace(sampler, steps=3))
    assert bundle.model.calls == calls + 3


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: optimize_timesteps(DDIMSampler(LINEAR, 5), 5, objective=GAUSSIAN, evaluations=6), "at least 7 evaluations"),
        (
            lambda: optimize_timesteps(PlanSampler.from_plan(LINEAR, DDIMSampler(LINEAR, 7).plan()), 5, objective=GAUSSIAN),
            "take 5 timesteps, got BarePlanSampler",
        ),
        (
            lambda: optimize_timesteps(PlanSampler.from_plan(LINEAR, DDIMSampler(LINEAR, 7).plan()), 7, objective=GAUSSIAN),
            "take 7 timesteps, got BarePlanSampler",
        ),
        (lambda: NetworkObjective(toy(), batch=0), "batch must be at least 1"),
        (lambda: optimize_timesteps(DDIMSampler(LINEAR, 5), 1001, objective=GAUSSIAN), "1001"),
        (lambda: NetworkObjective(toy(), range(4), range(3, 9)), "none in common"),
        (lambda: NetworkObjective(toy(), (), range(3, 9)), "must hold seeds"),
        (lambda: QualityObjective(toy(), exact_evaluator(), range(4), range(3, 9)), "none in common"),
        (lambda: QualityObjective(toy(), exact_evaluator(), device="gpu"), "cannot be used here"),
        (lambda: QualityObjective(toy(), exact_evaluator(), batch=0), "batch must be at least 1"),
        (lambda: NetworkObjective(toy(), device="gpu"), "cannot be used here"),
    ],
)
def test_bad_input_raises(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_lists_begin_where_the_model_knows_noise() -> None:
    """Else sampling would warn: alpha_bar at the first timestep is at most 0.01, though the objective would like it lower."""
    found = optimize_timesteps(DDIMSampler(LINEAR, 5), 5, objective=Misled((0.5, 1.0)))
    assert LINEAR.alpha_bars[found[0]] <= 0.01 < LINEAR.alpha_bars[found[0] - 1]
    short = optimize_timesteps(DDIMSampler(LINEAR, 5), 2, objective=GAUSSIAN)
    assert LINEAR.alpha_bars[short[0]] <= 0.01
