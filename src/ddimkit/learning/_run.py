"""A whole run of learning: learners that compete, what chooses among them, and the file that keeps their state."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddimkit._version import __version__
from ddimkit.errors import NonFiniteError
from ddimkit.learning._learner import Drawing, Learner
from ddimkit.learning.kernel import Part
from ddimkit.learning.learned import SEED_SPAN, LearnedSampler, Origin
from ddimkit.learning.teacher import LearningObjective
from ddimkit.loop import step_bar
from ddimkit.plan import Plan
from ddimkit.quality.estimate import Estimate
from ddimkit.sampling import PlanSampler
from ddimkit.weights._tensorfile import read_tensors, write_tensors

__all__ = ["LearningRun", "first_seed", "rungs"]

_KIND, _SCHEMA = "ddimkit-learning", 3
_PARTS = {"learn": 1, "choose": 2, "confirm": 3}
_SAVE_SECONDS = 60.0
_EVALUATIONS = 4
"""How often the table of a learner is evaluated with the data that choose, at least."""
_MOVING = 4
"""Batches of images by which timesteps are moved."""


def first_seed(seed: int, part: str) -> int:
    """The first seed of the images that learn, choose or confirm in the run of a seed; each part has the next 10⁹ seeds."""
    return (seed * len(_PARTS) + _PARTS[part]) * SEED_SPAN


def rungs(learners: int, batches: int) -> list[tuple[int, int]]:
    """How many learners go on to how many batches: half of them, rounded up, to twice the batches, and the last one to all."""
    counts = [learners]
    while counts[-1] > 1:
        counts.append((counts[-1] + 1) // 2)
    return [(count, max(1, batches >> (len(counts) - 1 - rung))) for rung, count in enumerate(counts)]


@dataclass
class LearningRun:
    """A run: its learners, of which fewer and fewer are left.

    A batch, and the evaluation and the move that are due after it, are done on a copy of a learner, which then takes its place. So
    an interruption at any place loses no more than that, and the run goes on from its file bit for bit.

    Attributes:
        templates: where learning begins.
        objective: what is made small.
        drawing: how images are drawn.
        settings: of :func:`~ddimkit.learning.learn_plan`.
        path: the file that keeps the state; None for none.
        minutes: when to stop; None for never.
        spent: seconds of earlier sittings.
        learners: one for each template and rate.
        alive: places of those that are left.
    """

    templates: list[PlanSampler]
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
        steps = rungs(len(self.learners), batches)
        work = sum(count * (target - before) for (count, target), (_, before) in zip(steps, [(0, 0), *steps], strict=False))
        work -= sum(learner.done for learner in self.learners)
        try:
            with step_bar(work, progress) as tick:
                for count, target in steps:
                    self.alive = sorted(self.alive, key=lambda i: self.learners[i].best[0])[:count]
                    if not self._climb(target, tick):
                        break
                for i in self.alive:
                    self.learners[i] = self._evaluated(self.learners[i])
        finally:
            self._save()
        return self._confirm()

    def _climb(self, target: int, tick: Callable[[], object]) -> bool:
        """Bring every learner that is left to so many batches and evaluate it; False where the time is over."""
        for i in self.alive:
            while self.learners[i].done < target and not self.learners[i].failed:
                if self._is_over():
                    return False
                self.learners[i] = self._advanced(self.learners[i])
                tick()
                if time.monotonic() - self.saved > _SAVE_SECONDS:
                    self._save()
            self.learners[i] = self._evaluated(self.learners[i])
        self.alive = [i for i in self.alive if not self.learners[i].failed]
        if not self.alive:
            raise NonFiniteError("; ".join(dict.fromkeys(learner.failed for learner in self.learners if learner.failed)))
        return True

    def _is_over(self) -> bool:
        return self.minutes is not None and self._seconds() > 60 * self.minutes

    def _seconds(self) -> float:
        return self.spent + time.monotonic() - self.began

    def _advanced(self, before: Learner) -> Learner:
        """The learner one batch on, with the evaluation and the move of the timesteps that are due done."""
        learner, batches = self._evaluated(before) if not before.done else before.copy(), self.settings["batches"]
        try:
            learner.learn(self.objective, self.drawing)
        except FloatingPointError as error:
            before.failed = str(error)
            return before
        if learner.done * (self.settings["moves"] + 1) >= batches * (learner.moves + 1) and learner.done < batches:
            middle = self.drawing.first_seed + SEED_SPAN // 2
            seeds = range(middle, middle + _MOVING * self.drawing.batch_size)
            learner = learner.move_timesteps(self.objective, self.drawing, seeds)
        return self._evaluated(learner) if learner.done % max(1, batches // _EVALUATIONS) == 0 else learner

    def _evaluated(self, before: Learner) -> Learner:
        """The learner with the objective of its table on the data that choose; itself where that is known or it has failed."""
        if before.failed or (before.curve and before.curve[-1][0] == before.done):
            return before
        learner, plan = before.copy(), before.plan
        value = self._estimate(plan, "choose").value
        learner.curve.append((learner.done, value))
        if value < learner.best[0]:
            learner.best = value, plan
        return learner

    def _estimate(self, plan: Plan, part: Part) -> Estimate:
        first, count, template = first_seed(self.settings["seed"], part), self.settings[f"{part}_images"], self.templates[0]
        sampler = PlanSampler.from_plan(template.schedule, plan, prediction=template.prediction, clip=template.clip)
        seeds, bundle = range(first, first + count), self.drawing.bundle
        drawn = bundle.draw(sampler, seeds, device=self.drawing.device, batch_size=self.drawing.batch_size)
        found = self.objective.estimate(drawn, seeds, part)
        if found.influence is None:
            raise ValueError("the objective's estimate has no influences, so that two tables cannot be compared: use Estimate.of")
        return found

    def _confirm(self) -> LearnedSampler:
        """The best table where it is known to be better than the best template, else that template's."""
        rates = len(self.settings["rates"])
        evaluated = [i for i, learner in enumerate(self.learners) if learner.curve]
        best = min(evaluated, key=lambda i: self.learners[i].best[0])
        start = min(evaluated, key=lambda i: self.learners[i].curve[0][1])
        template, own = self.templates[start // rates], self.templates[start // rates].plan()
        plan = self.learners[best].best[1]
        before, after = self._estimate(own, "confirm"), self._estimate(plan, "confirm")
        origin = self._origin(self.learners[best], self.templates[best // rates], template, before, after)
        table = plan if origin.gained else own
        return LearnedSampler.of(template.schedule, table, prediction=template.prediction, clip=template.clip, origin=origin)

    def _origin(self, learner: Learner, template: PlanSampler, compared: PlanSampler, before: Estimate, after: Estimate) -> Origin:
        gain = (before - after).interval
        outcome = f"{after.value:.4g} against {before.value:.4g} of the template, a gain of {gain[0]:.3g} to {gain[1]:.3g}"
        reason = outcome if gain[0] > 0 else f"nothing was gained: {outcome}, which does not lie above 0"
        seeds = {part: first_seed(self.settings["seed"], part) for part in _PARTS}
        used = {**self.settings, "rate": learner.rate, "first_seeds": seeds, "seconds": round(self._seconds())}
        versions = {"ddimkit": __version__, "torch": str(torch.__version__), "numpy": np.__version__}
        model = {"name": self.drawing.bundle.name, "sha256": self.drawing.bundle.weights_sha256()}
        return Origin(
            gained=gain[0] > 0,
            gain=gain,
            reason=reason,
            curve=tuple(learner.curve),
            template=template.record(),
            compared_with=compared.record(),
            objective=self.objective.to_dict(),
            settings=used,
            model=model,
            versions=versions,
        )

    @cached_property
    def _identity(self) -> str:
        """A hash of all that decides the run, versions of libraries aside."""
        first, bundle = self.templates[0], self.drawing.bundle
        plans = [template.plan().to_dict() for template in self.templates]
        model = [bundle.weights_sha256(), bundle.sample_shape, first.prediction, repr(first.clip)]
        if bundle.conditions is not None:
            model.append(bundle.conditions_sha256())
        parts = [self.settings, _without_versions(self.objective.to_dict()), model, plans]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.path is None:
            return
        states = [learner.state() for learner in self.learners]
        tensors = {f"{i}.{name}": value for i, (found, _) in enumerate(states) for name, value in found.items()}
        plain = {"learners": [plain for _, plain in states], "alive": self.alive, "seconds": self._seconds()}
        write_tensors(self.path, tensors, kind=_KIND, schema=_SCHEMA, settings={"identity": self._identity, **plain})

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


def _without_versions(plain: Any) -> Any:
    """Plain JSON values without the versions of libraries, under which the same run goes on."""
    if isinstance(plain, dict):
        return {name: _without_versions(value) for name, value in plain.items() if name != "versions"}
    return [_without_versions(value) for value in plain] if isinstance(plain, list | tuple) else plain
