"""Times of configurations: what a machine whose speed drifts does to them, in which order calls are made, and how work is kept.

``Machine`` is a clock and a model in one: each model call moves the clock on by what the call costs at that moment.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddimkit import DDIMSampler, DDPMSampler, DPMSolverPPSampler, ModelBundle, NoiseSchedule, PlanSampler
from ddimkit.errors import NonFiniteError
from ddimkit.tradeoff import _timing as timing
from ddimkit.tradeoff._timing import estimate_pace, longest_slice, measure
from ddimkit.tradeoff.times import (
    PARTS,
    Costs,
    Times,
    Timing,
    affordable_rounds,
    calls_a_round,
    round_order,
    slices_of,
    speedup,
)
from probes import smooth

TOTAL = 4000
SCHEDULE = NoiseSchedule.linear(TOTAL)
SHAPE = (1, 2, 2)
SEEDS = (5, 9)
CPU = torch.device("cpu")
COSTS = Costs(0.25, 123, "not measured here")
WARM_UP = 2

Slowness = Callable[[float], float]
"""Seconds a unit of work takes at a moment of the fake clock."""


@pytest.fixture(autouse=True, scope="module")
def without_costs() -> Iterator[None]:
    """Overhead and memory, whose profiler is slow, are measured where a test needs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing._Bench, "_overhead", lambda *_: COSTS.overhead_seconds)
        patch.setattr(timing._Bench, "_peak_memory", lambda *_: (COSTS.peak_memory_bytes, COSTS.peak_memory_note))
        yield


@dataclass
class Machine:
    """A model whose calls take ``work(t)`` × ``slowness(now)`` seconds of a clock that nothing else moves."""

    slowness: Slowness = lambda now: 1.0
    work: Callable[[int], float] = lambda t: 1.0
    now: float = 0.0
    times: list[int] = field(default_factory=list[int])

    def clock(self) -> float:
        return self.now

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(int(t[0]))
        self.now += self.work(self.times[-1]) * self.slowness(self.now)
        return smooth(x, t)

    def measure(self, samplers: Sequence[PlanSampler], rounds: int = 1, **settings: Any) -> Timing:
        bundle = ModelBundle(self, SCHEDULE, sample_shape=SHAPE)
        return measure(samplers, bundle, SEEDS, CPU, rounds=rounds, clock=self.clock, **settings)


def simulate(calls: Sequence[int], longest: int, rounds: int, slowness: Slowness) -> tuple[Times, ...]:
    """The times of samplers whose calls do one unit of work each, without tensors."""
    now, found = 0.0, list[tuple[tuple[float, ...], ...]]()
    for _ in range(rounds):
        seconds = [list[float]() for _ in calls]
        for i, size in round_order(calls, longest):
            began = now
            for _ in range(size):
                now += slowness(now)
            seconds[i].append(now - began)
        found.append(tuple(map(tuple, seconds)))
    return Timing(tuple(calls), 2, longest, (COSTS,) * len(calls), tuple(found)).times()


def list_of(steps: int, residue: int = 0) -> DDIMSampler:
    """A sampler whose timesteps all leave the given residue modulo 4, so that a model can tell whose calls it gets."""
    places = TOTAL // 4
    return DDIMSampler(SCHEDULE, timesteps=[4 * (places - 1 - i * places // steps) + residue for i in range(steps)])


def linear(work: float, rising: bool) -> Slowness:
    """From 1 to 2 while so much work is done, or from 2 to 1."""
    rate = math.log(2) / work
    return (lambda now: 1 + rate * now) if rising else (lambda now: max(1.0, 2 - rate * now))


def sinusoidal(period: float, phase: float) -> Slowness:
    """Between 1 and 2."""
    return lambda now: 1.5 + math.sin(2 * math.pi * (now / period + phase)) / 2


def stepped(work: float, place: float, rising: bool) -> Slowness:
    """From 1 to 2 after the given share of the work, or from 2 to 1."""
    first, second = (1.0, 2.0) if rising else (2.0, 1.0)
    return lambda now: first if now < place * work * first else second


def worst_ratio(times: Sequence[Times], calls: Sequence[int]) -> float:
    """By how much the speed-up of any two configurations differs from the ratio of their calls, at most."""
    paces = [t.seconds / n for t, n in zip(times, calls, strict=True)]
    return max(paces) / min(paces) - 1


CALLS = st.lists(st.one_of(st.sampled_from((10, 20, 50, 100, 250, 500, 1000)), st.integers(1, 1000)), min_size=2, max_size=8)
STUDIES = st.one_of(CALLS, CALLS.map(lambda calls: [1000, *calls]))
LONGEST = st.sampled_from((1, 5))
ROUNDS = st.integers(1, 3)


class TestDrift:
    """What a drift of the machine's speed by a factor of 2 leaves of the ratios."""

    @pytest.mark.promise(60)
    @given(STUDIES, LONGEST, ROUNDS, st.booleans())
    def test_linear_drift_bends_speedups_by_less_than_a_hundredth(self, calls, longest, rounds, rising) -> None:
        slowness = linear(rounds * calls_a_round(calls, longest), rising)
        assert worst_ratio(simulate(calls, longest, rounds, slowness), calls) < 0.01

    @pytest.mark.promise(60)
    @given(STUDIES, LONGEST, ROUNDS, st.floats(1, 20), st.floats(0, 1))
    def test_slow_waves_bend_speedups_by_less_than_a_hundredth(self, calls, longest, rounds, periods, phase) -> None:
        slowness = sinusoidal(1.5 * periods * calls_a_round(calls, longest), phase)
        assert worst_ratio(simulate(calls, longest, rounds, slowness), calls) < 0.01

    @pytest.mark.promise(60)
    @given(STUDIES, LONGEST, ROUNDS, st.floats(0, 1), st.booleans())
    def test_a_step_anywhere_bends_speedups_by_at_most_a_fiftieth(self, calls, longest, rounds, place, rising) -> None:
        slowness = stepped(rounds * calls_a_round(calls, longest), place, rising)
        assert worst_ratio(simulate(calls, longest, rounds, slowness), calls) < 0.02 + 1e-9

    @pytest.mark.promise(60)
    @pytest.mark.parametrize("rounds", [1, 2])
    @settings(max_examples=3)
    @given(st.lists(st.integers(10, 300), min_size=1, max_size=3), st.floats(0, 1), st.booleans())
    def test_measured_speedups_stand_in_the_ratio_of_the_calls(self, rounds, calls, place, rising) -> None:
        calls = [1000, 10, *calls]
        work = rounds * calls_a_round(calls, 1)
        for slowness, bound in (
            (linear(work, rising), 0.01),
            (sinusoidal(1.5 * work / rounds, place), 0.01),
            (stepped(work, place, rising), 0.03),
        ):
            base, *others = Machine(slowness).measure([list_of(n) for n in calls], rounds).times()
            for other, n in zip(others, calls[1:], strict=True):
                assert speedup(base, other).value == pytest.approx(1000 / n, rel=bound)

    @pytest.mark.promise(60)
    @pytest.mark.parametrize("calls", [7, 100, 1000])
    @pytest.mark.parametrize("drifts", [False, True])
    def test_a_configuration_that_costs_more_shows_as_slower_by_just_that(self, calls: int, drifts: bool) -> None:
        samplers = [list_of(1000), list_of(calls), list_of(calls, residue=1), list_of(calls, residue=3)]
        # Calls at odd timesteps cost a tenth more, and the last sampler's first call of a run costs 3 calls besides.
        machine = Machine(work=lambda t: (1.1 if t % 2 else 1.0) + 3 * (t == TOTAL - 1))
        if drifts:
            machine.slowness = linear(1.1 * calls_a_round([s.nfe for s in samplers], 1), rising=True)
        base, plain, dearer, fixed = machine.measure(samplers).times()
        bound = 0.01 if drifts else 1e-9
        assert speedup(base, plain).value == pytest.approx(1000 / calls, rel=bound)
        assert speedup(plain, dearer).value == pytest.approx(1 / 1.1, rel=bound)
        # A run's first call stands half a run before its middle, which a drift bends: by that share of the round, of that share.
        early = drifts * 3 / (1.1 * calls + 3) / (2 * slices_of(calls, 1)[0])
        assert speedup(plain, fixed).value == pytest.approx(calls / (1.1 * calls + 3), rel=bound + early)


class TestOrder:
    """Which call is made when."""

    @given(STUDIES, LONGEST)
    def test_every_slice_falls_at_its_own_fraction(self, calls, longest) -> None:
        totals = [slices_of(n, longest)[0] * n for n in calls]
        done, last = [0] * len(calls), Fraction(0)
        for i, size in round_order(calls, longest):
            middle = Fraction(2 * done[i] + size, 2 * totals[i])
            assert last <= middle
            done[i], last = done[i] + size, middle
        assert done == totals

    @given(st.integers(1, 2000), st.integers(1, 25))
    def test_slices_hold_at_most_a_fiftieth_of_the_calls(self, calls, longest) -> None:
        runs, sizes = slices_of(calls, longest)
        assert sum(sizes) == calls
        assert max(sizes) <= longest
        assert min(sizes) >= 1
        assert Fraction(max(sizes), runs * calls) <= Fraction(1, 50)
        assert runs == 1 or Fraction(max(sizes), (runs - 1) * calls) > Fraction(1, 50)

    def test_none_of_equals_comes_first_on_average(self) -> None:
        places: list[list[int]] = [[], [], []]
        for place, (i, _) in enumerate(round_order([50, 50, 50], 1)):
            places[i].append(place)
        assert len({sum(p) for p in places}) == 1

    def test_only_devices_that_work_alone_are_looked_at_less_often(self) -> None:
        assert longest_slice(CPU) == 1
        assert longest_slice(torch.device("cuda")) > 1

    @pytest.mark.promise(60)
    @pytest.mark.parametrize("longest", [1, 5])
    @pytest.mark.parametrize("rounds", [1, 2])
    def test_every_call_of_every_run_is_made_once_in_the_order_of_its_rows(
        self, longest: int, rounds: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(timing, "longest_slice", lambda _: longest)
        samplers, machine = [list_of(n, i) for i, n in enumerate((120, 7, 1, 50))], Machine()
        timed = machine.measure(samplers, rounds)
        made = machine.times[WARM_UP * len(samplers) :]
        assert [t % 4 for t in made] == [i for i, size in round_order(timed.calls, longest) for _ in range(size)] * rounds
        for i, sampler in enumerate(samplers):
            runs = slices_of(sampler.nfe, longest)[0]
            assert [t for t in made if t % 4 == i] == list(sampler.timesteps) * runs * rounds
        assert [t.seconds for t in timed.times()] == pytest.approx([120, 7, 1, 50])

    @pytest.mark.parametrize("longest", [1, 5])
    def test_the_images_are_those_of_sample(self, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timing, "longest_slice", lambda _: longest)
        samplers: list[PlanSampler] = [
            DDPMSampler(SCHEDULE, steps=60),
            DDIMSampler(SCHEDULE, steps=7, eta=0.5),
            DDIMSampler(SCHEDULE, steps=1),
            DPMSolverPPSampler(SCHEDULE, steps=12, order=3, eta=1.0),
        ]
        for sampler, drawn in zip(samplers, Machine().measure(samplers, 2).samples, strict=True):
            assert torch.equal(drawn, sampler.sample(smooth, (len(SEEDS), *SHAPE), seed=SEEDS))

    def test_autograd_is_off_in_the_model_and_never_outside_it(self) -> None:
        inside, outside = list[bool](), list[bool]()

        def model(x: Tensor, t: Tensor) -> Tensor:
            inside.append(torch.is_grad_enabled())
            return smooth(x, t)

        def look(done: int, total: int, what: str) -> None:
            outside.append(torch.is_grad_enabled())

        bundle = ModelBundle(model, SCHEDULE, sample_shape=SHAPE)
        measure([list_of(3), list_of(20)], bundle, SEEDS, CPU, rounds=1, progress=look)
        assert set(inside) == {False}
        assert set(outside) == {True}


class TestMeasure:
    """What a measurement reports, keeps and refuses."""

    def test_it_reports_every_call(self) -> None:
        said: list[tuple[int, int, str]] = []
        Machine().measure([list_of(60), list_of(10)], 2, progress=lambda *words: said.append(words))
        total = 2 * calls_a_round([60, 10], 1)
        done = [n for n, _, _ in said]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, total)
        assert set(range(total)) <= set(done)
        assert {n for _, n, _ in said} == {total}
        assert list(dict.fromkeys(what for _, _, what in said)) == ["overhead and memory", "round 1/2", "round 2/2"]

    @pytest.mark.parametrize("finished", [0, 1, 2])
    def test_it_goes_on_after_the_rounds_it_was_stopped_in(self, finished: int) -> None:
        samplers, written = [list_of(60), list_of(10, 1)], list[tuple[str, tuple[Tensor, ...]]]()
        whole = Machine().measure(samplers, 3)
        machine, limit = Machine(), WARM_UP * 2 + finished * calls_a_round([60, 10], 1) + 5

        def stop(done: int, total: int, what: str) -> None:
            if len(machine.times) >= limit:
                raise KeyboardInterrupt

        def write(timed: Timing) -> None:
            written.append((json.dumps(timed.to_dict(), allow_nan=False), timed.samples))

        with pytest.raises(KeyboardInterrupt):
            machine.measure(samplers, 3, keep=write, progress=stop)
        assert len(written) == finished
        kept = Timing.from_dict(json.loads(written[-1][0]), written[-1][1]) if written else None
        again, done = Machine(), list[int]()
        timed = again.measure(samplers, 3, kept=kept, progress=lambda n, _total, _what: done.append(n))
        assert len(again.times) == WARM_UP * 2 + (3 - finished) * calls_a_round([60, 10], 1)
        assert done[0] == finished * calls_a_round([60, 10], 1)
        assert timed.times() == pytest.approx(whole.times())
        assert all(torch.equal(a, b) for a, b in zip(timed.samples, whole.samples, strict=True))

    def test_nothing_is_called_where_all_rounds_are_kept(self) -> None:
        samplers = [list_of(60), list_of(10)]
        kept, machine = Machine().measure(samplers, 2), Machine()
        assert machine.measure(samplers, 1, kept=kept).times() == kept.times()
        assert not machine.times

    @pytest.mark.parametrize("other", [[list_of(60)], [list_of(60), list_of(11)]])
    def test_rounds_of_other_samplers_are_refused(self, other: list[PlanSampler]) -> None:
        with pytest.raises(ValueError, match="kept rounds"):
            Machine().measure(other, 1, kept=Machine().measure([list_of(60), list_of(10)]))

    @pytest.mark.parametrize(
        "change",
        [
            lambda d: d.pop("rounds"),
            lambda d: d.pop("longest"),
            lambda d: d["rounds"][0].pop(),
            lambda d: d["rounds"][0][1].pop(),
            lambda d: d["rounds"][0][1].__setitem__(0, float("nan")),
            lambda d: d["rounds"][0][1].__setitem__(0, -1.0),
            lambda d: d["rounds"][0][1].__setitem__(0, None),
            lambda d: d["costs"].pop(),
            lambda d: d["costs"][0].pop("overhead_seconds"),
            lambda d: d["calls"].append(3),
            lambda d: d.update(longest=25),
        ],
    )
    def test_damaged_rounds_are_refused(self, change: Callable[[dict[str, Any]], object]) -> None:
        timed = Machine().measure([list_of(60), list_of(10)])
        data = json.loads(json.dumps(timed.to_dict()))
        assert Timing.from_dict(data, timed.samples).times() == timed.times()
        with pytest.raises(ValueError, match="rounds"):
            Timing.from_dict(data, timed.samples[:1])
        change(data)
        with pytest.raises(ValueError, match="rounds"):
            Timing.from_dict(data, timed.samples)

    def test_nothing_to_measure_is_refused(self) -> None:
        bundle = ModelBundle(Machine(), SCHEDULE, sample_shape=SHAPE)
        for samplers, seeds, rounds in (([], SEEDS, 1), ([list_of(3)], (), 1), ([list_of(3)], SEEDS, 0)):
            with pytest.raises(ValueError, match=r"0 samplers|0 seeds|0 rounds"):
                measure(samplers, bundle, seeds, CPU, rounds=rounds)

    def test_a_result_that_is_not_finite_raises_as_it_does_in_sample(self) -> None:
        bundle = ModelBundle(lambda x, t: x * math.nan, SCHEDULE, sample_shape=SHAPE)
        with pytest.raises(NonFiniteError, match="began at step 0"):
            measure([list_of(3)], bundle, SEEDS, CPU, rounds=1)

    def test_the_real_clock_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        bundle = ModelBundle(smooth, SCHEDULE, sample_shape=SHAPE)
        (times,) = measure([list_of(3)], bundle, SEEDS, CPU, rounds=1).times()
        assert 0 < times.seconds < 60
        assert estimate_pace(list_of(3), bundle, SEEDS, CPU) > 0

    def test_the_pace_is_that_of_the_usual_call(self) -> None:
        machine = Machine(work=lambda t: 50.0 if t == TOTAL - 2 else 0.5)
        bundle = ModelBundle(machine, SCHEDULE, sample_shape=SHAPE)
        sampler = DDIMSampler(SCHEDULE, timesteps=[TOTAL - 2, 40, 30, 20])
        assert estimate_pace(sampler, bundle, SEEDS, CPU, machine.clock) == 0.5


class TestRounds:
    """How many rounds fit into the time."""

    @given(st.integers(1, 10**5), st.floats(1e-6, 10), st.floats(1, 1000), st.integers(1, 9))
    def test_as_many_as_fit_at_least_one(self, calls, pace, limit, most) -> None:
        rounds = affordable_rounds(calls, pace, limit, most)
        assert 1 <= rounds <= most
        assert rounds == 1 or rounds * calls * pace <= limit * (1 + 1e-9)
        assert rounds == most or (rounds + 1) * calls * pace > limit * (1 - 1e-9)

    @pytest.mark.parametrize(("pace", "rounds"), [(0.1, 1), (0.04, 2), (0.01, 3), (1.0, 1), (0.0, 3)])
    def test_of_the_standard_sweep(self, pace: float, rounds: int) -> None:
        assert affordable_rounds(2510, pace) == rounds


AMOUNTS = st.lists(st.floats(0.01, 100), min_size=PARTS, max_size=PARTS)


def times_of(parts: Sequence[float]) -> Times:
    return Times(sum(parts) / PARTS, 16, tuple(parts), 0.5, None, "not measurable")


class TestTimes:
    """The figures of one configuration, and the ratio of two."""

    @given(CALLS, LONGEST, ROUNDS, st.integers(0, 2**32))
    def test_the_parts_average_to_the_whole(self, calls, longest, rounds, seed) -> None:
        random = Random(seed)
        layout = [slices_of(n, longest) for n in calls]
        found = tuple(tuple(tuple(random.random() for _ in sizes * runs) for runs, sizes in layout) for _ in range(rounds))
        for i, times in enumerate(Timing(tuple(calls), 4, longest, (COSTS,) * len(calls), found).times()):
            assert times.seconds == pytest.approx(sum(sum(a_round[i]) for a_round in found) / layout[i][0] / rounds)
            assert sum(times.parts) / PARTS == pytest.approx(times.seconds)
            assert len(times.parts) == PARTS
            assert (times.per_sample_seconds, times.batch) == (times.seconds / 4, 4)
            assert (times.overhead_seconds, times.peak_memory_bytes) == (COSTS.overhead_seconds, COSTS.peak_memory_bytes)

    def test_a_part_is_what_a_run_would_take_at_its_pace(self) -> None:
        calls = [1000, 50, 10]
        work = calls_a_round(calls, 1)
        for times, n in zip(simulate(calls, 1, 1, stepped(work, 0.5, rising=True)), calls, strict=True):
            assert times.parts == pytest.approx([n] * 5 + [2 * n] * 5, rel=0.03)
            assert times.quartiles == pytest.approx((n, 2 * n), rel=0.03)

    @given(AMOUNTS, AMOUNTS)
    def test_a_speedup_lies_in_its_interval(self, above, below) -> None:
        found = speedup(times_of(above), times_of(below))
        assert found.value == pytest.approx(sum(above) / sum(below))
        assert 0 <= found.low <= found.value <= found.high

    @given(AMOUNTS, st.floats(0.01, 100))
    def test_what_slows_both_alike_does_not_widen_the_interval(self, parts, factor) -> None:
        found = speedup(times_of([factor * v for v in parts]), times_of(parts))
        assert (found.low, found.value, found.high) == pytest.approx((factor, factor, factor))

    def test_the_interval_holds_the_truth_as_often_as_it_says(self) -> None:
        numbers, held = torch.Generator().manual_seed(0), 0
        for _ in range(1000):
            above, below = (1 + 0.1 * torch.randn(2, PARTS, generator=numbers, dtype=torch.float64)).tolist()
            found = speedup(times_of(above), times_of(below))
            held += found.low <= 1 <= found.high
        assert 920 <= held <= 980

    @given(AMOUNTS)
    def test_times_survive_json(self, parts) -> None:
        times = times_of(parts)
        assert Times.from_dict(json.loads(json.dumps(times.to_dict(), allow_nan=False))) == times

    @pytest.mark.parametrize(
        "change",
        [
            {"parts": [1.0] * (PARTS - 1)},
            {"parts": None},
            {"parts": ["a"] * PARTS},
            {"seconds": math.nan},
            {"seconds": "1"},
            {"batch": 0},
            {"overhead_seconds": -1.0},
            {"unknown": 1},
        ],
    )
    def test_damaged_times_are_refused(self, change: dict[str, Any]) -> None:
        data = times_of([1.0] * PARTS).to_dict()
        with pytest.raises(ValueError, match=r"times|float"):
            Times.from_dict({**data, **change})
        del data["batch"]
        with pytest.raises(ValueError, match="batch"):
            Times.from_dict(data)


def test_slices_of_one_run_are_alike() -> None:
    for calls in (10, 50, 100, 250, 1000):
        for longest in (1, 5):
            sizes = slices_of(calls, longest)[1]
            assert all(a == b for a, b in pairwise(sizes))
