"""Weights beside the package: where they are found, and that nothing is loaded but what is known by its hash."""

import json
import pickle
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from ddimkit import UNet, WeightsError, load_pretrained
from ddimkit.models._recipe import CIFAR10_RECIPE
from ddimkit.models.bundle import save_bundle
from ddimkit.quality import Evaluator, Reference, load_evaluator
from ddimkit.quality.network import FeatureNetwork, FeatureNetworkConfig, load_network, save_network
from ddimkit.weights import _registry as registry
from ddimkit.weights._pieces import write_pieces
from test_bundle import Malicious, small

FILES = ("cifar10-features.safetensors", "cifar10-reference-test.safetensors", "cifar10-scale-test.json")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with a tiny model under CIFAR-10's name."""
    folder = tmp_path / "weights"
    folder.mkdir()
    save_bundle(small(), folder / "cifar10.safetensors")
    return folder


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a checkout with weights nor a folder that the environment names; hashes in a file of the test's own."""
    monkeypatch.setattr(registry, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.setattr(registry, "HASHES", tmp_path / "published.json")
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    registry.HASHES.write_text("{}")


def publish(folder: Path, *names: str) -> None:
    """Enter the hashes of files as they are now."""
    hashes = {name: sha256((folder / name).read_bytes()).hexdigest() for name in names}
    registry.HASHES.write_text(json.dumps(hashes))


def test_what_has_not_been_published_says_so_and_how_to_train_it(weights: Path) -> None:
    for folder in (None, weights):
        with pytest.raises(WeightsError) as caught:
            load_pretrained("cifar10", folder=folder)
        said = str(caught.value)
        assert "no cifar10.safetensors has been published with this version" in said
        assert "python -m ddimkit.models.train cifar10 --data DIR" in said
        assert "load_bundle" in said
    with pytest.raises(WeightsError, match=r"no cifar10-features.*python -m ddimkit\._features\.train cifar10.*read_evaluator"):
        load_evaluator("cifar10", folder=weights)


def test_they_are_found_where_the_caller_the_environment_or_the_checkout_says(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish(weights, "cifar10.safetensors")
    assert load_pretrained("cifar10", folder=weights).name == "small"
    with pytest.raises(WeightsError, match=r"checkout: it is not part of the wheel.*DDIMKIT_WEIGHTS.*models\.train cifar10"):
        load_pretrained("cifar10")
    monkeypatch.setenv(registry.VARIABLE, str(weights))
    assert load_pretrained("cifar10").name == "small"
    with pytest.raises(WeightsError, match="elsewhere: it is not part"):  # a folder that is named is the only one
        load_pretrained("cifar10", folder=tmp_path / "elsewhere")
    monkeypatch.delenv(registry.VARIABLE)
    monkeypatch.setattr(registry, "CHECKOUT", weights)
    assert load_pretrained("cifar10").name == "small"


def test_pieces_will_do(weights: Path) -> None:
    publish(weights, "cifar10.safetensors")
    path = weights / "cifar10.safetensors"
    content = path.read_bytes()
    path.unlink()
    write_pieces(content, path, most=5000)
    assert len(list(weights.iterdir())) > 2
    assert load_pretrained("cifar10", folder=weights).weights_sha256() is not None


@pytest.mark.promise(46)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in pieces"])
def test_another_hash_and_pickles_are_refused(weights: Path, tmp_path: Path, *, whole: bool) -> None:
    publish(weights, "cifar10.safetensors")
    path, target = weights / "cifar10.safetensors", tmp_path / "it ran"
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    for content, published_too, message in (
        (bytes(changed), False, "damaged or was changed"),
        (pickle.dumps(Malicious(target)), False, "damaged or was changed"),
        (pickle.dumps(Malicious(target)), True, "no safetensors file"),
    ):
        path.write_bytes(content)
        if published_too:
            publish(weights, "cifar10.safetensors")
        if not whole:
            path.unlink()
            write_pieces(content, path, most=5000)
        with pytest.raises(WeightsError, match=message):
            load_pretrained("cifar10", folder=weights)
    assert not target.exists()


def test_what_is_part_of_the_package_takes_no_folder(weights: Path) -> None:
    for load in (load_pretrained, load_evaluator):
        with pytest.raises(ValueError, match="mnist is part of the package"):
            load("mnist", folder=weights)


def test_an_evaluator_is_found_beside_the_weights(weights: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, images = FeatureNetwork(FeatureNetworkConfig(3, (4, 6))), torch.rand(150, 3, 8, 8) * 2 - 1
    save_network(network.eval(), {}, weights / FILES[0])
    extractor = load_network(weights / FILES[0], name="cifar10 features")
    reference = Reference.of("cifar10 test", extractor(images), extractor)
    reference.save(weights / FILES[1])
    Evaluator.of(extractor, reference, images.flip(3), noise_images=20).save_scale(weights / FILES[2])
    publish(weights, *FILES)
    assert load_evaluator("cifar10", folder=weights).reference.label == reference.label
    with pytest.raises(WeightsError, match=r"cifar10-reference-train\.safetensors"):
        load_evaluator("cifar10", "train", folder=weights)
    (weights / FILES[2]).write_text("{}")
    with pytest.raises(WeightsError, match="SHA-256"):
        load_evaluator("cifar10", folder=weights)
    (weights / FILES[2]).unlink()
    with pytest.raises(WeightsError, match=r"cifar10-scale-test\.json is not in .*_features\.train cifar10"):
        load_evaluator("cifar10", folder=weights)


def test_the_recipe_fits_its_file() -> None:
    """8 to 10 million parameters, in half precision within 24 MB."""
    with torch.device("meta"):
        count = sum(p.numel() for p in UNet(CIFAR10_RECIPE.unet).parameters())
    assert 8e6 < count < 10e6
    assert 2 * count < 24e6
