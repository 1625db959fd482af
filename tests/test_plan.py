"""The table itself: what it accepts, how it compares, and that saving keeps every bit."""

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ddimkit import DDIMSampler, DDPMSampler, NoiseSchedule, Plan, PlanSampler
from ddimkit.analytic import gaussian_error
from ddimkit.plan import Levels
from plugins import AdamsBashforth2
from strategies import timesteps, walks

GOLDEN = Path(__file__).parent / "golden" / "plan_v2.json"

# Numbers that a sloppy writer would change: no short decimal form, signed zero, the smallest and a very large one.
GOLDEN_PLAN = Plan(
    t=(999, 500, 500, 0),
    t_next=(500, 500, 0, None),
    a=np.array([float.fromhex("0x1.5555555555555p-2"), 0.1, -0.0, 0.0]),
    b=np.array([[0.1 + 0.2, 0.0], [2.0 / 3.0, -1e-17], [5e-324, 1e300], [1.0, 0.0]]),
    c=np.array([float.fromhex("0x1.921fb54442d18p+1"), 0.0, 1e-300, 0.0]),
    c_max=np.array([4.0, 0.0, 0.5, 0.0]),
    signal=np.array([0.0, 0.1 + 0.2, 0.1 + 0.2, 1.0 - 2.0**-53]),
    noise=np.array([1.0, 2.0 / 3.0, 2.0 / 3.0, 5e-324]),
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Tables of arbitrary finite numbers, no sampler's."""
    size, depth = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    t = draw(st.lists(st.integers(0, 999), min_size=size, max_size=size))

    def column(numbers: st.SearchStrategy[float], width: int = 1) -> np.ndarray:
        return np.array(draw(st.lists(numbers, min_size=size * width, max_size=size * width)))

    std = st.floats(0, 1e300)
    c_max = column(std) if draw(st.booleans()) else None
    levels = (column(FINITE), column(FINITE)) if draw(st.booleans()) else (None, None)
    return Plan(tuple(t), (*t[1:], None), column(FINITE), column(FINITE, depth).reshape(size, depth), column(std), c_max, *levels)


@given(plan=plans())
def test_saved_plans_read_back_bit_for_bit(plan: Plan) -> None:
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False)))
    assert again == plan
    assert hash(again) == hash(plan)
    for name in ("a", "b", "c", "c_max", "signal", "noise"):
        one, other = getattr(plan, name), getattr(again, name)
        assert (one is None) == (other is None)
        assert one is None or (one.tobytes() == other.tobytes() and one.shape == other.shape)
    assert again.to_dict() == plan.to_dict()


def test_golden_file_of_schema_2() -> None:
    text = GOLDEN.read_text(encoding="utf-8")
    assert Plan.from_dict(json.loads(text)) == GOLDEN_PLAN
    assert json.dumps(GOLDEN_PLAN.to_dict(), indent=1) + "\n" == text
    assert json.loads(text)["schema"] == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema": 1}, "schema 2 is wanted, got schema 1"),
        ({"schema": None}, "got schema None"),
        ({"schema": "2"}, "got schema '2'"),
    ],
)
def test_unknown_schemas_raise(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Plan.from_dict({**GOLDEN_PLAN.to_dict(), **change})


@pytest.mark.parametrize("name", ["t", "t_next", "a", "b", "c"])
def test_missing_fields_are_named(name: str) -> None:
    saved = GOLDEN_PLAN.to_dict()
    del saved[name]
    with pytest.raises(ValueError, match=f"lacks {name}"):
        Plan.from_dict(saved)


def test_optional_columns_may_be_missing_from_a_saved_plan() -> None:
    saved = dataclasses.replace(GOLDEN_PLAN, c_max=None, signal=None, noise=None).to_dict()
    for name in ("c_max", "signal", "noise"):
        del saved[name]
    plan = Plan.from_dict(saved)
    assert (plan.c_max, plan.signal, plan.noise) == (None, None, None)


VALID: dict[str, Any] = {"t": (9, 4), "t_next": (4, None), "a": [0.5, 0.0], "b": [[0.4, 0.1], [1.0, 0.0]], "c": [0.1, 0.0]}


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"t": ()}, ValueError, "needs at least one row"),
        ({"t": (9, 4, 1)}, ValueError, r"plan of 3 rows needs a of shape \(3,\), got \(2,\)"),
        ({"t_next": (None,)}, ValueError, "t has 2 entries but t_next has 1"),
        ({"t": (9.0, 4)}, TypeError, "timestep must be an integer, got 9.0"),
        ({"t": (True, 4)}, TypeError, "timestep must be an integer, got True"),
        ({"t": (9, None)}, TypeError, "timestep must be an integer, got None"),
        ({"t_next": (4.0, None)}, TypeError, "timestep must be an integer, got 4.0"),
        ({"a": [0.5]}, ValueError, r"needs a of shape \(2,\), got \(1,\)"),
        ({"a": [[0.5], [0.0]]}, ValueError, r"needs a of shape \(2,\), got \(2, 1\)"),
        ({"b": [[0.4], [1.0], [1.0]]}, ValueError, r"needs b of shape \(2, K\), got \(3, 1\)"),
        ({"b": [[], []]}, ValueError, r"needs b of shape \(2, K\), got \(2, 0\)"),
        ({"b": [[[0.4]], [[1.0]]]}, ValueError, r"needs b of shape \(2, K\), got \(2, 1, 1\)"),
        ({"c": [0.1]}, ValueError, r"needs c of shape \(2,\), got \(1,\)"),
        ({"c": [0.1, -0.2]}, ValueError, "c is a standard deviation .* got -0.2 in row 1"),
        ({"c_max": [-0.1, 0.0]}, ValueError, "c_max is a standard deviation .* got -0.1 in row 0"),
        ({"c_max": [0.1]}, ValueError, r"needs c_max of shape \(2,\), got \(1,\)"),
        ({"a": [0.5, float("nan")]}, ValueError, "a must be finite, got nan at entry 1"),
        ({"b": [[0.4, float("inf")], [1.0, 0.0]]}, ValueError, "b must be finite, got inf at entry 1"),
        ({"c": [float("inf"), 0.0]}, ValueError, "c must be finite, got inf at entry 0"),
        ({"a": ["0.5", "0"]}, TypeError, "a must be real numbers"),
        ({"c": [0.1j, 0]}, TypeError, "c must be real numbers"),
        ({"signal": [0.5, 0.9]}, ValueError, "both signal and noise or neither, got only signal"),
        ({"noise": [0.5, 0.1]}, ValueError, "both signal and noise or neither, got only noise"),
        ({"signal": [0.5], "noise": [0.5, 0.1]}, ValueError, r"needs signal of shape \(2,\), got \(1,\)"),
        ({"signal": [0.5, 0.9], "noise": [0.5, float("nan")]}, ValueError, "noise must be finite, got nan at entry 1"),
    ],
)
def test_invalid_tables_raise(change: dict[str, Any], error: type[Exception], match: str) -> None:
    Plan(**VALID)
    with pytest.raises(error, match=match):
        Plan(**{**VALID, **change})


@given(plan=plans(), data=st.data())
def test_every_field_counts_in_comparison(plan: Plan, data: st.DataObject) -> None:
    twin = dataclasses.replace(plan, a=plan.a.copy())
    assert twin == plan
    assert hash(twin) == hash(plan)
    row = data.draw(st.integers(0, len(plan) - 1))

    def nudged(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed.reshape(len(plan), -1)[row, -1] = np.nextafter(changed.reshape(len(plan), -1)[row, -1], 1e308)
        return changed

    others = [
        dataclasses.replace(plan, t=(*plan.t[:row], plan.t[row] + 1, *plan.t[row + 1 :])),
        dataclasses.replace(plan, t_next=(*plan.t_next[:-1], 0)),
        dataclasses.replace(plan, a=nudged(plan.a)),
        dataclasses.replace(plan, b=nudged(plan.b)),
        dataclasses.replace(plan, b=np.pad(plan.b, ((0, 0), (0, 1)))),
        dataclasses.replace(plan, c=nudged(plan.c)),
        dataclasses.replace(plan, c_max=None if plan.c_max is not None else plan.c),
    ]
    assert all(other != plan for other in others)
    assert len({plan, twin, *others}) == 1 + len(others)
    assert plan != plan.to_dict()
    known = dataclasses.replace(plan, signal=plan.c / 2, noise=plan.c)
    assert known == plan == dataclasses.replace(plan, signal=None, noise=None)
    assert hash(known) == hash(plan)


def test_shape_of_b_counts_in_comparison() -> None:
    flat = Plan((5, 3), (3, None), [0.5, 0], [[1.0, 0.0], [1.0, 0.0]], [0, 0])  # type: ignore[arg-type]
    assert flat != Plan((5, 3), (3, None), [0.5, 0], [[1.0], [1.0]], [0, 0])  # type: ignore[arg-type]


@given(plan=plans())
def test_tables_are_read_only_and_copies_equal(plan: Plan) -> None:
    for again in (plan, pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan), copy.copy(plan)):
        assert again == plan
        assert hash(again) == hash(plan)
        for name in ("c_max", "signal", "noise"):
            assert (getattr(again, name) is None) == (getattr(plan, name) is None)
        for array in (a for a in (again.a, again.b, again.c, again.c_max, again.signal, again.noise) if a is not None):
            assert array.dtype == np.float64
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.a = plan.c  # type: ignore[misc]


def test_the_callers_arrays_are_copied() -> None:
    a, b, c = np.array([0.5, 0.0]), np.array([[0.4], [1.0]]), np.array([0.1, 0.0])
    plan, kept = Plan((9, 4), (4, None), a, b, c), Plan((9, 4), (4, None), a.copy(), b.copy(), c.copy())
    a[:], b[:], c[:] = 7, 7, 7
    assert plan == kept


def test_columns_come_in_any_container() -> None:
    expected = Plan((9, 4), (4, None), np.array([0.5, 0]), np.array([[0.25], [1]]), np.array([0.125, 0]))
    containers: list[Callable[[list[float]], Any]] = [list, tuple, np.array, torch.tensor, lambda v: np.array(v, dtype=np.float32)]
    for make in containers:
        assert Plan((9, 4), (4, None), make([0.5, 0.0]), make([0.25, 1.0]), make([0.125, 0.0])) == expected
    as_lists = Plan([9, 4], [4, None], [0.5, 0], [0.25, 1], [0.125, 0])  # type: ignore[arg-type]
    assert as_lists == expected
    assert hash(as_lists) == hash(expected)


@given(plan=plans(), data=st.data())
def test_slices_are_the_rows(plan: Plan, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(plan) - 1))
    stop = data.draw(st.integers(start + 1, len(plan)))
    part = plan[start:stop]
    assert len(part) == stop - start
    assert part.t == plan.t[start:stop]
    assert part.t_next == plan.t_next[start:stop]
    for name in ("a", "b", "c"):
        assert np.array_equal(getattr(part, name), getattr(plan, name)[start:stop])
    for name in ("c_max", "signal", "noise"):
        rows, whole = getattr(part, name), getattr(plan, name)
        assert (rows is None) == (whole is None)
        assert rows is None or np.array_equal(rows, whole[start:stop])
    assert plan[:] == plan


@pytest.mark.promise(1)
@given(walk=walks(), data=st.data())
def test_a_samplers_later_rows_are_the_plan_of_the_later_timesteps(
    walk: tuple[list[float], tuple[int, ...]], data: st.DataObject
) -> None:
    alpha_bars, chosen = walk
    schedule = NoiseSchedule.from_alpha_bars(alpha_bars)
    start = data.draw(st.integers(0, len(chosen) - 1))
    for make in (DDIMSampler, DDPMSampler):
        whole = make(schedule, timesteps=chosen, prediction="v").plan()
        assert whole[start:] == make(schedule, timesteps=chosen[start:], prediction="v").plan()


@pytest.mark.promise(61)
@given(walk=walks(), data=st.data())
def test_a_samplers_plan_knows_its_levels_and_another_schedule_is_refused(
    walk: tuple[list[float], tuple[int, ...]], data: st.DataObject
) -> None:
    alpha_bars, chosen = walk
    schedule = NoiseSchedule.from_alpha_bars(alpha_bars)
    make = data.draw(st.sampled_from([DDIMSampler, DDPMSampler, AdamsBashforth2]))
    plan = make(schedule, timesteps=chosen, prediction="v").plan()
    assert plan.signal is not None
    assert plan.noise is not None
    assert plan.signal.tolist() == [schedule.signal[t] for t in chosen]
    assert plan.noise.tolist() == [schedule.noise[t] for t in chosen]
    name, row = data.draw(st.sampled_from(["signal", "noise"])), data.draw(st.integers(0, len(plan) - 1))
    by = data.draw(st.sampled_from([0.5e-9, -0.5e-9, 2e-9, -2e-9]))
    values = getattr(plan, name).copy()
    before = values[row]
    values[row] += by
    assume(values[row] != 0)
    known = dataclasses.replace(plan, **{name: values})
    if abs(by) < 1e-9 and before != 0:
        assert PlanSampler.from_plan(schedule, known, prediction="v").plan().to_dict() == known.to_dict()
        return
    with pytest.raises(ValueError, match=rf"another schedule: its {name} at t={chosen[row]} is .* give the schedule"):
        PlanSampler.from_plan(schedule, known, prediction="v")
    with pytest.raises(ValueError, match="another schedule"):
        gaussian_error(known, 0.0, [0.25], schedule=schedule)


def test_a_table_without_levels_takes_the_schedules() -> None:
    schedule, bare = NoiseSchedule.linear(10), Plan(**VALID)
    assert bare.signal is None
    known = PlanSampler.from_plan(schedule, bare).plan()
    assert known == bare
    assert known.signal is not None
    assert known.signal.tolist() == [schedule.signal[9], schedule.signal[4]]
    assert known.with_levels(schedule) is known
    with pytest.raises(ValueError, match="another schedule"):
        PlanSampler.from_plan(NoiseSchedule.cosine(10), known)


def test_a_class_whose_plan_is_of_another_schedule_is_refused() -> None:
    table = DDIMSampler(NoiseSchedule.linear(10), steps=3).plan()

    class Loaded(DDIMSampler):
        def plan(self) -> Plan:
            return table

    assert Loaded(NoiseSchedule.linear(10), steps=3).plan() == table
    with pytest.raises(ValueError, match=r"another schedule: its signal at t=9 .* 1e-09"):
        Loaded(NoiseSchedule.cosine(10), steps=3)


def test_plan_must_return_a_plan() -> None:
    class Wrong(DDIMSampler):
        def plan(self) -> Plan:
            return [1.0]  # type: ignore[return-value]

    with pytest.raises(TypeError, match=r"Wrong.plan\(\) must return a Plan, got list"):
        Wrong(NoiseSchedule.linear(10), steps=3)


@given(plan=plans())
def test_str_is_one_line_a_row(plan: Plan) -> None:
    head, *lines = str(plan).splitlines()
    depth = plan.b.shape[1]
    columns = ["row", "t", "t_next", "a", *(f"b{j}" for j in range(depth)), "c", *([] if plan.c_max is None else ["c_max"])]
    assert head.split() == columns
    assert len(lines) == len(plan)
    for k, line in enumerate(lines):
        row, t, t_next, *numbers = line.split()
        assert (int(row), int(t)) == (k, plan.t[k])
        assert t_next == ("-" if plan.t_next[k] is None else str(plan.t_next[k]))
        values = [plan.a[k], *plan.b[k], plan.c[k], *([] if plan.c_max is None else [plan.c_max[k]])]
        np.testing.assert_allclose([float(number) for number in numbers], values, rtol=1e-9, atol=5.1e-10)


def test_str_of_a_plan_reads_as_a_table() -> None:
    plan = Plan((999, 4), (4, None), np.array([0.5, 0]), np.array([0.25, 1]), np.array([0, 0]))
    assert str(plan) == (
        " row     t t_next             a            b0             c\n"
        "   0   999      4   0.500000000   0.250000000   0.000000000\n"
        "   1     4      -   0.000000000   1.000000000   0.000000000"
    )


@pytest.mark.promise(1)
@given(data=st.data())
def test_levels_are_the_schedules_own_entries(data: st.DataObject) -> None:
    alpha_bars, chosen = data.draw(walks())
    schedule = NoiseSchedule.from_alpha_bars(alpha_bars)
    levels = Levels.of(schedule, chosen)
    for i, t in enumerate(chosen):
        assert (levels.s[i], levels.n[i]) == (schedule.signal[t], schedule.noise[t])
        after = (schedule.signal[chosen[i + 1]], schedule.noise[chosen[i + 1]]) if i + 1 < len(chosen) else (1.0, 0.0)
        assert (levels.s_next[i], levels.n_next[i]) == after
    assert np.all(levels.h > 0)
    assert levels.h[-1] == np.inf
    assert np.all(np.isfinite(levels.h[:-1]) == (levels.s[:-1] > 0))


@given(T=st.integers(1, 30), data=st.data())
def test_plan_of_a_list_has_its_pairs(T: int, data: st.DataObject) -> None:
    chosen = data.draw(timesteps(T))
    plan = DDIMSampler(NoiseSchedule.linear(T), timesteps=chosen).plan()
    assert len(plan) == len(chosen)
    assert plan.t == chosen
    assert plan.t_next == (*chosen[1:], None)


@pytest.mark.parametrize(
    "change",
    [{"steps": -3}, {"steps": 3}, {"steps": 3, "timesteps": ()}, {"timesteps": ()}, {"timesteps": (9, 3)}, {"spacing": "leading"}],
    ids=str,
)
def test_the_timesteps_of_a_bare_table_cannot_be_chosen(change: dict[str, Any]) -> None:
    bare = PlanSampler.from_plan(NoiseSchedule.linear(10), DDIMSampler(NoiseSchedule.linear(10), 3).plan())
    assert dataclasses.replace(bare, clip=(-1, 1)).timesteps == bare.timesteps
    with pytest.raises(ValueError, match="timesteps of a bare table are its own"):
        dataclasses.replace(bare, **change)


@given(st.data(), st.integers(2, 12))
def test_rows_of_a_table_go_down_and_join(data: st.DataObject, count: int) -> None:
    schedule = NoiseSchedule.linear(20)
    times = data.draw(timesteps(20, min_size=2, max_size=count))
    plan = DDIMSampler(schedule, timesteps=times).plan()
    k = data.draw(st.integers(0, len(times) - 2))
    landed = data.draw(st.one_of(st.none(), st.integers(0, 19).filter(lambda t: t != plan.t[k + 1])))
    with pytest.raises(ValueError, match=rf"row {k} lands on {landed}, but row {k + 1} begins at t={plan.t[k + 1]}"):
        PlanSampler.from_plan(schedule, dataclasses.replace(plan, t_next=(*plan.t_next[:k], landed, *plan.t_next[k + 1 :])))
    rising = dataclasses.replace(plan, t=plan.t[::-1], t_next=(*plan.t[-2::-1], None), signal=None, noise=None)
    with pytest.raises(ValueError, match="must not rise, but row 1"):
        PlanSampler.from_plan(schedule, rising)
    assert PlanSampler.from_plan(schedule, plan[: k + 1]).nfe == k + 1  # the first rows alone are a walk too
