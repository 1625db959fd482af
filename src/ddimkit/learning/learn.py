"""Learning a sampler's table for one model and number of calls."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ddimkit._arguments import model_device
from ddimkit._modes import in_train_mode
from ddimkit._numbers import integer
from ddimkit.learning._learner import Drawing
from ddimkit.learning._memory import activation_bytes
from ddimkit.learning._run import LearningRun, first_seed
from ddimkit.learning.learned import LearnedSampler
from ddimkit.learning.teacher import LearningObjective
from ddimkit.loop import check_device
from ddimkit.models.bundle import ModelBundle
from ddimkit.sampling import PlanSampler

__all__ = ["learn_plan"]

_LARGEST_KEPT = 2 * 2**30


def learn_plan(
    template: PlanSampler | Sequence[PlanSampler],
    bundle: ModelBundle,
    *,
    objective: LearningObjective,
    batches: int = 200,
    batch_size: int = 128,
    accumulate: int = 1,
    rates: Sequence[float] = (0.05,),
    moves: int = 2,
    choose_images: int = 1000,
    confirm_images: int = 2000,
    seed: int = 0,
    checkpoint: Literal["auto"] | bool = "auto",
    device: torch.device | str | None = None,
    minutes: float | None = None,
    path: str | Path | None = None,
    progress: bool = False,
) -> LearnedSampler:
    r"""A table for one model and number of calls, learned by gradients through all calls.

    All coefficients of the template's plan are learned: a, b of every earlier x0 prediction and, where the template adds noise, c.
    What is learned are corrections that begin at 0, so learning begins at the template itself. Timesteps are moved by whole steps
    in between. Several templates and rates compete: each learns for a while, then the worse half is left out, and so on (successive
    halving). A rate whose loss is no longer finite is left out too.

    Learning, choosing and confirming use separate seeds, and separate real images where the objective has any. The learned table is
    returned only where the paired 95 % interval of its gain over the best template lies above 0 on the data that confirm. Otherwise
    that template's own table is returned, and ``gained`` is False. Evaluate the table with another network and other images.

    Args:
        template: where learning begins; several of equal calls compete.
        bundle: the model; torch must be able to differentiate it.
        objective: what to make small, as :class:`~ddimkit.learning.KernelObjective`.
        batches: steps of Adam of the winner; the rate falls to 0 over them along half a cosine.
        batch_size: images a batch, all of fresh seeds.
        accumulate: batches whose gradients make one step.
        rates: learning rates that compete: about how far a step changes the images, in their standard deviations.
        moves: how often timesteps are moved.
        choose_images: images by which tables are chosen.
        confirm_images: images that decide whether the chosen one gained.
        seed: of the run, at least 0; runs of different seeds share no image.
        checkpoint: whether activations are computed again instead of kept; ``"auto"`` where they would exceed 2 GiB.
        device: where the model runs; by default where its first parameter is, else the CPU.
        minutes: learning ends after so long with the best so far, when the batch or move at hand is done; confirming comes on top.
        path: a file that keeps the state about every minute; where it exists, the same call goes on from it. An interrupted move of
            timesteps or evaluation is done again.
        progress: whether to show a progress bar with the time left.

    Returns:
        a sampler with its table and where the table is from.

    Raises:
        TypeError: a template that is no PlanSampler; an objective that lacks a method; a number that is no int.
        ValueError: no templates, or templates of different calls, or of another schedule or prediction than the model's; a learned
            variance range; a setting out of range; a model in train mode; a model or an objective that torch cannot differentiate;
            a file of another run.
        NonFiniteError: loss or gradient are no longer finite, at every rate.

    Source: Watson et al., *Learning Fast Samplers for Diffusion Models by Differentiating Through Sample Quality*, 2022, where a
    kernel distance of features is differentiated through all calls; successive halving by Jamieson and Talwalkar, 2016.
    """
    templates = _checked_templates(template, bundle)
    numbers = {
        "batches": batches,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "moves": moves,
        "choose_images": choose_images,
        "confirm_images": confirm_images,
        "seed": seed,
    }
    settings = _checked_settings(numbers, rates, checkpoint, minutes)
    _check_objective(objective)
    where = model_device(bundle.model) if device is None else check_device(device)
    if in_train_mode(bundle.model):
        raise ValueError("the model is in train mode, in which it gives other images at every call: call eval() first")
    kept = activation_bytes(bundle, where) * settings["batch_size"] * templates[0].nfe
    recompute = kept > _LARGEST_KEPT if checkpoint == "auto" else checkpoint
    start = first_seed(settings["seed"], "learn")
    drawing = Drawing(bundle, where, start, settings["batch_size"], settings["accumulate"], recompute)
    return LearningRun(templates, objective, drawing, settings, None if path is None else Path(path), minutes).finish(progress)


def _checked_templates(given: PlanSampler | Sequence[PlanSampler], bundle: ModelBundle) -> list[PlanSampler]:
    """The templates, which must be alike in all but coefficients and timesteps, and fit the model."""
    templates = list(given) if isinstance(given, Sequence) else [given]
    if not templates:
        raise ValueError("learning needs a template to begin with, got none")
    for template in templates:
        if not isinstance(template, PlanSampler):
            raise TypeError(f"a template must be a PlanSampler, got {template!r:.80}")
        if template.coefficients.plan.c_max is not None:
            raise ValueError("a template with a learned variance range has no table of numbers: take variance='fixed_small'")
        if not template.schedule.is_same(bundle.schedule) or template.prediction != bundle.prediction:
            raise ValueError(
                f"a template must have the model's schedule and prediction, {bundle.schedule!r} and {bundle.prediction!r}, got "
                f"{template.schedule!r} and {template.prediction!r}: make it with bundle.sampler(...)"
            )
        if (template.nfe, template.clip) != (templates[0].nfe, templates[0].clip):
            raise ValueError(
                f"templates must have equal calls and one clip, got {templates[0].nfe} calls with {templates[0].clip} and "
                f"{template.nfe} with {template.clip}"
            )
    return templates


def _checked_settings(numbers: dict[str, int], rates: Sequence[float], checkpoint: object, minutes: float | None) -> dict[str, Any]:
    """The settings as plain JSON values."""
    settings: dict[str, Any] = {name: integer(value, name) for name, value in numbers.items()}
    least = {"batches": 1, "accumulate": 1, "batch_size": 2, "choose_images": 2, "confirm_images": 2, "moves": 0, "seed": 0}
    for name, bound in least.items():
        if settings[name] < bound:
            raise ValueError(f"{name} must be at least {bound}, got {settings[name]}")
    if settings["seed"] >= 2**30:
        raise ValueError(f"seed must be below 2^30, got {settings['seed']}")
    if not isinstance(rates, Sequence):
        raise TypeError(f"rates must be a sequence of learning rates, as in (0.05,), got {rates!r}")
    if not rates or not all(0 <= rate < math.inf for rate in rates):
        raise ValueError(f"rates must hold finite learning rates of at least 0, got {rates!r}")
    if checkpoint not in ("auto", True, False):
        raise ValueError(f"checkpoint must be 'auto', True or False, got {checkpoint!r}")
    if minutes is not None and not minutes >= 0:
        raise ValueError(f"minutes must be at least 0, got {minutes}")
    return {**settings, "rates": [float(rate) for rate in rates]}


def _check_objective(objective: object) -> None:
    """Raise a TypeError unless this is an objective that tables can be learned with, and whose name can be saved."""
    missing = [name for name in ("loss", "estimate", "to_dict") if not callable(getattr(objective, name, None))]
    if missing:
        raise TypeError(f"the objective {type(objective).__name__} has no {', '.join(missing)}: see LearningObjective")
    assert isinstance(objective, LearningObjective)
    try:
        json.dumps(objective.to_dict())
    except TypeError as error:
        raise TypeError(f"to_dict() of the objective {type(objective).__name__} must give plain JSON values: {error}") from error
