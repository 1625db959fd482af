r"""DPM-Solver++: multistep solvers of the ODE, or of the reverse SDE, in terms of x0.

========================= ==========================================================================
order                     1, 2 or 3
model calls a step        1
stochastic                for eta 1
converges to              the probability-flow ODE (eta 0), the reverse SDE (eta 1)
reference                 Lu, Zhou, Bao, Chen, Li and Zhu 2022, *DPM-Solver++*, section 4 and appendix B
========================= ==========================================================================

With h = λ′ − λ and the polynomial P through the last ``order`` x0 predictions as a function of λ,

.. math:: x' = \frac{n'}{n} e^{-\eta h}\, x + s' \int_0^{h} (1+\eta)\, e^{-(1+\eta)(h-u)}\, P(\lambda + u)\, du
    + \eta\, n' \sqrt{1 - e^{-2h}}\, z,

integrated exactly. The paper's own formulas differ from it by higher orders of h: its 2M has h/2 for
:math:`(h - 1 + e^{-h}) / (1 - e^{-h})`, and the published third-order multistep code, which lacks a factor 2 on its second
difference, is of order 2. The first rows and the last, to the clean image, are of lower order: there is no history yet, and h is
infinite.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ddimkit._numbers import number
from ddimkit.plan import Levels, Plan, descending_plan
from ddimkit.samplers._exponential import check_order, past_nodes, weights
from ddimkit.samplers.ddim import ddim_coefficients
from ddimkit.sampling import PlanSampler

__all__ = ["DPMSolverPPSampler"]


@dataclass(frozen=True)
class DPMSolverPPSampler(PlanSampler):
    r"""DPM-Solver++ (Lu et al. 2022), multistep, over any timestep subsequence.

    Args:
        schedule: the noise schedule the model was trained with.
        steps: number of timesteps, chosen by ``spacing``; exactly one of ``steps`` and ``timesteps``.
        timesteps: the timesteps themselves, strictly descending; read back as a tuple.
        spacing: how ``steps`` timesteps are chosen.
        prediction: what the model predicts.
        clip: None, a pair (low, high) or a :class:`DynamicThreshold`, applied to x0_hat.
        order: how many x0 predictions a row uses; 1 is DDIM.
        eta: 0 for the ODE, 1 for the SDE.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting out of range; both or neither of ``steps`` and ``timesteps``; epsilon prediction at zero SNR.

    >>> from ddimkit import NoiseSchedule
    >>> DPMSolverPPSampler(NoiseSchedule.linear(), steps=10, order=3).plan().b.shape
    (10, 3)
    """

    order: Literal[1, 2, 3] = field(default=2, kw_only=True)
    eta: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "order", check_order(self.order))
        if number(self.eta, "eta") not in (0, 1):
            raise ValueError(f"eta must be 0 (the ODE) or 1 (the SDE), got {self.eta!r}: for values between use DDIMSampler")
        object.__setattr__(self, "eta", float(self.eta))

    @property
    def convergence_order(self) -> int:
        """``order`` at eta 0, of the image; at eta 1, of its distribution, 2 at most.

        Order 3 shows once there is a history: the first row, of order 1, leaves an error of order 2.
        """
        return self.order if self.eta == 0 else min(self.order, 2)

    def plan(self) -> Plan:
        """The table of this module's equation."""
        levels = Levels.of(self.schedule, self.timesteps)
        a, whole, c = ddim_coefficients(levels, self.eta)
        b, h = np.zeros((len(a), self.order)), levels.h
        for k in range(len(a)):
            nodes = past_nodes(h, k, self.order) if np.isfinite(h[k]) else [0.0]
            if len(nodes) > 1:
                b[k, 1 : len(nodes)] = levels.s_next[k] * weights(nodes, (1 + self.eta) * h[k])[1:]
            b[k, 0] = whole[k] - b[k, 1:].sum()
        return descending_plan(self.timesteps, a, b, c)
