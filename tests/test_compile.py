"""``step`` under torch.compile: one whole graph, and one compilation for all rows and numbers of steps."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from ddimkit import DDIMSampler, DDPMSampler, DPMSolverPPSampler, DynamicThreshold, NoiseSchedule, Plan, PlanSampler, UniPCSampler
from ddimkit._compilers import has_compiler
from plugins import AdamsBashforth2
from probes import normal

SCHEDULE = NoiseSchedule.cosine(200)
one_compilation = pytest.mark.skipif(
    torch.__version__ >= (2, 5) and torch.__version__ < (2, 8), reason="torch 2.5 to 2.7 compiles once for each sampler"
)
SHAPE = (3, 2, 4, 4)

SAMPLERS: dict[str, tuple[Callable[..., PlanSampler], dict[str, Any]]] = {
    "ddim": (DDIMSampler, {}),
    "ddim-noise": (DDIMSampler, {"eta": 0.5}),
    "ddim-clip": (DDIMSampler, {"clip": (-1.0, 1.0), "prediction": "v"}),
    "ddim-threshold": (DDIMSampler, {"clip": DynamicThreshold()}),
    "ddpm-learned": (DDPMSampler, {"variance": "learned_range"}),
    "dpm-3-sde": (DPMSolverPPSampler, {"order": 3, "eta": 1}),
    "unipc-2": (UniPCSampler, {}),
    "plug-in": (AdamsBashforth2, {}),
}


def step(sampler: PlanSampler, x: Tensor, output: Tensor, index: Tensor, noise: Tensor, history: tuple[Tensor, ...]) -> Tensor:
    return sampler.step(x, output, index, noise=noise, history=history)


@one_compilation
@pytest.mark.promise(21)
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("per_sample", [False, True], ids=["()", "(B,)"])
def test_one_whole_graph_for_all_rows_and_numbers_of_steps(name: str, per_sample: bool) -> None:
    make, settings = SAMPLERS[name]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    channels, depth = 4 if name == "ddpm-learned" else 2, make(SCHEDULE, steps=3, **settings).coefficients.depth
    for steps in (20, 7, 200, 50):
        sampler = make(SCHEDULE, steps=steps, **settings)
        for k in (0, 3, steps - 1):
            index = torch.tensor([k, 2, 5] if per_sample else k)
            x, noise, *history = (normal(*SHAPE, seed=seed) for seed in range(5))
            arguments = (x, normal(3, channels, 4, 4, seed=k), index, noise, tuple(history[:depth]))
            assert torch.equal(compiled(sampler, *arguments), step(sampler, *arguments))
    assert counter.frame_count == 1


@pytest.mark.promise(21)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no compiler")
def test_compiled_code_agrees_with_the_eager_step() -> None:
    sampler = DPMSolverPPSampler(SCHEDULE, steps=20, order=3, eta=1, prediction="v")
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True)
    for k in (0, 5, 19):
        x, output, noise, *history = (normal(*SHAPE, seed=seed) for seed in range(5))
        arguments = (x, output, torch.tensor(k), noise, tuple(history))
        torch.testing.assert_close(compiled(sampler, *arguments), step(sampler, *arguments), rtol=1e-6, atol=1e-6)


def test_a_subclass_that_checks_more_has_a_plan_of_its_checked_settings() -> None:
    @dataclass(frozen=True)
    class Percent(DDIMSampler):
        """DDIM whose eta is given in percent, and made a share after the checks of DDIM's own settings."""

        share: float = field(default=100.0, kw_only=True)

        def __post_init__(self) -> None:
            super().__post_init__()
            object.__setattr__(self, "share", self.share / 100)

        def plan(self) -> Plan:
            return DDIMSampler(self.schedule, timesteps=self.timesteps, eta=self.share).plan()

    sampler = Percent(SCHEDULE, steps=5, share=40.0)
    assert sampler.coefficients.plan == sampler.plan() == DDIMSampler(SCHEDULE, steps=5, eta=0.4).plan()


def test_pickles_hold_settings_only() -> None:
    sampler = DDIMSampler(SCHEDULE, steps=50)
    assert "coefficients" in vars(sampler)
    assert len(pickle.dumps(sampler)) < 5000
    assert pickle.loads(pickle.dumps(sampler)).coefficients.plan == sampler.plan()


@one_compilation
@pytest.mark.promise(21)
def test_predict_x0_is_one_whole_graph() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(
        lambda sampler, x, output, index: sampler.predict_x0(x, output, index), fullgraph=True, backend=counter
    )
    for steps in (20, 50):
        sampler, arguments = DDIMSampler(SCHEDULE, steps=steps), (normal(*SHAPE), normal(*SHAPE, seed=1), torch.tensor(4))
        assert torch.equal(compiled(sampler, *arguments), sampler.predict_x0(*arguments))
    assert counter.frame_count == 1
