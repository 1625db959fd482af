r"""What a sampler does to Gaussian data as its steps grow: its error, and the order with which the error falls.

Along an eigenvector with mean μ and variance v, x and the earlier predictions stay jointly Gaussian. The exact denoiser is
:math:`\hat x_0 = \mu + g (x - s\mu)` with :math:`g = sv / (s^2 v + n^2)`; the exact consistency function, which maps each point of
the ODE's path to the path's clean end, has :math:`g = \sqrt{v / (s^2 v + n^2)}` instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ddimkit.analytic import GaussianError, gaussian_moments
from ddimkit.plan import Plan
from ddimkit.schedule import FloatArray, NoiseSchedule
from ddimkit.testing._plans import reads_history

__all__ = ["MEAN", "SPECTRUM", "consistency_error", "measured_order", "uniform_log_snr", "walk_error"]

MEAN: FloatArray = np.array([0.4, -0.2, 0.1])
"""(3,) mean of the data that the checks use."""
SPECTRUM: FloatArray = np.array([0.05, 0.4, 2.0])
"""(3,) variances of the data that the checks use."""

_FINE = 4
_EXTRA = 4

PlanOf = Callable[[NoiseSchedule, Sequence[int]], Plan]
"""The table of a schedule and a descending list of timesteps."""


def uniform_log_snr(steps: int, low: float = -2.0, high: float = 2.0) -> NoiseSchedule:
    """A schedule of steps + 1 timesteps whose λ falls in equal steps from ``high`` at t = 0 to ``low``."""
    return NoiseSchedule.from_alpha_bars(1 / (1 + np.exp(-2 * np.linspace(high, low, steps + 1))))


def walk_error(plan: Plan, schedule: NoiseSchedule) -> float:
    """The Wasserstein-2 error of a plan on the checks' data, from the exact distribution at its first timestep.

    Args:
        plan: any table; of a learned range the smaller standard deviation is taken.
        schedule: the one it was made for.
    """
    start = _marginal(schedule, plan.t[0])
    means, variances = gaussian_moments(replace(plan, c_max=None), MEAN, SPECTRUM, schedule=schedule, start=start)
    end = plan.t_next[-1]
    m, q = (MEAN, SPECTRUM) if end is None else _marginal(schedule, end)
    return _distance(means[-1], variances[-1], m, q)


def consistency_error(plan: Plan, schedule: NoiseSchedule) -> float:
    """:func:`walk_error` with the exact consistency function in place of the denoiser, for tables without history."""
    assert not reads_history(plan), "a consistency sampler whose rows read earlier predictions is not supported"
    m, q = _marginal(schedule, plan.t[0])
    for k, t in enumerate(plan.t):
        s, n = schedule.signal[t], schedule.noise[t]
        g = np.sqrt(SPECTRUM / (s * s * SPECTRUM + n * n))
        scale = plan.a[k] + plan.b[k, 0] * g
        m, q = scale * m + plan.b[k, 0] * (1 - g * s) * MEAN, scale**2 * q + plan.c[k] ** 2
    return _distance(m, q, MEAN, SPECTRUM)


def measured_order(plan_of: PlanOf, *, steps: int = 80, accepts: Callable[[int], bool] = lambda _: True) -> float:
    r"""The power of 1/S with which the error falls, between ``steps`` and twice as many.

    λ falls in equal steps from 2 to −2, and the error is that at the last timestep: the row after it is of first order in every
    sampler. A table without noise starts on the exact path with exact history, since a first row of order 1 would limit a method of
    order 3 to 2; for one with noise the error is that of the distribution.

    Args:
        plan_of: the sampler's table for a schedule and a list of timesteps.
        steps: S of the coarser walk.
        accepts: whether the sampler can run so many timesteps.

    >>> from ddimkit import DPMSolverPPSampler
    >>> from ddimkit.testing import measured_order
    >>> round(measured_order(lambda schedule, times: DPMSolverPPSampler(schedule, timesteps=times, order=3).plan()), 1)
    3.0
    """
    counts, errors = list[int](), list[float]()
    for least in (steps, 2 * steps):
        S = next(S for S in range(least, 2 * least) if accepts(S + _EXTRA + 1))
        counts.append(S)
        errors.append(_error(plan_of, S))
    return float(np.log(errors[0] / errors[1]) / np.log(counts[1] / counts[0]))


def _error(plan_of: PlanOf, S: int) -> float:
    """The error at λ = 2 of a walk of S steps from λ = −2."""
    schedule = uniform_log_snr(_FINE * (S + _EXTRA), low=-2.0 - 4 * _EXTRA / S)
    times = tuple(range(_FINE * (S + _EXTRA), -1, -_FINE))
    plan = plan_of(schedule, times)
    first = plan.t.index(times[_EXTRA])
    if plan.adds_noise:
        return walk_error(_without_older(plan[first : plan.t.index(0)]), schedule)
    return _path_error(plan, first, plan.t.index(0), schedule)


def _without_older(plan: Plan) -> Plan:
    """Rows whose older predictions do not exist take the newest instead, which is of first order."""
    b = plan.b.copy()
    for k in range(min(len(plan), b.shape[1])):
        b[k, k] += b[k, k + 1 :].sum()
        b[k, k + 1 :] = 0
    return replace(plan, b=b)


def _path_error(plan: Plan, first: int, last: int, schedule: NoiseSchedule) -> float:
    """The largest error at row ``last`` of a walk that is on the exact path at row ``first``, earlier predictions included."""
    v = SPECTRUM[:, None]
    width = np.sqrt(schedule.signal**2 * v + schedule.noise**2)  # (3, T): what the ODE makes of one number
    exact = schedule.signal * v / width
    depth = plan.b.shape[1]
    x, history = width[:, plan.t[first]], [exact[:, t] for t in plan.t[:first][::-1]][: depth - 1]
    for k in range(first, last):
        s, n = schedule.signal[plan.t[k]], schedule.noise[plan.t[k]]
        history = [s * SPECTRUM / (s * s * SPECTRUM + n * n) * x, *history][:depth]
        x = plan.a[k] * x + sum(weight * x0 for weight, x0 in zip(plan.b[k], history, strict=False))
    return float(np.abs(x / width[:, plan.t[last]] - 1).max())


def _marginal(schedule: NoiseSchedule, t: int) -> tuple[FloatArray, FloatArray]:
    """Mean and variance (3,) of noised data at t."""
    s, n = schedule.signal[t], schedule.noise[t]
    return s * MEAN, s * s * SPECTRUM + n * n


def _distance(mean: FloatArray, variance: FloatArray, m: FloatArray, q: FloatArray) -> float:
    return GaussianError(mean, variance, float(((mean - m) ** 2 + (np.sqrt(variance) - np.sqrt(q)) ** 2).sum())).w2
