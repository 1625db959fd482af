"""Brownian noise: standard normal rows, one path for every number of steps, and samples that do not depend on their batch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddimkit import DDIMSampler, DPMSolverPPSampler, NoiseSchedule, Plan, PlanSampler
from ddimkit.analytic import MixtureDenoiser
from ddimkit.brownian import brownian_noise
from ddimkit.editing import latents_of
from probes import smooth
from strategies import schedules, timesteps

LINEAR = NoiseSchedule.linear()


def rows(sampler: PlanSampler, seeds: Any, shape: tuple[int, ...]) -> list[Tensor]:
    """The noise of each row but the last, with the square root of its step in λ."""
    noise, like = brownian_noise(sampler, seeds), torch.empty(shape, dtype=torch.float64)
    return [noise(k, like) for k in range(sampler.nfe - 1)]


@given(st.data())
@settings(max_examples=30)
def test_a_long_row_holds_the_noise_of_the_short_rows_in_its_place(data: st.DataObject) -> None:
    schedule = data.draw(schedules(min_size=3, max_size=24))
    fine = data.draw(timesteps(schedule.num_timesteps, min_size=3))
    kept = [fine[0], *(t for t in fine[1:-1] if data.draw(st.booleans())), fine[-1]]
    lam, seeds = schedule.log_snr / 2, [3, 9]
    short = rows(DDIMSampler(schedule, timesteps=fine, eta=1.0), seeds, (2, 5))
    long = rows(DDIMSampler(schedule, timesteps=kept, eta=1.0), seeds, (2, 5))
    path = {
        t: sum((z * np.sqrt(lam[b] - lam[a]) for a, b, z in zip(fine, fine[1:], short, strict=False) if b >= t), torch.zeros(2, 5))
        for t in fine
    }
    for a, b, z in zip(kept, kept[1:], long, strict=False):
        assert torch.allclose(z * np.sqrt(lam[b] - lam[a]), path[b] - path[a], rtol=0, atol=1e-4)


@pytest.mark.parametrize("schedule", [LINEAR, LINEAR.zero_terminal_snr()], ids=["linear", "zero terminal"])
def test_rows_are_independent_standard_normals(schedule: NoiseSchedule) -> None:
    sampler = DDIMSampler(schedule, timesteps=(999, 760, 759, 500, 250, 3), eta=1.0, prediction="x0")
    noise = brownian_noise(sampler, range(2000))
    like = torch.empty(2000, 10)
    drawn = torch.stack([noise(k, like) for k in range(-1, 5)]).flatten(1).double()
    covariance = drawn @ drawn.T / drawn.shape[1]
    assert (covariance - torch.eye(6)).abs().max() < 0.04
    assert drawn.mean(dim=1).abs().max() < 0.03
    assert (drawn**4).mean(dim=1).sub(3).abs().max() < 0.2


@pytest.mark.promise(24)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4), st.sampled_from([torch.float32, torch.float16]))
@settings(max_examples=15)
def test_a_sample_does_not_depend_on_its_batch(seeds: list[int], dtype: torch.dtype) -> None:
    sampler = DDIMSampler(LINEAR, steps=4, eta=1.0, prediction="x0")

    def drawn(some: list[int]) -> Tensor:
        return sampler.sample(smooth, (len(some), 2, 3), noise_fn=brownian_noise(sampler, some), dtype=dtype)

    whole = drawn(seeds)
    for i, seed in enumerate(seeds):
        assert torch.equal(drawn([seed])[0], whole[i])


def test_samplers_that_add_noise_draw_like_images_at_few_and_many_steps() -> None:
    model = MixtureDenoiser(LINEAR, (1, 1, 1), [[1, 0], [-1, 1], [-1, -1]], 0.05)
    few, many = (DPMSolverPPSampler(LINEAR, steps=steps, eta=1, prediction="x0") for steps in (10, 100))
    apart = {}
    for name in ("brownian", "by row"):
        images = [
            sampler.sample(model, (300, 2), noise_fn=brownian_noise(sampler, range(300)))
            if name == "brownian"
            else sampler.sample(model, (300, 2), seed=range(300))
            for sampler in (few, many)
        ]
        apart[name] = float((images[0] - images[1]).norm(dim=1).mean())
    assert apart["brownian"] < 0.5 * apart["by row"], apart


def test_a_late_start_and_a_second_walk_get_the_same_noise() -> None:
    sampler = DDIMSampler(LINEAR, steps=6, eta=0.8, prediction="x0")
    noise = brownian_noise(sampler, [4, 5])
    states = list(sampler.iterate(smooth, (2, 3), noise_fn=noise))
    assert torch.equal(sampler.sample(smooth, (2, 3), noise_fn=noise), states[-1].x)
    assert torch.equal(sampler.sample(smooth, x_T=states[1].x, start_at=2, noise_fn=noise), states[-1].x)
    assert torch.equal(noise(-1, torch.empty(2, 3)), latents_of([4, 5], (3,)))


@pytest.mark.parametrize(("t", "t_next"), [((9, 0), (0, None)), ((9, 9, 4), (9, 4, None))], ids=["at the image", "at one place"])
def test_noisy_rows_that_go_nowhere_are_refused(t: tuple[int, ...], t_next: tuple[int | None, ...]) -> None:
    plan = Plan(t, t_next, [0.5] * len(t), [0.5] * len(t), [0.1] * len(t))
    row = 1 if len(t) == 2 else 0
    with pytest.raises(ValueError, match=f"row {row} adds noise but begins and ends at t={t[row]}, .*: give seed= instead"):
        brownian_noise(PlanSampler.from_plan(NoiseSchedule.linear(), plan), [1, 2])
    quiet = Plan(t, t_next, [0.5] * len(t), [0.5] * len(t), [0.0] * len(t))
    brownian_noise(PlanSampler.from_plan(NoiseSchedule.linear(), quiet), [1, 2])


def test_bad_seeds_are_refused() -> None:
    sampler = DDIMSampler(LINEAR, steps=3, eta=1.0)
    with pytest.raises(TypeError, match=r"seeds must be a sequence of one seed a sample, got 7: sampler\.seeds\(7, count\)"):
        brownian_noise(sampler, 7)
    with pytest.raises(ValueError, match="a seed must be an int"):
        brownian_noise(sampler, [-1])
    with pytest.raises(TypeError, match="sampler must be the sampler"):
        brownian_noise(LINEAR, [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the noise is of 2 seeds, but the batch has 3 samples"):
        sampler.sample(smooth, (3, 2), noise_fn=brownian_noise(sampler, [1, 2]))
