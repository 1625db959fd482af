r"""Consistency sampling: jump to the clean image, and add noise anew; LCM steps are these too.

========================= ==========================================================================
order                     exact in one step for an exact consistency model
model calls a step        1
stochastic                always, the last step excepted
converges to              the distribution of the consistency model
reference                 Song, Dhariwal, Chen and Sutskever 2023, *Consistency Models*, algorithm 1;
                          Luo, Tan, Huang, Li and Zhao 2023, *Latent Consistency Models*, algorithm 3
========================= ==========================================================================

.. math:: x' = s'\, \hat x_0 + n'\, z

It is for consistency models, whose x0_hat is an image and no mean of images. For an ordinary model, take another sampler. LCM's
boundary scalings, which differ from 0 and 1 by less than 1e-5 where t is 20 or more, are left out.
"""

from dataclasses import dataclass

import numpy as np

from ddimkit.plan import Levels, Plan, descending_plan
from ddimkit.sampling import PlanSampler

__all__ = ["ConsistencySampler"]


@dataclass(frozen=True)
class ConsistencySampler(PlanSampler):
    r"""Multistep consistency sampling (Song et al. 2023), and the steps of latent consistency models.

    Args:
        schedule: the noise schedule the model was trained with.
        steps: number of timesteps, chosen by ``spacing``; exactly one of ``steps`` and ``timesteps``.
        timesteps: the timesteps themselves, strictly descending; read back as a tuple.
        spacing: how ``steps`` timesteps are chosen.
        prediction: what the model predicts.
        clip: None, a pair (low, high) or a :class:`DynamicThreshold`, applied to x0_hat.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting out of range; both or neither of ``steps`` and ``timesteps``; epsilon prediction at zero SNR.

    >>> from ddimkit import NoiseSchedule
    >>> from ddimkit.samplers import ConsistencySampler
    >>> ConsistencySampler(NoiseSchedule.linear(), steps=4).nfe
    4
    """

    def plan(self) -> Plan:
        """The table of this module's equation."""
        levels = Levels.of(self.schedule, self.timesteps)
        return descending_plan(self.timesteps, np.zeros(len(levels.s)), levels.s_next, levels.n_next)
