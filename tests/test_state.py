"""What a run leaves behind: nothing. States, callbacks, resuming, threads, copies."""

import copy
import itertools
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

from ddimkit import DDIMSampler, DDPMSampler, DynamicThreshold, NoiseSchedule, NonFiniteError, PlanSampler, SamplerState
from plugins import AdamsBashforth2
from probes import normal, smooth, twice
from strategies import schedules, timesteps

SCHEDULE = NoiseSchedule.linear()
TIMES = (999, 760, 400, 130, 9)

SAMPLERS: dict[str, PlanSampler] = {
    "ddim": DDIMSampler(SCHEDULE, timesteps=TIMES),
    "ddim-spaced": DDIMSampler(SCHEDULE, steps=4, spacing="quadratic", prediction="v", clip=(-2, 2)),
    "ddim-eta": DDIMSampler(SCHEDULE, timesteps=TIMES, eta=0.4, clip=DynamicThreshold()),
    "ddpm-large": DDPMSampler(SCHEDULE, timesteps=TIMES, variance="fixed_large"),
    "ddpm-learned": DDPMSampler(SCHEDULE, timesteps=TIMES, variance="learned_range"),
    "multistep": AdamsBashforth2(SCHEDULE, timesteps=TIMES),
    "bare": PlanSampler.from_plan(SCHEDULE, AdamsBashforth2(SCHEDULE, timesteps=TIMES).plan()),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def model_for(sampler: PlanSampler) -> Callable[[Tensor, Tensor], Tensor]:
    return twice if sampler.plan().c_max is not None else smooth


def drained(states: Any) -> SamplerState:
    *_, last = states
    return last


# The caller's world


def world() -> tuple[object, ...]:
    return (
        random.getstate(),
        repr(np.random.get_state()),  # noqa: NPY002  # the global state is what must not change
        torch.get_rng_state().tolist(),
        torch.initial_seed(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )


@pytest.mark.promise(26)
@pytest.mark.parametrize(
    "source", [{"seed": 0}, {}, {"generator": torch.Generator()}, {"noise_fn": lambda draw, like: torch.zeros_like(like)}]
)
@every_sampler
def test_the_callers_random_state_is_the_same(sampler: PlanSampler, source: dict[str, Any]) -> None:
    model, before = model_for(sampler), world()
    sampler.sample(model, (2, 4), **source)
    drained(sampler.iterate(model, (2, 4), **source))
    sampler.step(normal(2, 4), model(normal(2, 4), torch.tensor([9, 9])), 1, noise=normal(2, 4), history=[normal(2, 4)])
    assert world() == before


@pytest.mark.promise(26, 27)
@every_sampler
def test_the_callers_random_state_does_not_matter(sampler: PlanSampler) -> None:
    first = sampler.sample(model_for(sampler), (2, 4), seed=0)
    torch.rand(3)
    assert torch.equal(first, sampler.sample(model_for(sampler), (2, 4), seed=0))


@pytest.mark.promise(33)
@pytest.mark.parametrize("enabled", [False, True])
@every_sampler
def test_break_leaves_grad_mode_alone(sampler: PlanSampler, enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        for state in sampler.iterate(model_for(sampler), (2, 4), seed=0):
            assert torch.is_grad_enabled() == enabled
            if state.index == 1:
                break
        assert torch.is_grad_enabled() == enabled


@pytest.mark.parametrize("way", ["sample", "callback", "iterate"])
def test_an_exception_leaves_grad_mode_alone(way: str) -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        if int(t[0]) == 400:
            raise KeyError("from the model")
        return smooth(x, t)

    def run() -> None:
        if way == "iterate":
            drained(SAMPLERS["ddim"].iterate(model, (2, 3), seed=0))
        else:
            SAMPLERS["ddim"].sample(model, (2, 3), seed=0, callback=None if way == "sample" else lambda state: None)

    with pytest.raises(KeyError, match="from the model"):
        run()
    assert torch.is_grad_enabled()


@pytest.mark.promise(34)
@every_sampler
def test_nothing_is_printed_unless_asked(sampler: PlanSampler, capfd: pytest.CaptureFixture[str]) -> None:
    model = model_for(sampler)
    sampler.sample(model, (2, 4), seed=0)
    drained(sampler.iterate(model, (2, 4), seed=0))
    sampler.plan()
    sampler.record((2, 4), seed=0)
    assert capfd.readouterr() == ("", "")
    for callback in (None, lambda state: None):
        sampler.sample(model, (2, 4), seed=0, progress=True, callback=callback)
        printed = capfd.readouterr()
        assert printed.out == ""
        assert f"{sampler.nfe}/{sampler.nfe}" in printed.err


# Looking


@pytest.mark.promise(33)
@every_sampler
def test_a_callback_that_reads_changes_nothing(sampler: PlanSampler) -> None:
    model, plan, states = model_for(sampler), sampler.plan(), list[SamplerState]()
    expected = sampler.sample(model, (2, 4), seed=0)
    assert torch.equal(expected, sampler.sample(model, (2, 4), seed=0, callback=states.append))
    assert torch.equal(expected, drained(sampler.iterate(model, (2, 4), seed=0)).x)
    assert [(s.index, s.t, s.t_next, s.nfe) for s in states] == [(k, plan.t[k], plan.t_next[k], k + 1) for k in range(sampler.nfe)]
    assert {s.seeds for s in states} == {sampler.seeds(0, 2)}
    for before, after in itertools.pairwise(states):
        output = model(before.x, torch.full((2,), after.t))
        assert torch.equal(after.x0, sampler.predict_x0(before.x, output, after.index))


@pytest.mark.promise(33)
@given(st.data(), st.sampled_from([torch.bfloat16, torch.float32]), st.booleans())
def test_resume_equals_an_uninterrupted_run(data: st.DataObject, dtype: torch.dtype, keyed: bool) -> None:
    sampler = data.draw(st.sampled_from(list(SAMPLERS.values())))
    model, noise = model_for(sampler), {draw: normal(2, 4, seed=draw + 1) for draw in range(-1, sampler.nfe)}
    source: dict[str, Any] = {} if keyed else {"noise_fn": lambda draw, _: noise[draw]}
    start = data.draw(st.integers(0, 0 if sampler is SAMPLERS["bare"] else sampler.nfe - 1))
    seed = {"seed": 5} if keyed else source
    states = list(sampler.iterate(model, x_T=normal(2, 4).to(dtype), start_at=start, **seed))
    state = data.draw(st.sampled_from(states))
    again = data.draw(st.sampled_from([state, pickle.loads(pickle.dumps(state)), copy.deepcopy(state)]))
    rest = list(sampler.iterate(model, resume=again, **source))
    assert [(s.index, s.nfe, s.start_at, s.seeds) for s in rest] == [
        (s.index, s.nfe, s.start_at, s.seeds) for s in states if s.index > state.index
    ]
    for found, expected in zip(rest, states[state.index - start + 1 :], strict=True):
        assert torch.equal(found.x, expected.x)
        assert torch.equal(found.x0, expected.x0)


@every_sampler
def test_resuming_does_not_change_the_state(sampler: PlanSampler) -> None:
    state = next(iter(sampler.iterate(model_for(sampler), (2, 4), seed=0)))
    before = copy.deepcopy(state)
    drained(sampler.iterate(model_for(sampler), resume=state))
    for tensor, kept in zip((state.x, state.x0, *state.history), (before.x, before.x0, *before.history), strict=True):
        assert torch.equal(tensor, kept)


def test_a_wrong_resume_is_refused() -> None:
    sampler, noisy = SAMPLERS["ddim"], SAMPLERS["ddim-eta"]
    states = list(sampler.iterate(smooth, (2, 3), seed=0))
    for argument in ({"seed": 0}, {"x_T": states[0].x}, {"start_at": 1}, {"dtype": torch.float32}, {"device": "cpu"}):
        with pytest.raises(ValueError, match="leave them out"):
            sampler.iterate(smooth, resume=states[0], **argument)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        sampler.iterate(smooth, (2, 4), resume=states[0])
    with pytest.raises(ValueError, match="not made by this sampler"):
        DDIMSampler(SCHEDULE, timesteps=(999, 300, 9)).iterate(smooth, resume=states[1])
    with pytest.raises(ValueError, match="not made by this sampler"):
        DDIMSampler(SCHEDULE, timesteps=(999,)).iterate(smooth, resume=states[1])
    drawn = next(iter(noisy.iterate(smooth, (2, 3), generator=torch.Generator().manual_seed(0))))
    with pytest.raises(ValueError, match="give the generator or noise_fn again"):
        noisy.iterate(smooth, resume=drawn)


def _part(state: SamplerState, name: str, part: slice) -> SamplerState:
    value = getattr(state, name)
    return replace(state, **{name: tuple(one[part] for one in value) if name == "history" else value[part]})


@pytest.mark.promise(50)
@pytest.mark.parametrize("part", [slice(0, 1), slice(0, 2), slice(0, 0)], ids=["one", "two", "none"])
@pytest.mark.parametrize("names", [n for k in (1, 2, 3) for n in itertools.combinations(("x", "x0", "history", "seeds"), k)])
def test_a_state_of_parts_of_different_batches_is_refused(names: tuple[str, ...], part: slice) -> None:
    sampler = SAMPLERS["multistep"]
    state = list(sampler.iterate(smooth, (3, 4), seed=5))[1]
    assert len(state.history) == 1
    for name in names:
        state = _part(state, name, part)
    with pytest.raises(ValueError, match="must be those of the same samples"):
        sampler.iterate(smooth, resume=state)
    for name in {"x", "x0", "history", "seeds"} - {*names}:
        state = _part(state, name, part)
    drained(sampler.iterate(smooth, resume=state))  # all of one part are a batch of its own


@pytest.mark.promise(50)
def test_a_state_whose_history_has_another_shape_is_refused() -> None:
    state = list(SAMPLERS["multistep"].iterate(smooth, (3, 4), seed=5))[1]
    for changed in (replace(state, history=(state.x[:, :1],)), replace(state, x0=state.x0.to("meta"))):
        with pytest.raises(ValueError, match=r"x is \(3, 4\) on cpu, but its (history is \(3, 1\)|x0 is \(3, 4\) on meta)"):
            SAMPLERS["multistep"].iterate(smooth, resume=changed)


# One object, many users


@pytest.mark.promise(28)
@every_sampler
def test_8_threads_equal_serial_use(sampler: PlanSampler) -> None:
    model = model_for(sampler)
    expected = [sampler.sample(model, (2, 4), seed=seed) for seed in range(24)]
    shared = copy.deepcopy(replace(sampler))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: shared.sample(model, (2, 4), seed=seed), range(24)))
    assert all(torch.equal(x, y) for x, y in zip(expected, found, strict=True))


@pytest.mark.promise(28)
def test_interleaved_walks_do_not_meet() -> None:
    sampler = SAMPLERS["multistep"]
    walks = [sampler.iterate(smooth, (2, 4), seed=seed) for seed in range(3)]
    last = list(zip(*walks, strict=True))[-1]
    for seed, state in enumerate(last):
        assert torch.equal(state.x, sampler.sample(smooth, (2, 4), seed=seed))


@pytest.mark.promise(29)
@given(schedules(max_size=12), st.data())
def test_samplers_hash_pickle_and_copy_equal(schedule: NoiseSchedule, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([DDIMSampler, DDPMSampler, AdamsBashforth2]))
    times = data.draw(timesteps(schedule.num_timesteps))
    clip = data.draw(st.sampled_from([None, (-1.0, 1.0), DynamicThreshold()]))
    sampler = kind(schedule, timesteps=times, clip=clip)
    used = kind(schedule, timesteps=list(times), clip=clip)
    used.sample(smooth, x_T=normal(1, 2), seed=0)
    bare = PlanSampler.from_plan(schedule, sampler.plan(), clip=clip)
    for one, other in ((sampler, used), (bare, PlanSampler.from_plan(schedule, used.plan(), clip=clip))):
        for twin in (other, pickle.loads(pickle.dumps(other)), copy.deepcopy(other), copy.copy(other), replace(other)):
            assert one == twin
            assert hash(one) == hash(twin)
            assert one.plan() == twin.plan()
            assert not twin.plan().a.flags.writeable
    assert sampler != bare
    assert sampler != replace(sampler, clip=(-3.0, 3.0))


@pytest.mark.promise(29)
def test_a_pickle_has_the_hash_of_the_process_that_reads_it() -> None:
    """Hashes of strings and bytes differ from process to process: one that was saved would find nothing in a dict."""
    sampler = SAMPLERS["ddim-eta"]
    hash(sampler)
    code = (
        "import pickle, sys; from ddimkit import *; s = pickle.load(sys.stdin.buffer);"
        f"r = DDIMSampler(NoiseSchedule.linear(), timesteps={TIMES}, eta=0.4, clip=DynamicThreshold());"
        "assert s == r and hash(s) == hash(r) and {r: 1}[s] == 1; assert not s.schedule.signal.flags.writeable"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(sampler),
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@every_sampler
def test_settings_cannot_be_changed(sampler: PlanSampler) -> None:
    with pytest.raises(AttributeError):
        sampler.prediction = "x0"  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        sampler.plan().a[0] = 1


class Abuse(RuleBasedStateMachine):
    """Any sequence of calls, those that fail among them, leaves the next result what it was."""

    @initialize(name=st.sampled_from(sorted(SAMPLERS)))
    def begin(self, name: str) -> None:
        self.sampler = copy.deepcopy(SAMPLERS[name])
        self.model = model_for(self.sampler)
        self.expected = copy.deepcopy(SAMPLERS[name]).sample(self.model, (2, 4), seed=5)
        self.hash, self.left_open = hash(self.sampler), list[Any]()

    def failing(self, at: int, kind: type[Exception]) -> Callable[[Tensor, Tensor], Tensor]:
        left = [at]

        def model(x: Tensor, t: Tensor) -> Tensor:
            left[0] -= 1
            if left[0] < 0:
                raise kind("on purpose")
            return self.model(x, t)

        return model

    @rule(seed=st.integers(0, 9), batch=st.integers(0, 3), dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]))
    def sample_something_else(self, seed: int, batch: int, dtype: torch.dtype) -> None:
        self.sampler.sample(self.model, (batch, 3), seed=seed, dtype=dtype)

    @rule(at=st.integers(0, 3), kind=st.sampled_from([RuntimeError, KeyError, ValueError]), look=st.booleans())
    def the_model_raises(self, at: int, kind: type[Exception], look: bool) -> None:
        with pytest.raises(kind, match="on purpose"):
            self.sampler.sample(self.failing(at, kind), (2, 4), seed=5, callback=(lambda state: None) if look else None)

    @rule()
    def the_callback_raises(self) -> None:
        def callback(state: SamplerState) -> None:
            raise RuntimeError("on purpose")

        with pytest.raises(RuntimeError, match="on purpose"):
            self.sampler.sample(self.model, (2, 4), seed=5, callback=callback)

    @rule(rows=st.integers(0, 3), close=st.booleans())
    def leave_an_iterator(self, rows: int, close: bool) -> None:
        walk = self.sampler.iterate(self.model, (2, 4), seed=5)
        for _ in range(rows):
            next(walk)
        if not close:
            self.left_open.append(walk)

    @rule()
    def go_on_with_an_iterator(self) -> None:
        if self.left_open:
            assert torch.equal(drained(self.left_open.pop()).x, self.expected)

    @rule(at=st.integers(0, 2))
    def not_a_number(self, at: int) -> None:
        with pytest.raises(NonFiniteError):
            self.sampler.sample(lambda x, t: self.model(x, t) * float("nan"), (2, 4), seed=5)

    @rule()
    def a_model_that_writes_into_its_input(self) -> None:
        with pytest.raises(ValueError, match="wrote into its input x"):
            self.sampler.sample(lambda x, t: self.model(x.mul_(0.5), t), (2, 4), seed=5)

    @rule(index=st.integers(-2, 9))
    def step_with_or_without_what_it_needs(self, index: int) -> None:
        x = normal(2, 4)
        output = self.model(x, torch.tensor([9, 9]))
        for extra in ({}, {"noise": x}, {"noise": x, "history": [x]}):
            try:
                self.sampler.step(x, output, index, **extra)
                self.sampler.predict_x0(x, output, index)
            except ValueError:
                pass

    @rule(start=st.integers(1, 3))
    def start_late(self, start: int) -> None:
        if self.sampler != SAMPLERS["bare"]:
            self.sampler.sample(self.model, x_T=normal(2, 4), start_at=start, seed=1)

    @rule()
    def record_pickle_replace(self) -> None:
        self.sampler.record((2, 4), seed=5)
        self.sampler = pickle.loads(pickle.dumps(self.sampler))
        replace(self.sampler)

    @invariant()
    def the_next_result_is_what_it_was(self) -> None:
        if hasattr(self, "expected"):
            assert torch.equal(self.sampler.sample(self.model, (2, 4), seed=5), self.expected)
            assert hash(self.sampler) == self.hash
            assert torch.is_grad_enabled()


TestAbuse = pytest.mark.promise(29)(Abuse.TestCase)
TestAbuse.settings = settings(max_examples=20, stateful_step_count=15, suppress_health_check=[HealthCheck.too_slow])
