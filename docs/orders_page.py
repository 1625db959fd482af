"""Orders of convergence, measured on a Gaussian while the pages are built; the tests of the orders measure with the same functions.

λ goes from −2 to 2 in equal steps, and the error is that at the last timestep: the row after it is always of first order.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from ddimkit import DDIMSampler, DDPMSampler, DPMSolverPPSampler, NoiseSchedule, Plan, PlanSampler, UniPCSampler
from ddimkit.analytic import gaussian_moments
from ddimkit.samplers import DEISSampler, GradientEstimationSampler, SASolverSampler
from ddimkit.schedule import FloatArray

__all__ = ["PublishedThirdOrder", "page", "seeded_error", "slopes", "warm_error"]

Make = Callable[..., PlanSampler]

_VARIANCE = 2.0
_SEEDED, _WARM = (320, 640), (1280, 2560)


class PublishedThirdOrder(DPMSolverPPSampler):
    """With the second difference weighed as in the published code: by half its integral."""

    def plan(self) -> Plan:
        """The table."""
        whole, s = super().plan(), self.schedule.signal[list(self.timesteps)]
        h, b = np.diff(np.log(self.schedule.signal / self.schedule.noise)[list(self.timesteps)]), whole.b.copy()
        for k in range(2, len(h)):
            r0, r1 = h[k - 1] / h[k], h[k - 2] / h[k]
            difference = np.array([1 / r0, -1 / r0 - 1 / r1, 1 / r1]) / (r0 + r1)
            b[k] -= s[k + 1] * (0.5 - (h[k] + np.expm1(-h[k])) / h[k] ** 2) * difference
        return Plan(whole.t, whole.t_next, whole.a, b, whole.c)


def uniform(S: int, low: float = -2.0, high: float = 2.0) -> NoiseSchedule:
    """λ in S equal steps from high at t = 0 to low at t = S."""
    return NoiseSchedule.from_alpha_bars(1 / (1 + np.exp(-2 * np.linspace(high, low, S + 1))))


def slopes(errors: Sequence[float]) -> FloatArray:
    """By how many powers of 2 each error is smaller than the one before, at twice the steps."""
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def seeded_error(make: Make, S: int, variance: float) -> float:
    """The error of a deterministic walk whose history is exact: no row of lower order."""
    extra = 3
    schedule = uniform(S + extra, low=-2.0 - extra * 4 / S)
    plan = make(schedule, timesteps=tuple(range(S + extra, -1, -1))).plan()
    width = np.sqrt(schedule.signal**2 * variance + schedule.noise**2)  # what the ODE makes of one number, at every t
    x0 = schedule.signal * variance / width
    x, history = width[plan.t[extra]], [x0[t] for t in plan.t[extra - 1 :: -1]][: plan.b.shape[1] - 1]
    for k in range(extra, len(plan) - 1):
        s, n = schedule.signal[plan.t[k]], schedule.noise[plan.t[k]]
        now = s * variance / (s * s * variance + n * n) * x
        x = plan.a[k] * x + plan.b[k, : 1 + len(history)] @ np.array([now, *history])
        history = [now, *history][: plan.b.shape[1] - 1]
    return float(abs(x - width[0]))


def warm_error(make: Make, S: int, mean: float, variance: float) -> float:
    """The W2 error from the first row on, its lower order included."""
    schedule = uniform(S)
    plan = make(schedule, timesteps=tuple(range(S, -1, -1))).plan()[:-1]

    def marginal(t: int) -> tuple[float, float]:
        s, n = schedule.signal[t], schedule.noise[t]
        return s * mean, s * s * variance + n * n

    means, variances = gaussian_moments(plan, mean, [variance], schedule=schedule, start=marginal(S))
    m, q = marginal(0)
    return math.hypot(means[-1, 0] - m, math.sqrt(variances[-1, 0]) - math.sqrt(q))


def page() -> str:
    """A table of the measured slopes."""
    samplers: list[tuple[str, Make, bool]] = [
        ("DDIM, eta 0", DDIMSampler, True),
        ("DDIM, eta 1", lambda s, **k: DDIMSampler(s, eta=1.0, **k), False),
        ("DDPM", DDPMSampler, False),
        *((f"DPM-Solver++ of order {p}", _of_order(DPMSolverPPSampler, p), True) for p in (1, 2, 3)),
        ("the published third-order multistep code", _of_order(PublishedThirdOrder, 3), True),
        *((f"DPM-Solver++ of order {p} for the SDE", _of_order(DPMSolverPPSampler, p, eta=1), False) for p in (1, 2, 3)),
        *((f"UniPC of order {p}", _of_order(UniPCSampler, p), True) for p in (1, 2, 3)),
        *((f"DEIS of order {p}", _of_order(DEISSampler, p), True) for p in (2, 3)),
        *((f"iPNDM of order {p}", lambda s, p=p, **k: DEISSampler(s, order=p, variant="ipndm", **k), True) for p in (2, 3)),
        *((f"SA-Solver of order {p}, eta 0", _of_order(SASolverSampler, p, eta=0, corrector_order=p), True) for p in (1, 2, 3)),
        ("SA-Solver of order 2, eta 1", SASolverSampler, False),
        ("gradient estimation, gamma 2", GradientEstimationSampler, True),
    ]
    head = (
        "sampler",
        f"with exact history, {_SEEDED[0]} to {_SEEDED[1]} steps",
        f"from the first row on, {_WARM[0]} to {_WARM[1]} steps",
    )
    rows = [(name, _seeded(make) if plain else "–", _warm(make)) for name, make, plain in samplers]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)) + "\n"


def _of_order(make: Make, order: int, **settings: float) -> Make:
    return lambda s, **k: make(s, order=order, **settings, **k)


def _seeded(make: Make) -> str:
    return f"{slopes([seeded_error(make, S, _VARIANCE) for S in _SEEDED])[0]:.2f}"


def _warm(make: Make) -> str:
    return f"{slopes([warm_error(make, S, 0.0, _VARIANCE) for S in _WARM])[0]:.2f}"
