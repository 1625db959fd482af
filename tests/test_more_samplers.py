"""Heun, DEIS and iPNDM, SA-Solver, gradient estimation and consistency steps: the papers' loops in plain numpy, orders, the kit."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddimkit import DDIMSampler, DPMSolverPPSampler, NoiseSchedule, PlanSampler
from ddimkit.samplers import ConsistencySampler, DEISSampler, GradientEstimationSampler, HeunSampler, SASolverSampler
from ddimkit.samplers.named import MAKERS
from ddimkit.schedule import FloatArray
from ddimkit.testing.orders import measured_order
from ddimkit.tradeoff.rows import label_of, sampler_from_dict, sampler_to_dict
from kits import conformance, of
from probes import normal, smooth
from strategies import walks

LINEAR = NoiseSchedule.linear()
X = normal(2, 3, seed=4, dtype=torch.float64)

TestHeun = conformance(of(HeunSampler))
TestDEIS = conformance(of(DEISSampler))
TestIPNDM = conformance(of(DEISSampler, order=4, variant="ipndm", prediction="v"))
TestSASolver = conformance(of(SASolverSampler))
TestSASolverNoNoise = conformance(of(SASolverSampler, order=3, corrector_order=3, eta=0.0, prediction="x0"))
TestGradientEstimation = conformance(of(GradientEstimationSampler))
TestConsistency = conformance(of(ConsistencySampler), consistency=True)

Walk = tuple[list[float], tuple[int, ...]]
Denoiser = Callable[[FloatArray, int], FloatArray]


def x0_of(x: FloatArray, t: int) -> FloatArray:
    return x / (1 + x * x) + t / 8000


def noise_of(draw: int, like: Tensor) -> Tensor:
    return normal(*like.shape, seed=draw + 5, dtype=torch.float64)


def drawn(make: Any, walk: Walk, **settings: Any) -> FloatArray:
    schedule = NoiseSchedule.from_alpha_bars(walk[0])
    sampler = make(schedule, timesteps=walk[1], prediction="x0", **settings)
    return sampler.sample(smooth, x_T=X, noise_fn=noise_of).numpy()


def scaled(walk: Walk) -> tuple[list[tuple[int, float, float]], FloatArray]:
    """(t, σ, s) of each timestep, and where x/s begins."""
    levels = [(t, float(np.sqrt((1 - walk[0][t]) / walk[0][t])), float(np.sqrt(walk[0][t]))) for t in walk[1]]
    return levels, X.numpy() / levels[0][2]


def eps_of(y: FloatArray, t: int, sigma: float, s: float) -> FloatArray:
    """The noise prediction at y = x/s."""
    return np.asarray((y - x0_of(s * y, t)) / sigma)


def close(a: FloatArray, b: FloatArray) -> bool:
    return bool(np.allclose(a, b, rtol=1e-8, atol=1e-8))


@given(walks(max_size=8, zero_terminal=False))
def test_heun_is_edms_algorithm_1(walk: Walk) -> None:
    levels, y = scaled(walk)
    for (t, sigma, s), after in zip(levels, [*levels[1:], None], strict=True):
        d = eps_of(y, t, sigma, s)
        if after is None:
            y = y - sigma * d
            break
        t2, sigma2, s2 = after
        euler = y + (sigma2 - sigma) * d
        y = y + (sigma2 - sigma) * (d + eps_of(euler, t2, sigma2, s2)) / 2
    assert close(drawn(HeunSampler, walk), y)


BASHFORTH: dict[int, Sequence[float]] = {
    1: (1,),
    2: (1.5, -0.5),
    3: (23 / 12, -4 / 3, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -3 / 8),
}


def multistep(walk: Walk, advance: Callable[[list[FloatArray], list[float], float], FloatArray]) -> FloatArray:
    """x/s walked by what ``advance`` adds, given the noise predictions and their σ, newest first, and the σ it goes to."""
    levels, y = scaled(walk)
    past, sigmas = list[FloatArray](), list[float]()
    for k, (t, sigma, s) in enumerate(levels):
        past, sigmas = [eps_of(y, t, sigma, s), *past], [sigma, *sigmas]
        if k == len(levels) - 1:
            return y - sigma * past[0]
        y = y + advance(past, sigmas, levels[k + 1][1])
    raise AssertionError


@given(walks(max_size=8, zero_terminal=False), st.integers(1, 4))
def test_ipndm_is_adams_bashforth_of_the_noise(walk: Walk, order: int) -> None:
    def advance(past: list[FloatArray], sigmas: list[float], end: float) -> FloatArray:
        weights = BASHFORTH[min(order, len(past))]
        return np.asarray((end - sigmas[0]) * sum(w * e for w, e in zip(weights, past, strict=False)))

    assert close(drawn(DEISSampler, walk, order=order, variant="ipndm"), multistep(walk, advance))


@given(walks(max_size=7, zero_terminal=False), st.integers(1, 4))
def test_deis_integrates_the_polynomial_through_the_noise(walk: Walk, order: int) -> None:
    def advance(past: list[FloatArray], sigmas: list[float], end: float) -> FloatArray:
        nodes = np.array(sigmas[:order]) - sigmas[0]
        places, weights = np.polynomial.legendre.leggauss(4)  # exact up to degree 7
        u, total = (end - sigmas[0]) * (places + 1) / 2, np.zeros_like(past[0])
        for j, node in enumerate(nodes):
            others = [other for i, other in enumerate(nodes) if i != j]
            lagrange = np.prod([(u - other) / (node - other) for other in others], axis=0) if others else np.ones_like(u)
            total = total + past[j] * (weights @ lagrange) * (end - sigmas[0]) / 2
        return total

    assert close(drawn(DEISSampler, walk, order=order), multistep(walk, advance))


@given(walks(max_size=8, zero_terminal=False), st.floats(1, 3))
def test_gradient_estimation_is_permenter_and_yuans(walk: Walk, gamma: float) -> None:
    def advance(past: list[FloatArray], sigmas: list[float], end: float) -> FloatArray:
        estimate = past[0] if len(past) == 1 else gamma * past[0] + (1 - gamma) * past[1]
        return np.asarray((end - sigmas[0]) * estimate)

    assert close(drawn(GradientEstimationSampler, walk, gamma=gamma), multistep(walk, advance))


def adams(nodes: Sequence[float], values: Sequence[FloatArray], start: float, end: float, tau: float) -> FloatArray:
    """SA-Solver's integral: (1 + τ²) e^{−(1+τ²)(end − λ)} times the polynomial through values at nodes."""
    places, weights = np.polynomial.legendre.leggauss(24)
    u = start + (end - start) * (places + 1) / 2
    rate, total = 1 + tau**2, np.zeros_like(values[0])
    for j, node in enumerate(nodes):
        others = [other for i, other in enumerate(nodes) if i != j]
        lagrange = np.prod([(u - other) / (node - other) for other in others], axis=0) if others else np.ones_like(u)
        total = total + values[j] * (weights @ (rate * np.exp(-rate * (end - u)) * lagrange)) * (end - start) / 2
    return total


@given(walks(max_size=6, zero_terminal=False), st.integers(1, 3), st.integers(0, 3), st.sampled_from([0.0, 0.4, 1.0]))
def test_sa_solver_is_the_papers_algorithm(walk: Walk, order: int, corrector: int, tau: float) -> None:
    s, n = ([float(np.sqrt(v)) for v in values] for values in zip(*((walk[0][t], 1 - walk[0][t]) for t in walk[1]), strict=True))
    lam = [float(np.log(a / b)) for a, b in zip(s, n, strict=True)]
    predicted, corrected = X.numpy(), X.numpy()
    past, nodes, z = list[FloatArray](), list[float](), np.zeros(0)
    for k, t in enumerate(walk[1]):
        new = x0_of(predicted, t)
        if k and corrector:
            decay = n[k] / n[k - 1] * np.exp(-(tau**2) * (lam[k] - lam[k - 1]))
            values, places = [new, *past[:corrector]], [lam[k], *nodes[:corrector]]
            corrected = decay * corrected + s[k] * adams(places, values, lam[k - 1], lam[k], tau) + z
        else:
            corrected = predicted
        past, nodes = [new, *past], [lam[k], *nodes]
        if k == len(lam) - 1:
            break
        h = lam[k + 1] - lam[k]
        z = n[k + 1] * np.sqrt(1 - np.exp(-2 * tau**2 * h)) * noise_of(k, X).numpy()
        decay = n[k + 1] / n[k] * np.exp(-(tau**2) * h)
        predicted = decay * corrected + s[k + 1] * adams(nodes[:order], past[:order], lam[k], lam[k + 1], tau) + z
    found = drawn(SASolverSampler, walk, order=order, corrector_order=corrector, eta=tau)
    assert np.allclose(found, past[0], rtol=1e-7, atol=1e-7)


@given(walks(max_size=8, zero_terminal=False))
def test_consistency_steps_are_song_and_others(walk: Walk) -> None:
    x = X.numpy()
    for k, (t, after) in enumerate(zip(walk[1], [*walk[1][1:], None], strict=True)):
        x = x0_of(x, t)
        if after is not None:
            x = np.sqrt(walk[0][after]) * x + np.sqrt(1 - walk[0][after]) * noise_of(k, X).numpy()
    assert close(drawn(ConsistencySampler, walk), x)


@given(walks(max_size=8, zero_terminal=False), st.floats(0, 1))
def test_euler_ancestral_is_ddim(walk: Walk, eta: float) -> None:
    levels, y = scaled(walk)
    for k, (t, sigma, s) in enumerate(levels):
        after = levels[k + 1][1] if k + 1 < len(levels) else 0.0
        up = eta * np.sqrt(after**2 * (sigma**2 - after**2) / sigma**2)
        down = np.sqrt(after**2 - up**2)
        y = y + (down - sigma) * eps_of(y, t, sigma, s) + (up * noise_of(k, X).numpy() if after else 0)
    assert np.allclose(drawn(DDIMSampler, walk, eta=eta), y, rtol=1e-6, atol=1e-6)


def test_what_they_are_without_their_refinement() -> None:
    times = (999, 700, 400, 120, 7)
    ddim = DDIMSampler(LINEAR, timesteps=times).plan()
    for same in (
        DEISSampler(LINEAR, timesteps=times, order=1),
        GradientEstimationSampler(LINEAR, timesteps=times, gamma=1),
        SASolverSampler(LINEAR, timesteps=times, order=1, corrector_order=0, eta=0),
    ):
        plan = same.plan()
        assert plan.b.shape == ddim.b.shape
        assert np.abs(plan.a - ddim.a).max() + np.abs(plan.b - ddim.b).max() < 1e-14
    one = SASolverSampler(LINEAR, timesteps=times, order=3, corrector_order=0, eta=1).plan()
    other = DPMSolverPPSampler(LINEAR, timesteps=times, order=3, eta=1).plan()
    assert all(np.allclose(getattr(one, name), getattr(other, name), rtol=0, atol=1e-14) for name in "abc")


ORDERS: list[tuple[type[PlanSampler], dict[str, Any]]] = [
    (HeunSampler, {}),
    *((DEISSampler, {"order": p}) for p in (1, 2, 3, 4)),
    *((DEISSampler, {"order": p, "variant": "ipndm"}) for p in (2, 3, 4)),
    *((SASolverSampler, {"order": p, "corrector_order": q, "eta": 0.0}) for p, q in ((1, 1), (2, 0), (2, 2), (3, 1), (3, 3))),
    (SASolverSampler, {"order": 2, "corrector_order": 2, "eta": 1.0}),
    *((GradientEstimationSampler, {"gamma": gamma}) for gamma in (1.0, 1.5, 2.0)),
]


@pytest.mark.promise(37)
@pytest.mark.parametrize(("kind", "settings"), ORDERS)
def test_the_measured_order_is_the_declared_one(kind: Any, settings: dict[str, Any]) -> None:
    found = measured_order(lambda schedule, times: kind(schedule, timesteps=times, **settings).plan(), steps=160)
    declared = kind(LINEAR, steps=4, **settings).convergence_order
    assert abs(found - declared) < (0.2 if settings.get("eta") == 1.0 else 0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DEISSampler(LINEAR, steps=4, order=5), "order must be 1, 2, 3 or 4, got 5"),  # type: ignore[arg-type]
        (lambda: DEISSampler(LINEAR, steps=4, variant="t_ab"), "variant must be one of rho_ab, ipndm, got 't_ab'"),  # type: ignore[arg-type]
        (lambda: SASolverSampler(LINEAR, steps=4, order=4), "order must be 1, 2 or 3, got 4"),  # type: ignore[arg-type]
        (lambda: SASolverSampler(LINEAR, steps=4, corrector_order=4), "corrector_order must be 0"),  # type: ignore[arg-type]
        (lambda: SASolverSampler(LINEAR, steps=4, eta=1.5), r"eta must lie in \[0, 1\], got 1.5"),
        (lambda: GradientEstimationSampler(LINEAR, steps=4, gamma=0.5), "gamma must be at least 1 and finite, got 0.5"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], PlanSampler], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["heun", "deis", "sa-solver", "gradient-estimation"])
def test_studies_keep_them_by_their_settings(name: str) -> None:
    sampler = MAKERS[name](LINEAR, steps=6, prediction="v")
    saved = sampler_to_dict(sampler)
    assert "plan" not in saved
    assert sampler_from_dict(saved, LINEAR, {"prediction": "v", "clip": None}) == sampler
    expected = {"heun": "Heun-11", "deis": "DEIS3-6", "sa-solver": "SA2-2-6 eta 1", "gradient-estimation": "GE2-6"}
    assert label_of(sampler) == expected[name]
