"""A generator of broken samplers: each of ours, and two plug-ins, times each mutation that changes it.

A mutation is named, says which check of the kit must refuse it, and what the message must name. `mutants()` makes them all; classes
are put into this module, so that they pickle as an author's would. ``python tests/mutants.py`` prints the table of which check
refuses which.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from ddimkit import DDIMSampler, DDPMSampler, DPMSolverPPSampler, NoiseSchedule, Plan, PlanSampler, UniPCSampler
from ddimkit.testing._plans import reads_history
from kits import conformance, of
from plugins import AdamsBashforth2, Consistency, Heun

Body = dict[str, Any]
Change = Callable[[Plan, PlanSampler], Plan]


class Base(NamedTuple):
    """A sound sampler: its class, settings, and the attributes of the kit that it needs."""

    name: str
    kind: type[PlanSampler]
    settings: dict[str, Any]
    attributes: Mapping[str, Any] = MappingProxyType({})


BASES = [
    Base("ddim_eta_0", DDIMSampler, {}),
    Base("ddim_eta_half", DDIMSampler, {"eta": 0.5}),
    Base("ddim_eta_1", DDIMSampler, {"eta": 1.0}),
    Base("ddpm_small", DDPMSampler, {}),
    Base("ddpm_large", DDPMSampler, {"variance": "fixed_large"}, {"keeps_variance": False}),
    Base("ddpm_learned", DDPMSampler, {"variance": "learned_range"}),
    *(Base(f"dpm_{p}", DPMSolverPPSampler, {"order": p}) for p in (1, 2, 3)),
    *(Base(f"dpm_{p}_sde", DPMSolverPPSampler, {"order": p, "eta": 1}) for p in (2, 3)),
    *(Base(f"unipc_{p}", UniPCSampler, {"order": p}) for p in (1, 2, 3)),
    Base("unipc_2_bh1", UniPCSampler, {"order": 2, "variant": "bh1"}),
    Base("adams_bashforth", AdamsBashforth2, {}),
    Base("heun", Heun, {}),
    Base("consistency", Consistency, {}, {"consistency": True}),
]


class Mutation(NamedTuple):
    """One way of being wrong: the checks that must refuse it, in the order they are tried, and the fault they name."""

    name: str
    checks: tuple[str, ...]
    fault: str
    body: Callable[[type[PlanSampler]], Body]
    by_table: bool = True


class Mutant(NamedTuple):
    """A broken sampler, its kit and what must be said of it."""

    base: str
    mutation: Mutation
    kit: Any


# Tables.


def remade(plan: Plan, **arrays: Any) -> Plan:
    """The table with other columns; one of one row stays."""
    return replace(plan, **{"signal": None, "noise": None, **arrays})


def sound(sampler: PlanSampler, **settings: Any) -> Plan:
    """The table of the unbroken sampler with other settings."""
    base = type(sampler).__mro__[1]
    kept = {name: getattr(sampler, name) for name, field in sampler.__dataclass_fields__.items() if field.init}
    return base(**{**kept, "steps": None, "timesteps": tuple(sampler.timesteps), **settings}).plan()


def completed(plan: Plan, sampler: PlanSampler, a: Any = None, b: Any = None, c: Any = None) -> Plan:
    """The table with other columns, b[0] such that each row keeps the signal; the last row stays."""
    a, b, c = (np.array(new if new is not None else old) for new, old in ((a, plan.a), (b, plan.b), (c, plan.c)))
    s = np.append(sampler.schedule.signal, 1.0)
    after = s[[-1 if t is None else t for t in plan.t_next]]
    b[:, 0] = after - s[list(plan.t)] * a - b[:, 1:].sum(axis=1)
    a[-1], b[-1], c[-1] = plan.a[-1], plan.b[-1], plan.c[-1]
    return remade(plan, a=a, b=b, c=c)


def history(plan: Plan) -> Any:
    """(S,) whether a row reads earlier predictions."""
    return plan.b[:, 1:].any(axis=1)


def swapped(plan: Plan, sampler: PlanSampler) -> Plan:
    b = plan.b.copy()
    b[history(plan), :2] = b[history(plan), 1::-1]
    return remade(plan, b=b)


def scaled_history(factor: float, from_row: int = 0) -> Change:
    def change(plan: Plan, sampler: PlanSampler) -> Plan:
        b = plan.b.copy()
        b[from_row:, 1:] *= factor
        return completed(plan, sampler, b=b)

    return change


def reversed_history(plan: Plan, sampler: PlanSampler) -> Plan:
    b = plan.b.copy()
    for row in b[:-1]:
        read = np.flatnonzero(row[1:]) + 1
        row[read] = row[read][::-1]
    return remade(plan, b=b)


def a_times(factor: float, where: Callable[[Plan], Any], c: float | None = None) -> Change:
    def change(plan: Plan, sampler: PlanSampler) -> Plan:
        a = np.where(where(plan), plan.a * factor, plan.a)
        return completed(plan, sampler, a=a, c=None if c is None else np.maximum(plan.c, c))

    return change


def c_times(factor: float) -> Change:
    return lambda plan, sampler: remade(plan, c=plan.c * factor)


def eta_on_the_variance(plan: Plan, sampler: PlanSampler) -> Plan:
    eta = getattr(sampler, "eta", 1.0)
    return remade(plan, c=plan.c / np.sqrt(eta)) if 0 < eta < 1 else plan


def through(kind: Any, columns: str) -> Change:
    """Columns cast to a lower precision and back."""

    def change(plan: Plan, sampler: PlanSampler) -> Plan:
        cast = {name: getattr(plan, name).astype(kind).astype(np.float64) if name in columns else None for name in "abc"}
        return completed(plan, sampler, **cast)

    return change


def through_default_dtype(plan: Plan, sampler: PlanSampler) -> Plan:
    a, b, c = (torch.tensor(column.tolist()).double().numpy() for column in (plan.a, plan.b, plan.c))
    return completed(plan, sampler, a=a, b=b, c=c)


def through_bfloat16(plan: Plan, sampler: PlanSampler) -> Plan:
    a, b, c = (torch.tensor(column.tolist()).bfloat16().double().numpy() for column in (plan.a, plan.b, plan.c))
    return completed(plan, sampler, a=a, b=b, c=c)


def labelled(shift: int) -> Change:
    """The model's t off by one, within the schedule."""

    def change(plan: Plan, sampler: PlanSampler) -> Plan:
        t = tuple(min(max(u + shift, 0), sampler.schedule.num_timesteps - 1) for u in plan.t)
        return remade(plan, t=t, t_next=(*t[1:], None))

    return change


def levels_of_t_plus_1(plan: Plan, sampler: PlanSampler) -> Plan:
    """Coefficients of the timesteps one higher under the labels of the list."""
    top = sampler.schedule.num_timesteps - 1
    if top == 0 or sampler.timesteps[0] == top:
        return plan
    moved = sound(sampler, timesteps=tuple(t + 1 for t in sampler.timesteps), prediction="x0")
    return remade(plan, a=moved.a, b=moved.b, c=moved.c)


def t_for_log_snr(plan: Plan, sampler: PlanSampler) -> Plan:
    """The weights of earlier predictions from steps in t/T instead of in λ."""
    T = sampler.schedule.num_timesteps
    flat = NoiseSchedule.from_alpha_bars(1 / (1 + np.exp(2 * np.arange(T) / T)))
    other = sound(sampler, schedule=flat)
    b = plan.b.copy()
    b[:, 1:] = other.b[:, 1:]
    return completed(plan, sampler, b=b)


def next_by_a_stride(plan: Plan, sampler: PlanSampler) -> Plan:
    stride = sampler.schedule.num_timesteps // len(plan)
    return remade(plan, t_next=(*(max(t - stride, 0) for t in plan.t[:-1]), None))


def last_row_adds_noise(plan: Plan, sampler: PlanSampler) -> Plan:
    return remade(plan, c=np.append(plan.c[:-1], 0.01))


def last_row_keeps_x(plan: Plan, sampler: PlanSampler) -> Plan:
    b = plan.b.copy()
    b[-1, 0] -= 1e-10 * sampler.schedule.signal[plan.t[-1]]
    return remade(plan, a=np.append(plan.a[:-1], 1e-10), b=b)


def loses_signal(plan: Plan, sampler: PlanSampler) -> Plan:
    b = plan.b.copy()
    b[:-1] *= 1 + 1e-9
    return remade(plan, b=b)


def forgets_a_timestep(plan: Plan, sampler: PlanSampler) -> Plan:
    times = tuple(sampler.timesteps)
    if len(times) < 3:
        return plan
    return sound(sampler, timesteps=(times[0], *times[2:]))


def reads_before_the_start(plan: Plan, sampler: PlanSampler) -> Plan:
    b = np.concatenate([plan.b, np.zeros((len(plan), 1))], axis=1)
    b[0, :2] = b[0, 0] / 2
    return remade(plan, b=b) if len(plan) > 1 else plan


def adds_noise(plan: Plan, sampler: PlanSampler) -> Plan:
    return remade(plan, c=np.append(np.hypot(plan.c[:-1], 0.05), 0.0))


def noise_of_the_row_before(plan: Plan, sampler: PlanSampler) -> Plan:
    return remade(plan, c=np.append(np.roll(plan.c[:-1], 1), 0.0)) if plan.adds_noise and len(plan) > 2 else plan


def larger_noise(plan: Plan, sampler: PlanSampler) -> Plan:
    """The beta of the row's beginning in place of the posterior's."""
    if not plan.adds_noise or getattr(sampler, "variance", "") == "fixed_large":
        return plan
    n = np.append(sampler.schedule.noise, 0.0)
    after = n[[-1 if t is None else t for t in plan.t_next]]
    return remade(plan, c=np.where(after > 0, plan.c * n[list(plan.t)] / np.where(after > 0, after, 1), 0.0))


def wrong_beyond_64_rows(plan: Plan, sampler: PlanSampler) -> Plan:
    return a_times(0.5, lambda plan: np.arange(len(plan)) > 64)(plan, sampler)


def biased(plan: Plan, sampler: PlanSampler) -> Plan:
    return a_times(1 - 1e-6, lambda plan: np.full(len(plan), True))(plan, sampler)


def drops_history_halfway(plan: Plan, sampler: PlanSampler) -> Plan:
    return scaled_history(0.0, from_row=max(3, len(plan) // 2))(plan, sampler)


def history_after_zero_snr(plan: Plan, sampler: PlanSampler) -> Plan:
    if sampler.schedule.signal[plan.t[0]] > 0 or len(plan) < 3:
        return plan
    b = plan.b.copy()
    b[1, 0] += 0.1
    return remade(plan, b=b)


def range_swapped(plan: Plan, sampler: PlanSampler) -> Plan:
    return plan if plan.c_max is None else remade(plan, c=plan.c_max, c_max=plan.c)


def range_times_ten(plan: Plan, sampler: PlanSampler) -> Plan:
    return plan if plan.c_max is None else remade(plan, c_max=plan.c_max * 10)


def planned(change: Change) -> Callable[[type[PlanSampler]], Body]:
    """A class whose `plan` is the base's, changed."""

    def body(base: type[PlanSampler]) -> Body:
        def plan(self: PlanSampler) -> Plan:
            return change(base.plan(self), self)

        return {"plan": plan}

    return body


def cached_by(key: Callable[[PlanSampler], object]) -> Callable[[type[PlanSampler]], Body]:
    def body(base: type[PlanSampler]) -> Body:
        cache: dict[object, Plan] = {}

        def plan(self: PlanSampler) -> Plan:
            whole = key(self)
            if whole not in cache:
                cache[whole] = remade(base.plan(self))
            return cache[whole]

        return {"plan": plan}

    return body


def linear_always(base: type[PlanSampler]) -> Body:
    def plan(self: PlanSampler) -> Plan:
        linear = NoiseSchedule.linear(self.schedule.num_timesteps)
        return remade(sound(self, schedule=linear))

    return {"plan": plan}


# Calls.


def called(change: Callable[[dict[str, Any], Any], None], *names: str) -> Callable[[type[PlanSampler]], Body]:
    """A class whose `sample` and `iterate` change their keywords first."""

    def body(base: type[PlanSampler]) -> Body:
        def wrapped(name: str) -> Any:
            def method(self: PlanSampler, model: Any, shape: Any = None, **keywords: Any) -> Any:
                keywords["model"] = model
                change(keywords, shape)
                return getattr(base, name)(self, keywords.pop("model"), shape, **keywords)

            return method

        return {name: wrapped(name) for name in names or ("sample", "iterate")}

    return body


def seed_ignored(keywords: dict[str, Any], shape: Any) -> None:
    if keywords.get("seed") is not None:
        keywords["seed"] = 0 if isinstance(keywords["seed"], int) else range(len(keywords["seed"]))


def seed_zero_by_default(keywords: dict[str, Any], shape: Any) -> None:
    if all(keywords.get(name) is None for name in ("seed", "generator", "noise_fn", "resume")):
        keywords["seed"] = 0


def sixteen_seeds(keywords: dict[str, Any], shape: Any) -> None:
    if isinstance(keywords.get("seed"), list):
        keywords["seed"] = [keywords["seed"][i % 16] for i in range(len(keywords["seed"]))]


def list_reversed(keywords: dict[str, Any], shape: Any) -> None:
    if isinstance(keywords.get("seed"), list):
        keywords["seed"] = keywords["seed"][::-1]


def generator_ignored(keywords: dict[str, Any], shape: Any) -> None:
    if keywords.pop("generator", None) is not None:
        keywords["seed"] = 0


def noise_fn_ignored(keywords: dict[str, Any], shape: Any) -> None:
    if keywords.get("noise_fn") is not None:
        keywords["noise_fn"] = lambda _, like: torch.ones_like(like)


def first_x_ignored(keywords: dict[str, Any], shape: Any) -> None:
    if keywords.get("x_T") is not None:
        keywords["x_T"] = torch.ones_like(keywords["x_T"])


def start_at_ignored(keywords: dict[str, Any], shape: Any) -> None:
    keywords.pop("start_at", None)


def dtype_ignored(keywords: dict[str, Any], shape: Any) -> None:
    keywords.pop("dtype", None)


def kwargs_ignored(keywords: dict[str, Any], shape: Any) -> None:
    keywords.pop("model_kwargs", None)


def callback_ignored(keywords: dict[str, Any], shape: Any) -> None:
    keywords.pop("callback", None)


def model_at(shift: int) -> Callable[[dict[str, Any], Any], None]:
    def change(keywords: dict[str, Any], shape: Any) -> None:
        model = keywords["model"]
        if hasattr(model, "learned"):
            wrapped = functools.partial(lambda model, x, t: model(x, (t + shift).clamp(min=0)), model)
            keywords["model"] = wrapped

    return change


def float_times(keywords: dict[str, Any], shape: Any) -> None:
    model = keywords["model"]
    keywords["model"] = lambda x, t, **kw: model(x, t.float() if hasattr(model, "learned") else t, **kw)


def prints(keywords: dict[str, Any], shape: Any) -> None:
    print("sampling")


def seeds_torch(keywords: dict[str, Any], shape: Any) -> None:
    torch.manual_seed(0)


def seeds_numpy(keywords: dict[str, Any], shape: Any) -> None:
    np.random.seed(0)  # noqa: NPY002  # the global state is meant


def resume_without_history(base: type[PlanSampler]) -> Body:
    def iterate(self: PlanSampler, model: Any, shape: Any = None, *, resume: Any = None, **keywords: Any) -> Any:
        if resume is not None:
            resume = replace(resume, history=tuple(torch.zeros_like(h) for h in resume.history), x=resume.x + 1e-3)
        return base.iterate(self, model, shape, resume=resume, **keywords)

    return {"iterate": iterate}


def result(change: Callable[[Tensor], Tensor], *names: str) -> Callable[[type[PlanSampler]], Body]:
    """A class whose named methods change what they return."""

    def body(base: type[PlanSampler]) -> Body:
        def wrapped(name: str) -> Any:
            return lambda self, *arguments, **keywords: change(getattr(base, name)(self, *arguments, **keywords))

        return {name: wrapped(name) for name in names}

    return body


def unclipped_x0(base: type[PlanSampler]) -> Body:
    def predict_x0(self: PlanSampler, *arguments: Any) -> Tensor:
        return base.predict_x0(self if self.clip is None else replace(self, clip=None), *arguments)

    return {"predict_x0": predict_x0}


def writes_to_x(base: type[PlanSampler]) -> Body:
    def step(self: PlanSampler, x_t: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        found = base.step(self, x_t, *arguments, **keywords)
        if not x_t.requires_grad:
            x_t.add_(1)
        return found

    return {"step": step}


def first_index_for_all(base: type[PlanSampler]) -> Body:
    def step(self: PlanSampler, x_t: Tensor, output: Tensor, index: Any, **keywords: Any) -> Tensor:
        index = index[:1].expand_as(index).contiguous() if isinstance(index, Tensor) and index.ndim else index
        return base.step(self, x_t, output, index, **keywords)

    return {"step": step}


def step_of_shifted_history(base: type[PlanSampler]) -> Body:
    def step(self: PlanSampler, *arguments: Any, history: Any = (), **keywords: Any) -> Tensor:
        return base.step(self, *arguments, history=tuple(h + 1e-3 for h in history), **keywords)

    return {"step": step}


def fixed(**settings: Any) -> Callable[[type[PlanSampler]], Body]:
    """A class that overwrites settings when it is made."""

    def body(base: type[PlanSampler]) -> Body:
        def overwrite(self: PlanSampler) -> None:
            for name, value in settings.items():
                if hasattr(self, name):
                    object.__setattr__(self, name, value)
            base.__post_init__(self)

        return {"__post_init__": overwrite}

    return body


def own_setting_ignored(base: type[PlanSampler]) -> Body:
    """The plan of the first setting seen of what the class adds."""
    added = [name for name in base.__dataclass_fields__ if name not in PlanSampler.__dataclass_fields__]
    if not added:
        return {}
    first: dict[str, Any] = {}

    def plan(self: PlanSampler) -> Plan:
        kept = first.setdefault(added[-1], getattr(self, added[-1]))
        return remade(sound(self, **{added[-1]: kept}))

    return {"plan": plan}


def record_lacks(name: str) -> Callable[[type[PlanSampler]], Body]:
    def body(base: type[PlanSampler]) -> Body:
        def record(self: PlanSampler, *arguments: Any, **keywords: Any) -> Any:
            found = base.record(self, *arguments, **keywords)
            found["settings"].pop(name, None)
            return found

        return {"record": record}

    return body


def record_of_other_seeds(base: type[PlanSampler]) -> Body:
    def record(self: PlanSampler, *arguments: Any, **keywords: Any) -> Any:
        found = base.record(self, *arguments, **keywords)
        seeds = found["call"]["seeds"]
        found["call"]["seeds"] = [seed + 1 for seed in seeds] if isinstance(seeds, list) else seeds
        return found

    return {"record": record}


def one_call_more(base: type[PlanSampler]) -> Body:
    return {"nfe": property(lambda self: base.nfe.fget(self) + 1)}  # type: ignore[attr-defined]


def equal_by_identity(base: type[PlanSampler]) -> Body:
    return {"__eq__": lambda self, other: self is other, "__hash__": lambda self: id(self)}


def equal_to_all(base: type[PlanSampler]) -> Body:
    return {"__eq__": lambda self, other: True, "__hash__": lambda self: 0}


COUNT = itertools.count(1)

PLAN, LAW, ERROR, ORDER = "test_plan_of_every_list", "test_noise_law", "test_error_falls", "test_convergence_order"
NUMBERS = (PLAN, LAW, ORDER, ERROR)
_SIGNAL, _NOISE, _WRONG = (
    "loses signal",
    "loses noise|noise law",
    "loses noise|noise law|does not fall|error on Gaussian|with order",
)

TABLES = [
    Mutation("weights_swapped", NUMBERS, _WRONG, planned(swapped)),
    Mutation("history_negated", NUMBERS, _WRONG, planned(scaled_history(-1.0))),
    Mutation("history_halved", NUMBERS, _WRONG, planned(scaled_history(0.5))),
    Mutation("history_doubled", NUMBERS, _WRONG, planned(scaled_history(2.0))),
    Mutation("history_off_by_a_tenth", NUMBERS, _WRONG, planned(scaled_history(1.1))),
    Mutation("history_dropped_halfway", NUMBERS, _WRONG, planned(drops_history_halfway)),
    Mutation("history_reversed", NUMBERS, _WRONG, planned(reversed_history)),
    Mutation("t_for_log_snr", NUMBERS, _WRONG, planned(t_for_log_snr)),
    Mutation("a_halved_with_history", NUMBERS, _WRONG, planned(a_times(0.5, history))),
    Mutation("a_halved", NUMBERS, _WRONG, planned(a_times(0.5, lambda plan: np.full(len(plan), True)))),
    Mutation(
        "a_negative_beside_tiny_c",
        NUMBERS,
        "turns x|does not fall|loses noise|with order",
        planned(a_times(-1.0, lambda p: np.full(len(p), True), 1e-9)),
    ),
    Mutation("a_off_by_a_millionth", NUMBERS, _WRONG, planned(biased)),
    Mutation("wrong_beyond_64_rows", NUMBERS, _WRONG, planned(wrong_beyond_64_rows)),
    Mutation("c_times_10", NUMBERS, _WRONG, planned(c_times(10.0))),
    Mutation("c_times_1e-12", NUMBERS, _WRONG, planned(c_times(1e-12))),
    Mutation("c_times_root_2", NUMBERS, _WRONG, planned(c_times(2**0.5))),
    Mutation("c_squared", NUMBERS, _WRONG, planned(lambda plan, sampler: remade(plan, c=plan.c**2))),
    Mutation("c_of_the_row_before", NUMBERS, _WRONG, planned(noise_of_the_row_before)),
    Mutation("c_of_the_larger_variance", NUMBERS, _WRONG, planned(larger_noise)),
    Mutation("eta_on_the_variance", NUMBERS, _WRONG, planned(eta_on_the_variance)),
    Mutation("noise_added", NUMBERS, _WRONG, planned(adds_noise)),
    *(
        Mutation(
            f"{columns}_through_{np.dtype(kind).name}",
            ("test_numbers_are_float64",),
            "went through float",
            planned(through(kind, columns)),
        )
        for kind in (np.float16, np.float32)
        for columns in ("a", "b", "c", "abc")
    ),
    Mutation("through_torchs_default_dtype", ("test_numbers_are_float64",), "went through float", planned(through_default_dtype)),
    Mutation("through_bfloat16", ("test_numbers_are_float64",), "went through float", planned(through_bfloat16)),
    Mutation("labels_t_plus_1", (PLAN,), "the plan (visits|begins)|lands on", planned(labelled(1))),
    Mutation("labels_t_minus_1", (PLAN,), "the plan (visits|begins)|lands on", planned(labelled(-1))),
    Mutation("levels_of_t_plus_1", (PLAN,), f"{_SIGNAL}|{_NOISE}", planned(levels_of_t_plus_1)),
    Mutation("next_by_a_stride", (PLAN,), "lands on t_next", planned(next_by_a_stride)),
    Mutation("last_row_adds_noise", (PLAN,), "last row adds noise", planned(last_row_adds_noise)),
    Mutation("last_row_keeps_x", (PLAN,), "last row keeps x", planned(last_row_keeps_x)),
    Mutation("signal_lost", (PLAN,), _SIGNAL, planned(loses_signal)),
    Mutation("timestep_forgotten", (PLAN,), "visits the timesteps", planned(forgets_a_timestep)),
    Mutation("history_before_the_start", (PLAN,), "reads more than", planned(reads_before_the_start)),
    Mutation("signal_lost_after_zero_snr", ("test_plan_from_zero_snr",), _SIGNAL, planned(history_after_zero_snr)),
    Mutation("range_swapped", ("test_variances_are_ordered",), "above c_max", planned(range_swapped)),
    Mutation("range_times_10", ("test_variances_are_ordered",), "does not fall|is .* at 512", planned(range_times_ten)),
    Mutation(
        "cached_by_timesteps",
        ("test_schedule_is_obeyed",),
        "schedule is not obeyed",
        cached_by(lambda s: (*s.timesteps, *(getattr(s, name, 0) for name in ("eta", "order", "variance", "variant")))),
        False,
    ),
    Mutation("cached_by_length", (PLAN,), "visits the timesteps", cached_by(lambda s: len(s.timesteps)), False),
    Mutation("linear_whatever_the_schedule", (PLAN,), _SIGNAL, linear_always, False),
]

CALLS = [
    Mutation("seed_ignored", ("test_same_seed_same_sample",), "seed is ignored", called(seed_ignored)),
    Mutation("seed_zero_by_default", ("test_no_seed_twice",), "without a seed are equal", called(seed_zero_by_default)),
    Mutation("sixteen_seeds_at_most", ("test_batch_split_changes_nothing",), "20 seeds", called(sixteen_seeds)),
    Mutation("list_of_seeds_reversed", ("test_list_of_seeds",), "list of seeds|name seeds", called(list_reversed, "iterate")),
    Mutation("generator_ignored", ("test_generator",), "generator is ignored", called(generator_ignored)),
    Mutation("noise_fn_ignored", ("test_noise_fn_makes_the_noise",), "noise_fn is ignored", called(noise_fn_ignored)),
    Mutation("x_T_ignored", ("test_first_x_is_x_t",), "x_T is ignored", called(first_x_ignored)),
    Mutation("start_at_ignored", ("test_start_at",), "start_at", called(start_at_ignored)),
    Mutation("dtype_ignored", ("test_dtype_is_kept",), "dtype=.* is not kept", called(dtype_ignored)),
    Mutation("model_kwargs_ignored", ("test_model_kwargs",), "model_kwargs=", called(kwargs_ignored)),
    Mutation("model_kwargs_ignored_by_iterate", ("test_model_kwargs",), "iterate calls", called(kwargs_ignored, "iterate")),
    Mutation("callback_ignored", ("test_looking_changes_nothing",), "callback", called(callback_ignored)),
    Mutation("model_at_t_plus_1", ("test_model_sees_the_plans_times",), "other timesteps", called(model_at(1))),
    Mutation("model_at_t_minus_1", ("test_model_sees_the_plans_times",), "other timesteps", called(model_at(-1))),
    Mutation("float_times", ("test_model_sees_the_plans_times",), "not int64", called(float_times)),
    Mutation("prints", ("test_nothing_is_printed",), "prints to stdout", called(prints)),
    Mutation("seeds_torch", ("test_caller_is_left_alone",), "torch's global random state", called(seeds_torch)),
    Mutation("seeds_numpy", ("test_caller_is_left_alone",), "numpy's global random state", called(seeds_numpy)),
    Mutation("resume_forgets", ("test_resume",), "resumed after row", resume_without_history),
    Mutation("result_polished", ("test_result_is_the_last_x0",), "not the last x0", result(lambda x: x * 1.01, "sample")),
    Mutation(
        "result_depends_on_the_batch",
        ("test_batch_split_changes_nothing",),
        "depends on its batch",
        result(lambda x: x - (x.mean() if x.numel() else 0), "sample"),
    ),
    Mutation(
        "result_differs_each_time",
        ("test_same_seed_same_sample",),
        "same seed differ",
        result(lambda x: x + next(COUNT) * 1e-3, "sample"),
    ),
    Mutation(
        "through_float64",
        ("test_float32_needs_no_float64",),
        "float64 tensor",
        result(lambda x: (x.double() * 1).to(x.dtype), "sample"),
    ),
    Mutation("step_detached", ("test_step_has_a_gradient",), "no gradient", result(lambda x: x.detach(), "step")),
    Mutation(
        "step_of_half_a_gradient", ("test_step_has_a_gradient",), "wrong gradient", result(lambda x: x / 2 + x.detach() / 2, "step")
    ),
    Mutation("step_in_float16", ("test_step_is_the_loops_row",), "step at row", result(lambda x: x.half().to(x.dtype), "step")),
    Mutation("step_of_another_history", ("test_step_is_the_loops_row",), "step at row", step_of_shifted_history),
    Mutation("step_of_the_first_index", ("test_step_takes_mixed_indices",), "tensor index", first_index_for_all),
    Mutation("step_writes_to_x", ("test_inputs_stay_as_they_are",), "writes into x_t", writes_to_x),
    Mutation("x0_scaled", ("test_step_is_the_loops_row",), "predict_x0 at row", result(lambda x: x * (1 + 1e-6), "predict_x0")),
    Mutation("x0_not_clipped", ("test_clip_holds",), "predict_x0", unclipped_x0),
    Mutation("clip_ignored", ("test_clip_holds",), "clip=", fixed(clip=None)),
    Mutation("clip_always", ("test_clip_holds",), "clip=", fixed(clip=(-1.0, 1.0))),
    Mutation("prediction_ignored", ("test_predictions_agree",), "prediction=", fixed(prediction="x0")),
    Mutation("spacing_ignored", ("test_spacing_is_obeyed",), "spacing=", fixed(spacing="trailing")),
    Mutation("own_setting_ignored", ("test_settings_make_another_sampler",), "does not change the plan", own_setting_ignored),
    Mutation("record_lacks_prediction", ("test_record",), "lacks the settings", record_lacks("prediction")),
    Mutation("record_of_other_seeds", ("test_record",), "record's seeds", record_of_other_seeds),
    Mutation("nfe_of_one_more", ("test_steps",), "the model is called", one_call_more),
    Mutation("equal_by_identity", ("test_value_object",), "not equal", equal_by_identity),
    Mutation("equal_to_all", ("test_value_object",), "equal to any object", equal_to_all),
]
CALLS = [mutation._replace(by_table=False) for mutation in CALLS]

LINEAR = NoiseSchedule.linear()
CASES = [
    (LINEAR, "epsilon", (999, 700, 650, 300, 20)),
    (LINEAR, "epsilon", tuple(range(995, -1, -12))),
    (LINEAR.zero_terminal_snr(), "x0", (999, 700, 650, 300, 20)),
]


def changes(broken: type[PlanSampler], base: Base) -> bool:
    """Whether the mutation changes some table of the base by more than rounding; where it does not, the sampler is sound."""
    for schedule, prediction, times in CASES:
        try:
            plan = broken(schedule, timesteps=times, prediction=prediction, **base.settings).plan()
        except (ValueError, TypeError):
            return True
        if not alike(plan, base.kind(schedule, timesteps=times, prediction=prediction, **base.settings).plan()):
            return True
    return False


def alike(plan: Plan, other: Plan) -> bool:
    """Whether two tables are equal but for the last bits of their coefficients."""
    if (plan.t, plan.t_next, plan.b.shape) != (other.t, other.t_next, other.b.shape):
        return False
    pairs = [(plan.a, other.a), (plan.b, other.b), (plan.c, other.c)]
    if plan.c_max is not None and other.c_max is not None:
        pairs.append((plan.c_max, other.c_max))
    return all(np.allclose(one, two, rtol=1e-13, atol=1e-15) for one, two in pairs)


def broken_class(base: Base, mutation: Mutation) -> type[PlanSampler] | None:
    """The base's class with the mutation, importable from this module; None where the mutation has nothing to change."""
    body = mutation.body(base.kind)
    if not body:
        return None
    name = f"{base.name}__{re.sub(r'[^0-9a-z]', '_', mutation.name.lower())}"
    kind = type(name, (base.kind,), {**body, "__module__": __name__, "__qualname__": name})
    return dataclass(frozen=True, eq="__eq__" not in body)(kind)


def mutants(each: int = 1) -> Iterator[Mutant]:
    """Every mutation on every base that it changes, or on one base of ``each``, another one for each mutation."""
    for (i, base), (j, mutation) in itertools.product(enumerate(BASES), enumerate((*TABLES, *CALLS))):
        if (i + j) % each:
            continue
        kind = broken_class(base, mutation)
        if kind is None or (mutation.by_table and not changes(kind, base)):
            continue
        if mutation.body is step_of_shifted_history and not reads_history(base.kind(LINEAR, 9, **base.settings).plan()):
            continue
        globals()[kind.__name__] = kind
        yield Mutant(base.name, mutation, conformance(of(kind, **base.settings), **base.attributes))


def refusal(kit: Any, names: tuple[str, ...]) -> tuple[str, str] | None:
    """The first of the checks that refuses, and its message; None where all pass."""
    for name in names:
        grad = torch.is_grad_enabled()
        try:
            getattr(kit(), name)()
        except pytest.skip.Exception:
            continue
        except (Exception, pytest.fail.Exception) as error:
            return name, f"{type(error).__name__}: {error}"
        finally:
            torch.set_grad_enabled(grad)
    return None


if __name__ == "__main__":
    for mutant in mutants():
        found = refusal(mutant.kit, (*mutant.mutation.checks, *(n for n in dir(mutant.kit) if n.startswith("test_"))))
        check, message = found or ("NONE", "")
        print(f"{mutant.base:16} {mutant.mutation.name:32} {check:34} {message.splitlines()[0] if message else ''}"[:240])
