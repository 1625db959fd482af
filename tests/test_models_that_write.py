"""A model that writes into the x it is given is refused, by name, whichever way it is asked."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddimkit import DDIMSampler, DPMSolverPPSampler, NoiseSchedule, PlanSampler, graphs
from probes import normal, smooth

S = NoiseSchedule.linear()
SAMPLERS: dict[str, PlanSampler] = {
    "ddim": DDIMSampler(S, 4),
    "eta": DDIMSampler(S, 4, eta=0.5, clip=(-1, 1)),
    "multistep": DPMSolverPPSampler(S, 4, prediction="v"),
}


class InPlaceFirst(nn.Module):
    """A network that begins with an in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return smooth(self.first(x), t)


def halves(x: Tensor, t: Tensor) -> Tensor:
    return smooth(x.mul_(0.5), t)


def writes_into_a_view(x: Tensor, t: Tensor) -> Tensor:
    x[:1].view(-1)[0] = 0
    return smooth(x, t)


def writes_late(x: Tensor, t: Tensor) -> Tensor:
    return smooth(x.add_(1) if int(t[0]) < 500 else x, t)


WRITERS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "module": (InPlaceFirst().eval(), "InPlaceFirst"),
    "function": (halves, "halves"),
    "view": (writes_into_a_view, "writes_into_a_view"),
    "late": (writes_late, "writes_late"),
    "partial": (partial(partial(halves)), "halves"),
}
WAYS: dict[str, Callable[[PlanSampler, Any], object]] = {
    "sample": lambda s, model: s.sample(model, (2, 3), seed=0),
    "callback": lambda s, model: s.sample(model, (2, 3), seed=0, callback=lambda state: None),
    "parts": lambda s, model: s.sample(model, (2, 3), seed=0, batch_size=1),
    "iterate": lambda s, model: list(s.iterate(model, (2, 3), seed=0)),
    "half": lambda s, model: s.sample(model, (2, 3), seed=0, dtype=torch.bfloat16),
    "x_T": lambda s, model: s.sample(model, x_T=normal(2, 3), seed=0),
    "with grad off": lambda s, model: torch.no_grad()(lambda: s.sample(model, (2, 3), seed=0))(),
    "captured": lambda s, model: graphs.capture(s, model, (2, 3))(seed=0),
}


@pytest.mark.promise(49)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_it_is_refused_by_name(sampler: PlanSampler, writer: str, way: str) -> None:
    model, name = WRITERS[writer]
    with pytest.raises(ValueError, match=f"the model {name} wrote into its input x.*x.clone"):
        WAYS[way](sampler, model)


@pytest.mark.promise(49)
def test_a_captured_model_is_checked_when_it_is_captured() -> None:
    captured = graphs.capture(DDIMSampler(S, 4), smooth, (2, 3))
    assert captured.captures == 1
    with pytest.raises(ValueError, match="halves wrote into its input x"):
        graphs.capture(DDIMSampler(S, 4), halves, (2, 3))(seed=0)


@pytest.mark.promise(49)
def test_an_inversion_is_checked() -> None:
    with pytest.raises(ValueError, match="halves wrote into its input x"):
        DDIMSampler(S, 4).invert(halves, normal(2, 3))


@pytest.mark.promise(49)
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_copy_may_be_written_to_and_the_callers_x_between_rows(sampler: PlanSampler) -> None:
    model = InPlaceFirst().eval()
    expected = sampler.sample(lambda x, t: smooth(torch.relu(x), t), (2, 3), seed=0)
    assert torch.equal(expected, sampler.sample(lambda x, t: model(x.clone(), t), (2, 3), seed=0))
    for state in sampler.iterate(smooth, (2, 3), seed=0):
        state.x0.mul_(2)
    with torch.inference_mode():  # no counter: the contract alone forbids it
        sampler.sample(halves, (2, 3), seed=0)
