"""What the loop does to tensors: where it makes them, which it writes to, when it reads one back."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ddimkit import DDIMSampler, DDPMSampler, DynamicThreshold, NoiseSchedule, NonFiniteError, PlanSampler
from ddimkit.prediction import Clip
from ddimkit.testing import NoFloat64
from plugins import AdamsBashforth2
from probes import Counting, HostReads, PeakBytes, normal, smooth, twice

SCHEDULE = NoiseSchedule.linear()
TIMES = (999, 760, 400, 130, 9)
CLIPS: tuple[Clip, ...] = (None, (-1.0, 1.0), DynamicThreshold(), DynamicThreshold(max=2.0))

VARIETIES: dict[str, PlanSampler] = {
    **{
        f"ddim-{eta}-{i}": DDIMSampler(SCHEDULE, timesteps=TIMES, eta=eta, clip=c)
        for eta in (0.0, 1.0)
        for i, c in enumerate(CLIPS)
    },
    "ddpm-large": DDPMSampler(SCHEDULE, timesteps=TIMES, variance="fixed_large"),
    "ddpm-learned": DDPMSampler(SCHEDULE, timesteps=TIMES, variance="learned_range"),
    "multistep": AdamsBashforth2(SCHEDULE, timesteps=TIMES),
}
every_variety = pytest.mark.parametrize("sampler", VARIETIES.values(), ids=VARIETIES)


def model_for(sampler: PlanSampler) -> Any:
    return twice if sampler.plan().c_max is not None else smooth


# Where tensors live, and when they are read


@pytest.mark.promise(18)
@pytest.mark.parametrize("device", ["cpu", "meta"])
@every_variety
def test_no_float64_unless_x_is(sampler: PlanSampler, device: str) -> None:
    """The meta device stands for one without float64: everything a device would hold is seen, and nothing can be read back."""
    model = model_for(sampler)
    x, state = normal(2, 4).to(device), []
    with HostReads(), NoFloat64():
        assert sampler.sample(model, (2, 4), seed=0, device=device).device.type == device
        sampler.sample(model, (2, 4), seed=0, device=device, callback=state.append)
        sampler.sample(model, x_T=x, start_at=2, noise_fn=lambda _, like: torch.zeros_like(like))
        list(sampler.iterate(model, resume=state[1]))
        sampler.step(x, model(x, torch.tensor([9, 9], device=device)), 4, history=[x])


@pytest.mark.promise(18)
@every_variety
def test_step_by_a_tensor_sends_no_float64_to_the_device(sampler: PlanSampler) -> None:
    class OnDevice(NoFloat64):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            assert not (isinstance(result, Tensor) and result.is_meta and result.dtype is torch.float64), func
            return result

    x = normal(2, 4).to("meta")
    output = model_for(sampler)(x, torch.tensor([400, 400], device="meta"))
    with OnDevice():
        for index in (torch.tensor(2, device="meta"), torch.tensor([2, 0], device="meta")):
            assert sampler.step(x, output, index, noise=x, history=[x]).is_meta
            assert sampler.predict_x0(x, output, index).is_meta


@pytest.mark.promise(18)
def test_the_fake_device_sees_float64() -> None:
    """The mode is not blind: a float64 run, and a model that widens its input, are seen."""
    for model, dtype in ((smooth, torch.float64), (lambda x, t: smooth(x.double(), t), torch.float32)):
        with NoFloat64(), pytest.raises(AssertionError, match="float64"):
            VARIETIES["ddim-0.0-0"].sample(model, (2, 4), seed=0, dtype=dtype)


@pytest.mark.promise(20, 33)
@pytest.mark.parametrize("steps", [1, 4, 70])
@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@every_variety
def test_one_host_read_in_a_whole_run(sampler: PlanSampler, device: str, look: bool, steps: int) -> None:
    kind, clip = type(sampler), sampler.clip
    settings = {name: getattr(sampler, name) for name in ("eta", "variance") if hasattr(sampler, name)}
    sampler = kind(SCHEDULE, steps=steps, clip=clip, **settings)
    with HostReads() as reads:
        sampler.sample(model_for(sampler), (2, 4), seed=0, device=device, callback=(lambda state: None) if look else None)
    assert reads.names == ["_local_scalar_dense"]


@pytest.mark.promise(20)
def test_the_counter_sees_reads() -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        return smooth(x, t) * (1 if x.sum() > 0 else 2) * float(t[0] > 0)

    with HostReads() as reads:
        VARIETIES["ddim-0.0-0"].sample(model, (2, 4), seed=0)
    assert len(reads.names) == 2 * len(TIMES) + 1


@pytest.mark.promise(23)
@pytest.mark.parametrize("kind", [DDIMSampler, DDPMSampler, AdamsBashforth2])
def test_peak_memory_does_not_grow_with_the_steps(kind: type[PlanSampler]) -> None:
    peaks, shape = [], (1, 2**16)
    for steps in (4, 24):
        sampler = kind(SCHEDULE, steps=steps)
        with PeakBytes() as mode:
            sampler.sample(smooth, shape, seed=0)
        peaks.append(mode.peak)
    assert peaks[0] > 3 * 4 * 2**16
    assert peaks[1] - peaks[0] < 4 * 2**16 / 20


@pytest.mark.promise(23)
def test_the_gauge_sees_a_kept_trajectory() -> None:
    kept: list[Any] = []
    with PeakBytes() as mode:
        DDIMSampler(SCHEDULE, steps=12).sample(smooth, (1, 2**16), seed=0, callback=kept.append)
    assert mode.peak > 12 * 4 * 2**16


# Which tensors it writes to


@every_variety
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_x_T_and_what_the_model_was_given_last_are_not_written_to(sampler: PlanSampler, dtype: torch.dtype) -> None:  # noqa: N802  # the paper's name
    x_T, model = normal(2, 4).to(dtype), model_for(sampler)
    before = x_T.clone()
    last: list[tuple[Tensor, Tensor]] = []

    def keeping(x: Tensor, t: Tensor) -> Tensor:
        assert x.data_ptr() != x_T.data_ptr()
        assert all(torch.equal(kept, copy) for kept, copy in last)
        last[:] = [(x, x.clone())]
        return model(x, t)

    result = sampler.sample(keeping, x_T=x_T, seed=0)
    assert torch.equal(x_T, before)
    assert torch.equal(*last[0])
    assert torch.equal(result, sampler.sample(model, x_T=x_T, seed=0))


class ReturnsItsInput:
    """x itself; x as it was `late` calls ago; or a view of one of them."""

    def __init__(self, late: int, view: bool) -> None:
        self.late, self.view, self.seen = late, view, list[Tensor]()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append(x)
        x = self.seen[max(len(self.seen) - 1 - self.late, 0)]
        return x.view(-1).view(x.shape) if self.view else x


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("kind", [DDIMSampler, DDPMSampler, AdamsBashforth2])
def test_a_model_may_return_what_it_was_given(kind: type[PlanSampler], late: int, view: bool) -> None:
    """This call's x or the last call's, which the caller then must not have begun to overwrite."""
    sampler = kind(SCHEDULE, timesteps=TIMES)
    *_, expected = sampler.iterate(ReturnsItsInput(late, view), (2, 3), seed=0)
    assert torch.equal(sampler.sample(ReturnsItsInput(late, view), (2, 3), seed=0), expected.x)


@every_variety
def test_states_are_fresh_tensors(sampler: PlanSampler) -> None:
    """A caller may keep every state: none shares memory with another, and none changes later."""
    kept: list[tuple[Tensor, Tensor]] = []
    for state in sampler.iterate(model_for(sampler), (2, 4), seed=0):
        kept += [(tensor, tensor.clone()) for tensor in (state.x, state.x0)]
    assert all(torch.equal(tensor, copy) for tensor, copy in kept)
    assert len({x.data_ptr() for x, _ in kept}) == len(kept)


@every_variety
def test_given_noise_is_not_written_to(sampler: PlanSampler) -> None:
    noise = normal(2, 4)
    sampler.sample(model_for(sampler), (2, 4), noise_fn=lambda draw, like: noise)
    assert torch.equal(noise, normal(2, 4))


@given(st.integers(0, 2**32 - 1), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.sampled_from([0.0, 1.0]))
def test_memory_layout_changes_no_bit(seed: int, dtype: torch.dtype, eta: float) -> None:
    """A model that answers in channels-last gives the bits of one that does not, in `sample` and in `iterate`."""

    def channels_last(x: Tensor, t: Tensor) -> Tensor:
        return smooth(x, t).contiguous(memory_format=torch.channels_last)

    sampler = DDIMSampler(SCHEDULE, timesteps=TIMES, eta=eta)
    x_T = normal(2, 3, 5, 7, seed=seed).to(dtype)
    expected = sampler.sample(smooth, x_T=x_T, seed=0)
    for x in (x_T, x_T.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(expected, sampler.sample(channels_last, x_T=x, seed=0))
        *_, last = sampler.iterate(channels_last, x_T=x, seed=0)
        assert torch.equal(expected, last.x)


# Half precision


@given(
    st.sampled_from([torch.float16, torch.bfloat16]),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.sampled_from(CLIPS),
    st.integers(0, 2**32 - 1),
)
def test_half_precision_is_float32_rounded_once_a_step(dtype: torch.dtype, eta: float, clip: Clip, seed: int) -> None:
    sampler = DDIMSampler(SCHEDULE, timesteps=TIMES, eta=eta, clip=clip, prediction="v")
    noise = {draw: normal(2, 4, seed=seed + draw) for draw in range(len(TIMES))}
    x = normal(2, 4, seed=seed).to(dtype)
    result = sampler.sample(smooth, x_T=x, noise_fn=lambda draw, _: noise[draw])
    for k, t in enumerate(TIMES):
        output = smooth(x, torch.tensor([t, t])).float()
        x = sampler.step(x.float(), output, k, noise=noise[k]).to(dtype)
    assert torch.equal(result, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_coefficients_written_out(dtype: torch.dtype) -> None:
    """The same without `step`: s, n and the row in float64, then one float32 expression, then one rounding."""
    sampler, x = DDIMSampler(SCHEDULE, timesteps=TIMES), normal(2, 4).to(dtype)
    plan, s, n = sampler.plan(), SCHEDULE.signal, SCHEDULE.noise
    result = sampler.sample(smooth, x_T=x)
    for k, t in enumerate(TIMES):
        output = smooth(x, torch.tensor([t, t])).float()
        on_x, on_output = plan.a[k] + plan.b[k, 0] * (1 / s[t]), plan.b[k, 0] * (-n[t] / s[t])
        x = torch.add(x.float() * float(on_x), output, alpha=float(on_output)).to(dtype)
    assert torch.equal(result, x)


def test_half_precision_history_stays_float32() -> None:
    sampler = AdamsBashforth2(SCHEDULE, timesteps=TIMES)
    for state in sampler.iterate(smooth, (2, 4), seed=0, dtype=torch.bfloat16):
        assert [h.dtype for h in state.history] == [torch.float32]
        assert state.x0.dtype is torch.bfloat16
        assert torch.equal(state.history[0].to(torch.bfloat16), state.x0)


# What is not a number


class BadAt(Counting):
    """`smooth` until the k-th call, which holds one NaN or infinity; then whatever comes of it."""

    def __init__(self, t: int, value: float) -> None:
        super().__init__()
        self.t, self.value, self.grad = t, value, list[bool]()

    def __call__(self, x: Tensor, t: Tensor, **keywords: Any) -> Tensor:
        self.grad.append(torch.is_grad_enabled())
        output = super().__call__(x, t)
        if int(t[0]) == self.t:
            output[-1, -1] = self.value
        return output


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("row", range(len(TIMES)))
@pytest.mark.parametrize("look", [False, True])
def test_keyed_runs_name_the_step_where_it_began(row: int, value: float, look: bool) -> None:
    sampler, model = DDIMSampler(SCHEDULE, timesteps=TIMES, eta=1.0, prediction="x0"), BadAt(TIMES[row], value)
    with pytest.raises(NonFiniteError, match=rf"step {row} \(t={TIMES[row]}\)"):
        sampler.sample(model, (2, 3), seed=0, callback=(lambda state: None) if look else None)
    assert model.calls == len(TIMES) + row + 1
    assert not any(model.grad), "the second walk ran with autograd on"


def test_a_late_start_names_the_full_lists_step() -> None:
    sampler = DDIMSampler(SCHEDULE, timesteps=TIMES, prediction="x0")
    with pytest.raises(NonFiniteError, match=r"step 3 \(t=130\)"):
        sampler.sample(BadAt(130, np.nan), x_T=normal(2, 3), start_at=2)
    states = list(sampler.iterate(smooth, (2, 3), seed=0))
    with pytest.raises(NonFiniteError, match=r"step 3 \(t=130\)"):
        list(sampler.iterate(BadAt(130, np.nan), resume=states[1]))


@pytest.mark.parametrize("source", ["generator", "noise_fn"])
def test_other_runs_are_not_walked_again(source: str) -> None:
    noise: dict[str, Any] = {
        "generator": torch.Generator().manual_seed(0),
        "noise_fn": lambda draw, like: torch.zeros_like(like),
    }
    model = BadAt(400, np.nan)
    with pytest.raises(NonFiniteError, match="seed="):
        DDIMSampler(SCHEDULE, timesteps=TIMES, eta=1.0).sample(model, (2, 3), **{source: noise[source]})
    assert model.calls == len(TIMES)


def test_a_model_that_is_bad_only_once_is_told_apart() -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        calls.append(0)
        return smooth(x, t) * (np.nan if len(calls) == 2 else 1)

    calls: list[int] = []
    with pytest.raises(NonFiniteError, match="not deterministic"):
        DDIMSampler(SCHEDULE, timesteps=TIMES).sample(model, (2, 3), seed=0)


# Autograd


@pytest.mark.promise(35)
@every_variety
def test_sample_holds_no_graph(sampler: PlanSampler) -> None:
    weight = nn.Parameter(torch.ones(()))
    modes: list[bool] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        modes.append(torch.is_grad_enabled())
        return model_for(sampler)(x, t) * weight

    x_T = normal(2, 4).requires_grad_()
    for x in (sampler.sample(model, x_T=x_T, seed=0), *(s.x for s in sampler.iterate(model, x_T=x_T, seed=0))):
        assert not x.requires_grad
        assert x.grad_fn is None
    assert not any(modes)
    assert torch.is_grad_enabled()


def test_inference_mode_of_the_caller_is_fine() -> None:
    sampler = DDIMSampler(SCHEDULE, timesteps=TIMES, eta=1.0)
    expected = sampler.sample(smooth, (2, 3), seed=0)
    with torch.inference_mode():
        assert torch.equal(expected, sampler.sample(smooth, (2, 3), seed=0))
