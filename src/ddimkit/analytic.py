r"""What samplers do to data whose exact denoiser is known: Gaussians, and mixtures of them.

Along an eigenvector of the data's covariance, with eigenvalue v and mean μ, the exact denoiser is linear,

.. math:: \hat x_0 = \mu + g\,(x - s\mu), \qquad g = \frac{s v}{s^2 v + n^2},

so x and the earlier predictions that a plan reads stay jointly Gaussian, and their mean and covariance follow from row to row by a
K × K matrix. :func:`gaussian_error` does so for a whole plan, without a network, a tensor or a random number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ddimkit._numbers import frozen_array
from ddimkit._repr import short_repr
from ddimkit.plan import Plan
from ddimkit.prediction import Prediction, check_prediction
from ddimkit.schedule import FloatArray, NoiseSchedule

__all__ = ["Gaussian", "GaussianDenoiser", "GaussianError", "MixtureDenoiser", "gaussian_error", "gaussian_moments"]


@dataclass(frozen=True, eq=False)
class Gaussian:
    r"""A normal distribution by its mean and covariance spectrum, in the covariance's eigenbasis.

    Args:
        mean: (D,), along the eigenvectors.
        spectrum: (D,) eigenvalues, at least 0.
        count: (D,) for how many directions each entry stands; 1 by default.

    Raises:
        ValueError: lengths that differ, a negative eigenvalue, or an entry that is not finite.
    """

    mean: FloatArray
    spectrum: FloatArray
    count: FloatArray | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        spectrum = frozen_array(self.spectrum, "spectrum")
        mean = frozen_array(np.broadcast_to(np.asarray(self.mean, dtype=np.float64), spectrum.shape), "mean")
        count = frozen_array(np.ones(spectrum.shape) if self.count is None else self.count, "count")
        if spectrum.ndim != 1 or not spectrum.size or count.shape != spectrum.shape or min(spectrum.min(), count.min()) < 0:
            raise ValueError(f"mean, spectrum and count must be (D,), the last two at least 0, got {spectrum} and {count}")
        for name, value in (("mean", mean), ("spectrum", spectrum), ("count", count)):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, samples: ArrayLike) -> "Gaussian":
        """Mean and covariance of samples (N, D), in the covariance's eigenbasis, the largest eigenvalue first."""
        x = np.asarray(samples, dtype=np.float64)
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"samples must be (N, D) with N at least 2, got shape {x.shape}")
        centre = x.mean(axis=0)
        values, vectors = np.linalg.eigh((x - centre).T @ (x - centre) / (len(x) - 1))
        return cls((centre @ vectors)[::-1], np.maximum(values[::-1], 0.0))

    def to_dict(self) -> dict[str, list[float]]:
        """Plain JSON values; ``Gaussian(**saved)`` reads them."""
        return {name: _numbers(getattr(self, name)).tolist() for name in ("mean", "spectrum", "count")}

    def binned(self, bins: int) -> "Gaussian":
        """Nearly the same in fewer entries: eigenvalues of like size are one, which stands for all of them.

        Both parts of a plan's error are kept but for the spread of the eigenvalues within a bin: it is proportional to the mean's
        square, and to the number of directions.
        """
        if bins < 1:
            raise ValueError(f"there must be at least 1 bin, got {bins}")
        scale = np.log(np.maximum(self.spectrum, 1e-12))
        edges = np.linspace(scale.min(), scale.max(), bins + 1)[1:-1]
        place = np.searchsorted(edges, scale)
        count = _numbers(np.bincount(place, _numbers(self.count), bins))
        kept = count > 0
        sums = (np.bincount(place, _numbers(self.count) * v, bins)[kept] for v in (self.spectrum, self.mean**2))
        spectrum, square = (total / count[kept] for total in sums)
        return Gaussian(np.sqrt(square), spectrum, count[kept])


@dataclass(frozen=True, eq=False)
class GaussianError:
    r"""What a plan makes of a normal distribution.

    Attributes:
        mean: (D,) of the result.
        variance: (D,) of the result.
        frechet: squared Wasserstein-2 and Fréchet distance from the data,
            :math:`\sum_d (m_d - \mu_d)^2 + (\sqrt{q_d} - \sqrt{v_d})^2`.
    """

    mean: FloatArray
    variance: FloatArray
    frechet: float

    __repr__ = short_repr

    @property
    def w2(self) -> float:
        """The Wasserstein-2 distance."""
        return float(np.sqrt(self.frechet))


def gaussian_error(plan: Plan, mean: ArrayLike, spectrum: ArrayLike, *, schedule: NoiseSchedule) -> GaussianError:
    """Mean, variance and error of what a plan draws with the exact denoiser of normal data, from x_T ~ N(0, I).

    Clipping is left out, since it is not linear.

    Args:
        plan: any table, of one-step or multistep, deterministic or stochastic samplers.
        mean: (D,) or (), of the data along the eigenvectors of its covariance.
        spectrum: (D,) eigenvalues of the data's covariance.
        schedule: the one the plan was made for.

    Raises:
        ValueError: a learned-range plan, whose noise the model decides; a timestep outside the schedule; or as for
            :class:`Gaussian`.

    >>> from ddimkit import DDIMSampler, NoiseSchedule
    >>> linear = NoiseSchedule.linear()
    >>> [round(gaussian_error(DDIMSampler(linear, S).plan(), 0.0, [0.25], schedule=linear).w2, 4) for S in (10, 20, 40)]
    [0.13, 0.0686, 0.0355]
    """
    return error_of(plan, Gaussian(_numbers(mean), _numbers(spectrum)), schedule)


def error_of(plan: Plan, data: Gaussian, schedule: NoiseSchedule) -> GaussianError:
    """:func:`gaussian_error` of data that may be binned."""
    means, variances = gaussian_moments(plan, data.mean, data.spectrum, schedule=schedule)
    m, q = means[-1], variances[-1]
    apart = (m - data.mean) ** 2 + (np.sqrt(q) - np.sqrt(data.spectrum)) ** 2
    return GaussianError(m, q, float(apart @ _numbers(data.count)))


def gaussian_moments(
    plan: Plan,
    mean: ArrayLike,
    spectrum: ArrayLike,
    *,
    schedule: NoiseSchedule,
    start: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
) -> tuple[FloatArray, FloatArray]:
    """Means and variances (S + 1, D) of x before the first row of a plan and after each.

    Args:
        plan: any table.
        mean: (D,) or (), of the data.
        spectrum: (D,) eigenvalues of the data's covariance.
        schedule: the one the plan was made for.
        start: mean and variance of x before the first row, (D,) or () each.

    Raises:
        ValueError: as for :func:`gaussian_error`.
    """
    plan = plan.with_levels(schedule)
    if plan.c_max is not None:
        raise ValueError("a learned_range plan has no moments of its own: its noise is decided by the model's output")
    data = Gaussian(_numbers(mean), _numbers(spectrum))
    size, depth = data.spectrum.size, plan.b.shape[1]
    m, q = np.zeros((size, depth)), np.zeros((size, depth, depth))
    m[:, 0], q[:, 0, 0] = start
    means, variances = [m[:, 0]], [q[:, 0, 0]]
    for k, t in enumerate(plan.t):
        s, n = schedule.signal[t], schedule.noise[t]
        g = s * data.spectrum / (s * s * data.spectrum + n * n)
        shift, turn = np.zeros((size, depth)), np.zeros((size, depth, depth))
        turn[:, 0, 0] = plan.a[k] + plan.b[k, 0] * g
        turn[:, 0, 1:] = plan.b[k, 1:]
        shift[:, 0] = plan.b[k, 0] * (1 - g * s) * data.mean
        if depth > 1:
            turn[:, 1, 0], shift[:, 1] = g, (1 - g * s) * data.mean
            turn[:, range(2, depth), range(1, depth - 1)] = 1.0
        m = np.einsum("dij,dj->di", turn, m) + shift
        q = turn @ q @ turn.transpose(0, 2, 1)
        q[:, 0, 0] += plan.c[k] ** 2
        means.append(m[:, 0])
        variances.append(q[:, 0, 0])
    return np.stack(means), np.maximum(np.stack(variances), 0.0)


@dataclass(frozen=True, eq=False)
class GaussianDenoiser:
    r"""The exact model ``model(x, t)`` of normal data.

    Args:
        schedule: whose timesteps t means.
        mean: (D,) of the data, along the eigenvectors where there is a basis, or () for every entry alike; D numbers a sample.
        spectrum: (D,) or () eigenvalues of its covariance.
        basis: (D, D) whose columns are the eigenvectors; None where the pixels themselves are independent.
        prediction: what the model gives.

    Raises:
        ValueError: an unknown prediction; shapes that do not go together, a negative eigenvalue, or an entry that is not finite.
    """

    schedule: NoiseSchedule
    mean: ArrayLike
    spectrum: ArrayLike
    basis: ArrayLike | None = None
    prediction: Prediction = "x0"

    def __post_init__(self) -> None:
        check_prediction(self.prediction, self.schedule, ())
        mean, spectrum = frozen_array(self.mean, "mean"), frozen_array(self.spectrum, "spectrum")
        sides = {len(a) for a in (mean, spectrum) if a.ndim}
        sides |= set() if self.basis is None else set(frozen_array(self.basis, "basis").shape)
        if max(mean.ndim, spectrum.ndim) > 1 or len(sides) > 1 or spectrum.min() < 0:
            given = f"{mean.shape}, {spectrum.shape}"
            raise ValueError(f"mean and spectrum must be (D,) or (), the basis (D, D) and no eigenvalue negative, got {given}")

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        r"""X (B, \*) with D numbers a sample, t int64 (B,)."""
        flat, basis = x.reshape(len(x), -1), None if self.basis is None else _like(self.basis, x)
        turned = flat if basis is None else flat @ basis
        s, n = _levels(self.schedule, t, x)
        mean, spectrum = _like(self.mean, x), _like(self.spectrum, x)
        x0 = mean + s * spectrum / (s * s * spectrum + n * n) * (turned - s * mean)
        return _output(flat, x0 if basis is None else x0 @ basis.T, s, n, self.prediction).reshape(x.shape)


@dataclass(frozen=True, eq=False)
class MixtureDenoiser:
    r"""The exact model ``model(x, t)`` of a mixture of normal distributions with independent pixels.

    .. math:: \hat x_0 = \sum_c r_c(x)\, \Bigl(\mu_c + \frac{s v_c}{s^2 v_c + n^2} (x - s\mu_c)\Bigr), \qquad
        r_c \propto \pi_c\, N(x;\; s\mu_c,\; s^2 v_c + n^2)

    Args:
        schedule: whose timesteps t means.
        weights: (C,) π, above 0; taken relative to their sum.
        means: (C, D).
        variances: (C, D), or what broadcasts to it.
        prediction: what the model gives.

    Raises:
        ValueError: an unknown prediction; shapes that do not go together, a weight that is not above 0, a negative variance, or an
            entry that is not finite.
    """

    schedule: NoiseSchedule
    weights: Sequence[float]
    means: ArrayLike
    variances: ArrayLike
    prediction: Prediction = "x0"

    def __post_init__(self) -> None:
        check_prediction(self.prediction, self.schedule, ())
        weights, means = frozen_array(self.weights, "weights"), frozen_array(self.means, "means")
        variances = frozen_array(self.variances, "variances")
        if means.ndim != 2 or weights.shape != means.shape[:1] or weights.min() <= 0 or variances.min() < 0:
            raise ValueError(
                "means must be (C, D), one weight above 0 a component and no variance negative, "
                f"got {means.shape} and {self.weights!r}"
            )
        np.broadcast_to(variances, means.shape)  # or numpy's ValueError, with both shapes

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        r"""X (B, \*) with D numbers a sample, t int64 (B,)."""
        flat, (s, n) = x.reshape(len(x), -1), _levels(self.schedule, t, x)
        means = _like(self.means, x)
        variances, wide = _like(self.variances, x).broadcast_to(means.shape), s[:, None]
        total = wide**2 * variances + n[:, None] ** 2  # (B, C, D)
        apart = flat[:, None] - wide * means
        scores = _like(np.log(_numbers(self.weights)), x) - (apart**2 / total + total.log()).sum(dim=2) / 2
        each = means + wide * variances / total * apart
        x0 = (scores.softmax(dim=1)[:, :, None] * each).sum(dim=1)
        return _output(flat, x0, s, n, self.prediction).reshape(x.shape)


def _numbers(values: object) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


def _like(values: object, x: Tensor) -> Tensor:
    """Numbers as a tensor of x's dtype and device, cast before they are sent there."""
    return torch.from_numpy(_numbers(values).copy()).to(x.dtype).to(x.device)


def _levels(schedule: NoiseSchedule, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise at t, (B, 1)."""
    s, n = (_like(values, x)[t][:, None] for values in (schedule.signal, schedule.noise))
    return s, n


def _output(x: Tensor, x0: Tensor, s: Tensor, n: Tensor, prediction: Prediction) -> Tensor:
    """What a model of this prediction says where the clean image is expected to be x0."""
    match prediction:
        case "epsilon":
            return (x - s * x0) / n
        case "x0":
            return x0
        case "v":
            return (s * x - (s * s + n * n) * x0) / n
        case "flow":
            return (x - (s + n) * x0) / n
