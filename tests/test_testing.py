"""What the kit offers beside its checks: measured orders, integration weights, tables of other histories, strategies."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddimkit import DDIMSampler, DPMSolverPPSampler, NoiseSchedule, Plan, PlanSampler, UniPCSampler
from ddimkit.testing import check_plan, integration_weights, measured_order, strategies, x0_history
from ddimkit.testing._plans import check_joints
from probes import normal, smooth

SCHEDULE = NoiseSchedule.linear()
TIMES = (999, 900, 700, 400, 120, 7)


@pytest.mark.parametrize(
    ("kind", "settings", "order"),
    [(DDIMSampler, {}, 1), (DDIMSampler, {"eta": 1.0}, 1), (DPMSolverPPSampler, {"order": 3}, 3), (UniPCSampler, {"order": 2}, 3)],
)
def test_measured_orders(kind: Any, settings: dict[str, Any], order: int) -> None:
    found = measured_order(lambda schedule, times: kind(schedule, timesteps=times, **settings).plan())
    assert found == pytest.approx(order, abs=0.1)


@given(st.lists(st.floats(-4, 0), min_size=0, max_size=3, unique_by=lambda node: round(node, 1)), st.floats(0.05, 4))
def test_weights_integrate_the_polynomial(earlier: list[float], h: float) -> None:
    """Against Gauss and Legendre's rule, for each power up to the number of nodes."""
    nodes = [0.0, *(node - 0.5 for node in earlier)]
    found = integration_weights(nodes, h)
    places, parts = np.polynomial.legendre.leggauss(40)
    r = (places + 1) / 2
    for power in range(len(nodes)):
        expected = float((parts / 2 * h * np.exp(-h * (1 - r)) * r**power).sum())
        assert found @ np.array(nodes) ** power == pytest.approx(expected, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize(("nodes", "h"), [([], 1.0), ([0.0, 0.0], 1.0), ([0.0], 0.0), ([0.0], float("inf"))])
def test_weights_refuse(nodes: list[float], h: float) -> None:
    with pytest.raises(ValueError, match="got"):
        integration_weights(nodes, h)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
def test_a_table_of_earlier_outputs(prediction: Any) -> None:
    """The table over x0 predictions walks as the table over outputs does by hand."""
    draw = np.random.default_rng(3)
    S = len(TIMES)
    a, outputs = draw.uniform(0.5, 1, S), np.tril(draw.normal(size=(S, 3)) / 4)
    bare = Plan(TIMES, (*TIMES[1:], None), a, np.ones(S), np.zeros(S))
    plan = x0_history(bare, SCHEDULE, outputs, prediction)
    check_joints(plan)
    x_T = normal(2, 3, dtype=torch.float64)
    sampler = PlanSampler.from_plan(SCHEDULE, plan, prediction=prediction)
    found = sampler.sample(smooth, x_T=x_T)
    x, history = x_T, []
    for k, t in enumerate(TIMES):
        history.insert(0, smooth(x, torch.full((2,), t)))
        x = a[k] * x + sum(weight * out for weight, out in zip(outputs[k], history, strict=False))
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)


def test_a_table_of_earlier_outputs_refuses() -> None:
    bare = Plan(TIMES, (*TIMES[1:], None), np.ones(6), np.ones(6), np.full(6, 0.1))
    with pytest.raises(ValueError, match="without noise"):
        x0_history(bare, SCHEDULE, np.ones((6, 1)))


@given(strategies.samplers())
def test_samplers_have_sound_plans(sampler: PlanSampler) -> None:
    check_plan(sampler.plan(), sampler.schedule)


@given(strategies.plans(), strategies.shapes(), strategies.spectra(), strategies.SEEDS)
def test_plans_run(plan: Plan, shape: tuple[int, ...], spectrum: list[float], seed: int) -> None:
    check_joints(plan)
    assert Plan.from_dict(plan.to_dict()) == plan
    sampler = PlanSampler.from_plan(SCHEDULE, plan, prediction="x0")
    x = sampler.sample(smooth, x_T=normal(*shape), seed=min(seed, 2**62))
    assert x.shape == shape
    assert min(spectrum) > 0
