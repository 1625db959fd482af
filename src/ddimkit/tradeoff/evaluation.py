"""The quality of the rows of a study: images of every sampler from the same seeds, or the metrics of an earlier study.

Every sampler draws from the same seeds, so that differences are paired. A committed study rests on many more images than a sweep
can draw, so its metrics stand where it has them. Images drawn beside them only check that this machine reproduces them.
"""

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ddimkit._numbers import integer
from ddimkit.analytic import error_of
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.estimate import Z95
from ddimkit.quality.evaluator import Evaluator
from ddimkit.quality.measure import Quality
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff._drawing import Drawn, draw
from ddimkit.tradeoff.grid import LONG
from ddimkit.tradeoff.rows import Row
from ddimkit.tradeoff.study import Study, known_row

__all__ = ["Evaluation", "contradicts", "drawn_path"]

_FEWEST, _LEAST, _MOST, _STEP = 5, 64, 2000, 16
_CONTRADICTION = 3.0

Report = Callable[[int, int, str], None]
"""Called as ``report(done, total, what)``, both counted in model calls of whole batches."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How the quality of rows is measured.

    Args:
        evaluator: what images are evaluated with.
        images: of each row up to 100 calls; None for as many as ``seconds`` allow.
        long_images: of each row of more calls; 0 takes what the study has of them.
        study: an earlier study of the same model, whose metrics stand for the rows that it has.
        seconds: the time that ``images=None`` fills.
        batch: images drawn at once; None for 64 on the CPU and 1000 elsewhere.
        deadline_seconds: when drawing ends, done or not; None for no end.
        compile: whether the model's module is compiled, in place, before images are drawn. Images then differ by rounding.

    Raises:
        TypeError: what must be an integer is none.
        ValueError: a number of images below 5 that is not 0.
    """

    evaluator: Evaluator
    images: int | None = None
    long_images: int = 0
    study: Study | None = None
    seconds: float = 60.0
    batch: int | None = None
    deadline_seconds: float | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("images", "long_images", "batch"):
            if getattr(self, name) is None and name != "long_images":
                continue
            count = integer(getattr(self, name), name)
            object.__setattr__(self, name, count)
            if name != "batch" and (count < 0 or 0 < count < _FEWEST):
                raise ValueError(f"{name} must be 0 or at least {_FEWEST}, got {count}")

    def rows(
        self,
        samplers: Mapping[str, PlanSampler],
        bundle: ModelBundle,
        pace: float,
        *,
        device: torch.device,
        folder: Path | None,
        report: Report,
    ) -> list[Row]:
        """A row for each sampler, by its label, with what is known of its quality.

        Args:
            samplers: by label.
            bundle: the model, on ``device``.
            pace: seconds a model call and image take.
            device: where.
            folder: keeps what is drawn; None keeps nothing.
            report: called as images are drawn.
        """
        if self.compile and isinstance(bundle.model, nn.Module):
            bundle.model.compile(dynamic=False)
        counts = self.counts(samplers, pace)
        total, done = sum(samplers[label].nfe * count for label, count in counts.items()), 0
        end = math.inf if self.deadline_seconds is None else time.monotonic() + self.deadline_seconds
        drawn = dict[str, Drawn]()
        for label in sorted(samplers, key=lambda label: samplers[label].nfe):

            def progress(images: int, label: str = label, before: int = done) -> None:
                report(before + images * samplers[label].nfe, total, f"images of {label}")

            if counts[label]:
                path = None if folder is None else drawn_path(folder, label)
                settings = {"batch": self.batch, "whole_batches": self.compile, "end": end, "progress": progress}
                drawn[label] = draw(samplers[label], bundle, counts[label], self.evaluator, device=device, path=path, **settings)  # type: ignore[arg-type]
                done += counts[label] * samplers[label].nfe
        rows = [self._row(label, sampler, drawn.get(label)) for label, sampler in samplers.items()]
        # The prediction is of pixels, and says nothing of latents.
        return rows if bundle.decode is None else [replace(row, predicted=None) for row in rows]

    def counts(self, samplers: Mapping[str, PlanSampler], pace: float) -> dict[str, int]:
        """How many images of each sampler are drawn, where a model call takes ``pace`` seconds an image."""
        short = self.images
        if short is None:
            calls = sum(sampler.nfe for sampler in samplers.values() if sampler.nfe <= LONG)
            short = min(_MOST, max(_LEAST, int(self.seconds / max(pace * calls, 1e-9)) // _STEP * _STEP))
        return {label: short if sampler.nfe <= LONG else self.long_images for label, sampler in samplers.items()}

    def _row(self, label: str, sampler: PlanSampler, drawn: Drawn | None) -> Row:
        known = None if self.study is None else known_row(self.study, sampler)
        own = None
        if drawn is not None and len(drawn) >= _FEWEST:
            own = self.evaluator.evaluate_features(drawn.features.numpy(), drawn.seeds)
        row = Row(sampler, label, own, source="this run" if own else "not evaluated", predicted=self.predict(sampler))
        if known is None or known.quality is None or (own is not None and own.count >= known.quality.count):
            return row
        source = known.source
        if own is not None and contradicts(own, known.quality):
            source = f"{source}; contradicted by {own.count:,} images of this run ({own.kernel.value:.3g})"
        return replace(row, quality=known.quality, selection=known.selection, source=source, same_seed=known.same_seed)

    def predict(self, sampler: PlanSampler) -> float | None:
        """The squared Fréchet distance, in pixels, of what the sampler makes of normal data; the model is not called."""
        plan, pixels = sampler.plan(), self.evaluator.pixels
        if pixels is None or plan.c_max is not None:
            return None
        return error_of(plan, pixels, sampler.schedule).frechet


def contradicts(own: Quality, known: Quality) -> bool:
    """Whether two measurements of one sampler are apart by more than three standard errors, taken as independent."""
    error = math.hypot(own.kernel.margin, known.kernel.margin) / Z95
    return abs(own.kernel.value - known.kernel.value) > _CONTRADICTION * error


def drawn_path(folder: Path, label: str, first: int = 0) -> Path:
    """Where the images of a row are kept."""
    name = re.sub(r"[^\w.+-]+", "-", label)
    return folder / "drawn" / f"{name}-from-{first}.safetensors"
