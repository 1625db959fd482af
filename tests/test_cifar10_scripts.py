"""The scripts of benchmarks/ for CIFAR-10, each on a tiny network and a few images: what they write, and that they go on."""

import importlib
import json
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ddimkit import (
    DDIMKitError,
    DDIMSampler,
    DDPMSampler,
    ModelBundle,
    NoiseSchedule,
    PlanSampler,
    UNet,
    UNetConfig,
    WeightsError,
    load_pretrained,
)
from ddimkit.analytic import Gaussian
from ddimkit.interop import inception
from ddimkit.models.bundle import save_bundle
from ddimkit.quality import Evaluator, Extractor, Quality, Reference, load_evaluator
from ddimkit.quality import evaluator as evaluators
from ddimkit.quality.evaluator import read_evaluator
from ddimkit.quality.network import FeatureNetwork, FeatureNetworkConfig, load_network, save_network
from ddimkit.tradeoff import times
from ddimkit.tradeoff.rows import family, spacing_of
from ddimkit.tradeoff.study import Study
from ddimkit.weights import _registry as registry
from ddimkit.weights._pieces import has_content
from probes import smooth
from studies import LINEAR
from studies import row as made
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
        for known in (name, "_subjects", "_grids", "_searched"):
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
    """A folder as the two recipes write it: a tiny model of 20 timesteps and 8×8 pixels, its features and both evaluators.

    The spectrum of the pixels is made up: to find it takes half a minute.
    """
    monkeypatch.setattr(evaluators, "_pixels", lambda real: Gaussian([0.0], [1.0], [192.0]))
    folder = tmp_path / "own"
    folder.mkdir()
    model = network(UNetConfig(channels=(4,), blocks=1, groups=2, attention_levels=()))
    bundle = ModelBundle(model, NoiseSchedule.cosine(20), sample_shape=(3, 8, 8), name="cifar10", clip=(-1.0, 1.0))
    save_bundle(bundle, folder / "cifar10.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        features, real = FeatureNetwork(FeatureNetworkConfig(3, (4, 6))).eval(), torch.rand(120, 3, 8, 8) * 2 - 1
    save_network(features, {"test_accuracy": 0.95}, folder / "cifar10-features.safetensors")
    extractor = load_network(folder / "cifar10-features.safetensors", name="cifar10 features")
    for split, images, others in (("train", real[:60], real[60:]), ("test", real[60:], real[:60])):
        reference = Reference.of(f"cifar10 {split}", extractor(images), extractor)
        reference.save(folder / f"cifar10-reference-{split}.safetensors")
        Evaluator.of(extractor, reference, others, noise_images=20).save_scale(folder / f"cifar10-scale-{split}.json")
    return folder


def nothing_is_drawn(*_: object, **__: object) -> None:
    pytest.fail("everything was drawn before")


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
    options = ("--weights", checkpoint, "--evaluator", own, "--images", 5, "--steps", "2,10")
    cells = table(script, monkeypatch, tmp_path, *options)
    shown = capsys.readouterr().out
    assert [(c["row"], c["steps"]) for c in cells] == [(r, s) for s in (2, 10) for r in script("table1").PAPER]
    for cell in cells:
        settings = cell["record"]["settings"]
        assert settings["clip"] == ([-1.0, 1.0] if cell["row"] == "sigma-hat" else None)
        assert cell["timesteps"][-1] == 0
        assert cell["timesteps"][0] == 800
        assert cell["quality"]["seeds"] == [[0, 5]]
        assert cell["quality"]["label"]["reference"] == "cifar10 train"
    ten = {c["row"]: c for c in cells if c["steps"] == 10}
    assert ten["sigma-hat"]["paper"] == 367.43
    two, many = (f"{c['quality']['frechet']['value']:.4g}" for c in (cells[4], ten["sigma-hat"]))
    assert f"| sigma-hat | {two} | {many} (367.43) |" in shown
    assert len({c["quality"]["frechet"]["value"] for c in cells}) == len(cells)

    with monkeypatch.context() as patch:
        patch.setattr(PlanSampler, "sample", nothing_is_drawn)
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
    options = ("--weights", own, "--evaluator", own, "--images", 5, "--steps", "3,20", "--rows", "eta 0")
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
    monkeypatch.setattr(Evaluator, "of", classmethod(lambda cls, extractor, reference, real: cls(extractor, reference, None, None)))
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


def study(script: Any, own: Path, work: Path, *options: object) -> Study:
    """The study that a call leaves in its folder."""
    given = ("--model", "cifar10", "--weights", own, "--device", "cpu", "--batch", 4, "--work", work)
    script("study").main([*map(str, options), *map(str, given)])
    return Study.load(work / "study.json")


def seeds(quality: Quality | None) -> tuple[tuple[int, int], ...] | None:
    return None if quality is None else quality.seeds


def test_a_study_measures_every_row_of_a_grid_by_the_same_seeds(
    script: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script("study"), "FOLDER", tmp_path)
    options = ("--samplers", "ddim,sigma-hat", "--calls", "2,20", "--etas", "0,1", "--images", 6, "--out", tmp_path / "out.json")
    found = study(script, own, tmp_path / "work", *options)
    names = ("DDPM-20", "DDIM-10", "DDIM-20", "DDIM-2", "DDIM-2 eta 1", "DDIM-20 eta 1", "sigma-hat-2", "sigma-hat-20")
    assert {row.label for row in found.rows} == set(names)
    assert {seeds(row.quality) for row in found.rows} == {((0, 6),)}
    assert found.label is not None
    assert found.label.extractor == "cifar10 features"
    assert found.covariances["kernel"].shape == (8, 8)
    assert found.row("DDIM-20").same_seed == 0
    assert all((row.same_seed or 0) > 0 for row in found.rows if row.label != "DDIM-20")
    assert all(row.predicted is not None and row.selection is None for row in found.rows)
    assert "8 rows, 8 of them measured, 0 not drawn yet" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(PlanSampler, "sample", nothing_is_drawn)
        again = study(script, own, tmp_path / "work", *options)
    assert again.to_dict() == found.to_dict() == Study.load(tmp_path / "out.json").to_dict()


def test_an_interrupted_study_goes_on(script: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, drawn = ("--samplers", "ddim", "--calls", "2,3,4", "--images", 6), list[str]()
    real = PlanSampler.sample

    def until_interrupted(sampler: PlanSampler, *args: Any, **settings: Any) -> torch.Tensor:
        drawn.append(f"{type(sampler).__name__}-{sampler.nfe}")
        if len(drawn) == 8:
            raise KeyboardInterrupt
        return real(sampler, *args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(PlanSampler, "sample", until_interrupted)
        with pytest.raises(KeyboardInterrupt):
            study(script, own, tmp_path / "cut", *options)
        before = drawn[:7]
        whole = study(script, own, tmp_path / "cut", *options)
    # Two batches a row: the eighth was the second of the fourth row, which begins anew.
    assert len(before) == 7
    assert sorted(drawn) == sorted(before[:6] + before[6:] * 2 + [before[6]] + drawn[9:])
    assert not set(drawn[9 + 1 :]) & set(before[:6])
    assert [row.to_dict() for row in whole.rows] == [row.to_dict() for row in study(script, own, tmp_path / "one", *options).rows]


def test_images_choose_and_others_measure(script: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script("study")
    searched = sys.modules["_searched"]
    monkeypatch.setattr(searched, "NETWORK_SEEDS", (range(2), range(5, 8)))
    monkeypatch.setattr(searched, "QUALITY_SEEDS", (range(6), range(6, 12)))
    monkeypatch.setattr(searched, "FINE_STEPS", 8)
    monkeypatch.setattr(UNet, "forward", lambda _, x, t: smooth(x, t))  # for thousands of calls
    options = ("calls", "--samplers", "ddim,dpm-2m,ddpm", "--calls", "3,4", "--spacings", "trailing,linspace", "--evaluations", 14)
    options = (*options, "--objectives", "network,quality", "--select", 8, "--images", 6, "--long", 5)
    late = study(script, own, tmp_path / "late", *options, "--minutes", 0)
    assert not late.evaluated
    for name in ("ddim", "dpm-2m"):  # each as a process of its own would
        part = study(script, own, tmp_path / "work", *options, "--only", name)
        assert {type(row.sampler).__name__ for row in part.evaluated} <= {"DDIMSampler", "DPMSolverPPSampler"}
        assert not any(row.quality for row in part.rows if row.selection)  # before all of equal calls are there nothing is chosen
    found = study(script, own, tmp_path / "work", *options)
    spaced = {f"{kind}-{n}{name}" for kind in ("DDIM", "DPM++2M") for n in (3, 4) for name in ("", " linspace")}
    named = {row.label for row in found.rows if not row.search}
    assert named == spaced | {"DDPM-20", "DDIM-10", "DDIM-20", "DDPM-3", "DDPM-3 linspace", "DDPM-4", "DDPM-4 linspace"}
    lists = [row for row in found.rows if row.search]
    assert lists  # else no list was evaluated here
    kinds = {(row.label.split()[1], type(row.sampler).__name__) for row in lists}
    assert kinds <= {("network", "DDIMSampler"), ("network", "DPMSolverPPSampler")} | {
        ("quality", f"{name}Sampler") for name in ("DDIM", "DPMSolverPP", "DDPM")
    }
    for row in found.rows:
        chosen_among = row.calls in (3, 4)
        assert seeds(row.selection) == (((0, 8),) if chosen_among else None)
        assert seeds(row.quality) in (((8, 14),), None if chosen_among else ((8, 14),))
    for calls in (3, 4):
        rows = [row for row in found.rows if row.calls == calls]
        assert min(rows, key=lambda row: row.selection.kernel.value).quality is not None  # type: ignore[union-attr]
        assert 1 <= sum(row.quality is not None for row in rows) <= 3
    for path in (tmp_path / "work" / "lists").glob("*.json"):
        about = json.loads(path.read_text())["about"]
        assert about["evaluations"] <= about["of"] == (7 if "quality" in path.name else 14)
        # The network's lists are near by features, and quality's by real images that evaluate no row.
        assert about.get("reference", {"reference": "cifar10 train"})["reference"] == "cifar10 train"
    with pytest.raises(DDIMKitError, match="another model or search"):
        study(script, own, tmp_path / "work", *options, "--evaluations", 20)

    more = ("candidates", "--select", 10, "--images", 7, "--long", 6, "--calls", "3")
    with pytest.raises(DDIMKitError, match="candidates are those of an earlier study"):
        study(script, own, tmp_path / "more", *more)
    since = ("--since", tmp_path / "work" / "study.json")
    with pytest.raises(DDIMKitError, match="seeds from 5 on chose"):
        study(script, own, tmp_path / "more", *more, *since, "--select", 5)
    large = study(script, own, tmp_path / "more", *more, *since)
    assert {row.label for row in large.rows} == {row.label for row in found.rows}
    again = {row.label for row in found.rows if row.calls == 3 and row.quality} | {"DDPM-20", "DDIM-10", "DDIM-20"}
    for row in found.rows:
        new = large.row(row.label)
        assert seeds(new.selection) == seeds(row.selection)
        assert seeds(new.quality) == (((10, 17),) if row.label in again else seeds(row.quality))
        assert new.search == row.search


def test_what_an_earlier_study_measured_is_taken_over(
    script: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = study(script, own, tmp_path / "first", "--calls", "2,3", "--images", 8)
    since = ("--since", tmp_path / "first" / "study.json")
    with monkeypatch.context() as patch:
        patch.setattr(PlanSampler, "sample", nothing_is_drawn)
        second = study(script, own, tmp_path / "second", *since, "--calls", "2", "--images", 7)
    assert {row.label: row.quality.count for row in second.evaluated if row.quality} == dict.fromkeys(
        (row.label for row in first.rows), 8
    )
    labels = [row.label for row in second.evaluated]
    places = [[row.label for row in first.evaluated].index(label) for label in labels]
    np.testing.assert_allclose(second.covariances["kernel"], first.covariances["kernel"][np.ix_(places, places)], atol=1e-7)
    # What measures has other seeds than what chooses, so metrics from seed 0 on are not taken over where images choose.
    long = study(script, own, tmp_path / "long", "--calls", "2", "--images", 12)
    third = study(script, own, tmp_path / "third", "--since", tmp_path / "long" / "study.json", "--select", 5, "--images", 6)
    assert {seeds(row.quality) for row in long.rows} == {((0, 12),)}
    assert {seeds(row.quality) for row in third.rows if row.calls > 2} == {((5, 11),)}
    saved = json.loads((tmp_path / "first" / "study.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({**saved, "model": {**saved["model"], "weights_sha256": "0"}}))
    with pytest.raises(DDIMKitError, match="other weights"):
        study(script, own, tmp_path / "second", "--since", tmp_path / "other.json")
    for wrong in (("--samplers", "dim"), ("--images", 4), ("--select", 3), ("calls", "--images", 19_999)):
        with pytest.raises(SystemExit):
            script("study").parse([*map(str, wrong)])
        assert "error: " in capsys.readouterr().err


def test_the_measured_rows_are_installed(script: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("study")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    given = ("--model", "cifar10", "--weights", own, "--device", "cpu", "--work", tmp_path / "work", "--batch", 4)
    options = ("--calls", "2", "--spacings", "trailing,linspace", "--select", 5, "--images", 5, "--long", 5, "--install")
    module.main([*map(str, (*given, *options))])
    whole, packed = Study.load(tmp_path / "work" / "study.json"), Study.load(tmp_path / "cifar10.json")
    assert len(packed.rows) < len(whole.rows)
    assert [row.label for row in packed.rows] == [row.label for row in whole.evaluated]
    assert packed.covariances["frechet"].shape == (len(packed.rows),) * 2


def test_rows_of_a_grid_have_the_calls_asked_for(script: Any) -> None:
    """Of 1000 timesteps ``quadratic_song2021`` gives 49 where 50 are asked for."""
    script("study")
    grids = sys.modules["_grids"]
    mnist = load_pretrained("mnist")
    rows = grids.named_rows(mnist, replace(grids.GRIDS["calls"], samplers=("ddim", "ddpm"), calls=(10, 50)))
    found = {(family(row.sampler), row.calls): set[str]() for row in rows}
    for row in rows:
        found[family(row.sampler), row.calls].add(spacing_of(row.sampler))
    every = set(grids.SPACINGS)
    assert found["DDIM", 10] == found["DDPM", 10] == every
    assert found["DDIM", 50] == every - {"quadratic_song2021"}
    assert found["DDPM", 50] == {"trailing"}
    whole = grids.named_rows(mnist, grids.GRIDS["ddim"])
    assert {row.calls for row in whole if row.adds_noise and row.label != "DDPM-1000"} == {10, 20, 50, 100}
    assert {row.calls for row in whole if not row.adds_noise} == {10, 20, 50, 100, 250, 500, 1000}


def test_the_best_the_refinable_and_the_named_are_chosen(script: Any) -> None:
    script("study")
    chosen = sys.modules["_grids"].chosen
    noisy = made(DDPMSampler(LINEAR, steps=5), 0.4, selected=0.1, label="noisy")
    listed = made(
        DDIMSampler(LINEAR, timesteps=(999, 700, 500, 300, 100)), 0.3, selected=0.2, label="list", search={"objective": "network"}
    )
    named = made(DDIMSampler(LINEAR, steps=5), 0.2, selected=0.3, label="named")
    worse = made(DDIMSampler(LINEAR, steps=5, spacing="leading"), 0.1, selected=0.4, label="worse")
    alone = made(DDIMSampler(LINEAR, steps=6), 0.2, selected=0.3, label="alone")
    unseen = made(DDIMSampler(LINEAR, steps=7), 0.2, label="unseen")
    assert {row.label for row in chosen([worse, named, listed, noisy, unseen, alone])} == {"noisy", "list", "alone"}
    far = replace(listed, same_seed=0.6)
    assert {row.label for row in chosen([worse, named, far, noisy])} == {"noisy", "named"}
    assert {row.label for row in chosen([worse, named, listed])} == {"list", "named"}


def test_the_time_for_few_and_for_many(
    script: Any, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(times, "_POINTS", 5)  # a round of fewer runs
    out = tmp_path / "bulk.json"
    options = ("--weights", own, "--device", "cpu", "--batch", 6, "--count", 27, "--steps", "2,4", "--work", tmp_path / "bulk")
    run(script("bulk_time"), monkeypatch, *options, "--out", out)
    found = json.loads(out.read_text())
    assert [row["label"] for row in found["rows"]] == ["DDPM-20", "DDIM-2", "DDIM-4"]
    for row in found["rows"]:
        assert row["seconds_many"] == pytest.approx(5 * row["seconds_batch"])  # 27 images are five batches of 6
        assert row["seconds_few"] > 0
    assert "27 images" in capsys.readouterr().out


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
    assert load_evaluator("cifar10").reference.label == read_evaluator("cifar10", own).reference.label
    for limit, value in (("MOST_MODEL", 10), ("MOST_NETWORK", 10), ("LEAST_ACCURACY", 0.96)):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, value)
            with pytest.raises(SystemExit, match=r"more than 10|less than 96%"):
                run(module, monkeypatch, own)


def test_the_bundled_evaluator_is_taken_without_a_folder(script: Any) -> None:
    subjects = script("_subjects")
    assert subjects.find_model("mnist", None).name == "mnist"
    assert (
        subjects.find_evaluator("mnist", None, torch.device("cpu")).reference.label
        == read_evaluator("mnist", Path(registry.__file__).parents[1] / "quality" / "weights").reference.label
    )
