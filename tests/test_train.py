"""The training recipe: it learns, goes on where it stopped, and refuses what is not its own."""

import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddimkit import DDIMKitError, DDIMSampler, NoiseSchedule, UNetConfig, WeightsError
from ddimkit._training.checkpoint import load_checkpoint, save_checkpoint
from ddimkit._training.gradients import check_gradients
from ddimkit._training.pace import Pace
from ddimkit._training.session import Session
from ddimkit._training.trainer import Trainer
from ddimkit.models import _recipe as named
from ddimkit.models import data
from ddimkit.models import train as recipes
from ddimkit.models.bundle import load_bundle
from ddimkit.models.train import Denoising, Recipe, make_bundle, train
from ddimkit.models.unet import UNet
from ddimkit.prediction import Prediction, prediction_target, x0_coefficients
from probes import normal
from strategies import schedules
from test_data import idx

CPU = torch.device("cpu")
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "x0", "v", "flow")
TINY = Recipe(
    unet=UNetConfig(1, 1, channels=(4, 8), blocks=1, attention_levels=(1,), groups=2),
    schedule=NoiseSchedule.cosine(50),
    prediction="v",
    steps=60,
    batch_size=4,
    learning_rate=5e-3,
    warmup=5,
    clip=(-1.0, 1.0),
)


def strokes(count: int = 12) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pictures (N, 28, 28) of one bright bar each, at different heights."""
    images = np.zeros((count, 28, 28), np.uint8)
    for i in range(count):
        images[i, 2 * i : 2 * i + 4, 4:24] = 255
    return images


IMAGES = torch.from_numpy(strokes())[:, None]
SMALL = IMAGES[:, :, ::2, ::2].contiguous()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A second thread only costs a network this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trainer(recipe: Recipe = TINY, steps: int = 0, images: Tensor = SMALL, fast: bool | None = None) -> Trainer[UNet]:
    made = Trainer(Denoising(recipe, images, CPU), CPU, fast=fast)
    for _ in range(steps):
        made.advance()
    return made


def quiet(out: Path, **settings: Any) -> Session:
    return Session(out, progress=False, **settings)


def everything(made: Trainer[Any]) -> dict[str, Tensor]:
    moments = {
        f"{key}.{name}": made.optimiser.state[p][key] for name, p in made.parameters.items() for key in ("exp_avg", "exp_avg_sq")
    }
    return {
        **{f"ema.{k}": v for k, v in made.averages["ema"].items()},
        **{f"model.{k}": v for k, v in made.weights.items()},
        **moments,
    }


def assert_same(first: Trainer[Any], second: Trainer[Any]) -> None:
    assert first.step == second.step
    for name, value in everything(first).items():
        assert torch.equal(value, everything(second)[name]), name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the bars in MNIST's files, whose expected size is theirs."""
    monkeypatch.setitem(data._MNIST_SIZES, "train", len(IMAGES))  # type: ignore[misc]
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(strokes()))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(len(IMAGES), np.uint8)))
    return tmp_path


def test_the_loss_falls() -> None:
    made = trainer()
    losses = [float(made.advance()) for _ in range(40)]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def test_a_cpu_trains_plainly_unless_asked_otherwise() -> None:
    made = trainer()
    assert made.fast is False
    assert made.forward is made.network


@pytest.fixture
def compiler() -> None:
    """Skips where torch cannot compile: it needs a C++ compiler and Python's headers."""
    try:
        torch.compile(torch.sin)(torch.ones(2))
    except Exception as error:
        pytest.skip(f"torch.compile does not work here: {type(error).__name__} {str(error).splitlines()[0]}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own code
def test_the_loss_falls_in_fast_training(compiler: None) -> None:
    made = trainer(fast=True)
    assert made.forward is not made.network
    losses = [float(made.advance()) for _ in range(40)]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    assert {p.dtype for p in made.parameters.values()} == {torch.float32}


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole, begun, later = trainer(steps=12), trainer(steps=7), trainer()
    save_checkpoint(begun, tmp_path / "checkpoint.safetensors")
    assert not list(tmp_path.glob("*.partial"))
    load_checkpoint(later, tmp_path / "checkpoint.safetensors")
    assert_same(begun, later)
    for _ in range(5):
        later.advance()
    assert_same(whole, later)


def test_a_checkpoint_of_step_0_begins_anew(tmp_path: Path) -> None:
    fresh, later = trainer(), trainer(replace(TINY, seed=0))
    save_checkpoint(fresh, tmp_path / "checkpoint.safetensors")
    load_checkpoint(later, tmp_path / "checkpoint.safetensors")
    for made in (fresh, later):
        made.advance()
    assert_same(fresh, later)


def test_train_goes_on_after_an_interruption(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, advance = replace(TINY, steps=12), Trainer.advance
    whole, _ = train(recipe, folder, quiet(folder / "whole"), device="cpu")

    def stopping(self: Trainer[UNet]) -> Tensor:
        if self.step == 8:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder, quiet(folder / "parts", save_seconds=0, report_every=5), device="cpu")
    calls: list[int] = []

    def counting(self: Trainer[UNet]) -> Tensor:
        calls.append(self.step)
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", counting)
    found, _ = train(recipe, folder, quiet(folder / "parts", save_seconds=0, report_every=5), device="cpu")
    assert calls == list(range(5, 12))
    first, second = load_file(whole), load_file(found)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert load_bundle(whole).figures == load_bundle(found).figures


def test_finished_weights_load_and_sample(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, figures = train(replace(TINY, steps=3), folder, quiet(folder / "out"), device="cpu")
    assert figures["step"] == 3
    assert capsys.readouterr() == ("", "")
    lines = (folder / "out" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3]
    bundle = load_bundle(weights)
    assert (bundle.name, bundle.prediction, bundle.clip, bundle.sample_shape) == ("mnist", "v", (-1.0, 1.0), (1, 28, 28))
    assert bundle.schedule == TINY.schedule
    assert bundle.figures["steps"] == 3
    assert bundle.figures["images"] == len(IMAGES)
    x = bundle.sampler(DDIMSampler, steps=3).sample(bundle.model, (2, *bundle.sample_shape), seed=0)
    assert bool((x.abs() <= 1).all())


def test_more_steps_go_on_from_a_finished_run(folder: Path) -> None:
    train(replace(TINY, steps=3), folder, quiet(folder / "out"), device="cpu")
    weights, _ = train(replace(TINY, steps=5, clip=None), folder, quiet(folder / "out"), device="cpu")
    assert load_bundle(weights).figures["steps"] == 5
    assert load_bundle(weights).clip is None


OTHERS: list[dict[str, Any]] = [
    {"prediction": "epsilon"},
    {"learning_rate": 1e-3},
    {"seed": 1},
    {"batch_size": 5},
    {"schedule": NoiseSchedule.cosine(51)},
    {"unet": replace(TINY.unet, channels=(8, 8))},
]


@pytest.mark.parametrize("change", OTHERS, ids=[next(iter(change)) for change in OTHERS])
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(trainer(), path)
    with pytest.raises(WeightsError, match="another recipe: use another --out") as caught:
        load_checkpoint(trainer(replace(TINY, **change)), path)
    assert str(path) in str(caught.value)


def without_a_tensor(path: Path) -> None:
    made, tensors = trainer(), load_file(path)
    tensors.popitem()
    save_file(tensors, path, {"step": "1", "loss": "NaN", "recipe": json.dumps(made.task.identity())})


def with_another_shape(path: Path) -> None:
    made, tensors = trainer(), load_file(path)
    tensors["model.conv_in.weight"] = torch.zeros(1)
    save_file(tensors, path, {"step": "1", "loss": "NaN", "recipe": json.dumps(made.task.identity())})


def without_a_step(path: Path) -> None:
    save_file(load_file(path), path, {"recipe": json.dumps(trainer().task.identity())})


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "no safetensors": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(1000)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "no metadata": lambda path: save_file(load_file(path), path),
    "a recipe that is no JSON": lambda path: save_file(load_file(path), path, {"recipe": "{"}),
    "no step": without_a_step,
    "a tensor missing": without_a_tensor,
    "a tensor of another shape": with_another_shape,
}


@pytest.mark.promise(46)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    path, later = tmp_path / "checkpoint.safetensors", trainer()
    save_checkpoint(trainer(steps=1), path)
    damage(path)
    before = {name: p.detach().clone() for name, p in later.parameters.items()}
    with pytest.raises(WeightsError, match=r"checkpoint\.safetensors"):
        load_checkpoint(later, path)
    assert later.step == 0
    assert all(torch.equal(p.detach(), before[name]) for name, p in later.parameters.items())


@given(
    steps=st.integers(1, 3000),
    warmup=st.integers(0, 400),
    decay=st.floats(0, 1),
    peak=st.floats(1e-6, 1),
)
def test_rates_warm_up_and_fall_to_0(steps: int, warmup: int, decay: float, peak: float) -> None:
    recipe = Recipe(steps=steps, warmup=warmup, decay=decay, learning_rate=peak)
    rates = [recipe.rate(step) for step in range(steps + 1)]
    assert rates[-1] == 0
    assert all(0 < rate <= peak for rate in rates[:-1])
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] == pytest.approx(peak * min(1 / max(1, warmup), min(1, steps / max(1, decay * steps))))


def test_the_rate_of_a_step_is_the_optimisers() -> None:
    made = trainer()
    for step in range(3):
        made.advance()
        assert made.optimiser.param_groups[0]["lr"] == TINY.rate(step)
    assert TINY.rate(0) == pytest.approx(TINY.learning_rate / 5)
    assert TINY.rate(5) == TINY.learning_rate


def test_the_moving_average() -> None:
    made = trainer(replace(TINY, ema_decay=0.3))
    expected = {name: value.clone() for name, value in made.averages["ema"].items()}
    for step in range(1, 6):
        made.advance()
        decay = min(0.3, (1 + step) / (10 + step))
        for name, p in made.parameters.items():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach()
            torch.testing.assert_close(made.averages["ema"][name], expected[name], rtol=1e-5, atol=1e-7)
    model: Any = make_bundle(made, Denoising(TINY, SMALL, CPU)).model
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, made.averages["ema"][name])


@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(schedule=schedules(min_size=2, max_size=8), seed=st.integers(0, 99), shape=st.sampled_from([(3,), (3, 2), (3, 1, 2, 2)]))
def test_a_target_leads_back_to_the_clean_image(
    prediction: Prediction, schedule: NoiseSchedule, seed: int, shape: tuple[int, ...]
) -> None:
    x0, eps = normal(*shape, seed=seed, dtype=torch.float64), normal(*shape, seed=seed + 1, dtype=torch.float64)
    t = torch.arange(3) % schedule.num_timesteps
    x, target = schedule.add_noise(x0, eps, t), prediction_target(prediction, schedule, x0, eps, t)
    pairs = x0_coefficients(prediction, schedule.signal[t.numpy()], schedule.noise[t.numpy()])
    A, B = (torch.from_numpy(v).reshape(-1, *(1,) * (x.ndim - 1)) for v in pairs)
    torch.testing.assert_close(A * x + B * target, x0, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_trains(prediction: Prediction) -> None:
    assert math.isfinite(float(trainer(replace(TINY, prediction=prediction, flip=True), steps=2).advance()))


@given(batch_size=st.integers(1, 40), step=st.integers(0, 1000))
def test_timesteps_are_stratified(batch_size: int, step: int) -> None:
    made = Denoising(replace(TINY, batch_size=batch_size), SMALL, CPU)
    x0, eps, t, _ = made.batch(step)
    total = TINY.schedule.num_timesteps
    assert x0.shape == eps.shape == (batch_size, 1, 14, 14)
    assert (float(x0.min()), float(x0.max())) == (-1, 1)
    for i, value in enumerate(t.tolist()):
        assert math.floor(i * total / batch_size) <= value <= (i + 1) * total / batch_size
    again = made.batch(step)
    assert all(torch.equal(a, b) for a, b in zip((x0, eps, t), again[:3], strict=True))
    assert not torch.equal(made.batch(step + 1)[1], eps)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_tables_on_the_device_are_the_schedules(prediction: Prediction) -> None:
    made = Denoising(replace(TINY, prediction=prediction, batch_size=50), SMALL, CPU)
    x0, eps, t, _ = made.batch(3)
    x, target = made.noised(x0, eps, t)
    assert torch.equal(x, TINY.schedule.add_noise(x0, eps, t))
    assert torch.equal(target, prediction_target(prediction, TINY.schedule, x0, eps, t))


def test_images_are_mirrored_half_the_time() -> None:
    images = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    images[..., 0] = 255
    x0 = Denoising(replace(TINY, flip=True, batch_size=400), images, CPU).batch(0)[0]
    left, right = (int((x0[..., column] == 1).all(dim=2).sum()) for column in (0, 3))
    assert left + right == 400
    assert 150 < left < 250


LABELLED = replace(TINY, unet=replace(TINY.unet, num_classes=4), label_drop=0.25, batch_size=400)


def test_labels_are_dropped_at_the_rate_asked_for() -> None:
    labels = np.arange(len(SMALL), dtype=np.uint8) % 3
    made = Denoising(LABELLED, SMALL, CPU, labels)
    (given,) = made.batch(0)[3]
    assert given.dtype is torch.int64
    assert 60 < int((given == 3).sum()) < 140
    assert {int(label) for label in given} == {0, 1, 2, 3}
    assert math.isfinite(float(Trainer(made, CPU).advance()))


def test_the_bundle_of_a_conditional_recipe_draws_labels_and_can_be_guided() -> None:
    """Labels follow from the seeds; the last index, for which labels are dropped, is that of no label."""
    made = Denoising(LABELLED, SMALL, CPU, np.arange(len(SMALL), dtype=np.uint8) % 3)
    bundle = make_bundle(Trainer(made, CPU), made)
    assert bundle.model_kwargs([5, 6])["labels"].tolist() == [2, 0]
    assert bundle.unconditional == {"labels": 3}
    assert bundle.guided(2.0).draw(bundle.sampler(DDIMSampler, steps=2), range(3)).shape == (3, *SMALL.shape[1:])


@pytest.mark.parametrize("labels", [None, np.zeros(1, np.uint8), np.full(len(SMALL), 4, np.uint8)])
def test_labels_that_do_not_fit_are_refused(labels: Any) -> None:
    with pytest.raises(ValueError, match="labels must"):
        Denoising(LABELLED, SMALL, CPU, labels)


def test_labels_of_an_unconditional_network_are_refused() -> None:
    with pytest.raises(ValueError, match="labels must not be given"):
        Denoising(TINY, SMALL, CPU, np.zeros(len(SMALL), np.uint8))


def test_a_network_may_begin_by_predicting_zero() -> None:
    network = Denoising(replace(TINY, zero_last=True), SMALL, CPU).network()
    assert not network(torch.randn(2, 1, 14, 14), torch.tensor([0, 5])).any()


def test_a_longer_average_follows_more_slowly() -> None:
    made = trainer(replace(TINY, ema_decay=0.2, long_ema_decay=0.6), steps=12)
    distance = {
        kind: sum(float((average[name] - value).square().sum()) for name, value in made.weights.items())
        for kind, average in made.averages.items()
    }
    assert set(distance) == {"ema", "long"}
    assert 0 < distance["ema"] < distance["long"]
    (name, value), *_ = made.averaged("long").named_parameters()
    assert torch.equal(value, made.averages["long"][name])


def test_bfloat16_is_the_recipes_choice() -> None:
    plain, half = trainer(), trainer(replace(TINY, bfloat16=True))
    losses = [float(made.loss_of_batch(fast=False).detach()) for made in (plain, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_sigterm_ends_training_with_a_checkpoint(tmp_path: Path) -> None:
    made, recipe = trainer(), replace(TINY, steps=10_000)
    made = trainer(recipe)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    figures = quiet(tmp_path).run(made, lambda: Pace(made, 1.0, 1.0))
    assert 0 < figures["step"] < 10_000
    again = trainer(recipe)
    load_checkpoint(again, tmp_path / "checkpoint.safetensors")
    assert_same(made, again)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    trainer(steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    made = trainer(replace(TINY, learning_rate=1e30, warmup=0, steps=4))
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step \d+: lower learning_rate"):
        list(made.run(progress=False, report_every=1))


@pytest.mark.parametrize("settings", [{"steps": 0}, {"batch_size": 0}])
def test_a_wrong_recipe_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1, got"):
        Recipe(**settings)  # type: ignore[arg-type]


def test_a_recipe_describes_itself_as_json() -> None:
    described = named.MNIST_RECIPE.describe()
    assert json.loads(json.dumps(described))["schedule"] == dict(named.MNIST_RECIPE.schedule.spec or {})
    assert described["unet"] == asdict(named.MNIST_RECIPE.unet)


def test_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    with pytest.raises(SystemExit) as done:
        recipes.main()
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("mnist", "--data", "--out", "--steps", "--device", "--fast", "--no-fast"))


def test_main_trains(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(named.RECIPES, "mnist", TINY)
    out = folder / "made"
    monkeypatch.setattr(
        sys, "argv", ["train", "mnist", "--data", str(folder), "--out", str(out), "--steps", "2", "--device", "cpu"]
    )
    recipes.main()
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == str(out / "mnist.safetensors")
    assert json.loads(shown[1])["step"] == 2
    assert load_bundle(out / "mnist.safetensors").figures["steps"] == 2


@pytest.mark.parametrize(("options", "expected"), [((), None), (("--fast",), True), (("--no-fast",), False)])
def test_main_hands_on_whether_to_be_fast(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], expected: bool | None
) -> None:
    asked: list[bool | None] = []

    def refuse(*_: object, fast: bool | None) -> None:
        asked.append(fast)
        raise OSError("no training today")

    monkeypatch.setattr(recipes, "Trainer", refuse)
    monkeypatch.setattr(sys, "argv", ["train", "mnist", "--data", str(folder), "--device", "cpu", *options])
    with pytest.raises(SystemExit, match="no training today"):
        recipes.main()
    assert asked == [expected]


def test_gradients_that_vanish_or_differ_stop_fast_training() -> None:
    """What a compiler got wrong shows in no loss: the gradients themselves are compared."""
    weights = {"a": torch.nn.Parameter(torch.tensor([1.0, 2.0])), "b": torch.nn.Parameter(torch.tensor([0.1]))}

    def loss(fast: bool, part: float = 1.0, b: float = 1.0) -> Tensor:
        return (weights["a"] * (part if fast else 1.0)).square().sum() + (weights["b"] * (b if fast else 1.0)).square().sum()

    check_gradients(weights, loss)
    check_gradients(weights, lambda fast: loss(fast, part=1.05))
    assert weights["a"].grad is None
    with pytest.raises(DDIMKitError, match=r"differ by 7\d%"):
        check_gradients(weights, lambda fast: loss(fast, part=0.5))
    with pytest.raises(DDIMKitError, match=r"vanish for b: .*--no-fast"):
        check_gradients(weights, lambda fast: loss(fast, b=0.0))


def test_fast_training_begins_with_a_look_at_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer()
    made.fast, made.forward = True, lambda x, t: made.network(x, t).detach() + 0 * made.network.conv_out.bias.sum()
    with pytest.raises(DDIMKitError, match="vanish"):
        next(made.run(progress=False))
    assert made.step == 0
