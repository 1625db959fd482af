"""A model's settings, measured on 64 real digits: what is planted wrong is found, and nothing else."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddimkit import ModelBundle, NoiseSchedule, check_model, load_pretrained
from ddimkit.models.check import CheckReport
from ddimkit.models.conditions import seed_labels

GOLDEN = Path(__file__).parent / "golden"


@cache
def digits() -> Tensor:
    """The first test images of MNIST, in [−1, 1]."""
    with np.load(GOLDEN / "digits.npz") as file:
        return torch.from_numpy(file["images"]).float() / 127.5 - 1


class Remembering:
    """A model that is asked for the same images and timesteps only once."""

    def __init__(self, model: Callable[..., Tensor]) -> None:
        self.model, self.known = model, dict[tuple[bytes, bytes], Tensor]()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        key = x.numpy().tobytes(), t.numpy().tobytes()
        if key not in self.known:
            self.known[key] = self.model(x, t)
        return self.known[key]


@cache
def mnist() -> ModelBundle:
    bundle = load_pretrained("mnist")
    return replace(bundle, model=Remembering(bundle.model))


def verdicts(report: CheckReport) -> dict[str, str]:
    return {finding.question: finding.verdict for finding in report.findings}


def test_the_bundled_models_own_settings_are_right() -> None:
    report = check_model(mnist(), digits()[:32])
    assert verdicts(report) == dict.fromkeys(("prediction", "images", "schedule", "time"), "right")
    assert report.ok
    assert report.summary == "all is well"
    assert str(report).splitlines()[0] == "mnist, 32 images"
    assert len(str(report).splitlines()) == 6
    assert json.loads(json.dumps(report.to_dict()))["findings"][0]["best"] == "v"


PLANTED: dict[str, tuple[Callable[[], tuple[ModelBundle, Tensor]], str, str]] = {
    "flow": (lambda: (replace(mnist(), prediction="flow"), digits()), "prediction", "v"),
    "epsilon": (lambda: (replace(mnist(), prediction="epsilon"), digits()), "prediction", "v"),
    "negated": (lambda: (replace(mnist(), model=lambda x, t: -mnist().model(x, t)), digits()), "prediction", "v, negated"),
    "[0, 1]": (lambda: (mnist(), digits() / 2 + 0.5), "images", "[−1, 1] for [0, 1]"),
    "scaled_linear": (lambda: (replace(mnist(), schedule=NoiseSchedule.scaled_linear()), digits()), "schedule", "linear"),
    "t from 1": (lambda: (replace(mnist(), model=lambda x, t: mnist().model(x, t - 1)), digits()), "time", "t +1"),
    "t from -1": (lambda: (replace(mnist(), model=lambda x, t: mnist().model(x, t + 1)), digits()), "time", "t -1"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_wrong_setting_is_found_and_no_other(what: str) -> None:
    make, question, better = PLANTED[what]
    bundle, images = make()
    report = check_model(bundle, images[:32])
    assert not report.ok
    assert report.summary.startswith("wrong: ")
    assert [(f.question, f.best) for f in report.findings if f.verdict == "wrong"] == [(question, better)]


class Counting:
    """The bundled model with its calls counted by images, and further arguments that it must be given."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor, shared: str) -> Tensor:
        assert shared == "shared"
        assert labels.tolist() == list(range(self.images % 32, self.images % 32 + len(x)))
        self.images += len(x)
        return torch.cat([mnist().model(x, t), x], dim=1)


def test_batches_split_their_arguments_and_do_not_change_the_errors() -> None:
    """And of an output of twice the channels the first half counts."""
    model = Counting()
    keywords = {"labels": torch.arange(32), "shared": "shared"}
    split = check_model(replace(mnist(), model=model), digits()[:32], batch_size=12, model_kwargs=keywords)
    whole = check_model(mnist(), digits()[:32])
    assert model.images == 32 * 21
    for one, other in zip(split.findings, whole.findings, strict=True):
        assert one.error == pytest.approx(other.error, rel=1e-4)


def test_too_few_images_or_too_alike_settings_cannot_be_told() -> None:
    """An elementwise model of noise alone says nothing of t."""
    schedule = NoiseSchedule.linear()
    bundle = ModelBundle(lambda x, t: 0 * x, schedule, sample_shape=(4,), prediction="epsilon")
    report = check_model(bundle, torch.zeros(32, 4))
    found = {finding.question: finding for finding in report.findings}
    assert found["time"].verdict == "cannot tell"
    assert "not told apart" in found["time"].sentence
    assert not report.ok
    assert report.summary.startswith(("wrong", "nothing wrong was found; cannot tell"))


@pytest.mark.parametrize("total", [1, 2, 3, 8])
@pytest.mark.parametrize("make", [NoiseSchedule.linear, NoiseSchedule.rectified_flow])
def test_of_few_timesteps_little_can_be_told(total: int, make: Callable[[int], NoiseSchedule]) -> None:
    bundle = ModelBundle(lambda x, t: 0 * x, make(total), sample_shape=(4,), prediction="x0")
    if make(total).signal.any():
        assert verdicts(check_model(bundle, torch.zeros(32, 4)))["time"] == "cannot tell"
    else:
        with pytest.raises(ValueError, match="no timestep with signal"):
            check_model(bundle, torch.zeros(32, 4))


def test_a_conditional_bundles_own_conditions_are_used() -> None:
    seen = list[int]()

    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        seen.extend(labels.tolist())
        return 0 * x

    bundle = ModelBundle(model, NoiseSchedule.linear(), sample_shape=(4,), prediction="x0", conditions=seed_labels(3))
    check_model(bundle, torch.zeros(32, 4), batch_size=20)
    assert seen[:32] == [i % 3 for i in range(32)]
    check_model(bundle, torch.zeros(32, 4), model_kwargs={"labels": torch.full((32,), 7)})
    assert set(seen[-32:]) == {7}


def test_a_model_in_train_mode_is_warned_of() -> None:
    dropout = torch.nn.Dropout(0.5)
    bundle = ModelBundle(lambda x, t: dropout(x), NoiseSchedule.linear(), sample_shape=(4,))
    with pytest.warns(UserWarning, match="in train mode"):
        check_model(bundle, torch.zeros(32, 4))


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 2**63}, ValueError, "seed"),
        ({"model_kwargs": [1]}, TypeError, "model_kwargs must be a mapping"),
    ],
)
def test_wrong_settings_are_refused_before_the_model_is_called(settings: dict[str, Any], error: type[Exception], says: str) -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError

    bundle = ModelBundle(model, NoiseSchedule.linear(), sample_shape=(4,))
    with pytest.raises(error, match=says):
        check_model(bundle, torch.zeros(32, 4), **settings)


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (torch.zeros(8, 1, 28, 28), ValueError, "N at least 32"),
        (torch.zeros(40, 28, 28), ValueError, r"images must be \(N, 1, 28, 28\)"),
        (torch.zeros(40, 1, 28, 28, dtype=torch.uint8), TypeError, r"got torch\.uint8"),
        (torch.full((40, 1, 28, 28), float("nan")), ValueError, "NaN"),
        ([1.0], TypeError, "got list"),
    ],
)
def test_wrong_images_are_refused(images: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        check_model(mnist(), images)
    with pytest.raises(TypeError, match="ModelBundle, got int"):
        check_model(3, digits())  # type: ignore[arg-type]
