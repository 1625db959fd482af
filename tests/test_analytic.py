"""Exact denoisers against the papers and against quadrature; what a plan does to a Gaussian against the loop itself."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from ddimkit import DDIMSampler, DDPMSampler, DPMSolverPPSampler, NoiseSchedule, PlanSampler, UniPCSampler
from ddimkit.analytic import Gaussian, GaussianDenoiser, MixtureDenoiser, error_of, gaussian_error, gaussian_moments
from ddimkit.prediction import Prediction
from strategies import built_in_schedules, timesteps, walks

LINEAR = NoiseSchedule.linear()
MEAN, SPECTRUM = np.array([0.3, -0.8, 0.0, 1.5]), np.array([0.25, 2.0, 1e-4, 0.0])
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "x0", "v", "flow")


def samplers(schedule: NoiseSchedule, **settings: Any) -> list[PlanSampler]:
    return [
        *(DDIMSampler(schedule, eta=eta, **settings) for eta in (0.0, 0.4, 1.0)),
        *(DDPMSampler(schedule, variance=v, **settings) for v in ("fixed_small", "fixed_large")),
        *(DPMSolverPPSampler(schedule, order=p, eta=eta, **settings) for p in (1, 2, 3) for eta in (0, 1)),
        *(UniPCSampler(schedule, order=p, **settings) for p in (1, 2, 3)),
    ]


@settings(max_examples=60, deadline=None)
@given(walk=walks(max_size=12, zero_terminal=False), eta=st.floats(0, 1), mean=st.floats(-2, 2), variance=st.floats(1e-3, 4))
def test_moments_of_ddim_are_the_papers(walk: Any, eta: float, mean: float, variance: float) -> None:
    alpha_bars, chosen = walk
    schedule = NoiseSchedule.from_alpha_bars(alpha_bars)
    found = gaussian_error(DDIMSampler(schedule, timesteps=chosen, eta=eta).plan(), mean, [variance], schedule=schedule)
    m, q = oracle.gaussian_ddim_chain_moments(alpha_bars, chosen, eta, mean, variance)
    assert found.mean[0] == pytest.approx(m, abs=1e-7)
    assert found.variance[0] == pytest.approx(q, abs=1e-7)
    assert found.frechet == pytest.approx((m - mean) ** 2 + (math.sqrt(q) - math.sqrt(variance)) ** 2, abs=1e-6)
    assert found.w2 == math.sqrt(found.frechet)


@pytest.mark.parametrize("schedule", [NoiseSchedule.cosine(60), NoiseSchedule.linear(60, 1e-3, 0.3)])
@pytest.mark.parametrize("index", range(len(samplers(LINEAR, steps=2))))
def test_moments_are_what_the_loop_does(schedule: NoiseSchedule, index: int) -> None:
    """The loop is linear in x_T and in every row's noise: its answers to one of them at a time give mean and variance."""
    sampler = samplers(schedule, steps=7, prediction="x0")[index]
    model = GaussianDenoiser(schedule, MEAN, SPECTRUM)
    found = gaussian_error(sampler.plan(), MEAN, SPECTRUM, schedule=schedule)

    def answer(pushed: int | None) -> np.ndarray:
        noise = lambda draw, like: torch.full_like(like, float(draw == pushed))  # noqa: E731
        return sampler.sample(model, (1, 4), noise_fn=noise, dtype=torch.float64)[0].numpy()

    still = answer(None)
    np.testing.assert_allclose(found.mean, still, rtol=0, atol=1e-12)
    variance = sum((answer(draw) - still) ** 2 for draw in range(-1, 7))
    np.testing.assert_allclose(found.variance, variance, rtol=0, atol=1e-12)


def test_moments_row_by_row() -> None:
    plan = DDIMSampler(LINEAR, 10).plan()
    means, variances = gaussian_moments(plan, MEAN, SPECTRUM, schedule=LINEAR, start=(0.5, [1.0, 2.0, 3.0, 4.0]))
    assert means.shape == variances.shape == (11, 4)
    assert means[0].tolist() == [0.5] * 4
    assert variances[0].tolist() == [1, 2, 3, 4]
    standard = gaussian_moments(plan, MEAN, SPECTRUM, schedule=LINEAR)[1][-1]
    np.testing.assert_array_equal(standard, gaussian_error(plan, MEAN, SPECTRUM, schedule=LINEAR).variance)


@pytest.mark.promise(12)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_of_a_denoiser_is_the_same(prediction: Prediction) -> None:
    x = torch.randn(5, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixture: dict[str, Any] = {"weights": (1, 3), "means": np.stack((MEAN, -MEAN)), "variances": 0.3}
    for kind, arguments in ((GaussianDenoiser, {"mean": MEAN, "spectrum": SPECTRUM}), (MixtureDenoiser, mixture)):
        results = [
            DDIMSampler(LINEAR, 8, prediction=p).sample(kind(LINEAR, **arguments, prediction=p), x_T=x) for p in ("x0", prediction)
        ]
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), schedule=built_in_schedules(min_size=2, max_size=50), x=st.floats(-3, 3))
def test_a_gaussians_eps_is_the_papers(data: st.DataObject, schedule: NoiseSchedule, x: float) -> None:
    (t,) = data.draw(timesteps(schedule.num_timesteps, max_size=1))
    model = GaussianDenoiser(schedule, 0.7, [0.25], prediction="epsilon")
    found = float(model(torch.tensor([[x]], dtype=torch.float64), torch.tensor([t])))
    s, n = schedule.signal[t], schedule.noise[t]
    assert found == pytest.approx(n * (x - s * 0.7) / (s * s * 0.25 + n * n), rel=1e-6, abs=1e-9)


def test_a_basis_turns_the_data() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    samples = np.random.default_rng(1).normal(MEAN, np.sqrt(SPECTRUM), (20000, 4)) @ turn.T
    found = Gaussian.of(samples)
    np.testing.assert_allclose(found.spectrum, [2.0, 0.25, 1e-4, 0.0], atol=0.05)
    assert np.all(np.diff(found.spectrum) <= 0)
    np.testing.assert_allclose(np.abs(found.mean), [0.8, 0.3, 0.0, 1.5], atol=0.03)
    model, plain = GaussianDenoiser(LINEAR, MEAN, SPECTRUM, basis=turn), GaussianDenoiser(LINEAR, MEAN, SPECTRUM)
    x, t = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 500, 999])
    around = torch.from_numpy(turn)
    torch.testing.assert_close(model(x @ around.T, t), plain(x, t) @ around.T)


def test_a_mixture_of_one_is_a_gaussian() -> None:
    x, t = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 400, 999])
    spectrum = SPECTRUM + 0.1
    torch.testing.assert_close(
        MixtureDenoiser(LINEAR, [2.0], [MEAN], [spectrum])(x, t), GaussianDenoiser(LINEAR, MEAN, spectrum)(x, t)
    )


@pytest.mark.parametrize("t", [0, 300, 700])
def test_a_mixtures_denoiser_is_the_posterior_mean(t: int) -> None:
    """By quadrature over x0 in one dimension."""
    weights, means, variances = [0.2, 0.5, 0.3], [-1.0, 0.2, 0.9], [0.01, 0.1, 0.04]
    model = MixtureDenoiser(LINEAR, weights, np.array(means)[:, None], np.array(variances)[:, None])
    s, n, x0 = LINEAR.signal[t], LINEAR.noise[t], np.linspace(-6, 6, 400_001)
    prior = sum(w * np.exp(-((x0 - m) ** 2) / 2 / v) / math.sqrt(v) for w, m, v in zip(weights, means, variances, strict=True))
    for x in (-1.2, 0.1, 0.8):
        posterior = prior * np.exp(-((x - s * x0) ** 2) / 2 / n**2)
        found = model(torch.tensor([[x]], dtype=torch.float64), torch.tensor([t]))
        assert float(found) == pytest.approx(float((x0 * posterior).sum() / posterior.sum()), abs=1e-6)


def test_denoisers_take_images_and_keep_their_dtype() -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(2, 1, 2, 2, dtype=dtype)
        for model in (GaussianDenoiser(LINEAR, MEAN, SPECTRUM), MixtureDenoiser(LINEAR, [1, 1], [MEAN, -MEAN], 0.1)):
            found = model(x, torch.tensor([3, 3]))
            assert found.shape == x.shape
            assert found.dtype is dtype


def test_bins_keep_the_error() -> None:
    draw = np.random.default_rng(0)
    data = Gaussian(draw.normal(0, 0.5, 500), np.exp(draw.uniform(-9, 3, 500)))
    binned = data.binned(48)
    assert len(binned.spectrum) <= 48
    assert np.asarray(binned.count).sum() == 500
    for sampler in samplers(LINEAR, steps=10):
        exact = gaussian_error(sampler.plan(), data.mean, data.spectrum, schedule=LINEAR).frechet
        assert error_of(sampler.plan(), binned, LINEAR).frechet == pytest.approx(exact, rel=0.02)


@pytest.mark.promise(38)
@pytest.mark.parametrize("spacing", ["trailing", "linspace", "quadratic", "log_snr"])
def test_more_steps_are_closer_on_a_smooth_gaussian(spacing: Any) -> None:
    schedule = NoiseSchedule.cosine(1000)
    curve = [
        gaussian_error(DDIMSampler(schedule, S, spacing=spacing).plan(), 0.2, [0.25, 0.5, 1.5], schedule=schedule).w2
        for S in (5, 10, 20, 40, 80, 160, 320)
    ]
    assert all(more < fewer for fewer, more in itertools.pairwise(curve)), curve


@pytest.mark.promise(38)
def test_without_noise_ten_steps_are_closer() -> None:
    errors = [gaussian_error(DDIMSampler(LINEAR, 10, eta=eta).plan(), 0.2, [0.25, 0.5, 1.5], schedule=LINEAR).w2 for eta in (0, 1)]
    assert errors[0] < errors[1]


def test_learned_ranges_are_refused() -> None:
    plan = DDPMSampler(LINEAR, 5, variance="learned_range").plan()
    with pytest.raises(ValueError, match="learned_range"):
        gaussian_error(plan, 0.0, [1.0], schedule=LINEAR)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Gaussian(np.zeros(2), np.array([-1.0, 1.0])), "at least 0"),
        (lambda: Gaussian(np.zeros(2), np.zeros((2, 2))), "finite|must be"),
        (lambda: Gaussian(np.zeros(2), np.ones(2), np.ones(3)), r"\(D,\)"),
        (lambda: Gaussian(np.zeros(2), np.array([np.nan, 1.0])), "spectrum"),
        (lambda: Gaussian.of(np.zeros((1, 3))), "N at least 2"),
        (lambda: Gaussian(np.zeros(2), np.ones(2)).binned(0), "at least 1 bin"),
        (
            lambda: gaussian_error(DDIMSampler(LINEAR, 5).plan(), 0.0, [1.0], schedule=NoiseSchedule.linear(10)),
            r"must lie in 0\.\.9, got 999",
        ),
        (lambda: GaussianDenoiser(LINEAR, 0.0, [1.0], prediction="eps"), "prediction must be one of"),
        (lambda: GaussianDenoiser(LINEAR, np.zeros(3), np.ones(2)), r"\(3,\), \(2,\)"),
        (lambda: GaussianDenoiser(LINEAR, 0.0, [-1.0]), "no eigenvalue negative"),
        (lambda: GaussianDenoiser(LINEAR, 0.0, [np.inf]), "finite"),
        (lambda: GaussianDenoiser(LINEAR, 0.0, np.ones(2), basis=np.ones((2, 3))), r"\(D, D\)"),
        (lambda: MixtureDenoiser(LINEAR, (1.0,), np.zeros((1, 2)), 1.0, prediction="eps"), "prediction must be one of"),
        (lambda: MixtureDenoiser(LINEAR, (1.0, -1.0), np.zeros((2, 2)), 1.0), "above 0"),
        (lambda: MixtureDenoiser(LINEAR, (1.0,), np.zeros((2, 2)), 1.0), "one weight"),
        (lambda: MixtureDenoiser(LINEAR, (1.0,), np.zeros((1, 2)), -1.0), "no variance negative"),
        (lambda: MixtureDenoiser(LINEAR, (1.0,), np.zeros((1, 2)), np.ones((1, 3))), "broadcast"),
    ],
)
def test_bad_input_raises(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
