"""Checks of what one sampler does when it runs: noise, dtypes, shapes, batches, states, single steps, threads."""

import copy
import json
import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from ddimkit.graphs import capture
from ddimkit.loop import Model, NoiseFn, SamplerState
from ddimkit.sampling import PlanSampler
from ddimkit.testing._probes import NoFloat64, ProbeModel, normal, require_same

__all__ = ["SHAPE", "RunChecks", "final"]

SHAPE = (5, 2, 3, 3)
"""(B, C, H, W) that most checks sample."""


def final(states: Iterator[SamplerState]) -> Tensor:
    """The x of the last state."""
    *_, last = states
    return last.x


class RunChecks:
    """Checks of a single sampler, which :meth:`uneven` makes.

    Attributes:
        device: where the checks sample, as in ``"cuda"``.
        dtype: of most samples.
        dtypes: every dtype that is tried; leave out what the device lacks.
    """

    device: ClassVar[str] = "cpu"
    dtype: ClassVar[torch.dtype] = torch.float32
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

    def uneven(self) -> PlanSampler:
        """The sampler under test."""
        raise NotImplementedError(f"{type(self).__name__} must define uneven()")

    def run(self, sampler: PlanSampler, model: Model | None = None, *, seed: int = 3, dtype: torch.dtype | None = None) -> Tensor:
        """One keyed sample of the usual shape."""
        return sampler.sample(model or ProbeModel(sampler), SHAPE, seed=seed, device=self.device, dtype=dtype or self.dtype)

    def normal(self, *shape: int, seed: int = 0) -> Tensor:
        """Standard normal numbers on the device, of the usual dtype."""
        return normal(*shape, seed=seed).to(self.device, self.dtype)

    def noises(self) -> NoiseFn:
        """A ``noise_fn`` whose numbers depend on the draw alone."""
        return lambda draw, like: normal(*like.shape, seed=draw + 1).to(like.device, like.dtype)

    def test_model_sees_the_plans_times(self) -> None:
        """The model is called at the plan's t, as int64 of shape (B,)."""
        sampler = self.uneven()
        model = ProbeModel(sampler)
        self.run(sampler, model)
        for k, t in enumerate(model.times):
            assert t.dtype is torch.int64, f"call {k}: the model's t has dtype {t.dtype}, not int64"
            assert t.shape == SHAPE[:1], f"call {k}: the model's t has shape {tuple(t.shape)}, not {SHAPE[:1]}"
        found, expected = [t.tolist() for t in model.times], [[t] * SHAPE[0] for t in sampler.plan().t]
        assert found == expected, f"the model is called at other timesteps than the plan's t: {found}, not {expected}"

    def test_noise_is_asked_only_where_it_is_added(self) -> None:
        """``noise_fn`` is called for x_T (draw −1), then once for each row whose c is not 0."""
        sampler, draws, source = self.uneven(), list[int](), self.noises()

        def noise_fn(draw: int, like: Tensor) -> Tensor:
            draws.append(draw)
            return source(draw, like)

        sampler.sample(ProbeModel(sampler), SHAPE, noise_fn=noise_fn, device=self.device)
        expected = [-1, *np.flatnonzero(sampler.plan().c).tolist()]
        assert draws == expected, f"noise_fn is called for draws {draws}, but x_T and the rows with c > 0 are {expected}"

    def test_dtype_is_kept(self) -> None:
        """Every x the model is given, and the result, has the dtype of the call."""
        for dtype in self.dtypes:
            sampler = self.uneven()
            model = ProbeModel(sampler)
            x = self.run(sampler, model, dtype=dtype)
            found = {y.dtype for y in [*model.inputs, x]}
            assert found == {dtype}, f"dtype={dtype} is not kept: x and the model's inputs have {found}"

    def test_shapes(self) -> None:
        r"""(B, \*) of one to five dimensions, and an empty batch; ``x_T`` is not written to."""
        for shape in ((3,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 2, 2), (0, 3, 4, 4)):
            sampler = self.uneven()
            model = ProbeModel(sampler)
            if model.learned and len(shape) == 1:
                continue  # a learned range needs channels
            x_T = self.normal(*shape)
            x = sampler.sample(model, x_T=x_T, seed=0)
            assert x.shape == shape, f"x_T of shape {shape} gives a sample of shape {tuple(x.shape)}"
            assert {y.shape for y in model.inputs} == {shape}, f"x_T of shape {shape}: the model is given another shape"
            require_same(x_T, self.normal(*shape), "sample writes into the caller's x_T")

    def test_batch_split_changes_nothing(self) -> None:
        """Sample i of a batch is the sample of its seed alone, bit for bit, in any order and for ``batch_size``."""
        sampler, count = self.uneven(), 20
        seeds = [int(seed) for seed in np.random.default_rng(0).integers(0, 2**62, count)]

        def sample(chosen: list[int], batch_size: int | None = None) -> Tensor:
            shape = (len(chosen), *SHAPE[1:])
            model = ProbeModel(sampler)
            return sampler.sample(model, shape, seed=chosen, device=self.device, dtype=self.dtype, batch_size=batch_size)

        whole = sample(seeds)
        assert len(torch.unique(whole.flatten(1), dim=0)) == count, f"{count} seeds give samples of which some are equal"
        for i in (0, 7, 16, 19):
            require_same(whole[i : i + 1], sample([seeds[i]]), f"sample {i} depends on its batch")
        order = [3, 0, 17]
        require_same(sample([seeds[i] for i in order]), whole[order], f"the order of the seeds {order} changes the samples")
        require_same(sample(seeds, batch_size=7), whole, "batch_size=7 changes the samples")

    def test_same_seed_same_sample(self) -> None:
        """Two runs of one sampler, and one of an equal sampler, agree bit for bit; another seed gives another sample."""
        sampler = self.uneven()
        first = self.run(sampler)
        require_same(self.run(sampler), first, "two runs of one sampler with the same seed differ")
        require_same(self.run(self.uneven()), first, "runs of two equal samplers with the same seed differ")
        assert not torch.equal(self.run(sampler, seed=1000), first), "seed is ignored: seeds 3 and 1000 give the same samples"

    def test_value_object(self) -> None:
        """Equal settings make equal samplers of equal hash; copies and pickles are equal and sample the same."""
        sampler = self.uneven()
        expected = self.run(sampler)
        twins = {
            "a second one": self.uneven(),
            "a deep copy": copy.deepcopy(sampler),
            "a pickled copy": pickle.loads(pickle.dumps(sampler)),  # noqa: S301  # our own bytes
            "what replace() makes": replace(sampler),
        }
        for name, twin in twins.items():
            assert twin == sampler, f"{name} is not equal to the sampler: {twin} and {sampler}"
            assert hash(twin) == hash(sampler), f"{name} is equal to the sampler but has another hash"
            assert twin.plan() == sampler.plan(), f"{name} has another plan"
            require_same(self.run(twin), expected, f"{name} gives another sample")
        assert sampler != object(), "the sampler is equal to any object"

    def test_resume(self) -> None:
        """Going on after any row gives what an uninterrupted run gives."""
        sampler = self.uneven()
        model = ProbeModel(sampler)
        states = list(sampler.iterate(model, SHAPE, seed=2, device=self.device, dtype=self.dtype))
        for state in states[:-1]:
            found = final(sampler.iterate(model, resume=state))
            require_same(found, states[-1].x, f"resumed after row {state.index}, the run ends elsewhere")

    def test_looking_changes_nothing(self) -> None:
        """A callback that reads, and the iterator, give what a bare run gives; the states carry the plan's rows."""
        sampler, seen = self.uneven(), list[SamplerState]()
        model, plan = ProbeModel(sampler), sampler.plan()
        expected = self.run(sampler)
        looked = sampler.sample(model, SHAPE, seed=3, callback=seen.append, device=self.device, dtype=self.dtype)
        require_same(looked, expected, "a callback that only reads changes the sample")
        states = sampler.iterate(model, SHAPE, seed=3, device=self.device, dtype=self.dtype)
        require_same(final(states), expected, "iterate ends elsewhere than sample")
        found = [(s.index, s.t, s.t_next, s.nfe) for s in seen]
        rows = [(k, plan.t[k], plan.t_next[k], k + 1) for k in range(sampler.nfe)]
        assert found == rows, f"callback gets states of (index, t, t_next, nfe) {found}, but the plan has {rows}"

    def test_step_is_the_loops_row(self) -> None:
        """``step`` with the loop's noise and history gives the loop's next x, and ``predict_x0`` its x0_hat."""
        sampler, noise = self.uneven(), self.noises()
        model, x, history = ProbeModel(sampler), self.normal(*SHAPE) + 1, tuple[Tensor, ...]()
        for state in sampler.iterate(model, x_T=x, noise_fn=noise):
            output = model(x, torch.full(SHAPE[:1], state.t, device=x.device))
            require_same(
                sampler.predict_x0(x, output, state.index), state.x0, f"predict_x0 at row {state.index} is not the loop's x0"
            )
            x = sampler.step(x, output, state.index, noise=noise(state.index, x), history=history)
            require_same(x, state.x, f"step at row {state.index} is not the loop's")
            history = state.history

    def test_captured_steps_are_the_loops(self) -> None:
        """What :func:`ddimkit.graphs.capture` runs, uncaptured on the CPU, gives the loop's bits; and again."""
        for dtype in (torch.bfloat16, *(kind for kind in self.dtypes if kind.itemsize > 2)):
            sampler = self.uneven()
            captured = capture(sampler, ProbeModel(sampler), SHAPE, device=self.device, dtype=dtype)
            for turn in ("first", "second"):
                expected, found = self.run(sampler, dtype=dtype), captured.using(sampler)(seed=3)
                require_same(found, expected, f"the {turn} captured run of dtype {dtype} is not the loop's")
                assert torch.equal(expected.signbit(), found.signbit()), f"captured, zeros have another sign (dtype {dtype})"
            assert captured.captures == 1, f"one sampler was captured {captured.captures} times"

    def test_threads(self) -> None:
        """One sampler used by 8 threads at once gives what serial use gives."""
        expected = [self.run(self.uneven(), seed=seed) for seed in range(16)]
        shared = self.uneven()
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(self.run, shared, seed=seed) for seed in range(16)]
        for seed, future in enumerate(futures):
            require_same(future.result(), expected[seed], f"with 8 threads seed {seed} gives another sample")

    def test_record(self) -> None:
        """The record is JSON, states every setting and the number of model calls, and its seeds give the sample again."""
        sampler = self.uneven()
        record = sampler.record(SHAPE, seed=3)
        read = json.loads(json.dumps(record))
        assert read == record, "the record changes when it is written as JSON and read"
        assert record["nfe"] == sampler.nfe, f"the record says nfe {record['nfe']}, the sampler {sampler.nfe}"
        settings: dict[str, Any] = record["settings"]
        found = settings["timesteps"]
        assert found == list(sampler.timesteps), f"the record says timesteps {found}, not {sampler.timesteps}"
        missing = {name for name in sampler.__dataclass_fields__ if name not in ("schedule", *settings)}
        assert not missing, f"the record lacks the settings {', '.join(sorted(missing))}"
        again = sampler.sample(ProbeModel(sampler), SHAPE, seed=record["call"]["seeds"], device=self.device, dtype=self.dtype)
        require_same(again, self.run(sampler), "the record's seeds give another sample than the seed recorded")

    def test_float32_needs_no_float64(self) -> None:
        """No float64 tensor is made while x is float32."""
        sampler = self.uneven()
        model = ProbeModel(sampler)
        with NoFloat64():  # type: ignore[no-untyped-call]  # torch leaves this untyped
            self.run(sampler, model, dtype=torch.float32)

    def test_caller_is_left_alone(self) -> None:
        """Global random states, grad mode and default dtype are what they were before a sampler was made and run."""
        kept = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.is_grad_enabled()  # noqa: NPY002
        try:
            # States that no sampler leaves behind, so that one which seeds them is seen whatever ran before.
            random.seed(8_675_309)
            np.random.seed(8_675_309)  # noqa: NPY002  # the global state is what must not change
            torch.manual_seed(8_675_309)
            before = _world()
            self.run(self.uneven())
            for name, value in _world().items():
                assert value == before[name], f"the sampler changes {name} of its caller"
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])  # noqa: NPY002
            torch.set_rng_state(kept[2])
            torch.set_grad_enabled(kept[3])

    def test_start_row_must_exist(self) -> None:
        """``start_at`` beyond the last row is refused."""
        sampler = self.uneven()
        with pytest.raises(ValueError, match="start_at"):
            sampler.sample(ProbeModel(sampler), x_T=self.normal(*SHAPE), start_at=sampler.nfe + 1, seed=0)


def _world() -> dict[str, object]:
    """What a sampler must not change."""
    return {
        "random's global state": random.getstate(),
        "numpy's global random state": repr(np.random.get_state()),  # noqa: NPY002
        "torch's global random state": torch.get_rng_state().tolist(),
        "the grad mode": torch.is_grad_enabled(),
        "torch's default dtype": torch.get_default_dtype(),
    }
