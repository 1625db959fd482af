"""The models that :mod:`ddimkit.guidance` makes: which model is called with what, and how the outputs are combined."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddimkit._modes import module_of, modules_of
from ddimkit._numbers import integer, number
from ddimkit.loop import Model, ask
from ddimkit.plan import Plan
from ddimkit.prediction import Prediction, check_prediction, x0_coefficients
from ddimkit.schedule import FloatArray, NoiseSchedule
from ddimkit.speed.acceleration import Accelerated
from ddimkit.step import Coefficients, check_output, work_dtype

__all__ = ["ClassifierGuided", "Guided", "PairGuided", "signal_after"]

_NEGATIVE = "negative_"


class Guided(nn.Module):
    """A guided model, as the functions of this module make it: ``model(x, t, **conditions)``.

    A module, whose submodules are the models that are modules and the modules that the others hold or name: ``to``,
    ``parameters`` and :func:`~ddimkit.speed.acceleration.accelerate` work on it.
    """

    model: Model

    def __init__(self, scale: float, **models: object) -> None:
        super().__init__()
        self.scale = number(scale, "scale")
        if not math.isfinite(self.scale):
            raise ValueError(f"scale must be finite, got {self.scale}")
        for name, model in models.items():
            if model is not None and not callable(model):
                raise TypeError(f"{name} must be callable as {name}(x, t), got {type(model).__name__}")
            setattr(self, name, model)
            if model is not None and not isinstance(model, nn.Module):
                for place, inner in enumerate(modules_of(model)):
                    self.add_module(f"{name}_{place}", inner)
        given = [model for model in models.values() if model is not None]
        self.has_functions = any(module_of(model) is None for model in given)
        """Whether one of the models neither is nor holds a module, and so has no weights that can be told."""
        self.precisions = [model.choices.precision for model in given if isinstance(model, Accelerated)]
        """What the accelerated ones of the models compute in."""
        # Its own mode, which nothing reads, must not make it look left in train mode.
        self.training = any(child.training for child in self.children())
        self._placed: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    @property
    def settings(self) -> str:
        """What changes the images beside the weights, as JSON."""
        return json.dumps({"guidance": type(self).__name__, "scale": self.scale})

    def _on(self, name: str, value: Tensor | FloatArray, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A value where ``like`` is, brought there once: a graph cannot copy from the host."""
        place = name, like.device, dtype
        if place in self._placed:
            return self._placed[place]
        with torch.inference_mode(False):
            made = torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
            placed = made.to(dtype).to(like.device)
        if not torch.compiler.is_compiling():
            self._placed[place] = placed
        return placed


class PairGuided(Guided):
    """Two outputs, a better and a worse one, and what lies beyond the better."""

    weak: Model | None

    def __init__(
        self,
        model: Model,
        weak: Model | None,
        scale: float,
        unconditional: Mapping[str, Any] | None,
        *,
        interval: tuple[int, int] | None = None,
        rescale: float = 0.0,
        ratios: FloatArray | None = None,
        stacked: bool,
    ) -> None:
        super().__init__(scale, model=model, weak=weak)
        if unconditional is not None and not isinstance(unconditional, Mapping):
            raise TypeError(f"unconditional must map conditions to values, as in {{'labels': 10}}, got {unconditional!r:.80}")
        self.unconditional, self.ratios, self.stacked = dict(unconditional or {}), ratios, stacked
        self.interval, self.rescale = _checked_interval(interval), number(rescale, "rescale")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale must lie in [0, 1], got {self.rescale}")

    @property
    def settings(self) -> str:
        """What changes the images beside the weights, as JSON."""
        plain = {name: value.tolist() if isinstance(value, Tensor) else repr(value) for name, value in self.unconditional.items()}
        ratios = None if self.ratios is None else self.ratios.tolist()
        weak = self.weak is not None
        return json.dumps([super().settings, weak, plain, self.interval, self.rescale, ratios])

    def check_rows_of_run(self, coefficients: Coefficients) -> None:
        """Raise a ValueError for rows that are not those of the scales s′/b₀."""
        if self.ratios is None:
            return
        plan, known = coefficients.plan, len(self.ratios)
        after = signal_after(plan, coefficients.schedule)
        wanted = np.array([self.ratios[t] if t < known else np.nan for t in plan.t]) * plan.b[:, 0]
        if coefficients.needs or coefficients.clip is not None or not np.allclose(wanted, after, rtol=1e-9, atol=0):
            raise ValueError(
                "CFG++ scales the rows of the sampler that cfg_plus_plus was given, and these are others, of another sampler, "
                "another eta or an inversion: give cfg_plus_plus the sampler that runs, and invert with classifier_free"
            )

    def forward(self, x: Tensor, t: Tensor, guidance_scale: float | Tensor | None = None, **given: Any) -> Tensor:
        r"""X (B, \*), t int64 (B,), scales (B,) or one, and the conditions."""
        if self.rescale and x.ndim < 2:
            raise ValueError(f"rescale needs samples of several numbers, got x of shape {tuple(x.shape)}: give rescale=0")
        better, worse = self._conditions(given, len(x))
        inside = None if self.interval is None else (t >= self.interval[0]) & (t <= self.interval[1])
        scale = self.scale if guidance_scale is None else _checked_scale(guidance_scale, len(x))
        as_it_is = not isinstance(scale, Tensor) and scale == 1 and self.ratios is None
        if as_it_is or (inside is not None and _nowhere(inside)):
            return _output(ask(self.model, x, t, **better), x)
        ahead, behind = self._both(x, t, better, worse)
        ahead, behind, rest = _predictions(ahead, behind, x)
        guided = _beyond(behind, ahead, self._scale(scale, x, t))
        if self.rescale:
            guided = _rescaled(guided, ahead, self.rescale)
        if inside is not None:
            guided = torch.where(_column(inside, x), guided, ahead)
        return guided if rest is None else torch.cat((guided, rest), dim=1)

    def _scale(self, scale: float | Tensor, x: Tensor, t: Tensor) -> float | Tensor:
        """The scale of each sample at its t."""
        work = work_dtype(x)
        if isinstance(scale, Tensor):
            scale = scale.to(work)
        if self.ratios is not None:
            scale = self._on("ratios", self.ratios, x, work).index_select(0, t) * scale
        return _column(scale, x) if isinstance(scale, Tensor) and scale.ndim else scale

    def _conditions(self, given: Mapping[str, Any], batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The better and the worse half's conditions of a call."""
        better = {name: value for name, value in given.items() if not name.startswith(_NEGATIVE)}
        if self.weak is not None:
            return dict(given), dict(given)
        negative = {name.removeprefix(_NEGATIVE): value for name, value in given.items() if name.startswith(_NEGATIVE)}
        others = {**self.unconditional, **negative}
        missing = [name for name in others if name not in better]
        if missing or not others:
            wanted = f"the call brings no {', '.join(missing)}" if missing else "nothing says what the worse half is given"
            raise ValueError(
                f"{wanted}: guidance needs the conditions in model_kwargs, as in {{'labels': labels}}, and in unconditional, as in "
                "{'labels': 10}"
            )
        return better, {**better, **{name: self._other(name, value, better[name], batch) for name, value in others.items()}}

    def _other(self, name: str, value: Any, like: Any, batch: int) -> Any:
        """A condition of the worse half, for a batch."""
        if not isinstance(like, Tensor) or value is None:
            return value
        _check_kind(name, value, like)
        if not isinstance(value, Tensor):
            return torch.full_like(like, value)
        bound = self.unconditional.get(name)
        if isinstance(bound, Tensor) and value is bound:
            value = self._on(f"unconditional {name}", bound, like, like.dtype)
        if value.ndim == like.ndim - 1:
            value = value[None]
        if value.ndim != like.ndim or len(value) not in (1, batch):
            raise ValueError(
                f"unconditional {name} must be one sample's entry, (1, ...) or ({batch}, ...) like the condition's "
                f"{tuple(like.shape)}, got {tuple(value.shape)}"
            )
        return value.expand(batch, *value.shape[1:])

    def _both(self, x: Tensor, t: Tensor, better: dict[str, Any], worse: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if not self.stacked:
            weak = self.model if self.weak is None else self.weak
            return _output(ask(self.model, x, t, **better), x), _output(ask(weak, x, t, **worse), x)
        keywords = {name: _stacked(name, value, worse[name], len(x)) for name, value in better.items()}
        twice = torch.cat((x, x))
        output = _output(ask(self.model, twice, torch.cat((t, t)), **keywords), twice)
        ahead, behind = output[: len(x)], output[len(x) :]
        return ahead, behind


class ClassifierGuided(Guided):
    """A model plus the gradient of a classifier."""

    log_probability: Callable[..., Tensor]

    def __init__(
        self,
        model: Model,
        log_probability: Callable[..., Tensor],
        schedule: NoiseSchedule,
        scale: float,
        prediction: Prediction,
        classifier_only: Sequence[str],
    ) -> None:
        super().__init__(scale, model=model, log_probability=log_probability)
        if not isinstance(schedule, NoiseSchedule):
            raise TypeError(f"schedule must be a NoiseSchedule, got {type(schedule).__name__}")
        check_prediction(prediction, schedule, ())
        if isinstance(classifier_only, str) or not all(isinstance(name, str) for name in classifier_only):
            raise TypeError(f"classifier_only must hold names of conditions, as in ('labels',), got {classifier_only!r}")
        s, n = schedule.signal, schedule.noise
        if not s.all():
            raise ValueError("classifier guidance needs signal at every t: the gradient's factor n²/s is infinite where s = 0")
        self.prediction, self.classifier_only = prediction, tuple(classifier_only)
        self.factors: FloatArray = n * n / s / x0_coefficients(prediction, s, n)[1]

    @property
    def settings(self) -> str:
        """What changes the images beside the weights, as JSON."""
        return json.dumps([super().settings, self.prediction, self.classifier_only])

    def forward(self, x: Tensor, t: Tensor, **given: Any) -> Tensor:
        r"""X (B, \*), t int64 (B,) and the conditions."""
        output = _output(ask(self.model, x, t, **{name: v for name, v in given.items() if name not in self.classifier_only}), x)
        factor = self._on("factors", self.factors, x, work_dtype(x)).index_select(0, t)
        added = _column(factor, x) * self._gradient(x, t, given)
        if output.shape != x.shape:
            output, rest = output.chunk(2, dim=1)
            return torch.cat((torch.add(output, added, alpha=self.scale), rest), dim=1)
        return torch.add(output, added, alpha=self.scale)

    def _gradient(self, x: Tensor, t: Tensor, given: Mapping[str, Any]) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            place = x.detach().clone().requires_grad_()
            found = self.log_probability(place, t.clone(), **_outside_of_inference(given))
            if not isinstance(found, Tensor) or found.shape != x.shape[:1] or not found.requires_grad:
                said = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"log_probability must give ({len(x)},), differentiable by torch in x, got {said}")
            gradients: Any = torch.autograd.grad(found.sum(), place, allow_unused=True)  # torch's types know no None
            if gradients[0] is None:
                raise ValueError(
                    f"log_probability must give ({len(x)},), differentiable by torch in x, got a value that does not depend on x"
                )
        gradient: Tensor = gradients[0].to(work_dtype(x))
        return gradient


def signal_after(plan: Plan, schedule: NoiseSchedule) -> FloatArray:
    """(S,) the signal where each row of a plan lands."""
    return np.array([1.0 if t is None else schedule.signal[t] for t in plan.t_next])


def _outside_of_inference(value: Any) -> Any:
    """What autograd can save: tensors made in inference mode are copied, in containers too."""
    if isinstance(value, Mapping):
        return {name: _outside_of_inference(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_outside_of_inference(part) for part in value)
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _checked_interval(interval: object) -> tuple[int, int] | None:
    if interval is None:
        return None
    if not isinstance(interval, tuple | list) or len(interval) != 2:
        raise TypeError(f"interval must be a pair (t_low, t_high) of timesteps, got {interval!r}")
    low, high = (integer(t, "a bound of interval") for t in interval)
    if not 0 <= low <= high:
        raise ValueError(f"interval must be (t_low, t_high) with 0 <= t_low <= t_high, got {interval!r}")
    return low, high


def _kind(value: object) -> str:
    """What a tensor, or a number, holds."""
    if isinstance(value, Tensor):
        whole = "bool" if value.dtype == torch.bool else "integer"
        return "complex" if value.is_complex() else "floating point" if value.is_floating_point() else whole
    return "bool" if isinstance(value, bool) else "integer" if isinstance(value, Integral) else "floating point"


def _check_kind(name: str, value: object, like: Tensor) -> None:
    """Raise for a value that the condition's type would change, as 0.5 among labels."""
    wanted, found = _kind(like), _kind(value)
    number_for_any = found == "integer" and not isinstance(value, Tensor) and wanted in ("floating point", "complex")
    if wanted != found and not number_for_any:
        article = "an" if wanted == "integer" else "a"
        raise ValueError(f"unconditional {name} must be of {article} {wanted} type like the condition's, got {found}")


def _checked_scale(scale: object, batch: int) -> float | Tensor:
    """A number, or a tensor of one number or of one a sample."""
    if not isinstance(scale, Tensor):
        return number(scale, "guidance_scale")
    if not scale.is_floating_point() or tuple(scale.shape) not in ((), (batch,)):
        raise ValueError(f"guidance_scale must be floating point, () or ({batch},), got {scale.dtype} {tuple(scale.shape)}")
    return scale


def _nowhere(inside: Tensor) -> bool:
    """Whether no sample is to be guided, as far as that can be told without waiting for a device."""
    return inside.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(inside.any())


def _output(output: object, x: Tensor) -> Tensor:
    """The model's output in the working dtype; of a learned range with its second half of channels."""
    doubled = x.ndim > 1 and isinstance(output, Tensor) and output.shape == (len(x), 2 * x.shape[1], *x.shape[2:])
    return check_output(output, x, doubled)


def _predictions(ahead: Tensor, behind: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both predictions, and the better one's second half of channels where there is a learned range, which is not guided."""
    if ahead.shape == x.shape:
        return ahead, behind, None
    (ahead, rest), (behind, _) = ahead.chunk(2, dim=1), behind.chunk(2, dim=1)
    return ahead, behind, rest


def _beyond(behind: Tensor, ahead: Tensor, scale: float | Tensor) -> Tensor:
    """``behind + scale·(ahead − behind)``."""
    apart = ahead - behind
    return torch.addcmul(behind, apart, scale) if isinstance(scale, Tensor) else torch.add(behind, apart, alpha=scale)


def _rescaled(guided: Tensor, ahead: Tensor, share: float) -> Tensor:
    """Lin et al.'s equations 14 to 16."""
    wanted, found = (_column(v.flatten(1).std(dim=1, correction=0), v) for v in (ahead, guided))
    return torch.lerp(guided, guided * (wanted / found.clamp_min(torch.finfo(found.dtype).tiny)), share)


def _stacked(name: str, better: Any, worse: Any, batch: int) -> Any:
    """A condition of both halves in one.

    What both halves share is no tensor: its length may be the batch's, or that of a part of it, by chance.
    """
    if better is worse:
        if _holds_tensor(better):
            raise ValueError(
                f"both halves get {name}, of which one call cannot tell whether it has one entry a sample: bind it to the model if "
                "all samples share it, name it in unconditional, or give stacked=False"
            )
        return better
    if isinstance(better, Tensor) and better.ndim and len(better) == batch:
        if not isinstance(worse, Tensor) or worse.shape != better.shape:
            said = tuple(worse.shape) if isinstance(worse, Tensor) else repr(worse)
            raise ValueError(f"{name} of both halves cannot be one batch, {tuple(better.shape)} and {said}: give stacked=False")
        return torch.cat((better, worse))
    raise ValueError(f"{name} is no tensor of one entry a sample, so both halves cannot be one batch: give stacked=False")


def _holds_tensor(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_tensor(part) for part in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_tensor(part) for part in value)
    return isinstance(value, Tensor) and value.ndim > 0


def _column(values: Tensor, x: Tensor) -> Tensor:
    """(B,) values as what broadcasts with x."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))
