"""Every sampler through the conformance kit, and the kit through samplers that are broken on purpose, check by check."""

import ast
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ddimkit.testing
from ddimkit import (
    DDIMSampler,
    DDPMSampler,
    DPMSolverPPSampler,
    DynamicThreshold,
    NoiseSchedule,
    Plan,
    PlanSampler,
    SamplerState,
    UniPCSampler,
)
from ddimkit.testing import SamplerConformance, TableConformance
from kits import Maker, checks, conformance, of, table_conformance
from mutants import CALLS, TABLES
from plugins import AdamsBashforth2, Consistency, EveryOtherCount, Heun, Midpoint


def bare(make: Maker) -> Callable[[], PlanSampler]:
    return lambda: PlanSampler.from_plan(LINEAR, make(LINEAR, timesteps=(999, 700, 650, 300, 20)).plan())


LINEAR = NoiseSchedule.linear()

TestDDIM = conformance(of(DDIMSampler))
TestDDIMSomeNoise = conformance(of(DDIMSampler, eta=0.3))
TestDDIMFullNoise = conformance(of(DDIMSampler, eta=1.0))
TestDDIMClipped = conformance(of(DDIMSampler, eta=0.5, clip=(-1, 1)))
TestDDIMThreshold = conformance(of(DDIMSampler, clip=DynamicThreshold(quantile=0.9)))
TestDDIMFromV = conformance(of(DDIMSampler, prediction="v"))
TestDDIMFromX0 = conformance(of(DDIMSampler, prediction="x0"))
TestDDIMFromFlow = conformance(of(DDIMSampler, prediction="flow", eta=0.7), NoiseSchedule.rectified_flow())
TestDDPMSmall = conformance(of(DDPMSampler, variance="fixed_small"))
TestDDPMLarge = conformance(of(DDPMSampler, variance="fixed_large"), keeps_variance=False)
TestDDPMLearned = conformance(of(DDPMSampler, variance="learned_range", prediction="v"))
TestDPMSolver = conformance(of(DPMSolverPPSampler))
TestDPMSolverThird = conformance(of(DPMSolverPPSampler, order=3))
TestDPMSolverNoise = conformance(of(DPMSolverPPSampler, eta=1))
TestDPMSolverClipped = conformance(of(DPMSolverPPSampler, order=3, eta=1, clip=(-1, 1), prediction="v"))
TestUniPC = conformance(of(UniPCSampler))
TestUniPCThird = conformance(of(UniPCSampler, order=3, variant="bh1", prediction="x0"))
TestUniPCFlow = conformance(of(UniPCSampler, order=1, prediction="flow"), NoiseSchedule.rectified_flow())
TestAdamsBashforth = conformance(of(AdamsBashforth2))
TestAdamsBashforthFromV = conformance(of(AdamsBashforth2, prediction="v"))
TestHeun = conformance(of(Heun))
TestHeunFromV = conformance(of(Heun, prediction="v"))
TestStagesOffTheList = conformance(of(Midpoint))
TestConsistency = conformance(of(Consistency), consistency=True)
TestShortSchedule = conformance(of(DPMSolverPPSampler), NoiseSchedule.cosine(4))
TestShortestSchedule = conformance(of(DDIMSampler, eta=0.5), NoiseSchedule.cosine(1))
TestCertainCounts = conformance(of(EveryOtherCount), accepts=lambda self, count: count >= 1 and count % 2 == 1)
TestFloat64 = conformance(of(UniPCSampler), dtype=torch.float64)
TestTable = table_conformance(bare(of(DDIMSampler, eta=0.5)))
TestTableWithHistory = table_conformance(bare(of(DPMSolverPPSampler, order=3)))
TestTableOfStages = table_conformance(bare(of(Heun)))


def learned(end: int | None) -> PlanSampler:
    """A table as a learner leaves it: no row keeps signal or noise, and the last reads x, history and noise."""
    draw = np.random.default_rng(0)
    b = np.tril(draw.normal(size=(4, 4)) * 0.1 + 0.3)[:, ::-1].copy()
    b = np.stack([np.append(row[3 - k :], np.zeros(3 - k)) for k, row in enumerate(b)])
    plan = Plan((974, 640, 480, 230), (640, 480, 230, end), draw.uniform(0.2, 0.9, 4), b, np.array([0.1, 0.2, 0.1, 0.05]))
    return PlanSampler.from_plan(LINEAR, plan, prediction="v")


TestLearnedTable = table_conformance(lambda: learned(None))
TestLearnedTableToTimestep0 = table_conformance(lambda: learned(0))


# From here on: samplers that the kit must refuse. Each breaks one thing.


@dataclass(frozen=True)
class Altered(DDIMSampler):
    """DDIM whose table a function has altered."""

    change: Callable[[Plan, NoiseSchedule], Plan] = field(kw_only=True)

    def plan(self) -> Plan:
        return self.change(super().plan(), self.schedule)


def table(plan: Plan, **arrays: Any) -> Plan:
    return Plan(**{**{name: getattr(plan, name) for name in ("t", "t_next", "a", "b", "c")}, **arrays})


def loses_signal(plan: Plan, schedule: NoiseSchedule) -> Plan:
    return table(plan, b=np.append(plan.b[:-1] * (1 + 1e-9), [[1.0]], axis=0))


def loses_noise(plan: Plan, schedule: NoiseSchedule) -> Plan:
    a = np.append(plan.a[:-1] * (1 - 1e-9), 0.0)
    return table(plan, a=a, b=plan.b[:, 0] + (plan.a - a) * schedule.signal[list(plan.t)])


def noisy_to_the_end(plan: Plan, schedule: NoiseSchedule) -> Plan:
    return table(plan, c=np.append(plan.c[:-1], 0.01))


def last_row_keeps_x(plan: Plan, schedule: NoiseSchedule) -> Plan:
    s = schedule.signal[plan.t[-1]]
    return table(plan, a=np.append(plan.a[:-1], 1e-16), b=np.append(plan.b[:-1, 0], 1 - 1e-16 * s))


def next_by_a_stride(plan: Plan, schedule: NoiseSchedule) -> Plan:
    stride = schedule.num_timesteps // len(plan)
    return table(plan, t_next=(*(max(t - stride, 0) for t in plan.t[:-1]), None))


def forgets_a_timestep(plan: Plan, schedule: NoiseSchedule) -> Plan:
    if len(plan) < 3:
        return plan
    return DDIMSampler(schedule, timesteps=[plan.t[0], *plan.t[2:]]).plan()


def reads_before_the_start(plan: Plan, schedule: NoiseSchedule) -> Plan:
    b = np.repeat(plan.b / 2, 2, axis=1)
    b[-1] = (1.0, 0.0)
    return table(plan, b=b)


@dataclass(frozen=True)
class BlindToInfinity(AdamsBashforth2):
    """Divides by an infinite step as if it were finite, and puts a number where that fails."""

    def plan(self) -> Plan:
        plan = super().plan()
        b = plan.b.copy()
        if self.schedule.signal[plan.t[0]] == 0 and len(plan) > 2:
            b[1] += (0.1, 0.0)
        return Plan(plan.t, plan.t_next, plan.a, b, plan.c)


@dataclass(frozen=True)
class AcceptsZeroSNR(DDIMSampler):
    def __post_init__(self) -> None:
        if self.timesteps == () or self.schedule.signal[self.timesteps[0]] > 0:
            super().__post_init__()


@dataclass(frozen=True)
class WrongNfe(DDIMSampler):
    @property
    def nfe(self) -> int:
        return len(self.timesteps) + 1


@dataclass(frozen=True)
class Wrapped(DDIMSampler):
    """DDIM whose `sample` does something more."""

    def sample(self, model: Any, shape: Any = None, **keywords: Any) -> Tensor:
        return super().sample(model, shape, **keywords)


@dataclass(frozen=True)
class CallsOnceMore(Wrapped):
    def sample(self, model: Any, shape: Any = None, **keywords: Any) -> Tensor:
        x = super().sample(model, shape, **keywords)
        model(x, torch.zeros(len(x), dtype=torch.int64))
        return x


@dataclass(frozen=True)
class FloatTimes(Wrapped):
    def sample(self, model: Any, shape: Any = None, **keywords: Any) -> Tensor:
        return super().sample(lambda x, t: model(x, t.float()), shape, **keywords)


@dataclass(frozen=True)
class OneTimeForAll(Wrapped):
    def sample(self, model: Any, shape: Any = None, **keywords: Any) -> Tensor:
        return super().sample(lambda x, t: model(x, t[:1]), shape, **keywords)


@dataclass(frozen=True)
class AsksTooMuchNoise(Wrapped):
    def sample(self, model: Any, shape: Any = None, **keywords: Any) -> Tensor:
        x = super().sample(model, shape, **keywords)
        keywords["noise_fn"](self.nfe - 1, x)
        return x


@dataclass(frozen=True)
class Widens(Wrapped):
    def sample(self, model: Any, shape: Any = None, *, dtype: Any = None, **keywords: Any) -> Tensor:
        return super().sample(model, shape, dtype=torch.float32, **keywords).to(dtype)


@dataclass(frozen=True)
class ImagesOnly(Wrapped):
    def sample(self, model: Any, shape: Any = None, *, x_T: Any = None, **keywords: Any) -> Tensor:
        batch, channels, height, width = shape or x_T.shape
        return super().sample(model, (batch, channels, height, width), x_T=x_T, **keywords)


@dataclass(frozen=True)
class WritesIntoItsInput(Wrapped):
    def sample(self, model: Any, shape: Any = None, *, x_T: Any = None, **keywords: Any) -> Tensor:
        return x_T.copy_(super().sample(model, shape, x_T=x_T, **keywords))


@dataclass(frozen=True)
class OneSeedForAll(Wrapped):
    def sample(self, model: Any, shape: Any = None, *, seed: Any = None, **keywords: Any) -> Tensor:
        return super().sample(model, shape, generator=torch.Generator().manual_seed(np.ravel(seed)[0].item()), **keywords)


@dataclass(frozen=True)
class CentresTheBatch(Wrapped):
    def sample(self, model: Any, shape: Any = None, **keywords: Any) -> Tensor:
        x = super().sample(model, shape, **keywords)
        return x - x.mean()


COUNTED = itertools.count()


@dataclass(frozen=True)
class CountsItsCalls(Wrapped):
    def sample(self, model: Any, shape: Any = None, **keywords: Any) -> Tensor:
        return super().sample(model, shape, **keywords) + next(COUNTED)


@dataclass(frozen=True)
class PolishesTheResult(Wrapped):
    def sample(self, model: Any, shape: Any = None, **keywords: Any) -> Tensor:
        return super().sample(model, shape, **keywords) * 1.01


@dataclass(frozen=True, eq=False)
class EqualOnlyToItself(DDIMSampler):
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


@dataclass(frozen=True)
class NoHash(DDIMSampler):
    extra: list[int] = field(default_factory=list, kw_only=True)


@dataclass(frozen=True)
class NoPickle(DDIMSampler):
    extra: Callable[[], None] = field(default=lambda: None, kw_only=True)


@dataclass(frozen=True, eq=False)
class EqualToAll(DDIMSampler):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


@dataclass(frozen=True)
class ForgetsHistory(AdamsBashforth2):
    def iterate(self, model: Any, shape: Any = None, *, resume: Any = None, **keywords: Any) -> Iterator[SamplerState]:
        return super().iterate(model, shape, resume=resume and replace(resume, history=()), **keywords)


@dataclass(frozen=True)
class NumbersRowsAnew(Wrapped):
    def sample(self, model: Any, shape: Any = None, *, start_at: int = 0, **keywords: Any) -> Tensor:
        rest = DDIMSampler(self.schedule, timesteps=tuple(self.timesteps)[start_at:], eta=self.eta)
        return rest.sample(model, shape, **keywords)


@dataclass(frozen=True)
class StartsAtTheLast(Wrapped):
    """Takes a row beyond the last for the last."""

    def sample(self, model: Any, shape: Any = None, *, start_at: int = 0, **keywords: Any) -> Tensor:
        return super().sample(model, shape, start_at=min(start_at, self.nfe - 1), **keywords)


@dataclass(frozen=True)
class DisturbedByLooking(Wrapped):
    def sample(self, model: Any, shape: Any = None, *, callback: Any = None, **keywords: Any) -> Tensor:
        return super().sample(model, shape, callback=callback, **keywords) + (callback is not None)


@dataclass(frozen=True)
class MiscountsStates(DDIMSampler):
    def iterate(self, model: Any, shape: Any = None, **keywords: Any) -> Iterator[SamplerState]:
        return iter([replace(s, x=s.x + 1e-3) for s in super().iterate(model, shape, **keywords)])


@dataclass(frozen=True)
class OtherStep(DDIMSampler):
    def step(self, x_t: Tensor, model_output: Tensor, index: Any, **keywords: Any) -> Tensor:
        return super().step(x_t, model_output, index, **keywords) * (1 + 1e-6)


@dataclass(frozen=True)
class OtherX0(DDIMSampler):
    def predict_x0(self, x_t: Tensor, model_output: Tensor, index: Any) -> Tensor:
        return super().predict_x0(x_t, model_output, index) * (1 + 1e-6)


@dataclass(frozen=True)
class DependsOnThread(Wrapped):
    def sample(self, model: Any, shape: Any = None, **keywords: Any) -> Tensor:
        return super().sample(model, shape, **keywords) + (threading.current_thread() is not threading.main_thread())


@dataclass(frozen=True)
class DrawsFromTorch(DDIMSampler):
    def plan(self) -> Plan:
        torch.rand(1)
        return super().plan()


@dataclass(frozen=True)
class DrawsFromNumpy(DDIMSampler):
    def plan(self) -> Plan:
        np.random.rand(1)  # noqa: NPY002  # the global state is meant
        return super().plan()


@dataclass(frozen=True)
class LeavesGradOff(Wrapped):
    def sample(self, model: Any, shape: Any = None, **keywords: Any) -> Tensor:
        torch.set_grad_enabled(False)
        return super().sample(model, shape, **keywords)


@dataclass(frozen=True)
class NoJSON(DDIMSampler):
    extra: frozenset[int] = field(default=frozenset(), kw_only=True)


@dataclass(frozen=True)
class RecordsNothing(DDIMSampler):
    def record(self, shape: Any = None, **keywords: Any) -> dict[str, Any]:
        return {**super().record(shape, **keywords), "nfe": 0}


@dataclass(frozen=True)
class GoesThroughFloat64(Wrapped):
    def sample(self, model: Any, shape: Any = None, **keywords: Any) -> Tensor:
        return super().sample(model, shape, **keywords).double().float()


def altered(change: Callable[[Plan, NoiseSchedule], Plan], **settings: Any) -> Maker:
    return lambda schedule, **keywords: Altered(schedule, change=change, **settings, **keywords)


REFUSED: list[tuple[str, Maker, type[Exception]]] = [
    ("test_plan_of_every_list", altered(loses_signal), AssertionError),
    ("test_plan_of_every_list", altered(loses_noise), AssertionError),
    ("test_plan_of_every_list", altered(noisy_to_the_end), AssertionError),
    ("test_plan_of_every_list", altered(last_row_keeps_x), AssertionError),
    ("test_plan_of_every_list", altered(next_by_a_stride), AssertionError),
    ("test_plan_of_every_list", altered(forgets_a_timestep), AssertionError),
    ("test_plan_of_every_list", altered(reads_before_the_start), AssertionError),
    ("test_plan_from_zero_snr", of(BlindToInfinity, prediction="v"), AssertionError),
    ("test_plan_from_zero_snr", of(AcceptsZeroSNR), pytest.fail.Exception),
    ("test_steps", of(WrongNfe), AssertionError),
    ("test_steps", of(CallsOnceMore), AssertionError),
    ("test_model_sees_the_plans_times", of(FloatTimes), AssertionError),
    ("test_model_sees_the_plans_times", of(OneTimeForAll), AssertionError),
    ("test_noise_is_asked_only_where_it_is_added", of(AsksTooMuchNoise), AssertionError),
    ("test_noise_is_asked_only_where_it_is_added", of(AsksTooMuchNoise, eta=1.0), AssertionError),
    ("test_dtype_is_kept", of(Widens), AssertionError),
    ("test_shapes", of(ImagesOnly), ValueError),
    ("test_shapes", of(WritesIntoItsInput), AssertionError),
    ("test_batch_split_changes_nothing", of(OneSeedForAll), AssertionError),
    ("test_batch_split_changes_nothing", of(CentresTheBatch), AssertionError),
    ("test_same_seed_same_sample", of(CountsItsCalls), AssertionError),
    ("test_result_is_the_last_x0", of(PolishesTheResult), AssertionError),
    ("test_result_is_the_last_x0", altered(last_row_keeps_x), AssertionError),
    ("test_value_object", of(EqualOnlyToItself), AssertionError),
    ("test_value_object", of(NoHash), TypeError),
    ("test_value_object", of(NoPickle), Exception),
    ("test_value_object", of(EqualToAll), AssertionError),
    ("test_resume", of(ForgetsHistory), ValueError),
    ("test_start_at", of(NumbersRowsAnew, eta=1.0), AssertionError),
    ("test_looking_changes_nothing", of(DisturbedByLooking), AssertionError),
    ("test_looking_changes_nothing", of(MiscountsStates), AssertionError),
    ("test_step_is_the_loops_row", of(OtherStep), AssertionError),
    ("test_step_is_the_loops_row", of(OtherX0), AssertionError),
    ("test_captured_steps_are_the_loops", of(PolishesTheResult), AssertionError),
    ("test_captured_lists", of(PolishesTheResult), AssertionError),
    ("test_start_row_must_exist", of(StartsAtTheLast), pytest.fail.Exception),
    ("test_threads", of(DependsOnThread), AssertionError),
    ("test_caller_is_left_alone", of(DrawsFromTorch), AssertionError),
    ("test_caller_is_left_alone", of(DrawsFromNumpy), AssertionError),
    ("test_caller_is_left_alone", of(LeavesGradOff), AssertionError),
    ("test_record", of(NoJSON), TypeError),
    ("test_record", of(RecordsNothing), AssertionError),
    ("test_float32_needs_no_float64", of(GoesThroughFloat64), AssertionError),
]


@pytest.mark.parametrize(("name", "make", "error"), REFUSED, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(REFUSED)])
def test_the_kit_refuses_a_broken_sampler(name: str, make: Maker, error: type[Exception]) -> None:
    with torch.enable_grad(), pytest.raises(error):
        getattr(conformance(make)(), name)()


def test_every_check_of_the_kit_is_seen_to_refuse_something() -> None:
    """By a sampler of this file or by a mutant."""
    refused = {name for name, _, _ in REFUSED} | {name for mutation in (*TABLES, *CALLS) for name in mutation.checks}
    assert refused == set(checks(SamplerConformance))


def test_the_harness_itself_refuses_nothing() -> None:
    """The wrapper that breaks nothing passes every check: what the table sees refused is the breakage."""
    for name in {name for name, _, _ in REFUSED}:
        getattr(conformance(of(Wrapped, eta=0.5))(), name)()


@dataclass(frozen=True)
class GivenTable(PlanSampler):
    """A table that nobody has checked, as ``from_plan`` does."""

    table: Plan = field(kw_only=True)

    def plan(self) -> Plan:
        return self.table


def broken_table(**columns: Any) -> Callable[[], PlanSampler]:
    """The learned table with other columns."""
    plan = replace(learned(None).plan(), **columns)
    return lambda: GivenTable(LINEAR, timesteps=tuple(plan.t), prediction="v", table=plan)


@dataclass(frozen=True)
class CallsTwice(PlanSampler):
    """A fixed table whose rows are counted wrongly."""

    def plan(self) -> Plan:
        return DDIMSampler(self.schedule, timesteps=tuple(self.timesteps)).plan()

    @property
    def nfe(self) -> int:
        return 2 * len(self.timesteps)


def test_the_kit_of_tables_refuses() -> None:
    fresh = np.append(learned(None).plan().b[:3], [[0.5, 0.1, 0.1, 0.1]], axis=0)
    fresh[0, 1] = 0.2
    cases: list[tuple[str, Callable[[], PlanSampler], str]] = [
        ("test_table_joins", broken_table(t_next=(640, 500, 230, None)), "lands on t_next = 500"),
        ("test_table_joins", broken_table(t_next=(640, 480, 230, 100)), "last row lands on"),
        ("test_table_joins", broken_table(b=fresh), "row 0 reads more"),
        ("test_calls", lambda: CallsTwice(LINEAR, timesteps=(999, 500)), "nfe is 4"),
    ]
    for name, make, fault in cases:
        with pytest.raises(AssertionError, match=fault):
            getattr(table_conformance(make)(), name)()


def test_settings_must_be_named() -> None:
    kit = conformance(lambda schedule, **keywords: DDIMSampler(schedule, **keywords))
    with pytest.raises(AssertionError, match=r"other_settings.*eta"):
        kit().test_settings_make_another_sampler()


def test_messages_need_no_rewriting() -> None:
    """Every assert of the kit has a message."""
    bare = []
    for path in Path(ddimkit.testing.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        narrowing = (ast.Call,)  # isinstance narrows types, and compares nothing
        bare += [
            f"{path.name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Assert) and node.msg is None and not isinstance(node.test, narrowing)
        ]
    assert not bare, bare


def test_make_must_be_written() -> None:
    for kit in (SamplerConformance, TableConformance):
        with pytest.raises(NotImplementedError, match="make"):
            kit().uneven()
