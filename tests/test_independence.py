"""What a run must not depend on, and must not touch: torch's defaults, the global random state, buffers of the caller's."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ddimkit import DDIMSampler, DynamicThreshold, NoiseSchedule, Plan, PlanSampler, SamplerState, load_pretrained
from plugins import AdamsBashforth2

SCHEDULE = NoiseSchedule.linear()
TIMES = (999, 700, 400, 100)


def smooth(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x) * (0.5 + t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1)) / 2000)


@pytest.fixture(params=[torch.float64, torch.float16], ids=str)
def other_default(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(before)


EXPECTED = DDIMSampler(SCHEDULE, timesteps=TIMES, eta=0.7).sample(smooth, (3, 5), seed=4)


@pytest.mark.promise(24)
def test_noise_ignores_the_default_dtype(other_default: None) -> None:
    assert torch.equal(DDIMSampler(SCHEDULE, timesteps=TIMES, eta=0.7).sample(smooth, (3, 5), seed=4), EXPECTED)


@pytest.mark.promise(26)
def test_loading_a_model_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    load_pretrained("mnist")
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_fn_may_refill_one_buffer() -> None:
    buffer = torch.empty(3, 5)

    def fresh(draw: int, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(draw + 1))

    sampler = DDIMSampler(SCHEDULE, timesteps=TIMES, eta=1.0)
    expected = sampler.sample(smooth, (3, 5), noise_fn=fresh)
    assert torch.equal(sampler.sample(smooth, (3, 5), noise_fn=lambda d, like: buffer.copy_(fresh(d, like))), expected)


@pytest.mark.promise(33)
def test_writing_into_a_states_x0_changes_no_later_row() -> None:
    sampler = AdamsBashforth2(SCHEDULE, timesteps=TIMES)
    expected = sampler.sample(smooth, (3, 5), seed=0)

    def scribble(state: SamplerState) -> None:
        state.x0.zero_()

    assert torch.equal(sampler.sample(smooth, (3, 5), seed=0, callback=scribble), expected)


class Greedy(PlanSampler):
    """Reads history that its first row cannot have."""

    def plan(self) -> Plan:
        plan = AdamsBashforth2(self.schedule, timesteps=self.timesteps).plan()
        b = plan.b.copy()
        b[0] = [0.5, 0.5]
        return Plan(plan.t, plan.t_next, plan.a, b, plan.c)


def test_history_that_cannot_be_there_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0 reads 1 earlier x0 predictions, but 0 come before it"):
        Greedy(SCHEDULE, timesteps=TIMES).sample(smooth, (3, 5), seed=0)
    shallow = list(DDIMSampler(SCHEDULE, timesteps=TIMES).iterate(smooth, (3, 5), seed=0))
    with pytest.raises(ValueError, match="row 1 reads 1 earlier x0 predictions, but 0 come before it"):
        AdamsBashforth2(SCHEDULE, timesteps=TIMES).iterate(smooth, resume=shallow[0])


def test_dynamic_threshold_takes_more_than_torch_quantile_does() -> None:
    x0 = torch.linspace(-4, 4, 2**24 + 2).reshape(2, -1)
    clipped = DynamicThreshold(quantile=0.5)(x0)
    assert clipped.abs().max() == 1


@pytest.mark.cuda
@pytest.mark.promise(20)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_no_synchronisation_between_the_first_and_the_last_call(eta: float) -> None:
    sampler, calls = DDIMSampler(SCHEDULE, steps=100, eta=eta), 0

    def model(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        torch.cuda.set_sync_debug_mode("error" if calls < sampler.nfe else "default")
        return smooth(x, t)

    try:
        sampler.sample(model, (4, 3, 8, 8), seed=0, device="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert calls == sampler.nfe
