"""Self-checks of the oracle: published answers, identities between the papers' equations, and its independence."""

import ast
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import oracle
from oracle import Array

PAIRS = [(0.02, 0.3), (0.3, 0.31), (0.5, 0.999), (0.9, 1.0), (1e-5, 1e-4)]
RNG = np.random.default_rng(0)
X, X0, EPS, Z = (RNG.standard_normal(7) for _ in range(4))


def test_oracle_imports_nothing_of_the_package() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert names
    assert {name.split(".")[0] for name in names} <= {"math", "collections", "fractions", "typing", "mpmath", "numpy"}
    assert not any("ddimkit" in ast.dump(node) for node in ast.walk(tree) if isinstance(node, ast.Call))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter: str, key: str, words: str) -> None:
    c0, c1, c2, c3 = (int(word, 16) for word in counter.split())
    k0, k1 = (int(word, 16) for word in key.split())
    assert " ".join(f"{word:08x}" for word in oracle.philox4x32_10((c0, c1, c2, c3), (k0, k1))) == words


def test_keyed_normals() -> None:
    first = oracle.keyed_normals(0, 0, 0, 4)  # its words are the all-zero known answer
    u = [(word + 0.5) / 2**32 for word in (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)]
    for (a, b), (radius_u, angle_u) in zip((first[:2], first[2:]), (u[:2], u[2:]), strict=True):
        assert math.exp(-(a * a + b * b) / 2) == pytest.approx(radius_u, rel=1e-14)
        assert math.atan2(b, a) % (2 * math.pi) == pytest.approx(2 * math.pi * angle_u, rel=1e-14)
    seed = 5 + (3 << 32)
    many = oracle.keyed_normals(seed, 2, 1, 4001)
    assert many.shape == (4001,)
    assert np.array_equal(many[:10], oracle.keyed_normals(seed, 2, 1, 10))
    assert abs(many.mean()) < 0.06
    assert abs(many.var() - 1) < 0.08
    assert len({float(oracle.keyed_normals(*key, 1)[0]) for key in itertools.product((5, seed, 3 << 32), (1, 2), (1, 2))}) == 12


def test_schedules() -> None:
    assert float(oracle.linear_alpha_bars(1000)[-1]) == pytest.approx(4.0358e-5, rel=1e-4)
    assert float(oracle.scaled_linear_alpha_bars(1000)[-1]) == pytest.approx(0.0046600, rel=1e-4)
    assert float(oracle.cosine_alpha_bars(1000)[-1]) == pytest.approx(2.4288e-9, rel=1e-4)
    assert float(oracle.sigmoid_alpha_bars(1001)[500]) == pytest.approx(0.5, abs=2e-3)
    for build in (oracle.linear_alpha_bars, oracle.scaled_linear_alpha_bars, oracle.cosine_alpha_bars, oracle.sigmoid_alpha_bars):
        for T in (1, 2, 10, 100):
            alpha_bars = build(T)
            assert len(alpha_bars) == T
            assert all(b < a for a, b in itertools.pairwise([1, *alpha_bars, 0]))
            assert alpha_bars[-1] >= (alpha_bars[-2] if T > 1 else 1) * (1 - oracle.MP.mpf(0.999)) * (1 - oracle.MP.mpf(10) ** -45)
        fixed = oracle.zero_terminal_snr(alpha_bars)
        assert fixed[-1] == 0
        assert abs(fixed[0] - alpha_bars[0]) < 1e-48
        assert all(b < a for a, b in itertools.pairwise(fixed))


def test_levels_are_high_precision() -> None:
    signal, noise, log_snr = oracle.mp_levels(oracle.MP.mpf("1e-30"))
    assert abs(signal**2 + noise**2 - 1) < 1e-48
    assert abs(log_snr - 2 * oracle.MP.log(signal / noise)) < 1e-46
    assert [float(oracle.mp_levels(edge)[2]) for edge in (0, 1)] == [-math.inf, math.inf]


@pytest.mark.parametrize("alpha_bar", [0.02, 0.5, 0.98])
def test_conversions_invert(alpha_bar: float) -> None:
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    x = signal * X0 + noise * EPS
    v, u = oracle.v_from_x0_eps(X0, EPS, alpha_bar), oracle.flow_from_x0_eps(X0, EPS)
    for x0 in (oracle.x0_from_eps(x, EPS, alpha_bar), oracle.x0_from_v(x, v, alpha_bar), oracle.x0_from_flow(x, u, signal, noise)):
        np.testing.assert_allclose(x0, X0, atol=1e-13)
    for eps in (oracle.eps_from_x0(x, X0, alpha_bar), oracle.eps_from_v(x, v, alpha_bar)):
        np.testing.assert_allclose(eps, EPS, atol=1e-13)
    np.testing.assert_allclose(oracle.x0_from_flow(0.7 * X0 + 0.3 * EPS, u, 0.7, 0.3), X0, atol=1e-14)


def test_dynamic_threshold() -> None:
    x0 = np.array([[-4.0, 0.5], [2.0, 1.0]])  # sorted magnitudes 0.5 1 2 4
    np.testing.assert_allclose(oracle.dynamic_threshold(x0, 0.5), np.array([[-1.5, 0.5], [1.5, 1.0]]) / 1.5)
    np.testing.assert_allclose(oracle.dynamic_threshold(x0, 1.0, cap=2.0), np.array([[-1.0, 0.25], [1.0, 0.5]]))
    assert np.array_equal(oracle.dynamic_threshold(x0 / 5, 0.9), x0 / 5)
    scale = np.quantile(np.abs(10 * X), 0.83)
    np.testing.assert_allclose(oracle.dynamic_threshold(10 * X, 0.83), np.clip(10 * X, -scale, scale) / scale)


@pytest.mark.parametrize(("now", "after"), PAIRS)
def test_equations_agree(now: float, after: float) -> None:
    beta = 1 - now / after
    eq_11 = (X - beta / math.sqrt(1 - now) * EPS) / math.sqrt(1 - beta)
    np.testing.assert_allclose(oracle.ddpm_step(X, EPS, now, after, "fixed_small", 0.0), eq_11, rtol=1e-9, atol=1e-9)
    small = oracle.ddpm_step(X, EPS, now, after, "fixed_small", Z)
    np.testing.assert_allclose(oracle.ddim_step(X, EPS, now, after, 1.0, Z), small, rtol=1e-9, atol=1e-9)
    x0 = oracle.x0_from_eps(X, EPS, now)
    for eta in (0.0, 0.4, 1.0):
        step = oracle.ddim_step(X, EPS, now, after, eta, Z)
        np.testing.assert_allclose(oracle.ddim_from_x0(X, x0, now, after, eta, Z), step, rtol=1e-9, atol=1e-9)
        a, b, c = (float(value) for value in oracle.mp_ddim_coefficients(now, after, eta))
        np.testing.assert_allclose(a * X + b * x0 + c * Z, step, rtol=1e-9, atol=1e-9)
    large = oracle.ddpm_step(X, EPS, now, after, "fixed_large", Z) - oracle.ddpm_step(X, EPS, now, after, "fixed_large", 0.0)
    np.testing.assert_allclose(large, math.sqrt(beta) * Z if after < 1 else 0 * Z, atol=1e-12)


@pytest.mark.parametrize(("now", "after"), [*PAIRS, (0.0, 0.2), (0.0, 1.0)])
def test_fifty_digit_coefficients(now: float, after: float) -> None:
    (s, n, _), (s_next, n_next, _) = oracle.mp_levels(now), oracle.mp_levels(after)
    for eta in (0.0, 0.4, 1.0):
        a, b, c = oracle.mp_ddim_coefficients(now, after, eta)
        assert abs(a * s + b - s_next) < 1e-45
        assert abs((a * n) ** 2 + c**2 - n_next**2) < 1e-45
        assert after < 1 or (a, b, c) == (0, 1, 0)
    *ddpm, large = oracle.mp_ddpm_coefficients(now, after)
    assert all(abs(p - q) < 1e-40 for p, q in zip(oracle.mp_ddim_coefficients(now, after, 1.0), ddpm, strict=True))
    stds = [float(oracle.ddpm_std(now, after, name)) for name in ("fixed_small", "fixed_large")]
    np.testing.assert_allclose(stds, [float(ddpm[2]), float(large)], rtol=1e-9)


def test_learned_variance_interpolates_logarithms() -> None:
    small, large = (float(oracle.ddpm_std(0.3, 0.6, name)) for name in ("fixed_small", "fixed_large"))
    learned = oracle.ddpm_std(0.3, 0.6, "learned_range", np.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(learned, [small, math.sqrt(small * large), large], rtol=1e-14)
    assert oracle.ddpm_std(0.3, 1.0, "learned_range", np.zeros(3)) == 0


def test_chains() -> None:
    alpha_bars = oracle.to_floats(oracle.linear_alpha_bars(50, 0.001, 0.2))
    steps = [49, 40, 22, 21, 3]
    assert oracle.alpha_bar_pairs(alpha_bars, steps)[-2:] == [(alpha_bars[21], alpha_bars[3]), (alpha_bars[3], 1.0)]
    noises = list(RNG.standard_normal((4, 7)))  # none for the last step

    def model(x: Array, t: int) -> Array:
        return np.tanh(x) + 0.01 * t

    def minus_one(x: Array, t: int) -> Array:
        return np.full_like(x, -1.0)

    ddim = oracle.ddim_chain(model, X, alpha_bars, steps, 1.0, noises)
    assert len(ddim) == 6
    np.testing.assert_allclose(ddim[-1], oracle.x0_from_eps(ddim[-2], model(ddim[-2], 3), alpha_bars[3]), atol=1e-13)
    ddpm = oracle.ddpm_chain(model, X, alpha_bars, steps, "fixed_small", noises)
    learned = oracle.ddpm_chain(model, X, alpha_bars, steps, "learned_range", noises, minus_one)
    for other in (ddpm, learned):
        np.testing.assert_allclose(np.array(other), np.array(ddim), rtol=1e-10, atol=1e-10)
    constant = oracle.ddim_chain(lambda x, t: EPS, X0, alpha_bars, steps, 0.0, [])
    start = oracle.x0_from_eps(X0, EPS, alpha_bars[49])
    np.testing.assert_allclose(constant[-1], start, atol=1e-12)


def test_gaussian_eps_is_the_posterior_mean() -> None:
    alpha_bar, mean, variance = 0.3, 0.8, 0.25
    grid = np.linspace(mean - 6, mean + 6, 4001)
    for x in (-1.0, 0.2, 2.5):
        likelihood = np.exp(-((grid - mean) ** 2) / (2 * variance) - (x - math.sqrt(alpha_bar) * grid) ** 2 / (2 * (1 - alpha_bar)))
        x0 = np.sum(likelihood * grid) / np.sum(likelihood)
        expected = oracle.eps_from_x0(np.array(x), x0, alpha_bar)
        np.testing.assert_allclose(oracle.gaussian_eps(np.array(x), alpha_bar, mean, variance), expected, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gaussian_moments_match_the_chain(eta: float) -> None:
    alpha_bars = oracle.to_floats(oracle.linear_alpha_bars(50, 0.001, 0.2))
    steps = [49, 30, 12, 11, 2]
    mean, variance = 0.8, 0.25

    def model(x: Array, t: int) -> Array:
        return oracle.gaussian_eps(x, alpha_bars[t], mean, variance)

    inputs = np.eye(5, 6, k=1)  # column 0: all inputs zero; column j: the j-th independent unit normal set to one
    result = oracle.ddim_chain(model, inputs[0], alpha_bars, steps, eta, list(inputs[1:]))[-1]
    got = oracle.gaussian_ddim_chain_moments(alpha_bars, steps, eta, mean, variance)
    np.testing.assert_allclose(got, (result[0], np.sum((result[1:] - result[0]) ** 2)), rtol=1e-12)
    full = oracle.gaussian_ddim_chain_moments(oracle.to_floats(oracle.linear_alpha_bars(1000)), range(999, -1, -1), eta, 0.8, 0.25)
    np.testing.assert_allclose(full, (0.8, 0.25), atol=0.01)


def test_timesteps() -> None:
    assert oracle.timesteps("trailing", 1000, 10) == list(range(999, 0, -100))
    assert oracle.timesteps("leading", 1000, 10) == list(range(900, -1, -100))
    assert oracle.timesteps("linspace", 4, 3) == [3, 2, 0]
    assert oracle.timesteps("quadratic", 10, 4) == [9, 4, 1, 0]
    assert [oracle.timesteps(name, 9, 1) for name in ("trailing", "leading", "linspace", "quadratic")] == [[8], [0], [8], [8]]
    for name, T in itertools.product(("trailing", "leading", "linspace", "quadratic"), (1, 2, 7, 40)):
        for S in range(1, T + 1):
            steps = oracle.timesteps(name, T, S)
            assert len(steps) == S
            assert all(b < a for a, b in itertools.pairwise([T, *steps, -1]))
    assert oracle.quadratic_song2021(1000, 10) == [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]
    assert oracle.quadratic_song2021(1000, 1) == [0]
    assert len(oracle.quadratic_song2021(1000, 100)) < 100
