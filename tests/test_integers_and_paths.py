"""Integers of any integral type are what ints are, and a str is what a Path is, wherever either is taken."""

import inspect
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ddimkit
from ddimkit import DDIMSampler, DPMSolverPPSampler, ModelBundle, NoiseSchedule, Plan, PlanSampler, UniPCSampler, graphs
from ddimkit import _state as states
from ddimkit._features.recipe import FeatureRecipe
from ddimkit._numbers import integer
from ddimkit.interop import diffusers, inception
from ddimkit.models import bundle as bundles
from ddimkit.models import data
from ddimkit.models.train import Recipe
from ddimkit.models.unet import UNet, UNetConfig
from ddimkit.quality import evaluator, network, reference
from ddimkit.quality.network import FeatureNetworkConfig
from ddimkit.tradeoff.evaluation import Evaluation
from ddimkit.weights import _pieces as pieces
from ddimkit.weights import _registry as registry
from ddimkit.weights import _tensorfile as tensorfile
from probes import normal, smooth
from studies import toy_evaluator

S = NoiseSchedule.linear()
TIMES = (999, 760, 400, 130, 9)
SAMPLER = DDIMSampler(S, timesteps=TIMES, eta=0.5)
X = normal(2, 3)

KINDS: dict[str, Callable[[int], Any]] = {
    "int64": np.int64,
    "uint8": np.uint8,
    "array": np.array,
    "tensor": torch.tensor,
    "int32 tensor": lambda n: torch.tensor(n, dtype=torch.int32),
}

SMALL, RECIPE, TOYS = UNetConfig(channels=(4, 8), groups=2), Recipe(), toy_evaluator()
UNET = ("in_channels", "out_channels", "blocks", "groups", "num_classes", "patch")
TRAINING = ("steps", "batch_size", "warmup", "seed")
FEATURES, NETWORK = FeatureRecipe(), FeatureNetworkConfig()
FEATURED, NETWORKED = ("epochs", "batch_size", "cutout", "seed"), ("in_channels", "blocks", "classes")
EVALUATION = ("images", "long_images", "batch")


def counts_of(name: str, count: Any) -> int:
    found: int = getattr(Evaluation(TOYS, **{name: count}), name)
    return found


# What takes an integer, as a function of it, and an integer to give it.
PLACES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "num_timesteps": (NoiseSchedule.linear, 10),
    "num_timesteps of cosine": (NoiseSchedule.cosine, 10),
    "num_timesteps of rectified_flow": (NoiseSchedule.rectified_flow, 10),
    "add_noise": (lambda t: S.add_noise(X, X, t), 7),
    "steps": (lambda n: DDIMSampler(S, steps=n), 5),
    "timesteps": (lambda n: DDIMSampler(S, timesteps=[99, n]), 5),
    "order of DPM-Solver++": (lambda n: DPMSolverPPSampler(S, steps=5, order=n), 3),
    "order of UniPC": (lambda n: UniPCSampler(S, steps=5, order=n), 1),
    "t of a plan": (lambda n: Plan((n,), (None,), np.zeros(1), np.ones(1), np.zeros(1)), 5),
    "t_next of a plan": (lambda n: Plan((9,), (n,), np.zeros(1), np.ones(1), np.zeros(1)), 5),
    "shape": (lambda n: SAMPLER.sample(smooth, (2, n), seed=0), 3),
    "start_at": (lambda n: SAMPLER.sample(smooth, x_T=X, seed=0, start_at=n), 2),
    "start_at of a bare table": (lambda n: PlanSampler.from_plan(S, SAMPLER.plan()).sample(smooth, x_T=X, seed=0, start_at=n), 2),
    "start_at of a walk": (lambda n: [s.x for s in SAMPLER.iterate(smooth, x_T=X, seed=0, start_at=n)][-1], 2),
    "start_at of a record": (lambda n: SAMPLER.record((2, n), seed=n, start_at=n), 2),
    "batch_size": (lambda n: SAMPLER.sample(smooth, (4, 3), seed=0, batch_size=n), 2),
    "seed": (lambda n: SAMPLER.sample(smooth, (4, 3), seed=n), 2),
    "count of seeds": (lambda n: SAMPLER.seeds(7, n), 2),
    "index of a step": (lambda n: SAMPLER.step(X, X, n, noise=X), 2),
    "index of predict_x0": (lambda n: SAMPLER.predict_x0(X, X, n), 2),
    "sample_shape": (lambda n: ModelBundle(smooth, S, sample_shape=(n,)).sample_shape, 3),
    **{f"{name} of a UNet": (lambda n, name=name: replace(SMALL, **{name: n}), 2) for name in UNET},  # type: ignore[misc]
    "channels of a UNet": (lambda n: replace(SMALL, channels=(4, n)), 8),
    "attention_levels of a UNet": (lambda n: replace(SMALL, attention_levels=(n,)), 1),
    **{f"{name} of a recipe": (lambda n, name=name: replace(RECIPE, **{name: n}), 2) for name in TRAINING},  # type: ignore[misc]
    **{f"{name} of features": (lambda n, name=name: replace(FEATURES, **{name: n}), 2) for name in FEATURED},  # type: ignore[misc]
    **{f"{name} of a feature network": (lambda n, name=name: replace(NETWORK, **{name: n}), 2) for name in NETWORKED},  # type: ignore[misc]
    "widths of a feature network": (lambda n: replace(NETWORK, widths=(4, n)), 8),
    **{f"{name} of an evaluation": (lambda n, name=name: counts_of(name, n), 6) for name in EVALUATION},  # type: ignore[misc]
    "graphs' most": (lambda n: graphs.capture(SAMPLER, smooth, (2, 3), most=n)(seed=0), 2),
}
MAY_BE_NONE = ("images of an evaluation", "batch of an evaluation")
TENSOR_MEANS_MORE = ("add_noise", "index of a step", "index of predict_x0")


@pytest.mark.promise(54)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_any_integral_type_is_taken_as_an_int(place: str, kind: Callable[[int], Any]) -> None:
    take, value = PLACES[place]
    if place in TENSOR_MEANS_MORE and kind is KINDS["int32 tensor"]:
        pytest.skip("a tensor of timesteps or rows is int64")
    expected, found = take(value), take(kind(value))
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
        return
    assert found == expected
    if not isinstance(expected, dict):
        assert hash(found) == hash(expected)
    assert pickle.dumps(found) == pickle.dumps(expected)  # of the same types, all the way down
    if isinstance(expected, PlanSampler):
        assert json.dumps(found.record((2, 3), seed=0)) == json.dumps(expected.record((2, 3), seed=0))


@pytest.mark.promise(54)
@pytest.mark.parametrize(
    "bad", [True, np.True_, torch.tensor(True), 2.0, np.float64(2), "2", None, torch.tensor([2]), np.array([2])]
)
@pytest.mark.parametrize("place", PLACES)
def test_bools_and_numbers_that_are_no_integers_are_refused(place: str, bad: Any) -> None:
    missing_is_allowed = bad is None and place in (*MAY_BE_NONE, "t_next of a plan", "batch_size", "seed", "steps")
    more = isinstance(bad, torch.Tensor | np.ndarray) and place in (*TENSOR_MEANS_MORE, "seed", "start_at of a record")
    if missing_is_allowed or more:
        pytest.skip("has a meaning of its own here")
    with pytest.raises((TypeError, ValueError), match=re.escape(repr(bad))):
        PLACES[place][0](bad)


@given(st.integers(-(2**70), 2**70))
def test_an_int_is_itself(value: int) -> None:
    assert integer(value, "n") is value


# Modules whose public functions and methods read or write files.
MODULES: tuple[ModuleType, ...] = (
    bundles, data, diffusers, evaluator, inception, network, pieces, reference, registry, states, tensorfile,
)  # fmt: skip


def takers_of_paths() -> dict[str, str]:
    """Function and argument → annotation, of every public argument that is a path or a folder."""
    found = dict[str, str]()
    for module in MODULES:
        for name in module.__all__:
            thing = getattr(module, name)
            functions = inspect.getmembers(thing, inspect.isroutine) if inspect.isclass(thing) else [("", thing)]
            for method, function in functions:
                if method.startswith("_") or not callable(function) or not getattr(function, "__annotations__", None):
                    continue
                for argument, annotation in function.__annotations__.items():
                    if argument in ("path", "folder", "weights", "out") and "Path" in str(annotation):
                        found[f"{module.__name__}.{name}.{method}({argument})"] = str(annotation)
    return found


@pytest.mark.promise(54)
def test_every_path_may_be_a_str_for_the_type_checker() -> None:
    takers = takers_of_paths()
    internal = ("has_content", "read_content", "check_sha256")
    assert len(takers) >= 20
    assert not [name for name, annotation in takers.items() if "str | " not in annotation and not any(i in name for i in internal)]


@pytest.mark.promise(54)
def test_files_are_written_and_read_by_a_str(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = UNet(UNetConfig(1, 1, (4, 4), 1, (), 2)).eval()
    mine = ModelBundle(net, S, sample_shape=(1, 4, 4))
    sha256 = bundles.save_bundle(mine, "a.safetensors")
    assert sha256 == bundles.save_bundle(mine, Path("b.safetensors"))
    weights = [bundles.load_bundle(path).weights_sha256() for path in ("a.safetensors", Path("b.safetensors"))]
    assert weights[0] == weights[1]
    names = [[path.name for path in pieces.write_pieces(b"abc", path, most=2)] for path in ("c", Path("c"))]
    assert names[0] == names[1]
    assert registry.weights_folder("x") == Path("x")
    with pytest.raises(ddimkit.DDIMKitError, match="cifar10"):
        ddimkit.load_pretrained("cifar10", folder="nowhere")
    for read in (data.read_idx, data.read_cifar10, UNet.from_diffusers, diffusers.load_unet, bundles.load_bundle):
        with pytest.raises(FileNotFoundError, match="missing"):
            read("missing")
    with pytest.raises(FileNotFoundError, match="missing"):
        data.load_images("mnist", "missing")
    with pytest.raises(ddimkit.DDIMKitError, match="missing"):
        evaluator.read_evaluator("mnist", "missing")
