"""The distance to many-step images of the same noise, as an objective that tables are learned with; and sums of objectives."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ddimkit.learning.kernel import Part
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.estimate import Estimate, Influence, estimate_mean
from ddimkit.quality.features import Extractor
from ddimkit.sampling import PlanSampler

__all__ = ["LearningObjective", "SumObjective", "TeacherObjective"]


_MOST_KEPT = 2**30


@runtime_checkable
class LearningObjective(Protocol):
    """What a table is learned to make small."""

    def loss(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        r"""How far images (B, \*) of some seeds are from what they should be: () and differentiable, on the data of learning."""
        ...

    def estimate(self, images: Tensor, seeds: Sequence[int], part: Part) -> Estimate:
        """The same with its influences, on data that learning never sees: those that choose a table, or those that confirm it."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """What names the objective, as plain JSON values."""
        ...


@dataclass(frozen=True, eq=False)
class TeacherObjective:
    r"""The mean squared difference, in pixels or features, from the images that another sampler draws of the same seeds.

    The teacher is usually a sampler of many steps. Its latest images are kept, up to 1 GiB. A table comes as near to them as its
    calls allow, and no nearer to real images than they are.

    Args:
        bundle: the model.
        teacher: a sampler of this model; it must draw one image of a seed, so it adds no noise.
        extractor: whose features are compared, differentiable by torch; pixels if None.
        batch: images that the teacher draws at once.

    Raises:
        ValueError: a teacher that adds noise, or a batch below 1.
    """

    bundle: ModelBundle
    teacher: PlanSampler
    extractor: Extractor | None = None
    batch: int = 256
    _drawn: dict[int, Tensor] = field(default_factory=dict[int, Tensor], init=False, repr=False)

    def __post_init__(self) -> None:
        if self.teacher.coefficients.plan.adds_noise:
            raise ValueError(f"the teacher must not add noise, got {type(self.teacher).__name__} with noise: give one with eta=0")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")

    def loss(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        r"""The mean over the images (B, \*)."""
        return self._apart(images, seeds).mean()

    def estimate(self, images: Tensor, seeds: Sequence[int], part: Part) -> Estimate:  # noqa: ARG002 (of the protocol)
        """The mean over the images; the seeds are those of the part."""
        with torch.no_grad():
            return estimate_mean(self._apart(images, seeds).double().cpu().numpy(), seeds)

    def to_dict(self) -> dict[str, Any]:
        """What names this objective, as plain JSON values."""
        extractor = None if self.extractor is None else {"name": self.extractor.name, "sha256": self.extractor.sha256}
        return {"objective": "distance to a teacher's images", "teacher": self.teacher.record(), "extractor": extractor}

    def _apart(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """(B,)."""
        with torch.no_grad():
            wanted = self._seen(self._teacher_images(seeds, images.device))
        return (self._seen(images) - wanted).square().mean(dim=1)

    def _seen(self, images: Tensor) -> Tensor:
        if self.extractor is None:
            return images.flatten(1)
        return self.extractor.extract(images.to(self.extractor.device, torch.float32))

    def _teacher_images(self, seeds: Sequence[int], device: torch.device) -> Tensor:
        new = [seed for seed in seeds if seed not in self._drawn]
        if new:
            drawn = self.bundle.draw(self.teacher, new, batch_size=self.batch, device=device)
            self._drawn.update(zip(new, drawn.cpu().unbind(), strict=True))
        found = torch.stack([self._drawn[seed] for seed in seeds])
        most = max(1, _MOST_KEPT // max(1, found[0].nbytes))
        for seed in list(self._drawn)[: max(0, len(self._drawn) - most)]:
            del self._drawn[seed]
        return found.to(device)


@dataclass(frozen=True, eq=False)
class SumObjective:
    """A weighted sum of objectives.

    Args:
        parts: the objectives.
        weights: of each; 1 by default.

    Raises:
        ValueError: no objective, or another number of weights; objectives with different real images, whose chances would not add.
    """

    parts: Sequence[LearningObjective]
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(self.weights) or (1.0,) * len(self.parts))
        if not self.parts or len(self.weights) != len(self.parts):
            raise ValueError(f"a sum needs objectives and a weight for each, got {len(self.parts)} and {len(self.weights)}")
        images = [part.to_dict().get("images") for part in self.parts]
        if len({found["sha256"] for found in images if found is not None}) > 1:
            raise ValueError("the objectives of a sum must have the same real images: their uncertainty is common to all of them")

    def loss(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """The weighted sum of the losses."""
        terms = [weight * part.loss(images, seeds) for part, weight in zip(self.parts, self.weights, strict=True)]
        return sum(terms[1:], terms[0])

    def estimate(self, images: Tensor, seeds: Sequence[int], part: Part) -> Estimate:
        """The weighted sum of the estimates, whose influences add."""
        found = [objective.estimate(images, seeds, part) for objective in self.parts]
        if any(e.influence is None for e in found):
            raise ValueError("every objective of a sum must estimate with influences: use Estimate.of")
        terms = [(weight, e.influence) for e, weight in zip(found, self.weights, strict=True) if e.influence is not None]
        generated = np.sum([weight * each.generated for weight, each in terms], axis=0)
        known = [(weight, each) for weight, each in terms if each.real is not None]
        real = np.sum([weight * each.real for weight, each in known if each.real is not None], axis=0) if known else None
        influence = Influence.of(sorted(seeds), generated, real, known[0][1].real_images if known else 0)
        return Estimate.of(sum(weight * e.value for weight, e in zip(self.weights, found, strict=True)), influence)

    def to_dict(self) -> dict[str, Any]:
        """What names this objective, as plain JSON values."""
        parts = [{**part.to_dict(), "weight": weight} for part, weight in zip(self.parts, self.weights, strict=True)]
        return {"objective": "sum", "parts": parts}
