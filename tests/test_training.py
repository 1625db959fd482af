"""The trainer that both recipes share: portable checkpoints, sittings that end in time, pace; and CIFAR-10's own recipes."""

import json
import lzma
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ddimkit import DDIMSampler, NoiseSchedule, UNetConfig, WeightsError
from ddimkit._features import train as classifying
from ddimkit._features.recipe import CIFAR10_FEATURES, FeatureRecipe
from ddimkit._features.train import Classifier, Classifying
from ddimkit._training import session as sessions
from ddimkit._training.checkpoint import load_checkpoint, load_portable, save_checkpoint, save_portable
from ddimkit._training.pace import Pace, matrix_rate, training_flops
from ddimkit._training.session import PORTABLE, Session
from ddimkit._training.trainer import Task, Trainer
from ddimkit.models import _recipe as named
from ddimkit.models import train as denoising
from ddimkit.models._recipe import CIFAR10_RECIPE, Recipe, named_schedule
from ddimkit.models.bundle import load_bundle
from ddimkit.models.train import Denoising
from ddimkit.quality import evaluator as evaluators
from ddimkit.quality.evaluator import read_evaluator
from ddimkit.quality.network import FeatureNetworkConfig
from ddimkit.weights._pieces import MOST_BYTES
from ddimkit.weights._tensorfile import read_tensors
from test_data import cifar
from test_train import CPU, SMALL, TINY, assert_same, everything, trainer

COLOUR = Recipe(
    "cifar10",
    UNetConfig(channels=(4, 8), blocks=1, attention_levels=(1,), groups=2),
    steps=6,
    batch_size=4,
    warmup=2,
    flip=True,
)
FEATURES = replace(
    CIFAR10_FEATURES, network=FeatureNetworkConfig(3, (4, 8), blocks=1), epochs=2, batch_size=16, ema_decay=0.5, shift=1.0
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A hundred training and test images in CIFAR-10's packed files, one bright and one dark class among ten."""
    numbers = np.random.default_rng(0)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        count = 100 if i == 5 else 20
        labels = np.arange(count, dtype=np.uint8) % 2
        images = (numbers.integers(0, 60, (count, 3, 32, 32)) + 180 * labels[:, None, None, None]).astype(np.uint8)
        (tmp_path / f"{name}.bin.xz").write_bytes(lzma.compress(cifar(images, labels)))
    return tmp_path


def features(recipe: FeatureRecipe = FEATURES, steps: int = 0) -> Trainer[Classifier]:
    numbers = np.random.default_rng(0)
    images, labels = numbers.integers(0, 256, (50, 3, 8, 8), dtype=np.uint8), numbers.integers(0, 10, 50).astype(np.uint8)
    made = Trainer(Classifying(replace(recipe, cutout=2), images, labels, CPU), CPU)
    for _ in range(steps):
        made.advance()
    return made


def test_a_run_is_taken_up_elsewhere_from_small_pieces(tmp_path: Path) -> None:
    begun, later = trainer(steps=7), trainer(replace(TINY, steps=90))
    files = save_portable(begun, tmp_path / PORTABLE)
    assert all(path.stat().st_size <= MOST_BYTES for path in files)
    held = read_tensors(tmp_path / PORTABLE, kind="ddimkit-portable", schema=1).tensors
    assert {key.partition(".")[0] for key in held} == {"model", "ema"}
    assert {value.dtype for key, value in held.items() if key.startswith("model")} == {torch.float32}
    assert {value.dtype for key, value in held.items() if key.startswith("ema")} == {torch.float16}
    load_portable(later, tmp_path / PORTABLE)
    assert (later.step, later.taken_up) == (7, 7)
    for name, value in begun.weights.items():
        assert torch.equal(later.weights[name], value)
        assert torch.equal(later.averages["ema"][name], begun.averages["ema"][name].half().float())


def test_the_rate_rises_anew_over_500_steps_where_moments_are_rebuilt(tmp_path: Path) -> None:
    long = replace(TINY, steps=2000, warmup=5)
    begun, later = trainer(long), trainer(long)
    begun.step = 600
    save_portable(begun, tmp_path / PORTABLE)
    load_portable(later, tmp_path / PORTABLE)
    rises = []
    for step in (600, 601, 849, 1099, 1100, 1200):
        later.step = step
        rises.append(later.moment().rate / long.rate(step))
    assert rises == pytest.approx([1 / 500, 2 / 500, 0.5, 1, 1, 1])
    assert begun.moment().rate == long.rate(600)


def test_a_run_that_was_taken_up_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    """Its moments began anew at step 3, which the full checkpoint remembers."""
    save_portable(trainer(steps=3), tmp_path / PORTABLE)
    whole, begun, later = trainer(), trainer(), trainer()
    for made, steps in ((whole, 5), (begun, 2)):
        load_portable(made, tmp_path / PORTABLE)
        for _ in range(steps):
            made.advance()
    save_checkpoint(begun, tmp_path / "checkpoint.safetensors")
    load_checkpoint(later, tmp_path / "checkpoint.safetensors")
    assert later.taken_up == 3
    for _ in range(3):
        later.advance()
    assert_same(whole, later)


def test_moments_that_were_there_before_are_not_kept_when_a_run_is_taken_up(tmp_path: Path) -> None:
    save_portable(trainer(steps=3), tmp_path / PORTABLE)
    fresh, used = trainer(), trainer(steps=2)
    for made in (fresh, used):
        load_portable(made, tmp_path / PORTABLE)
        made.advance()
    assert_same(fresh, used)


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 0.1}], ids=str)
def test_pieces_of_another_recipe_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save_portable(trainer(), tmp_path / PORTABLE)
    with pytest.raises(WeightsError, match="another recipe"):
        load_portable(trainer(replace(TINY, **change)), tmp_path / PORTABLE)


def made_pace(made: Trainer[Any]) -> Pace:
    return Pace(made, 1e6, 1e9)


def test_a_sitting_ends_in_time_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(sessions.time, "monotonic", lambda: now[0])
    whole = trainer(replace(TINY, steps=12), steps=12)
    made = trainer(replace(TINY, steps=12))
    advance = made.advance

    def slowly() -> torch.Tensor:
        now[0] += 20.0
        return advance()

    monkeypatch.setattr(made, "advance", slowly)
    session = Session(tmp_path / "out", tmp_path / "portable", minutes=2, progress=False, report_every=1)
    assert session.run(made, lambda: made_pace(made))["step"] == 6  # of 20 seconds each
    assert not math.isnan(made.loss)
    later = trainer(replace(TINY, steps=12))
    assert session.run(later, lambda: made_pace(later))["step"] == 12
    assert_same(whole, later)
    carried = trainer(replace(TINY, steps=12))
    elsewhere = Session(tmp_path / "elsewhere", tmp_path / "portable", progress=False)
    figures = elsewhere.run(carried, lambda: pytest.fail("there is nothing to do"))
    assert figures["step"] == 12
    assert torch.equal(carried.weights["conv_in.bias"], later.weights["conv_in.bias"])


def test_checkpoints_are_written_every_five_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, kept = [0.0], list[int]()
    monkeypatch.setattr(sessions.time, "monotonic", lambda: now[0])
    made = trainer(replace(TINY, steps=10))
    advance = made.advance

    def slowly() -> torch.Tensor:
        now[0] += 60.0
        return advance()

    monkeypatch.setattr(made, "advance", slowly)
    monkeypatch.setattr(Session, "_save", lambda self, trainer: kept.append(trainer.step))
    Session(tmp_path, progress=False, report_every=1).run(made, lambda: made_pace(made))
    assert kept == [5, 10]


def test_a_sitting_needs_reports(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="report_every must be at least 1, got 0"):
        Session(tmp_path, report_every=0)


def test_pace_is_images_a_second_and_a_share_of_the_matrix_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    made, now = trainer(), [100.0]
    monkeypatch.setattr("ddimkit._training.pace.time.perf_counter", lambda: now[0])
    pace = Pace(made, flops=2e6, rate=1e9)
    assert pace.report() == {}  # what came before is compilation
    assert pace.summary() == {}
    for seconds, steps in ((2.0, 50), (1.0, 50), (1.0, 75)):
        now[0] += seconds
        made.step += steps
        found = pace.report()
    assert found["images_per_second"] == 75 * TINY.batch_size
    assert pace.summary() == {
        "images_per_second": 200.0, "matrix_tflops": 0.001, "share_of_matrix_rate": pytest.approx(200 * 2e6 / 1e9),
    }  # fmt: skip


def test_operations_are_counted() -> None:
    """A convolution's are known: two a weight and pixel forward, twice as many backward, the images' own gradient left out."""

    class OneConvolution(Denoising):
        def network(self) -> Any:
            return nn.Conv2d(2, 3, 3, padding=1)

    task: Task[nn.Module] = OneConvolution(TINY, SMALL, CPU)
    assert training_flops(task, (1, 2, 8, 8)) == 2 * 2 * (2 * 3 * 9) * 64
    recipe: Task[nn.Module] = Denoising(CIFAR10_RECIPE, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), CPU)
    assert 8.5e9 < training_flops(recipe, (1, 3, 32, 32), (1,)) < 10e9


def test_the_matrix_rate_is_measured() -> None:
    assert 1e7 < matrix_rate(CPU, torch.float32) < 1e15


def test_a_resumed_feature_network_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """The running statistics of its normalisation, their average and the order of the epoch included."""
    whole, begun, later = features(steps=6), features(steps=4), features()
    save_checkpoint(begun, tmp_path / "checkpoint.safetensors")
    load_checkpoint(later, tmp_path / "checkpoint.safetensors")
    for _ in range(2):
        later.advance()
    assert_same(whole, later)
    assert any("running_var" in name for name in everything(whole))
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(whole.averaged()(x), later.averaged()(x))


def test_an_epoch_sees_every_image_once() -> None:
    images = np.arange(32, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3)
    plain = replace(FEATURES, shift=0.0, cutout=0, flip=False, batch_size=8)
    task = Classifying(plain, images, np.arange(32) % 10, CPU)
    assert task.steps == 8
    seen = [torch.cat([task.batch(step)[0][:, 0, 0, 0] for step in range(first, first + 4)]) for first in (0, 4)]
    grey = [x.add(1).mul(127.5).round().tolist() for x in seen]
    assert sorted(grey[0]) == sorted(grey[1]) == list(range(32))
    assert grey[0] != grey[1]
    x, labels = task.batch(5)
    again = task.batch(5)
    assert torch.equal(x, again[0])
    assert torch.equal(labels, again[1])
    assert [int(value) % 10 for value in x[:, 0, 0, 0].add(1).mul(127.5).round()] == labels.tolist()


def test_images_change_differently_in_every_step() -> None:
    white = Classifying(replace(FEATURES, shift=0.0, flip=False), np.full((16, 3, 32, 32), 255, np.uint8), np.zeros(16), CPU)
    assert not torch.equal(white.batch(0)[0], white.batch(1)[0])


def test_a_look_at_the_gradients_leaves_the_running_statistics_alone() -> None:
    made = features(steps=1)
    made.forward = made.network
    before = {name: value.clone() for name, value in made.network.state_dict().items()}
    made._check()
    assert all(torch.equal(value, before[name]) for name, value in made.network.state_dict().items())


def test_one_cycle_is_torchs() -> None:
    made = features(replace(FEATURES, epochs=20))
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, FEATURES.learning_rate, total_steps=made.task.steps)
    for step in range(made.task.steps):
        found, group = made.task.moment(step), optimiser.param_groups[0]
        assert found.rate == pytest.approx(group["lr"], rel=1e-9)
        assert found.beta1 == pytest.approx(group["betas"][0], rel=1e-9)
        optimiser.step()
        if step + 1 < made.task.steps:
            theirs.step()


def test_too_few_images_for_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 3 images, less than a batch of 16"):
        Classifying(FEATURES, np.zeros((3, 3, 8, 8), np.uint8), np.zeros(3, np.uint8), CPU)
    for settings in ({"epochs": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="at least 1, got"):
            FeatureRecipe(**settings)  # type: ignore[arg-type]


def run(module: Any, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "cifar10", "--device", "cpu", *options])
    module.main()


def test_cifar10_is_trained_in_sittings_and_draws(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(named.RECIPES, "cifar10", COLOUR)
    places = ("--data", str(data), "--out", str(data / "out"), "--portable", str(data / "portable"))
    run(denoising, monkeypatch, *places, "--steps", "4", "--betas", "cosine", "--clip")
    run(denoising, monkeypatch, *places, "--steps", "6", "--betas", "cosine", "--clip")
    path, last = capsys.readouterr().out.splitlines()[-2:]
    assert json.loads(last)["step"] == 6
    found = load_bundle(Path(path))
    assert (found.name, found.schedule, found.clip) == ("cifar10", NoiseSchedule.cosine(1000), (-1.0, 1.0))
    assert (found.figures["steps"], found.figures["images"]) == (6, 100)
    x = found.sampler(DDIMSampler, steps=3).sample(found.model, (2, *found.sample_shape), seed=0)
    assert x.shape == (2, 3, 32, 32)
    assert bool(torch.isfinite(x).all())
    elsewhere = ("--data", str(data), "--out", str(data / "elsewhere"), "--portable", str(data / "portable"))
    run(denoising, monkeypatch, *elsewhere, "--steps", "6", "--betas", "cosine", "--clip")
    carried = load_bundle(Path(capsys.readouterr().out.splitlines()[0]))
    assert carried.weights_sha256() == found.weights_sha256()  # the average's half precision is the file's
    with pytest.raises(SystemExit, match="another recipe"):
        run(denoising, monkeypatch, *places, "--steps", "8")


def test_the_schedules_of_the_command_line() -> None:
    assert named_schedule("linear") == NoiseSchedule.linear(1000) == CIFAR10_RECIPE.schedule
    assert named_schedule("cosine") == NoiseSchedule.cosine(1000)
    with pytest.raises(ValueError, match="'linear' or 'cosine', got 'square'"):
        named_schedule("square")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {}),
        (("--batch-size", "7", "--learning-rate", "0.5"), {"batch_size": 7, "learning_rate": 0.5}),
        (("--no-clip",), {"clip": None}),
    ],
)
def test_what_the_command_line_changes(
    data: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], expected: dict[str, Any]
) -> None:
    asked: list[Recipe] = []

    def refuse(recipe: Recipe, *_: object) -> None:
        asked.append(recipe)
        raise OSError("no training today")

    monkeypatch.setattr(denoising, "Denoising", refuse)
    with pytest.raises(SystemExit, match="no training today"):
        run(denoising, monkeypatch, "--data", str(data), *options)
    assert asked == [replace(CIFAR10_RECIPE, **expected)]


def test_a_feature_network_of_cifar10_is_trained_in_sittings(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluators, "_MOST_PIXELS", 0)  # the spectrum of the pixels takes half a minute
    monkeypatch.setitem(classifying._RECIPES, "cifar10", replace(FEATURES, epochs=20, learning_rate=0.02))
    out = data / "out"
    places = ("--data", str(data), "--out", str(out))
    out.mkdir()
    save_checkpoint(trainer(), out / "checkpoint.safetensors")  # a diffusion model's, in the same folder
    run(classifying, monkeypatch, *places, "--minutes", "0")
    assert json.loads(capsys.readouterr().out.splitlines()[1])["step"] == 50  # one report, of 120 steps
    assert not list(out.glob("cifar10-*"))
    run(classifying, monkeypatch, *places)
    figures = json.loads(capsys.readouterr().out.splitlines()[1])
    assert figures["step"] == 120
    assert figures["test_accuracy"] > 0.9
    for split, count in (("train", 100), ("test", 100)):
        found = read_evaluator("cifar10", out, split)  # type: ignore[arg-type]
        assert found.reference.label.images == count
        assert found.real_vs_real.kernel.value < found.noise.kernel.value


def test_the_recipe_of_the_features_fits_its_file() -> None:
    """At most 3 MB in half precision, and narrow enough for the kernel distance over all images."""
    with torch.device("meta"):
        network = Classifier(CIFAR10_FEATURES.network)
    assert 2 * sum(value.numel() for value in network.state_dict().values()) < 3e6
    assert CIFAR10_FEATURES.network.widths[-1] == 128
