"""`sample` from the outside: what it computes, what it asks for, what it refuses."""

import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import oracle
from ddimkit import DDIMSampler, DDPMSampler, DynamicThreshold, NoiseSchedule, PlanSampler
from ddimkit.prediction import Clip
from ddimkit.samplers.ddpm import Variance
from plugins import AdamsBashforth2
from probes import Counting, gaussian_x0, normal, smooth, twice
from strategies import schedules, timesteps, walks

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


def as_array(x: Tensor) -> oracle.Array:
    return x.numpy().astype(np.float64)


def eps_model(x: oracle.Array, t: int) -> oracle.Array:
    return np.asarray(x / (1 + x * x) + t / 8000, dtype=np.float64)


def table_of_noise(rows: int, shape: tuple[int, ...]) -> dict[int, Tensor]:
    return {draw: normal(*shape, seed=draw + 1, dtype=torch.float64) for draw in range(-1, rows)}


# What it computes


@pytest.mark.promise(1)
@given(walks(max_size=9, zero_terminal=False), st.sampled_from([0.0, 0.3, 1.0]))
def test_ddim_is_the_papers_chain(walk: tuple[list[float], tuple[int, ...]], eta: float) -> None:
    alpha_bars, times = walk
    noise = table_of_noise(len(times), (2, 3))
    sampler = DDIMSampler(NoiseSchedule.from_alpha_bars(alpha_bars), timesteps=times, eta=eta)
    states = list(sampler.iterate(smooth, x_T=noise[-1], noise_fn=lambda draw, _: noise[draw]))
    noises = [as_array(noise[k]) for k in range(len(times))]
    expected = oracle.ddim_chain(eps_model, as_array(noise[-1]), alpha_bars, times, eta, noises)
    for state, x in zip(states, expected[1:], strict=True):
        # At eta = 1 the printed square root of a difference keeps half the digits.
        np.testing.assert_allclose(state.x.numpy(), x, rtol=1e-6, atol=1e-6)


@pytest.mark.promise(8, 14)
@given(walks(max_size=9, zero_terminal=False), st.sampled_from(["fixed_small", "fixed_large", "learned_range"]))
def test_ddpm_is_the_papers_chain(walk: tuple[list[float], tuple[int, ...]], variance: Variance) -> None:
    alpha_bars, times = walk
    noise = table_of_noise(len(times), (2, 3))
    sampler = DDPMSampler(NoiseSchedule.from_alpha_bars(alpha_bars), timesteps=times, variance=variance)
    learned = variance == "learned_range"
    result = sampler.sample(twice if learned else smooth, x_T=noise[-1], noise_fn=lambda draw, _: noise[draw])
    noises = [as_array(noise[k]) for k in range(len(times))]
    v_model = (lambda x, t: np.asarray(x / (1 + x * x), dtype=np.float64)) if learned else None
    expected = oracle.ddpm_chain(eps_model, as_array(noise[-1]), alpha_bars, times, variance, noises, v_model)
    np.testing.assert_allclose(result.numpy(), expected[-1], rtol=1e-8, atol=1e-8)


@pytest.mark.promise(12)
@given(walks(max_size=9, zero_terminal=False), st.sampled_from([(-0.5, 0.7), DynamicThreshold(quantile=0.8)]))
def test_eps_is_derived_anew_from_the_clipped_x0(walk: tuple[list[float], tuple[int, ...]], clip: Clip) -> None:
    alpha_bars, times = walk
    sampler = DDIMSampler(NoiseSchedule.from_alpha_bars(alpha_bars), timesteps=times, clip=clip)
    x = as_array(normal(2, 5, dtype=torch.float64))
    result = sampler.sample(smooth, x_T=torch.from_numpy(x.copy()))
    for (now, after), t in zip(oracle.alpha_bar_pairs(alpha_bars, times), times, strict=True):
        x0 = oracle.x0_from_eps(x, eps_model(x, t), now)
        if isinstance(clip, DynamicThreshold):
            x0 = np.stack([oracle.dynamic_threshold(sample, clip.quantile) for sample in x0])
        elif clip is not None:
            x0 = np.clip(x0, *clip)
        x = oracle.ddim_from_x0(x, x0, now, after, 0.0, 0.0)
    np.testing.assert_allclose(result.numpy(), x, rtol=1e-8, atol=1e-8)


@pytest.mark.promise(6)
@given(
    schedules(max_size=12),
    st.data(),
    st.sampled_from(["epsilon", "x0", "v", "flow"]),
    st.sampled_from([None, (-1.0, 1.0), DynamicThreshold()]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_without_noise_the_result_is_the_last_x0(
    schedule: NoiseSchedule, data: st.DataObject, prediction: Any, clip: Clip, dtype: torch.dtype
) -> None:
    times = data.draw(timesteps(schedule.num_timesteps))
    sampler = DDIMSampler(schedule, timesteps=times, prediction=prediction, clip=clip)
    given_last: list[tuple[Tensor, Tensor]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        given_last[:] = [(x.clone(), smooth(x, t))]
        return given_last[0][1]

    result = sampler.sample(model, x_T=normal(2, 3).to(dtype))
    assert result.dtype is dtype
    assert torch.equal(result, sampler.predict_x0(*given_last[0], len(times) - 1))


@pytest.mark.promise(27)
def test_one_seed_at_20_50_and_100_steps_lands_closer_than_two_seeds() -> None:
    model = gaussian_x0(SCHEDULE, variance=0.25, mean=0.1)
    results = [
        DDIMSampler(SCHEDULE, steps=steps, prediction="x0").sample(model, (32, 16), seed=0, dtype=torch.float64)
        for steps in (20, 50, 100)
    ]
    other = DDIMSampler(SCHEDULE, steps=100, prediction="x0").sample(model, (32, 16), seed=1000, dtype=torch.float64)
    apart = (results[2] - other).norm(dim=1)
    assert all(bool(((results[2] - x).norm(dim=1) < apart / 3).all()) for x in results[:2])


# What it asks the model


@pytest.mark.promise(3)
@given(schedules(max_size=12), st.data(), st.sampled_from([DDIMSampler, DDPMSampler, AdamsBashforth2]))
def test_model_calls_are_nfe(schedule: NoiseSchedule, data: st.DataObject, kind: type[PlanSampler]) -> None:
    sampler = kind(schedule, timesteps=data.draw(timesteps(schedule.num_timesteps)))
    model = Counting()
    sampler.sample(model, x_T=normal(2, 3))
    assert model.calls == sampler.nfe == len(sampler.timesteps) == sampler.record()["nfe"]
    assert [t.tolist() for t in model.times] == [[t, t] for t in sampler.timesteps]


@every_sampler
def test_a_late_start_calls_fewer(sampler: PlanSampler) -> None:
    model = Counting()
    sampler.sample(model, x_T=normal(2, 3), start_at=3, seed=0)
    assert [int(t[0]) for t in model.times] == list(TIMES[3:])
    assert sampler.record(start_at=3)["nfe"] == model.calls == 2


@pytest.mark.promise(19)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@every_sampler
def test_x_keeps_its_dtype_and_t_is_int64(sampler: PlanSampler, dtype: torch.dtype) -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        assert (x.dtype, t.dtype, t.shape, t.device) == (dtype, torch.int64, (2,), x.device)
        return smooth(x, t)

    assert sampler.sample(model, (2, 3), seed=0, dtype=dtype).dtype is dtype
    assert sampler.sample(model, x_T=normal(2, 3).to(dtype), seed=0).dtype is dtype


@pytest.mark.promise(19)
@pytest.mark.parametrize("given_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@every_sampler
def test_a_models_own_precision_is_cast_to_xs(sampler: PlanSampler, given_dtype: torch.dtype) -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        assert x.dtype is torch.float32
        return smooth(x, t).to(given_dtype)

    assert sampler.sample(model, (2, 3), seed=0).dtype is torch.float32


@pytest.mark.promise(31)
@given(
    st.sampled_from([*SAMPLERS.values(), DDIMSampler(SCHEDULE, timesteps=TIMES, eta=1.0, clip=DynamicThreshold())]),
    st.lists(st.integers(0, 4), min_size=1, max_size=5).map(tuple),
    st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_any_shape(sampler: PlanSampler, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = sampler.sample(smooth, shape, seed=0, dtype=dtype)
    assert (x.shape, x.dtype) == (shape, dtype)
    assert [s.x.shape for s in sampler.iterate(smooth, shape, seed=0, dtype=dtype)] == [shape] * len(TIMES)


@every_sampler
def test_model_kwargs_reach_every_call(sampler: PlanSampler) -> None:
    def model(x: Tensor, t: Tensor, *, shift: float, labels: Tensor) -> Tensor:
        return smooth(x, t) + shift * labels[:, None]

    keywords: dict[str, Any] = {"shift": 0.1, "labels": torch.arange(2.0)}
    bound = sampler.sample(lambda x, t: model(x, t, **keywords), (2, 3), seed=0)
    assert torch.equal(bound, sampler.sample(model, (2, 3), seed=0, model_kwargs=keywords))
    *_, last = sampler.iterate(model, (2, 3), seed=0, model_kwargs=keywords)
    assert torch.equal(bound, last.x)
    with pytest.raises(TypeError, match="labels"):
        sampler.sample(model, (2, 3), seed=0, model_kwargs={"shift": 0.1})


@pytest.mark.promise(36)
def test_train_mode_warns_once_and_stays() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return smooth(x, t)

    net, sampler = Net(), SAMPLERS["ddim"]
    with pytest.warns(UserWarning, match=r"model\.eval\(\)") as caught:
        sampler.sample(net, (2, 3), seed=0)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert net.training
    sampler.sample(net.eval(), (2, 3), seed=0)
    assert not net.training


@pytest.mark.promise(5)
@pytest.mark.parametrize("way", ["sample", "iterate"])
def test_starting_low_from_pure_noise_warns_once(way: str) -> None:
    sampler = DDIMSampler(SCHEDULE, steps=501, spacing="leading")
    with pytest.warns(UserWarning, match="t=500.*alpha_bar") as caught:
        getattr(sampler, way)(smooth, (2, 3), seed=0)
    assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.sample(smooth, x_T=normal(2, 3))


# Clipping


@pytest.mark.promise(13)
@given(st.sampled_from([DDIMSampler, DDPMSampler]), st.sampled_from([None, (-1, 1), [0.0, 0.5], DynamicThreshold()]))
def test_clipping_is_off_unless_asked_for(kind: type[PlanSampler], clip: Any) -> None:
    plain = kind(SCHEDULE, timesteps=TIMES, prediction="x0")
    asked = kind(SCHEDULE, timesteps=TIMES, prediction="x0", clip=clip)
    assert plain.clip is None
    assert plain.record()["settings"]["clip"] is None

    def model(x: Tensor, t: Tensor) -> Tensor:
        return 5 * torch.tanh(x)

    low, high = clip if isinstance(clip, tuple | list) else (-1, 1)
    for state in asked.iterate(model, (2, 3), seed=0):
        inside = bool(((state.x0 >= low) & (state.x0 <= high)).all())
        assert inside == (clip is not None)
    stated = {"quantile": 0.995, "max": None} if isinstance(clip, DynamicThreshold) else clip and [float(low), float(high)]
    assert json.loads(json.dumps(asked.record()))["settings"]["clip"] == stated


@pytest.mark.parametrize("number", [np.int64(5), np.int32(5)])
def test_the_record_of_numpy_numbers_is_json(number: Any) -> None:
    record = DDIMSampler(SCHEDULE, steps=number, eta=np.float64(0.5)).record(seed=number)
    assert json.loads(json.dumps(record)) == record
    assert record["settings"]["steps"] == record["call"]["seeds"] == 5
