r"""The arithmetic of schedules: betas of the published formulas, and between betas, alpha_bars, signal and noise.

Everything here is float64 and unchecked. A beta is :math:`1 - \bar\alpha_t / \bar\alpha_{t-1}`, and :math:`1 - \bar\alpha` is
computed through ``expm1`` and ``log1p``: at small t the plain subtraction would lose up to four digits.
"""

import math

import numpy as np

from ddimkit._numbers import Floats


def scaled_linear_betas(count: int, start: float, end: float) -> Floats:
    """(T,) betas whose square roots are equally spaced."""
    return np.linspace(math.sqrt(start), math.sqrt(end), count) ** 2


def cosine_betas(count: int, s: float, max_beta: float) -> Floats:
    r"""(T,) :math:`\beta_t = q(2 - q)`, at most ``max_beta``, with :math:`u_t = \frac{t/T + s}{1 + s}\frac\pi2`.

    :math:`q = 2\sin\frac{u+u'}2\sin\frac{u'-u}2/\cos u`: the ratio of neighbouring cosines is :math:`1 - q`, so that no digit of a
    small beta is lost.
    """
    step = (math.pi / 2) / (1 + s) / count
    u = (np.arange(count + 1) / count + s) / (1 + s) * (math.pi / 2)
    # cos(u) as the sine of the angle that is left: u itself is rounded too coarsely where its cosine nears 0.
    left = np.arange(count, 0, -1) * step
    q = 2 * np.sin((u[1:] + u[:-1]) / 2) * math.sin(step / 2) / np.sin(left)
    betas: Floats = np.minimum(q * (2 - q), max_beta)
    return betas


def sigmoid_betas(count: int, start: float, end: float, tau: float, max_beta: float) -> Floats:
    r"""(T,) :math:`\beta_t = 1 - f(\frac{t+1}T)/f(\frac tT)`, at most ``max_beta``, f the rest of a sigmoid.

    :math:`f(u) = \sigma(\frac{end}\tau) - \sigma(\frac{start + u(end-start)}\tau)`. A difference of sigmoids is
    :math:`\sinh\frac{a-b}2 / (2\cosh\frac a2\cosh\frac b2)`, which loses no digit.
    """
    x = (start + np.arange(count + 1) / count * (end - start)) / tau
    # x[-1] may miss end/tau by a rounding, which would leave a last beta that is not exactly 1 before the clip.
    x[-1] = end / tau
    half = (end - start) / tau / count / 2
    left = np.arange(count, 0, -1) * half
    betas: Floats = np.sinh(half) * np.cosh(x[-1] / 2) / (np.sinh(left) * np.cosh(x[1:] / 2))
    return np.minimum(betas, max_beta)


def levels_of_betas(betas: Floats) -> tuple[Floats, Floats]:
    r"""Signal and noise, (T,) each: :math:`\bar\alpha_t = \prod_{i \le t}(1 - \beta_i)`, s its root and n that of its rest."""
    with np.errstate(divide="ignore"):
        log_alpha_bar = _running_sum(np.log1p(-betas))
    return np.exp(log_alpha_bar / 2), np.sqrt(-np.expm1(log_alpha_bar))


def levels_of_alpha_bars(alpha_bars: Floats) -> tuple[Floats, Floats]:
    """Signal and noise, (T,) each, of alpha_bars."""
    # Given alpha_bar itself, 1 - alpha_bar is exact or correctly rounded; a detour through the logarithm would not be.
    return np.sqrt(alpha_bars), np.sqrt(1 - alpha_bars)


def betas_of_levels(signal: Floats, noise: Floats) -> Floats:
    r"""(T,) betas of signal and noise, with :math:`\bar\alpha_{-1} = 1`."""
    with np.errstate(divide="ignore"):
        log_alpha_bar = -np.log1p((noise / signal) ** 2)
    return -np.expm1(np.diff(log_alpha_bar, prepend=0.0))


def without_last_signal(s: Floats, n: Floats) -> tuple[Floats, Floats]:
    r"""Signal and noise with s shifted and scaled so that the last is 0 and the first is kept; T at least 2.

    :math:`s' = (s - s_{T-1})\, s_0 / (s_0 - s_{T-1})` (Lin et al. 2024, algorithm 1); and
    :math:`n'^2 = n^2 + (s - s')(s + s')`, where :math:`s - s' = s_{T-1}(s_0 - s)/(s_0 - s_{T-1})`.
    """
    scale = s[0] / (s[0] - s[-1])
    lowered = (s - s[-1]) * scale
    lowered[0] = s[0]
    lift = s[-1] * (s[0] - s) / (s[0] - s[-1])
    noise = np.minimum(np.sqrt(n * n + lift * (s + lowered)), 1.0)
    noise[-1] = 1.0
    return lowered, noise


def _running_sum(values: Floats) -> Floats:
    """Cumulative sum, each partial sum rounded once (Neumaier's compensation)."""
    total, correction = 0.0, 0.0
    sums = np.empty_like(values)
    for i, value in enumerate(values.tolist()):
        after = total + value
        if math.isfinite(after):
            correction += (total - after) + value if abs(total) >= abs(value) else (value - after) + total
        total = after
        sums[i] = total + correction
    return sums
