"""The quality part of a sweep: draw many images of every configuration, keep their features, judge them.

Every configuration draws from the same seeds, from 0 up, so that differences are paired. Features are kept in one file a
configuration, which grows as images are drawn: interrupted, the work goes on from there, and a later call may ask for more images.
What is not drawn, because it takes too long, is taken from an earlier study of the very same model, and marked so.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ddimkit.analytic import error_of
from ddimkit.errors import DDIMKitError
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.features import to_bytes
from ddimkit.quality.measure import Quality
from ddimkit.quality.yardstick import Yardstick
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.configurations import KEPT, Configuration, model_code
from ddimkit.tradeoff.results import TradeoffCurve
from ddimkit.weights.tensorfile import read_tensors, write_tensors

__all__ = ["DRAWN", "Drawn", "Judged", "Judging", "SampleCounts", "draw"]

DRAWN = "drawn"
"""The folder in which a sweep keeps what it drew."""

_KIND = "ddimkit-drawn"
_SCHEMA = 1
_SAVE_EVERY_SECONDS = 30.0
_IMAGES = 64
_FEWEST = 5
_BATCH = {"cpu": 64}
_BATCH_DEVICE = 1000


@dataclass(frozen=True)
class SampleCounts:
    """How many images of a configuration are judged.

    Args:
        short: up to 100 steps.
        long: of more steps, the baseline among them; 0 leaves them to an earlier study.
        noisy: where eta is above 0, up to 100 steps; as many as ``short`` if None.

    Raises:
        ValueError: a count below 5 that is not 0.
    """

    short: int
    long: int = 0
    noisy: int | None = None

    def __post_init__(self) -> None:
        for name in ("short", "long", "noisy"):
            count = getattr(self, name)
            if count is not None and (count < 0 or 0 < count < _FEWEST):
                raise ValueError(f"{name} must be 0 or at least 5 images, got {count}")

    def of(self, *, long: bool, noisy: bool) -> int:
        """The count of a configuration."""
        if long:
            return self.long
        return self.noisy if noisy and self.noisy is not None else self.short


@dataclass(frozen=True)
class Judged:
    """What is known of a configuration's quality.

    Attributes:
        quality: the figures; None where there are none.
        note: where they are from, or why there are none.
    """

    quality: Quality | None
    note: str

    @property
    def count(self) -> int:
        """Images that the figures rest on."""
        return 0 if self.quality is None else self.quality.count


@dataclass(frozen=True, eq=False)
class Judging:
    """How a sweep judges quality.

    Args:
        yardstick: what images are judged with.
        counts: how many images; None for as many as the time allows, none of them of more than 100 steps.
        study: an earlier curve of the same model, whose figures stand for configurations that are not drawn.
        budget_seconds: the time that ``counts=None`` fills, at the pace of the timed runs.
        batch: images drawn at once; None for 64 on the CPU and 1000 elsewhere.
        reuse: whether figures of the study stand also for what would be drawn, where they rest on at least as many images.
        deadline_seconds: when drawing ends, done or not; None for no end. What is not done is judged on the images there are, or
            by the study if it had more. Short runs without noise are drawn first, then long ones, then those with noise.
        compile: whether the model's module is compiled, in place, before images are drawn: worth its minute for thousands of them.
            Images then differ by rounding.
    """

    yardstick: Yardstick
    counts: SampleCounts | None = None
    study: TradeoffCurve | None = None
    budget_seconds: float = 200.0
    batch: int | None = None
    reuse: bool = False
    deadline_seconds: float | None = None
    compile: bool = False

    def run(
        self,
        made: Sequence[Configuration],
        bundle: ModelBundle,
        pace: float,
        *,
        device: torch.device,
        folder: Path | None,
        progress: Callable[[int, int, str], None],
    ) -> dict[str, Judged]:
        """The quality of each configuration, by its label.

        Args:
            made: the configurations.
            bundle: the model, on ``device``.
            pace: seconds a model call and image take.
            device: where.
            folder: keeps what is drawn, in :data:`DRAWN`; None keeps nothing.
            progress: called with model calls of whole batches done, in all, and what runs.
        """
        counts = self.counts or self.affordable(made, pace)
        if self.compile and isinstance(bundle.model, nn.Module):
            bundle.model.compile(dynamic=False)
        end = math.inf if self.deadline_seconds is None else time.monotonic() + self.deadline_seconds
        wanted = {c.label: counts.of(long=c.long, noisy=_noisy(c)) for c in made}
        total, done, found = sum(c.sampler.nfe * wanted[c.label] for c in made), 0, dict[str, Judged]()
        for c in sorted(made, key=lambda c: (_noisy(c) and not c.baseline, c.sampler.nfe)):
            count, known = wanted[c.label], self.from_study(c, bundle)
            if not count or (self.reuse and self._suffices(known, count)):
                found[c.label] = known
            else:

                def report(images: int, what: str, c: Configuration = c, before: int = done) -> None:
                    progress(before + images * c.sampler.nfe, total, f"{what} of {c.label}")

                drawn = self._draw(c, bundle, count, device, folder, end, report)
                found[c.label] = drawn if drawn.count == count or drawn.count >= known.count else known
            done += c.sampler.nfe * count
        return found

    def _suffices(self, known: Judged, count: int) -> bool:
        """Whether a study's figures are as many, and as complete, as those that would be made now."""
        complete = self.yardstick.training is None or (known.quality is not None and known.quality.memorised is not None)
        return known.count >= count and complete

    def _draw(
        self,
        c: Configuration,
        bundle: ModelBundle,
        count: int,
        device: torch.device,
        folder: Path | None,
        end: float,
        report: Callable[[int, str], None],
    ) -> Judged:
        """Draw and judge one configuration, on fewer images if the end comes before."""
        said = list[int]()

        def progress(images: int) -> None:
            said.append(images)
            report(images, "images")

        path = None if folder is None else folder / DRAWN / f"{c.label.replace(' ', '-')}.safetensors"
        drawn = draw(
            c.sampler, bundle, count, self.yardstick,
            device=device, batch=self.batch, path=path, progress=progress, end=end, whole_batches=self.compile,
        )  # fmt: skip
        if len(drawn) < _FEWEST:
            return Judged(None, "not drawn before the time was over")
        if not said:
            report(count, f"{KEPT}: images")
        return Judged(self.yardstick.judge_features(drawn.features.numpy(), range(len(drawn))), "this run")

    def predict(self, c: Configuration) -> float | None:
        """The squared Fréchet distance, in pixels, of what the sampler makes of normal data; no model is asked."""
        plan, pixels = c.sampler.plan(), self.yardstick.pixels
        if pixels is None or plan.c_max is not None:
            return None
        return error_of(plan, pixels, c.sampler.schedule).frechet

    def affordable(self, made: Sequence[Configuration], pace: float) -> SampleCounts:
        """As many images of up to 100 steps as fill the budget, between 64 and 2000, in sixteens."""
        calls = sum(c.sampler.nfe for c in made if not c.long)
        fitting = int(self.budget_seconds / max(pace * calls, 1e-9)) // 16 * 16
        return SampleCounts(min(2000, max(64, fitting)))

    def from_study(self, c: Configuration, bundle: ModelBundle) -> Judged:
        """The figures of an earlier study for the same weights, sampler, settings and measure."""
        study, wanted = self.study, json.loads(json.dumps(c.sampler.record()))
        weights = bundle.weights_sha256()
        if study is None or weights is None or study.model["weights_sha256"] != weights:
            return Judged(None, "not drawn, and there is no study of this model: take --full")
        for known in study.configurations:
            same = all(known.record[part] == wanted[part] for part in ("sampler", "settings", "schedule", "noise"))
            if same and known.quality is not None:
                if known.quality.label != self.yardstick.reference.label:
                    return Judged(None, "not drawn, and the study of this model used another measure: take --full")
                return Judged(known.quality, f"the study on {study.machine.get('gpu') or study.machine['processor']}")
        return Judged(None, "not drawn, and not in the study of this model: take --full")


def _noisy(c: Configuration) -> bool:
    return c.sampler.coefficients.plan.adds_noise


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images drawn from the seeds 0, 1, 2 and so on.

    Attributes:
        features: (N, d) float32.
        images: (M, C, H, W) unsigned bytes, the first ones.
    """

    features: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    images: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.features)


def draw(
    sampler: PlanSampler,
    bundle: ModelBundle,
    count: int,
    yardstick: Yardstick,
    *,
    device: torch.device,
    batch: int | None = None,
    path: Path | None = None,
    progress: Callable[[int], None] | None = None,
    end: float = math.inf,
    whole_batches: bool = False,
) -> Drawn:
    """The first ``count`` images of a sampler, as features; fewer where there was no time for more.

    Args:
        sampler: what draws them, image i from seed i.
        bundle: the model.
        count: how many.
        yardstick: whose extractor makes the features.
        device: where the model is.
        batch: images drawn at once; None for 64 on the CPU and 1000 elsewhere.
        path: file that keeps what is drawn; more images than asked for stay in it. None keeps nothing.
        progress: called before each batch with the number of images drawn so far, kept ones included.
        whole_batches: whether the last batch is drawn whole too, for a model that is compiled for one size.
        end: no batch is begun after this time of ``time.monotonic``; what was drawn until then is returned.

    Raises:
        ValueError: a batch below 1.
        DDIMKitError: the file is damaged, or of another model, sampler or extractor.
    """
    identity = _identity(sampler, bundle, yardstick)
    drawn, saved, progress = _kept(path, identity), time.monotonic(), progress or _silent
    kept = len(drawn)
    batch = _BATCH.get(device.type, _BATCH_DEVICE) if batch is None else batch
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    while len(drawn) < count and time.monotonic() < end:
        progress(len(drawn))
        size = batch if whole_batches else min(batch, count - len(drawn))
        drawn = _more(drawn, sampler, bundle, size, yardstick, device)
        if path is not None and time.monotonic() - saved > _SAVE_EVERY_SECONDS:
            _keep(drawn, path, identity)
            saved, kept = time.monotonic(), len(drawn)
    if path is not None and len(drawn) > kept:
        _keep(drawn, path, identity)
    return Drawn(drawn.features[:count], drawn.images[:count])


def _silent(done: int) -> None:
    del done


def _more(drawn: Drawn, sampler: PlanSampler, bundle: ModelBundle, count: int, yardstick: Yardstick, device: torch.device) -> Drawn:
    made = sampler.sample(bundle.model, (count, *bundle.sample_shape), seed=len(drawn), device=device)
    features, images = torch.from_numpy(yardstick.extractor(made)).to(torch.float32), to_bytes(made[:_IMAGES]).cpu()
    if not len(drawn):
        return Drawn(features, images)
    return Drawn(torch.cat((drawn.features, features)), torch.cat((drawn.images, images))[:_IMAGES])


def _identity(sampler: PlanSampler, bundle: ModelBundle, yardstick: Yardstick) -> str:
    """What decides every image and feature."""
    record, extractor = sampler.record(), yardstick.extractor
    parts = [sampler.plan().to_dict(), *(record[part] for part in ("sampler", "settings", "schedule", "noise"))]
    parts += [bundle.weights_sha256(), model_code(bundle), bundle.sample_shape, extractor.sha256, extractor.rounding]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _keep(drawn: Drawn, path: Path, identity: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    tensors = {"features": drawn.features, "images": drawn.images}
    write_tensors(partial, tensors, kind=_KIND, schema=_SCHEMA, settings={"identity": identity})
    partial.replace(path)


def _kept(path: Path | None, identity: str) -> Drawn:
    if path is None or not path.exists():
        return Drawn()
    file = read_tensors(path, kind=_KIND, schema=_SCHEMA)
    if file.settings.get("identity") != identity:
        raise DDIMKitError(f"{path} holds images of another model, sampler or extractor: choose another folder, or remove it")
    return Drawn(file.tensors["features"], file.tensors["images"])
