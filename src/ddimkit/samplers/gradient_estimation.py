r"""Gradient estimation: the noise prediction, corrected by how it has changed.

========================= ==========================================================================
order                     1; 2 at gamma 1.5
model calls a step        1
stochastic                no
converges to              the probability-flow ODE
reference                 Permenter and Yuan 2024, *Interpreting and Improving Diffusion Models from an
                          Optimization Perspective*, algorithm 2
========================= ==========================================================================

With :math:`\sigma = n/s` and the noise predictions :math:`\varepsilon_k`

.. math:: \frac{x'}{s'} = \frac{x}{s} + (\sigma' - \sigma)\,(\gamma\,\varepsilon_k + (1 - \gamma)\,\varepsilon_{k-1}),

the first row and the last DDIM's. A row of the table reads every earlier x0 prediction, as those of :mod:`~ddimkit.samplers.deis`.
"""

import math
from dataclasses import dataclass, field

from ddimkit._numbers import number
from ddimkit.plan import Levels, Plan
from ddimkit.samplers._outputs import noise_history
from ddimkit.sampling import PlanSampler

__all__ = ["GradientEstimationSampler"]


@dataclass(frozen=True)
class GradientEstimationSampler(PlanSampler):
    r"""The gradient estimation sampler (Permenter and Yuan 2024) over any timestep subsequence.

    Args:
        schedule: the noise schedule the model was trained with.
        steps: number of timesteps, chosen by ``spacing``; exactly one of ``steps`` and ``timesteps``.
        timesteps: the timesteps themselves, strictly descending; read back as a tuple.
        spacing: how ``steps`` timesteps are chosen.
        prediction: what the model predicts.
        clip: None, a pair (low, high) or a :class:`DynamicThreshold`, applied to x0_hat.
        gamma: weight of the present noise prediction, at least 1; 1 is DDIM, the paper takes 2.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting out of range; both or neither of ``steps`` and ``timesteps``; epsilon prediction at zero SNR.
    >>> from ddimkit import NoiseSchedule
    >>> from ddimkit.samplers import GradientEstimationSampler
    >>> GradientEstimationSampler(NoiseSchedule.linear(), steps=5).nfe
    5
    """

    gamma: float = field(default=2.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "gamma", float(number(self.gamma, "gamma")))
        if not 1 <= self.gamma < math.inf:
            raise ValueError(f"gamma must be at least 1 and finite, got {self.gamma}")

    @property
    def convergence_order(self) -> int:
        """1; 2 at gamma 1.5."""
        return 2 if self.gamma == 1.5 else 1

    def plan(self) -> Plan:
        """The table of this module's equation."""
        levels = Levels.of(self.schedule, self.timesteps)

        def weigh(k: int) -> list[float]:
            step = levels.n_next[k] / levels.s_next[k] - levels.n[k] / levels.s[k]
            known = k > 0 and levels.s[k - 1] > 0
            return [self.gamma * step, (1 - self.gamma) * step] if known and self.gamma != 1 else [step]

        return noise_history(self.schedule, self.timesteps, weigh)
