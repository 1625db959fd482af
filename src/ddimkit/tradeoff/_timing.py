"""Measures the times of several samplers of one model against one another, in the rounds that ``times`` lays out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor

from ddimkit._arguments import Arguments
from ddimkit.loop import check_finite, prepare, walk
from ddimkit.models.bundle import ModelBundle
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff._machine import (
    Clock,
    Costs,
    describe_machine,
    measure_overhead,
    measure_peak_memory,
    timer,
    versions,
)
from ddimkit.tradeoff.times import Timing, calls_a_round, round_order, slices_of

__all__ = [
    "KEPT",
    "Progress",
    "describe_machine",
    "estimate_pace",
    "longest_slice",
    "measure",
    "versions",
]

Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, what)``, both counted in model calls."""

KEPT = "kept from before"
"""How the progress of work begins that an earlier call has done."""

_PACE_CALLS = 7
_WARM_UP = 2


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
    progress: Progress | None = None,
) -> Timing:
    """Time samplers of one model against one another, one image a seed as one batch.

    Args:
        samplers: the configurations, in any order; the order decides nothing.
        bundle: the model, on ``device`` already.
        seeds: one a sample.
        device: where.
        rounds: how many; with more rounds kept, those.
        kept: finished rounds of an earlier call with the same arguments; only the missing ones are measured.
        keep: called with everything measured so far after each round.
        clock: gives the time in seconds once the device has done its work.
        progress: called as work goes on.

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
    total, report = max(rounds, finished) * a_round, progress or _silent
    report(finished * a_round, total, "overhead and memory" if kept is None else f"{KEPT}: {finished} rounds")
    found = kept or Timing(calls, len(seeds), longest, bench.costs())
    if finished < rounds:
        bench.warm_up()
    for r in range(finished, rounds):
        seconds, samples = bench.time_round(partial(_report_round, report, r * a_round, total, f"round {r + 1}/{rounds}"))
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
        shape = (len(self.seeds), *self.bundle.sample_shape)
        while True:
            run = prepare(sampler.coefficients_from(0), self.bundle.model, Arguments(shape, seed=self.seeds, device=self.device))
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
        args = self.bundle, self.seeds, self.device
        return tuple(Costs(measure_overhead(s, *args, self.clock), *measure_peak_memory(s, *args)) for s in self.samplers)

    def time_round(self, report: Callable[[int], None]) -> tuple[tuple[tuple[float, ...], ...], tuple[Tensor, ...]]:
        """The seconds of each slice of each sampler in one round, and the images of each one's first run."""
        calls, longest = [s.nfe for s in self.samplers], longest_slice(self.device)
        courses = [self.course(s, slices_of(s.nfe, longest)[1]) for s in self.samplers]
        seconds, walked, samples = [list[float]() for _ in calls], [0] * len(calls), dict[int, Tensor]()
        for i, size in round_order(calls, longest):
            report(sum(walked))
            spent, x = self.time_slice(courses[i])
            seconds[i].append(spent)
            walked[i] += size
            if walked[i] == calls[i]:
                samples[i] = x.float().cpu()
        report(sum(walked))
        return tuple(map(tuple, seconds)), tuple(samples[i] for i in range(len(calls)))


def _report_round(progress: Progress, before: int, total: int, what: str, done: int) -> None:
    progress(before + done, total, what)


def _silent(done: int, total: int, what: str) -> None:
    del done, total, what
