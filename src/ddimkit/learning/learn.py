"""Learning a sampler's table for one model and number of calls."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ddimkit._numbers import integer
from ddimkit._version import __version__
from ddimkit.errors import NonFiniteError
from ddimkit.learning._learner import Drawing, Learner
from ddimkit.learning._memory import activation_bytes
from ddimkit.learning.learned import LearnedSampler, Origin
from ddimkit.learning.teacher import LearningObjective
from ddimkit.loop import check_device, step_bar
from ddimkit.models.bundle import ModelBundle
from ddimkit.plan import Plan
from ddimkit.quality.estimate import Estimate
from ddimkit.sampling import PlanSampler
from ddimkit.weights._tensorfile import read_tensors, write_tensors

__all__ = ["learn_plan"]

_KIND, _SCHEMA = "ddimkit-learning", 1
_SPAN = 10**9
_PARTS = {"learn": 1, "choose": 2, "confirm": 3}
_LARGEST_KEPT = 2 * 2**30
_SAVE_SECONDS = 60.0
_EVALUATIONS = 8
"""How often the table of a run is evaluated with the data that choose."""


def learn_plan(
    template: PlanSampler | Sequence[PlanSampler],
    bundle: ModelBundle,
    *,
    objective: LearningObjective,
    batches: int = 200,
    batch_size: int = 128,
    accumulate: int = 1,
    rates: Sequence[float] = (0.02,),
    moves: int = 2,
    choose_images: int = 1000,
    confirm_images: int = 2000,
    seed: int = 0,
    checkpoint: Literal["auto"] | bool = "auto",
    device: torch.device | str = "cpu",
    minutes: float | None = None,
    path: str | Path | None = None,
    progress: bool = False,
) -> LearnedSampler:
    r"""A table for one model and number of calls, learned by gradients through all calls.

    All coefficients of the template's plan are learned: a, b of every earlier x0 prediction and, where the template adds noise, c.
    What is learned are corrections that begin at 0, so learning begins at the template itself. Timesteps are moved by whole steps
    in between. Several templates and rates compete: each learns for a while, then the worse half is left out, and so on (successive
    halving).

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
        rates: learning rates that compete; a change of 1 moves a coefficient by the noise left after its row.
        moves: how often timesteps are moved.
        choose_images: images by which tables are chosen.
        confirm_images: images that decide whether the chosen one gained.
        seed: of the run, at least 0; runs of different seeds share no image.
        checkpoint: whether activations are computed again instead of kept; ``"auto"`` where they would exceed 2 GiB.
        device: where the model runs.
        minutes: learning ends after so long with the best so far; confirming comes on top.
        path: a file that keeps the state every minute; where it exists, the same call goes on from it.
        progress: whether to show a progress bar with the time left.

    Returns:
        a sampler with its table and where the table is from.

    Raises:
        TypeError: a template that is no PlanSampler; a number that is no int.
        ValueError: no templates, or templates of different calls; a learned variance range; a setting out of range; a model or an
            objective that torch cannot differentiate; a file of another run.
        NonFiniteError: loss or gradient are no longer finite.

    Source: Watson et al., *Learning Fast Samplers for Diffusion Models by Differentiating Through Sample Quality*, 2022, where a
    kernel distance of features is differentiated through all calls; successive halving by Jamieson and Talwalkar, 2016.
    """
    templates = [template] if isinstance(template, PlanSampler) else list(template)
    _check_templates(templates)
    numbers = {
        "batches": batches,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "moves": moves,
        "choose_images": choose_images,
        "confirm_images": confirm_images,
        "seed": seed,
    }
    settings: dict[str, Any] = {name: integer(value, name) for name, value in numbers.items()}
    settings["rates"] = [float(rate) for rate in rates]
    _check_settings(settings)
    where = check_device(device)
    needed = activation_bytes(bundle, where) * settings["batch_size"] * templates[0].nfe
    recompute = needed > _LARGEST_KEPT if checkpoint == "auto" else bool(checkpoint)
    drawing = Drawing(
        bundle, where, _first_seed(settings["seed"], "learn"), settings["batch_size"], settings["accumulate"], recompute
    )
    run = _Run(templates, bundle, objective, drawing, settings, None if path is None else Path(path), minutes)
    return run.finish(progress)


@dataclass
class _Run:
    """A whole run: its learners, of which fewer and fewer are left."""

    templates: list[PlanSampler]
    bundle: ModelBundle
    objective: LearningObjective
    drawing: Drawing
    settings: dict[str, Any]
    path: Path | None
    minutes: float | None
    began: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    spent: float = 0.0
    alive: list[int] = field(default_factory=list[int])
    learners: list[Learner] = field(default_factory=list[Learner])

    def finish(self, progress: bool) -> LearnedSampler:
        """Learn from where the file ends, and confirm."""
        batches = self.settings["batches"]
        self.learners = [Learner(t, rate, batches) for t in self.templates for rate in self.settings["rates"]]
        self.alive = list(range(len(self.learners)))
        self._resume()
        rungs = math.ceil(math.log2(len(self.learners))) + 1
        total = self._work(rungs) - sum(learner.done for learner in self.learners)
        try:
            with step_bar(total, progress) as tick:
                for rung in range(rungs):
                    if not self._climb(max(1, batches >> (rungs - 1 - rung)), tick):
                        break
                    keep = max(1, len(self.learners) >> (rung + 1))
                    self.alive = sorted(self.alive, key=lambda i: self.learners[i].best[0])[:keep]
        finally:
            self._save()
        return self._confirm()

    def _work(self, rungs: int) -> int:
        """Batches of the whole run."""
        batches, count = self.settings["batches"], len(self.learners)
        targets = [0] + [max(1, batches >> (rungs - 1 - rung)) for rung in range(rungs)]
        return sum((b - a) * max(1, count >> rung) for rung, (a, b) in enumerate(pairwise(targets)))

    def _climb(self, target: int, tick: Callable[[], object]) -> bool:
        """Bring every learner that is left to so many batches; False where the time is over."""
        for i in self.alive:
            while self.learners[i].done < target:
                if self._is_over():
                    return False
                self._advance(i)
                tick()
        return True

    def _is_over(self) -> bool:
        return self.minutes is not None and self._seconds() > 60 * self.minutes

    def _seconds(self) -> float:
        return self.spent + time.monotonic() - self.began

    def _advance(self, i: int) -> None:
        """One batch of a learner, and what is due after it: an evaluation, a move of the timesteps, a file."""
        learner, batches = self.learners[i], self.settings["batches"]
        if not learner.done:
            self._evaluate(learner)
        try:
            learner.learn(self.objective, self.drawing)
        except FloatingPointError as error:
            raise NonFiniteError(str(error)) from error
        if learner.done * (self.settings["moves"] + 1) >= batches * (learner.moves + 1) and learner.done < batches:
            first = self.drawing.first_seed
            seeds = range(first + _SPAN // 2, first + _SPAN // 2 + 4 * self.drawing.batch_size)
            self.learners[i] = learner = learner.move_timesteps(self.objective, self.drawing, seeds)
        if learner.done == batches or learner.done % max(1, batches // _EVALUATIONS) == 0:
            self._evaluate(learner)
        if time.monotonic() - self.saved > _SAVE_SECONDS:
            self._save()

    def _evaluate(self, learner: Learner) -> None:
        """The objective of a learner on the data that choose."""
        plan = learner.plan
        value = self._estimate(plan, "choose", self.settings["choose_images"]).value
        learner.curve.append((learner.done, value))
        if value < learner.best[0]:
            learner.best = value, plan

    def _estimate(self, plan: Plan, part: Literal["choose", "confirm"], images: int) -> Estimate:
        first, template = _first_seed(self.settings["seed"], part), self.templates[0]
        sampler = PlanSampler.from_plan(template.schedule, plan, prediction=template.prediction, clip=template.clip)
        seeds, size = range(first, first + images), self.drawing.batch_size
        shape = images, *self.bundle.sample_shape
        drawn = sampler.sample(self.bundle.model, shape, seed=seeds, device=self.drawing.device, batch_size=size)
        return self.objective.estimate(drawn, seeds, part)

    def _confirm(self) -> LearnedSampler:
        """The best table where it is known to be better than the best template, else that template's."""
        evaluated = [learner for learner in self.learners if learner.curve] or [self.learners[0]]
        best = min(evaluated, key=lambda learner: learner.best[0])
        start = min(evaluated, key=lambda learner: learner.curve[0][1] if learner.curve else math.inf)
        template = self.templates[self.learners.index(start) // len(self.settings["rates"])]
        count, plan, own = self.settings["confirm_images"], best.best[1], template.plan()
        before, after = self._estimate(own, "confirm", count), self._estimate(plan, "confirm", count)
        gain = (before - after).interval
        gained = gain[0] > 0
        origin = self._origin(best, template, before, after, gain)
        table = plan if gained else own
        return LearnedSampler.of(template.schedule, table, prediction=template.prediction, clip=template.clip, origin=origin)

    def _origin(self, best: Learner, template: PlanSampler, before: Estimate, after: Estimate, gain: tuple[float, float]) -> Origin:
        outcome = f"{after.value:.4g} against {before.value:.4g} of the template, a gain of {gain[0]:.3g} to {gain[1]:.3g}"
        reason = outcome if gain[0] > 0 else f"nothing was gained: {outcome}, which does not lie above 0"
        seeds = {part: _first_seed(self.settings["seed"], part) for part in _PARTS}
        used = {**self.settings, "rate": best.rate, "first_seeds": seeds, "seconds": round(self._seconds())}
        versions = {"ddimkit": __version__, "torch": str(torch.__version__), "numpy": np.__version__}
        model = {"name": self.bundle.name, "sha256": self.bundle.weights_sha256()}
        curve, objective = tuple(best.curve), self.objective.to_dict()
        return Origin(gain[0] > 0, gain, reason, curve, template.record(), objective, used, model, versions)

    @property
    def _identity(self) -> str:
        """A hash of all that decides the run."""
        plans = [template.plan().to_dict() for template in self.templates]
        parts = [self.settings, self.objective.to_dict(), self.bundle.weights_sha256(), plans]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.path is None:
            return
        states = [learner.state() for learner in self.learners]
        tensors = {f"{i}.{name}": value for i, (found, _) in enumerate(states) for name, value in found.items()}
        plain = {"learners": [plain for _, plain in states], "alive": self.alive, "seconds": self._seconds()}
        part = self.path.with_name(self.path.name + ".part")
        write_tensors(part, tensors, kind=_KIND, schema=_SCHEMA, settings={"identity": self._identity, **plain})
        part.replace(self.path)

    def _resume(self) -> None:
        if self.path is None or not self.path.exists():
            self._save()  # an unwritable folder is noticed before anything is learned
            return
        file = read_tensors(self.path, kind=_KIND, schema=_SCHEMA)
        if file.settings["identity"] != self._identity:
            raise ValueError(f"{self.path} is of another run: other templates, model, objective or settings. Give another path")
        for i, plain in enumerate(file.settings["learners"]):
            tensors = {name.removeprefix(f"{i}."): v for name, v in file.tensors.items() if name.startswith(f"{i}.")}
            self.learners[i] = self.learners[i].restore(tensors, plain)
        self.alive, self.spent = list(file.settings["alive"]), float(file.settings["seconds"])


def _first_seed(seed: int, part: str) -> int:
    return (seed * len(_PARTS) + _PARTS[part]) * _SPAN


def _check_templates(templates: Sequence[PlanSampler]) -> None:
    if not templates:
        raise ValueError("learning needs a template to begin with, got none")
    for template in templates:
        if not isinstance(template, PlanSampler):
            raise TypeError(f"a template must be a PlanSampler, got {type(template).__name__}")
        plan = template.coefficients.plan
        if plan.c_max is not None:
            raise ValueError("a template with a learned variance range has no table of numbers: take variance='fixed_small'")
        first = templates[0]
        if len(plan) != first.nfe or not template.schedule.is_same(first.schedule):
            raise ValueError(f"templates must have equal calls and one schedule, got {first.nfe} and {len(plan)} calls")
        if (template.prediction, template.clip) != (first.prediction, first.clip):
            raise ValueError("templates must have one prediction type and one clip, those of the model")


def _check_settings(settings: dict[str, Any]) -> None:
    for name in ("batches", "accumulate"):
        if settings[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {settings[name]}")
    for name in ("batch_size", "choose_images", "confirm_images"):
        if settings[name] < 2:
            raise ValueError(f"{name} must be at least 2, got {settings[name]}")
    if settings["moves"] < 0 or not 0 <= settings["seed"] < 2**30:
        raise ValueError(f"moves and seed must be at least 0 and seed below 2^30, got {settings['moves']} and {settings['seed']}")
    if not settings["rates"] or min(settings["rates"]) < 0:
        raise ValueError(f"rates must hold learning rates of at least 0, got {settings['rates']}")
