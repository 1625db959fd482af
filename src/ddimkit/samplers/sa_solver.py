r"""SA-Solver: stochastic Adams, a predictor and a corrector that costs no model call.

========================= ==========================================================================
order                     1, 2 or 3
model calls a step        1
stochastic                for eta > 0
converges to              the ODE (eta 0), the reverse SDE (eta 1), an SDE of eta's noise between
reference                 Xue, Yi, Luo, Zhang, Sun, Li and Ma 2023, *SA-Solver*, algorithm 1
========================= ==========================================================================

With the paper's τ = ``eta``, h = λ′ − λ and the polynomial P through x0 predictions

.. math:: x' = \frac{n'}{n} e^{-\eta^2 h} x + s' \int_0^h (1+\eta^2)\, e^{-(1+\eta^2)(h-u)}\, P(\lambda + u)\, du
    + n' \sqrt{1 - e^{-2\eta^2 h}}\, z.

The predictor's P goes through the last ``order`` predictions, the corrector's through the new one and the last
``corrector_order``. Both have the same factor of x and the same z, so a correction is a combination of x0 predictions, and is added
in the next row.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ddimkit._numbers import integer, number
from ddimkit.plan import Levels, Plan, descending_plan
from ddimkit.samplers._exponential import check_order, past_nodes, weights
from ddimkit.sampling import PlanSampler

__all__ = ["SASolverSampler"]


@dataclass(frozen=True)
class SASolverSampler(PlanSampler):
    r"""SA-Solver (Xue et al. 2023), data prediction, over any timestep subsequence.

    Args:
        schedule: the noise schedule the model was trained with.
        steps: number of timesteps, chosen by ``spacing``; exactly one of ``steps`` and ``timesteps``.
        timesteps: the timesteps themselves, strictly descending; read back as a tuple.
        spacing: how ``steps`` timesteps are chosen.
        prediction: what the model predicts.
        clip: None, a pair (low, high) or a :class:`DynamicThreshold`, applied to x0_hat.
        order: how many x0 predictions the predictor uses.
        corrector_order: how many earlier ones the corrector uses beside the new one; 0 for no corrector.
        eta: the paper's τ, constant, in [0, 1].

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting out of range; both or neither of ``steps`` and ``timesteps``; epsilon prediction at zero SNR.
    >>> from ddimkit import NoiseSchedule
    >>> from ddimkit.samplers import SASolverSampler
    >>> SASolverSampler(NoiseSchedule.linear(), steps=10).plan().b.shape
    (10, 3)
    """

    order: Literal[1, 2, 3] = field(default=2, kw_only=True)
    corrector_order: Literal[0, 1, 2, 3] = field(default=2, kw_only=True)
    eta: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "order", check_order(self.order))
        corrector = integer(self.corrector_order, "corrector_order")
        if corrector not in (0, 1, 2, 3):
            raise ValueError(f"corrector_order must be 0 (none), 1, 2 or 3, got {corrector}")
        object.__setattr__(self, "corrector_order", corrector)
        object.__setattr__(self, "eta", float(number(self.eta, "eta")))
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    @property
    def convergence_order(self) -> int:
        """At eta 0 one more than the smaller of both orders, or ``order`` without a corrector; above, 2 at most, of the law."""
        attained = min(self.order, self.corrector_order) + 1 if self.corrector_order else self.order
        return attained if self.eta == 0 else min(attained, 2)

    def plan(self) -> Plan:
        """The table of predictors, each row with the correction of the one before."""
        levels, square = Levels.of(self.schedule, self.timesteps), self.eta**2
        s_next, h, count = levels.s_next, levels.h, len(levels.s)
        a, c = levels.n_next / levels.n, np.zeros(count)
        if self.eta:
            a, c = a * np.exp(-square * h), levels.n_next * np.sqrt(-np.expm1(-2 * square * h))
        wide = max(self.order, self.corrector_order) + 1 if self.corrector_order else self.order
        b, correction = np.zeros((count, wide)), np.zeros(wide)
        for k in range(count):
            whole, predicted = s_next[k] - levels.s[k] * a[k], np.zeros(wide)
            nodes = past_nodes(h, k, max(self.order, self.corrector_order)) if np.isfinite(h[k]) else [0.0]
            used = nodes[: self.order]
            if len(used) > 1:
                predicted[1 : len(used)] = s_next[k] * weights(used, (1 + square) * h[k])[1:]
            predicted[0] = whole - predicted[1:].sum()
            b[k] = predicted + a[k] * correction
            correction = np.zeros(wide)
            if np.isfinite(h[k]) and self.corrector_order:
                known = nodes[: self.corrector_order]
                places = [0, *range(2, len(known) + 1)]  # the new prediction and the older ones; the present one takes the rest
                correction[places] = s_next[k] * np.delete(weights([1.0, *known], (1 + square) * h[k]), 1)
                correction[1] = whole - correction.sum()
                correction[1:] -= predicted[:-1]
        return descending_plan(self.timesteps, a, b, c)
