"""Hypothesis strategies for tests of samplers: schedules, timestep lists, plans, spectra, seeds, shapes and samplers.

:func:`alpha_bar_lists` draws what a user may hand to :meth:`NoiseSchedule.from_alpha_bars`, so that a test can give the same
floats to an oracle. Neighbours are at least 0.01 apart in log-SNR and none is within 3e-5 of 1: closer ones are legal but leave
the papers' printed formulas few digits. This module needs hypothesis, and nothing else of ddimkit imports it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from hypothesis import strategies as st

from ddimkit.plan import Plan
from ddimkit.samplers.ddim import DDIMSampler
from ddimkit.samplers.ddpm import DDPMSampler
from ddimkit.samplers.dpm_solver_pp import DPMSolverPPSampler
from ddimkit.samplers.unipc import UniPCSampler
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule
from ddimkit.timesteps import Spacing

__all__ = [
    "BUILT_IN",
    "SEEDS",
    "SPACINGS",
    "alpha_bar_lists",
    "built_in_schedules",
    "plans",
    "samplers",
    "schedules",
    "shapes",
    "spectra",
    "timesteps",
    "walks",
]

SPACINGS: tuple[Spacing, ...] = ("trailing", "leading", "linspace", "quadratic", "log_snr", "karras")
"""Every spacing that gives exactly as many timesteps as it is told."""

BUILT_IN: dict[str, Callable[[int], NoiseSchedule]] = {
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "cosine": NoiseSchedule.cosine,
    "sigmoid": NoiseSchedule.sigmoid,
    "rectified_flow": NoiseSchedule.rectified_flow,
}
"""Every built-in constructor, as a function of the number of timesteps alone."""

SEEDS = st.integers(0, 2**63 - 1)
"""Every seed of one sample."""


def _falling(log_snr: float, gaps: Sequence[float], ends_at_zero: bool) -> list[float]:
    """Alpha_bars whose log-SNR starts at log_snr and falls by each gap in turn."""
    levels = [log_snr]
    for gap in gaps:
        levels.append(levels[-1] - gap)
    alpha_bars = [1 / (1 + math.exp(-level)) for level in levels]
    return [*alpha_bars, 0.0] if ends_at_zero else alpha_bars


def alpha_bar_lists(min_size: int = 1, max_size: int = 24, zero_terminal: bool | None = None) -> st.SearchStrategy[list[float]]:
    """Strictly falling alpha_bars in (0, 1); zero_terminal: whether the last is 0, None for either."""
    ends = st.booleans() if zero_terminal is None else st.just(zero_terminal)

    def of_size(size: int) -> st.SearchStrategy[list[float]]:
        gaps = st.lists(st.floats(0.01, 1.5), min_size=size - 1, max_size=size - 1)
        shorter = st.lists(st.floats(0.01, 1.5), min_size=max(size - 2, 0), max_size=max(size - 2, 0))
        start = st.floats(-3, 10)
        with_end = ends if size > 1 else st.just(False)
        return with_end.flatmap(lambda end: st.builds(_falling, start, shorter if end else gaps, st.just(end)))

    return st.integers(min_size, max_size).flatmap(of_size)


def schedules(min_size: int = 1, max_size: int = 24, zero_terminal: bool | None = False) -> st.SearchStrategy[NoiseSchedule]:
    """Schedules of arbitrary strictly falling alpha_bars; by default none ends at 0, so that any prediction is allowed."""
    return alpha_bar_lists(min_size, max_size, zero_terminal).map(NoiseSchedule.from_alpha_bars)


def built_in_schedules(min_size: int = 1, max_size: int = 200) -> st.SearchStrategy[NoiseSchedule]:
    """The schedules of every constructor, rectified flow (which ends at signal 0) among them."""

    def make(name: str, T: int) -> NoiseSchedule:
        return BUILT_IN[name](T)

    return st.builds(make, st.sampled_from(list(BUILT_IN)), st.integers(min_size, max_size))


def timesteps(T: int, min_size: int = 1, max_size: int | None = None) -> st.SearchStrategy[tuple[int, ...]]:
    """Strictly descending timesteps of a schedule of T."""
    numbers = st.sets(st.integers(0, T - 1), min_size=min(min_size, T), max_size=min(max_size or T, T))
    return numbers.map(lambda chosen: tuple(sorted(chosen, reverse=True)))


@st.composite
def walks(draw: st.DrawFn, max_size: int = 24, zero_terminal: bool | None = None) -> tuple[list[float], tuple[int, ...]]:
    """Alpha_bars and a timestep list of them."""
    alpha_bars = draw(alpha_bar_lists(max_size=max_size, zero_terminal=zero_terminal))
    return alpha_bars, draw(timesteps(len(alpha_bars)))


def spectra(min_size: int = 1, max_size: int = 6) -> st.SearchStrategy[list[float]]:
    """Eigenvalues of a covariance, from 1e-4 to 10."""
    return st.lists(st.floats(1e-4, 10), min_size=min_size, max_size=max_size)


def shapes(max_batch: int = 4, max_side: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes (B, ...) of one to five dimensions; B may be 0."""
    sides = st.lists(st.integers(1, max_side), max_size=4)

    def shape(batch: int, rest: list[int]) -> tuple[int, ...]:
        return (batch, *rest)

    return st.builds(shape, st.integers(0, max_batch), sides)


@st.composite
def samplers(draw: st.DrawFn, max_size: int = 12) -> PlanSampler:
    """Samplers of the classes that ``ddimkit`` itself names, on schedules of arbitrary alpha_bars."""
    schedule = draw(schedules(max_size=max_size))
    times = draw(timesteps(schedule.num_timesteps))
    orders: list[Literal[1, 2, 3]] = [1, 2, 3]
    order, eta = draw(st.sampled_from(orders)), draw(st.floats(0, 1))
    makers: list[Callable[[], PlanSampler]] = [
        lambda: DDIMSampler(schedule, timesteps=times, eta=eta),
        lambda: DDPMSampler(schedule, timesteps=times, variance="fixed_small" if eta < 0.5 else "fixed_large"),
        lambda: DPMSolverPPSampler(schedule, timesteps=times, order=order, eta=round(eta)),
        lambda: UniPCSampler(schedule, timesteps=times, order=order),
    ]
    return draw(st.sampled_from(makers))()


@st.composite
def plans(draw: st.DrawFn, max_rows: int = 6, max_depth: int = 3) -> Plan:
    """Tables of no law: rows that join, read only predictions that exist, and need keep neither signal nor noise."""
    times = draw(timesteps(1000, max_size=max_rows))
    depth, numbers = draw(st.integers(1, max_depth)), st.floats(-2, 2)
    S = len(times)
    a, c = (draw(st.lists(kind, min_size=S, max_size=S)) for kind in (numbers, st.floats(0, 1)))
    flat = draw(st.lists(numbers, min_size=S * depth, max_size=S * depth))
    b = np.tril(np.array(flat).reshape(S, depth), k=0)
    return Plan(times, (*times[1:], None), np.array(a), b, np.array(c))
