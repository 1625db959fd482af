"""Checks of a sampler's numbers: the laws of its table, its error on Gaussian data, and the order it declares."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from ddimkit.plan import Plan
from ddimkit.schedule import NoiseSchedule
from ddimkit.testing._lists import ListChecks
from ddimkit.testing._plans import check_noise_law, check_plan, check_precision, reads_history
from ddimkit.testing.orders import consistency_error, measured_order, walk_error

__all__ = ["NumberChecks"]

_COUNTS = (8, 32, 128, 512)
_SMALL = 2e-3
_SLACK = 0.3


class NumberChecks(ListChecks):
    """Checks of the table alone; they need no model call."""

    def test_plan_of_every_list(self) -> None:
        """The plan's equations hold on every list of a short schedule, and on some of a long one."""
        total = self.schedule.num_timesteps
        long = [(total - 1,), (0,), tuple(range(total - 1, -1, -max(1, total // 300))), tuple(range(total - 1, 0, -7))]
        short = NoiseSchedule.cosine(6)
        for schedule, times in [*((short, times) for times in _subsets(6)), *((self.schedule, times) for times in long)]:
            if times and self.accepts(len(times)):
                self.check_list(schedule, times)

    def test_plan_from_zero_snr(self) -> None:
        """The plan's equations hold from a first timestep that has no signal; epsilon prediction refuses it."""
        schedule, times = NoiseSchedule.cosine(6).zero_terminal_snr(), self.shortened((5, 4, 2, 1, 0))
        try:
            sampler = self.make(schedule, timesteps=times)
        except ValueError as error:
            assert "epsilon" in str(error), f"a start at zero SNR is refused with another reason than epsilon prediction: {error}"  # noqa: PT017  # the kit may also accept
            assert self.uneven().prediction == "epsilon", f"prediction {self.uneven().prediction!r} refuses a start at zero SNR"
            sampler = replace(self.make(schedule, timesteps=self.shortened((4, 3, 2, 1, 0))), prediction="x0")
        else:
            if sampler.prediction == "epsilon":
                pytest.fail("epsilon prediction accepts a start at zero SNR, where it cannot give x0")
        for listed in _subsets(6):
            if self.accepts(len(listed)):
                check_plan(replace(sampler, steps=None, timesteps=listed).plan(), schedule)

    def check_list(self, schedule: NoiseSchedule, times: Sequence[int]) -> None:
        """One list: it reads back, the plan visits it in order, further timesteps only between two of it, and keeps its laws."""
        sampler = self.make(schedule, timesteps=times)
        plan = sampler.plan()
        assert tuple(sampler.timesteps) == tuple(times), f"timesteps read back as {tuple(sampler.timesteps)}, given {tuple(times)}"
        visited = [t for t in dict.fromkeys(plan.t) if t in set(times)]
        assert visited == list(times), f"the plan visits the timesteps {visited} of the list {tuple(times)}: its t are {plan.t}"
        assert plan.t[0] == times[0], f"the plan begins at t = {plan.t[0]}, not at the list's first timestep {times[0]}"
        off = [t for t in plan.t if not times[-1] <= t <= times[0]]
        assert not off, f"the plan calls the model at {off}, outside the list's {times[0]}..{times[-1]}"
        check_plan(plan, schedule)

    def test_noise_law(self) -> None:
        """Rows that read no history keep the noise: (a·n)² + c² = n'², on variance-preserving and on flow schedules."""
        if not self.keeps_variance:
            pytest.skip("keeps_variance = False")
        for name, schedule in self.schedules().items():
            times = self.shortened(_below_zero_snr(schedule))
            try:
                check_noise_law(self.make(schedule, timesteps=times).plan(), schedule)
            except AssertionError as error:
                raise AssertionError(f"on a {name} schedule {error}") from None

    def test_numbers_are_float64(self) -> None:
        """No column of the table went through half or single precision or torch's default dtype."""
        check_precision(self.uneven().plan())

    def test_variances_are_ordered(self) -> None:
        """Of a learned range the larger standard deviation is the larger one, and a sampler of it falls in error too."""
        plan = self.uneven().plan()
        if plan.c_max is None:
            return
        rows = np.flatnonzero(plan.c > plan.c_max)
        assert not rows.size, f"row {rows[0]} of a learned range has c = {plan.c[rows[0]]} above c_max = {plan.c_max[rows[0]]}"
        self._check_errors(lambda plan: plan if plan.c_max is None else replace(plan, c=plan.c_max))

    def test_error_falls(self) -> None:
        """On Gaussian data with the exact denoiser the error falls with the number of steps."""
        self._check_errors(lambda plan: plan)

    def _check_errors(self, part: Callable[[Plan], Plan]) -> None:
        """The error at 8, 32, 128 and 512 steps, each at most 0.7 of the one before or small."""
        schedule = self.schedule if self.schedule.num_timesteps >= _COUNTS[-1] else NoiseSchedule.linear()
        counts = [self.nearest(count) for count in _COUNTS]
        plans = [part(self.make(schedule, steps=count).plan()) for count in counts]
        error = consistency_error if self.consistency else walk_error
        errors = [error(plan, schedule) for plan in plans]
        shown = ", ".join(f"{count}: {value:.3g}" for count, value in zip(counts, errors, strict=True))
        for (before, after), count in zip(itertools.pairwise(errors), counts[1:], strict=True):
            small = max(_SMALL, 0.01) if self.consistency else _SMALL
            assert after <= max(0.7 * before, small), (
                f"the error on Gaussian data does not fall: {after:.3g} at {count} steps, at most {max(0.7 * before, small):.3g} "
                f"expected (steps: error is {shown}); a weight of the rows is wrong"
            )
        assert errors[-1] <= 0.1, f"the error on Gaussian data is {errors[-1]:.3g} at {counts[-1]} steps, at most 0.1 expected"

    def test_convergence_order(self) -> None:
        """The error falls with the order that the sampler declares; undeclared: 2 with history and no noise, else 1."""
        if self.consistency:
            pytest.skip("a consistency sampler converges in one step")
        sampler = self.uneven()
        plan = sampler.plan()
        declared: int | None = getattr(sampler, "convergence_order", None)
        order = declared or (2 if reads_history(plan) and not plan.adds_noise else 1)
        found = measured_order(lambda schedule, times: self.make(schedule, timesteps=times).plan(), accepts=self.accepts)
        stated = f"convergence_order = {declared}" if declared else f"order {order} (of a table that declares none)"
        assert found >= order - _SLACK, (
            f"the error falls with order {found:.2f}, expected {stated}: the weights of earlier predictions are wrong"
        )


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    """Every strictly descending list of numbers below ``count``."""
    for size in range(1, count + 1):
        yield from itertools.combinations(range(count - 1, -1, -1), size)


def _below_zero_snr(schedule: NoiseSchedule) -> tuple[int, ...]:
    """A list of no regular stride that starts where there is signal."""
    top = schedule.num_timesteps - 1 - int(schedule.signal[-1] == 0)
    return tuple(sorted({top, *(int(top * part) for part in (0.9, 0.7, 0.65, 0.3, 0.1, 0.02))}, reverse=True))
