"""Timestep lists better than the named spacings, found by search for one model, sampler and number of steps.

The search moves single timesteps of the best named spacing as long as an objective falls. What it found must hold on the
objective's own validation, which for a network are seeds that the search never saw; else the named spacing is returned, and said to
be.
"""

import math
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from ddimkit._arguments import LARGEST_START
from ddimkit.learning.objectives import Objective
from ddimkit.sampling import BarePlanSampler, PlanSampler
from ddimkit.timesteps import Spacing

__all__ = ["OptimizedTimesteps", "optimize_timesteps"]


class OptimizedTimesteps(tuple[int, ...]):
    """A strictly descending list of timesteps, for ``timesteps=`` of every sampler, with what it is worth.

    Attributes:
        value: the objective's value of the list.
        named: the best named spacing of those compared.
        named_value: and the objective's value of that.
        gain: the interval of how much the search gained over it on the objective's validation.
        gained: whether it did: the whole interval is above 0. If not, the list is that of the named spacing.
        evaluations: how often the objective was asked.
    """

    value: float
    named: str
    named_value: float
    gain: tuple[float, float]
    gained: bool
    evaluations: int

    @property
    def reason(self) -> str:
        """What came of the search, in a sentence."""
        low, high = self.gain
        on = f"{low:.3g} to {high:.3g} on validation"
        if self.gained:
            return f"{self.value:.4g} against {self.named_value:.4g} of {self.named}, a gain of {on}"
        return f"nothing was gained over {self.named} ({self.named_value:.4g}): {on}"


def optimize_timesteps(template: PlanSampler, steps: int, *, objective: Objective, evaluations: int = 400) -> OptimizedTimesteps:
    """A list of ``steps`` timesteps for samplers like ``template``, no worse on the objective than the named spacings.

    Compared are those that give so many timesteps and begin where the model knows pure noise, as lists do: alpha_bar at most 0.01.

    Args:
        template: a sampler whose settings, timesteps aside, every candidate has.
        steps: how many timesteps.
        objective: what to make small: :class:`~ddimkit.learning.GaussianObjective`, :class:`~ddimkit.learning.NetworkObjective`,
            :class:`~ddimkit.learning.QualityObjective` or one of your own.
        evaluations: how often the objective may be asked, the named spacings included.

    Raises:
        ValueError: fewer evaluations than there are named spacings; a number of steps the schedule has not; a template that is a
            bare table, whose timesteps cannot be chosen; an objective that is not finite for any of the named spacings.
    """
    names = get_args(Spacing)
    if isinstance(template, BarePlanSampler):
        raise ValueError(f"the template must be a sampler that can take {steps} timesteps, got {type(template).__name__}")
    if evaluations < len(names):
        raise ValueError(f"there must be at least {len(names)} evaluations, one for each named spacing, got {evaluations}")
    made = {name: tuple(replace(template, steps=steps, timesteps=(), spacing=name).timesteps) for name in names}
    given = {name: times for name, times in made.items() if len(times) == steps}
    if not given:
        raise ValueError(f"the template must be a sampler that can take {steps} timesteps, got {type(template).__name__}")
    search = _Search(template, objective, evaluations)
    starts = {name: times for name, times in given.items() if search.first <= times[0]} or given
    named = min(starts, key=lambda name: search.value(starts[name]))
    if math.isinf(search.value(starts[named])):
        raise ValueError("the objective must be finite for one of the named spacings at least")
    best = search.descend(starts[named])
    gain = (0.0, 0.0) if best == starts[named] else objective.gain(search.sampler(best), search.sampler(starts[named]))
    found = OptimizedTimesteps(best if gain[0] > 0 else starts[named])
    found.named, found.named_value, found.gain, found.gained = named, search.value(starts[named]), gain, gain[0] > 0
    found.value, found.evaluations = search.value(tuple(found)), len(search.known)
    return found


@dataclass
class _Search:
    """Coordinate descent with a memory, one timestep moved at a time."""

    template: PlanSampler
    objective: Objective
    evaluations: int
    known: dict[tuple[int, ...], float] = field(default_factory=dict[tuple[int, ...], float])

    @property
    def first(self) -> int:
        """The lowest timestep at which a model knows pure noise, where a list may begin."""
        return int(np.searchsorted(-self.template.schedule.alpha_bars, -LARGEST_START))

    def sampler(self, times: tuple[int, ...]) -> PlanSampler:
        return replace(self.template, steps=None, timesteps=times)

    def value(self, times: tuple[int, ...]) -> float:
        if times not in self.known:
            found = self.objective.value(self.sampler(times))
            self.known[times] = math.inf if math.isnan(found) else found
        return self.known[times]

    def descend(self, times: tuple[int, ...]) -> tuple[int, ...]:
        """Move each timestep by so much either way, then by half as much, and from the largest move again while that helps."""
        largest = max(1, self.template.schedule.num_timesteps // (2 * len(times)))
        size, moved = largest, False
        while size and len(self.known) < self.evaluations:
            best = self._round(times, size)
            moved, times, repeat = moved or best != times, best, best != times
            if not repeat:
                size //= 2
            if not size and moved:
                size, moved = largest, False
        return times

    def _round(self, times: tuple[int, ...], size: int) -> tuple[int, ...]:
        """Each timestep in turn moved by ``size``, where that is better."""
        for i in range(len(times)):
            above = times[i - 1] if i else self.template.schedule.num_timesteps
            below = times[i + 1] if i + 1 < len(times) else -1
            for place in (times[i] + size, times[i] - size):
                if max(below, self.first - 1 if i == 0 else -1) < place < above and len(self.known) < self.evaluations:
                    tried = (*times[:i], place, *times[i + 1 :])
                    if self.value(tried) < self.value(times):
                        times = tried
                        break
        return times
