r"""DDPM: ancestral sampling, over all timesteps or any subsequence.

========================= ==========================================================================
order                     1 (of the distribution)
model calls a step        1
stochastic                always, the last step excepted
converges to              the reverse SDE
reference                 Ho, Jain and Abbeel 2020, algorithm 2 and eq. 7; Song et al. 2020, section 5 (σ-hat);
                          Nichol and Dhariwal 2021, eq. 15 (learned range)
========================= ==========================================================================

The posterior of a *pair* of timesteps, whose own beta is :math:`1 - \bar\alpha / \bar\alpha'`, has the mean of DDIM with
eta = 1. The standard deviation c is one of

- ``fixed_small``: the posterior's own, :math:`n'\sqrt{1 - e^{-2h}}`;
- ``fixed_large``: the root of the pair's beta, :math:`n\sqrt{1 - e^{-2h}}` (the DDIM paper's σ-hat);
- ``learned_range``: between the two, :math:`c^{1-f} c_{max}^f` with f = (v+1)/2 and v the second half of the output's channels.

No noise is added on the last step, whatever its t.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from ddimkit.plan import Levels, Plan, descending_plan
from ddimkit.samplers.ddim import ddim_coefficients
from ddimkit.sampling import PlanSampler

__all__ = ["DDPMSampler", "Variance"]

Variance = Literal["fixed_small", "fixed_large", "learned_range"]
"""The name of a variance, as this module's page defines them."""


@dataclass(frozen=True)
class DDPMSampler(PlanSampler):
    r"""DDPM's ancestral sampling (Ho, Jain and Abbeel 2020) over any timestep subsequence.

    Args:
        schedule: the noise schedule the model was trained with.
        steps: number of timesteps, chosen by ``spacing``; exactly one of ``steps`` and ``timesteps``.
        timesteps: the timesteps themselves, strictly descending; read back as a tuple.
        spacing: how ``steps`` timesteps are chosen.
        prediction: what the model predicts.
        clip: None, a pair (low, high) or a :class:`DynamicThreshold`, applied to x0_hat.
        variance: ``"fixed_small"``, ``"fixed_large"`` or ``"learned_range"``, as this module's page defines them.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting out of range; both or neither of ``steps`` and ``timesteps``; epsilon prediction at zero SNR.

    >>> from ddimkit import NoiseSchedule
    >>> DDPMSampler(NoiseSchedule.cosine(), steps=1000).nfe
    1000
    """

    variance: Variance = field(default="fixed_small", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance not in get_args(Variance):
            raise ValueError(f"variance must be one of {', '.join(get_args(Variance))}, got {self.variance!r}")

    @property
    def convergence_order(self) -> int:
        """1, of the distribution."""
        return 1

    def plan(self) -> Plan:
        """The table of the posterior mean, with the chosen standard deviation."""
        levels = Levels.of(self.schedule, self.timesteps)
        a, b, small = ddim_coefficients(levels, eta=1.0)
        large = levels.n * np.sqrt(-np.expm1(-2 * levels.h))
        large[-1] = 0.0
        return descending_plan(
            self.timesteps,
            a,
            b,
            large if self.variance == "fixed_large" else small,
            large if self.variance == "learned_range" else None,
        )
