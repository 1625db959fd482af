r"""Models of other conventions as ``model(x, t)``: functions from a model to a model.

Here x is :math:`s\,x_0 + n\,\varepsilon`, mostly with :math:`s^2 + n^2 = 1`. t counts the entries of the schedule, and the output
is a tensor.

============================== =====================================================================================
function                       takes a model that
============================== =====================================================================================
:func:`from_sigma_model`       is given :math:`x_0 + \sigma\varepsilon` and σ: denoisers of EDM and k-diffusion
:func:`precondition`           is EDM's raw network, and makes such a denoiser of it
:func:`from_time_model`        is given another time, such as one in [0, 1], or x on another scale
:func:`from_velocity_model`    has its time run from noise, 0, to data, 1, and gives the velocity along it
:func:`from_score_model`       gives the score, the gradient of the log density of x
:func:`unwrapped`              returns a tuple, a dictionary or an object that holds the tensor
:func:`one_hot_labels`         is given its class labels as rows of zeros and a one
============================== =====================================================================================
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ddimkit._modes import module_of
from ddimkit._numbers import check_count, check_every, frozen_array, integer, number
from ddimkit.loop import Model
from ddimkit.schedule import FloatArray, NoiseSchedule
from ddimkit.step import work_dtype

__all__ = [
    "Denoiser",
    "from_score_model",
    "from_sigma_model",
    "from_time_model",
    "from_velocity_model",
    "one_hot_labels",
    "precondition",
    "sigma_schedule",
    "unwrapped",
]

Denoiser = Callable[..., Any]
r"""``denoiser(x, sigma, **model_kwargs)``: x (B, \*) at :math:`x_0 + \sigma\varepsilon`, sigma floating point (B,)."""


def sigma_schedule(
    sigma_min: float = 0.002, sigma_max: float = 80.0, *, rho: float = 7.0, num_timesteps: int = 1000
) -> NoiseSchedule:
    r"""The schedule of a range of σ, rescaled to :math:`s = 1/\sqrt{1+\sigma^2}`, :math:`n = \sigma/\sqrt{1+\sigma^2}`.

    .. math:: \sigma_t = \left(\sigma_{min}^{1/\rho} + \tfrac{t}{T-1}(\sigma_{max}^{1/\rho} - \sigma_{min}^{1/\rho})\right)^\rho

    (Karras et al. 2022, eq. 5). With T = S and ``steps=S`` a sampler visits EDM's own S noise levels.

    Args:
        sigma_min: σ at t = 0, above 0.
        sigma_max: σ at t = T−1, above ``sigma_min``.
        rho: how close the levels lie near ``sigma_min``, above 0; 7 is EDM's.
        num_timesteps: T, at least 1; one timestep is at ``sigma_max``.

    Raises:
        TypeError: an argument is no number, or T no int.
        ValueError: an argument out of range.

    >>> from ddimkit.interop import sigma_schedule
    >>> schedule = sigma_schedule(num_timesteps=18)
    >>> (schedule.noise / schedule.signal).round(3)[[0, -2, -1]].tolist()
    [0.002, 57.586, 80.0]
    """
    total = check_count(num_timesteps)
    low, high, rho = number(sigma_min, "sigma_min"), number(sigma_max, "sigma_max"), number(rho, "rho")
    if not (0 < low < high < math.inf and 0 < rho < math.inf):
        raise ValueError(f"sigma_schedule needs 0 < sigma_min < sigma_max and rho > 0, all finite, got {low}, {high} and {rho}")
    share = np.arange(total) / (total - 1) if total > 1 else np.ones(1)
    sigma = (low ** (1 / rho) + share * (high ** (1 / rho) - low ** (1 / rho))) ** rho
    root = np.hypot(1.0, sigma)
    return NoiseSchedule(1 / root, sigma / root)


def from_sigma_model(denoiser: Denoiser, schedule: NoiseSchedule, *, broadcast: bool = False) -> Model:
    r"""A model of :math:`x_0 + \sigma\varepsilon` and σ, as EDM's and k-diffusion's denoisers are.

    The denoiser is called at x/s and :math:`\sigma = n/s`. What it returns is not changed: a denoiser's image goes with
    ``prediction="x0"``, an estimate of the noise with ``"epsilon"``.

    Args:
        denoiser: ``denoiser(x, sigma)``; further arguments go through.
        schedule: the schedule that samplers of it get, as :func:`sigma_schedule` makes it.
        broadcast: whether it is given σ as (B, 1, …, 1), which broadcasts with x, instead of (B,).

    Raises:
        ValueError: a schedule that ends without signal, where σ is infinite.
    """
    if schedule.signal[-1] == 0:
        raise ValueError(
            "the schedule ends at zero signal, where sigma is infinite: use sigma_schedule, or another one with signal"
        )
    return _Tabled(denoiser, schedule.noise / schedule.signal, 1 / schedule.signal, None, broadcast)


def precondition(network: Callable[..., Tensor], *, sigma_data: float = 0.5) -> Denoiser:
    r"""The denoiser of EDM's raw network F (Karras et al. 2022, eq. 7, and table 1).

    .. math:: D(x, \sigma) = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}\, x + \frac{\sigma \sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}\,
              F\!\left(\frac{x}{\sqrt{\sigma^2 + \sigma_d^2}},\ \tfrac14 \ln \sigma\right)

    Args:
        network: F, given x (B, \*) and :math:`\ln(\sigma)/4` (B,); further arguments go through.
        sigma_data: :math:`\sigma_d`, above 0.

    Raises:
        TypeError: ``sigma_data`` is no number.
        ValueError: ``sigma_data`` is not finite and above 0.
    """
    scale = number(sigma_data, "sigma_data")
    if not 0 < scale < math.inf:
        raise ValueError(f"sigma_data must be finite and above 0, got {scale}")
    return _Preconditioned(network, scale)


def from_time_model(
    model: Callable[..., Any], times: ArrayLike, *, x_scale: ArrayLike | None = None, broadcast: bool = False
) -> Model:
    r"""A model that is given another time than t, and x on another scale where it has one.

    ``(np.arange(T) + 1) / T`` are times in [0, 1] whose last is 1. Of a model whose x is :math:`\alpha x_0 + \sigma\varepsilon` of
    any α and σ, the schedule is ``NoiseSchedule(alpha / r, sigma / r)`` with :math:`r = \sqrt{\alpha^2 + \sigma^2}`, and
    ``x_scale`` is r.

    Args:
        model: ``model(x, time)``, time floating point (B,); further arguments go through.
        times: (T,) what it is given at each t.
        x_scale: (T,) what x is multiplied by at each t.
        broadcast: whether it is given its time as (B, 1, …, 1), which broadcasts with x.

    Raises:
        ValueError: ``times`` or ``x_scale`` is not one-dimensional, of one length, and finite.
    """
    table = _row_of(times, "times")
    scale = None if x_scale is None else _row_of(x_scale, "x_scale")
    if scale is not None and scale.shape != table.shape:
        raise ValueError(f"times and x_scale must have one length, got {table.size} and {scale.size}")
    return _Tabled(model, table, scale, None, broadcast)


def from_velocity_model(model: Callable[..., Any], schedule: NoiseSchedule) -> Model:
    r"""A flow model whose time runs from noise, 0, to data, 1, and that gives :math:`x_0 - \varepsilon`; for ``prediction="flow"``.

    Args:
        model: ``model(x, time)``, time = s in [0, 1] of shape (B,); further arguments go through.
        schedule: on the straight path, s + n = 1, as :meth:`NoiseSchedule.rectified_flow
            <ddimkit.schedule.NoiseSchedule.rectified_flow>` is.

    Raises:
        ValueError: a schedule on another path.
    """
    check_every(np.abs(schedule.signal + schedule.noise - 1) <= 1e-9, schedule.signal, "a velocity model needs signal + noise = 1")
    return _Tabled(model, schedule.signal, None, np.full(schedule.num_timesteps, -1.0), False)


def from_score_model(model: Callable[..., Any], schedule: NoiseSchedule) -> Model:
    r"""A model of the score, :math:`\nabla \log p_t(x) = -\varepsilon/n`; for ``prediction="epsilon"``.

    Args:
        model: ``model(x, t)``; further arguments go through.
        schedule: gives n.
    """
    return _Tabled(model, None, None, -schedule.noise, False)


def unwrapped(model: Callable[..., Any], part: int | str = 0) -> Model:
    """A model that returns a tuple, a dictionary or an object, with the tensor taken out.

    Args:
        model: ``model(x, t)``; further arguments go through.
        part: which entry of a tuple, key of a dictionary or attribute of an object.

    Raises:
        TypeError: ``part`` is neither an int nor a str; when called, an output that has no such part.
    """
    return _Unwrapped(model, part if isinstance(part, str) else integer(part, "part"))


def one_hot_labels(model: Callable[..., Any], num_classes: int, *, name: str = "class_labels") -> Model:
    """A model whose classes are given as rows of zeros and a one, as int64 labels: ``model(x, t, labels=labels)``.

    Args:
        model: ``model(x, t, class_labels=...)``, (B, num_classes) of x's dtype; further arguments go through.
        num_classes: how many classes, at least 1. Without labels all entries are 0, which EDM takes for no class.
        name: the model's argument.

    Raises:
        TypeError: ``num_classes`` is no int; when called, labels that are no int64 tensor.
        ValueError: ``num_classes < 1``; when called, labels that are not (B,), or on the CPU one outside [0, num_classes).
    """
    count = integer(num_classes, "num_classes")
    if count < 1:
        raise ValueError(f"num_classes must be at least 1, got {count}")
    return _Labelled(model, count, name)


def _row_of(values: ArrayLike, name: str) -> FloatArray:
    found: FloatArray = frozen_array(values, name)
    if found.ndim != 1 or not found.size:
        raise ValueError(f"{name} must be (T,) with T >= 1, got shape {found.shape}")
    return found


@dataclass(frozen=True, eq=False)
class _Wrapped:
    """A model around another one, whose module it shows."""

    model: Callable[..., Any]

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise TypeError(f"model must be callable, got {type(self.model).__name__}")

    @property
    def module(self) -> nn.Module | None:
        """The module inside, whose device and mode count."""
        return module_of(self.model)


@dataclass(frozen=True, eq=False)
class _Tabled(_Wrapped):
    """A model with tables over t: of its time, of the scale of x, and of the scale of its output."""

    times: FloatArray | None
    x_scale: FloatArray | None
    out_scale: FloatArray | None
    broadcast: bool
    _kept: dict[tuple[str, torch.device, torch.dtype], Tensor] = field(
        default_factory=dict[tuple[str, torch.device, torch.dtype], Tensor], init=False, repr=False
    )

    def __call__(self, x: Tensor, t: Tensor, **model_kwargs: Any) -> Any:
        time = t if self.times is None else self._at("times", t, x)
        if self.broadcast:
            time = _spread(time, x)
        scaled = x if self.x_scale is None else (x.to(work_dtype(x)) * _spread(self._at("x_scale", t, x), x)).to(x.dtype)
        output = self.model(scaled, time, **model_kwargs)
        if self.out_scale is None:
            return output
        if not isinstance(output, Tensor):
            raise TypeError(f"the model must return a tensor, got {type(output).__name__}: wrap it with unwrapped first")
        return output * _spread(self._at("out_scale", t, x), x).to(output.dtype)

    def _at(self, name: str, t: Tensor, x: Tensor) -> Tensor:
        """(B,) entries of a table, in x's working dtype; each table is brought to a device once."""
        place = name, x.device, work_dtype(x)
        if place not in self._kept:
            table: NDArray[np.float64] = getattr(self, name)
            self._kept[place] = torch.from_numpy(table.copy()).to(place[2]).to(x.device)
        return self._kept[place][t.to(x.device)]

    def __getstate__(self) -> dict[str, Any]:
        """The fields, without what is kept on devices."""
        return {**self.__dict__, "_kept": {}}


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """(B,) as (B, 1, …, 1), which broadcasts with x."""
    return values.reshape(-1, *(1,) * (x.ndim - 1))


@dataclass(frozen=True, eq=False)
class _Preconditioned(_Wrapped):
    """EDM's denoiser of a raw network."""

    sigma_data: float

    def __call__(self, x: Tensor, sigma: Tensor, **model_kwargs: Any) -> Tensor:
        wide, data = _spread(sigma, x), self.sigma_data
        root = (wide * wide + data * data).sqrt()
        raw: Tensor = self.model((x / root).to(x.dtype), sigma.log() / 4, **model_kwargs)
        return (data / root) ** 2 * x + wide * data / root * raw


@dataclass(frozen=True, eq=False)
class _Unwrapped(_Wrapped):
    """A model whose output's part is returned."""

    part: int | str

    def __call__(self, x: Tensor, t: Tensor, **model_kwargs: Any) -> Any:
        output = self.model(x, t, **model_kwargs)
        try:
            if isinstance(self.part, str) and not isinstance(output, dict):
                return getattr(output, self.part)
            return output[self.part]
        except (AttributeError, IndexError, KeyError, TypeError):
            raise TypeError(f"the model's output, of type {type(output).__name__}, has no part {self.part!r}") from None


@dataclass(frozen=True, eq=False)
class _Labelled(_Wrapped):
    """A model whose labels become rows of zeros and a one."""

    num_classes: int
    name: str

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None, **model_kwargs: Any) -> Any:
        return self.model(x, t, **{self.name: self._rows(x, labels)}, **model_kwargs)

    def _rows(self, x: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            return x.new_zeros((len(x), self.num_classes))
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
            raise TypeError(f"labels must be an int64 tensor, got {labels.dtype if isinstance(labels, Tensor) else labels!r}")
        if labels.shape != x.shape[:1]:
            raise ValueError(f"labels must be ({len(x)},), one a sample, got {tuple(labels.shape)}")
        if labels.device.type == "cpu" and labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(f"labels must lie in 0..{self.num_classes - 1}, got {int(labels.min())} to {int(labels.max())}")
        return (labels.to(x.device)[:, None] == torch.arange(self.num_classes, device=x.device)).to(x.dtype)
