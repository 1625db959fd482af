"""DDIM and DDPM: tables against 50-digit coefficients, identities, whole trajectories, exact moments, inversion."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle
from ddimkit import DDIMSampler, DDPMSampler, NoiseSchedule, Plan, PlanSampler
from ddimkit.plan import Levels
from ddimkit.samplers.ddpm import Variance
from oracle import Array
from strategies import BUILT_IN, SPACINGS, built_in_schedules, schedules, timesteps, walks

Walk = tuple[list[float], tuple[int, ...]]
VARIANCES: tuple[Variance, ...] = ("fixed_small", "fixed_large", "learned_range")
ETAS = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))
ANY_SCHEDULE = st.one_of(schedules(zero_terminal=None), built_in_schedules(max_size=60))


def plan_ddim(schedule: NoiseSchedule, chosen: tuple[int, ...], eta: float) -> Plan:
    return DDIMSampler(schedule, timesteps=chosen, eta=eta, prediction="v").plan()


def plan_ddpm(schedule: NoiseSchedule, chosen: tuple[int, ...], variance: Variance) -> Plan:
    return DDPMSampler(schedule, timesteps=chosen, variance=variance, prediction="v").plan()


def assert_last_row_is_the_image(plan: Plan) -> None:
    """Exactly a = 0, b = (1, 0, ...), c = 0, down to the bit."""
    assert plan.t_next[-1] is None
    assert plan.a[-1] == 0
    assert plan.b[-1].tolist() == [1.0, *[0.0] * (plan.b.shape[1] - 1)]
    assert plan.c[-1] == 0
    assert plan.c_max is None or plan.c_max[-1] == 0


@pytest.mark.promise(1, 8)
@settings(max_examples=120)
@given(walk=walks(), eta=ETAS)
@example(walk=([0.9, 0.5, 0.0], (2, 0)), eta=1.0)
@example(walk=([0.9, 0.0], (1,)), eta=0.3)
def test_ddim_rows_equal_fifty_digits(walk: Walk, eta: float) -> None:
    alpha_bars, chosen = walk
    plan = plan_ddim(NoiseSchedule.from_alpha_bars(alpha_bars), chosen, eta)
    expected = [oracle.mp_ddim_coefficients(now, after, eta) for now, after in oracle.alpha_bar_pairs(alpha_bars, chosen)]
    for found, column in zip((plan.a, plan.b[:, 0], plan.c), zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(found, oracle.to_floats(column), rtol=0, atol=1e-12)
    assert plan.t == chosen
    assert plan.t_next == (*chosen[1:], None)
    assert plan.b.shape == (len(chosen), 1)
    assert plan.c_max is None


@pytest.mark.promise(1, 8)
@pytest.mark.parametrize("variance", VARIANCES)
@settings(max_examples=60)
@given(walk=walks())
@example(walk=([0.9, 0.5, 0.0], (2, 0)))
def test_ddpm_rows_equal_fifty_digits(variance: Variance, walk: Walk) -> None:
    alpha_bars, chosen = walk
    plan = plan_ddpm(NoiseSchedule.from_alpha_bars(alpha_bars), chosen, variance)
    pairs = oracle.alpha_bar_pairs(alpha_bars, chosen)
    a, b, small, large = (
        oracle.to_floats(column) for column in zip(*(oracle.mp_ddpm_coefficients(*pair) for pair in pairs), strict=True)
    )
    np.testing.assert_allclose(plan.a, a, rtol=0, atol=1e-12)
    np.testing.assert_allclose(plan.b[:, 0], b, rtol=0, atol=1e-12)
    np.testing.assert_allclose(plan.c, large if variance == "fixed_large" else small, rtol=0, atol=1e-12)
    assert (plan.c_max is None) == (variance != "learned_range")
    if plan.c_max is not None:
        np.testing.assert_allclose(plan.c_max, large, rtol=0, atol=1e-12)


@pytest.mark.promise(1, 8)
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_rows_of_the_published_schedules_equal_fifty_digits(name: str, spacing: Any) -> None:
    # The oracle's own alpha_bars: what a rounding of the schedule does to a row is measured too.
    exact = {
        "linear": oracle.linear_alpha_bars,
        "scaled_linear": oracle.scaled_linear_alpha_bars,
        "cosine": oracle.cosine_alpha_bars,
        "sigmoid": oracle.sigmoid_alpha_bars,
    }[name](1000)
    sampler = DDIMSampler(BUILT_IN[name](1000), 40, spacing=spacing, eta=0.6)
    plan, values = sampler.plan(), [*(exact[t] for t in sampler.timesteps), oracle.MP.mpf(1)]
    for k in range(40):
        expected = oracle.to_floats(oracle.mp_ddim_coefficients(values[k], values[k + 1], 0.6))
        np.testing.assert_allclose([plan.a[k], plan.b[k, 0], plan.c[k]], expected, rtol=0, atol=1e-12)


@pytest.mark.promise(1)
@pytest.mark.parametrize("spacing", SPACINGS)
@given(data=st.data())
def test_the_next_level_is_the_next_timesteps_own_bit_for_bit(spacing: Any, data: st.DataObject) -> None:
    schedule = data.draw(ANY_SCHEDULE)
    S = data.draw(st.integers(1, schedule.num_timesteps))
    sampler = DDIMSampler(schedule, S, spacing=spacing, eta=0.5, prediction="v")
    chosen, levels = sampler.timesteps, Levels.of(schedule, sampler.timesteps)
    squares = np.append(schedule.alpha_bars[list(chosen[1:])], 1.0)
    assert np.array_equal(levels.s_next**2 / (levels.s_next**2 + levels.n_next**2), squares)
    plan = sampler.plan()
    for k in range(S - 1):  # a row knows its own pair and nothing else of the list
        alone = plan_ddim(schedule, (chosen[k], chosen[k + 1]), 0.5)
        assert (plan.a[k], plan.b[k, 0], plan.c[k]) == (alone.a[0], alone.b[0, 0], alone.c[0])


@pytest.mark.promise(7)
@settings(max_examples=80)
@given(schedule=ANY_SCHEDULE, data=st.data(), eta=ETAS)
def test_identities_of_every_row(schedule: NoiseSchedule, data: st.DataObject, eta: float) -> None:
    chosen = data.draw(timesteps(schedule.num_timesteps))
    levels = Levels.of(schedule, chosen)
    ddim, deterministic = plan_ddim(schedule, chosen, eta), plan_ddim(schedule, chosen, 0.0)
    for plan in (ddim, deterministic, *(plan_ddpm(schedule, chosen, variance) for variance in VARIANCES)):
        assert_last_row_is_the_image(plan)
        np.testing.assert_allclose(plan.a * levels.s + plan.b.sum(axis=1), levels.s_next, rtol=0, atol=1e-15)
        assert np.all(plan.a >= 0)
        assert np.all(plan.c >= 0)
    np.testing.assert_allclose(deterministic.a * levels.n, levels.n_next, rtol=1e-15)
    assert not deterministic.c.any()
    np.testing.assert_allclose((ddim.a * levels.n) ** 2 + ddim.c**2, levels.n_next**2, rtol=1e-13)


@pytest.mark.promise(9)
@settings(max_examples=80)
@given(schedule=ANY_SCHEDULE, data=st.data())
def test_eta_1_is_ddpm_fixed_small(schedule: NoiseSchedule, data: st.DataObject) -> None:
    chosen = data.draw(timesteps(schedule.num_timesteps))
    ddim, ddpm = plan_ddim(schedule, chosen, 1.0), plan_ddpm(schedule, chosen, "fixed_small")
    for name in ("a", "b", "c"):
        np.testing.assert_allclose(getattr(ddim, name), getattr(ddpm, name), rtol=0, atol=1e-12)
    assert (ddim.t, ddim.t_next) == (ddpm.t, ddpm.t_next)


@pytest.mark.promise(9)
@given(schedule=ANY_SCHEDULE, data=st.data(), eta=st.floats(1e-3, 1))
def test_eta_scales_the_standard_deviation(schedule: NoiseSchedule, data: st.DataObject, eta: float) -> None:
    chosen = data.draw(timesteps(schedule.num_timesteps))
    np.testing.assert_allclose(plan_ddim(schedule, chosen, eta).c, eta * plan_ddim(schedule, chosen, 1.0).c, rtol=1e-14)


@pytest.mark.promise(8)
@given(schedule=ANY_SCHEDULE, data=st.data())
def test_variances_are_ordered_and_finite(schedule: NoiseSchedule, data: st.DataObject) -> None:
    chosen = data.draw(timesteps(schedule.num_timesteps))
    small, large, learned = (plan_ddpm(schedule, chosen, variance) for variance in VARIANCES)
    assert learned.c_max is not None
    assert np.array_equal(learned.c, small.c)
    assert np.array_equal(learned.c_max, large.c)
    assert np.all(large.c[:-1] > small.c[:-1])
    assert np.all(small.c[:-1] > 0)
    for plan in (small, large, learned):
        assert np.array_equal(plan.a, small.a)
        assert np.array_equal(plan.b, small.b)


@pytest.mark.promise(9, 11)
@pytest.mark.parametrize(
    ("eta", "error"),
    [
        (-0.1, ValueError),
        (1.5, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_eta_outside_its_range_raises(eta: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"eta must .*got"):
        DDIMSampler(NoiseSchedule.linear(10), 5, eta=eta)


@pytest.mark.promise(11)
def test_unknown_settings_raise_at_construction() -> None:
    schedule = NoiseSchedule.linear(10)
    for variance in ("small", "learned", "", None):
        with pytest.raises(ValueError, match="variance must be one of fixed_small, fixed_large, learned_range, got"):
            DDPMSampler(schedule, 5, variance=variance)  # type: ignore[arg-type]
    for make, unknown in ((DDIMSampler, "variance"), (DDIMSampler, "steps_offset"), (DDPMSampler, "eta"), (DDPMSampler, "order")):
        with pytest.raises(TypeError, match=unknown):
            make(schedule, 5, **{unknown: 1})  # type: ignore[arg-type]
    for not_a_schedule in (None, schedule.alpha_bars, "linear", 1000):
        for make in (DDIMSampler, DDPMSampler):
            with pytest.raises(TypeError, match="schedule must be a NoiseSchedule"):
                make(not_a_schedule, 5)  # type: ignore[arg-type]


PERTURBATIONS: list[tuple[type[PlanSampler], dict[str, Any]]] = [
    (DDIMSampler, {"steps": 6}),
    (DDIMSampler, {"steps": None, "timesteps": (99, 50, 2)}),
    (DDIMSampler, {"schedule": NoiseSchedule.cosine(100)}),
    *(
        (DDIMSampler, {"spacing": spacing})
        for spacing in ("leading", "linspace", "quadratic", "log_snr", "karras", "quadratic_song2021")
    ),
    *((DDIMSampler, {"prediction": prediction}) for prediction in ("x0", "v", "flow")),
    (DDIMSampler, {"clip": (-0.5, 0.5)}),
    (DDIMSampler, {"eta": 0.5}),
    (DDPMSampler, {"steps": 6}),
    (DDPMSampler, {"variance": "fixed_large"}),
    (DDPMSampler, {"clip": (-0.5, 0.5)}),
    (DDPMSampler, {"prediction": "v"}),
]


@pytest.mark.promise(11)
@pytest.mark.parametrize(("make", "change"), PERTURBATIONS, ids=lambda value: str(value)[:40])
def test_every_setting_changes_the_output_and_the_record(make: type[PlanSampler], change: dict[str, Any]) -> None:
    base = make(NoiseSchedule.linear(100), 5)
    other = dataclasses.replace(base, **change)
    x_T = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    one, two = (sampler.sample(lambda x, t: torch.sin(x), x_T=x_T, seed=0) for sampler in (base, other))
    assert not torch.equal(one, two)
    assert base.record(seed=0) != other.record(seed=0)
    assert base != other


def recorded_noise(noises: Array, asked: list[int]) -> Callable[[int, Tensor], Tensor]:
    def noise_fn(draw: int, like: Tensor) -> Tensor:
        asked.append(draw)
        return torch.from_numpy(noises[draw]).to(like)

    return noise_fn


def walk_states(
    sampler: PlanSampler, model: Callable[[Tensor, Tensor], Tensor], x_T: Array, noises: Array
) -> tuple[Array, list[int]]:
    """The S + 1 states of a float64 run, x_T first, and the draws it asked noise for."""
    asked: list[int] = []
    noise_fn = recorded_noise(noises, asked)
    states = [state.x.numpy() for state in sampler.iterate(model, x_T=torch.from_numpy(x_T), noise_fn=noise_fn)]
    return np.stack([x_T, *states]), asked


def model_eps(x: Array, t: int) -> Array:
    """A smooth model of no particular meaning."""
    return np.tanh(x + 0.1 * math.sin(t)) + 0.05 * x


def model_v(x: Array, t: int) -> Array:
    """A learned range's second output, from -1 to 1."""
    return np.sin(2 * x + t)


def on_tensors(model: Callable[[Array, int], Array]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: torch.from_numpy(model(x.numpy(), int(t[0])))


@st.composite
def chains(draw: st.DrawFn) -> tuple[NoiseSchedule, tuple[int, ...], Array, Array]:
    """A schedule whose alpha_bars leave the printed formulas their digits, a list, x_T and the noises."""
    make = draw(st.sampled_from([NoiseSchedule.linear, NoiseSchedule.scaled_linear]))
    schedule = make(draw(st.integers(1, 300)), 10 ** draw(st.floats(-4, -2)), 10 ** draw(st.floats(-2, -1.5)))
    chosen = draw(timesteps(schedule.num_timesteps, max_size=25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return schedule, chosen, rng.standard_normal((2, 4)), rng.standard_normal((len(chosen), 2, 4))


Chain = tuple[NoiseSchedule, tuple[int, ...], Array, Array]


@pytest.mark.promise(1, 7, 10)
@given(chain=chains(), eta=ETAS)
def test_ddim_trajectories_equal_the_papers(chain: Chain, eta: float) -> None:
    schedule, chosen, x_T, noises = chain
    found, asked = walk_states(DDIMSampler(schedule, timesteps=chosen, eta=eta), on_tensors(model_eps), x_T, noises)
    expected = oracle.ddim_chain(model_eps, x_T, schedule.alpha_bars.tolist(), chosen, eta, list(noises))
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-7, atol=1e-7)
    assert asked == (list(range(len(chosen) - 1)) if plan_ddim(schedule, chosen, eta).c.any() else [])


@pytest.mark.promise(1, 7)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@given(chain=chains())
def test_ddpm_trajectories_equal_the_papers(variance: Variance, chain: Chain) -> None:
    schedule, chosen, x_T, noises = chain
    found, asked = walk_states(DDPMSampler(schedule, timesteps=chosen, variance=variance), on_tensors(model_eps), x_T, noises)
    expected = oracle.ddpm_chain(model_eps, x_T, schedule.alpha_bars.tolist(), chosen, variance, list(noises))
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-9, atol=1e-9)
    assert asked == list(range(len(chosen) - 1))


def with_range(v: Callable[[Array, int], Array]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: torch.cat([on_tensors(model_eps)(x, t), on_tensors(v)(x, t)], dim=1)


@pytest.mark.promise(7, 14)
@given(chain=chains())
def test_learned_range_trajectories_equal_equation_15(chain: Chain) -> None:
    schedule, chosen, x_T, noises = chain
    sampler = DDPMSampler(schedule, timesteps=chosen, variance="learned_range")
    found, asked = walk_states(sampler, with_range(model_v), x_T, noises)
    expected = oracle.ddpm_chain(
        model_eps, x_T, schedule.alpha_bars.tolist(), chosen, "learned_range", list(noises), model_v=model_v
    )
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-9, atol=1e-9)
    assert asked == list(range(len(chosen) - 1))


@pytest.mark.promise(14)
@pytest.mark.parametrize(("v", "variance"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
@given(chain=chains())
def test_ends_of_the_learned_range_are_the_fixed_variances(v: float, variance: Variance, chain: Chain) -> None:
    schedule, chosen, x_T, noises = chain
    learned = DDPMSampler(schedule, timesteps=chosen, variance="learned_range")
    found, _ = walk_states(learned, with_range(lambda x, t: np.full_like(x, v)), x_T, noises)
    fixed, _ = walk_states(DDPMSampler(schedule, timesteps=chosen, variance=variance), on_tensors(model_eps), x_T, noises)
    np.testing.assert_allclose(found, fixed, rtol=1e-11, atol=1e-11)


@pytest.mark.promise(14)
def test_learned_range_wants_twice_the_channels() -> None:
    sampler = DDPMSampler(NoiseSchedule.linear(10), 5, variance="learned_range")
    with pytest.raises(ValueError, match=r"shape \(2, 6, 4\), got \(2, 3, 4\).*stacked along the channels"):
        sampler.sample(lambda x, t: x, x_T=torch.zeros(2, 3, 4), seed=0)
    with pytest.raises(ValueError, match="needs channels"):
        sampler.sample(lambda x, t: x, x_T=torch.zeros(2), seed=0)


@pytest.mark.promise(7, 10)
@settings(max_examples=60)
@given(walk=walks(max_size=10, zero_terminal=False), eta=ETAS, variance=st.sampled_from(["fixed_small", "fixed_large"]))
def test_noise_is_asked_for_only_where_a_row_adds_it(walk: Walk, eta: float, variance: Variance) -> None:
    alpha_bars, chosen = walk
    schedule = NoiseSchedule.from_alpha_bars(alpha_bars)
    for sampler in (
        DDIMSampler(schedule, timesteps=chosen, eta=eta),
        DDPMSampler(schedule, timesteps=chosen, variance=variance),
    ):
        _, asked = walk_states(sampler, on_tensors(model_eps), np.zeros((1, 2)), np.zeros((len(chosen), 1, 2)))
        assert asked == [k for k in range(len(chosen)) if sampler.plan().c[k] > 0]
        assert len(asked) <= len(chosen) - 1
    if eta == 0:
        assert not plan_ddim(schedule, chosen, 0.0).c.any()


def moments(plan: Plan, schedule: NoiseSchedule, mean: float, variance: float) -> tuple[float, float]:
    """What a table does to N(0, 1) if x0_hat is the exact posterior mean of N(mean, variance) data."""
    m, q = 0.0, 1.0
    for k, t in enumerate(plan.t):
        s, n = float(schedule.signal[t]), float(schedule.noise[t])
        gain = s * variance / (s * s * variance + n * n)
        a, b = float(plan.a[k]), float(plan.b[k, 0])
        m, q = a * m + b * (mean + gain * (m - s * mean)), (a + b * gain) ** 2 * q + float(plan.c[k]) ** 2
    return m, q


@pytest.mark.promise(9)
@settings(max_examples=80)
@given(chain=chains(), eta=ETAS, mean=st.floats(-3, 3), variance=st.floats(0.01, 4))
def test_moments_of_gaussian_data_are_exact(chain: Chain, eta: float, mean: float, variance: float) -> None:
    schedule, chosen, _, _ = chain
    expected = oracle.gaussian_ddim_chain_moments(schedule.alpha_bars.tolist(), chosen, eta, mean, variance)
    np.testing.assert_allclose(moments(plan_ddim(schedule, chosen, eta), schedule, mean, variance), expected, rtol=1e-6, atol=1e-7)
    if eta == 1:
        ddpm = plan_ddpm(schedule, chosen, "fixed_small")
        np.testing.assert_allclose(moments(ddpm, schedule, mean, variance), expected, rtol=1e-6, atol=1e-7)


@settings(max_examples=25)
@given(chain=chains(), mean=st.floats(-3, 3), variance=st.floats(0.01, 4))
def test_the_loop_does_to_gaussian_data_what_the_table_says(chain: Chain, mean: float, variance: float) -> None:
    schedule, chosen, _, _ = chain
    alpha_bars = schedule.alpha_bars
    sampler = DDIMSampler(schedule, timesteps=chosen)
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)  # an affine map is known by two points
    zero, one = sampler.sample(
        on_tensors(lambda x, t: oracle.gaussian_eps(x, float(alpha_bars[t]), mean, variance)), x_T=ends
    ).flatten()
    m, q = moments(sampler.plan(), schedule, mean, variance)
    assert float(zero) == pytest.approx(m, rel=1e-9, abs=1e-9)
    assert float(one - zero) ** 2 == pytest.approx(q, rel=1e-9, abs=1e-9)


@pytest.mark.promise(32)
@given(schedule=ANY_SCHEDULE, data=st.data())
def test_inversion_rows_walk_the_reversed_list(schedule: NoiseSchedule, data: st.DataObject) -> None:
    chosen = data.draw(timesteps(schedule.num_timesteps))
    plan = DDIMSampler(schedule, timesteps=chosen, prediction="v").inversion_plan()
    up = chosen[::-1]
    s, n = schedule.signal, schedule.noise
    assert plan.t == (up[0], *up[:-1])
    assert plan.t_next == up
    assert len(plan) == len(chosen)
    assert not plan.c.any()
    assert plan.c_max is None
    # The first row adds the noise that the model sees in the image: s x0 + n eps with eps = (x0 - s x0_hat) / n.
    assert plan.a[0] == 1 + s[up[0]]
    assert plan.b[0].tolist() == [-s[up[0]]]
    for k in range(1, len(up)):
        now, after = up[k - 1], up[k]
        assert plan.a[k] == n[after] / n[now]
        assert plan.a[k] * s[now] + plan.b[k].sum() == pytest.approx(s[after], abs=1e-14 * plan.a[k])


@pytest.mark.promise(32)
@settings(max_examples=40)
@given(walk=walks(max_size=12, zero_terminal=False))
def test_inversion_rows_equal_the_papers_equation_run_upwards(walk: Walk) -> None:
    alpha_bars, chosen = walk
    schedule = NoiseSchedule.from_alpha_bars(alpha_bars)
    x, eps = np.array([0.3, -1.2]), np.array([1.1, 0.4])
    up, plan = chosen[::-1], DDIMSampler(schedule, timesteps=chosen).inversion_plan()
    expected = math.sqrt(alpha_bars[up[0]]) * x + math.sqrt(1 - alpha_bars[up[0]]) * eps
    x0_hat = oracle.x0_from_eps(x, eps, alpha_bars[up[0]])
    np.testing.assert_allclose(plan.a[0] * x + plan.b[0, 0] * x0_hat, expected, atol=1e-12)
    for k in range(1, len(up)):
        now, after = alpha_bars[up[k - 1]], alpha_bars[up[k]]
        x0_hat = oracle.x0_from_eps(x, eps, now)
        row = plan.a[k] * x + plan.b[k, 0] * x0_hat
        scale = 1e-12 * (1 + plan.a[k] + np.abs(plan.b[k, 0] * x0_hat))
        assert np.all(np.abs(row - (math.sqrt(after) * x0_hat + math.sqrt(1 - after) * eps)) <= scale)


@pytest.mark.promise(32)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@settings(max_examples=20)
@given(data=st.data(), T=st.integers(1, 200))
def test_inversion_of_a_constant_eps_is_exact(dtype: torch.dtype, data: st.DataObject, T: int) -> None:
    chosen = data.draw(timesteps(T, max_size=20))
    sampler = DDIMSampler(NoiseSchedule.linear(T), timesteps=chosen)
    generator = torch.Generator().manual_seed(T)
    x0, eps = (torch.randn(2, 3, generator=generator, dtype=dtype) for _ in range(2))
    times: list[int] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        times.append(int(t[0]))
        return eps

    latent = sampler.invert(model, x0)
    assert times == [chosen[-1], *chosen[:0:-1]]
    noised = sampler.schedule.add_noise(x0, eps, chosen[0])
    again = sampler.sample(model, x_T=latent)
    tolerance = 1e-6 if dtype is torch.float64 else 2e-5
    torch.testing.assert_close(latent, noised, rtol=0, atol=tolerance)
    torch.testing.assert_close(again, x0, rtol=0, atol=tolerance)
    assert len(times) == 2 * len(chosen) == 2 * sampler.nfe


@pytest.mark.promise(32)
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 0.25), (0.7, 0.25), (-0.4, 0.05)])
def test_round_trip_error_on_a_gaussian_falls_at_first_order(mean: float, variance: float) -> None:
    schedule = NoiseSchedule.linear(4000, 2.5e-5, 0.005)
    alpha_bars = schedule.alpha_bars
    model = on_tensors(lambda x, t: oracle.gaussian_eps(x, float(alpha_bars[t]), mean, variance))
    x0 = torch.tensor([[mean - 0.8], [mean + 0.3], [mean + 1.1]], dtype=torch.float64)
    errors = []
    for S in (50, 100, 200, 400, 800):
        sampler = DDIMSampler(schedule, S)
        errors.append(float((sampler.sample(model, x_T=sampler.invert(model, x0)) - x0).abs().max()))
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(slopes[-2:] - 1) < 0.15), slopes


@pytest.mark.promise(32)
@pytest.mark.parametrize("arguments", [{"eta": 0.1}, {"eta": 1.0}, {"clip": (-1, 1)}])
def test_what_cannot_be_inverted_raises(arguments: dict[str, Any]) -> None:
    sampler = DDIMSampler(NoiseSchedule.linear(10), 5, **arguments)
    with pytest.raises(ValueError, match="only eta=0 without clip can be inverted"):
        sampler.invert(lambda x, t: x, torch.zeros(1, 2))


@pytest.mark.parametrize("make", [DDIMSampler, DDPMSampler])
def test_a_sampler_is_first_order_and_one_call_a_step(make: type[DDIMSampler] | type[DDPMSampler]) -> None:
    sampler = make(NoiseSchedule.linear(100), 7)
    assert sampler.convergence_order == 1
    assert sampler.nfe == 7 == len(sampler.plan())
