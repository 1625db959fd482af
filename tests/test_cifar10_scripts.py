"""The scripts of benchmarks/ for CIFAR-10, each on a tiny network and a few images: what they write, and that they go on."""

import importlib
import json
import sys
from argparse import Namespace
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ddimkit import DDPMSampler, ModelBundle, NoiseSchedule, UNet, UNetConfig, WeightsError, load_pretrained
from ddimkit.analytic import Gaussian
from ddimkit.interop import inception
from ddimkit.models.bundle import save_bundle
from ddimkit.quality import Extractor, Reference, Yardstick, load_yardstick
from ddimkit.quality import yardstick as yardsticks
from ddimkit.quality.network import FeatureNetwork, FeatureNetworkConfig, load_network, save_network
from ddimkit.quality.yardstick import read_yardstick
from ddimkit.tradeoff.budget import BudgetStudy, finalists
from ddimkit.weights import registry
from ddimkit.weights.pieces import has_content
from test_data import cifar
from test_from_diffusers import PUBLISHED

# Of the leading and quadratic spacings, where a model has as few timesteps as these.
pytestmark = pytest.mark.filterwarnings("ignore:sampling starts from pure noise:UserWarning")

FOLDER = Path(__file__).parent.parent / "benchmarks"
SMALL = {**PUBLISHED, "block_out_channels": [4, 4, 4, 4], "norm_num_groups": 2, "layers_per_block": 1}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script by its name; they are part of a checkout only."""
    if not FOLDER.is_dir():
        pytest.skip("not a checkout")
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> ModuleType:
        for known in (name, "_subjects"):
            sys.modules.pop(known, None)
        return importlib.import_module(name)

    return load


def network(config: UNetConfig) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(config).eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny checkpoint in the published format, of random weights."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL))
    model = network(UNetConfig(channels=(4, 4, 4, 4), blocks=1, groups=2))
    save_file(model.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the two recipes write it: a tiny model of 20 timesteps, its features and both yardsticks.

    The spectrum of the pixels is made up: to find it takes half a minute.
    """
    monkeypatch.setattr(yardsticks, "_pixels", lambda real: Gaussian([0.0], [1.0], [3072.0]))
    folder = tmp_path / "own"
    folder.mkdir()
    model = network(UNetConfig(channels=(4, 4), blocks=1, groups=2, attention_levels=()))
    bundle = ModelBundle(model, NoiseSchedule.cosine(20), sample_shape=(3, 32, 32), name="cifar10", clip=(-1.0, 1.0))
    save_bundle(bundle, folder / "cifar10.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        features, real = FeatureNetwork(FeatureNetworkConfig(3, (4, 6))).eval(), torch.rand(120, 3, 32, 32) * 2 - 1
    save_network(features, {"test_accuracy": 0.95}, folder / "cifar10-features.safetensors")
    extractor = load_network(folder / "cifar10-features.safetensors", name="cifar10 features")
    for split, images, others in (("train", real[:60], real[60:]), ("test", real[60:], real[:60])):
        reference = Reference.of(f"cifar10 {split}", extractor(images), extractor)
        reference.save(folder / f"cifar10-reference-{split}.safetensors")
        Yardstick.of(extractor, reference, others, noise_images=20).save_scale(folder / f"cifar10-scale-{split}.json")
    return folder


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, options)])
    module.main()


def table(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: object) -> list[dict[str, Any]]:
    places = ("--work", tmp_path / "table1", "--out", tmp_path / "table1.json", "--device", "cpu")
    run(script("table1"), monkeypatch, *places, *options)
    cells: list[dict[str, Any]] = json.loads((tmp_path / "table1.json").read_text())["cells"]
    return cells


def test_table_1_of_a_checkpoint_in_the_published_format(
    script: Any, checkpoint: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--weights", checkpoint, "--yardstick", own, "--images", 5, "--steps", "2,10")
    cells = table(script, monkeypatch, tmp_path, *options)
    shown = capsys.readouterr().out
    assert [(c["row"], c["steps"]) for c in cells] == [(r, s) for s in (2, 10) for r in script("table1").PAPER]
    for cell in cells:
        settings = cell["record"]["settings"]
        assert settings["clip"] == ([-1.0, 1.0] if cell["row"] == "sigma-hat" else None)
        assert cell["timesteps"][-1] == 0
        assert cell["timesteps"][0] == 800
        assert cell["quality"]["count"] == 5
        assert cell["quality"]["label"]["reference"] == "cifar10 train"
    ten = {c["row"]: c for c in cells if c["steps"] == 10}
    assert ten["sigma-hat"]["paper"] == 367.43
    two, many = (f"{c['quality']['frechet']['value']:.4g}" for c in (cells[4], ten["sigma-hat"]))
    assert f"| sigma-hat | {two} | {many} (367.43) |" in shown
    assert len({c["quality"]["frechet"]["value"] for c in cells}) == len(cells)

    def nothing(*_: object, **__: object) -> None:
        pytest.fail("everything was drawn before")

    with monkeypatch.context() as patch:
        patch.setattr("ddimkit.tradeoff.judging._more", nothing)
        assert table(script, monkeypatch, tmp_path, *options) == cells
    alone = table(script, monkeypatch, tmp_path, *options[:4], "--images", 6, "--steps", "2", "--rows", "eta 0.5", "--minutes", 0)
    assert [c["quality"] for c in alone] == [None]
    assert "not drawn yet" in capsys.readouterr().out


def test_the_rows_are_the_papers(script: Any, checkpoint: Path) -> None:
    module = script("table1")
    bundle = module.find_bundle(checkpoint)
    assert bundle.schedule == NoiseSchedule.linear(1000)
    for row in module.PAPER:
        for steps in module.STEPS:
            sampler = module.make_sampler(bundle, row, steps)
            assert sampler.nfe == 1000 if steps == 1000 else sampler.timesteps[0] == 800
    hat, one = (module.make_sampler(bundle, row, 50) for row in ("sigma-hat", "eta 1"))
    assert isinstance(hat, DDPMSampler)
    np.testing.assert_allclose(hat.plan().a, one.plan().a, atol=1e-12)
    assert (hat.plan().c[:-1] > one.plan().c[:-1]).all()


def test_table_1_of_a_model_of_ours(script: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--weights", own, "--yardstick", own, "--images", 5, "--steps", "3,20", "--rows", "eta 0")
    cells = table(script, monkeypatch, tmp_path, *options)
    assert [(c["steps"], c["paper"], len(c["timesteps"])) for c in cells] == [(3, None, 3), (20, 6.84, 20)]
    assert {c["record"]["settings"]["clip"] for c in cells} == {None}  # though the model's own samplers clip


def test_table_1_by_inceptions_features(
    script: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network itself is tested elsewhere; here a small function stands for it."""
    numbers = np.random.default_rng(0)
    for name, count in [*((f"data_batch_{i}", 20) for i in range(1, 6)), ("test_batch", 30)]:
        images, labels = numbers.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), np.zeros(count, np.uint8)
        (tmp_path / f"{name}.bin").write_bytes(cifar(images, labels))
    asked, seen = list[Path](), list[int]()

    def features(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x.mean(dim=3).flatten(1)[:, ::9]

    def small(weights: Path, **_: object) -> Extractor:
        asked.append(weights)
        return Extractor(features, "Inception 2048", "abc")

    monkeypatch.setattr(inception, "inception_extractor", small)
    monkeypatch.setattr(Yardstick, "of", classmethod(lambda cls, extractor, reference, real: cls(extractor, reference, None, None)))
    given = ("--inception", tmp_path / "inception.safetensors", "--data", tmp_path)
    options = ("--weights", checkpoint, "--images", 5, "--steps", "2", "--rows", "eta 0")
    for _ in range(2):
        label = table(script, monkeypatch, tmp_path, *options, *given)[0]["quality"]["label"]
    assert asked == [tmp_path / "inception.safetensors"] * 2
    assert seen.count(100) == 1  # the second sitting has the training images' features
    assert (label["extractor"], label["reference"], label["images"]) == ("Inception 2048", "cifar10 train", 100)
    assert "by Inception 2048" in capsys.readouterr().out
    for wrong, message in ((given[:2], "go together"), (("--rows", "eta 3"), "must be of")):
        with pytest.raises(SystemExit):
            table(script, monkeypatch, tmp_path, *options, *wrong)
        assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_studies_take_a_folder_of_ones_own(
    script: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    quality, samplers = script("quality_study"), script("sampler_study")
    monkeypatch.setattr(quality, "STEPS", (2, 20))
    monkeypatch.setattr(quality, "ETAS", (0.0, 1.0))
    common = ("--model", "cifar10", "--weights", own, "--device", "cpu", "--batch", 4)
    run(quality, monkeypatch, *common, "--work", tmp_path / "quality", "--samples", 6, "--long", 5, "--noisy", 5)
    found = json.loads((tmp_path / "quality" / "results.json").read_text())
    assert found["model"]["name"] == "cifar10"
    assert {c["quality"]["label"]["extractor"] for c in found["configurations"]} == {"cifar10 features"}
    assert "sigma-hat-2" in capsys.readouterr().out
    monkeypatch.setattr(samplers, "SAMPLERS", ("ddim", "dpm-2m"))
    monkeypatch.setattr(samplers, "NOISY", ("ddpm",))
    finest = ("ddim", 6, "trailing")
    monkeypatch.setattr(samplers, "FEW", 3)
    monkeypatch.setattr(samplers, "FINEST", finest[:2])
    monkeypatch.setattr(samplers, "REFERENCES", (finest[:2], ("ddpm", 20), ("ddim", 50)))
    monkeypatch.setattr(samplers, "NETWORK_SEEDS", (range(2), range(5, 8)))
    monkeypatch.setattr(samplers, "QUALITY_SEEDS", (range(6), range(6, 12)))
    asked = dict[str, list[object]]()
    for kind in ("NetworkObjective", "QualityObjective"):
        real = getattr(samplers, kind)
        monkeypatch.setattr(
            samplers, kind, lambda *a, real=real, kind=kind, **k: asked.setdefault(kind, []).append(a) or real(*a, **k)
        )
    work = ("--work", tmp_path / "samplers", "--samples", 10, "--fresh", 6, "--calls", "3,4", "--long", 8, "--evaluations", 16)
    for name in ("ddim", "dpm-2m"):  # each as a process of its own would
        run(samplers, monkeypatch, *common, *work, "--objectives", "network", "quality", "--samplers", name)
    monkeypatch.setattr(samplers, "optimize_timesteps", None)
    run(samplers, monkeypatch, *common, *work, "--objectives", "network", "--samplers", "ddim,dpm-2m")
    run(samplers, monkeypatch, *common, *work, "--objectives")
    saved = json.loads((tmp_path / "samplers" / "results.json").read_text())
    found = {(x["sampler"], x["calls"], x["objective"]): x for x in saved["lists"]}
    assert set(found) == {(name, n, kind) for name in ("ddim", "dpm-2m") for n in (3, 4) for kind in ("network", "quality")}
    for (_, calls, kind), x in found.items():
        assert len(x["timesteps"]) == calls
        assert x["search"]["evaluations"] <= x["search"]["of"] == {"network": 16, "quality": 8}[kind]
        assert x["search"]["seeds"]["searched"] == {"network": [0, 2], "quality": [0, 6]}[kind]
    # The network's lists are near by features, and quality's by real images that do not judge them.
    assert {given[4].name for given in asked["NetworkObjective"]} == {"cifar10 features"}
    assert {given[1].reference.label.reference for given in asked["QualityObjective"]} == {"cifar10 train"}
    results = {(r["sampler"], r["calls"], r["spacing"]): r for r in saved["results"]}
    wanted = {(name, calls, spacing) for name in ("ddim", "dpm-2m") for calls in (3, 4) for spacing in samplers.SPACINGS}
    wanted |= {("ddpm", 3, spacing) for spacing in samplers.SPACINGS} | {("ddpm", 4, "trailing"), finest, ("ddpm", 20, "trailing")}
    gained = {which for which, x in found.items() if x["gained"]}
    assert gained  # else no list was judged here
    assert set(results) == wanted | gained
    apart = {which: r["apart"] for which, r in results.items()}
    assert apart.pop(finest) == 0
    assert all(share > 0 for share in apart.values())
    assert all(r["predicted"] > 0 for r in results.values())
    study = BudgetStudy.load(tmp_path / "samplers" / "results.json")
    for r in study.results:
        which = r.sampler, r.calls, r.spacing
        count = 8 if r.calls == 4 else 10
        assert r.quality.seeds == ((0, count),)
        chosen, reference = r in finalists(study.results), which in (finest, ("ddpm", 20, "trailing"))
        assert (r.fresh is not None) == (chosen or reference)
        if r.fresh is not None:
            assert r.fresh.seeds == (((count, count + 6),) if chosen else ((0, 6),))
    for wrong in (("--samples", 19_999), ("--samples", 10, "--long", 11)):
        with pytest.raises(SystemExit):
            run(samplers, monkeypatch, *common, "--work", tmp_path / "samplers", *wrong)


def test_budgets_are_of_equal_calls(script: Any) -> None:
    """Of 1000 timesteps ``quadratic_song2021`` gives 49 where 50 are asked for."""
    samplers, arguments = script("sampler_study"), Namespace(calls=[10, 50], samplers=["ddim"])
    walks = samplers.walks_of(load_pretrained("mnist"), [], arguments)
    assert {walk.spacing for walk in walks if walk.calls == 10} == set(samplers.SPACINGS)
    assert {walk.spacing for walk in walks if walk.calls == 50} == set(samplers.SPACINGS) - {"quadratic_song2021"}
    assert all(walk.sampler.nfe == walk.calls for walk in walks)


def test_the_time_for_few_and_for_many(
    script: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bulk.json"
    options = ("--weights", own, "--device", "cpu", "--batch", 20, "--count", 90, "--steps", "2,4", "--work", tmp_path / "bulk")
    run(script("bulk_time"), monkeypatch, *options, "--out", out)
    found = json.loads(out.read_text())
    assert [row["label"] for row in found["rows"]] == ["DDPM-20", "DDIM-2", "DDIM-4"]
    for row in found["rows"]:
        assert row["seconds_many"] == pytest.approx(5 * row["seconds_batch"])  # 90 images are five batches of 20
        assert row["seconds_few"] > 0
    assert "90 images" in capsys.readouterr().out


def test_what_is_published_is_found_and_what_is_not_fit_is_not(
    script: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("publish_weights")
    to, hashes = tmp_path / "weights", tmp_path / "published.json"
    hashes.write_text("{}")
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    for where in (module, registry):
        monkeypatch.setattr(where, "CHECKOUT", to)
        monkeypatch.setattr(where, "HASHES", hashes)
    with pytest.raises(WeightsError):
        load_pretrained("cifar10")
    run(module, monkeypatch, own, "--what", "model")
    assert load_pretrained("cifar10").name == "cifar10"
    assert not has_content(to / "cifar10-features.safetensors")
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    run(module, monkeypatch, own, "--what", "features")
    whole = (own / "cifar10-features.safetensors").read_bytes()
    known = json.loads(hashes.read_text())
    assert len(known) == 6
    assert known["cifar10-features.safetensors"] == sha256(whole).hexdigest()
    assert not (to / "cifar10-features.safetensors").exists()
    assert load_yardstick("cifar10").reference.label == read_yardstick("cifar10", own).reference.label
    for limit, value in (("MOST_MODEL", 10), ("MOST_NETWORK", 10), ("LEAST_ACCURACY", 0.96)):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, value)
            with pytest.raises(SystemExit, match=r"more than 10|less than 96%"):
                run(module, monkeypatch, own)


def test_the_bundled_yardstick_is_taken_without_a_folder(script: Any) -> None:
    subjects = script("_subjects")
    assert subjects.find_model("mnist", None).name == "mnist"
    assert (
        subjects.find_yardstick("mnist", None, torch.device("cpu")).reference.label
        == read_yardstick("mnist", Path(registry.__file__).parents[1] / "quality" / "weights").reference.label
    )
