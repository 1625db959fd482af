"""DPM-Solver++ and UniPC: tables against the papers at 50 digits, orders measured on Gaussians, other code where it is right."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import oracle
import orders_page
from ddimkit import DDIMSampler, DDPMSampler, DPMSolverPPSampler, NoiseSchedule, PlanSampler, UniPCSampler
from ddimkit.samplers._exponential import weights
from ddimkit.testing import check_plan
from oracle import MP
from orders_page import PublishedThirdOrder, seeded_error, slopes, warm_error
from strategies import built_in_schedules, timesteps, walks

ORDERS = (1, 2, 3)
MULTISTEP = [
    *(pytest.param(DPMSolverPPSampler, {"order": p, "eta": eta}, id=f"dpm{p}-eta{eta}") for p in ORDERS for eta in (0, 1)),
    *(pytest.param(UniPCSampler, {"order": p, "variant": v}, id=f"unipc{p}-{v}") for p in ORDERS for v in ("bh1", "bh2")),
]


def exact_levels(alpha_bars: list[float], chosen: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
    """The square roots and λ at the chosen timesteps, to 50 digits."""
    levels = [oracle.mp_levels(alpha_bars[t]) for t in chosen]
    return [s for s, _, _ in levels], [log_snr / 2 for _, _, log_snr in levels]


@pytest.mark.promise(1)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("eta", [0, 1])
@settings(max_examples=15, deadline=None)
@given(walk=walks(max_size=8, zero_terminal=False))
def test_dpm_solver_rows_equal_fifty_digits(order: int, eta: int, walk: tuple[list[float], tuple[int, ...]]) -> None:
    alpha_bars, chosen = walk
    plan = DPMSolverPPSampler(NoiseSchedule.from_alpha_bars(alpha_bars), timesteps=chosen, order=order, eta=eta).plan()
    signal, lam = exact_levels(alpha_bars, chosen)
    for k in range(len(chosen) - 1):
        depth = min(order, k + 1)
        nodes = [lam[k - j] for j in range(depth)]
        wanted = oracle.to_floats(oracle.mp_dpm_solver_pp_weights(nodes, lam[k + 1], signal[k + 1], eta))
        scale = 1 + sum(abs(w) for w in wanted)
        np.testing.assert_allclose(plan.b[k, :depth], wanted, rtol=0, atol=1e-12 * scale**2)
    assert (plan.a == DDIMSampler(NoiseSchedule.from_alpha_bars(alpha_bars), timesteps=chosen, eta=eta).plan().a).all()


@pytest.mark.promise(1)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@settings(max_examples=25, deadline=None)
@given(walk=walks(max_size=8, zero_terminal=False))
def test_unipc_rows_equal_fifty_digits(order: int, variant: Any, walk: tuple[list[float], tuple[int, ...]]) -> None:
    """Row by row on symbols: what every model call is asked with, as a combination of x_T and all answers before."""
    alpha_bars, chosen = walk
    plan = UniPCSampler(NoiseSchedule.from_alpha_bars(alpha_bars), timesteps=chosen, order=order, variant=variant).plan()
    wanted = [oracle.to_floats(x) for x in oracle.mp_unipc_chain([alpha_bars[t] for t in chosen], order, variant)]
    x = np.zeros(len(chosen) + 1)
    x[0], scale = 1.0, 1.0
    for k in range(len(chosen) - 1):
        np.testing.assert_allclose(x, wanted[k], rtol=0, atol=1e-12 * scale)
        x = plan.a[k] * x
        for j in range(min(order + 1, k + 1)):
            x[k + 1 - j] += plan.b[k, j]
        scale *= 1 + np.abs(plan.b[k]).sum() ** 2
    np.testing.assert_allclose(x, wanted[-1], rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("h", [1e-6, 1e-3, 0.3, 0.999999, 1.0, 4.0, 40.0])
@pytest.mark.parametrize("nodes", [(0.0,), (0.0, -0.5), (0.0, 1.0), (0.0, -2.0, -2.5), (0.0, 1.0, -0.3, -4.0)])
def test_weights_equal_fifty_digits(h: float, nodes: tuple[float, ...]) -> None:
    exact, step = [MP.mpf(node) for node in nodes], MP.mpf(h)
    wanted = [
        MP.quad(lambda r, j=j: step * MP.exp(-step * (1 - r)) * oracle.mp_lagrange(exact, j, r), MP.linspace(0, 1, 9))
        for j in range(len(nodes))
    ]
    np.testing.assert_allclose(weights(nodes, h), oracle.to_floats(wanted), rtol=0, atol=1e-13 * max(1e-3, min(1, 10 * h)))


@pytest.mark.promise(9)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), schedule=built_in_schedules(min_size=2, max_size=60), eta=st.sampled_from([0, 1]))
def test_order_1_is_ddim(data: st.DataObject, schedule: NoiseSchedule, eta: int) -> None:
    chosen = data.draw(timesteps(schedule.num_timesteps))
    found = DPMSolverPPSampler(schedule, timesteps=chosen, order=1, eta=eta, prediction="v").plan()
    wanted = DDIMSampler(schedule, timesteps=chosen, eta=eta, prediction="v").plan()
    for name in ("a", "b", "c"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=0, atol=1e-12)


@pytest.mark.promise(2, 7)
@pytest.mark.parametrize(("kind", "arguments"), MULTISTEP)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), schedule=built_in_schedules(min_size=2, max_size=40))
def test_every_list_gives_a_sound_table(
    kind: type[PlanSampler], arguments: dict[str, Any], data: st.DataObject, schedule: NoiseSchedule
) -> None:
    chosen = data.draw(timesteps(schedule.num_timesteps))
    check_plan(kind(schedule, timesteps=chosen, prediction="v", **arguments).plan(), schedule)


@pytest.mark.promise(16)
@pytest.mark.parametrize(("kind", "arguments"), MULTISTEP)
def test_history_at_zero_snr_is_dropped(kind: type[PlanSampler], arguments: dict[str, Any]) -> None:
    """Its λ is infinite: the row after it is of first order, exactly, and the one after that of second order at most."""
    schedule = NoiseSchedule.linear(50).zero_terminal_snr()
    plan = kind(schedule, timesteps=(49, 40, 30, 20, 10), prediction="v", **arguments).plan()
    first = DDIMSampler(schedule, timesteps=(49, 40, 30, 20, 10), eta=arguments.get("eta", 0), prediction="v").plan()
    check_plan(plan, schedule)
    np.testing.assert_array_equal(plan.b[:2, 0], first.b[:2, 0])
    assert not plan.b[:2, 1:].any()
    assert not plan.b[2, 2:].any()
    later = kind(schedule, timesteps=(40, 30, 20, 10), prediction="v", **arguments).plan()
    np.testing.assert_array_equal(plan.b[1:], later.b)


@pytest.mark.promise(37)
@pytest.mark.parametrize("variance", [0.25, 2.0])
@pytest.mark.parametrize("order", ORDERS)
def test_orders_with_exact_history(order: int, variance: float) -> None:
    for kind in (DPMSolverPPSampler, UniPCSampler):
        errors = [seeded_error(lambda s, kind=kind, **k: kind(s, order=order, **k), S, variance) for S in (40, 80, 160, 320, 640)]
        found = slopes(errors)[-2:]
        expected = kind(NoiseSchedule.linear(10), steps=5, order=order).convergence_order
        assert np.all(np.abs(found - expected) < 0.1), (kind, errors, found)


@pytest.mark.promise(37)
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda s, **k: DDPMSampler(s, **k), 1, id="ddpm"),
        pytest.param(lambda s, **k: DDIMSampler(s, eta=1.0, **k), 1, id="ddim-eta1"),
        pytest.param(lambda s, **k: DDIMSampler(s, **k), 1, id="ddim"),
        pytest.param(lambda s, **k: DPMSolverPPSampler(s, order=1, eta=1, **k), 1, id="sde1"),
        pytest.param(lambda s, **k: DPMSolverPPSampler(s, order=2, eta=1, **k), 2, id="sde2"),
        pytest.param(lambda s, **k: DPMSolverPPSampler(s, order=3, eta=1, **k), 2, id="sde3"),
        pytest.param(lambda s, **k: DPMSolverPPSampler(s, order=2, **k), 2, id="dpm2"),
        pytest.param(lambda s, **k: UniPCSampler(s, order=1, **k), 2, id="unipc1"),
        pytest.param(lambda s, **k: UniPCSampler(s, order=2, **k), 3, id="unipc2"),
    ],
)
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 0.25), (0.7, 0.25), (0.0, 2.0)])
def test_orders_with_the_real_warm_up(make: Callable[..., PlanSampler], expected: int, mean: float, variance: float) -> None:
    errors = [warm_error(make, S, mean, variance) for S in (160, 320, 640, 1280)]
    found = slopes(errors)[-2:]
    assert np.all(np.abs(found - expected) < 0.1), (errors, found)
    assert expected == make(NoiseSchedule.linear(10), steps=5).convergence_order


@pytest.mark.promise(37)
def test_a_first_order_first_row_limits_the_third_order() -> None:
    """What the documentation says of the warm-up."""
    errors = [warm_error(lambda s, **k: DPMSolverPPSampler(s, order=3, **k), S, 0.0, 2.0) for S in (320, 640, 1280)]
    assert np.all(np.abs(slopes(errors) - 2) < 0.1), errors


@pytest.mark.promise(37)
def test_the_published_third_order_is_of_second_order() -> None:
    """Even with exact history; ours is of third (`test_orders_with_exact_history`)."""
    make = lambda s, **k: PublishedThirdOrder(s, order=3, **k)  # noqa: E731
    errors = [seeded_error(make, S, 2.0) for S in (40, 80, 160, 320, 640)]
    assert np.all(np.abs(slopes(errors)[-2:] - 2) < 0.1), errors
    warm = [warm_error(make, S, 0.0, 2.0) for S in (640, 1280, 2560)]
    assert np.all(np.abs(slopes(warm) - 2) < 0.1), warm


def test_the_documentations_table_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders_page, "_SEEDED", (160, 320))
    monkeypatch.setattr(orders_page, "_WARM", (160, 320))
    rows = {
        row[0]: row[1:]
        for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in orders_page.page().splitlines()[2:])
    }
    assert float(rows["DPM-Solver++ of order 3"][0]) == pytest.approx(3, abs=0.15)
    assert float(rows["the published third-order multistep code"][0]) == pytest.approx(2, abs=0.15)
    assert float(rows["UniPC of order 2"][1]) == pytest.approx(3, abs=0.2)
    assert rows["DDIM, eta 1"][0] == "–"


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: DPMSolverPPSampler(NoiseSchedule.linear(), 5, order=4), ValueError, "order must be 1, 2 or 3, got 4"),
        (lambda: DPMSolverPPSampler(NoiseSchedule.linear(), 5, order=True), TypeError, "got True"),
        (lambda: DPMSolverPPSampler(NoiseSchedule.linear(), 5, order=2.0), TypeError, "order must be an integer, got 2.0"),
        (lambda: UniPCSampler(NoiseSchedule.linear(), 5, order="2"), TypeError, "order must be an integer"),
        (lambda: DPMSolverPPSampler(NoiseSchedule.linear(), 5, eta="a"), TypeError, "eta must be a number"),
        (lambda: DPMSolverPPSampler(NoiseSchedule.linear(), 5, eta=None), TypeError, "eta must be a number"),
        (lambda: DPMSolverPPSampler(NoiseSchedule.linear(), 5, eta=True), TypeError, "eta must be a number"),
        (lambda: DPMSolverPPSampler(NoiseSchedule.linear(), 5, eta=0.5), ValueError, "use DDIMSampler"),
        (lambda: UniPCSampler(NoiseSchedule.linear(), 5, order=0), ValueError, "order must be 1, 2 or 3, got 0"),
        (lambda: UniPCSampler(NoiseSchedule.linear(), 5, variant="bh3"), ValueError, "bh1, bh2"),
    ],
)
def test_bad_settings_raise(call: Callable[[], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


@pytest.mark.promise(11)
def test_every_setting_changes_the_table() -> None:
    linear = NoiseSchedule.linear()
    tables = {DPMSolverPPSampler(linear, 10, order=p, eta=eta).plan() for p in ORDERS for eta in (0, 1)}
    tables |= {UniPCSampler(linear, 10, order=p, variant=v).plan() for p in ORDERS for v in ("bh1", "bh2")}
    assert len(tables) == 12


DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize(
    ("kind", "ours", "name", "theirs", "left"),
    [
        (DPMSolverPPSampler, {"order": 1}, DPM, {"solver_order": 1}, 1),
        (DPMSolverPPSampler, {"order": 2}, DPM, {"solver_order": 2, "solver_type": "heun"}, 1),
        (
            DPMSolverPPSampler,
            {"order": 2, "eta": 1},
            DPM,
            {"solver_order": 2, "solver_type": "heun", "algorithm_type": "sde-dpmsolver++"},
            1,
        ),
        (PublishedThirdOrder, {"order": 3}, DPM, {"solver_order": 3, "solver_type": "heun", "lower_order_final": False}, 1),
        (UniPCSampler, {"order": 1, "variant": "bh2"}, UNIPC, {"solver_order": 1, "solver_type": "bh2"}, 1),
        (UniPCSampler, {"order": 2, "variant": "bh2"}, UNIPC, {"solver_order": 2, "solver_type": "bh2"}, 1),
        (UniPCSampler, {"order": 2, "variant": "bh1"}, UNIPC, {"solver_order": 2, "solver_type": "bh1"}, 1),
        (UniPCSampler, {"order": 3, "variant": "bh2"}, UNIPC, {"solver_order": 3, "solver_type": "bh2"}, 2),
    ],
)
def test_diffusers_agrees_where_it_is_right(
    kind: type[PlanSampler], ours: dict[str, Any], name: str, theirs: dict[str, Any], left: int, steps: int
) -> None:
    """To its float32 coefficients, up to the ``left`` last rows, where it takes lower orders or divides by 0.

    Its third-order multistep is the published one, its 'midpoint' an approximation to the integral.
    """
    diffusers = pytest.importorskip("diffusers")
    for x, expected in list(beside_diffusers(diffusers, kind, ours, name, theirs, steps))[:-left]:
        np.testing.assert_allclose(x, expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_where_diffusers_is_not_right() -> None:
    """What the documentation says of it: 'midpoint', third order with and without noise, and the last row of 'bh1'."""
    diffusers = pytest.importorskip("diffusers")
    midpoint: dict[str, Any] = {"solver_order": 2, "solver_type": "midpoint"}
    third: dict[str, Any] = {"solver_order": 3, "lower_order_final": False}
    noisy = {"solver_order": 3, "algorithm_type": "sde-dpmsolver++", "lower_order_final": False}
    for ours, theirs in (({"order": 2}, midpoint), ({"order": 3}, third), ({"order": 3, "eta": 1}, noisy)):
        pairs = list(beside_diffusers(diffusers, DPMSolverPPSampler, ours, DPM, theirs, 20))
        assert max(np.abs(x - expected).max() for x, expected in pairs[:-1]) > 1e-3
    last = list(beside_diffusers(diffusers, UniPCSampler, {"variant": "bh1"}, UNIPC, {"solver_type": "bh1"}, 5))[-1]
    assert np.isfinite(last[0]).all()
    assert np.isnan(last[1]).all()


def beside_diffusers(
    diffusers: Any, kind: type[PlanSampler], ours: dict[str, Any], name: str, theirs: dict[str, Any], steps: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Our x and diffusers' after every row, with the same noise."""
    settings = {"beta_schedule": "linear", "prediction_type": "sample", "timestep_spacing": "linspace", "final_sigmas_type": "zero"}
    scheduler = getattr(diffusers, name)(**settings, **theirs)
    scheduler.set_timesteps(steps)
    chosen, x_T = tuple(int(t) for t in scheduler.timesteps), torch.linspace(-2, 2, 9, dtype=torch.float64)[None]

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * (1 + 1e-3 * t[:, None]))

    def noise(draw: int, like: torch.Tensor) -> torch.Tensor:
        return torch.sin(torch.arange(9, dtype=torch.float64)[None] * (draw + 1)).to(like.dtype)

    sampler = kind(NoiseSchedule.linear(), timesteps=chosen, prediction="x0", **ours)
    noisy = {"noise_fn": noise} if ours.get("eta") else {}
    x = x_T
    for state in sampler.iterate(model, x_T=x_T, **noisy):
        t = chosen[state.index]
        drawn = {"variance_noise": noise(state.index, x)} if noisy else {}
        x = scheduler.step(model(x, torch.tensor([t])), t, x, **drawn).prev_sample
        yield state.x.numpy(), x.numpy()


@pytest.mark.promise(37)
def test_the_first_row_limits_unipc_of_order_3_too() -> None:
    """Its first correction, of first order, errs by h³ once; where s²v/(s²v + n²) is small at the start that is hard to see."""
    errors = [warm_error(lambda s, **k: UniPCSampler(s, order=3, **k), S, 0.0, 2.0) for S in (2560, 5120)]
    assert abs(slopes(errors)[0] - 3) < 0.1, errors
