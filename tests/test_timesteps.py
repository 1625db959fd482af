"""Timestep subsequences against exact fractions and brute force, and the constructor's handling of steps and lists."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from ddimkit import DDIMSampler, DDPMSampler, NoiseSchedule, PlanSampler
from ddimkit.timesteps import SpacedTimesteps, Spacing, explicit, pairs, spaced
from strategies import BUILT_IN, SPACINGS, built_in_schedules, schedules, timesteps, walks

SAMPLERS: tuple[type[PlanSampler], ...] = (DDIMSampler, DDPMSampler)
EXACT: tuple[Spacing, ...] = ("trailing", "leading", "linspace", "quadratic")


def assert_valid(values: Sequence[int], T: int, S: int) -> None:
    """Exactly S plain ints, strictly descending, in [0, T-1]."""
    assert len(values) == S
    assert all(type(t) is int for t in values)
    array = np.array(values)
    assert np.all(np.diff(array) < 0)
    assert array[0] < T
    assert array[-1] >= 0


def brute_force_log_snr(log_snr: Sequence[float], S: int) -> list[int]:
    """Equal steps of log-SNR, each to the nearest entry by trying them all; descending."""
    T = len(log_snr)
    if S == 1:
        return [T - 1]
    if math.isinf(log_snr[-1]):
        return [T - 1, *brute_force_log_snr(log_snr[:-1], S - 1)]
    chosen: list[int] = []
    for i, target in enumerate(np.linspace(log_snr[0], log_snr[-1], S).tolist()):
        distances = [abs(value - target) for value in log_snr]
        nearest = distances.index(min(distances))
        chosen.append(max(nearest, chosen[-1] + 1) if i else nearest)
    return [min(m, T - S + i) for i, m in enumerate(chosen)][::-1]


@pytest.mark.promise(2)
@settings(max_examples=60)
@given(T=st.integers(1, 4000), data=st.data(), spacing=st.sampled_from(EXACT))
def test_spacings_equal_exact_fractions(T: int, data: st.DataObject, spacing: Spacing) -> None:
    S = data.draw(st.integers(1, T))
    values = spaced(NoiseSchedule.rectified_flow(T), S, spacing)
    assert_valid(values, T, S)
    assert list(values) == oracle.timesteps(spacing, T, S)


@pytest.mark.promise(2)
@pytest.mark.parametrize("spacing", EXACT)
def test_every_count_of_a_small_schedule_equals_exact_fractions(spacing: Spacing) -> None:
    for T in (1, 2, 3, 4, 7, 10, 64, 100):
        schedule = NoiseSchedule.rectified_flow(T)
        for S in range(1, T + 1):
            assert list(spaced(schedule, S, spacing)) == oracle.timesteps(spacing, T, S)


def in_whole_numbers(spacing: Spacing, T: int, S: int) -> list[int]:
    """The three evenly spaced lists of one S, all rounded in integer arithmetic on whole arrays."""
    i = np.arange(S, dtype=np.int64)
    if spacing == "leading":
        return [int(t) for t in (i * (T // S))[::-1]]
    numerator, denominator = ((S - i) * T, S) if spacing == "trailing" else (i[::-1] * (T - 1), max(S - 1, 1))
    nearest = numerator // denominator + (2 * (numerator % denominator) >= denominator)  # halves up
    return [int(t) for t in nearest - (spacing == "trailing")] if S > 1 or spacing == "trailing" else [T - 1]


@pytest.mark.promise(2)
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_every_count_of_1000_timesteps_is_evenly_spaced(spacing: Spacing) -> None:
    schedule = NoiseSchedule.rectified_flow(1000)
    for S in range(1, 1001):
        values = spaced(schedule, S, spacing)
        assert_valid(values, 1000, S)
        assert list(values) == in_whole_numbers(spacing, 1000, S)
        assert S % 97 or list(values) == oracle.timesteps(spacing, 1000, S)


@pytest.mark.promise(2)
@pytest.mark.parametrize("spacing", ["quadratic", "log_snr"])
def test_every_count_of_200_timesteps_is_valid(spacing: Spacing) -> None:
    for schedule in (*(make(200) for make in BUILT_IN.values()), NoiseSchedule.linear(200).zero_terminal_snr()):
        for S in range(1, 201):
            assert_valid(spaced(schedule, S, spacing), 200, S)


@pytest.mark.promise(2)
@given(T=st.integers(1, 4000), data=st.data())
def test_ends_of_the_spacings(T: int, data: st.DataObject) -> None:
    schedule, S = NoiseSchedule.rectified_flow(T), data.draw(st.integers(1, T))
    first = {spacing: spaced(schedule, S, spacing)[0] for spacing in SPACINGS}
    last = {spacing: spaced(schedule, S, spacing)[-1] for spacing in SPACINGS}
    assert all(first[spacing] == T - 1 for spacing in SPACINGS if spacing != "leading")
    assert first["leading"] == (T // S) * (S - 1)
    assert last["leading"] == 0
    assert all(last[spacing] == 0 for spacing in ("linspace", "quadratic") if S > 1)
    assert spaced(schedule, T, "trailing") == tuple(range(T - 1, -1, -1))
    # Equal strides: no two differ by more than one.
    trailing = np.diff(spaced(schedule, S, "trailing")) if S > 1 else np.array([0])
    assert trailing.max() - trailing.min() <= 1


@pytest.mark.promise(2)
@settings(max_examples=120)
@given(schedule=st.one_of(schedules(max_size=40, zero_terminal=None), built_in_schedules(max_size=80)), data=st.data())
def test_log_snr_equals_brute_force(schedule: NoiseSchedule, data: st.DataObject) -> None:
    S = data.draw(st.integers(1, schedule.num_timesteps))
    values = spaced(schedule, S, "log_snr")
    assert_valid(values, schedule.num_timesteps, S)
    assert list(values) == brute_force_log_snr(schedule.log_snr.tolist(), S)


@pytest.mark.promise(2)
@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("zero_terminal", [False, True])
def test_log_snr_of_the_named_schedules_equals_brute_force(name: str, zero_terminal: bool) -> None:
    for T in (2, 3, 17, 200):
        schedule = BUILT_IN[name](T)
        schedule = schedule.zero_terminal_snr() if zero_terminal else schedule
        for S in {1, 2, 3, 5, T // 2, T - 1, T} & set(range(1, T + 1)):
            assert list(spaced(schedule, S, "log_snr")) == brute_force_log_snr(schedule.log_snr.tolist(), S)


@pytest.mark.promise(2)
@given(schedule=st.one_of(schedules(max_size=40, zero_terminal=None), built_in_schedules(max_size=80)), data=st.data())
def test_karras_equals_brute_force(schedule: NoiseSchedule, data: st.DataObject) -> None:
    """Karras and others' equation 5 with ρ = 7: of each σ the timestep nearest in σ^(1/7)."""
    S, T = data.draw(st.integers(1, schedule.num_timesteps)), schedule.num_timesteps
    roots = [(n / s) ** (1 / 7) if s else float("inf") for s, n in zip(schedule.signal, schedule.noise, strict=True)]
    values = spaced(schedule, S, "karras")
    assert_valid(values, T, S)
    assert list(values) == brute_force_log_snr([-root for root in roots], S)
    if S > 2 and schedule.signal[-1] > 0 and T > 20 * S:
        for i, t in enumerate(values):
            sigma = (roots[-1] + i / (S - 1) * (roots[0] - roots[-1])) ** 7
            assert min(abs(root - sigma ** (1 / 7)) for root in roots) >= abs(roots[t] - sigma ** (1 / 7)) - 1e-12


def test_log_snr_of_a_long_schedule_is_equally_spaced() -> None:
    schedule = NoiseSchedule.linear(1000)
    chosen = schedule.log_snr[list(spaced(schedule, 20, "log_snr"))]
    targets = np.linspace(schedule.log_snr[-1], schedule.log_snr[0], 20)
    half_gap = np.max(np.abs(np.diff(schedule.log_snr))[50:]) / 2
    assert np.all(np.abs(chosen - targets)[:15] <= half_gap)
    assert chosen[0] == schedule.log_snr[-1]
    assert chosen[-1] == schedule.log_snr[0]


@given(T=st.integers(1, 4000), data=st.data())
def test_quadratic_song2021_is_the_papers_code(T: int, data: st.DataObject) -> None:
    S = data.draw(st.integers(1, T))
    values = spaced(NoiseSchedule.rectified_flow(T), S, "quadratic_song2021")
    assert list(values) == oracle.quadratic_song2021(T, S)
    assert_valid(values, T, len(values))
    assert 1 <= len(values) <= S


@pytest.mark.promise(1)
@given(walk=walks())
def test_pairs_follow_the_list(walk: tuple[list[float], tuple[int, ...]]) -> None:
    _, chosen = walk
    found = pairs(chosen)
    assert [t for t, _ in found] == list(chosen)
    assert [t_next for _, t_next in found] == [*chosen[1:], None]


GIVEN_AS: dict[str, Callable[[Sequence[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "int64 tensor": lambda v: torch.tensor(v, dtype=torch.int64),
    "int32 tensor": lambda v: torch.tensor(v, dtype=torch.int32),
    "int64 array": lambda v: np.array(v, dtype=np.int64),
    "int16 array": lambda v: np.array(v, dtype=np.int16),
    "list of numpy integers": lambda v: [np.int64(t) for t in v],
    "list of tensors": lambda v: [torch.tensor(t) for t in v],
}


@pytest.mark.promise(4)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("given_as", GIVEN_AS)
@settings(max_examples=10)
@given(data=st.data())
def test_any_sequence_of_integers_works(sampler: type[PlanSampler], given_as: str, data: st.DataObject) -> None:
    schedule = data.draw(schedules())
    chosen = data.draw(timesteps(schedule.num_timesteps))
    made = sampler(schedule, timesteps=GIVEN_AS[given_as](chosen))
    assert made.timesteps == chosen
    assert type(made.timesteps) is tuple
    assert all(type(t) is int for t in made.timesteps)
    assert made.steps is None
    assert made == sampler(schedule, timesteps=chosen)
    assert hash(made) == hash(sampler(schedule, timesteps=chosen))
    assert made.plan().t == chosen


@pytest.mark.promise(4)
@pytest.mark.parametrize("sampler", SAMPLERS)
@given(start=st.integers(0, 99), stride=st.integers(1, 30))
def test_a_range_works(sampler: type[PlanSampler], start: int, stride: int) -> None:
    descending = range(start, -1, -stride)
    assert sampler(NoiseSchedule.linear(100), timesteps=descending).timesteps == tuple(descending)


INVALID: list[tuple[Any, type[Exception], str]] = [
    ([10], ValueError, r"timesteps\[0\] must lie in 0..9, got 10"),
    ([5, -1], ValueError, r"timesteps\[1\] must lie in 0..9, got -1"),
    ([5, 5], ValueError, r"timesteps\[1\] = 5 follows 5"),
    ([9, 3, 4], ValueError, r"timesteps\[2\] = 4 follows 3"),
    (range(5), ValueError, r"timesteps\[1\] = 1 follows 0"),
    ([], ValueError, "at least one"),
    (range(0), ValueError, "at least one"),
    (torch.tensor([], dtype=torch.int64), ValueError, "at least one"),
    ([9.0, 3.0], TypeError, r"timesteps\[0\] must be an integer, got 9.0"),
    ([9, 3.5], TypeError, r"timesteps\[1\] must be an integer, got 3.5"),
    ([9, float("nan")], TypeError, r"timesteps\[1\] must be an integer, got nan"),
    ([9, True], TypeError, r"timesteps\[1\] must be an integer, got True"),
    ([9, np.bool_(True)], TypeError, r"timesteps\[1\] must be an integer"),
    ([9, None], TypeError, r"timesteps\[1\] must be an integer, got None"),
    ([9, "3"], TypeError, r"timesteps\[1\] must be an integer, got '3'"),
    (torch.tensor([9.0, 3.0]), TypeError, r"timesteps\[0\] must be an integer, got 9.0"),
    (np.array([9.0, 3.0]), TypeError, r"timesteps\[0\] must be an integer, got 9.0"),
    (torch.tensor([[9], [3]]), ValueError, r"one-dimensional, got shape \(2, 1\)"),
    (torch.tensor(9), ValueError, r"one-dimensional, got shape \(\)"),
    ("93", TypeError, "list, tuple, range or 1-D integer tensor, got '93'"),
    (9, TypeError, "list, tuple, range or 1-D integer tensor, got 9"),
    ({9, 3}, TypeError, "list, tuple, range or 1-D integer tensor"),
]


@pytest.mark.promise(2, 4)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("values", "error", "match"), INVALID, ids=lambda v: str(v)[:20])
def test_invalid_lists_raise_naming_the_entry(sampler: type[PlanSampler], values: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sampler(NoiseSchedule.linear(10), timesteps=values)


@given(T=st.integers(1, 50), values=st.lists(st.integers(-3, 53), max_size=5))
def test_a_list_is_accepted_exactly_if_it_descends_strictly_within_range(T: int, values: list[int]) -> None:
    valid = len(values) > 0 and all(0 <= t < T for t in values) and values == sorted(set(values), reverse=True)
    if valid:
        assert explicit(values, T) == tuple(values)
    else:
        with pytest.raises(ValueError, match="timesteps"):
            explicit(values, T)


@pytest.mark.promise(2)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize(
    ("steps", "error", "match"),
    [
        (0, ValueError, r"1\.\.10 .*got 0"),
        (-1, ValueError, r"1\.\.10 .*got -1"),
        (11, ValueError, r"1\.\.10 .*got 11"),
        (5.0, TypeError, "steps must be an integer, got 5.0"),
        (float("nan"), TypeError, "steps must be an integer, got nan"),
        ("5", TypeError, "steps must be an integer, got '5'"),
        (True, TypeError, "steps must be an integer, got True"),
    ],
)
def test_invalid_step_counts_raise(
    sampler: type[PlanSampler], spacing: Spacing, steps: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        sampler(NoiseSchedule.linear(10), steps, spacing=spacing)


@pytest.mark.promise(2)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("arguments", [{"steps": 5}, {"timesteps": [5, 3]}])
@pytest.mark.parametrize("spacing", ["even", "", None])
def test_unknown_spacings_raise(sampler: type[PlanSampler], arguments: dict[str, Any], spacing: Any) -> None:
    with pytest.raises(ValueError, match="spacing must be one of trailing, leading, linspace, quadratic, log_snr"):
        sampler(NoiseSchedule.linear(10), **arguments, spacing=spacing)


@pytest.mark.promise(4)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_exactly_one_of_steps_and_timesteps(sampler: type[PlanSampler]) -> None:
    schedule = NoiseSchedule.linear(10)
    for arguments in ({}, {"steps": 2, "timesteps": [5, 3]}, {"steps": 2, "timesteps": []}, {"timesteps": None}, {"timesteps": ()}):
        with pytest.raises(ValueError, match=r"exactly one of steps and timesteps|at least one"):
            sampler(schedule, **arguments)


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(data=st.data())
def test_replace_goes_between_steps_and_lists(sampler: type[PlanSampler], data: st.DataObject) -> None:
    schedule = data.draw(built_in_schedules(min_size=2, max_size=60))
    T, spacing = schedule.num_timesteps, data.draw(st.sampled_from(SPACINGS))
    one, two = data.draw(st.tuples(st.integers(1, T), st.integers(1, T)))
    chosen = data.draw(timesteps(T))
    made = sampler(schedule, one, spacing=spacing, prediction="v")
    assert isinstance(made.timesteps, SpacedTimesteps)
    assert made.timesteps == spaced(schedule, one, spacing)
    assert made.steps == one
    assert dataclasses.replace(made, steps=two) == sampler(schedule, two, spacing=spacing, prediction="v")
    listed = dataclasses.replace(made, steps=None, timesteps=chosen)
    assert listed == sampler(schedule, timesteps=chosen, spacing=spacing, prediction="v")
    assert dataclasses.replace(listed, steps=two, timesteps=()) == dataclasses.replace(made, steps=two)


@pytest.mark.promise(3)
@pytest.mark.parametrize("sampler", SAMPLERS)
@given(data=st.data())
def test_model_calls_are_counted_by_nfe(sampler: type[PlanSampler], data: st.DataObject) -> None:
    alpha_bars, chosen = data.draw(walks(max_size=12, zero_terminal=False))
    made = sampler(NoiseSchedule.from_alpha_bars(alpha_bars), timesteps=chosen)
    calls: list[int] = []

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.dtype == torch.int64
        assert t.shape == (2,)
        calls.extend({int(value) for value in t})
        return 0.1 * x

    made.sample(model, x_T=torch.ones(2, 3), seed=0)
    assert calls == list(chosen)
    assert made.nfe == len(chosen) == len(calls) == made.record()["nfe"]
