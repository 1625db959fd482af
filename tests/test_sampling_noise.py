"""Where a run's random numbers come from: seeds, a generator or the caller's function, and which row asks for which."""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddimkit import DDIMSampler, DDPMSampler, NoiseSchedule, PlanSampler
from ddimkit.noise import STREAM_SAMPLER, STREAM_X_T, keyed_normal
from plugins import AdamsBashforth2
from probes import normal, smooth
from strategies import SEEDS, schedules, timesteps

SCHEDULE = NoiseSchedule.linear()
TIMES = (999, 760, 400, 130, 9)

SAMPLERS: dict[str, PlanSampler] = {
    "ddim": DDIMSampler(SCHEDULE, timesteps=TIMES),
    "ddim-eta": DDIMSampler(SCHEDULE, timesteps=TIMES, eta=0.4),
    "ddpm-small": DDPMSampler(SCHEDULE, timesteps=TIMES),
    "ddpm-large": DDPMSampler(SCHEDULE, timesteps=TIMES, variance="fixed_large"),
    "multistep": AdamsBashforth2(SCHEDULE, timesteps=TIMES),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@pytest.mark.promise(7)
@given(
    schedules(max_size=12),
    st.data(),
    st.sampled_from([(DDIMSampler, {"eta": 1.0}), *((DDPMSampler, {"variance": v}) for v in ("fixed_small", "fixed_large"))]),
)
def test_noise_is_asked_for_every_row_but_the_last(schedule: NoiseSchedule, data: st.DataObject, kind: Any) -> None:
    times = data.draw(timesteps(schedule.num_timesteps))
    sampler, draws = kind[0](schedule, timesteps=times, **kind[1]), list[int]()
    x_T = normal(2, 3)

    def noise_fn(draw: int, like: Tensor) -> Tensor:
        draws.append(draw)
        return torch.ones_like(like)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler.sample(smooth, (2, 3), noise_fn=noise_fn)
    assert draws == [-1, *range(len(times) - 1)]
    draws.clear()
    start = data.draw(st.integers(0, len(times) - 1))
    states = list(sampler.iterate(smooth, x_T=x_T, start_at=start, noise_fn=noise_fn))
    assert draws == list(range(start, len(times) - 1))
    for state in states:
        draws.clear()
        list(sampler.iterate(smooth, resume=state, noise_fn=noise_fn))
        assert draws == list(range(state.index + 1, len(times) - 1))


@pytest.mark.promise(10)
@given(schedules(max_size=12), st.data())
def test_eta_0_asks_for_the_first_x_alone(schedule: NoiseSchedule, data: st.DataObject) -> None:
    sampler, draws = DDIMSampler(schedule, timesteps=data.draw(timesteps(schedule.num_timesteps))), list[int]()

    def noise_fn(draw: int, like: Tensor) -> Tensor:
        draws.append(draw)
        return normal(*like.shape)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = sampler.sample(smooth, (2, 3), noise_fn=noise_fn)
    assert draws == [-1]
    assert torch.equal(first, sampler.sample(smooth, x_T=normal(2, 3)))


@pytest.mark.promise(24)
@given(
    st.sampled_from([DDIMSampler(SCHEDULE, timesteps=TIMES, eta=1.0), *SAMPLERS.values()]),
    st.lists(SEEDS, min_size=1, max_size=6),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.data(),
)
def test_a_sample_depends_on_its_seed_alone(
    sampler: PlanSampler, seeds: list[int], shape: tuple[int, ...], data: st.DataObject
) -> None:
    whole = sampler.sample(smooth, (len(seeds), *shape), seed=seeds)
    order = data.draw(st.permutations(range(len(seeds))))
    cut = data.draw(st.integers(0, len(seeds)))
    for part in (order[:cut], order[cut:]):
        picked = sampler.sample(smooth, (len(part), *shape), seed=[seeds[i] for i in part])
        assert torch.equal(picked, whole[list(part)])


@pytest.mark.promise(24, 47)
@every_sampler
def test_an_int_seed_is_the_seeds_that_the_sampler_lists(sampler: PlanSampler) -> None:
    assert torch.equal(sampler.sample(smooth, (3, 4), seed=7), sampler.sample(smooth, (3, 4), seed=sampler.seeds(7, 3)))


@pytest.mark.promise(24)
def test_keyed_noise_is_the_schemes() -> None:
    """x_T is stream 0, row k is draw k of stream 1, counted in the full list."""
    sampler, seeds = DDIMSampler(SCHEDULE, timesteps=TIMES, eta=1.0), torch.tensor([5, 6])
    rows = keyed_normal(seeds, torch.arange(len(TIMES)), (3,), stream=STREAM_SAMPLER)
    x_T = keyed_normal(seeds, torch.tensor([0]), (3,), stream=STREAM_X_T)[0]
    assert torch.equal(
        sampler.sample(smooth, (2, 3), seed=[5, 6]), sampler.sample(smooth, x_T=x_T, noise_fn=lambda draw, _: rows[draw])
    )
    late = sampler.sample(smooth, x_T=x_T, start_at=2, seed=[5, 6])
    assert torch.equal(late, sampler.sample(smooth, x_T=x_T, start_at=2, noise_fn=lambda draw, _: rows[draw]))


def test_a_generator_draws_the_first_x_then_each_noisy_row() -> None:
    sampler, generator = SAMPLERS["ddim-eta"], torch.Generator().manual_seed(3)
    noise = {draw: torch.randn((2, 3), generator=generator) for draw in range(-1, len(TIMES) - 1)}
    expected = sampler.sample(smooth, (2, 3), noise_fn=lambda draw, _: noise[draw])
    assert torch.equal(expected, sampler.sample(smooth, (2, 3), generator=torch.Generator().manual_seed(3)))


@pytest.mark.promise(24, 27)
def test_without_a_seed_one_is_taken_and_told() -> None:
    sampler = SAMPLERS["ddim-eta"]
    *_, last = sampler.iterate(smooth, (2, 3))
    assert last.seeds is not None
    assert torch.equal(last.x, sampler.sample(smooth, (2, 3), seed=last.seeds))
    assert not torch.equal(last.x, sampler.sample(smooth, (2, 3)))


@pytest.mark.parametrize("way", ["sample", "iterate"])
def test_sources_of_noise_exclude_one_another(way: str) -> None:
    sources: dict[str, Any] = {"seed": 0, "generator": torch.Generator(), "noise_fn": lambda draw, like: torch.zeros_like(like)}
    for left_out in sources:
        two = {name: source for name, source in sources.items() if name != left_out}
        with pytest.raises(ValueError, match="exclude one another"):
            getattr(SAMPLERS["ddim"], way)(smooth, (2, 3), **two)


@pytest.mark.promise(24)
@pytest.mark.parametrize("elements", [1, 7, 13, 2**16])
def test_the_size_of_a_block_of_noise_changes_nothing(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = DDIMSampler(SCHEDULE, steps=40, eta=1.0)
    expected = sampler.sample(smooth, (2, 3), seed=5)
    monkeypatch.setattr("ddimkit.loop._BLOCK_ELEMENTS_CPU", elements)
    assert torch.equal(expected, sampler.sample(smooth, (2, 3), seed=5))
    *_, last = sampler.iterate(smooth, (2, 3), seed=5)
    assert torch.equal(expected, last.x)
