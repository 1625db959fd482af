"""Samplers from outside the package, written as its users write theirs: a frozen dataclass with a `plan()`."""

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
