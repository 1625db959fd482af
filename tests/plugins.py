"""Samplers from outside the package, written as its users write theirs: a frozen dataclass with a `plan()`."""

import itertools
from dataclasses import dataclass

import numpy as np

from ddimkit import Plan, PlanSampler


@dataclass(frozen=True)
class AdamsBashforth2(PlanSampler):
    """x0_hat as the line in λ through its last two values; constant in the first row, the last, and after infinite λ."""

    def plan(self) -> Plan:
        times = list(self.timesteps)
        s, n = self.schedule.signal[times], self.schedule.noise[times]
        s_next, n_next = np.append(s[1:], 1.0), np.append(n[1:], 0.0)
        with np.errstate(divide="ignore"):
            h = np.diff(np.log(s / n), append=np.inf)
        a, slope = n_next / n, np.zeros_like(s)
        k = np.array([i for i in range(1, len(times) - 1) if np.isfinite(h[i - 1])], dtype=int)
        slope[k] = s_next[k] * (h[k] + np.expm1(-h[k])) / h[k - 1]
        b = np.stack([s_next - s * a + slope, -slope], axis=1)
        return Plan(tuple(times), (*times[1:], None), a, b, np.zeros_like(a))


@dataclass(frozen=True)
class Heun(PlanSampler):
    """Two calls a timestep: an Euler row to the next one, and a row that replaces the slope by the mean of both ends'."""

    @property
    def convergence_order(self) -> int:
        """2."""
        return 2

    def plan(self) -> Plan:
        times = list(self.timesteps)
        s, n = self.schedule.signal[times], self.schedule.noise[times]
        t, t_next = list[int](), list[int | None]()
        rows = list[tuple[float, float, float]]()
        for k in range(len(times) - 1):
            ratio = float(n[k + 1] / n[k])
            t, t_next = [*t, times[k]], [*t_next, times[k + 1]]
            rows.append((ratio, float(s[k + 1] - s[k] * ratio), 0.0))
            if s[k] > 0:  # from zero SNR λ is infinite: the Euler row stands
                h = float(np.log(s[k + 1] / n[k + 1]) - np.log(s[k] / n[k]))
                weight = float(s[k + 1]) * (h + float(np.expm1(-h))) / h
                t, t_next = [*t, times[k + 1]], [*t_next, times[k + 1]]
                rows.append((1.0, weight, -weight))
        a, *b = np.array([*rows, (0.0, 1.0, 0.0)]).T
        return Plan((*t, times[-1]), (*t_next, None), a, np.stack(b, axis=1), np.zeros_like(a))


@dataclass(frozen=True)
class Midpoint(PlanSampler):
    """DPM-Solver++ (2S): two calls a timestep, the second at the schedule's timestep nearest to the middle of λ, off the list."""

    @property
    def convergence_order(self) -> int:
        """2."""
        return 2

    def plan(self) -> Plan:
        times, s, n = list(self.timesteps), self.schedule.signal, self.schedule.noise
        with np.errstate(divide="ignore"):
            level = np.log(s / n)
        rows = list[tuple[int, int, float, float, float]]()
        for now, following in itertools.pairwise(times):
            ratio = n[following] / n[now]
            between = range(following + 1, now)
            if not between or not np.isfinite(level[now]):
                rows.append((now, following, ratio, s[following] - s[now] * ratio, 0.0))
                continue
            mid = min(between, key=lambda t: abs(level[t] - (level[now] + level[following]) / 2))
            first, rest = n[mid] / n[now], n[following] / n[mid]
            b_now = s[mid] - s[now] * first
            h, part = level[following] - level[now], level[mid] - level[now]
            slope = s[following] * (h + np.expm1(-h)) / part
            whole = s[following] - s[now] * ratio
            rows.append((now, mid, first, b_now, 0.0))
            # x at the middle holds first·x + b_now·x0_hat: rest times it is ratio·x and a part of the weight of the first call.
            rows.append((mid, following, rest, slope, whole - slope - rest * b_now))
        t, t_next, a, *b = (list(column) for column in zip(*rows, (times[-1], None, 0.0, 1.0, 0.0), strict=True))
        return Plan(tuple(t), tuple(t_next), np.array(a), np.stack(b, axis=1), np.zeros(len(t)))


@dataclass(frozen=True)
class Consistency(PlanSampler):
    """Consistency sampling: jump to the clean image, and add noise anew."""

    def plan(self) -> Plan:
        times = list(self.timesteps)
        s_next, n_next = np.append(self.schedule.signal[times[1:]], 1.0), np.append(self.schedule.noise[times[1:]], 0.0)
        return Plan(tuple(times), (*times[1:], None), np.zeros(len(times)), s_next, n_next)


@dataclass(frozen=True)
class EveryOtherCount(AdamsBashforth2):
    """A sampler of odd numbers of timesteps only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.timesteps) % 2 == 0:
            raise ValueError(f"the number of timesteps must be odd, got {len(self.timesteps)}")
