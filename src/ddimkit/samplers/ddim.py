r"""DDIM: denoising diffusion implicit models.

========================= ==========================================================================
order                     1 (deterministic at eta 0: the exponential Euler method in λ)
model calls a step        1
stochastic                for eta > 0
converges to              the probability-flow ODE (eta 0), the reverse SDE (eta 1)
reference                 Song, Meng and Ermon 2020, *Denoising Diffusion Implicit Models*, eqs 12 and 16
========================= ==========================================================================

With :math:`h = \lambda' - \lambda` equation 12, its σ from equation 16, reads

.. math:: a = \frac{n'}{n}\sqrt{(1 - \eta^2) + \eta^2 e^{-2h}}, \qquad b = s' - s\,a, \qquad c = \eta\, n' \sqrt{1 - e^{-2h}},

which needs no special case where h is infinite: from zero SNR and to the clean image.

k-diffusion's *Euler ancestral* is this sampler at eta 1, and its eta is this one; its *Euler* is this sampler at eta 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from ddimkit.loop import Model
from ddimkit.plan import Levels, Plan, descending_plan
from ddimkit.sampling import PlanSampler, walk_plan
from ddimkit.schedule import FloatArray
from ddimkit.step import check_image

__all__ = ["DDIMSampler", "ddim_coefficients"]


def ddim_coefficients(levels: Levels, eta: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """a, b and c, each (S,), of this module's equation."""
    ratio, decay = levels.n_next / levels.n, np.exp(-2 * levels.h)
    a = ratio * np.sqrt((1 - eta**2) + eta**2 * decay)
    return a, levels.s_next - levels.s * a, eta * levels.n_next * np.sqrt(-np.expm1(-2 * levels.h))


@dataclass(frozen=True)
class DDIMSampler(PlanSampler):
    r"""DDIM (Song, Meng and Ermon 2020) over any timestep subsequence.

    Args:
        schedule: the noise schedule the model was trained with.
        steps: number of timesteps, chosen by ``spacing``; exactly one of ``steps`` and ``timesteps``.
        timesteps: the timesteps themselves, strictly descending; read back as a tuple.
        spacing: how ``steps`` timesteps are chosen.
        prediction: what the model predicts.
        clip: None, a pair (low, high) or a :class:`DynamicThreshold`, applied to x0_hat.
        eta: scale of the standard deviation of the noise (eq. 16), from 0, deterministic, to 1, DDPM with its small variance.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting out of range; both or neither of ``steps`` and ``timesteps``; epsilon prediction at zero SNR.

    >>> from ddimkit import NoiseSchedule
    >>> sampler = DDIMSampler(NoiseSchedule.linear(), steps=5)
    >>> sampler.timesteps
    (999, 799, 599, 399, 199)
    >>> sampler.nfe
    5
    """

    eta: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.eta, bool) or not isinstance(self.eta, Real):
            raise TypeError(f"eta must be a number, got {self.eta!r}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1] (0 deterministic, 1 DDPM's fixed_small), got {self.eta}")
        object.__setattr__(self, "eta", float(self.eta))

    @property
    def convergence_order(self) -> int:
        """1, of the image at eta 0 and of its distribution above."""
        return 1

    def plan(self) -> Plan:
        """The table of equation 12."""
        return descending_plan(self.timesteps, *ddim_coefficients(Levels.of(self.schedule, self.timesteps), self.eta))

    def invert(self, model: Model, x0: Tensor, *, progress: bool = False, model_kwargs: Mapping[str, Any] | None = None) -> Tensor:
        r"""The latent at ``timesteps[0]`` whose sampling leads back to x0, to first order (Song et al. 2020, section 5.4).

        The walk over the reversed timesteps, S model calls: from the image to the lowest one, asked there, ``a = 1 + s``,
        ``b = −s``; then upwards, each asked at its lower timestep.

        Args:
            model: ``model(x, t)`` as for :meth:`PlanSampler.sample`.
            x0: (B, \*) clean images.
            progress: whether to show a progress bar.
            model_kwargs: further arguments of the model.

        Returns:
            (B, \*) the latent, of x0's dtype.

        Raises:
            TypeError: x0 is no floating point tensor, or as for :meth:`PlanSampler.sample`.
            ValueError: eta is not 0, or clip is not None: neither can be inverted; a model guided by CFG++, whose scales are those
                of descending rows.
        """
        check_image(x0, "x0")
        if self.eta != 0 or self.clip is not None:
            raise ValueError(f"only eta=0 without clip can be inverted, got eta={self.eta} and clip={self.clip}")
        return walk_plan(self, self.inversion_plan(), model, x0, progress=progress, model_kwargs=model_kwargs)

    def inversion_plan(self) -> Plan:
        """The table that :meth:`invert` walks."""
        up = tuple(self.timesteps[::-1])
        s, n = self.schedule.signal[list(up)], self.schedule.noise[list(up)]
        a = np.append(1 + s[0], n[1:] / n[:-1])
        b = np.append(-s[0], s[1:] - s[:-1] * a[1:])
        return Plan((up[0], *up[:-1]), up, a, b, np.zeros_like(a))
