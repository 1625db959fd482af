"""One table on its way: corrections, optimiser, moving average and timesteps, all of which a file keeps."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddimkit._arguments import LARGEST_START, Arguments
from ddimkit.learning._metric import whitening
from ddimkit.learning._table import Corrections, walk_rows
from ddimkit.learning.teacher import LearningObjective
from ddimkit.loop import Run, prepare
from ddimkit.models.bundle import ModelBundle
from ddimkit.plan import Plan
from ddimkit.sampling import BarePlanSampler, PlanSampler
from ddimkit.step import Coefficients, Row

__all__ = ["Drawing", "Learner"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.99, 1e-12
_SHARED = 0.1
"""Share of the mean second moment of all columns that is added to that of each."""
_POWER = 3
"""The averaged numbers weight step k by about its cube, so that they forget the beginning."""
_TENSORS = ("theta", "average", "first", "second", "basis")
_LONGEST = 5.0
"""Largest step along a column of the basis in one batch, in learning rates."""
_MEASURED = 32
"""Images by which the metric is measured, at most a batch."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """How images are drawn while a table is learned.

    Attributes:
        bundle: the model.
        device: where it runs.
        first_seed: seed of the first image that is learned with.
        batch_size: images a batch.
        accumulate: batches whose gradients make one step.
        recompute: whether activations are computed again instead of kept.
    """

    bundle: ModelBundle
    device: torch.device
    first_seed: int
    batch_size: int
    accumulate: int
    recompute: bool

    def seeds(self, batch: int) -> range:
        """The seeds of a batch."""
        return range(self.first_seed + batch * self.batch_size, self.first_seed + (batch + 1) * self.batch_size)

    def run(self, coefficients: Coefficients, seeds: Sequence[int]) -> Run:
        """The run of some seeds, about to begin."""
        shape = len(seeds), *self.bundle.sample_shape
        given = self.bundle.model_kwargs(seeds, self.device)
        return prepare(coefficients, self.bundle.model, Arguments(shape, tuple(seeds), device=self.device, model_kwargs=given))

    def images(self, rows: Sequence[Row], run: Run, *, recompute: bool) -> Tensor:
        """The images of a run whose rows are differentiable."""
        return self.bundle.decoded(walk_rows(rows, run, recompute=recompute))


class Learner:
    """Corrections of one template, learned by natural gradients on batches of fresh seeds.

    A step goes along the columns of a basis, each of which changes what the model draws by nearly as much, see
    :mod:`~ddimkit.learning._metric`. The basis is measured at the template, before the first step. Adam runs on the coordinates
    along these columns. A share of the mean second moment of all columns keeps a column that hardly matters from moving as far as
    the others.

    Args:
        template: where it begins.
        rate: the learning rate at its height: how far a step changes the images, or a latent model's latents, in their standard
            deviations; less along columns that hardly matter.
        batches: steps in all, over which the rate falls to 0 along half a cosine.

    Source: Amari, *Natural Gradient Works Efficiently in Learning*, 1998; Kingma and Ba, *Adam*, 2015; the average of the
    numbers, weighted towards the end, is Shamir and Zhang's, *Stochastic Gradient Descent for Non-smooth Optimization*, 2013.
    """

    def __init__(self, template: PlanSampler, rate: float, batches: int) -> None:
        self.corrections, self.rate, self.batches = Corrections(template), rate, batches
        zeros = self.corrections.zeros()
        self.theta, self.average = zeros.clone(), zeros.clone()
        count = int(self.corrections.free.sum())
        self.first, self.second = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        self.basis = torch.eye(count, dtype=torch.float64)
        self.done, self.moves = 0, 0
        self.curve: list[tuple[int, float]] = []
        self.failed = ""
        self.best: tuple[float, Plan] = (math.inf, self.corrections.corrected(zeros))

    @property
    def plan(self) -> Plan:
        """The plan of the averaged corrections."""
        return self.corrections.corrected(self.average)

    def learn(self, objective: LearningObjective, drawing: Drawing) -> float:
        """One step; the loss before it.

        Raises:
            FloatingPointError: the loss or its gradient is not finite.
            ValueError: the model or the objective is not differentiable.
        """
        if not self.done:
            self.basis = self._measured(drawing)
        gradient, total = torch.zeros_like(self.theta), 0.0
        for part in range(drawing.accumulate):
            value, found = self._gradient(objective, drawing, drawing.seeds(self.done * drawing.accumulate + part))
            gradient, total = gradient + found / drawing.accumulate, total + value / drawing.accumulate
        if not math.isfinite(total) or not bool(torch.isfinite(gradient).all()):
            raise FloatingPointError(
                f"the loss of batch {self.done} is {total:g}, or its gradient is not finite: look at the model's images, or take a "
                "smaller learning rate"
            )
        self._descend(gradient)
        return total

    def _gradient(self, objective: LearningObjective, drawing: Drawing, seeds: Sequence[int]) -> tuple[float, Tensor]:
        theta = self.theta.clone().requires_grad_()
        run = drawing.run(self._coefficients, seeds)
        with torch.enable_grad():
            images = drawing.images(self.corrections.rows(theta, run.x), run, recompute=drawing.recompute)
            loss = objective.loss(images, seeds)
            if not loss.requires_grad or loss.ndim:
                raise ValueError(
                    "the objective's loss must be one number of shape () that torch can differentiate, got shape "
                    f"{tuple(loss.shape)}, {'differentiable' if loss.requires_grad else 'not differentiable'}"
                )
            (gradient,) = torch.autograd.grad(loss, theta)
        return float(loss.detach()), gradient

    @property
    def _coefficients(self) -> Coefficients:
        template = self.corrections.template
        return Coefficients(self.corrections.plan, template.schedule, template.prediction, template.clip)

    def _measured(self, drawing: Drawing) -> Tensor:
        """The basis (P, P) at the template."""
        seeds = drawing.seeds(0)[:_MEASURED]

        def draw(values: Tensor) -> Tensor:
            run = drawing.run(self._coefficients, seeds)
            with torch.no_grad():
                return walk_rows(self.corrections.rows(self.corrections.spread(values), run.x), run, recompute=False)

        return whitening(draw, torch.zeros_like(self.first))

    def _descend(self, gradient: Tensor) -> None:
        along = self.basis.T @ gradient[self.corrections.free]
        self.first.lerp_(along, 1 - _BETA1)
        self.second.lerp_(along.square(), 1 - _BETA2)
        self.done += 1
        rate = self.rate * (1 + math.cos(math.pi * min(1.0, self.done / self.batches))) / 2
        size = ((self.second + _SHARED * self.second.mean()) / (1 - _BETA2**self.done)).sqrt() + _EPSILON
        step = self.first / (1 - _BETA1**self.done) / size / math.sqrt(len(size))
        self.theta -= self.corrections.spread(self.basis @ (rate * step.clamp(-_LONGEST, _LONGEST)))
        self.average.lerp_(self.theta, (1 + _POWER) / (self.done + _POWER))

    def copy(self, template: PlanSampler | None = None) -> "Learner":
        """A learner of its own in the same state; ``template`` replaces the one that its corrections are added to."""
        other = Learner(template or self.corrections.template, self.rate, self.batches)
        for name in _TENSORS:
            setattr(other, name, getattr(self, name).clone())
        other.done, other.moves, other.failed = self.done, self.moves, self.failed
        other.curve, other.best = [*self.curve], self.best
        return other

    def moved(self, timesteps: Sequence[int]) -> "Learner":
        """A copy with the template's timesteps moved and all corrections kept."""
        return self.copy(replace(self.corrections.template, steps=None, timesteps=tuple(timesteps)))

    def loss_of(self, objective: LearningObjective, drawing: Drawing, seeds: Sequence[int]) -> float:
        """The objective of the averaged corrections on some seeds, by the data of learning; drawn a batch at a time."""
        with torch.no_grad():
            runs = [drawing.run(self._coefficients, part) for part in _parts(seeds, drawing.batch_size)]
            drawn = [drawing.images(self.corrections.rows(self.average, run.x), run, recompute=False) for run in runs]
            return float(objective.loss(torch.cat(drawn), seeds))

    def move_timesteps(self, objective: LearningObjective, drawing: Drawing, seeds: Sequence[int]) -> "Learner":
        """A copy with each timestep moved where that makes the objective smaller on some seeds, by whole steps.

        A bare table has no formula for other timesteps and keeps its own.
        """
        best = self.copy()
        best.moves += 1
        if isinstance(self.corrections.template, BarePlanSampler):
            return best
        least, count = best.loss_of(objective, drawing, seeds), len(self.corrections.template.timesteps)
        size = max(1, self.corrections.template.schedule.num_timesteps // (8 * count))
        for reach in (size, max(1, size // 3)):
            for position in range(count):
                for tried in best._neighbours(position, reach):
                    value = tried.loss_of(objective, drawing, seeds)
                    if value < least:
                        best, least = tried, value
                        break
        return best

    def _neighbours(self, position: int, reach: int) -> Iterator["Learner"]:
        times, schedule = list(self.corrections.template.timesteps), self.corrections.template.schedule
        above = times[position - 1] if position else schedule.num_timesteps
        below = times[position + 1] if position + 1 < len(times) else -1
        if position == 0:  # a model knows pure noise only from here on
            below = max(below, int(np.searchsorted(-schedule.alpha_bars, -LARGEST_START)) - 1)
        for place in (times[position] + reach, times[position] - reach):
            if below < place < above:
                yield self.moved((*times[:position], place, *times[position + 1 :]))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain JSON values from which :meth:`restore` goes on, bit for bit."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        value, plan = self.best
        plain = {
            "timesteps": list(self.corrections.template.timesteps),
            "done": self.done,
            "moves": self.moves,
            "failed": self.failed,
            "curve": self.curve,
            "best": None if math.isinf(value) else [value, plan.to_dict()],
        }
        return tensors, plain

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> "Learner":
        """The learner as it was when :meth:`state` was taken; this one has the same template, rate and number of batches."""
        template = self.corrections.template
        other = self.copy() if list(template.timesteps) == plain["timesteps"] else self.moved(plain["timesteps"])
        for name, value in tensors.items():
            setattr(other, name, value.clone())
        other.done, other.moves, other.failed = plain["done"], plain["moves"], plain["failed"]
        other.curve = [(int(done), float(value)) for done, value in plain["curve"]]
        if plain["best"] is not None:
            other.best = float(plain["best"][0]), Plan.from_dict(plain["best"][1])
        return other


def _parts(seeds: Sequence[int], size: int) -> list[Sequence[int]]:
    return [seeds[first : first + size] for first in range(0, len(seeds), size)]
