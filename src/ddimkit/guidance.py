r"""Guidance: functions model → model, which work with every sampler, in CUDA graphs too.

With the outputs :math:`f_+` and :math:`f_-` of a better and a worse model at the same x and t, all of these give

.. math:: f = f_- + w\,(f_+ - f_-),

which is :math:`f_+` at scale w = 1. As ``x0_hat = A·x + B·out`` is linear in the output, the same w means the same for every
prediction type.

================================ ===================================================== ========================================
function                         better and worse                                      scale
================================ ===================================================== ========================================
:func:`classifier_free`          with the conditions, and without or with others       w, which is 1 + w in Ho and Salimans
:func:`cfg_plus_plus`            the same                                              λ·s′/b₀, one for each row
:func:`autoguidance`             a model, and a weaker one with the same conditions    w
:func:`classifier_guidance`      the model plus a classifier's gradient                the gradient's factor
================================ ===================================================== ========================================

Sources: Ho and Salimans, *Classifier-Free Diffusion Guidance*, 2022, eq. 6; Kynkäänniemi et al., *Applying Guidance in a Limited
Interval*, 2024; Lin et al., *Common Diffusion Noise Schedules and Sample Steps are Flawed*, 2024, eqs 14 to 16; Chung et al.,
*CFG++*, 2024, algorithm 1; Karras et al., *Guiding a Diffusion Model with a Bad Version of Itself*, 2024, eq. 3; Dhariwal and
Nichol, *Diffusion Models Beat GANs on Image Synthesis*, 2021, algorithm 2.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ddimkit._guided import ClassifierGuided, Guided, PairGuided, signal_after
from ddimkit.loop import Model
from ddimkit.prediction import Prediction
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import FloatArray, NoiseSchedule

__all__ = ["Guided", "autoguidance", "cfg_plus_plus", "classifier_free", "classifier_guidance"]


def classifier_free(
    model: Model,
    scale: float = 3.0,
    unconditional: Mapping[str, Any] | None = None,
    *,
    interval: tuple[int, int] | None = None,
    rescale: float = 0.0,
    stacked: bool = True,
) -> Guided:
    r"""Classifier-free guidance (Ho and Salimans 2022, eq. 6): :math:`f_- + w (f_+ - f_-)`.

    The conditions come with each call, as ``model_kwargs``. A call may also bring ``guidance_scale``, one a sample, (B,), and
    ``negative_NAME`` in place of ``unconditional["NAME"]``; both are split by ``batch_size`` as conditions are.

    Args:
        model: ``model(x, t, **conditions)``.
        scale: w; 1 is the conditional model itself, in one call of one batch.
        unconditional: what the worse half is given, by the conditions' names: a number for all samples, as in ``{"labels": 10}``; a
            tensor of one sample's entry, (1, \*) or (B, \*); negative conditions, or the model's own "no condition".
        interval: (t_low, t_high): guidance at t_low ≤ t ≤ t_high only; the conditional model elsewhere. t is looked at on the
            device. So calls are saved on the CPU alone, and never in a graph.
        rescale: φ in [0, 1]: how far the guided output gets the conditional one's standard deviation over each sample (Lin et al.
            2024, eqs 14 to 16). It is not linear, so it differs between prediction types.
        stacked: whether both halves are one call of 2B samples; False calls twice, in half of the memory. One call takes no tensor
            that the worse half is not given a value of: bind to the model what all samples share, as by
            :func:`functools.partial`, and call twice for other conditions of each sample.

    Raises:
        TypeError, ValueError: a number out of range. When called, before the model is: conditions that are missing, or that cannot
            be stacked.

    >>> import torch
    >>> from ddimkit import DDIMSampler, NoiseSchedule
    >>> from ddimkit.guidance import classifier_free
    >>> guided = classifier_free(lambda x, t, labels: x * labels[:, None], 2.0, {"labels": 0})
    >>> sampler = DDIMSampler(NoiseSchedule.linear(), steps=3, prediction="x0")
    >>> sampler.sample(guided, (4, 2), seed=0, model_kwargs={"labels": torch.arange(4)}).shape
    torch.Size([4, 2])
    """
    return PairGuided(model, None, scale, unconditional, interval=interval, rescale=rescale, stacked=stacked)


def cfg_plus_plus(
    model: Model, sampler: PlanSampler, scale: float = 0.6, unconditional: Mapping[str, Any] | None = None, *, stacked: bool = True
) -> Guided:
    r"""CFG++ (Chung et al. 2024, algorithm 1): the guided x0_hat, and the noise of the unconditional output.

    :math:`x' = s' \hat x_0(\lambda) + a\,n\,\varepsilon_- + c\,z` equals the sampler's own row with guidance of scale
    :math:`\lambda s'/b_0`, exactly. So each row gets its scale, looked up by t on the device in float32 (float64 where x is).

    Args:
        model: ``model(x, t, **conditions)``, called as by :func:`classifier_free`.
        sampler: the sampler whose rows these are: without history, clipping or a repeated timestep. A run of other rows is refused:
            of other timesteps, of another eta, or of an inversion. A direct call cannot tell them.
        scale: λ, from 0 to 1 in the paper.
        unconditional: as for :func:`classifier_free`.
        stacked: as for :func:`classifier_free`.

    Raises:
        TypeError, ValueError: a sampler with history, clipping, a repeated timestep, or rows that do not keep the signal; a scale
            that is not finite. When sampled with: the rows of another sampler, or of an inversion.
    """
    if not isinstance(sampler, PlanSampler):
        raise TypeError(f"sampler must be the sampler that is to be guided, got {type(sampler).__name__}")
    return PairGuided(model, None, scale, unconditional, ratios=_ratios(sampler), stacked=stacked)


def autoguidance(
    model: Model, weak: Model, scale: float = 2.0, *, interval: tuple[int, int] | None = None, rescale: float = 0.0
) -> Guided:
    """Guidance by a weaker model (Karras et al. 2024, eq. 3), such as a smaller or a less trained one.

    Args:
        model: ``model(x, t, **conditions)``.
        weak: the weaker model of the same prediction type, given the same conditions.
        scale: w; 1 is the model itself. A call may bring ``guidance_scale``, one a sample.
        interval: as for :func:`classifier_free`.
        rescale: as for :func:`classifier_free`.

    Raises:
        TypeError, ValueError: a number out of range.
    """
    return PairGuided(model, weak, scale, None, interval=interval, rescale=rescale, stacked=False)


def classifier_guidance(
    model: Model,
    log_probability: Callable[..., Tensor],
    schedule: NoiseSchedule,
    scale: float = 1.0,
    *,
    prediction: Prediction = "epsilon",
    classifier_only: Sequence[str] = (),
) -> Guided:
    r"""Guidance by the gradient of a classifier of noisy images (Dhariwal and Nichol 2021, algorithm 2).

    With :math:`g = \nabla_x \log p(y \mid x)` the score gains :math:`w\,g`: :math:`\varepsilon - w\,n\,g`, and
    :math:`\hat x_0 + w\,\frac{n^2}{s}\,g`.

    Args:
        model: ``model(x, t, **conditions)``.
        log_probability: ``log_probability(x, t, **conditions)``, differentiable by torch: (B,) log p(y | x) of each sample.
        schedule: the schedule that both were trained with.
        scale: w.
        prediction: what the model predicts.
        classifier_only: names of conditions that the classifier alone is given.

    Raises:
        TypeError, ValueError: a number out of range; a schedule that ends without signal, where x0_hat would be infinite. When
            called: a classifier that gives no (B,), or that torch cannot differentiate.
    """
    return ClassifierGuided(model, log_probability, schedule, scale, prediction, classifier_only)


def _ratios(sampler: PlanSampler) -> FloatArray:
    """(T,): s′/b₀ at each of the sampler's timesteps, NaN elsewhere."""
    plan, schedule = sampler.coefficients.plan, sampler.schedule
    if sampler.clip is not None:
        raise ValueError(f"CFG++ is not exact with clipping, got clip={sampler.clip}: give a sampler with clip=None")
    if sampler.coefficients.needs:
        raise ValueError(f"CFG++ needs a sampler of one step, but {type(sampler).__name__} reads earlier predictions: take DDIM")
    if len(set(plan.t)) < len(plan.t):
        raise ValueError(f"CFG++ needs a scale for each t, but {type(sampler).__name__} asks the model twice at one: take DDIM")
    s, after = schedule.signal[list(plan.t)], signal_after(plan, schedule)
    if (np.abs(plan.a * s + plan.b[:, 0] - after) > 1e-9).any() or not plan.b[:, 0].all():
        raise ValueError("CFG++ needs rows that keep the signal, a·s + b₀ = s′ with b₀ not 0, which this table's do not")
    ratios = np.full(schedule.num_timesteps, np.nan)
    ratios[list(plan.t)] = after / plan.b[:, 0]
    return ratios
