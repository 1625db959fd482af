"""Drawn images: exactly as many as asked from their seeds, kept, gone on with, and evaluated until the time is over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddimkit import DDIMKitError, DDIMSampler, PlanSampler
from ddimkit.analytic import Gaussian, gaussian_error
from ddimkit.quality.features import to_bytes
from ddimkit.tradeoff import _drawing as drawing
from ddimkit.tradeoff._drawing import draw
from ddimkit.tradeoff.evaluation import Evaluation
from ddimkit.tradeoff.grid import labelled, sampler_grid
from ddimkit.tradeoff.rows import Row
from studies import REAL, SHAPE, blue, toy, toy_evaluator

CPU = torch.device("cpu")
EVALUATOR = toy_evaluator()


class Small(torch.nn.Module):
    """A toy with weights, so that a study of it can be known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.calls = 0

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.weight * x


def sampler(steps: int = 4, **settings) -> DDIMSampler:
    return toy().sampler(DDIMSampler, steps=steps, **settings)


def rows(
    evaluation: Evaluation, bundle: Any, samplers: Mapping[str, PlanSampler], folder: Path | None = None, report: Any = None
) -> dict[str, Row]:
    found = evaluation.rows(samplers, bundle, 1.0, device=CPU, folder=folder, report=report or (lambda *_: None))
    return {row.label: row for row in found}


def grid(bundle: Any, steps: tuple[int, ...], *etas: float) -> dict[str, PlanSampler]:
    return labelled(sampler_grid(bundle, steps, etas or (0.0,), (DDIMSampler,)))


@pytest.mark.promise(40)
@pytest.mark.parametrize("count", [5, 64, 65, 150])
def test_exactly_as_many_images_as_asked_whatever_the_batches(count: int) -> None:
    drawn = draw(sampler(eta=1.0), toy(), count, EVALUATOR, device=CPU)
    alone = to_bytes(sampler(eta=1.0).sample(toy().model, (count, *SHAPE), seed=range(count)))
    assert drawn.features.shape == (count, 4)
    assert len(drawn.images) == min(64, count)
    torch.testing.assert_close(drawn.images, alone[:64], rtol=0, atol=0)
    np.testing.assert_allclose(drawn.features, EVALUATOR.extractor(alone), atol=1e-6)


def test_unrounded_images_are_evaluated_unrounded() -> None:
    plain = toy_evaluator(rounding="none")
    drawn = draw(sampler(), toy(), 10, plain, device=CPU)
    images = sampler().sample(toy().model, (10, *SHAPE), seed=range(10))
    np.testing.assert_allclose(drawn.features, plain.extractor(images), atol=1e-7)
    assert np.abs(plain.extractor(images) - plain.extractor(to_bytes(images))).max() > 1e-4


def test_drawn_images_are_kept_and_gone_on_from(tmp_path: Path) -> None:
    path, bundle = tmp_path / "drawn" / "ddim.safetensors", toy()
    whole = draw(sampler(), toy(), 150, EVALUATOR, device=CPU)
    draw(sampler(), bundle, 70, EVALUATOR, device=CPU, path=path)
    calls = bundle.model.calls
    more = draw(sampler(), bundle, 150, EVALUATOR, device=CPU, path=path)
    assert bundle.model.calls == calls + 2 * 4  # 80 more images in batches of 64
    torch.testing.assert_close(more.features, whole.features, rtol=0, atol=0)
    torch.testing.assert_close(more.images, whole.images, rtol=0, atol=0)
    fewer = draw(sampler(), bundle, 20, EVALUATOR, device=CPU, path=path)
    assert bundle.model.calls == calls + 8
    assert len(fewer.features) == len(fewer.images) == 20


@pytest.mark.parametrize(
    "other",
    [
        (sampler(5), toy(), EVALUATOR),
        (sampler(eta=0.5), toy(), EVALUATOR),
        (sampler(clip=None), toy(), EVALUATOR),
        (sampler(), toy(blue), EVALUATOR),
        (sampler(), toy(sample_shape=(1, 8, 8)), EVALUATOR),
        (sampler(), toy(), toy_evaluator("others")),
        (sampler(), toy(), toy_evaluator(rounding="none")),
    ],
)
def test_images_of_something_else_are_refused(other, tmp_path: Path) -> None:
    path = tmp_path / "ddim.safetensors"
    draw(sampler(), toy(), 10, EVALUATOR, device=CPU, path=path)
    with pytest.raises(DDIMKitError, match="another model, sampler or extractor"):
        draw(other[0], other[1], 10, other[2], device=CPU, path=path)


@pytest.mark.promise(40)
def test_images_may_begin_at_any_seed(tmp_path: Path) -> None:
    path = tmp_path / "drawn.safetensors"
    later, whole = (
        draw(sampler(eta=1.0), toy(), n, EVALUATOR, device=CPU, first=first, batch=7, path=p)
        for n, first, p in ((20, 30, path), (50, 0, None))
    )
    assert later.seeds == range(30, 50)
    torch.testing.assert_close(later.features, whole.features[30:], rtol=0, atol=0)
    with pytest.raises(DDIMKitError, match="another model"):
        draw(sampler(eta=1.0), toy(), 20, EVALUATOR, device=CPU, path=path)


def test_a_compiled_model_is_called_with_whole_batches_only() -> None:
    """One size, one compilation; what is too many is left out, and the images are those of their seeds."""
    sizes, compiled = list[int](), list[dict[str, object]]()

    class Sized(Small):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return super().forward(x, t)

        def compile(self, **settings: object) -> None:
            compiled.append(settings)

    bundle = toy(Sized().eval())
    found = rows(Evaluation(EVALUATOR, 20, batch=8, compile=True), bundle, grid(bundle, (2,)))
    assert compiled == [{"dynamic": False}]
    assert set(sizes) == {8}
    plain = rows(Evaluation(EVALUATOR, 20, batch=8), bundle, grid(bundle, (2,)))
    assert set(sizes) == {8, 4}
    assert found["DDIM-2"].to_dict() == plain["DDIM-2"].to_dict()


def test_drawing_ends_at_the_deadline_and_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, now = toy(Small().eval()), [0.0]
    monkeypatch.setattr(drawing.time, "monotonic", lambda: now[0])

    def report(done: int, total: int, what: str) -> None:
        now[0] += 1.0

    made = grid(bundle, (2, 4))
    found = rows(Evaluation(EVALUATOR, 40, batch=8, deadline_seconds=8), bundle, made, tmp_path, report)
    counts = {label: 0 if row.quality is None else row.quality.count for label, row in found.items()}
    assert counts == {"DDPM-20": 0, "DDIM-2": 40, "DDIM-4": 24}
    assert found["DDPM-20"].source == "not evaluated"
    now[0] = 0.0
    whole = rows(Evaluation(EVALUATOR, 40, batch=8), bundle, made, tmp_path, report)
    assert whole["DDIM-4"].quality.count == 40
    assert now[0] == 2 + 5  # the rest of DDIM-4, and the baseline


def test_predictions_are_those_of_the_pixels_mean_and_covariance() -> None:
    data = Gaussian.of(REAL[200:].reshape(200, -1))
    found = Evaluation(EVALUATOR).predict(sampler(3, clip=None))
    expected = gaussian_error(sampler(3, clip=None).plan(), data.mean, data.spectrum, schedule=toy().schedule).frechet
    assert found == pytest.approx(expected, rel=1e-6)
