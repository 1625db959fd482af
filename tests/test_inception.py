"""Inception's features: the real loading code on weights made at random, since the published ones are no part of any package."""

import io
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ddimkit import DDIMKitError, WeightsError
from ddimkit.interop.inception import inception_extractor
from ddimkit.quality import Reference

IMAGES = torch.empty(6, 3, 32, 32).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def library() -> Any:
    """torch-fidelity's module. It imports torchvision beside it, for things not used here: where that is missing, an empty one."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            import_module("torchvision")
        except (ImportError, RuntimeError, OSError):
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                patch.delitem(sys.modules, name)
            names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets")
            for name in names:
                patch.setitem(sys.modules, name, ModuleType(name))
            for name in ("CIFAR10", "CIFAR100", "STL10"):
                patch.setattr(sys.modules["torchvision.datasets"], name, object, raising=False)
            patch.setattr(sys.modules["torchvision.transforms"], "functional", ModuleType(names[2]), raising=False)
        pytest.importorskip("torch_fidelity")
        yield import_module("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def network(library: Any) -> Any:
    class Blank(library.FeatureExtractorInceptionV3):
        """The network as it is made, before any weights are loaded."""

        def load_state_dict(self, state_dict: Any, *_: Any, **__: Any) -> Any:
            return None

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    return Blank("inception-v3-compat", ["64", "2048"], feature_extractor_weights_path=nothing)


@pytest.fixture(scope="module")
def weights(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(network.state_dict(), path)
    return path


def test_features_are_the_networks(network: Any, weights: Path) -> None:
    """Of the rounded pixels, at the layer asked for."""
    pixels = IMAGES[:2].add(1).mul(127.5).round().to(torch.uint8)
    for wanted, layer in zip(network(pixels), ("64", "2048"), strict=True):
        found = inception_extractor(weights, layer=layer)
        assert found.rounding == "uint8"
        np.testing.assert_allclose(found(IMAGES[:2]), wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_they_judge(weights: Path) -> None:
    made = inception_extractor(weights)
    features = made(IMAGES, batch_size=3)
    reference = Reference.of("noise", features, made)
    assert features.shape == (6, 2048)
    assert reference.kernel.width == 2048
    assert reference.label.extractor == "Inception 2048"


def test_layers_and_weights_have_hashes_of_their_own(weights: Path) -> None:
    first = inception_extractor(weights, layer="64")
    assert first.sha256 != inception_extractor(weights, layer="192").sha256
    assert inception_extractor(weights, layer="64", sha256=first.sha256.removesuffix("-64")).sha256 == first.sha256
    with pytest.raises(WeightsError, match="SHA-256"):
        inception_extractor(weights, sha256="0" * 64)


@pytest.mark.promise(46)
@pytest.mark.usefixtures("library")
def test_pickles_and_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"x": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="does not hold the weights"):
        inception_extractor(path)
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="does not hold the weights"):
        inception_extractor(path)


def test_without_the_library_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"x": torch.zeros(3)}, path)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(DDIMKitError, match="pip install torch-fidelity"):
        inception_extractor(path)


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'1000'"):
        inception_extractor(tmp_path / "none", layer="1000")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        inception_extractor(tmp_path / "none")
