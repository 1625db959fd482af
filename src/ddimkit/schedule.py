r"""Noise schedules: how much signal and how much noise an image holds at each timestep.

A schedule is two float64 arrays over t = 0 … T−1, the signal s and the noise n, with

.. math:: x_t = s_t x_0 + n_t \varepsilon, \qquad \lambda_t = \log(s_t / n_t), \qquad
          \bar\alpha_t = s_t^2 / (s_t^2 + n_t^2).

Samplers read s, n and λ only.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddimkit._betas import (
    betas_of_levels,
    cosine_betas,
    levels_of_alpha_bars,
    levels_of_betas,
    scaled_linear_betas,
    sigmoid_betas,
    without_last_signal,
)
from ddimkit._numbers import check_count, check_every, frozen_array, integer, number, read_only, unlike

__all__ = ["FloatArray", "NoiseSchedule", "ScheduleSpec"]

_LEAST_SIGNAL = 1e-35

FloatArray = NDArray[np.float64]
"""A numpy array of float64."""

ScheduleSpec = Mapping[str, str | int | float]
"""Name and arguments of a schedule's constructor, as plain JSON values; see :meth:`NoiseSchedule.from_spec`."""


@dataclass(frozen=True, eq=False, repr=False)
class NoiseSchedule:
    r"""Signal and noise at each timestep, float64 and read-only; equality and hash go by their bytes.

    The last bit of a computed schedule depends on the processor. :meth:`is_same` compares schedules across processors and files.

    Build one with :meth:`linear`, :meth:`scaled_linear`, :meth:`cosine`, :meth:`sigmoid`, :meth:`rectified_flow`,
    :meth:`from_betas` or :meth:`from_alpha_bars`; the bare constructor takes the two arrays themselves.

    Args:
        signal: (T,) s, in [0, 1]; only the last entry may be 0.
        noise: (T,) n, in (0, 1], such that s/n falls strictly.
        spec: name and arguments of the constructor that made it, None for arrays of the user's own. Not compared.

    Raises:
        ValueError: the arrays differ in shape, are empty, leave their ranges, or s/n does not fall strictly.

    >>> schedule = NoiseSchedule.linear(num_timesteps=1000)
    >>> schedule
    NoiseSchedule.linear(num_timesteps=1000, beta_start=0.0001, beta_end=0.02)
    >>> round(float(schedule.alpha_bars[999]), 8)
    4.036e-05
    """

    signal: FloatArray
    noise: FloatArray
    spec: ScheduleSpec | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        signal, noise = frozen_array(self.signal, "signal"), frozen_array(self.noise, "noise")
        if signal.ndim != 1 or signal.shape != noise.shape or not signal.size:
            raise ValueError(f"signal and noise must be (T,) with T >= 1, got shapes {signal.shape} and {noise.shape}")
        check_every(signal[:-1] > 0, signal, "signal must be above 0 before the last timestep")
        check_every((signal >= 0) & (signal <= 1), signal, "signal must lie in [0, 1]")
        check_every(noise <= 1, noise, "noise must lie in (0, 1] (a sigma of x0 + sigma·eps is the noise sigma/√(1 + sigma²))")
        check_every(noise > 0, noise, "noise must lie in (0, 1]: is alpha_bar exactly 1 somewhere?")
        ratio = signal / noise
        check_every(np.append(True, ratio[1:] < ratio[:-1]), ratio, "signal/noise must fall strictly with t")
        object.__setattr__(self, "signal", signal)
        object.__setattr__(self, "noise", noise)

    @classmethod
    def linear(cls, num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Self:
        r"""Betas equally spaced from ``beta_start`` to ``beta_end`` (Ho et al. 2020, section 4).

        Args:
            num_timesteps: T, at least 1.
            beta_start: beta at t = 0, in (0, 1).
            beta_end: beta at t = T−1, in (0, 1).

        Raises:
            TypeError: an argument is no number, or T no int.
            ValueError: T < 1, or a beta outside (0, 1).
        """
        num_timesteps = check_count(num_timesteps)
        beta_start, beta_end = _check_betas(beta_start, beta_end)
        spec: ScheduleSpec = {"name": "linear", "num_timesteps": num_timesteps, "beta_start": beta_start, "beta_end": beta_end}
        return cls._from_betas(np.linspace(beta_start, beta_end, num_timesteps), spec)

    @classmethod
    def scaled_linear(cls, num_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Self:
        r"""The square roots of the betas equally spaced (Rombach et al. 2022).

        Args:
            num_timesteps: T, at least 1.
            beta_start: beta at t = 0, in (0, 1).
            beta_end: beta at t = T−1, in (0, 1).

        Raises:
            TypeError: an argument is no number, or T no int.
            ValueError: T < 1, or a beta outside (0, 1).
        """
        num_timesteps = check_count(num_timesteps)
        beta_start, beta_end = _check_betas(beta_start, beta_end)
        name = "scaled_linear"
        spec: ScheduleSpec = {"name": name, "num_timesteps": num_timesteps, "beta_start": beta_start, "beta_end": beta_end}
        return cls._from_betas(scaled_linear_betas(num_timesteps, beta_start, beta_end), spec)

    @classmethod
    def cosine(cls, num_timesteps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Self:
        r""":math:`\bar\alpha_t = f(t{+}1)/f(0)`, :math:`f(t) = \cos^2\left(\frac{t/T + s}{1 + s}\frac\pi2\right)`, betas clipped.

        Nichol and Dhariwal 2021, eq. 17; computed so that no digit of a small beta is lost.

        Args:
            num_timesteps: T, at least 1.
            s: offset, at least 0.
            max_beta: largest beta, in (0, 1).

        Raises:
            TypeError: an argument is no number, or T no int.
            ValueError: T < 1, s < 0, or ``max_beta`` outside (0, 1).
        """
        num_timesteps = check_count(num_timesteps)
        s, max_beta = number(s, "s"), _check_max_beta(max_beta)
        if not 0 <= s < math.inf:
            raise ValueError(f"s must be finite and at least 0, got {s}")
        spec: ScheduleSpec = {"name": "cosine", "num_timesteps": num_timesteps, "s": s, "max_beta": max_beta}
        return cls._from_betas(cosine_betas(num_timesteps, s, max_beta), spec)

    @classmethod
    def sigmoid(
        cls, num_timesteps: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999
    ) -> Self:
        r""":math:`\bar\alpha_t = f(\frac{t+1}T)/f(0)`, f the rest of a sigmoid (Jabri, Fleet and Chen 2022).

        :math:`f(u) = \sigma(\frac{end}\tau) - \sigma(\frac{start + u(end-start)}\tau)`; betas clipped as in :meth:`cosine`.

        Args:
            num_timesteps: T, at least 1.
            start: argument of the sigmoid at u = 0, below ``end``.
            end: argument of the sigmoid at u = 1.
            tau: temperature, above 0.
            max_beta: largest beta, in (0, 1).

        Raises:
            TypeError: an argument is no number, or T no int.
            ValueError: T < 1, ``start >= end``, ``tau <= 0``, ``max_beta`` outside (0, 1), or a range of the sigmoid so wide that a
                beta is no longer a number above 0.
        """
        num_timesteps = check_count(num_timesteps)
        start, end, tau, max_beta = number(start, "start"), number(end, "end"), number(tau, "tau"), _check_max_beta(max_beta)
        if not (-math.inf < start < end < math.inf and 0 < tau < math.inf):
            raise ValueError(f"sigmoid needs start < end and tau > 0, all finite, got {start}, {end} and {tau}")
        if (end - start) / tau > 100 or max(abs(start), abs(end)) / tau > 100:
            raise ValueError(f"start/tau and end/tau must lie within 100 of 0 and each other, got {start / tau}, {end / tau}")
        spec: ScheduleSpec = {"name": "sigmoid", "num_timesteps": num_timesteps, "start": start, "end": end, "tau": tau}
        return cls._from_betas(sigmoid_betas(num_timesteps, start, end, tau, max_beta), {**spec, "max_beta": max_beta})

    @classmethod
    def rectified_flow(cls, num_timesteps: int = 1000) -> Self:
        r"""The straight path :math:`x = (1-\tau)x_0 + \tau\varepsilon` at :math:`\tau = (t+1)/T` (Liu et al. 2022); ends at s = 0.

        Args:
            num_timesteps: T, at least 1.

        Raises:
            TypeError: T is no int.
            ValueError: T < 1.
        """
        num_timesteps = check_count(num_timesteps)
        k = np.arange(1, num_timesteps + 1)
        spec: ScheduleSpec = {"name": "rectified_flow", "num_timesteps": num_timesteps}
        return cls((num_timesteps - k) / num_timesteps, k / num_timesteps, spec=spec)

    @classmethod
    def from_betas(cls, betas: ArrayLike) -> Self:
        r"""From :math:`\beta_t = 1 - \bar\alpha_t / \bar\alpha_{t-1}`.

        Args:
            betas: (T,) each in (0, 1); the last may be 1, for zero terminal SNR.

        Raises:
            ValueError: not one-dimensional, empty, or an entry outside (0, 1), naming it; so large that the signal is lost to
                float32.
        """
        return cls._from_betas(frozen_array(betas, "betas"), None)

    @classmethod
    def _from_betas(cls, betas: FloatArray, spec: ScheduleSpec | None) -> Self:
        if betas.ndim != 1 or not betas.size:
            raise ValueError(f"betas must be (T,) with T >= 1, got shape {betas.shape}")
        check_every(
            (betas > 0) & (betas < 1) | (np.arange(betas.size) == betas.size - 1) & (betas == 1), betas, "betas must lie in (0, 1)"
        )
        signal, noise = levels_of_betas(betas)
        lost = np.flatnonzero(signal[:-1] < _LEAST_SIGNAL)
        if lost.size:
            raise ValueError(
                f"betas are so large that the signal at t={lost[0]} is {signal[lost[0]]:.3g}, which float32 cannot divide by: "
                "were alpha_bars or alphas given for betas?"
            )
        return cls(signal, noise, spec=spec)

    @classmethod
    def from_alpha_bars(cls, alpha_bars: ArrayLike) -> Self:
        r"""From the cumulative products :math:`\bar\alpha_t = \prod_{i \le t}(1 - \beta_i)`.

        Args:
            alpha_bars: (T,) strictly falling in (0, 1); the last may be 0, for zero terminal SNR.

        Raises:
            ValueError: not one-dimensional, empty, an entry outside (0, 1), or not strictly falling.
        """
        values = frozen_array(alpha_bars, "alpha_bars")
        if values.ndim != 1 or not values.size:
            raise ValueError(f"alpha_bars must be (T,) with T >= 1, got shape {values.shape}")
        check_every((values >= 0) & (values < 1), values, "alpha_bars must lie in (0, 1), the last may be 0")
        check_every(np.append(True, np.diff(values) < 0), values, "alpha_bars must fall strictly with t")
        return cls(*levels_of_alpha_bars(values))

    def zero_terminal_snr(self) -> Self:
        r"""The same schedule with its s shifted and scaled so that the last is 0 and the first is kept.

        :math:`s' = (s - s_{T-1})\, s_0 / (s_0 - s_{T-1})` (Lin et al. 2024, algorithm 1), and :math:`s'^2 + n'^2 = 1`.

        Returns:
            a new schedule, or this one if it already ends at s = 0.

        Raises:
            ValueError: T = 1, or :math:`s^2 + n^2` is not 1.
        """
        s, n = self.signal, self.noise
        if s[-1] == 0:
            return self
        if s.size == 1:
            raise ValueError("zero terminal SNR needs num_timesteps >= 2, got 1")
        if not np.allclose(s * s + n * n, 1, rtol=0, atol=1e-12):
            raise ValueError("zero_terminal_snr is defined for schedules with signal^2 + noise^2 = 1")
        spec = None if self.spec is None else {**self.spec, "zero_terminal_snr": True}
        return type(self)(*without_last_signal(s, n), spec=spec)

    @classmethod
    def from_spec(cls, spec: ScheduleSpec) -> Self:
        """The schedule that a ``spec``, as saved in a record or beside weights, describes.

        Args:
            spec: ``{"name": "linear", "num_timesteps": 1000, …}``, with ``"zero_terminal_snr": True`` where it applies.

        Raises:
            ValueError: an unknown name or argument.
        """
        arguments = dict(spec)
        name, zero = arguments.pop("name", None), arguments.pop("zero_terminal_snr", False)
        makers: dict[object, Callable[..., Self]] = {
            "linear": cls.linear,
            "scaled_linear": cls.scaled_linear,
            "cosine": cls.cosine,
            "sigmoid": cls.sigmoid,
            "rectified_flow": cls.rectified_flow,
        }
        if name not in makers:
            raise ValueError(f"schedule name must be one of {', '.join(map(str, makers))}, got {name!r}")
        try:
            schedule = makers[name](**arguments)
        except TypeError as error:
            raise ValueError(f"schedule {name!r} does not take these arguments: {arguments} ({error})") from None
        return schedule.zero_terminal_snr() if zero else schedule

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps the model was trained with."""
        return self.signal.size

    @cached_property
    def log_snr(self) -> FloatArray:
        r"""(T,) :math:`2\lambda_t = \log(s_t^2 / n_t^2)`; minus infinity where s = 0."""
        with np.errstate(divide="ignore"):
            return read_only(2 * np.log(self.signal / self.noise))

    @cached_property
    def alpha_bars(self) -> FloatArray:
        r"""(T,) :math:`\bar\alpha_t = s_t^2/(s_t^2 + n_t^2)`."""
        return read_only(self.signal**2 / (self.signal**2 + self.noise**2))

    @cached_property
    def betas(self) -> FloatArray:
        r"""(T,) :math:`\beta_t = 1 - \bar\alpha_t / \bar\alpha_{t-1}`, with :math:`\bar\alpha_{-1} = 1`."""
        return read_only(betas_of_levels(self.signal, self.noise))

    @cached_property
    def sha256(self) -> str:
        """Hash of the little-endian bytes of signal and noise, as hexadecimal digits.

        The hash tells where numbers came from. It is no comparison: two processors give one schedule two hashes (:meth:`is_same`).
        """
        return hashlib.sha256(self.signal.astype("<f8").tobytes() + self.noise.astype("<f8").tobytes()).hexdigest()

    def is_same(self, other: "NoiseSchedule") -> bool:
        """Whether T is equal, and signal and noise agree to 1e-9, with zeros in the same places.

        This holds for one schedule computed on two processors, which ``==`` need not. It is not transitive, and so is not ``==``.

        Args:
            other: the schedule to compare with.

        >>> NoiseSchedule.linear(10).is_same(NoiseSchedule.from_betas(NoiseSchedule.linear(10).betas))
        True
        """
        if self.num_timesteps != other.num_timesteps:
            return False
        return not (unlike(self.signal, other.signal).any() or unlike(self.noise, other.noise).any())

    def add_noise(self, x0: Tensor, eps: Tensor, t: int | Tensor) -> Tensor:
        r"""Diffuse: :math:`x_t = s_t x_0 + n_t \varepsilon` (Ho et al. 2020, eq. 4).

        Args:
            x0: (B, \*) clean data, floating point.
            eps: (B, \*) standard normal noise.
            t: a timestep in [0, T−1], or an int64 tensor of shape () or (B,).

        Returns:
            (B, \*) of x0's dtype; half precision is computed in float32 and rounded once.

        Raises:
            ValueError: the shapes differ, or an int t (or one of a CPU tensor) is outside [0, T−1].
            TypeError: x0 is not floating point, or t is neither int nor int64 tensor.
        """
        if not isinstance(x0, Tensor) or not isinstance(eps, Tensor):
            raise TypeError(f"x0 and eps must be tensors of one shape, got {type(x0).__name__} and {type(eps).__name__}")
        if x0.shape != eps.shape:
            raise ValueError(f"x0 and eps must have one shape, got {tuple(x0.shape)} and {tuple(eps.shape)}")
        if not x0.is_floating_point():
            raise TypeError(f"x0 must be floating point, got {x0.dtype}: scale integer images to [-1, 1] first")
        work = torch.promote_types(x0.dtype, torch.float32)
        s, n = (_look_up(array, t, x0, work) for array in (self.signal, self.noise))
        return (x0.to(work) * s + eps.to(work) * n).to(x0.dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NoiseSchedule) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[object, ...]:
        # Through the constructor: a copied array would be writable, and the cached hash is another process's.
        return partial(type(self), spec=self.spec), (self.signal, self.noise)

    @property
    def _key(self) -> tuple[bytes, bytes]:
        return self.signal.tobytes(), self.noise.tobytes()

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        if self.spec is None:
            return f"NoiseSchedule(num_timesteps={self.num_timesteps}, sha256={self.sha256[:12]})"
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.spec.items() if k not in ("name", "zero_terminal_snr"))
        return f"NoiseSchedule.{self.spec['name']}({arguments}){'.zero_terminal_snr()' if 'zero_terminal_snr' in self.spec else ''}"


def _check_betas(beta_start: float, beta_end: float) -> tuple[float, float]:
    beta_start, beta_end = number(beta_start, "beta_start"), number(beta_end, "beta_end")
    if not (0 < beta_start < 1 and 0 < beta_end < 1):
        raise ValueError(f"betas must lie in (0, 1), got beta_start={beta_start} and beta_end={beta_end}")
    return beta_start, beta_end


def _check_max_beta(max_beta: float) -> float:
    max_beta = number(max_beta, "max_beta")
    if not 0 < max_beta < 1:
        raise ValueError(f"max_beta must lie in (0, 1), got {max_beta}")
    return max_beta


def _look_up(array: FloatArray, t: int | Tensor, x: Tensor, dtype: torch.dtype) -> float | Tensor:
    if isinstance(t, Tensor):
        if t.dtype != torch.int64 or t.ndim > 1 or (t.ndim == 1 and t.shape[0] != x.shape[0]):
            raise TypeError(f"t must be an int or an int64 tensor of shape () or ({x.shape[0]},), got {t.dtype} {tuple(t.shape)}")
        if t.device.type == "cpu" and t.numel() and not 0 <= int(t.min()) <= int(t.max()) < array.size:
            raise ValueError(f"t must lie in [0, {array.size - 1}], got {int(t.min())} to {int(t.max())}")
        picked = torch.from_numpy(array.astype(np.float64)).to(dtype).to(x.device)[t.to(x.device)]
        return picked.reshape(picked.shape + (1,) * (x.ndim - 1)) if t.ndim else picked
    t = integer(t, "t")
    if not 0 <= t < array.size:
        raise ValueError(f"t must lie in [0, {array.size - 1}], got {t}")
    return float(array[t])
