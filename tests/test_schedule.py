"""Noise schedules against their published definitions in 50 digits, and what a schedule object guarantees."""

import copy
import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle
from ddimkit import DDIMSampler, DDPMSampler, NoiseSchedule
from strategies import BUILT_IN, alpha_bar_lists, built_in_schedules, schedules

PUBLISHED: dict[str, Callable[..., list[Any]]] = {
    "linear": oracle.linear_alpha_bars,
    "scaled_linear": oracle.scaled_linear_alpha_bars,
    "cosine": oracle.cosine_alpha_bars,
    "sigmoid": oracle.sigmoid_alpha_bars,
}
FIXED_COUNTS = (1, 2, 3, 10, 1000, 4000)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def assert_is(schedule: NoiseSchedule, alpha_bars: Sequence[Any], rtol: float = 1e-13, atol: float = 0.0) -> None:
    """Every array of a schedule equals what 50-digit alpha_bars give; atol is for values that end at 0."""
    levels = [oracle.mp_levels(value) for value in alpha_bars]
    signal, noise, log_snr = (np.array(oracle.to_floats(column)) for column in zip(*levels, strict=True))
    before = [1, *alpha_bars[:-1]]
    betas = np.array([float(1 - now / earlier) for earlier, now in zip(before, alpha_bars, strict=True)])
    np.testing.assert_allclose(schedule.signal, signal, rtol=rtol, atol=atol)
    np.testing.assert_allclose(schedule.noise, noise, rtol=rtol)
    np.testing.assert_allclose(schedule.alpha_bars, oracle.to_floats(alpha_bars), rtol=2 * rtol, atol=atol)
    known = signal > 0
    slack = 4 * rtol + 4 * atol / signal[known]  # what an error of the signal is in its logarithm
    assert np.all(np.abs(schedule.log_snr[known] - log_snr[known]) <= slack + rtol * np.abs(log_snr[known]))
    assert np.all(schedule.log_snr[~known] == -np.inf)
    # 1 - alpha_bar needs expm1 at small t: the relative error of noise squared is what a plain subtraction would lose.
    np.testing.assert_allclose(schedule.noise**2, oracle.to_floats([1 - value for value in alpha_bars]), rtol=2 * rtol)
    if not atol:
        # beta is a difference of logarithms: the digits of log(alpha_bar), not its own, are what it can keep.
        scale = 1 - np.log(np.maximum(oracle.to_floats(alpha_bars), 1e-300))
        assert np.all(np.abs(schedule.betas - betas) <= 1e-15 * scale + rtol * betas)


@pytest.mark.promise(15)
@pytest.mark.parametrize("T", FIXED_COUNTS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_named_schedules_equal_their_equations(name: str, T: int) -> None:
    assert_is(BUILT_IN[name](T), PUBLISHED[name](T))


@pytest.mark.promise(15)
@settings(max_examples=10)
@given(name=st.sampled_from(list(PUBLISHED)), T=st.integers(1, 4000))
def test_named_schedules_equal_their_equations_at_any_count(name: str, T: int) -> None:
    assert_is(BUILT_IN[name](T), PUBLISHED[name](T))


@settings(max_examples=60)
@given(
    T=st.integers(1, 120),
    arguments=st.one_of(
        st.tuples(st.sampled_from(["linear", "scaled_linear"]), st.floats(1e-6, 0.2), st.floats(1e-6, 0.2)),
        st.tuples(st.just("cosine"), st.floats(0, 0.5), st.floats(0.01, 0.9999)),
        st.tuples(st.just("sigmoid"), st.floats(-6, 0), st.floats(0.5, 6), st.floats(0.3, 3), st.floats(0.01, 0.9999)),
    ),
)
def test_constructor_arguments_mean_what_the_equations_say(T: int, arguments: tuple[Any, ...]) -> None:
    name, *values = arguments
    schedule = getattr(NoiseSchedule, name)(T, *values)
    assert_is(schedule, PUBLISHED[name](T, *values), rtol=3e-13)


@pytest.mark.promise(15)
@pytest.mark.parametrize("T", FIXED_COUNTS)
def test_cosine_equals_equation_17_with_clipped_betas(T: int) -> None:
    expected = np.array(oracle.to_floats(oracle.cosine_alpha_bars(T)))
    assert np.all(np.abs(NoiseSchedule.cosine(T).alpha_bars / expected - 1) < 1e-14)
    assert NoiseSchedule.cosine(T).betas.max() == pytest.approx(0.999, abs=1e-14)


@pytest.mark.promise(15)
@settings(max_examples=60)
@given(name=st.sampled_from(list(BUILT_IN)), T=st.one_of(st.integers(1, 4000), st.sampled_from(FIXED_COUNTS)), zero=st.booleans())
def test_alpha_bar_falls_strictly_within_0_and_1(name: str, T: int, zero: bool) -> None:
    schedule = BUILT_IN[name](T)
    zero = zero and T > 1
    if zero:
        schedule = schedule.zero_terminal_snr()
    ends_at_zero = zero or name == "rectified_flow"
    alpha_bars = schedule.alpha_bars
    assert schedule.num_timesteps == T
    assert alpha_bars.shape == (T,)
    assert np.all(np.diff(alpha_bars) < 0)
    assert np.all(alpha_bars < 1)
    assert np.all(alpha_bars[:-1] > 0)
    assert (alpha_bars[-1] == 0) is np.bool_(ends_at_zero)
    assert np.all(np.diff(schedule.log_snr) < 0)
    assert np.isinf(schedule.log_snr[-1]) == ends_at_zero
    assert np.all(np.isfinite(schedule.log_snr[:-1]))
    assert np.all((schedule.betas > 0) & (schedule.betas <= 1))


@pytest.mark.promise(15)
@given(
    T=st.integers(1, 300),
    beta_start=st.floats(0, 1.5, allow_subnormal=True),
    beta_end=st.floats(0, 2, allow_subnormal=True),
    name=st.sampled_from(["linear", "scaled_linear"]),
)
@example(T=1000, beta_start=1e-4, beta_end=2.0, name="linear")
@example(T=4000, beta_start=0.5, beta_end=0.9, name="linear")
def test_any_betas_give_a_valid_schedule_or_an_error(T: int, beta_start: float, beta_end: float, name: str) -> None:
    try:
        schedule = getattr(NoiseSchedule, name)(T, beta_start, beta_end)
    except ValueError:
        return
    assert np.all(np.diff(schedule.signal / schedule.noise) < 0)
    assert np.all((schedule.signal > 0) & (schedule.signal <= 1))  # 1 - beta rounds to 1 for the smallest betas
    assert np.all((schedule.noise > 0) & (schedule.noise <= 1))
    assert np.all(np.isfinite(schedule.log_snr))


@given(alpha_bars=alpha_bar_lists())
def test_from_alpha_bars_keeps_the_values(alpha_bars: list[float]) -> None:
    schedule = NoiseSchedule.from_alpha_bars(alpha_bars)
    assert_is(schedule, [oracle.MP.mpf(value) for value in alpha_bars], rtol=1e-15 if alpha_bars[-1] else 1e-14)
    assert schedule.alpha_bars[-1] == pytest.approx(alpha_bars[-1], rel=4e-16)


@given(alpha_bars=alpha_bar_lists())
def test_betas_and_alpha_bars_round_trip(alpha_bars: list[float]) -> None:
    schedule = NoiseSchedule.from_alpha_bars(alpha_bars)
    again = NoiseSchedule.from_betas(schedule.betas)
    np.testing.assert_allclose(again.alpha_bars, alpha_bars, rtol=1e-12)
    np.testing.assert_allclose(again.betas, schedule.betas, rtol=1e-11)
    np.testing.assert_allclose(np.cumprod(1 - schedule.betas), alpha_bars, rtol=1e-12)


@given(betas=st.lists(st.floats(1e-5, 0.9), min_size=1, max_size=60), ends_at_zero=st.booleans())
def test_from_betas_is_the_running_product(betas: list[float], ends_at_zero: bool) -> None:
    betas = [*betas, 1.0] if ends_at_zero else betas
    product, alpha_bars = oracle.MP.mpf(1), []
    for beta in betas:
        product *= 1 - oracle.MP.mpf(beta)
        alpha_bars.append(product)
    assert_is(NoiseSchedule.from_betas(betas), alpha_bars, rtol=1e-14)


def test_from_betas_of_the_smallest_kind_keeps_every_digit() -> None:
    schedule = NoiseSchedule.from_betas([1e-14, 1e-14, 0.5])
    np.testing.assert_allclose(schedule.noise**2, [1e-14, 2e-14, 0.5], rtol=2e-14)


@pytest.mark.promise(15)
@pytest.mark.parametrize("T", FIXED_COUNTS[1:])
@pytest.mark.parametrize("name", PUBLISHED)
def test_zero_terminal_snr_equals_algorithm_1(name: str, T: int) -> None:
    schedule = BUILT_IN[name](T)
    fixed = schedule.zero_terminal_snr()
    assert_is(fixed, oracle.zero_terminal_snr(PUBLISHED[name](T)), rtol=1e-13, atol=1e-15)
    assert fixed.signal[-1] == 0
    assert fixed.noise[-1] == 1
    assert fixed.log_snr[-1] == -math.inf
    assert fixed.alpha_bars[-1] == 0
    assert fixed.signal[0] == schedule.signal[0]
    assert fixed.noise[0] == schedule.noise[0]
    assert fixed.zero_terminal_snr() is fixed


@given(alpha_bars=alpha_bar_lists(min_size=2, zero_terminal=False))
def test_zero_terminal_snr_of_any_schedule(alpha_bars: list[float]) -> None:
    fixed = NoiseSchedule.from_alpha_bars(alpha_bars).zero_terminal_snr()
    gap = fixed.signal[0] - NoiseSchedule.from_alpha_bars(alpha_bars).signal[-1]
    assert_is(fixed, oracle.zero_terminal_snr(alpha_bars), rtol=1e-12, atol=2e-15 / gap)  # the shift's digits are those of the gap
    np.testing.assert_allclose(fixed.signal**2 + fixed.noise**2, 1, atol=1e-12)


def test_zero_terminal_snr_refuses_what_it_cannot_keep() -> None:
    with pytest.raises(ValueError, match="num_timesteps >= 2, got 1"):
        NoiseSchedule.linear(1).zero_terminal_snr()
    with pytest.raises(ValueError, match="signal\\^2 \\+ noise\\^2 = 1"):
        NoiseSchedule(np.array([0.8, 0.5]), np.array([0.2, 0.5])).zero_terminal_snr()
    flow = NoiseSchedule.rectified_flow(10)
    assert flow.zero_terminal_snr() is flow


@pytest.mark.promise(15)
@given(T=st.integers(1, 4000))
def test_rectified_flow_is_the_straight_path(T: int) -> None:
    schedule = NoiseSchedule.rectified_flow(T)
    times = [(t + 1) / T for t in range(T)]
    np.testing.assert_allclose(schedule.noise, times, rtol=1e-15)
    np.testing.assert_allclose(schedule.signal, [(T - t - 1) / T for t in range(T)], rtol=1e-15)
    expected = np.array([(1 - tau) ** 2 / ((1 - tau) ** 2 + tau**2) for tau in times])
    np.testing.assert_allclose(schedule.alpha_bars, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("signal", "noise", "match"),
    [
        ([], [], "T >= 1"),
        ([0.5, 0.4], [0.5], "shapes"),
        ([[0.5]], [[0.5]], "shapes"),
        (0.5, 0.5, "shapes"),
        ([0.9, 0.0, 0.0], [0.1, 0.5, 0.9], "signal must be above 0 .* got 0.0 at entry 1"),
        ([1.5, 0.5], [0.1, 0.9], r"signal must lie in \[0, 1\], got 1.5 at entry 0"),
        ([0.9, -0.5], [0.1, 0.9], r"signal must lie in \[0, 1\], got -0.5 at entry 1"),
        ([1.0, 0.5], [0.0, 0.9], r"noise must lie in \(0, 1\].*, got 0.0 at entry 0"),
        ([0.9, 0.5], [0.1, 1.9], r"noise must lie in \(0, 1\].*, got 1.9 at entry 1"),
        ([0.9, 0.9], [0.1, 0.1], "fall strictly .* at entry 1"),
        ([0.5, 0.9], [0.5, 0.1], "fall strictly .* at entry 1"),
        ([0.9, float("nan")], [0.1, 0.9], "signal must be finite, got nan at entry 1"),
        ([0.9, 0.5], [float("inf"), 0.9], "noise must be finite, got inf at entry 0"),
    ],
)
def test_invalid_arrays_raise_naming_the_entry(signal: Any, noise: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        NoiseSchedule(np.array(signal), np.array(noise))


@pytest.mark.promise(15)
@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: NoiseSchedule.linear(0), ValueError, "at least 1, got 0"),
        (lambda: NoiseSchedule.linear(-3), ValueError, "at least 1, got -3"),
        (lambda: NoiseSchedule.linear(10.0), TypeError, "num_timesteps must be an integer, got 10.0"),  # type: ignore[arg-type]
        (lambda: NoiseSchedule.linear(True), TypeError, "num_timesteps must be an integer, got True"),
        (lambda: NoiseSchedule.linear(10, beta_end=2.0), ValueError, r"betas must lie in \(0, 1\).* beta_end=2.0"),
        (lambda: NoiseSchedule.linear(10, beta_end=1.0), ValueError, r"betas must lie in \(0, 1\).* beta_end=1.0"),
        (lambda: NoiseSchedule.linear(10, beta_start=0.0), ValueError, r"betas must lie in \(0, 1\), got beta_start=0.0"),
        (lambda: NoiseSchedule.linear(10, beta_start=float("nan")), ValueError, "nan"),
        (lambda: NoiseSchedule.scaled_linear(10, beta_end=1.0), ValueError, "beta_end=1.0"),
        (lambda: NoiseSchedule.scaled_linear(10, beta_start=-0.1), ValueError, "beta_start=-0.1"),
        (lambda: NoiseSchedule.cosine(10, s=-0.1), ValueError, "s must be finite and at least 0, got -0.1"),
        (lambda: NoiseSchedule.cosine(10, s=float("nan")), ValueError, "got nan"),
        (lambda: NoiseSchedule.cosine(10, max_beta=1.0), ValueError, r"max_beta must lie in \(0, 1\), got 1.0"),
        (lambda: NoiseSchedule.sigmoid(10, max_beta=0.0), ValueError, r"max_beta must lie in \(0, 1\), got 0.0"),
        (lambda: NoiseSchedule.sigmoid(10, start=3, end=3), ValueError, "start < end"),
        (lambda: NoiseSchedule.sigmoid(10, tau=0), ValueError, "tau > 0"),
        (lambda: NoiseSchedule.sigmoid(10, start=-60, end=60), ValueError, "within 100"),
        (lambda: NoiseSchedule.rectified_flow(0), ValueError, "at least 1, got 0"),
        (lambda: NoiseSchedule.from_betas([]), ValueError, "T >= 1"),
        (lambda: NoiseSchedule.from_betas([[0.1]]), ValueError, "shape"),
        (lambda: NoiseSchedule.from_betas([0.1, 1.0, 0.1]), ValueError, "got 1.0 at entry 1"),
        (lambda: NoiseSchedule.from_betas([0.1, 1.1]), ValueError, "got 1.1 at entry 1"),
        (lambda: NoiseSchedule.from_betas([0.1, 0.0]), ValueError, "got 0.0 at entry 1"),
        (lambda: NoiseSchedule.from_betas([True, False]), TypeError, "real numbers, got bool"),
        (lambda: NoiseSchedule.from_betas(["0.1"]), TypeError, "real numbers"),
        (lambda: NoiseSchedule.from_betas([0.1 + 0.1j]), TypeError, "real numbers, got complex"),
        (lambda: NoiseSchedule.from_alpha_bars([]), ValueError, "T >= 1"),
        (lambda: NoiseSchedule.from_alpha_bars(0.5), ValueError, "shape"),
        (lambda: NoiseSchedule.from_alpha_bars([1.0, 0.5]), ValueError, "got 1.0 at entry 0"),
        (lambda: NoiseSchedule.from_alpha_bars([0.9, -0.1]), ValueError, "got -0.1 at entry 1"),
        (lambda: NoiseSchedule.from_alpha_bars([0.9, 0.5, 0.5]), ValueError, "fall strictly with t, got 0.5 at entry 2"),
        (lambda: NoiseSchedule.from_alpha_bars([0.9, 0.0, 0.0]), ValueError, "at entry 2"),
        (lambda: NoiseSchedule.from_alpha_bars([0.9, float("nan")]), ValueError, "finite, got nan at entry 1"),
    ],
)
def test_invalid_arguments_raise_at_construction(make: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


@given(schedule=st.one_of(schedules(zero_terminal=None), built_in_schedules()))
def test_arrays_are_read_only_float64_and_stay_themselves(schedule: NoiseSchedule) -> None:
    for name in ("signal", "noise", "log_snr", "alpha_bars", "betas"):
        array = getattr(schedule, name)
        assert array.dtype == np.float64
        assert array is getattr(schedule, name)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.signal = schedule.noise  # type: ignore[misc]


@given(alpha_bars=alpha_bar_lists())
def test_the_callers_arrays_are_copied(alpha_bars: list[float]) -> None:
    mine = np.array(alpha_bars)
    schedule = NoiseSchedule.from_alpha_bars(mine)
    kept, signal, noise = schedule.alpha_bars.copy(), schedule.signal.copy(), schedule.noise.copy()
    bare = NoiseSchedule(signal, noise)
    mine[:], signal[:], noise[:] = 0.25, 0.25, 0.25
    assert np.array_equal(schedule.alpha_bars, kept)
    assert bare == schedule


@given(alpha_bars=alpha_bar_lists(), entry=st.integers(0, 1000))
def test_equality_and_hash_go_by_the_bytes(alpha_bars: list[float], entry: int) -> None:
    one, two = NoiseSchedule.from_alpha_bars(alpha_bars), NoiseSchedule.from_alpha_bars(np.array(alpha_bars))
    assert one is not two
    assert one == two
    assert hash(one) == hash(two)
    assert one.sha256 == two.sha256
    assert one != alpha_bars
    noise = one.noise.copy()
    entry %= noise.size
    noise[entry] = np.nextafter(noise[entry], 0)  # the last bit of one entry
    ratio = one.signal / noise
    assume(np.all(np.diff(ratio) < 0))
    other = NoiseSchedule(one.signal, noise)
    assert other != one
    assert other.sha256 != one.sha256
    assert len({one, two, other}) == 2


@pytest.mark.promise(61)
@given(schedule=st.one_of(schedules(zero_terminal=None), built_in_schedules(2)), data=st.data())
def test_the_same_schedule_agrees_to_1e_9(schedule: NoiseSchedule, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["signal", "noise"]))
    entry = data.draw(st.integers(0, schedule.num_timesteps - 1))
    by = data.draw(st.sampled_from([0.5e-9, 0.99e-9, 1.01e-9, 1e-8, 1e-3])) * data.draw(st.sampled_from([-1, 1]))
    values = {"signal": schedule.signal.copy(), "noise": schedule.noise.copy()}
    before = values[name][entry]
    values[name][entry] = before + by
    try:
        other = NoiseSchedule(values["signal"], values["noise"])
    except ValueError:
        assume(False)  # a range left, or neighbours too near
    assert schedule.is_same(other) == other.is_same(schedule) == (abs(by) < 1e-9 and before != 0)
    assert schedule.is_same(schedule)
    assert schedule != other


def test_schedules_of_other_lengths_are_not_the_same() -> None:
    assert not NoiseSchedule.linear(10).is_same(NoiseSchedule.linear(11))
    assert not NoiseSchedule.linear(1).is_same(NoiseSchedule.linear(2))


def test_a_signal_of_0_is_not_the_same_as_a_very_small_one() -> None:
    ends = NoiseSchedule.linear(10).zero_terminal_snr()
    signal = ends.signal.copy()
    signal[-1] = 1e-12
    assert not ends.is_same(NoiseSchedule(signal, ends.noise))


def test_the_spec_is_not_compared() -> None:
    named = NoiseSchedule.linear(10)
    assert NoiseSchedule(named.signal, named.noise) == named
    assert hash(NoiseSchedule(named.signal, named.noise)) == hash(named)
    assert NoiseSchedule.linear(10) != NoiseSchedule.linear(11)


@given(schedule=st.one_of(schedules(zero_terminal=None), built_in_schedules()))
def test_copies_are_equal(schedule: NoiseSchedule) -> None:
    for again in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), copy.copy(schedule)):
        assert again == schedule
        assert hash(again) == hash(schedule)
        assert again.spec == schedule.spec
        assert repr(again) == repr(schedule)
        assert np.array_equal(again.betas, schedule.betas)
        with pytest.raises(ValueError, match="read-only"):
            again.signal[0] = 0.5


def test_hash_of_a_copy_from_another_process_is_this_ones() -> None:
    script = "import pickle, sys; from ddimkit import NoiseSchedule as N; s = N.linear(9); hash(s); print(pickle.dumps(s).hex())"
    made = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "1"}
    )
    again, here = pickle.loads(bytes.fromhex(made.stdout)), NoiseSchedule.linear(9)
    assert again == here
    assert hash(again) == hash(here)


NAMED = [
    NoiseSchedule.linear(17, 1e-3, 0.3),
    NoiseSchedule.scaled_linear(17, 1e-3, 0.3),
    NoiseSchedule.cosine(17, 0.02, 0.99),
    NoiseSchedule.sigmoid(17, -2.5, 3.5, 0.7, 0.99),
    NoiseSchedule.rectified_flow(17),
    NoiseSchedule.linear(17).zero_terminal_snr(),
    NoiseSchedule.cosine(17).zero_terminal_snr(),
]


@pytest.mark.parametrize("schedule", NAMED, ids=repr)
def test_spec_and_repr_make_the_schedule_again(schedule: NoiseSchedule) -> None:
    assert schedule.spec is not None
    again = NoiseSchedule.from_spec(schedule.spec)
    assert again == schedule
    assert again.spec == schedule.spec
    assert eval(repr(schedule), {"NoiseSchedule": NoiseSchedule}) == schedule


def test_repr_of_a_schedule_without_a_name_tells_it_apart() -> None:
    one, other = NoiseSchedule.from_alpha_bars([0.9, 0.5]), NoiseSchedule.from_alpha_bars([0.9, 0.4])
    assert one.spec is None
    assert repr(one) != repr(other)
    assert repr(one) == f"NoiseSchedule(num_timesteps=2, sha256={one.sha256[:12]})"


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({}, "got None"),
        ({"name": "exponential"}, "got 'exponential'"),
        ({"name": "linear", "num_steps": 10}, "num_steps"),
        ({"name": "rectified_flow", "num_timesteps": 10, "s": 0.1}, "rectified_flow"),
        ({"name": "linear", "num_timesteps": 0}, "at least 1"),
        ({"name": "from_spec"}, "got 'from_spec'"),
    ],
)
def test_unknown_specs_raise(spec: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        NoiseSchedule.from_spec(spec)


@pytest.mark.promise(31)
@pytest.mark.parametrize("dtype", DTYPES)
@given(schedule=st.one_of(schedules(zero_terminal=None), built_in_schedules(max_size=40)), data=st.data())
def test_add_noise_is_equation_4(dtype: torch.dtype, schedule: NoiseSchedule, data: st.DataObject) -> None:
    ndim, batch = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 3))
    shape = (batch, 2, 3, 1, 2)[:ndim]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    x0, eps = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    kept = x0.clone(), eps.clone()
    times = data.draw(st.lists(st.integers(0, schedule.num_timesteps - 1), min_size=batch, max_size=batch))
    mixed = schedule.add_noise(x0, eps, torch.tensor(times, dtype=torch.int64))
    assert mixed.dtype == dtype
    assert mixed.shape == x0.shape
    for i, t in enumerate(times):
        alone = schedule.add_noise(x0[i : i + 1], eps[i : i + 1], t)
        assert torch.equal(alone, mixed[i : i + 1])
        assert torch.equal(alone, schedule.add_noise(x0[i : i + 1], eps[i : i + 1], torch.tensor(t)))
        work = np.float64 if dtype is torch.float64 else np.float32
        s, n = work(schedule.signal[t]), work(schedule.noise[t])
        exact = s * x0[i].to(torch.float64).numpy() + n * eps[i].to(torch.float64).numpy()
        # One rounding to dtype besides the few of the working precision.
        unit = torch.finfo(dtype).eps * 0.51 if dtype.itemsize == 2 else 0.0
        scale = np.abs(s * x0[i].double().numpy()) + np.abs(n * eps[i].double().numpy())
        tiny = 2.0**-25 if dtype is torch.float16 else 0.0  # half of float16's smallest step
        limit = unit * np.abs(exact) + 2 * np.finfo(work).eps * scale + tiny
        assert np.all(np.abs(alone[0].double().numpy() - exact) <= limit)
    assert torch.equal(x0, kept[0])
    assert torch.equal(eps, kept[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_add_noise_rounds_half_precision_once(dtype: torch.dtype) -> None:
    schedule = NoiseSchedule.linear(50)
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn((64, 9), generator=generator).to(dtype) for _ in range(2))
    t = torch.arange(64) % 50
    once = schedule.add_noise(x0.float(), eps.float(), t).to(dtype)
    assert torch.equal(schedule.add_noise(x0, eps, t), once)


@pytest.mark.parametrize(
    ("x0", "eps", "t", "error", "match"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), 0, ValueError, r"\(2, 3\) and \(2, 4\)"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3), 0, TypeError, "int64.*scale"),
        (torch.zeros(2, 3), torch.zeros(2, 3), 10, ValueError, r"\[0, 9\], got 10"),
        (torch.zeros(2, 3), torch.zeros(2, 3), -1, ValueError, r"\[0, 9\], got -1"),
        (torch.zeros(2, 3), torch.zeros(2, 3), True, TypeError, "got True"),
        (torch.zeros(2, 3), torch.zeros(2, 3), 1.0, TypeError, "got 1.0"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 10]), ValueError, r"\[0, 9\], got 0 to 10"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor(-1), ValueError, r"\[0, 9\], got -1"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 1, 2]), TypeError, r"\(2,\).*\(3,\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([[0], [1]]), TypeError, r"\(2, 1\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 1], dtype=torch.int32), TypeError, "int32"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0.0, 1.0]), TypeError, "float32"),
    ],
)
def test_add_noise_refuses(x0: Tensor, eps: Tensor, t: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        NoiseSchedule.linear(10).add_noise(x0, eps, t)


def test_add_noise_is_differentiable() -> None:
    schedule = NoiseSchedule.cosine(10)
    x0, eps = (torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in (0, 1))
    t = torch.tensor([0, 4, 9])
    assert torch.autograd.gradcheck(lambda a, b: schedule.add_noise(a, b, t), (x0, eps))


class Wrapper(torch.nn.Module):
    """A user's module that carries a schedule and samplers, as a training module would."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.schedule = schedule
        self.samplers = (DDIMSampler(schedule, 5), DDPMSampler(schedule, 5))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output


@pytest.mark.promise(17)
@pytest.mark.parametrize("convert", [lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.double(), lambda m: m.to("meta")])
def test_module_conversions_leave_the_schedule_alone(convert: Callable[[Wrapper], Wrapper]) -> None:
    fresh, module = NoiseSchedule.linear(100), Wrapper(NoiseSchedule.linear(100))
    plans = [sampler.plan() for sampler in module.samplers]
    module = convert(module)
    assert module.schedule == fresh
    assert module.schedule.alpha_bars.tobytes() == fresh.alpha_bars.tobytes()
    assert [sampler.plan() for sampler in module.samplers] == plans
    assert set(module.state_dict()) == {"layer.weight", "layer.bias"}


@pytest.mark.promise(17)
def test_autocast_changes_neither_schedule_nor_noising() -> None:
    schedule, fresh = NoiseSchedule.linear(100), NoiseSchedule.linear(100)
    x0, eps = (torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    t = torch.tensor([0, 1, 50, 99])
    outside = fresh.add_noise(x0, eps, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = schedule.add_noise(x0, eps, t)
        plan = DDIMSampler(schedule, 5).plan()
    assert torch.equal(inside, outside)
    assert inside.dtype == torch.float32
    assert schedule == fresh
    assert plan == DDIMSampler(fresh, 5).plan()


@pytest.mark.promise(17)
def test_torch_default_dtype_does_not_reach_the_schedule() -> None:
    fresh = NoiseSchedule.cosine(100)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        assert NoiseSchedule.cosine(100) == fresh
        assert NoiseSchedule.from_alpha_bars(torch.tensor([0.9, 0.5], dtype=torch.float64)).alpha_bars.dtype == np.float64
    finally:
        torch.set_default_dtype(before)


def test_arrays_come_in_any_container() -> None:
    values = [0.75, 0.5, 0.25]
    expected = NoiseSchedule.from_alpha_bars(values)
    for given_as in (tuple(values), np.array(values), np.array(values, dtype=np.float32), torch.tensor(values)):
        assert NoiseSchedule.from_alpha_bars(given_as) == expected
    gradient = torch.tensor(values, requires_grad=True)
    assert NoiseSchedule.from_alpha_bars(gradient) == expected
    assert NoiseSchedule.from_betas(torch.tensor([0.25, 0.5])) == NoiseSchedule.from_betas([0.25, 0.5])


@pytest.mark.parametrize("kind", [np.float32, np.float64, Fraction])
def test_numbers_of_other_libraries_are_numbers(kind: Any) -> None:
    found = NoiseSchedule.cosine(10, s=kind(0.5), max_beta=kind(0.75))
    assert found == NoiseSchedule.cosine(10, s=0.5, max_beta=0.75)
    assert found.spec is not None
    assert json.loads(json.dumps(dict(found.spec))) == {"name": "cosine", "num_timesteps": 10, "s": 0.5, "max_beta": 0.75}
