r"""Heun's method in σ, as EDM samples.

========================= ==========================================================================
order                     2
model calls a step        2; 1 in the last step, and from zero SNR
stochastic                no
converges to              the probability-flow ODE
reference                 Karras, Aittala, Aila and Laine 2022, *Elucidating the Design Space of
                          Diffusion-Based Generative Models*, algorithm 1
========================= ==========================================================================

With :math:`\sigma = n/s`, and x/s the paper's x, an Euler row, which is DDIM's, is followed by a row at the timestep it landed on:

.. math:: x' \mathrel{+}= s'\, \frac{\sigma - \sigma'}{2\sigma'}\, (\hat x_0(t') - \hat x_0(t)),

which replaces the slope by the mean of both ends'. The paper's churn (its algorithm 2) adds noise up to a σ between timesteps and
so is no part of it: ``DDIMSampler(eta=...)`` and DPM-Solver++ for the SDE add noise here.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ddimkit.plan import Levels, Plan
from ddimkit.sampling import PlanSampler

__all__ = ["HeunSampler"]


@dataclass(frozen=True)
class HeunSampler(PlanSampler):
    r"""Heun's second-order method (Karras et al. 2022, algorithm 1) over any timestep subsequence: 2S − 1 model calls.

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
    >>> from ddimkit.samplers import HeunSampler
    >>> HeunSampler(NoiseSchedule.linear(), steps=5).nfe
    9
    """

    @property
    def convergence_order(self) -> int:
        """2."""
        return 2

    def plan(self) -> Plan:
        """The table: an Euler row and its correction for each step but the last."""
        levels, times = Levels.of(self.schedule, self.timesteps), list(self.timesteps)
        places, rows = list[tuple[int, int | None]](), list[tuple[float, float, float]]()
        for k, (t, landed) in enumerate(pairwise(times)):
            s, n, s_next, n_next = levels.s[k], levels.n[k], levels.s_next[k], levels.n_next[k]
            places.append((t, landed))
            rows.append((n_next / n, s_next - s * n_next / n, 0.0))
            if s > 0:
                weight = s_next * (n / s * s_next / n_next - 1) / 2
                places.append((landed, landed))
                rows.append((1.0, weight, -weight))
        t, t_next = zip(*places, (times[-1], None), strict=True)
        table = np.array([*rows, (0.0, 1.0, 0.0)])
        return Plan(t, t_next, table[:, 0], table[:, 1:], np.zeros(len(table)))
