"""`step` and `predict_x0`: one row as a pure, differentiable function."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracle
from ddimkit import DDIMSampler, DDPMSampler, DynamicThreshold, NoiseSchedule, PlanSampler
from plugins import AdamsBashforth2
from probes import HostReads, normal, smooth, twice

SCHEDULE = NoiseSchedule.linear()
TIMES = (999, 760, 400, 130, 9)
CLIPS = (None, (-1.0, 1.0), DynamicThreshold(quantile=0.8))

SAMPLERS: dict[str, PlanSampler] = {
    **{
        f"ddim-{eta}-{i}": DDIMSampler(SCHEDULE, timesteps=TIMES, eta=eta, clip=c)
        for eta in (0.0, 0.7)
        for i, c in enumerate(CLIPS)
    },
    "ddim-v": DDIMSampler(SCHEDULE, timesteps=TIMES, eta=1.0, prediction="v"),
    "ddpm-large": DDPMSampler(SCHEDULE, timesteps=TIMES, variance="fixed_large"),
    "ddpm-learned": DDPMSampler(SCHEDULE, timesteps=TIMES, variance="learned_range"),
    "multistep": AdamsBashforth2(SCHEDULE, timesteps=TIMES),
    "multistep-clipped": AdamsBashforth2(SCHEDULE, timesteps=TIMES, clip=(-1, 1)),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def output_for(sampler: PlanSampler, x: Tensor) -> Tensor:
    model = twice if sampler.plan().c_max is not None else smooth
    return model(x, torch.full((len(x),), 400))


def inputs(sampler: PlanSampler, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> dict[str, Any]:
    x, noise, earlier = (normal(*shape, seed=seed + i).to(dtype) for i in range(3))
    return {"x_t": x, "model_output": output_for(sampler, x), "noise": noise, "history": [earlier]}


# Three forms of an index


@pytest.mark.promise(21, 30)
@given(
    st.sampled_from(list(SAMPLERS.values())),
    st.integers(0, len(TIMES) - 1),
    st.sampled_from(DTYPES),
    st.lists(st.integers(1, 4), max_size=4).map(tuple),
    st.integers(0, 2**32 - 1),
)
def test_a_tensor_index_gives_the_bits_of_an_int(
    sampler: PlanSampler, index: int, dtype: torch.dtype, shape: tuple[int, ...], seed: int
) -> None:
    """Coefficients as tensors go through addcmul, floats through add: both must round alike."""
    shape = (3, *(shape or (() if sampler.plan().c_max is None else (2,))))
    given_tensors = inputs(sampler, shape, dtype, seed)
    x, output = given_tensors["x_t"], given_tensors["model_output"]
    expected = sampler.step(index=index, **given_tensors)
    assert expected.dtype is dtype
    for tensor in (torch.tensor(index), torch.full((3,), index)):
        assert torch.equal(expected, sampler.step(index=tensor, **given_tensors))
        assert torch.equal(sampler.predict_x0(x, output, index), sampler.predict_x0(x, output, tensor))


@pytest.mark.promise(30)
@given(
    st.sampled_from(list(SAMPLERS.values())),
    st.lists(st.integers(0, len(TIMES) - 1), max_size=6),
    st.sampled_from(DTYPES),
)
def test_a_mixed_batch_is_its_single_steps(sampler: PlanSampler, rows: list[int], dtype: torch.dtype) -> None:
    together = inputs(sampler, (len(rows), 2, 3), dtype)
    x, output = together["x_t"], together["model_output"]
    result = sampler.step(index=torch.tensor(rows, dtype=torch.int64), **together)
    x0 = sampler.predict_x0(x, output, torch.tensor(rows, dtype=torch.int64))
    assert result.shape == x.shape
    for i, row in enumerate(rows):
        one = slice(i, i + 1)
        alone = sampler.step(x[one], output[one], row, noise=together["noise"][one], history=[together["history"][0][one]])
        assert torch.equal(result[one], alone)
        assert torch.equal(x0[one], sampler.predict_x0(x[one], output[one], row))


@pytest.mark.promise(20)
@pytest.mark.parametrize("index", [2, torch.tensor(2), torch.tensor([2, 0, 4])], ids=["int", "()", "(B,)"])
@every_sampler
def test_step_reads_nothing_back(sampler: PlanSampler, index: int | Tensor) -> None:
    with HostReads() as reads:
        tensors = inputs(sampler, (3, 2), torch.float32)
        sampler.step(index=index, **tensors)
        sampler.predict_x0(tensors["x_t"], tensors["model_output"], index)
    assert reads.names == []


# What a row computes


@every_sampler
@pytest.mark.parametrize("row", range(len(TIMES)))
def test_step_is_the_rows_equation(sampler: PlanSampler, row: int) -> None:
    plan, tensors = sampler.plan(), inputs(sampler, (2, 4), torch.float64)
    x, output, z, earlier = (tensors[name] for name in ("x_t", "model_output", "noise", "history"))
    if sampler.plan().c_max is not None:
        output = output[:, :4]
    s, n = float(SCHEDULE.signal[TIMES[row]]), float(SCHEDULE.noise[TIMES[row]])
    x0 = s * x - n * output if sampler.prediction == "v" else (x - n * output) / s
    if isinstance(sampler.clip, tuple):
        x0 = x0.clamp(*sampler.clip)
    elif sampler.clip is not None:
        x0 = torch.stack([torch.from_numpy(oracle.dynamic_threshold(v.numpy(), sampler.clip.quantile)) for v in x0])
    std: Any = plan.c[row]
    if plan.c_max is not None:
        fraction = (tensors["model_output"][:, 4:] + 1) / 2
        std = plan.c[row] ** (1 - fraction) * plan.c_max[row] ** fraction if plan.c[row] else 0.0
    history = [x0, *earlier][: plan.b.shape[1]]
    expected = plan.a[row] * x + sum(weight * v for weight, v in zip(plan.b[row], history, strict=True)) + std * z
    torch.testing.assert_close(sampler.step(index=row, **tensors), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sampler.predict_x0(x, tensors["model_output"], row), x0, rtol=1e-12, atol=1e-12)


@pytest.mark.promise(14)
@pytest.mark.parametrize("row", range(len(TIMES) - 1))
@pytest.mark.parametrize("v", [-1.0, -0.3, 0.0, 1.0])
def test_learned_range_is_nichol_and_dhariwals_eq_15(row: int, v: float) -> None:
    sampler, (now, after) = SAMPLERS["ddpm-learned"], oracle.alpha_bar_pairs(SCHEDULE.alpha_bars.tolist(), TIMES)[row]
    x, eps, z = (normal(2, 3, 4, seed=i, dtype=torch.float64) for i in range(3))
    found = sampler.step(x, torch.cat([eps, torch.full_like(eps, v)], dim=1), row, noise=z)
    spread = (found - sampler.step(x, torch.cat([eps, torch.full_like(eps, v)], dim=1), row, noise=0 * z)) / z
    expected = oracle.ddpm_std(now, after, "learned_range", np.float64(v))  # type: ignore[arg-type]
    np.testing.assert_allclose(spread.numpy(), expected, rtol=1e-8)
    ends = {-1.0: "fixed_small", 1.0: "fixed_large"}
    if v in ends:
        fixed = DDPMSampler(SCHEDULE, timesteps=TIMES, variance=ends[v])  # type: ignore[arg-type]
        torch.testing.assert_close(found, fixed.step(x, eps, row, noise=z), rtol=1e-12, atol=1e-12)


@every_sampler
def test_noise_and_history_that_a_row_does_not_read_are_ignored(sampler: PlanSampler) -> None:
    last, tensors = len(TIMES) - 1, inputs(sampler, (2, 4), torch.float32)
    x, output = tensors["x_t"], tensors["model_output"]
    expected = sampler.step(x, output, last)
    assert torch.equal(expected, sampler.step(x, output, last, noise=x * float("nan")))
    assert torch.equal(expected, sampler.step(x, output, last, history=[x, x, x]))
    assert torch.equal(expected, sampler.predict_x0(x, output, last))


@every_sampler
def test_step_writes_to_none_of_its_inputs(sampler: PlanSampler) -> None:
    for index in (1, torch.tensor(1)):
        tensors = inputs(sampler, (2, 4), torch.float32)
        sampler.step(index=index, **tensors)
        untouched = inputs(sampler, (2, 4), torch.float32)
        for name in ("x_t", "model_output", "noise"):
            assert torch.equal(tensors[name], untouched[name])
        assert torch.equal(tensors["history"][0], untouched["history"][0])


# Gradients


@pytest.mark.promise(35)
@pytest.mark.parametrize("index", [0, 2, 4, torch.tensor(2), torch.tensor([2, 4])], ids=str)
@every_sampler
def test_step_passes_gradcheck(sampler: PlanSampler, index: int | Tensor) -> None:
    if sampler.clip == (-1, 1):
        sampler = type(sampler)(SCHEDULE, timesteps=TIMES, clip=(-1e3, 50.0))  # away from the corners of the random inputs
    if isinstance(sampler.clip, DynamicThreshold):
        sampler = DDIMSampler(SCHEDULE, timesteps=TIMES, clip=DynamicThreshold(quantile=0.8), prediction="x0")
    tensors = inputs(sampler, (2, 4), torch.float64)
    leaves = [tensors["x_t"], tensors["model_output"], tensors["noise"], tensors["history"][0]]
    leaves = [v.mul(3).detach().requires_grad_() for v in leaves]

    def row(x: Tensor, output: Tensor, noise: Tensor, earlier: Tensor) -> Tensor:
        return sampler.step(x, output, index, noise=noise, history=[earlier])

    assert torch.autograd.gradcheck(row, leaves)
    assert torch.autograd.gradcheck(lambda x, output: sampler.predict_x0(x, output, index), leaves[:2])


@pytest.mark.promise(35)
def test_gradients_flow_through_a_whole_chain_of_steps() -> None:
    sampler = SAMPLERS["ddim-v"]
    x = normal(2, 4, dtype=torch.float64).requires_grad_()
    y = x
    for k, t in enumerate(TIMES):
        y = sampler.step(y, smooth(y, torch.tensor([t, t])), k, noise=normal(2, 4, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert bool((gradient != 0).all())


# Refusals


def test_what_a_row_needs_must_be_given() -> None:
    x = normal(2, 4)
    with pytest.raises(ValueError, match="adds noise"):
        SAMPLERS["ddim-0.7-0"].step(x, x, 1)
    with pytest.raises(ValueError, match="reads 1 earlier"):
        SAMPLERS["multistep"].step(x, x, 2)
    SAMPLERS["multistep"].step(x, x, 0)
    with pytest.raises(ValueError, match="noise must have"):
        SAMPLERS["ddim-0.7-0"].step(x, x, 1, noise=x[:1])
    with pytest.raises(ValueError, match="history must have"):
        SAMPLERS["multistep"].step(x, x, 2, history=[x[:1]])


@pytest.mark.parametrize("index", [-1, 5, True, 1.0, "1", torch.tensor(1.0), torch.tensor([1]), torch.tensor(1, dtype=torch.int32)])
def test_a_wrong_index_is_refused(index: Any) -> None:
    x = normal(2, 4)
    for call in (SAMPLERS["ddim-v"].step, SAMPLERS["ddim-v"].predict_x0):
        with pytest.raises((ValueError, TypeError), match="index must be"):
            call(x, x, index)


def test_a_wrong_output_is_refused() -> None:
    x = normal(2, 4)
    for call in (SAMPLERS["ddim-0.0-0"].step, SAMPLERS["ddim-0.0-0"].predict_x0):
        with pytest.raises(ValueError, match=r"\(2, 4\), got \(2, 8\)"):
            call(x, output_for(SAMPLERS["ddpm-learned"], x), 0)
        with pytest.raises(TypeError, match="int64"):
            call(x, x.long(), 0)
