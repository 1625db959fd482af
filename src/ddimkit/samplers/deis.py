r"""DEIS and iPNDM: Adams-Bashforth over the noise predictions.

========================= ==========================================================================
order                     1 to 4
model calls a step        1
stochastic                no
converges to              the probability-flow ODE
reference                 Zhang and Chen 2023, *Fast Sampling of Diffusion Models with Exponential
                          Integrator*, section 3 (ρAB) and appendix (iPNDM); Liu et al. 2022, *PNDM*
========================= ==========================================================================

With :math:`\sigma = n/s` the ODE is :math:`d(x/s) = \varepsilon\, d\sigma`, so

.. math:: \frac{x'}{s'} = \frac{x}{s} + \int_\sigma^{\sigma'} P(u)\, du,

P the polynomial through the last ``order`` noise predictions: at their own σ (``"rho_ab"``), or as if σ went in equal steps
(``"ipndm"``: weights 3/2, −1/2; 23/12, −16/12, 5/12; 55/24, −59/24, 37/24, −9/24). The first rows are of lower order.

A noise prediction holds the x that it was made for, so a row of the table reads every earlier x0 prediction, with weights that fall
geometrically: S images are kept, some 60 at most.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from ddimkit._numbers import integer
from ddimkit.plan import Levels, Plan
from ddimkit.samplers._outputs import noise_history
from ddimkit.sampling import PlanSampler

__all__ = ["DEISSampler", "DEISVariant"]

DEISVariant = Literal["rho_ab", "ipndm"]
"""Where the noise predictions stand, as this module's page defines it."""

_EQUAL = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


@dataclass(frozen=True)
class DEISSampler(PlanSampler):
    r"""DEIS in σ (Zhang and Chen 2023), or iPNDM, over any timestep subsequence.

    Args:
        schedule: the noise schedule the model was trained with.
        steps: number of timesteps, chosen by ``spacing``; exactly one of ``steps`` and ``timesteps``.
        timesteps: the timesteps themselves, strictly descending; read back as a tuple.
        spacing: how ``steps`` timesteps are chosen.
        prediction: what the model predicts.
        clip: None, a pair (low, high) or a :class:`DynamicThreshold`, applied to x0_hat.
        order: how many noise predictions a row uses; 1 is DDIM.
        variant: ``"rho_ab"`` or ``"ipndm"``.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting out of range; both or neither of ``steps`` and ``timesteps``; epsilon prediction at zero SNR.
    >>> from ddimkit import NoiseSchedule
    >>> from ddimkit.samplers import DEISSampler
    >>> DEISSampler(NoiseSchedule.linear(), steps=5, order=3).nfe
    5
    """

    order: Literal[1, 2, 3, 4] = field(default=3, kw_only=True)
    variant: DEISVariant = field(default="rho_ab", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        order = integer(self.order, "order")
        if order not in (1, 2, 3, 4):
            raise ValueError(f"order must be 1, 2, 3 or 4, got {order}")
        object.__setattr__(self, "order", order)
        if self.variant not in get_args(DEISVariant):
            raise ValueError(f"variant must be one of {', '.join(get_args(DEISVariant))}, got {self.variant!r}")

    @property
    def convergence_order(self) -> int:
        """``order``; of iPNDM 2 at most, where σ goes in unequal steps."""
        return self.order if self.variant == "rho_ab" else min(self.order, 2)

    def plan(self) -> Plan:
        """The table of this module's equation."""
        levels = Levels.of(self.schedule, self.timesteps)
        first = int(levels.s[0] == 0)  # where σ is infinite
        sigma = np.append(levels.n[first:] / levels.s[first:], 0.0)

        def weigh(k: int) -> list[float]:
            i = k - first
            nodes, end = sigma[max(0, i - self.order + 1) : i + 1][::-1], sigma[i + 1]
            if self.variant == "ipndm":
                return [(end - nodes[0]) * weight for weight in _EQUAL[len(nodes) - 1]]
            return [_integral(nodes, j, end) for j in range(len(nodes))]

        return noise_history(self.schedule, self.timesteps, weigh)


def _integral(nodes: np.ndarray[tuple[int, ...], np.dtype[np.float64]], j: int, end: float) -> float:
    """The integral, from ``nodes[0]`` to ``end``, of the Lagrange polynomial that is 1 at node j and 0 at the others."""
    scale = end - nodes[0]
    places = (nodes - nodes[0]) / scale
    others = np.delete(places, j)
    integrated = np.polyint(np.poly(others)) if len(others) else np.array([1.0, 0.0])
    return float(scale * np.polyval(integrated, 1.0) / np.prod(places[j] - others))
