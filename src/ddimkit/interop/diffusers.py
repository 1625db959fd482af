"""Models, schedules and weights of diffusers; the library itself is imported only where one of its models is to be made.

:mod:`ddimkit.interop.diffusers_scheduler` is the other way round: a sampler of ddimkit in a pipeline of diffusers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ddimkit.interop._diffusers_model import DiffusersModel, check_class, load_model, part_of, shape_of
from ddimkit.interop._sampler_file import restore
from ddimkit.interop._scheduler_config import (
    Halves,
    clip_of,
    is_flow,
    is_straight,
    output_halves,
    prediction_of,
    read_config,
    schedule_of,
)
from ddimkit.models.bundle import ModelBundle
from ddimkit.models.diffusers_names import rename_unet_weights, unet_config
from ddimkit.models.unet import UNet
from ddimkit.prediction import Clip, Prediction
from ddimkit.schedule import NoiseSchedule

__all__ = ["from_pipeline", "load_schedule", "load_unet", "rename_unet_weights", "unet_config"]


def load_unet(folder: str | Path, *, variant: str | None = None) -> UNet:
    """The UNet of a folder of diffusers: :meth:`UNet.from_diffusers <ddimkit.models.unet.UNet.from_diffusers>`.

    Args:
        folder: what ``UNet2DModel.save_pretrained`` wrote, or a pipeline's folder that holds such a ``unet``.
        variant: as in ``save_pretrained(folder, variant="fp16")``; None reads the files without a variant.

    Raises:
        FileNotFoundError: there is no configuration.
        ValueError: a setting that the UNet has no equal of, naming it.
        WeightsError: there are no weights of this variant as safetensors, or not those of this configuration.
    """
    return UNet.from_diffusers(folder, variant=variant)


def load_schedule(source: Mapping[str, Any] | str | Path | object, *, mu: float | None = None) -> NoiseSchedule:
    r"""The noise schedule of a diffusers scheduler. diffusers is not imported.

    Read are ``beta_schedule``, ``beta_start``, ``beta_end``, ``trained_betas``, ``rescale_betas_zero_snr``; and of flow-matching
    schedulers, or of those with ``use_flow_sigmas``, the shift k: :math:`\sigma = \frac{k u}{1 + (k - 1) u}` at
    :math:`u = (t+1)/T`. The schedule is float64, where diffusers computes it in float32. Options that choose the steps
    (``timestep_spacing``, ``steps_offset``, ``use_karras_sigmas`` and its like, ``set_alpha_to_one``) are not part of a schedule: a
    sampler of ddimkit has its own.

    Args:
        source: the configuration as a mapping, a scheduler, or a folder: a scheduler's own, or that of a pipeline.
        mu: the shift of a scheduler with ``use_dynamic_shifting``: k = exp(mu) with ``time_shift_type="exponential"``, k = mu with
            ``"linear"``.

    Raises:
        FileNotFoundError: a folder without ``scheduler_config.json``.
        TypeError: a source of another kind.
        ValueError: a class or an option that has no equal, naming it; dynamic shifting without mu, or mu without it.

    >>> from ddimkit.interop.diffusers import load_schedule
    >>> load_schedule({"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})
    NoiseSchedule.scaled_linear(num_timesteps=1000, beta_start=0.00085, beta_end=0.012)
    """
    return _settings(read_config(source), mu).schedule


@dataclass(frozen=True, eq=False)
class _Settings:
    """The schedule, prediction type and clipping of a scheduler; ``flow`` where the model is given T·σ for t."""

    schedule: NoiseSchedule
    prediction: Prediction
    clip: Clip
    halves: Halves
    flow: bool


def _settings(config: Mapping[str, Any], mu: float | None) -> _Settings:
    if config["_class_name"] == "SamplerScheduler":
        # Our own, of diffusers_scheduler.py, which keeps a whole sampler.
        sampler = restore(config.get("_sampler"))
        halves: Halves = "first" if sampler.coefficients.plan.c_max is None else "all"
        return _Settings(sampler.schedule, sampler.prediction, sampler.clip, halves, is_straight(sampler.schedule))
    schedule = schedule_of(config, mu)
    return _Settings(schedule, prediction_of(config), clip_of(config), output_halves(config), is_flow(config))


def from_pipeline(
    source: str | Path | nn.Module | object,
    scheduler: Mapping[str, Any] | str | Path | object | None = None,
    *,
    variant: str | None = None,
    sample_shape: Sequence[int] | None = None,
    mu: float | None = None,
) -> ModelBundle:
    r"""A diffusers model with the schedule, prediction type and clipping of its scheduler.

    The bundle's model takes x and t, and as ``model_kwargs`` what the diffusers model takes besides, such as
    ``encoder_hidden_states`` or ``class_labels``; guidance is not part of it. It returns a tensor. A flow-matching model gets
    1000·σ for t, or σ where its pipeline gives it that. x is cast to the model's precision. The model stays the same object, its
    mode and device included; one that is read from a folder is in eval mode, float32, on the CPU. For a latent model samples are
    latents.

    An output with twice the channels is cut to its first half, as pipelines do it; with DDPMScheduler's
    ``variance_type="learned_range"`` it is kept whole, for ``DDPMSampler(variance="learned_range")``.

    Args:
        source: a pipeline; a pipeline's folder; or a model, or its folder, with ``scheduler``.
        scheduler: a scheduler, its configuration or its folder; by default the pipeline's own.
        variant: of a folder's weights, as in ``save_pretrained(folder, variant="fp16")``.
        sample_shape: shape of one sample; by default from the model's configuration, where it holds one.
        mu: as for :func:`load_schedule`.

    Raises:
        FileNotFoundError: a folder without a configuration.
        TypeError: a source of another kind, or a model without ``scheduler``.
        ValueError: a model, a scheduler or an option of it that has no equal, naming it; no shape of a sample.
        WeightsError: a folder without weights of this variant as safetensors. No pickle is loaded.
        DDIMKitError: a folder is given and diffusers cannot be imported.
    """
    if scheduler is None and isinstance(source, nn.Module):
        raise TypeError(f"a model needs its scheduler: from_pipeline(model, scheduler), got {type(source).__name__} alone")
    # What costs nothing is checked before weights are read.
    config = read_config(source if scheduler is None and isinstance(source, str | Path) else scheduler or _scheduler(source))
    told = _settings(config, mu)
    if isinstance(source, str | Path):
        model, name = load_model(Path(source), variant), Path(source).resolve().name
    elif variant is not None:
        raise ValueError(f"variant names files of a folder, got variant={variant!r} with a {type(source).__name__}")
    else:
        model = source if isinstance(source, nn.Module) else part_of(source)
        name = type(source).__name__
    check_class(model)
    # On the straight path signal and noise are 1 − σ and σ.
    times = told.schedule.num_timesteps * told.schedule.noise if told.flow else None
    wrapped, shape = DiffusersModel(model, times, told.halves), shape_of(model, sample_shape)
    return ModelBundle(wrapped, told.schedule, sample_shape=shape, prediction=told.prediction, clip=told.clip, name=name)


def _scheduler(pipeline: object) -> object:
    """A pipeline's scheduler."""
    found: object = getattr(pipeline, "scheduler", None)
    if found is None:
        raise TypeError(
            f"a pipeline of diffusers, its folder, or a model and its scheduler is wanted, got {type(pipeline).__name__}"
        )
    return found
