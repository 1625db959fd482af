"""Measures the times of several samplers of one model against one another, in the rounds that ``times`` lays out."""

import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ddimkit._arguments import Arguments
from ddimkit.loop import check_finite, prepare, walk
from ddimkit.models.bundle import ModelBundle
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.times import Costs, Timing, calls_a_round, round_order, slices_of

__all__ = ["KEPT", "Progress", "estimate_pace", "longest_slice", "measure", "silent"]

Clock = Callable[[], float]
"""Gives the time in seconds, from any origin, once all work given to the device is done."""

Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, what)``, both counted in model calls."""

KEPT = "kept from before"
"""How the progress of work begins that an earlier call has done."""

_PACE_CALLS = 7
_WARM_UP = 2
_REPEATED_UP_TO = 100  # runs of more calls are averages in themselves


def silent(done: int, total: int, what: str) -> None:
    """The progress of work that reports none."""
    del done, total, what


def timer() -> float:
    """``torch.utils.benchmark``'s clock, which waits for the device; imported late, since that package takes long to import."""
    from torch.utils import benchmark

    return benchmark.timer()


def measure(
    samplers: Sequence[PlanSampler],
    bundle: ModelBundle,
    seeds: Sequence[int],
    device: torch.device,
    *,
    rounds: int,
    kept: Timing | None = None,
    keep: Callable[[Timing], None] | None = None,
    clock: Clock = timer,
    progress: Progress = silent,
) -> Timing:
    """Time samplers of one model, which is on ``device`` already, against one another: one image a seed as one batch.

    Of ``kept``, the finished rounds of an earlier call with the same arguments, only the missing ones are measured. ``keep`` is
    called after each round with everything measured so far.

    Raises:
        ValueError: no samplers, no seeds, less than one round, or kept rounds of other samplers.
        NonFiniteError: as ``sample`` raises it.
    """
    if not samplers or not seeds or rounds < 1:
        raise ValueError(
            f"times need samplers, seeds and rounds, got {len(samplers)} samplers, {len(seeds)} seeds, {rounds} rounds"
        )
    bench, calls = _Bench(tuple(samplers), bundle, tuple(seeds), device, clock), tuple(s.nfe for s in samplers)
    longest = longest_slice(device)
    if kept is not None and (kept.calls, kept.batch, kept.longest) != (calls, len(seeds), longest):
        raise ValueError(f"the kept rounds are of runs of {kept.calls} calls and batch {kept.batch}, not {calls} and {len(seeds)}")
    a_round, finished = calls_a_round(calls, longest), len(kept.rounds) if kept else 0
    total = max(rounds, finished) * a_round
    progress(finished * a_round, total, "overhead and memory" if kept is None else f"{KEPT}: {finished} rounds")
    found = kept or Timing(calls, len(seeds), longest, bench.costs())
    if finished < rounds:
        bench.warm_up()
    for r in range(finished, rounds):
        seconds, samples = bench.time_round(progress, r * a_round, total, f"round {r + 1}/{rounds}")
        found = replace(found, rounds=(*found.rounds, seconds), samples=found.samples or samples)
        if keep is not None:
            keep(found)
    return found


def longest_slice(device: torch.device) -> int:
    """Most model calls between two looks at the clock: one on the CPU, five on a device that works while the host goes on."""
    return 1 if device.type == "cpu" else 5


def estimate_pace(
    sampler: PlanSampler, bundle: ModelBundle, seeds: Sequence[int], device: torch.device, clock: Clock = timer
) -> float:
    """Seconds of one model call with its step: the median of a few, after a warm-up."""
    bench = _Bench((sampler,), bundle, tuple(seeds), device, clock)
    bench.warm_up()
    course = bench.course(sampler, (1,) * sampler.nfe)
    return median(bench.time_slice(course)[0] for _ in range(_PACE_CALLS))


@dataclass(frozen=True)
class _Bench:
    """What all runs of a measurement have in common."""

    samplers: tuple[PlanSampler, ...]
    bundle: ModelBundle
    seeds: tuple[int, ...]
    device: torch.device
    clock: Clock

    def course(self, sampler: PlanSampler, sizes: Sequence[int]) -> Iterator[Tensor]:
        """Runs one after another, a slice of so many calls at each ``next``: in all exactly the work of ``sample``."""
        shape, given = (len(self.seeds), *self.bundle.sample_shape), self.bundle.model_kwargs(self.seeds, self.device)
        while True:
            arguments = Arguments(shape, seed=self.seeds, device=self.device, model_kwargs=given)
            run = prepare(sampler.coefficients_from(0), self.bundle.model, arguments)
            rows, x, left = walk(run, observe=False), run.x, sampler.nfe
            for size in sizes:
                with torch.no_grad():
                    for _ in range(size):
                        _, x, _, _ = next(rows)
                left -= size
                if not left:
                    check_finite(run, x)
                yield x

    def time_slice(self, course: Iterator[Tensor]) -> tuple[float, Tensor]:
        """The seconds of a course's next slice, and the x it ends at."""
        began = self.clock()
        x = next(course)
        return self.clock() - began, x

    def warm_up(self) -> None:
        """A few calls of each sampler, so that nothing is done for the first time in a timed slice."""
        for sampler in self.samplers:
            course = self.course(sampler, (1,) * sampler.nfe)
            for _ in range(_WARM_UP):
                self.time_slice(course)

    def costs(self) -> tuple[Costs, ...]:
        """Overhead and memory of each sampler."""
        return tuple(Costs(self._overhead(sampler), *self._peak_memory(sampler)) for sampler in self.samplers)

    def _overhead(self, sampler: PlanSampler) -> float:
        """Seconds of one run with a model that returns a constant tensor: the median of three runs, of long runs one."""
        shape = (len(self.seeds), *self.bundle.sample_shape)
        channels = 2 * shape[1] if sampler.coefficients.learned else shape[1]
        constant = torch.zeros((shape[0], channels, *shape[2:]), device=self.device)
        seconds: list[float] = []
        for _ in range(3 if sampler.nfe <= _REPEATED_UP_TO else 1):
            began = self.clock()
            sampler.sample(partial(_constant, constant), shape, seed=self.seeds, device=self.device)
            seconds.append(self.clock() - began)
        return median(seconds)

    def _peak_memory(self, sampler: PlanSampler) -> tuple[int | None, str]:
        """Most bytes that three steps held beyond what was there before, and how that was measured (or why it was not)."""
        rows, device = sampler.plan()[:3], self.device
        short = PlanSampler.from_plan(sampler.schedule, rows, prediction=sampler.prediction, clip=sampler.clip)
        shape, given = (len(self.seeds), *self.bundle.sample_shape), self.bundle.model_kwargs(self.seeds, device)
        run = partial(short.sample, self.bundle.model, shape, seed=self.seeds, device=device, model_kwargs=given)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            run()
            return torch.cuda.max_memory_allocated(device) - before, "CUDA allocator, three steps, weights not counted"
        if device.type != "cpu":
            return None, f"not measurable on a device of type {device.type}"
        with _native_stderr_off(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            run()
        changes = [change for _, change in sorted((e.time_range.end, e.self_cpu_memory_usage) for e in trace.events() or ())]
        if not any(changes):
            return None, "this build of torch reports no memory events to its profiler"
        return int(np.cumsum(changes).max()), "torch profiler, three steps, weights not counted"

    def time_round(
        self, progress: Progress, done: int, total: int, what: str
    ) -> tuple[tuple[tuple[float, ...], ...], tuple[Tensor, ...]]:
        """The seconds of each slice of each sampler in one round, and the images of each one's first run."""
        calls, longest = [s.nfe for s in self.samplers], longest_slice(self.device)
        courses = [self.course(s, slices_of(s.nfe, longest)[1]) for s in self.samplers]
        seconds, walked, samples = [list[float]() for _ in calls], [0] * len(calls), dict[int, Tensor]()
        for i, size in round_order(calls, longest):
            progress(done + sum(walked), total, what)
            spent, x = self.time_slice(courses[i])
            seconds[i].append(spent)
            walked[i] += size
            if walked[i] == calls[i]:
                with torch.no_grad():
                    samples[i] = self.bundle.decoded(x).float().cpu()
        progress(done + sum(walked), total, what)
        return tuple(map(tuple, seconds)), tuple(samples[i] for i in range(len(calls)))


def _constant(output: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """A model that takes no time."""
    del x, t
    return output


@contextmanager
def _native_stderr_off() -> Generator[None]:
    """Hide what native code writes to standard error: the profiler announces its start and stop there, whatever it is told."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
