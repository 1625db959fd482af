"""Multistep methods over earlier model outputs, as tables over earlier x0 predictions."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from ddimkit.plan import Levels, Plan, descending_plan
from ddimkit.schedule import FloatArray, NoiseSchedule

__all__ = ["noise_history", "x0_history"]

_LOST = 1e-14


def x0_history(
    plan: Plan, schedule: NoiseSchedule, outputs: FloatArray, prediction: Literal["epsilon", "v", "flow"] = "epsilon"
) -> Plan:
    r"""The table over x0 predictions that does what a table over earlier model outputs does.

    Row k of the given table makes :math:`x' = a_k x + \sum_j e_{kj}\, out(\text{j calls ago})`. With :math:`\hat x_0 = A x +
    B\,out` each output is :math:`(\hat x_0 - A x)/B`, and each earlier x follows from the present one: :math:`x = (x' - \sum_j
    b_j \hat x_0)/a`. So a row of the result may read every earlier prediction.

    Args:
        plan: gives t, t_next and a; its b is not read, and its c must be 0.
        schedule: the one it was made for.
        outputs: (S, K) e, the weights of the model's outputs now, one call ago, … K−1 ago.
        prediction: what the outputs are.

    Returns:
        a plan of b (S, S).

    Raises:
        ValueError: noise in the table, outputs of another number of rows, or a = 0 in a row before one that reads history.
    """
    S = len(plan)
    given = np.asarray(outputs, dtype=np.float64)
    if plan.adds_noise or given.ndim != 2 or len(given) != S:
        raise ValueError(f"a table without noise and outputs ({S}, K) are wanted, got c = {plan.c} and outputs {given.shape}")
    inverse = _output_coefficients(prediction, schedule.signal[list(plan.t)], schedule.noise[list(plan.t)])
    a, b = _folded(plan.a, np.zeros(S), given, *inverse)
    return Plan(plan.t, plan.t_next, a, b, np.zeros(S))


def noise_history(schedule: NoiseSchedule, timesteps: Sequence[int], weigh: Callable[[int], Sequence[float]]) -> Plan:
    r"""The table of a multistep method over noise predictions: :math:`x'/s' = x/s + \sum_j w_j\, \varepsilon(j\text{ calls ago})`.

    A row from zero SNR is DDIM's, and so is the last.

    Args:
        schedule: the schedule.
        timesteps: descending.
        weigh: a row's number to its weights w, newest first, in units of n/s.
    """
    levels = Levels.of(schedule, timesteps)
    s, n, a, b = levels.s, levels.n, levels.n_next / levels.n, np.zeros(len(levels.s))
    b += levels.s_next - s * a
    rows = [k for k in range(len(s) - 1) if s[k] > 0]
    weights = {k: [levels.s_next[k] * weight for weight in weigh(k)] for k in rows}
    outputs = np.zeros((len(s), max((len(w) for w in weights.values()), default=1)))
    for k, found in weights.items():
        outputs[k, : len(found)] = found
        a[k], b[k] = levels.s_next[k] / s[k], 0.0
    a, whole = _folded(a, b, outputs, *_output_coefficients("epsilon", s, n))
    return descending_plan(timesteps, a, _shortened(whole), np.zeros(len(s)))


def _shortened(b: FloatArray) -> FloatArray:
    """B without the columns that rounding would lose; what they hold goes to the newest prediction, so that the signal is kept."""
    heard = np.abs(b).max(axis=0) > _LOST * np.abs(b).max()
    wide = int(np.flatnonzero(heard).max()) + 1
    kept = b[:, :wide].copy()
    kept[:, 0] += b[:, wide:].sum(axis=1)
    return kept


def _folded(
    x: FloatArray, x0: FloatArray, outputs: FloatArray, from_x: FloatArray, from_x0: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """A (S,) and b (S, S) of rows of x (S,), x0_hat (S,) and outputs (S, K), where ``out = from_x·x − from_x0·x0_hat``."""
    S = len(x)
    a, b = np.zeros(S), np.zeros((S, S))
    for k in range(S):
        # The x of call i is slope · x + back · (x0 predictions, newest first), first of the present call.
        slope, back = 1.0, np.zeros(S)
        a[k], b[k, 0] = x[k], x0[k]
        for j in range(min(outputs.shape[1], k + 1)):
            i = k - j
            if not outputs[k, j:].any():
                break
            if j:
                if a[i] == 0:
                    raise ValueError(
                        f"row {i} has a = 0: the x before it, which row {k} reads, does not follow from the x after it"
                    )
                slope, back = slope / a[i], back / a[i]
                back[j:] -= b[i, : S - j] / a[i]
            a[k] += outputs[k, j] * from_x[i] * slope
            b[k] += outputs[k, j] * from_x[i] * back
            b[k, j] -= outputs[k, j] * from_x0[i]
    return a, b


def _output_coefficients(
    prediction: Literal["epsilon", "v", "flow"], s: FloatArray, n: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """P and Q of ``out = P·x − Q·x0_hat``; finite at zero SNR too."""
    match prediction:
        case "epsilon":
            return 1 / n, s / n
        case "v":
            return s / n, (s * s + n * n) / n
        case "flow":
            return 1 / n, (s + n) / n
