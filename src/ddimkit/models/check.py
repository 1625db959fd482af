r"""Whether a model's settings are those it was trained with, told from its denoising error on real images.

Every image is diffused once to some noise level, and the model's estimate of it is compared under the stated settings and under
others that are often meant. All settings of a comparison are given the same image at the same ratio of signal to noise: they differ
in t, scale and conversion alone, so that none has an easier image. The error of an image is

.. math:: \min\left(10,\ \Big(1 + \frac{s^2}{n^2}\Big) \frac{1}{d} \lVert \hat x_0 - x_0 \rVert^2\right),

d its size: that of the noise where the image is clear, that of the image where it is noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ddimkit._arguments import Arguments, check_callers
from ddimkit._numbers import integer
from ddimkit.loop import ask, check_device
from ddimkit.models.bundle import ModelBundle
from ddimkit.noise import sample_seeds
from ddimkit.prediction import Prediction, x0_coefficients
from ddimkit.schedule import FloatArray, NoiseSchedule
from ddimkit.step import check_output

__all__ = ["Alternative", "CheckReport", "Finding", "Question", "Verdict", "check_model"]

Question = Literal["prediction", "images", "schedule", "time"]
"""A question about the settings (what the model predicts, the range of its images, its schedule, where its t counts from)."""

Verdict = Literal["right", "wrong", "cannot tell"]
"""Known to fit better than every alternative, known to fit worse than one, or neither."""

_MOST = 10.0
_EARLY = (1, 2, 4, 8)
_FEWEST = 32
# Scale and shift that turn images of one range into another.
_RANGES: dict[str, tuple[float, float]] = {
    "[0, 1] for [−1, 1]": (0.5, 0.5),
    "[−1, 1] for [0, 1]": (2.0, -1.0),
    "half as large": (0.5, 0.0),
    "twice as large": (2.0, 0.0),
}


@dataclass(frozen=True)
class Alternative:
    """A setting that was tried beside the stated one.

    Attributes:
        name: the setting.
        error: its mean error.
        difference: interval of its error less the stated setting's, over images; all intervals of a check hold at once, 95 %.
    """

    name: str
    error: float
    difference: tuple[float, float]


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        question: which setting is checked.
        stated: the bundle's own setting.
        error: its mean error.
        verdict: what is known.
        best: the setting with the least error.
        alternatives: the other settings, the best first.
    """

    question: Question
    stated: str
    error: float
    verdict: Verdict
    best: str
    alternatives: tuple[Alternative, ...]

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        best = self.alternatives[0]
        low, high = best.difference
        told = f"error {self.error:.3g}; {best.name}: {best.error:.3g}, {low:+.2g} to {high:+.2g}"
        match self.verdict:
            case "right":
                return f"{self.stated} fits best ({told})"
            case "wrong":
                return f"{self.best} fits better than {self.stated} ({told})"
            case "cannot tell":
                return f"{self.stated} is not told apart from {best.name} ({told})"


@dataclass(frozen=True)
class CheckReport:
    """What :func:`check_model` found; ``print(report)`` shows it as a table.

    Attributes:
        model: the bundle's name.
        images: how many images were diffused.
        findings: an answer to each question. After a wrong one, the later questions are answered with the better setting.
    """

    model: str
    images: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every setting is known to be right."""
        return all(finding.verdict == "right" for finding in self.findings)

    @property
    def summary(self) -> str:
        """What is wrong, what cannot be told, or that all is well, in one line."""
        wrong = [f"{f.question} ({f.best} instead of {f.stated})" for f in self.findings if f.verdict == "wrong"]
        unknown = [f.question for f in self.findings if f.verdict == "cannot tell"]
        if wrong:
            return f"wrong: {', '.join(wrong)}"
        return f"nothing wrong was found; cannot tell: {', '.join(unknown)}" if unknown else "all is well"

    def __str__(self) -> str:
        """The findings, a line a question, and the summary."""
        lines = [f"{f.question:<11} {f.verdict:<12} {f.sentence}" for f in self.findings]
        return "\n".join([f"{self.model}, {self.images} images", *lines, self.summary])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("question", "stated", "error", "verdict", "best")
        found = [
            {**{name: getattr(f, name) for name in names}, "alternatives": [vars(a) for a in f.alternatives]} for f in self.findings
        ]
        return {"model": self.model, "images": self.images, "ok": self.ok, "summary": self.summary, "findings": found}


@dataclass(frozen=True)
class _Settings:
    """What the model is called with, and how its output is read."""

    schedule: NoiseSchedule
    prediction: Prediction
    sign: float = 1.0
    scale: float = 1.0
    shift: float = 0.0
    offset: int = 0


def check_model(
    bundle: ModelBundle,
    images: Tensor,
    *,
    seed: int = 0,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> CheckReport:
    r"""Measure whether a model's prediction type, range of images, schedule and count of t are the stated ones.

    Some 200 images tell in seconds on a small model, which sees each 21 times. An offset of t is looked for at t = 1, 2, 4 and 8,
    where neighbouring timesteps differ most.

    Args:
        bundle: the model and its settings. Its clip plays no part.
        images: (N, \*sample_shape) real images, or latents, in the range that the samples are meant to have; at least 32.
        seed: of the noise and the noise levels.
        batch_size: how many images the model is given at once.
        device: where; by default where the images are.
        model_kwargs: further arguments of the model; a tensor of one entry an image is split. Default: what the bundle's conditions
            give for the seeds 0, 1, 2 and so on. Labels that are not those of the images make every error larger.

    Raises:
        TypeError: no bundle, images that are no floating point tensor, or another argument of the wrong kind.
        ValueError: images of another shape, too few, or not finite; a seed outside [0, 2^63) or a batch size below 1; a schedule
            without signal; a model output of another shape.

    Warns:
        UserWarning: the model is in train mode.

    >>> from ddimkit import load_learned, load_pretrained
    >>> mnist = load_pretrained("mnist")
    >>> images = load_learned("mnist", calls=5).sample(mnist.model, (64, *mnist.sample_shape), seed=0)
    >>> check_model(mnist, images).findings[0].verdict
    'right'
    """
    if not isinstance(bundle, ModelBundle):
        raise TypeError(f"bundle must be a ModelBundle, got {type(bundle).__name__}")
    where = check_device(device) if device is not None else getattr(images, "device", torch.device("cpu"))
    checked = _check_images(images, bundle.sample_shape).to(where)
    first, size = sample_seeds(integer(seed, "seed"), 1)[0], integer(batch_size, "batch_size")
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}")
    if not bundle.schedule.signal.any():
        raise ValueError("the schedule has no timestep with signal, so no image can be told from it")
    check_callers(bundle.model, Arguments(model_kwargs=model_kwargs))
    keywords = bundle.model_kwargs(range(len(checked)), where) if model_kwargs is None else model_kwargs
    trial = _Trial(bundle, checked, first, size, dict(keywords))
    settings, findings = _Settings(bundle.schedule, bundle.prediction), list[Finding]()
    for question in get_args(Question):
        finding, settings = trial.answer(question, settings)
        findings.append(finding)
    return CheckReport(bundle.name, len(checked), tuple(findings))


def _check_images(images: object, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating point tensor, got {found}")
    if images.shape[1:] != torch.Size(shape) or len(images) < _FEWEST:
        raise ValueError(f"images must be (N, {', '.join(map(str, shape))}) with N at least {_FEWEST}, got {tuple(images.shape)}")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images hold NaN or infinity")
    return images.float()


class _Trial:
    """Images with the noise and the noise levels that every comparison shares."""

    def __init__(self, bundle: ModelBundle, images: Tensor, seed: int, batch_size: int, model_kwargs: dict[str, Any]) -> None:
        self.bundle, self.images, self.batch_size, self.model_kwargs = bundle, images, batch_size, model_kwargs
        self._outputs = dict[tuple[_Settings, bytes], Tensor]()
        draw = torch.Generator().manual_seed(seed)
        self.noise = torch.randn(images.shape, generator=draw).to(images.device)
        # No level without signal: an image cannot be told from it.
        levels = int(np.count_nonzero(bundle.schedule.signal))
        self.times = (torch.randperm(len(images), generator=draw).double() + 0.5).mul(levels / len(images)).long().numpy()

    def answer(self, question: Question, settings: _Settings) -> tuple[Finding, _Settings]:
        """The answer to a question, and the settings for later questions."""
        stated, others = _CANDIDATES[question](settings)
        signal = self.bundle.schedule.signal
        early = [t for t in _EARLY if t < len(signal) - 1 and signal[t] > 0] or [0]
        times = [np.full(len(self.images), t) for t in early] if question == "time" else [self.times]
        base = self._errors(settings, times)
        quantile = _student(1 - 0.025 / _COMPARISONS, len(self.images) - 1)
        found = list[tuple[Alternative, _Settings]]()
        for name, other in others.items():
            errors = self._errors(other, times)
            gap = errors - base
            middle, half = float(gap.mean()), quantile * float(gap.std(ddof=1)) / len(gap) ** 0.5
            found.append((Alternative(name, float(errors.mean()), (middle - half, middle + half)), other))
        found.sort(key=lambda pair: pair[0].error)
        alternatives = tuple(alternative for alternative, _ in found)
        wrong = alternatives[0].difference[1] < 0
        verdict: Verdict = "wrong" if wrong else "right" if all(a.difference[0] > 0 for a in alternatives) else "cannot tell"
        error = float(base.mean())
        best = alternatives[0].name if alternatives[0].error < error else stated
        return Finding(question, stated, error, verdict, best, alternatives), found[0][1] if wrong else settings

    def _errors(self, settings: _Settings, times: Sequence[Any]) -> FloatArray:
        """(N,) errors, their mean over several noise levels."""
        errors: FloatArray = np.mean([self._errors_at(settings, t) for t in times], axis=0)
        return errors

    def _errors_at(self, settings: _Settings, times: Any) -> FloatArray:
        """(N,) errors at one noise level an image, each that of the stated schedule at its t."""
        own, schedule = self.bundle.schedule, settings.schedule
        sigma = own.noise[times] / own.signal[times]
        asked = _nearest(schedule, 1 / (sigma * settings.scale))
        # The same ratio of signal to noise whatever the range of the images and the rounding of t.
        s = np.hypot(schedule.signal[asked], schedule.noise[asked]) / np.hypot(1.0, sigma * settings.scale)
        n = s * sigma * settings.scale
        x = self._column(s) * (self.images * settings.scale + settings.shift) + self._column(n) * self.noise
        t = np.clip(asked + settings.offset, 0, schedule.num_timesteps - 1)
        output = settings.sign * self._ask(x, t, (replace(settings, prediction="epsilon", sign=1.0), times.tobytes()))
        a, b = x0_coefficients(settings.prediction, s, n)
        x0 = (self._column(a) * x + self._column(b) * output - settings.shift) / settings.scale
        error = (x0 - self.images).flatten(1).square().mean(1).double().cpu().numpy()
        weighed: FloatArray = np.minimum(np.nan_to_num(error * (1 + sigma**-2.0), nan=_MOST), _MOST)
        return weighed

    def _ask(self, x: Tensor, times: Any, key: tuple[_Settings, bytes]) -> Tensor:
        r"""(N, \*) the model's outputs, asked for once; the first half of channels where it gives twice as many."""
        if key not in self._outputs:
            t, count = torch.as_tensor(times).to(x.device), len(x)
            parts = [slice(first, first + self.batch_size) for first in range(0, count, self.batch_size)]
            with torch.no_grad():
                self._outputs[key] = torch.cat([self._ask_part(x[part], t[part], part, count) for part in parts])
        return self._outputs[key]

    def _ask_part(self, x: Tensor, t: Tensor, part: slice, count: int) -> Tensor:
        keywords = {
            name: value[part] if isinstance(value, Tensor) and value.ndim and len(value) == count else value
            for name, value in self.model_kwargs.items()
        }
        output = ask(self.bundle.model, x, t, **keywords)
        doubled = isinstance(output, Tensor) and output.ndim > 1 and output.shape[1] == 2 * x.shape[1]
        checked = check_output(output, x, doubled)
        return checked.chunk(2, dim=1)[0] if doubled else checked

    def _column(self, values: FloatArray) -> Tensor:
        shape = (-1, *(1,) * (self.images.ndim - 1))
        return torch.from_numpy(np.asarray(values)).to(torch.float32).to(self.images.device).reshape(shape)


def _student(probability: float, freedom: int) -> float:
    """The quantile of Student's distribution, by three terms of Fisher's expansion."""
    z = NormalDist().inv_cdf(probability)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _nearest(schedule: NoiseSchedule, ratio: FloatArray) -> Any:
    """The timesteps of a schedule whose log of signal to noise is nearest."""
    with np.errstate(divide="ignore"):
        ours = np.maximum(np.log(schedule.signal / schedule.noise), -50.0)
    places = np.clip(np.searchsorted(-ours, -np.log(ratio)), 1, max(ours.size - 1, 1))
    left = np.maximum(places - 1, 0)
    right = np.minimum(places, ours.size - 1)
    return np.where(np.log(ratio) - ours[right] < ours[left] - np.log(ratio), right, left)


_Candidates = tuple[str, dict[str, _Settings]]


def _predictions(settings: _Settings) -> _Candidates:
    others = {kind: replace(settings, prediction=kind) for kind in get_args(Prediction) if kind != settings.prediction}
    return settings.prediction, {**others, f"{settings.prediction}, negated": replace(settings, sign=-settings.sign)}


def _ranges(settings: _Settings) -> _Candidates:
    return "images as given", {name: replace(settings, scale=scale, shift=shift) for name, (scale, shift) in _RANGES.items()}


def _schedules(settings: _Settings) -> _Candidates:
    total, own = settings.schedule.num_timesteps, settings.schedule
    known = {
        "linear": NoiseSchedule.linear(total),
        "scaled_linear": NoiseSchedule.scaled_linear(total),
        "cosine": NoiseSchedule.cosine(total),
        "sigmoid": NoiseSchedule.sigmoid(total),
        "rectified_flow": NoiseSchedule.rectified_flow(total),
    }
    stated = next((name for name, schedule in known.items() if schedule.is_same(own)), "the stated schedule")
    return stated, {name: replace(settings, schedule=schedule) for name, schedule in known.items() if name != stated}


def _offsets(settings: _Settings) -> _Candidates:
    return "t", {f"t {offset:+d}": replace(settings, offset=offset) for offset in (-1, 1)}


_CANDIDATES: dict[Question, Callable[[_Settings], _Candidates]] = {
    "prediction": _predictions,
    "images": _ranges,
    "schedule": _schedules,
    "time": _offsets,
}
_COMPARISONS = 4 + len(_RANGES) + 5 + 2
