"""Models of other conventions: each gives the same walk as its own library's, or as the same denoiser in ours."""

import importlib.util
import pickle
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ddimkit import DDIMSampler, DPMSolverPPSampler, ModelBundle, NoiseSchedule
from ddimkit.interop import (
    from_score_model,
    from_sigma_model,
    from_time_model,
    from_velocity_model,
    one_hot_labels,
    precondition,
    sigma_schedule,
    unwrapped,
)
from probes import gaussian_x0, normal, smooth

SCHEDULE = NoiseSchedule.cosine(40)
EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}


class Network(nn.Module):
    """A small network of x and a number a sample, float64."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(width + 1, 16), nn.SiLU(), nn.Linear(16, width)).double()

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        result: Tensor = self.layers(torch.cat([x, number.reshape(-1).expand(len(x))[:, None]], dim=1))
        return result


@given(low=st.floats(1e-3, 1.0), span=st.floats(1.5, 1e4), rho=st.floats(0.5, 20), total=st.integers(2, 60))
def test_a_range_of_sigma_is_karras_own(low: float, span: float, rho: float, total: int) -> None:
    schedule = sigma_schedule(low, low * span, rho=rho, num_timesteps=total)
    root = (schedule.noise / schedule.signal) ** (1 / rho)
    first, last = (low * span) ** (1 / rho), low ** (1 / rho)
    for i in range(total):  # eq. 5, which counts down from sigma_max
        assert root[total - 1 - i] == pytest.approx(first + i / (total - 1) * (last - first), abs=1e-9 * first)
    np.testing.assert_allclose(schedule.signal**2 + schedule.noise**2, 1, rtol=1e-12)


def test_an_edm_network_walks_as_edm_does() -> None:
    """Their Euler steps of dx/dσ = (x − D)/σ (algorithm 1 without its second half) are DDIM in our coordinates."""
    network, count, data = Network().eval(), 18, 0.5
    sigmas = [(80 ** (1 / 7) + i / (count - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(count)]
    x = 80 * normal(4, 3, dtype=torch.float64)
    start = x / np.hypot(1, 80)
    with torch.no_grad():
        for now, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
            skip, out = data**2 / (now**2 + data**2), now * data / np.sqrt(now**2 + data**2)
            c_in, c_noise = 1 / np.sqrt(now**2 + data**2), np.log(now) / 4
            denoised = skip * x + out * network(c_in * x, torch.full((4,), c_noise, dtype=torch.float64))
            x = x + (following - now) * (x - denoised) / now
    schedule = sigma_schedule(num_timesteps=count)
    bundle = ModelBundle(from_sigma_model(precondition(network), schedule), schedule, sample_shape=(3,), prediction="x0")
    found = bundle.sampler(DDIMSampler, steps=count).sample(bundle.model, x_T=start)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)
    assert bundle.weights_sha256() is not None


def azula(name: str) -> ModuleType:
    return pytest.importorskip(f"azula.{name}", reason="azula is not installed: nox -s tests installs it")


@pytest.mark.parametrize("kind", ["VPSchedule", "VESchedule", "CosineSchedule", "RectifiedSchedule"])
@pytest.mark.parametrize("denoiser", ["KarrasDenoiser", "SimpleDenoiser"])
def test_azulas_denoisers_walk_as_azula_does(kind: str, denoiser: str) -> None:
    """Time in [0, 1], x of any scale, an object as output."""
    settings = {"sigma_max": 50.0} if kind == "VESchedule" else {}
    model = getattr(azula("denoise"), denoiser)(Network().eval(), getattr(azula("noise"), kind)(**settings)).eval()
    theirs = azula("sample").DDIMSampler(model, steps=12, silent=True)
    x = normal(4, 3, dtype=torch.float64)
    times = torch.linspace(0, 1, 13, dtype=torch.float64)
    alpha, sigma = (v.numpy() for v in model.schedule(times))
    root = np.hypot(alpha, sigma)
    schedule = NoiseSchedule(alpha / root, sigma / root)
    ours = from_time_model(unwrapped(model, "mean"), times, x_scale=root)
    states = list(DDIMSampler(schedule, 13, prediction="x0").iterate(ours, x_T=x))
    wanted = x * root[-1]
    with torch.no_grad():
        for state, now, following in zip(states, reversed(times[1:]), reversed(times[:-1]), strict=False):
            wanted = theirs.step(wanted, now, following)
            torch.testing.assert_close(state.x * root[state.t_next], wanted, **EXACT)


def smalldiffusion() -> ModuleType:
    """Its models alone: the package itself imports torchvision."""
    spec = importlib.util.find_spec("smalldiffusion")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("smalldiffusion is not installed: nox -s tests installs it")
    file = f"{spec.submodule_search_locations[0]}/model.py"
    found = importlib.util.spec_from_file_location("smalldiffusion_model", file)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("modifier", "prediction"), [(None, "epsilon"), ("Scaled", "epsilon"), ("PredX0", "x0")])
def test_smalldiffusions_models_walk_as_they_do_there(modifier: str | None, prediction: Any) -> None:
    """They predict the noise of x0 + σ·eps, or x0, and are given σ so that it broadcasts."""
    library = smalldiffusion()
    kind = library.TimeInputMLP if modifier is None else getattr(library, modifier)(library.TimeInputMLP)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(dim=2, hidden_dims=(8, 8)).double().eval()
    sigmas = np.geomspace(0.02, 10, 20)  # its ScheduleLogLinear
    root = np.hypot(1, sigmas)
    schedule = NoiseSchedule(1 / root, sigmas / root)
    ours = from_sigma_model(model, schedule, broadcast=True)
    x = normal(5, 2, dtype=torch.float64)
    states = list(DDIMSampler(schedule, 20, prediction=prediction).iterate(ours, x_T=x))
    wanted = x * root[-1]
    with torch.no_grad():
        for state, now, following in zip(states, sigmas[::-1], sigmas[-2::-1], strict=False):
            wanted = wanted - (now - following) * model.predict_eps(wanted, torch.tensor(now))
            torch.testing.assert_close(state.x * root[state.t_next], wanted, **EXACT)


FLOW = NoiseSchedule.rectified_flow(40)


def as_score(x: Tensor, t: Tensor) -> Tensor:
    return -epsilon(SCHEDULE)(x, t) / torch.from_numpy(SCHEDULE.noise.copy())[t][:, None]


def epsilon(schedule: NoiseSchedule) -> Callable[[Tensor, Tensor], Tensor]:
    s, n = (torch.from_numpy(v.copy()) for v in (schedule.signal, schedule.noise))
    return lambda x, t: (x - s[t][:, None] * gaussian_x0(schedule, 0.3, 0.2)(x, t)) / n[t][:, None]


def velocity(x: Tensor, time: Tensor) -> Tensor:
    """x0 − eps, of a time that is 0 at noise and 1 at data."""
    t = FLOW.num_timesteps - 1 - (time * FLOW.num_timesteps).round().long()
    return gaussian_x0(FLOW, 0.3, 0.2)(x, t) - epsilon(FLOW)(x, t)


@pytest.mark.parametrize("make", [DDIMSampler, DPMSolverPPSampler])
@pytest.mark.parametrize("convention", ["score", "velocity", "tuple", "object", "dictionary"])
def test_one_denoiser_gives_one_walk(make: Any, convention: str) -> None:
    schedule = FLOW if convention == "velocity" else SCHEDULE
    plain, x = gaussian_x0(schedule, 0.3, 0.2), normal(5, 2, dtype=torch.float64)
    models: dict[str, tuple[Any, Any]] = {
        "score": ("epsilon", from_score_model(as_score, SCHEDULE)),
        "velocity": ("flow", from_velocity_model(velocity, FLOW)),
        "tuple": ("x0", unwrapped(lambda x, t: (None, plain(x, t)), 1)),
        "object": ("x0", unwrapped(lambda x, t: SimpleNamespace(sample=plain(x, t)), "sample")),
        "dictionary": ("x0", unwrapped(lambda x, t: {"sample": plain(x, t)}, "sample")),
    }
    prediction, model = models[convention]
    sampler = make(schedule, 10, prediction="x0")
    found = make(schedule, 10, prediction=prediction).sample(model, x_T=x)
    torch.testing.assert_close(found, sampler.sample(plain, x_T=x), **EXACT)


def test_a_model_of_another_time_is_given_it() -> None:
    seen = list[tuple[Tensor, Tensor]]()

    def model(x: Tensor, time: Tensor, y: int) -> Tensor:
        seen.append((x, time))
        return x * y

    times = (np.arange(40) + 1) / 40
    for dtype, wanted in ((torch.float32, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)):
        x = normal(2, 3, 4).to(dtype)
        assert from_time_model(model, times)(x, torch.tensor([0, 39]), y=2).equal(x * 2)
        assert seen[-1][1].dtype is wanted
        assert seen[-1][1].tolist() == pytest.approx([1 / 40, 1])
        scaled = from_time_model(model, times, x_scale=np.arange(40) + 1, broadcast=True)(x, torch.tensor([0, 1]), y=1)
        assert scaled.dtype is dtype
        assert torch.equal(scaled, x * torch.tensor([1, 2]).to(dtype)[:, None, None])
        assert seen[-1][1].shape == (2, 1, 1)


def test_labels_become_rows() -> None:
    model = one_hot_labels(lambda x, t, class_labels, scale=1: class_labels * scale, 3)
    x, t = normal(2, 4), torch.tensor([0, 1])
    assert model(x, t, labels=torch.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert model(x.half(), t, scale=2).equal(torch.zeros(2, 3).half())
    for labels, error, says in (
        ([2, 0], TypeError, "int64 tensor"),
        (torch.tensor([1.0, 0.0]), TypeError, r"torch\.float32"),
        (torch.tensor([1]), ValueError, r"labels must be \(2,\), one a sample, got \(1,\)"),
        (torch.tensor([1, 3]), ValueError, r"0\.\.2, got 1 to 3"),
    ):
        with pytest.raises(error, match=says):
            model(x, t, labels=labels)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        one_hot_labels(smooth, 0)


def test_the_module_inside_is_seen() -> None:
    network = Network()
    model = from_sigma_model(precondition(network), sigma_schedule(num_timesteps=5))
    sampler = DDIMSampler(sigma_schedule(num_timesteps=5), 2, prediction="x0")
    with pytest.warns(UserWarning, match="train mode"):
        first = sampler.sample(model, (2, 3), seed=0, dtype=torch.float64)
    network.eval()
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(sampler.sample(again, (2, 3), seed=0, dtype=torch.float64), first)
    assert ModelBundle(model, sampler.schedule, sample_shape=(3,), prediction="x0").weights_sha256() is not None


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: sigma_schedule(0.0), ValueError, "0 < sigma_min < sigma_max"),
        (lambda: sigma_schedule(2.0, 1.0), ValueError, r"got 2\.0, 1\.0"),
        (lambda: sigma_schedule(rho=0), ValueError, "rho > 0"),
        (lambda: sigma_schedule(sigma_max="80"), TypeError, "sigma_max must be a number"),  # type: ignore[arg-type]
        (lambda: sigma_schedule(num_timesteps=0), ValueError, "num_timesteps"),
        (lambda: precondition(smooth, sigma_data=0), ValueError, "sigma_data"),
        (lambda: precondition(3), TypeError, "model must be callable, got int"),  # type: ignore[arg-type]
        (lambda: from_sigma_model(smooth, FLOW), ValueError, "zero signal"),
        (lambda: from_velocity_model(smooth, SCHEDULE), ValueError, "signal \\+ noise = 1"),
        (lambda: from_time_model(smooth, [[1.0]]), ValueError, r"times must be \(T,\)"),
        (lambda: from_time_model(smooth, [1.0, float("nan")]), ValueError, "times must be finite"),
        (lambda: from_time_model(smooth, [0.5, 1.0], x_scale=[1.0]), ValueError, "one length, got 2 and 1"),
        (lambda: unwrapped(smooth, 1.5), TypeError, "part must be an integer"),  # type: ignore[arg-type]
        (lambda: unwrapped(lambda x, t: (x,), 1)(torch.ones(1), torch.zeros(1)), TypeError, "type tuple, has no part 1"),
        (lambda: unwrapped(smooth, "sample")(torch.ones(1), torch.zeros(1)), TypeError, "no part 'sample'"),
        (lambda: from_score_model(lambda x, t: (x,), SCHEDULE)(normal(1, 1), torch.tensor([0])), TypeError, "unwrapped first"),
    ],
)
def test_wrong_arguments(make: Callable[[], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()
