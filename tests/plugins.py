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
