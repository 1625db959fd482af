"""The conformance kit: what every sampler promises, as a class of tests to inherit.

The author of a sampler writes in a test module, which pytest then collects::

    class TestMySampler(SamplerConformance):
        def make(self, schedule, *, steps=None, timesteps=()):
            return MySampler(schedule, steps=steps, timesteps=timesteps)

This module needs pytest and nothing else of ddimkit imports it.
"""

import copy
import itertools
import json
import pickle
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddimkit.graphs import capture
from ddimkit.loop import Model, SamplerState
from ddimkit.plan import Plan
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule

__all__ = ["NoFloat64", "ProbeModel", "SamplerConformance", "check_plan"]

_SHAPE = (5, 2, 3, 3)


class ProbeModel:
    r"""An elementwise model made of exactly rounded operations: :math:`x / (1 + x^2) + t/8000`; keeps the x and t it is given.

    Args:
        sampler: of a learned range it wants two outputs stacked along the channels, else one.
    """

    def __init__(self, sampler: PlanSampler) -> None:
        self.learned = sampler.plan().c_max is not None
        self.inputs: list[Tensor] = []
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The output for x (B, *) and t (B,)."""
        self.inputs.append(x)
        self.times.append(t)
        output = x / (1 + x * x) + t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1)) / 8000
        return torch.cat([output, -output], dim=1) if self.learned else output


class NoFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves this untyped
    """Within it, an operation that gives a float64 tensor raises, as it would on a device without float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it gives."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.dtype is torch.float64:
                raise AssertionError(f"{func} made a float64 tensor of shape {tuple(value.shape)}")
        return result


def check_plan(plan: Plan, schedule: NoiseSchedule) -> None:
    r"""Assert what every downward walk to the clean image obeys, with s, n at t and s', n' at t_next.

    The rows join; each keeps the signal, :math:`a s + \sum_j b_j = s'`; a row without noise and history keeps the noise,
    :math:`a n = n'`; the last is exactly a = 0, b = (1, 0, …), c = 0; no c is negative; history is read only where there is one.

    Args:
        plan: the table.
        schedule: the one it was made for.

    Raises:
        AssertionError: naming the row.
    """
    ends = [*plan.t[1:], None]
    assert list(plan.t_next) == ends, f"a row must land where the next begins: t={plan.t}, t_next={plan.t_next}"
    for k, (t, t_next) in enumerate(zip(plan.t, plan.t_next, strict=True)):
        a, b, c = float(plan.a[k]), plan.b[k], float(plan.c[k])
        s, n = float(schedule.signal[t]), float(schedule.noise[t])
        s_next, n_next = (1.0, 0.0) if t_next is None else (float(schedule.signal[t_next]), float(schedule.noise[t_next]))
        tolerance = 1e-12 * (1 + abs(a) + float(np.abs(b).sum()))
        assert abs(a * s + float(b.sum()) - s_next) <= tolerance, (
            f"row {k} loses signal: a·s + Σb = {a * s + b.sum()}, not {s_next}"
        )
        if c == 0 and not b[1:].any():
            assert abs(a * n - n_next) <= tolerance, f"row {k} loses noise: a·n = {a * n}, not {n_next}"
        assert c >= 0, f"row {k} has c = {c}"
        assert not b[k + 1 :].any(), f"row {k} reads more than the {k} x0 predictions before it: b = {b}"
    assert plan.a[-1] == 0, f"the last row has a = {plan.a[-1]}, not 0"
    assert plan.b[-1].tolist() == [1.0] + [0.0] * (plan.b.shape[1] - 1), f"the last row has b = {plan.b[-1]}, not (1, 0, …)"
    assert plan.c[-1] == 0, f"the last row has c = {plan.c[-1]}, not 0"


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    """Every strictly descending list of numbers below ``count``."""
    for size in range(1, count + 1):
        yield from itertools.combinations(range(count - 1, -1, -1), size)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _final(states: Iterator[SamplerState]) -> Tensor:
    *_, last = states
    return last.x


def _same(first: Tensor, second: Tensor) -> bool:
    return first.dtype is second.dtype and first.shape == second.shape and torch.equal(first, second)


class SamplerConformance:
    """Inherit this, write :meth:`make`, and pytest runs every check on your sampler.

    Attributes:
        schedule: the schedule that most checks sample with.
    """

    schedule: ClassVar[NoiseSchedule] = NoiseSchedule.linear()

    def make(self, schedule: NoiseSchedule, *, steps: int | None = None, timesteps: Sequence[int] = ()) -> PlanSampler:
        """The sampler under test.

        Args:
            schedule: for this schedule.
            steps: of this many timesteps; None where ``timesteps`` are given.
            timesteps: of these timesteps, a strictly descending list.
        """
        raise NotImplementedError(f"{type(self).__name__} must define make()")

    def uneven(self) -> PlanSampler:
        """The sampler under test on a list of no regular stride."""
        total = self.schedule.num_timesteps
        times = {total - 1, *(int(total * part) for part in (0.7, 0.65, 0.3, 0.02))}
        return self.make(self.schedule, timesteps=sorted(times, reverse=True))

    def run(self, sampler: PlanSampler, model: Model | None = None, *, seed: int = 3) -> Tensor:
        """One keyed float32 sample of the usual shape."""
        return sampler.sample(model or ProbeModel(sampler), _SHAPE, seed=seed)

    def test_plan_of_every_list(self) -> None:
        """The plan's equations hold on every list of a short schedule, and on some of a long one."""
        short, total = NoiseSchedule.cosine(6), self.schedule.num_timesteps
        long = [(total - 1,), (0,), tuple(range(total - 1, -1, -1)), tuple(range(total - 1, 0, -7))]
        for schedule, times in [*((short, times) for times in _subsets(6)), *((self.schedule, times) for times in long)]:
            sampler = self.make(schedule, timesteps=times)
            plan = sampler.plan()
            assert tuple(sampler.timesteps) == tuple(times), f"timesteps read back as {sampler.timesteps}, given {times}"
            assert tuple(dict.fromkeys(plan.t)) == tuple(times), f"the plan visits {plan.t}, given {times}"
            check_plan(plan, schedule)

    def test_plan_from_zero_snr(self) -> None:
        """The plan's equations hold from a first timestep that has no signal; epsilon prediction refuses it."""
        schedule = NoiseSchedule.cosine(6).zero_terminal_snr()
        if self.uneven().prediction == "epsilon":
            with pytest.raises(ValueError, match="epsilon"):
                self.make(schedule, timesteps=(5, 2))
            return
        for times in _subsets(6):
            check_plan(self.make(schedule, timesteps=times).plan(), schedule)

    @pytest.mark.parametrize("steps", [1, 2, 7])
    def test_steps(self, steps: int) -> None:
        """``steps`` timesteps, and as many model calls as ``nfe`` and the record say."""
        sampler = self.make(self.schedule, steps=steps)
        model = ProbeModel(sampler)
        self.run(sampler, model)
        assert len(sampler.timesteps) == steps
        assert len(model.times) == sampler.nfe == sampler.record()["nfe"], f"{len(model.times)} calls, nfe {sampler.nfe}"

    def test_model_sees_the_plans_times(self) -> None:
        """The model is asked at the plan's t, as int64 of shape (B,)."""
        sampler = self.uneven()
        model = ProbeModel(sampler)
        self.run(sampler, model)
        assert all(t.dtype is torch.int64 and t.shape == (_SHAPE[0],) for t in model.times)
        assert [t.tolist() for t in model.times] == [[t] * _SHAPE[0] for t in sampler.plan().t]

    def test_noise_is_asked_only_where_it_is_added(self) -> None:
        """``noise_fn`` is called for x_T (draw −1), then once for each row whose c is not 0, and never for the last."""
        sampler, draws = self.uneven(), list[int]()

        def noise_fn(draw: int, like: Tensor) -> Tensor:
            draws.append(draw)
            return _normal(*like.shape)

        sampler.sample(ProbeModel(sampler), _SHAPE, noise_fn=noise_fn)
        assert draws == [-1, *np.flatnonzero(sampler.plan().c).tolist()]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_dtype_is_kept(self, dtype: torch.dtype) -> None:
        """Every x the model is given, and the result, has the dtype asked for."""
        sampler = self.uneven()
        model = ProbeModel(sampler)
        x = sampler.sample(model, _SHAPE, seed=0, dtype=dtype)
        assert {y.dtype for y in [*model.inputs, x]} == {dtype}

    @pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 2, 2), (0, 3, 4, 4)], ids=str)
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        r"""(B, \*) of one to five dimensions, and an empty batch; ``x_T`` is not written to."""
        sampler = self.uneven()
        model = ProbeModel(sampler)
        if model.learned and len(shape) == 1:
            pytest.skip("a learned range needs channels")
        x_T = _normal(*shape)
        x = sampler.sample(model, x_T=x_T, seed=0)
        assert x.shape == shape
        assert {y.shape for y in model.inputs} == {shape}
        assert torch.equal(x_T, _normal(*shape))

    def test_batch_split_changes_nothing(self) -> None:
        """Sample i of a batch is the sample of its seed alone, bit for bit, in any order."""
        sampler = self.uneven()
        whole, seeds = self.run(sampler, seed=11), sampler.seeds(11, _SHAPE[0])
        for i in range(len(whole)):
            alone = sampler.sample(ProbeModel(sampler), (1, *_SHAPE[1:]), seed=seeds[i : i + 1])
            assert _same(whole[i : i + 1], alone), f"sample {i} depends on its batch"
        order = [3, 0, 4]
        assert _same(whole[order], sampler.sample(ProbeModel(sampler), (3, *_SHAPE[1:]), seed=[seeds[i] for i in order]))

    def test_same_seed_same_sample(self) -> None:
        """Two runs of one sampler, and one of an equal sampler, agree bit for bit."""
        sampler = self.uneven()
        first = self.run(sampler)
        assert _same(first, self.run(sampler))
        assert _same(first, self.run(self.uneven()))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_result_is_the_last_x0(self, dtype: torch.dtype) -> None:
        """The result is the last x0 prediction bit for bit."""
        sampler = self.uneven()
        *_, last = sampler.iterate(ProbeModel(sampler), _SHAPE, seed=5, dtype=dtype)
        assert _same(sampler.sample(ProbeModel(sampler), _SHAPE, seed=5, dtype=dtype), last.x0)

    def test_value_object(self) -> None:
        """Equal settings make equal samplers of equal hash; copies and pickles are equal and sample the same."""
        sampler = self.uneven()
        expected = self.run(sampler)
        for twin in (self.uneven(), copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler)), replace(sampler)):  # noqa: S301  # our own bytes
            assert twin == sampler
            assert hash(twin) == hash(sampler)
            assert twin.plan() == sampler.plan()
            assert _same(expected, self.run(twin))
        assert self.make(self.schedule, steps=3) != sampler

    def test_resume(self) -> None:
        """Going on after any row gives what an uninterrupted run gives."""
        sampler = self.uneven()
        model = ProbeModel(sampler)
        states = list(sampler.iterate(model, _SHAPE, seed=2))
        for state in states[:-1]:
            assert _same(_final(sampler.iterate(model, resume=state)), states[-1].x), f"resumed after row {state.index}"

    def test_start_at(self) -> None:
        """Starting at row k walks ``timesteps[k:]`` planned anew; draws keep the numbers of the full list."""
        sampler, x_T = self.uneven(), _normal(*_SHAPE)
        model, start = ProbeModel(sampler), 2
        rest = self.make(self.schedule, timesteps=tuple(sampler.timesteps)[start:])
        noise = {draw: _normal(*_SHAPE) * (draw + 1) for draw in range(sampler.nfe)}
        late = sampler.sample(model, x_T=x_T, start_at=start, noise_fn=lambda draw, _: noise[draw])
        assert _same(late, rest.sample(model, x_T=x_T, noise_fn=lambda draw, _: noise[draw + start]))

    def test_looking_changes_nothing(self) -> None:
        """A callback that reads, and the iterator, give what a bare run gives; the states carry the plan's rows."""
        sampler, seen = self.uneven(), list[SamplerState]()
        model, plan = ProbeModel(sampler), sampler.plan()
        expected = self.run(sampler)
        assert _same(expected, sampler.sample(model, _SHAPE, seed=3, callback=seen.append))
        assert _same(expected, _final(sampler.iterate(model, _SHAPE, seed=3)))
        assert [(s.index, s.t, s.t_next, s.nfe) for s in seen] == [
            (k, plan.t[k], plan.t_next[k], k + 1) for k in range(sampler.nfe)
        ]

    def test_step_is_the_loops_row(self) -> None:
        """``step`` with the loop's noise and history gives the loop's next x, and ``predict_x0`` its x0_hat."""
        sampler, noise = self.uneven(), {draw: _normal(*_SHAPE) * (draw + 1) for draw in range(-1, 1000)}
        model, x, history = ProbeModel(sampler), noise[-1] + 1, tuple[Tensor, ...]()
        for state in sampler.iterate(model, x_T=x, noise_fn=lambda draw, _: noise[draw]):
            output = model(x, torch.full(_SHAPE[:1], state.t))
            assert _same(sampler.predict_x0(x, output, state.index), state.x0), f"predict_x0 at row {state.index}"
            x = sampler.step(x, output, state.index, noise=noise[state.index], history=history)
            assert _same(x, state.x), f"step at row {state.index}"
            history = state.history

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
    def test_captured_steps_are_the_loops(self, dtype: torch.dtype) -> None:
        """What :func:`ddimkit.graphs.capture` runs, uncaptured here, gives the loop's bits; and again, and for another list."""
        sampler, other = self.uneven(), self.make(self.schedule, steps=4)
        model = ProbeModel(sampler)
        captured = capture(sampler, model, _SHAPE, dtype=dtype)
        for one in (sampler, other, sampler):
            expected = one.sample(model, _SHAPE, seed=3, dtype=dtype)
            found = captured.using(one)(seed=3)
            assert _same(expected, found)
            assert torch.equal(expected.signbit(), found.signbit()), "zeros of another sign"
        assert captured.captures == 1 + (other.coefficients.noisy != sampler.coefficients.noisy)

    def test_threads(self) -> None:
        """One sampler used by 8 threads at once gives what serial use gives."""
        expected = [self.run(self.uneven(), seed=seed) for seed in range(16)]
        shared = self.uneven()
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(self.run, shared, seed=seed) for seed in range(16)]
        assert all(_same(x, future.result()) for x, future in zip(expected, futures, strict=True))

    def test_caller_is_left_alone(self) -> None:
        """The global random states and the caller's grad mode are what they were."""

        def world() -> tuple[object, ...]:
            legacy = repr(np.random.get_state())  # noqa: NPY002  # the global state is what must not change
            return random.getstate(), legacy, torch.get_rng_state().tolist(), torch.is_grad_enabled()

        before = world()
        sampler = self.uneven()
        self.run(sampler)
        assert world() == before

    def test_record(self) -> None:
        """The record is JSON, states every setting and the number of model calls, and tells settings apart."""
        sampler = self.uneven()
        record = sampler.record(_SHAPE, seed=3)
        assert json.loads(json.dumps(record)) == record
        assert record["nfe"] == sampler.nfe
        assert record["settings"]["timesteps"] == list(sampler.timesteps)
        assert record["call"]["seeds"] == list(sampler.seeds(3, _SHAPE[0]))

    def test_float32_needs_no_float64(self) -> None:
        """No float64 tensor is made while x is float32."""
        sampler = self.uneven()
        model = ProbeModel(sampler)
        with NoFloat64():  # type: ignore[no-untyped-call]  # torch leaves this untyped
            self.run(sampler, model)
