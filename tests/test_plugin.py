"""Samplers from outside the package: a class that writes `plan()` alone, and a bare table."""

import inspect
import itertools
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from numpy.typing import NDArray
from torch import Tensor

from ddimkit import DDIMSampler, NoiseSchedule, Plan, PlanSampler, graphs
from ddimkit.testing import check_plan
from plugins import AdamsBashforth2, Heun, Midpoint
from probes import Counting, gaussian_x0, normal, smooth
from strategies import schedules

VARIANCE = 0.25
STEPS = (40, 80, 160, 320, 640)
SCHEDULE = NoiseSchedule.linear()
TIMES = (999, 900, 700, 400, 120, 7)


def uniform_lambda(count: int) -> NoiseSchedule:
    """A schedule of equal steps of λ from 2, at t = 0, down to −2."""
    return NoiseSchedule.from_alpha_bars(1 / (1 + np.exp(-2 * np.linspace(2, -2, count))))


def heun(schedule: NoiseSchedule, times: tuple[int, ...]) -> Plan:
    """Two calls a step: an Euler row to the next timestep, asked there again, and a row that puts the mean slope right."""
    t, t_next, a, b = list[int](), list[int | None](), list[float](), list[tuple[float, float]]()
    for now, following in itertools.pairwise(times):
        (s, s1), (n, n1) = schedule.signal[[now, following]], schedule.noise[[now, following]]
        h = np.log(s1 / n1) - np.log(s / n)
        weight = float(s1 * (h + np.expm1(-h)) / h)
        t, t_next = [*t, now, following], [*t_next, following, following]
        a, b = [*a, float(n1 / n), 1.0], [*b, (float(s1 - s * n1 / n), 0.0), (weight, -weight)]
    table = np.array([*b, (1.0, 0.0)])
    return Plan((*t, times[-1]), (*t_next, None), np.array([*a, 0.0]), table, np.zeros(len(a) + 1))


def errors(make_sampler: type[PlanSampler] | None) -> NDArray[np.float64]:
    """Relative error of x at t = 0, before the jump to the clean image, for each number of steps; None is Heun's table."""
    found = []
    for steps in STEPS:
        schedule = uniform_lambda(steps + 1)
        times = tuple(range(steps, -1, -1))
        if make_sampler is None:
            sampler = PlanSampler.from_plan(schedule, heun(schedule, times), prediction="x0")
        else:
            sampler = make_sampler(schedule, timesteps=times, prediction="x0")
        x_T = torch.ones(1, dtype=torch.float64)
        *_, before, _ = sampler.iterate(gaussian_x0(schedule, VARIANCE), x_T=x_T)
        spread = np.sqrt(schedule.signal**2 * VARIANCE + schedule.noise**2)
        found.append(abs(before.x.item() / (spread[0] / spread[-1]) - 1))
    return np.array(found)


@pytest.mark.promise(37)
@pytest.mark.parametrize(("kind", "order"), [(DDIMSampler, 1), (AdamsBashforth2, 2), (None, 2)])
def test_the_measured_order(kind: type[PlanSampler] | None, order: int) -> None:
    slopes = np.diff(np.log2(errors(kind)))
    assert np.abs(slopes[-2:] + order).max() < 0.1, slopes


def test_a_sampler_takes_under_20_lines() -> None:
    assert len(inspect.getsource(AdamsBashforth2).splitlines()) < 20
    assert {name for name in vars(AdamsBashforth2) if callable(getattr(AdamsBashforth2, name)) and name[0] != "_"} == {"plan"}


def by_hand(plan: Plan, x: Tensor) -> Tensor:
    """The table applied as its definition says, to x0-predictions of `smooth`."""
    history: list[Tensor] = []
    for k, t in enumerate(plan.t):
        history.insert(0, smooth(x, torch.full((len(x),), t)))
        x = plan.a[k] * x + sum(weight * x0 for weight, x0 in zip(plan.b[k], history, strict=False))
    return x


def test_the_loop_applies_the_table() -> None:
    sampler, x_T = AdamsBashforth2(SCHEDULE, timesteps=TIMES, prediction="x0"), normal(2, 3, dtype=torch.float64)
    torch.testing.assert_close(sampler.sample(smooth, x_T=x_T), by_hand(sampler.plan(), x_T), rtol=1e-12, atol=1e-12)


@pytest.mark.promise(33)
def test_iterate_and_resume_from_every_row() -> None:
    sampler = AdamsBashforth2(SCHEDULE, timesteps=TIMES)
    expected = sampler.sample(smooth, (2, 3), seed=4)
    states = list(sampler.iterate(smooth, (2, 3), seed=4))
    assert torch.equal(states[-1].x, expected)
    assert [len(s.history) for s in states] == [1] * len(TIMES)
    for state in states[:-1]:
        *_, last = sampler.iterate(smooth, resume=state)
        assert torch.equal(last.x, expected)


@pytest.mark.parametrize("start", range(1, len(TIMES)))
def test_start_at_warms_up_anew(start: int) -> None:
    sampler, x = AdamsBashforth2(SCHEDULE, timesteps=TIMES), normal(2, 3)
    rest = replace(sampler, timesteps=TIMES[start:])
    assert rest.plan().b[0, 1] == 0
    assert start == len(TIMES) - 1 or sampler.plan() != rest.plan()
    states = list(sampler.iterate(smooth, x_T=x, start_at=start))
    assert torch.equal(states[-1].x, rest.sample(smooth, x_T=x))
    assert [(s.index, s.start_at, s.nfe) for s in states] == [(k, start, k - start + 1) for k in range(start, len(TIMES))]
    *_, resumed = sampler.iterate(smooth, resume=states[0]) if len(states) > 1 else states
    assert torch.equal(resumed.x, states[-1].x)


@given(schedules(min_size=4, max_size=12, zero_terminal=True))
def test_history_at_infinite_lambda_is_dropped(schedule: NoiseSchedule) -> None:
    times = tuple(range(schedule.num_timesteps - 1, -1, -1))
    plan = AdamsBashforth2(schedule, timesteps=times, prediction="v").plan()
    check_plan(plan, schedule)
    assert [k for k, b in enumerate(plan.b[:, 1]) if b] == list(range(2, len(times) - 1))


@given(schedules(min_size=2, max_size=12))
def test_a_table_whose_t_repeats(schedule: NoiseSchedule) -> None:
    times = tuple(range(schedule.num_timesteps - 1, -1, -1))
    plan = heun(schedule, times)
    sampler, model = PlanSampler.from_plan(schedule, plan, prediction="x0"), Counting()
    x_T = normal(2, 3, dtype=torch.float64)
    result = sampler.sample(model, x_T=x_T)
    check_plan(plan, schedule)
    assert sampler.nfe == model.calls == len(plan.t) == 2 * len(times) - 1 == sampler.record()["nfe"]
    assert sampler.timesteps == times
    torch.testing.assert_close(result, by_hand(plan, x_T), rtol=1e-10, atol=1e-10)


def test_a_table_starts_only_where_no_history_is_read() -> None:
    sampler = PlanSampler.from_plan(SCHEDULE, heun(SCHEDULE, TIMES))
    states = list(sampler.iterate(smooth, (2, 3), seed=0))
    late = sampler.sample(smooth, x_T=states[1].x, start_at=2)
    assert torch.equal(late, states[-1].x)
    with pytest.raises(ValueError, match="row 3 reads 1 earlier"):
        sampler.sample(smooth, x_T=states[2].x, start_at=3)
    with pytest.raises(ValueError, match=r"0\.\.10, got 11"):
        sampler.sample(smooth, x_T=states[2].x, start_at=11)


def test_a_table_resumes_anywhere() -> None:
    sampler = PlanSampler.from_plan(SCHEDULE, heun(SCHEDULE, TIMES))
    states = list(sampler.iterate(smooth, (2, 3), seed=0))
    for state in states[:-1]:
        *_, last = sampler.iterate(smooth, resume=state)
        assert torch.equal(last.x, states[-1].x)


def test_a_table_is_checked() -> None:
    plan = heun(SCHEDULE, TIMES)
    with pytest.raises(ValueError, match=r"0\.\.99, got 999"):
        PlanSampler.from_plan(NoiseSchedule.linear(100), plan)
    with pytest.raises(TypeError, match="must be a Plan"):
        PlanSampler.from_plan(SCHEDULE, TIMES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epsilon"):
        PlanSampler.from_plan(SCHEDULE.zero_terminal_snr(), plan)


@pytest.mark.promise(33)
@pytest.mark.parametrize("kind", [Heun, Midpoint])
@pytest.mark.parametrize("start", range(len(TIMES)))
@pytest.mark.parametrize("schedule", [SCHEDULE, NoiseSchedule.rectified_flow(1000)])
def test_start_at_counts_timesteps_where_they_have_several_rows(
    kind: type[PlanSampler], start: int, schedule: NoiseSchedule
) -> None:
    sampler, x = kind(schedule, timesteps=TIMES, prediction="x0"), normal(2, 3)
    plan, rest = sampler.plan(), replace(sampler, timesteps=TIMES[start:])
    row = len(plan) - rest.nfe
    assert plan.t[row:] == rest.plan().t
    assert plan.t[row] == TIMES[start]
    assert start == 0 or plan.t_next[row - 1] == TIMES[start]
    states = list(sampler.iterate(smooth, x_T=x, start_at=start))
    assert torch.equal(states[-1].x, rest.sample(smooth, x_T=x))
    assert torch.equal(states[-1].x, sampler.sample(smooth, x_T=x, start_at=start))
    assert torch.equal(states[-1].x, graphs.capture(sampler, smooth, (2, 3))(x_T=x, start_at=start))
    assert [(s.index, s.t, s.start_at, s.nfe) for s in states] == [(k, plan.t[k], row, k - row + 1) for k in range(row, len(plan))]
    assert sampler.record(start_at=start)["nfe"] == rest.nfe
    for state in states[:-1]:
        *_, resumed = sampler.iterate(smooth, resume=state)
        assert torch.equal(resumed.x, states[-1].x)


def test_noise_of_a_late_start_has_the_numbers_of_the_whole_plans_rows() -> None:
    @dataclass(frozen=True)
    class Noisy(Heun):
        def plan(self) -> Plan:
            plan = super().plan()
            return Plan(plan.t, plan.t_next, plan.a, plan.b, np.append(np.full(len(plan) - 1, 0.1), 0.0))

    sampler, x, drawn = Noisy(SCHEDULE, timesteps=TIMES), normal(2, 3), list[int]()

    def noise_fn(draw: int, like: Tensor) -> Tensor:
        drawn.append(draw)
        return torch.zeros_like(like)

    sampler.sample(smooth, x_T=x, start_at=2, noise_fn=noise_fn)
    assert drawn == list(range(4, 10))


def test_states_of_walks_that_begin_between_timesteps_are_refused() -> None:
    sampler = Heun(SCHEDULE, timesteps=TIMES)
    *_, state = itertools.islice(sampler.iterate(smooth, x_T=normal(2, 3), start_at=1), 1)
    assert state.start_at == 2
    for row in (1, 3, 11, -1):
        with pytest.raises(ValueError, match=f"began at row {row}"):
            list(sampler.iterate(smooth, resume=replace(state, start_at=row)))


def test_a_plan_that_goes_elsewhere_from_a_later_start_is_refused() -> None:
    @dataclass(frozen=True)
    class Other(AdamsBashforth2):
        def plan(self) -> Plan:
            plan = super().plan()
            return plan if len(plan) == len(TIMES) else Plan((9, *plan.t[1:]), plan.t_next, plan.a, plan.b, plan.c)

    with pytest.raises(ValueError, match=r"start_at=2 needs a plan that visits the same timesteps from timesteps\[2\] on"):
        Other(SCHEDULE, timesteps=TIMES).sample(smooth, x_T=normal(2, 3), start_at=2)


def test_a_class_without_a_plan_is_refused_when_it_is_made() -> None:
    class WithoutPlan(PlanSampler):
        pass

    for kind in (PlanSampler, WithoutPlan):
        with pytest.raises(TypeError, match=rf"abstract class {kind.__name__} .*plan"):
            kind(SCHEDULE, steps=3)


@dataclass(frozen=True)
class Renoising(PlanSampler):
    """Checks settings of its own, but not all."""

    eta: float = field(default=1.0, kw_only=True)
    order: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order != 1:
            raise ValueError(f"order must be 1, got {self.order}")

    def plan(self) -> Plan:
        times = list(self.timesteps)
        s, n = np.append(self.schedule.signal[times[1:]], 1.0), np.append(self.schedule.noise[times[1:]], 0.0)
        return Plan(times, (*times[1:], None), np.zeros(len(times)), s, self.eta * n)


@pytest.mark.promise(11)
@pytest.mark.parametrize("eta", [float("nan"), np.float32("nan")])
def test_a_setting_that_is_nan_is_named_when_the_sampler_is_made(eta: float) -> None:
    with pytest.raises(ValueError, match="eta of Renoising must be a number, got nan"):
        Renoising(SCHEDULE, steps=3, eta=eta)
    made = Renoising(SCHEDULE, steps=3)
    object.__setattr__(made, "eta", eta)
    with pytest.raises(ValueError, match="eta of Renoising must be a number, got nan"):
        made.plan()


def test_a_plan_that_fails_fails_when_the_sampler_is_made() -> None:
    """Also where the class checks its settings itself; its own checks come first."""
    with pytest.raises(ValueError, match="c is a standard deviation and must be at least 0"):
        Renoising(SCHEDULE, steps=3, eta=-1.0)
    with pytest.raises(ValueError, match="order must be 1, got 2"):
        Renoising(SCHEDULE, steps=3, eta=-1.0, order=2)
