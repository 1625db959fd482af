"""Conversions between predictions, clipping and thresholding, against the papers' equations."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle
from ddimkit import DDIMSampler, DDPMSampler, DynamicThreshold, NoiseSchedule, PlanSampler
from ddimkit.prediction import Clip, Prediction, check_clip, clip_x0, x0_coefficients
from strategies import alpha_bar_lists, schedules, walks

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
DENOISERS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "linear": lambda x, s: 0.3 + 0.6 * s * x,
    "saturating": lambda x, s: torch.tanh(1.5 * x) * (0.5 + s / 2),
}


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model_of(schedule: NoiseSchedule, denoise: Callable[[Tensor, float], Tensor], prediction: Prediction) -> Callable[..., Tensor]:
    """One denoiser asked for another quantity: what x0_hat says of eps, v or u at that t."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        s, n = float(schedule.signal[int(t[0])]), float(schedule.noise[int(t[0])])
        x0 = denoise(x, s)
        eps = (x - s * x0) / n
        return {"x0": x0, "epsilon": eps, "v": s * eps - n * x0, "flow": eps - x0}[prediction]

    return model


@pytest.mark.promise(12)
@settings(max_examples=60)
@given(alpha_bars=alpha_bar_lists(zero_terminal=False, max_size=12), data=st.data())
def test_predict_x0_equals_the_papers(alpha_bars: list[float], data: st.DataObject) -> None:
    schedule = NoiseSchedule.from_alpha_bars(alpha_bars)
    t = data.draw(st.integers(0, len(alpha_bars) - 1))
    x, out = random(3, 4, seed=1), random(3, 4, seed=2)
    alpha_bar, s, n = alpha_bars[t], float(schedule.signal[t]), float(schedule.noise[t])
    expected = {
        "epsilon": oracle.x0_from_eps(x.numpy(), out.numpy(), alpha_bar),
        "x0": out.numpy(),
        "v": oracle.x0_from_v(x.numpy(), out.numpy(), alpha_bar),
        "flow": oracle.x0_from_flow(x.numpy(), out.numpy(), s, n),
    }
    for prediction in PREDICTIONS:
        found = DDIMSampler(schedule, timesteps=[t], prediction=prediction).predict_x0(x, out, 0)
        np.testing.assert_allclose(found.numpy(), expected[prediction], rtol=1e-12, atol=1e-13 / s)


@pytest.mark.promise(12)
@given(signal=st.floats(1e-3, 1), noise=st.floats(1e-3, 1), seed=st.integers(0, 99))
def test_every_prediction_of_one_pair_gives_its_x0_back(signal: float, noise: float, seed: int) -> None:
    # Not only where s^2 + n^2 = 1: rectified flow is not such a schedule.
    x0, eps = random(7, seed=seed), random(7, seed=seed + 100)
    x = signal * x0 + noise * eps
    outputs = {"epsilon": eps, "x0": x0, "v": signal * eps - noise * x0, "flow": eps - x0}
    for prediction in PREDICTIONS:
        A, B = x0_coefficients(prediction, np.array([signal]), np.array([noise]))
        np.testing.assert_allclose((A[0] * x + B[0] * outputs[prediction]).numpy(), x0.numpy(), rtol=1e-9, atol=1e-14 / signal**2)


def test_rectified_flow_is_x_minus_tau_u() -> None:
    schedule = NoiseSchedule.rectified_flow(10)
    x, u = random(2, 5, seed=1), random(2, 5, seed=2)
    for t in range(10):
        sampler = DDIMSampler(schedule, timesteps=[t], prediction="flow")
        np.testing.assert_allclose(sampler.predict_x0(x, u, 0).numpy(), (x - (t + 1) / 10 * u).numpy(), atol=1e-14)


TRAJECTORIES: dict[str, Callable[..., PlanSampler]] = {
    "ddim": DDIMSampler,
    "ddim eta 0.7": partial(DDIMSampler, eta=0.7),
    "ddpm fixed_small": DDPMSampler,
    "ddpm fixed_large": partial(DDPMSampler, variance="fixed_large"),
}
each_sampler = pytest.mark.parametrize("make", TRAJECTORIES.values(), ids=TRAJECTORIES)


@pytest.mark.promise(12)
@each_sampler
@pytest.mark.parametrize("denoiser", DENOISERS)
@pytest.mark.parametrize("clip", [None, (-0.5, 0.4), DynamicThreshold(0.9, max=1.2)])
@settings(max_examples=6)
@given(walk=walks(max_size=8, zero_terminal=False))
def test_equivalent_models_give_one_trajectory(
    make: Callable[..., PlanSampler], denoiser: str, clip: Clip, walk: tuple[list[float], tuple[int, ...]]
) -> None:
    alpha_bars, chosen = walk
    schedule = NoiseSchedule.from_alpha_bars(alpha_bars)
    x_T = random(2, 6, seed=4)
    walks_by_prediction = []
    for prediction in PREDICTIONS:
        sampler = make(schedule, timesteps=chosen, prediction=prediction, clip=clip)
        model = model_of(schedule, DENOISERS[denoiser], prediction)
        walks_by_prediction.append(torch.stack([state.x for state in sampler.iterate(model, x_T=x_T, seed=3)]))
    for other in walks_by_prediction[1:]:
        torch.testing.assert_close(other, walks_by_prediction[0], rtol=1e-10, atol=1e-10)


@pytest.mark.promise(12, 16)
@each_sampler
@pytest.mark.parametrize("schedule", [NoiseSchedule.rectified_flow(40), NoiseSchedule.linear(40).zero_terminal_snr()], ids=repr)
def test_equivalent_models_give_one_trajectory_from_zero_snr(make: Callable[..., PlanSampler], schedule: NoiseSchedule) -> None:
    # At zero SNR eps says nothing of x0, so epsilon prediction is left out; flow needs its own straight path to say x0.
    x_T, results = random(2, 6, seed=4), []
    for prediction in ("x0", "v", "flow"):
        sampler = make(schedule, 7, prediction=prediction)
        results.append(sampler.sample(model_of(schedule, DENOISERS["saturating"], prediction), x_T=x_T, seed=3))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-10, atol=1e-10)


@pytest.mark.promise(12)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@settings(max_examples=25)
@given(walk=walks(max_size=10, zero_terminal=False), eta=st.sampled_from([0.0, 0.5]), bound=st.floats(0.1, 1))
def test_eps_is_derived_anew_from_the_clipped_x0(
    prediction: Prediction, walk: tuple[list[float], tuple[int, ...]], eta: float, bound: float
) -> None:
    alpha_bars, chosen = walk
    schedule = NoiseSchedule.from_alpha_bars(alpha_bars)
    sampler = DDIMSampler(schedule, timesteps=chosen, prediction=prediction, eta=eta, clip=(-bound, 0.5 * bound))
    x, z = random(2, 5, seed=1, scale=2.0), random(2, 5, seed=3)
    for k, (now, after) in enumerate(oracle.alpha_bar_pairs(alpha_bars, chosen)):
        model = model_of(schedule, lambda x, s: 2 * x, prediction)
        out = model(x, torch.tensor([chosen[k]] * 2))
        clipped = np.clip(2 * x.numpy(), -bound, 0.5 * bound)
        expected = oracle.ddim_from_x0(x.numpy(), clipped, now, after, eta, z.numpy() if after < 1 else 0.0)
        np.testing.assert_allclose(sampler.step(x, out, k, noise=z).numpy(), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(sampler.predict_x0(x, out, k).numpy(), clipped, rtol=1e-9, atol=1e-9)


@pytest.mark.promise(13)
@pytest.mark.parametrize("sampler", [DDIMSampler, DDPMSampler])
def test_clipping_is_off_unless_asked_for(sampler: type[PlanSampler]) -> None:
    schedule = NoiseSchedule.linear(10)
    assert sampler(schedule, 5).clip is None
    assert sampler(schedule, 5).record()["settings"]["clip"] is None
    assert sampler(schedule, 5, clip=(-1, 1)).record()["settings"]["clip"] == [-1.0, 1.0]
    assert sampler(schedule, 5, clip=(-2.5, 0)).record()["settings"]["clip"] == [-2.5, 0.0]
    dynamic = sampler(schedule, 5, clip=DynamicThreshold(0.9, max=2.0)).record()["settings"]["clip"]
    assert dynamic == {"quantile": 0.9, "max": 2.0}


@pytest.mark.promise(13)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions_beyond_any_range_pass_unclipped(prediction: Prediction) -> None:
    schedule, far = NoiseSchedule.linear(10), torch.full((1, 3), 1e6, dtype=torch.float64)
    sampler = DDIMSampler(schedule, 5, prediction=prediction)
    model = model_of(schedule, lambda x, s: far, prediction)
    torch.testing.assert_close(sampler.sample(model, x_T=random(1, 3)), far, rtol=1e-12, atol=0)
    clipped = DDIMSampler(schedule, 5, prediction=prediction, clip=(-1, 0.75))
    assert torch.equal(clipped.sample(model, x_T=random(1, 3)), torch.full((1, 3), 0.75, dtype=torch.float64))


@pytest.mark.parametrize(
    ("clip", "expected"),
    [(None, None), ((-1, 1), (-1.0, 1.0)), ([-1, 1.5], (-1.0, 1.5)), (DynamicThreshold(), DynamicThreshold(0.995, None))],
)
def test_clip_settings_have_one_form(clip: Any, expected: Clip) -> None:
    assert check_clip(clip) == expected
    schedule = NoiseSchedule.linear(10)
    one, two = DDIMSampler(schedule, 5, clip=clip), DDIMSampler(schedule, 5, clip=expected)
    assert one == two
    assert hash(one) == hash(two)


@pytest.mark.promise(11)
@pytest.mark.parametrize("sampler", [DDIMSampler, DDPMSampler])
@pytest.mark.parametrize(
    ("clip", "error", "match"),
    [
        ((1, -1), ValueError, r"low < high, got \(1, -1\)"),
        ((1, 1), ValueError, "low < high"),
        ((0, float("nan")), ValueError, "low < high"),
        ((-1, 0, 1), TypeError, "pair"),
        (1.0, TypeError, "got 1.0"),
        (True, TypeError, "got True"),
        ("clip", TypeError, "got 'clip'"),
        ((False, True), TypeError, "got"),
        ((-1, "1"), TypeError, "got"),
        (torch.tensor([-1.0, 1.0]), TypeError, "got"),
    ],
)
def test_invalid_clips_raise(sampler: type[PlanSampler], clip: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sampler(NoiseSchedule.linear(10), 5, clip=clip)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"quantile": 0.0}, r"\(0, 1\], got 0.0"),
        ({"quantile": 1.1}, "got 1.1"),
        ({"quantile": float("nan")}, "got nan"),
        ({"max": 0.9}, "at least 1, got 0.9"),
        ({"max": float("nan")}, "got nan"),
    ],
)
def test_invalid_dynamic_thresholds_raise(arguments: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DynamicThreshold(**arguments)


@pytest.mark.promise(31)
@settings(max_examples=80)
@given(
    shape=st.sampled_from([(3,), (2, 7), (3, 2, 4), (2, 1, 3, 3), (2, 2, 1, 2, 3), (0, 3), (2, 0)]),
    quantile=st.floats(0.01, 1),
    cap=st.none() | st.floats(1, 3),
    scale=st.floats(0.1, 5),
    seed=st.integers(0, 99),
)
def test_dynamic_threshold_equals_the_papers(
    shape: tuple[int, ...], quantile: float, cap: float | None, scale: float, seed: int
) -> None:
    x0 = random(*shape, seed=seed, scale=scale)
    kept = x0.clone()
    found = DynamicThreshold(quantile, cap)(x0)
    assert found.shape == x0.shape
    assert torch.equal(x0, kept)
    if x0.numel():
        expected = [oracle.dynamic_threshold(np.atleast_1d(one), quantile, cap).reshape(one.shape) for one in x0.numpy()]
        np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=1e-12, atol=1e-12)
        assert found.abs().max() <= 1 + 1e-12


def test_dynamic_threshold_is_each_samples_own() -> None:
    small, large = random(1, 20, seed=1, scale=0.3), random(1, 20, seed=2, scale=9.0)
    threshold = DynamicThreshold(0.8)
    both = threshold(torch.cat([small, large]))
    assert torch.equal(both, torch.cat([threshold(small), threshold(large)]))
    assert torch.equal(both[:1], small.clamp(-1, 1))  # a quantile below 1 counts as 1
    assert torch.equal(threshold(small / 9), small / 9)


@given(low=st.floats(-3, 0), width=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_clip_is_the_nearest_value_within(low: float, width: float, seed: int) -> None:
    x0 = random(3, 4, seed=seed, scale=3.0)
    clipped = clip_x0(x0, (low, low + width))
    assert np.array_equal(clipped.numpy(), np.minimum(np.maximum(x0.numpy(), low), low + width))
    assert clip_x0(x0, None) is x0


ZERO_SNR = [
    NoiseSchedule.rectified_flow(20),
    NoiseSchedule.linear(20).zero_terminal_snr(),
    NoiseSchedule.from_alpha_bars([0.9, 0.0]),
]


@pytest.mark.promise(16)
@pytest.mark.parametrize("sampler", [DDIMSampler, DDPMSampler])
@pytest.mark.parametrize("schedule", ZERO_SNR, ids=repr)
def test_epsilon_at_zero_snr_raises_with_the_remedy(sampler: type[PlanSampler], schedule: NoiseSchedule) -> None:
    T = schedule.num_timesteps
    for arguments in ({"steps": 2}, {"timesteps": [T - 1, 0]}, {"timesteps": [T - 1]}):
        with pytest.raises(ValueError, match=f"t={T - 1}.*prediction='v', 'x0' or 'flow', or timesteps that start lower"):
            sampler(schedule, **arguments)
        with pytest.raises(ValueError, match="signal is 0"):
            sampler(schedule, **arguments, prediction="epsilon")
    lower = sampler(schedule, timesteps=[T - 2])
    assert np.all(np.isfinite(lower.coefficients.table))


@pytest.mark.promise(8, 16)
@pytest.mark.parametrize("prediction", ["x0", "v", "flow"])
@each_sampler
@settings(max_examples=10)
@given(data=st.data())
def test_other_predictions_are_finite_at_zero_snr(
    make: Callable[..., PlanSampler], prediction: Prediction, data: st.DataObject
) -> None:
    alpha_bars, chosen = data.draw(walks(max_size=10, zero_terminal=True))
    chosen = tuple(sorted({len(alpha_bars) - 1, *chosen}, reverse=True))
    sampler = make(NoiseSchedule.from_alpha_bars(alpha_bars), timesteps=chosen, prediction=prediction)
    assert np.all(np.isfinite(sampler.coefficients.table))
    x = sampler.sample(lambda x, t: torch.tanh(x), x_T=random(2, 3), seed=1)
    assert torch.isfinite(x).all()


@pytest.mark.promise(11)
@pytest.mark.parametrize("sampler", [DDIMSampler, DDPMSampler])
@pytest.mark.parametrize("prediction", ["eps", "sample", "v_prediction", "", None])
def test_unknown_predictions_raise(sampler: type[PlanSampler], prediction: Any) -> None:
    with pytest.raises(ValueError, match="prediction must be one of epsilon, x0, v, flow, got"):
        sampler(NoiseSchedule.linear(10), 5, prediction=prediction)


@pytest.mark.promise(11)
@given(schedule=schedules(min_size=2))
def test_each_prediction_reads_the_output_its_own_way(schedule: NoiseSchedule) -> None:
    x, out = random(1, 3, seed=1), random(1, 3, seed=2)
    found = [DDIMSampler(schedule, 2, prediction=p).predict_x0(x, out, 0) for p in PREDICTIONS]
    for i, one in enumerate(found):
        assert all(not torch.equal(one, other) for other in found[:i])
    assert math.isfinite(float(torch.stack(found).sum()))
