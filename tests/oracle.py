"""An independent oracle: schedules, sampling steps, spacings and keyed noise, written the way the papers print them.

All is stated in alpha_bar and eps, with plain loops over floats, float64 arrays or 50-digit numbers, and shares nothing with
the package under test. Where a printed formula cancels in float64 (DDIM eq. 12 and 16 near eta = 1 with a small alpha_bar
lose half the digits), compare with the `mp_*` functions. alpha_bars[t], t = 0 .. T-1, is the papers' alpha_bar at t + 1.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import mpmath  # type: ignore[import-untyped, unused-ignore]
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Model: TypeAlias = Callable[[Array, int], Array]
Mpf: TypeAlias = Any  # a 50-digit real; mpmath has no type stubs

MP = mpmath.MPContext()  # a context of our own: the caller's mpmath precision neither matters nor changes
MP.dps = 50


def _alpha_bars_from_betas(betas: Sequence[Mpf]) -> list[Mpf]:
    """Ho et al. eq. 4: alpha_bar_t is the product of 1 - beta_s over s <= t."""
    alpha_bars = [1 - betas[0]]
    for beta in betas[1:]:
        alpha_bars.append(alpha_bars[-1] * (1 - beta))
    return alpha_bars


def _clip_betas(curve: Sequence[Mpf], max_beta: float) -> list[Mpf]:
    """Nichol & Dhariwal, below eq. 17: beta_t = min(1 - alpha_bar_t / alpha_bar_(t-1), max_beta); curve[0] is time zero."""
    return [min(1 - curve[t] / curve[t - 1], MP.mpf(max_beta)) for t in range(1, len(curve))]


def linear_alpha_bars(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> list[Mpf]:
    """Ho et al. section 4: betas in equal steps from beta_start to beta_end, both included."""
    start, end = MP.mpf(beta_start), MP.mpf(beta_end)
    return _alpha_bars_from_betas([start + (end - start) * t / max(T - 1, 1) for t in range(T)])


def scaled_linear_alpha_bars(T: int, beta_start: float = 0.00085, beta_end: float = 0.012) -> list[Mpf]:
    """The latent diffusion schedule: sqrt(beta) in equal steps."""
    start, end = MP.sqrt(MP.mpf(beta_start)), MP.sqrt(MP.mpf(beta_end))
    return _alpha_bars_from_betas([(start + (end - start) * t / max(T - 1, 1)) ** 2 for t in range(T)])


def cosine_alpha_bars(T: int, s: float = 0.008, max_beta: float = 0.999) -> list[Mpf]:
    """Nichol & Dhariwal eq. 17, f(t) = cos(((t/T + s) / (1 + s)) pi/2)^2, alpha_bar_t = f(t)/f(0), betas clipped."""
    offset = MP.mpf(s)
    f = [MP.cos((MP.mpf(t) / T + offset) / (1 + offset) * MP.pi / 2) ** 2 for t in range(T + 1)]
    return _alpha_bars_from_betas(_clip_betas([value / f[0] for value in f], max_beta))


def sigmoid_alpha_bars(T: int, start: float = -3, end: float = 3, tau: float = 1, max_beta: float = 0.999) -> list[Mpf]:
    """Jabri et al.: gamma(u) = (S(end/tau) - S((start + u (end - start))/tau)) / (S(end/tau) - S(start/tau)), u = t/T."""
    low, high, scale = MP.mpf(start), MP.mpf(end), MP.mpf(tau)
    curve = [1 / (1 + MP.exp(-(low + (high - low) * t / T) / scale)) for t in range(T + 1)]
    return _alpha_bars_from_betas(_clip_betas([(curve[T] - value) / (curve[T] - curve[0]) for value in curve], max_beta))


def zero_terminal_snr(alpha_bars: Sequence[Mpf]) -> list[Mpf]:
    """Lin et al. algorithm 1 (T > 1): shift and scale sqrt(alpha_bar) so that the last is 0 and the first is unchanged."""
    roots = [MP.sqrt(MP.mpf(a)) for a in alpha_bars]
    return [((root - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2 for root in roots]


def mp_levels(alpha_bar: Mpf) -> tuple[Mpf, Mpf, Mpf]:
    """sqrt(alpha_bar), sqrt(1 - alpha_bar) (Ho et al. eq. 4) and log(alpha_bar / (1 - alpha_bar)), infinite at 0 and 1."""
    value = MP.mpf(alpha_bar)
    log_snr = MP.ninf if value == 0 else MP.inf if value == 1 else MP.log(value / (1 - value))
    return MP.sqrt(value), MP.sqrt(1 - value), log_snr


def to_floats(values: Sequence[Mpf]) -> list[float]:
    """Each value rounded once to the nearest float."""
    return [float(value) for value in values]


def x0_from_eps(x: Array, eps: Array, alpha_bar: float) -> Array:
    """Ho et al. eq. 4 solved for x0; needs alpha_bar > 0."""
    return (x - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)


def eps_from_x0(x: Array, x0: Array, alpha_bar: float) -> Array:
    """Ho et al. eq. 4 solved for eps; needs alpha_bar < 1."""
    return (x - math.sqrt(alpha_bar) * x0) / math.sqrt(1 - alpha_bar)


def v_from_x0_eps(x0: Array, eps: Array, alpha_bar: float) -> Array:
    """Salimans & Ho appendix D: v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0."""
    return math.sqrt(alpha_bar) * eps - math.sqrt(1 - alpha_bar) * x0


def x0_from_v(x: Array, v: Array, alpha_bar: float) -> Array:
    """Salimans & Ho appendix D: x0 = sqrt(alpha_bar) x - sqrt(1 - alpha_bar) v."""
    return math.sqrt(alpha_bar) * x - math.sqrt(1 - alpha_bar) * v


def eps_from_v(x: Array, v: Array, alpha_bar: float) -> Array:
    """Salimans & Ho's rotation solved for eps: sqrt(1 - alpha_bar) x + sqrt(alpha_bar) v."""
    return math.sqrt(1 - alpha_bar) * x + math.sqrt(alpha_bar) * v


def flow_from_x0_eps(x0: Array, eps: Array) -> Array:
    """The velocity of rectified flow, u = eps - x0."""
    return eps - x0


def x0_from_flow(x: Array, u: Array, signal: float, noise: float) -> Array:
    """x = signal x0 + noise (x0 + u) solved for x0; with signal = 1 - tau and noise = tau this is x - tau u."""
    return (x - noise * u) / (signal + noise)


def dynamic_threshold(x0_one_sample: Array, quantile: float, cap: float | None = None) -> Array:
    """Saharia et al. section 2.3: s = max(1, quantile of |x0|), at most cap; clip to [-s, s], divide by s. One sample only."""
    magnitudes = sorted(abs(float(value)) for value in x0_one_sample.reshape(-1))
    position = quantile * (len(magnitudes) - 1)
    below, above = magnitudes[math.floor(position)], magnitudes[math.ceil(position)]
    s = max(below + (position - math.floor(position)) * (above - below), 1.0)
    s = s if cap is None else min(s, cap)
    flat = [min(max(float(value), -s), s) / s for value in x0_one_sample.reshape(-1)]
    return np.array(flat, dtype=np.float64).reshape(x0_one_sample.shape)


def ddim_sigma(alpha_bar: float, alpha_bar_next: float, eta: float) -> float:
    """DDIM eq. 16: eta sqrt((1 - alpha_bar_next)/(1 - alpha_bar)) sqrt(1 - alpha_bar/alpha_bar_next)."""
    return eta * math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar)) * math.sqrt(1 - alpha_bar / alpha_bar_next)


def ddim_from_x0(x: Array, x0: Array, alpha_bar: float, alpha_bar_next: float, eta: float, z: Array | float) -> Array:
    """DDIM eq. 12 for a given (perhaps clipped) x0, with eps derived from x and that x0; regular at alpha_bar = 0."""
    sigma = ddim_sigma(alpha_bar, alpha_bar_next, eta)
    direction = math.sqrt(max(1 - alpha_bar_next - sigma**2, 0.0))  # rounding may leave a tiny negative
    return math.sqrt(alpha_bar_next) * x0 + direction * eps_from_x0(x, x0, alpha_bar) + sigma * z


def ddim_step(x: Array, eps: Array, alpha_bar: float, alpha_bar_next: float, eta: float, z: Array | float) -> Array:
    """DDIM eq. 12: predicted x0, direction pointing to x_t, random noise."""
    sigma = ddim_sigma(alpha_bar, alpha_bar_next, eta)
    direction = math.sqrt(max(1 - alpha_bar_next - sigma**2, 0.0))
    return math.sqrt(alpha_bar_next) * x0_from_eps(x, eps, alpha_bar) + direction * eps + sigma * z


def ddpm_std(alpha_bar: float, alpha_bar_next: float, variance: str, v: Array | None = None) -> Array:
    """Standard deviation of a pair's step: Ho et al. eq. 7, DDIM's sigma-hat, or Nichol & Dhariwal eq. 15; 0 at the end."""
    beta = 1 - alpha_bar / alpha_bar_next
    posterior = (1 - alpha_bar_next) / (1 - alpha_bar) * beta
    if alpha_bar_next == 1:
        return np.array(0.0)
    if variance != "learned_range":
        return np.array(math.sqrt({"fixed_small": posterior, "fixed_large": beta}[variance]))
    if v is None:
        raise ValueError("learned_range needs v")
    frac = (v + 1) / 2
    return np.asarray(np.sqrt(np.exp(frac * math.log(beta) + (1 - frac) * math.log(posterior))), dtype=np.float64)


def ddpm_from_x0(
    x: Array, x0: Array, alpha_bar: float, alpha_bar_next: float, variance: str, z: Array | float, v: Array | None = None
) -> Array:
    """Ho et al. eq. 7 with the pair's own beta = 1 - alpha_bar/alpha_bar_next; regular at alpha_bar = 0."""
    alpha = alpha_bar / alpha_bar_next
    x0_weight = math.sqrt(alpha_bar_next) * (1 - alpha) / (1 - alpha_bar)
    x_weight = math.sqrt(alpha) * (1 - alpha_bar_next) / (1 - alpha_bar)
    return x0_weight * x0 + x_weight * x + ddpm_std(alpha_bar, alpha_bar_next, variance, v) * z


def ddpm_step(
    x: Array, eps: Array, alpha_bar: float, alpha_bar_next: float, variance: str, z: Array | float, v: Array | None = None
) -> Array:
    """Ho et al. algorithm 2: x0 from eps by eq. 4, then the posterior of eq. 7; v is the second output of learned_range."""
    return ddpm_from_x0(x, x0_from_eps(x, eps, alpha_bar), alpha_bar, alpha_bar_next, variance, z, v)


def alpha_bar_pairs(alpha_bars: Sequence[float], timesteps: Sequence[int]) -> list[tuple[float, float]]:
    """(alpha_bar, alpha_bar_next) of each step of a descending list; alpha_bar_next is 1 after the last."""
    values = [float(alpha_bars[t]) for t in timesteps] + [1.0]
    return [(values[i], values[i + 1]) for i in range(len(timesteps))]


def ddim_chain(
    model_eps: Model, x_T: Array, alpha_bars: Sequence[float], timesteps: Sequence[int], eta: float, noises: Sequence[Array]
) -> list[Array]:
    """DDIM eq. 12 along a list: the S + 1 states, x_T first; noises[i] is read at step i unless eta = 0 or i is last."""
    states = [x_T]
    for i, (alpha_bar, alpha_bar_next) in enumerate(alpha_bar_pairs(alpha_bars, timesteps)):
        z = noises[i] if eta > 0 and i + 1 < len(timesteps) else 0.0
        states.append(ddim_step(states[-1], model_eps(states[-1], timesteps[i]), alpha_bar, alpha_bar_next, eta, z))
    return states


def ddpm_chain(
    model_eps: Model,
    x_T: Array,
    alpha_bars: Sequence[float],
    timesteps: Sequence[int],
    variance: str,
    noises: Sequence[Array],
    model_v: Model | None = None,
) -> list[Array]:
    """Ho et al. algorithm 2 along a list: the S + 1 states, x_T first; noises as in ddim_chain; model_v for learned_range."""
    states = [x_T]
    for i, (alpha_bar, alpha_bar_next) in enumerate(alpha_bar_pairs(alpha_bars, timesteps)):
        x, t = states[-1], timesteps[i]
        z = noises[i] if i + 1 < len(timesteps) else 0.0
        v = model_v(x, t) if model_v is not None else None
        states.append(ddpm_step(x, model_eps(x, t), alpha_bar, alpha_bar_next, variance, z, v))
    return states


def mp_ddim_coefficients(alpha_bar: Mpf, alpha_bar_next: Mpf, eta: float) -> tuple[Mpf, Mpf, Mpf]:
    """The factors of x, x0 and z in DDIM eq. 12, 16 with eps by eq. 4; (0, 1, 0) at alpha_bar_next = 1, regular at alpha_bar 0."""
    with MP.workdps(100):  # guard digits: 1 - alpha_bar_next - sigma^2 cancels at eta = 1
        now, after = MP.mpf(alpha_bar), MP.mpf(alpha_bar_next)
        variance = MP.mpf(eta) ** 2 * (1 - after) / (1 - now) * (1 - now / after)
        on_x = MP.sqrt(max(1 - after - variance, MP.mpf(0))) / MP.sqrt(1 - now)
        on_x0, on_z = MP.sqrt(after) - on_x * MP.sqrt(now), MP.sqrt(variance)
    return +on_x, +on_x0, +on_z  # unary plus rounds to 50 digits


def mp_ddpm_coefficients(alpha_bar: Mpf, alpha_bar_next: Mpf) -> tuple[Mpf, Mpf, Mpf, Mpf]:
    """Ho et al. eq. 7: the factors of x and x0, then the stds fixed_small and fixed_large (both 0 at alpha_bar_next = 1)."""
    now, after = MP.mpf(alpha_bar), MP.mpf(alpha_bar_next)
    beta = 1 - now / after
    on_x, on_x0 = MP.sqrt(now / after) * (1 - after) / (1 - now), MP.sqrt(after) * beta / (1 - now)
    return on_x, on_x0, MP.sqrt((1 - after) / (1 - now) * beta), MP.sqrt(beta) if after < 1 else MP.mpf(0)


def gaussian_eps(x: Array, alpha_bar: float, mean: float, variance: float) -> Array:
    """E[eps | x] for x0 ~ N(mean, variance): sqrt(1 - alpha_bar) (x - sqrt(alpha_bar) mean) / Var[x]."""
    return math.sqrt(1 - alpha_bar) * (x - math.sqrt(alpha_bar) * mean) / (alpha_bar * variance + 1 - alpha_bar)


def gaussian_ddim_chain_moments(
    alpha_bars: Sequence[float], timesteps: Sequence[int], eta: float, mean: float, variance: float
) -> tuple[float, float]:
    """Mean and variance of ddim_chain's result for the ideal model of N(mean, variance) data, started from N(0, 1)."""
    m, q = 0.0, 1.0
    for alpha_bar, alpha_bar_next in alpha_bar_pairs(alpha_bars, timesteps):
        total = alpha_bar * variance + 1 - alpha_bar
        eps_slope = math.sqrt(1 - alpha_bar) / total  # E[eps | x] = eps_slope (x - sqrt(alpha_bar) mean)
        x0_slope = math.sqrt(alpha_bar) * variance / total  # E[x0 | x] = mean + x0_slope (x - sqrt(alpha_bar) mean)
        sigma = ddim_sigma(alpha_bar, alpha_bar_next, eta)
        slope = math.sqrt(alpha_bar_next) * x0_slope + math.sqrt(max(1 - alpha_bar_next - sigma**2, 0.0)) * eps_slope
        m = math.sqrt(alpha_bar_next) * mean + slope * (m - math.sqrt(alpha_bar) * mean)
        q = slope**2 * q + sigma**2
    return m, q


def timesteps(spacing: str, T: int, S: int) -> list[int]:
    """S descending timesteps by exact fractions: trailing, leading, linspace or quadratic, 1 <= S <= T."""
    half = Fraction(1, 2)
    if spacing == "trailing":  # T - i T/S rounded to the nearest integer, halves up, then one less
        return [math.floor(T - i * Fraction(T, S) + half) - 1 for i in range(S)]
    if spacing == "leading":  # multiples of the whole part of T/S
        return [math.floor(Fraction(T, S)) * i for i in reversed(range(S))]
    power = {"linspace": 1, "quadratic": 2}[spacing]
    ascending = [0] if S > 1 else [T - 1]
    for i in range(1, S):  # nearest integer, raised above the one before, lowered to leave room for the rest
        nearest = math.floor(Fraction(i, S - 1) ** power * (T - 1) + half)
        ascending.append(min(max(nearest, ascending[-1] + 1), T - S + i))
    return ascending[::-1]


def quadratic_song2021(T: int, S: int) -> list[int]:
    """The DDIM paper's code: int of the squares of a linspace from 0 to sqrt(0.8 T), distinct values, descending."""
    return sorted({int(value) for value in np.linspace(0, np.sqrt(T * 0.8), S) ** 2}, reverse=True)


def philox4x32_10(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Salmon et al. 2011, Philox-4x32 with ten rounds; the key is bumped after each."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def keyed_normals(seed: int, draw: int, stream: int, count: int) -> Array:
    """Normals by Box-Muller in float64: counter (block, draw, stream, 0) gives elements 4 block .. 4 block + 3."""
    values: list[float] = []
    for block in range((count + 3) // 4):
        words = philox4x32_10((block, draw, stream, 0), (seed & 0xFFFFFFFF, seed >> 32))
        u0, u1, u2, u3 = [(word + 0.5) * 2.0**-32 for word in words]
        for first, second in ((u0, u1), (u2, u3)):
            radius, angle = math.sqrt(-2 * math.log(first)), 2 * math.pi * second
            values += [radius * math.cos(angle), radius * math.sin(angle)]
    return np.array(values[:count], dtype=np.float64)


def mp_lagrange(nodes: Sequence[Mpf], j: int, u: Mpf) -> Mpf:
    """The polynomial of lowest degree that is 1 at nodes[j] and 0 at the other nodes, at u."""
    return MP.fprod((u - node) / (nodes[j] - node) for i, node in enumerate(nodes) if i != j)


def mp_dpm_solver_pp_weights(lambdas: Sequence[Mpf], lambda_next: Mpf, alpha_next: Mpf, eta: int) -> list[Mpf]:
    """Lu et al. eq. 8 (eta 0) or the SDE's solution, eq. 11 (eta 1), x_theta replaced by its interpolant, integrated numerically.

    lambdas are those of the predictions, the newest, where the step begins, first.
    """
    rate, last = 1 + eta, MP.mpf(lambda_next)
    return [
        alpha_next
        * MP.quad(lambda tau, j=j: rate * MP.exp(-rate * (last - tau)) * mp_lagrange(lambdas, j, tau), [lambdas[0], last])
        for j in range(len(lambdas))
    ]


def mp_unipc_chain(alpha_bars: Sequence[Mpf], order: int, variant: str) -> list[list[Mpf]]:
    """Zhao et al. algorithms 5 and 6 (data prediction, multistep) along finite levels, on symbols.

    Every x is returned as its coefficients on (x_T, m_0, m_1, ...), m_i the model's answer at level i; x is what the model is asked
    with: the predicted one, the correction still to come.
    """
    size = len(alpha_bars)
    alpha, sigma = ([MP.sqrt(MP.mpf(v)) for v in column] for column in (alpha_bars, [1 - MP.mpf(a) for a in alpha_bars]))
    lam = [MP.log(a / s) for a, s in zip(alpha, sigma, strict=True)]

    def unit(i: int) -> list[Mpf]:
        return [MP.mpf(int(j == i)) for j in range(size + 1)]

    def combine(*terms: tuple[Mpf, list[Mpf]]) -> list[Mpf]:
        return [MP.fsum(factor * vector[j] for factor, vector in terms) for j in range(size + 1)]

    x, asked = unit(0), [unit(0)]
    for i in range(1, size):
        p, h = min(order, i), lam[i] - lam[i - 1]
        B = h if variant == "bh1" else -MP.expm1(-h)  # of eq. 9 with the sign of data prediction taken out

        def coefficients(r: list[Mpf], h: Mpf = h, B: Mpf = B) -> list[Mpf]:
            """R_p(h) a_p B(h) = phi_p(h), eq. 8 and 9; a_1 = 1/2 where there is one."""
            q = len(r)
            if q == 1:
                return [MP.mpf(1) / 2]
            phi, right = -MP.expm1(-h), []  # phi_(k+1) below: the integral of e^-(h-u) (u/h)^k
            for k in range(1, q + 1):
                phi = 1 - k * phi / h
                right.append(phi / B)
            return list(MP.lu_solve(MP.matrix([[value**k for value in r] for k in range(1, q + 1)]), MP.matrix(right)))

        m0 = unit(i)  # the model's answer at level i - 1 is symbol i
        base = combine((sigma[i] / sigma[i - 1], x), (-alpha[i] * MP.expm1(-h), m0))
        r = [(lam[i - 1 - k] - lam[i - 1]) / h for k in range(1, p)]
        older = [unit(i - k) for k in range(1, p)]
        a = coefficients(r) if r else []
        predicted = combine((1, base), *((alpha[i] * B * w, combine((1, m), (-1, m0))) for w, m in _over(a, r, older)))
        asked.append(predicted)
        a = coefficients([*r, MP.mpf(1)])
        x = combine(
            (1, base), *((alpha[i] * B * w, combine((1, m), (-1, m0))) for w, m in _over(a, [*r, 1], [*older, unit(i + 1)]))
        )
    return asked


def _over(a: Sequence[Mpf], r: Sequence[Mpf], vectors: Sequence[list[Mpf]]) -> list[tuple[Mpf, list[Mpf]]]:
    """Each vector with its factor: in the equations for a the powers of r begin at 1, so a already holds the 1/r of D/r."""
    if len(a) == 1:
        return [(a[0] / r[0], vectors[0])]
    return list(zip(a, vectors, strict=True))
