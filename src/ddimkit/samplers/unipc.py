r"""UniPC: a multistep predictor and a corrector that costs no model call.

========================= ==========================================================================
order                     1, 2 or 3; converges with order + 1
model calls a step        1
stochastic                no
converges to              the probability-flow ODE
reference                 Zhao, Bai, Rao, Zhou and Lu 2023, *UniPC*, section 3 and algorithms 5 and 6
========================= ==========================================================================

Both are :math:`x' = \frac{n'}{n} x + \sum_j w_j\, \hat x_0(j)`: the predictor with the x0 predictions up to now, the corrector,
once the model was asked at the new timestep, with that one too. As the factor n'/n is the same, a correction is a combination of x0
predictions alone, and is added in the next row: of order p a row reads p + 1 of them.

The weights integrate the interpolating polynomial exactly, whatever B(h), but where a single difference is used: there the paper
sets its coefficient to B(h)/2, with B(h) = h (``"bh1"``) or :math:`1 - e^{-h}` (``"bh2"``).
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from ddimkit.plan import Levels, Plan, descending_plan
from ddimkit.samplers._exponential import check_order, past_nodes, weights
from ddimkit.samplers.ddim import ddim_coefficients
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import FloatArray

__all__ = ["UniPCSampler", "Variant"]

Variant = Literal["bh1", "bh2"]
"""The paper's B₁(h) or B₂(h)."""


@dataclass(frozen=True)
class UniPCSampler(PlanSampler):
    r"""UniPC (Zhao et al. 2023), data prediction, multistep, over any timestep subsequence.

    Args:
        schedule: the noise schedule the model was trained with.
        steps: number of timesteps, chosen by ``spacing``; exactly one of ``steps`` and ``timesteps``.
        timesteps: the timesteps themselves, strictly descending; read back as a tuple.
        spacing: how ``steps`` timesteps are chosen.
        prediction: what the model predicts.
        clip: None, a pair (low, high) or a :class:`DynamicThreshold`, applied to x0_hat.
        order: p of UniP-p and UniC-p.
        variant: which B(h) weighs a single difference.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting out of range; both or neither of ``steps`` and ``timesteps``; epsilon prediction at zero SNR.

    >>> from ddimkit import NoiseSchedule
    >>> UniPCSampler(NoiseSchedule.linear(), steps=10).plan().b.shape
    (10, 3)
    """

    order: Literal[1, 2, 3] = field(default=2, kw_only=True)
    variant: Variant = field(default="bh2", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "order", check_order(self.order))
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, got {self.variant!r}")

    @property
    def convergence_order(self) -> int:
        """``order + 1``: the corrector's. Order 4 shows once there is a history: the first rows leave an error of order 3."""
        return self.order + 1

    def plan(self) -> Plan:
        """The table of predictors, each row with the correction of the one before."""
        levels = Levels.of(self.schedule, self.timesteps)
        a, whole, c = ddim_coefficients(levels, 0.0)
        b, h = np.zeros((len(a), self.order + 1)), levels.h
        before: FloatArray | None = None
        for k in range(len(a)):
            if before is not None:
                b[k] += a[k] * before
            predicted = np.zeros(self.order + 1)
            nodes = past_nodes(h, k, self.order) if np.isfinite(h[k]) else [0.0]
            predicted[1 : len(nodes)] = levels.s_next[k] * self._differences(nodes, h[k])
            predicted[0] = whole[k] - predicted[1:].sum()
            b[k] += predicted
            before = self._correction(nodes, h[k], whole[k], levels.s_next[k], predicted)
        return descending_plan(self.timesteps, a, b, c)

    def _correction(self, nodes: list[float], h: float, whole: float, s_next: float, predicted: FloatArray) -> FloatArray | None:
        """(order + 1,): what the corrector adds to the predicted x, by x0 predictions, the new one first; None at infinite h."""
        if not np.isfinite(h):
            return None
        corrected, size = np.zeros(self.order + 1), len(nodes) + 1
        others = s_next * self._differences([0.0, 1.0, *nodes[1:]], h)
        corrected[[0, *range(2, size)]] = others
        corrected[1] = whole - others.sum()
        corrected[1:] -= predicted[:-1]
        return corrected

    def _differences(self, nodes: list[float], h: float) -> FloatArray:
        """The weights of x0_hat at all nodes but the first, which takes the rest."""
        if len(nodes) == 2:
            size = h if self.variant == "bh1" else -np.expm1(-h)
            return np.array([size / 2 / nodes[1]])
        return weights(nodes, h)[1:] if len(nodes) > 1 else np.zeros(0)
