"""Bundles and their files: what is saved loads, and what is damaged, changed or malicious is refused."""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddimkit import (
    DDIMSampler,
    DDPMSampler,
    DynamicThreshold,
    ModelBundle,
    NoiseSchedule,
    PlanSampler,
    UNet,
    UNetConfig,
    WeightsError,
    load_pretrained,
)
from ddimkit.models import bundle as bundles
from ddimkit.models.bundle import load_bundle, save_bundle
from ddimkit.models.conditions import seed_labels
from ddimkit.models.unet import channels_last
from ddimkit.prediction import Clip
from ddimkit.samplers import ddim
from probes import Malicious, normal, smooth

SCHEDULE = NoiseSchedule.cosine(30)
CONFIG = UNetConfig(1, 1, channels=(4, 8), blocks=1, attention_levels=(1,), groups=2)


def small(clip: Clip = (-1.0, 1.0), schedule: NoiseSchedule = SCHEDULE) -> ModelBundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNet(CONFIG).eval()
    return ModelBundle(
        model, schedule, sample_shape=(1, 8, 8), prediction="v", clip=clip, name="small", figures={"loss": 0.5, "seen": [1, 2]}
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_bundle(small(), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.mark.parametrize("clip", [None, (-1.0, 1.0), DynamicThreshold(0.9, 2.0)], ids=["none", "range", "threshold"])
@pytest.mark.parametrize("schedule", [SCHEDULE, NoiseSchedule.linear(40).zero_terminal_snr()], ids=["cosine", "zero terminal"])
def test_round_trip(tmp_path: Path, clip: Clip, schedule: NoiseSchedule) -> None:
    path, made = tmp_path / "a.safetensors", small(clip, schedule)
    digest = save_bundle(made, path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = load_bundle(path, sha256=digest)
    assert (found.schedule, found.prediction, found.clip, found.sample_shape) == (schedule, "v", clip, (1, 8, 8))
    assert (found.name, found.figures) == ("small", made.figures)
    assert isinstance(found.model, UNet)
    assert isinstance(made.model, UNet)
    assert found.model.config == CONFIG
    assert not found.model.training
    for name, value in made.model.state_dict().items():
        read = found.model.state_dict()[name]
        assert read.dtype is torch.float32
        assert torch.equal(read, value.to(torch.float16).to(torch.float32)), name
    save_bundle(found, tmp_path / "b.safetensors")
    assert load_bundle(tmp_path / "b.safetensors").weights_sha256() == found.weights_sha256()


def test_only_a_unet_of_a_named_schedule_is_saved(tmp_path: Path) -> None:
    own = NoiseSchedule.from_alpha_bars(SCHEDULE.alpha_bars)
    for made in (ModelBundle(smooth, SCHEDULE, sample_shape=(1, 8, 8)), small(schedule=own)):
        with pytest.raises(TypeError, match="only a UNet with a named schedule"):
            save_bundle(made, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.promise(46)
@pytest.mark.parametrize("write", [lambda v, p: p.write_bytes(pickle.dumps(v)), torch.save], ids=["pickle", "torch.save"])
def test_nothing_is_ever_unpickled(tmp_path: Path, write: Callable[[object, Path], object]) -> None:
    path, target = tmp_path / "weights.safetensors", tmp_path / "it ran"
    write(Malicious(target), path)
    with pytest.raises(WeightsError, match=r"weights\.safetensors is no safetensors file .* never loaded"):
        load_bundle(path)
    assert not target.exists()
    # The trap works: this is what unpickling would have done.
    pickle.loads(zipfile.ZipFile(path).read("weights/data.pkl") if write is torch.save else path.read_bytes())
    assert target.exists()


@pytest.mark.promise(46)
def test_another_hash_is_refused(saved: Path) -> None:
    right = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert load_bundle(saved, sha256=right).name == "small"
    changed = bytearray(saved.read_bytes())
    changed[-1] ^= 1
    saved.write_bytes(changed)
    assert load_bundle(saved).name == "small"
    with pytest.raises(WeightsError, match=rf"not {right}: it is damaged or was changed") as caught:
        load_bundle(saved, sha256=right)
    assert str(saved) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        load_bundle(tmp_path / "nothing.safetensors")


def rewritten(change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> Callable[[Path], None]:
    """The saved file with its tensors and metadata changed."""

    def rewrite(path: Path) -> None:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = dict(file.metadata())
        change(tensors, metadata)
        save_file(tensors, path, metadata)

    return rewrite


def with_field(name: str, value: object) -> Callable[[Path], None]:
    return rewritten(lambda _, metadata: metadata.update({name: value if isinstance(value, str) else json.dumps(value)}))


def with_config(**changes: object) -> Callable[[Path], None]:
    def change(_: dict[str, Tensor], metadata: dict[str, str]) -> None:
        metadata["config"] = json.dumps({**json.loads(metadata["config"]), **changes})

    return rewritten(change)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "no safetensors file"),
    "cut off in its header": (lambda path: path.write_bytes(path.read_bytes()[:50]), "no safetensors file"),
    "empty": (lambda path: path.write_bytes(b""), "no safetensors file"),
    "text": (lambda path: path.write_text("<html>not found</html>"), "no safetensors file"),
    "no metadata": (lambda path: save_file(load_file(path), path), "not of format ddimkit-unet, schema 1: None"),
    "another format": (with_field("format", "another"), "schema 1: another"),
    "another schema": (with_field("schema", "2"), "ddimkit-unet, 2"),
    "a field missing": (rewritten(lambda _, metadata: metadata.__delitem__("prediction")), "does not describe a"),
    "a field that is no JSON": (with_field("clip", "{"), "does not describe a"),
    "an unknown prediction": (with_field("prediction", ["noise"]), "does not describe a"),
    "an unknown schedule": (with_field("schedule", {"name": "square"}), "does not describe a"),
    "a schedule that is a list": (with_field("schedule", [1, 2]), "does not describe a"),
    "a clip upside down": (with_field("clip", [1, -1]), "does not describe a"),
    "a shape that is a number": (with_field("sample_shape", 7), "does not describe a"),
    "a config that is a list": (with_field("config", [1]), "does not describe a"),
    "an unknown setting": (with_config(heads=4), "does not describe a"),
    "a setting out of range": (with_config(groups=0), "does not describe a"),
    "a setting of another kind": (with_config(groups="2"), "does not describe a"),
    "another network": (with_config(channels=[8, 8]), "does not describe a"),
    "a tensor missing": (rewritten(lambda tensors, _: tensors.__delitem__("conv_in.bias")), "does not describe a"),
    "a tensor too many": (rewritten(lambda tensors, _: tensors.update(extra=torch.zeros(1))), "does not describe a"),
    "a tensor of another shape": (
        rewritten(lambda tensors, _: tensors.update({"conv_in.bias": torch.zeros(3)})),
        "does not describe a",
    ),
}


@pytest.mark.promise(46)
@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused(saved: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(saved)
    with pytest.raises(WeightsError, match=message) as caught:
        load_bundle(saved)
    assert str(caught.value).startswith(str(saved))


def test_the_bundled_model_is_small_and_draws() -> None:
    mnist = load_pretrained("mnist")
    path = bundles._WEIGHTS / "mnist.safetensors"
    assert path.stat().st_size <= 2.5e6
    assert isinstance(mnist.model, nn.Module)
    assert sum(p.numel() for p in mnist.model.parameters()) <= 1_200_000
    assert (mnist.name, mnist.sample_shape, mnist.schedule.num_timesteps) == ("mnist", (1, 28, 28), 1000)
    assert not mnist.model.training
    x = mnist.sampler(DDIMSampler, steps=5).sample(mnist.model, (2, 1, 28, 28), seed=0)
    assert bool(torch.isfinite(x).all())
    # Pictures, not noise: mostly background, and near the range of the data.
    assert float(x.abs().max()) < 3
    assert float((x < -0.8).float().mean()) > 0.5


@pytest.mark.promise(46)
def test_the_bundled_models_hash_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "_WEIGHTS", tmp_path)
    with pytest.raises(WeightsError, match=r"mnist\.safetensors is missing: install ddimkit again"):
        load_pretrained("mnist")
    save_bundle(small(), tmp_path / "mnist.safetensors")
    with pytest.raises(WeightsError, match="damaged or was changed, install it again"):
        load_pretrained("mnist")


def test_an_unknown_pretrained_model_is_refused() -> None:
    with pytest.raises(ValueError, match="pretrained models are mnist, cifar10, got 'celeba'"):
        load_pretrained("celeba")


def test_a_sampler_takes_the_bundles_settings_and_keywords_win() -> None:
    made = small()
    assert made.sampler(DDIMSampler, steps=7, eta=0.5) == DDIMSampler(SCHEDULE, steps=7, eta=0.5, prediction="v", clip=(-1.0, 1.0))
    assert made.sampler(DDPMSampler, 7).steps == 7
    other = made.sampler(DDIMSampler, timesteps=[9, 2], prediction="x0", clip=None)
    assert other == DDIMSampler(SCHEDULE, timesteps=[9, 2], prediction="x0")


def test_a_sampler_of_somebody_elses() -> None:
    @dataclass(frozen=True)
    class Mine(PlanSampler):
        def plan(self) -> Any:
            return ddim.DDIMSampler(self.schedule, timesteps=self.timesteps).plan()

    assert small().sampler(Mine, steps=3).clip == (-1.0, 1.0)


def test_the_hash_of_the_weights() -> None:
    made = small()
    digest = made.weights_sha256()
    assert digest == small().weights_sha256()
    assert isinstance(made.model, UNet)
    moved = ModelBundle(channels_last(made.model), SCHEDULE, sample_shape=(1, 8, 8))
    assert moved.weights_sha256() == digest
    with torch.no_grad():
        made.model.conv_in.bias[0].add_(1)
    assert made.weights_sha256() != digest
    assert ModelBundle(smooth, SCHEDULE, sample_shape=(1, 8, 8)).weights_sha256() is None


def test_the_hash_knows_names_and_scalars() -> None:
    def of(**tensors: Tensor) -> str | None:
        module = nn.Module()
        for name, value in tensors.items():
            module.register_buffer(name, value)
        module.forward = lambda x, t: x  # type: ignore[assignment]
        return ModelBundle(module, SCHEDULE, sample_shape=(1,)).weights_sha256()

    x = normal(3)
    assert of(a=x) == of(a=x.clone()) != of(b=x)
    assert of(a=torch.tensor(1)) != of(a=torch.tensor(2))
    assert of(a=x.to(torch.bfloat16)) is not None


WRONG: list[tuple[Mapping[str, Any], type[Exception], str]] = [
    ({"model": 3}, TypeError, "callable as model"),
    ({"schedule": [0.1, 0.2]}, TypeError, "NoiseSchedule, got list"),
    ({"sample_shape": (1, 0)}, ValueError, r"above 0, as in \(1, 28, 28\), got \(1, 0\)"),
    ({"sample_shape": (1, 2.5)}, TypeError, "above 0"),
    ({"sample_shape": 28}, TypeError, r"sample_shape .* got 28"),
    ({"prediction": "noise"}, ValueError, "epsilon, x0, v, flow, got 'noise'"),
    ({"clip": 1.0}, TypeError, "pair"),
    ({"clip": (1.0, -1.0)}, ValueError, "low < high"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_a_wrong_bundle_is_refused(change: Mapping[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ModelBundle(**{"model": smooth, "schedule": SCHEDULE, "sample_shape": (1, 8, 8), **change})


@pytest.mark.parametrize("given", [((1, 8, 8),), ("v",), ((1, 8, 8), "v", None, "small")], ids=str)
def test_settings_are_given_by_name(given: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="takes 3 positional arguments"):
        ModelBundle(smooth, SCHEDULE, *given)


@pytest.mark.parametrize("value", [7e4, -7e4, float("inf"), float("nan")])
def test_weights_that_float16_cannot_keep_are_not_written(value: float, tmp_path: Path) -> None:
    net = UNet(UNetConfig(1, 1, (4, 4), 1, (), 2)).eval()
    bundle = ModelBundle(net, NoiseSchedule.linear(), sample_shape=(1, 4, 4))
    with torch.no_grad():
        net.conv_out.bias[0] = value
    with pytest.raises(ValueError, match=r"^conv_out\.bias holds NaN or numbers above 65504"):
        save_bundle(bundle, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_labels_survive_the_file_and_other_conditions_are_refused(tmp_path: Path) -> None:
    network = UNet(UNetConfig(1, 1, (8, 8), blocks=1, groups=4, num_classes=4))
    made = ModelBundle(
        network, NoiseSchedule.linear(), sample_shape=(1, 8, 8), conditions=seed_labels(3), unconditional={"labels": 3}
    )
    save_bundle(made, tmp_path / "a.safetensors")
    read = load_bundle(tmp_path / "a.safetensors")
    assert read.conditions == made.conditions
    assert read.unconditional == {"labels": 3}
    assert read.identity() == made.identity() | {"weights_sha256": read.weights_sha256()}
    assert torch.isfinite(read.guided(2.0).draw(read.sampler(DDIMSampler, steps=2), range(2))).all()
    for change, message in (
        ({"conditions": lambda seeds: {"labels": torch.zeros(len(seeds), dtype=torch.int64)}}, "seed_labels"),
        ({"decode": lambda z: z}, "without decode"),
    ):
        with pytest.raises(TypeError, match=message):
            save_bundle(replace(made, **change), tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()
