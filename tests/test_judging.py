"""The quality part of a sweep: the same seeds for all, exactly as many images as asked, work that goes on where it stopped."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from curves import REAL, SHAPE, blue, toy, toy_yardstick
from ddimkit import DDIMKitError, DDIMSampler, TradeoffCurve, sweep
from ddimkit.analytic import Gaussian, gaussian_error
from ddimkit.quality import Training
from ddimkit.quality.features import to_bytes
from ddimkit.samplers.named import sigma_hat
from ddimkit.tradeoff import judging as judgement
from ddimkit.tradeoff.charts import draw_charts
from ddimkit.tradeoff.configurations import configurations
from ddimkit.tradeoff.findings import findings
from ddimkit.tradeoff.judging import Judging, SampleCounts, draw
from ddimkit.tradeoff.report import write_report

CPU = torch.device("cpu")
YARDSTICK = toy_yardstick()


def sampler(steps: int = 4, **settings) -> DDIMSampler:
    return toy().sampler(DDIMSampler, steps=steps, **settings)


def test_the_scale_has_two_ends() -> None:
    assert YARDSTICK.floor.count == 200
    assert YARDSTICK.noise.count == 200
    assert YARDSTICK.noise.kernel.interval()[0] > YARDSTICK.floor.kernel.interval()[1]


@pytest.mark.promise(40)
@pytest.mark.parametrize("count", [5, 64, 65, 150])
def test_exactly_as_many_images_as_asked_whatever_the_batches(count: int) -> None:
    drawn = draw(sampler(eta=1.0), toy(), count, YARDSTICK, device=CPU)
    alone = to_bytes(sampler(eta=1.0).sample(toy().model, (count, *SHAPE), seed=0))
    assert drawn.features.shape == (count, 4)
    assert len(drawn.images) == min(64, count)
    torch.testing.assert_close(drawn.images, alone[:64], rtol=0, atol=0)
    np.testing.assert_allclose(drawn.features, YARDSTICK.extractor(alone), atol=1e-6)


def test_unrounded_images_are_judged_unrounded() -> None:
    plain = toy_yardstick(rounding="none")
    drawn = draw(sampler(), toy(), 10, plain, device=CPU)
    images = sampler().sample(toy().model, (10, *SHAPE), seed=0)
    np.testing.assert_allclose(drawn.features, plain.extractor(images), atol=1e-7)
    assert np.abs(plain.extractor(images) - plain.extractor(to_bytes(images))).max() > 1e-4


def test_drawn_images_are_kept_and_gone_on_from(tmp_path: Path) -> None:
    path, bundle = tmp_path / "drawn" / "ddim.safetensors", toy()
    whole = draw(sampler(), toy(), 150, YARDSTICK, device=CPU)
    draw(sampler(), bundle, 70, YARDSTICK, device=CPU, path=path)
    calls = bundle.model.calls
    more = draw(sampler(), bundle, 150, YARDSTICK, device=CPU, path=path)
    assert bundle.model.calls == calls + 2 * 4  # 80 more images in batches of 64
    torch.testing.assert_close(more.features, whole.features, rtol=0, atol=0)
    torch.testing.assert_close(more.images, whole.images, rtol=0, atol=0)
    fewer = draw(sampler(), bundle, 20, YARDSTICK, device=CPU, path=path)
    assert bundle.model.calls == calls + 8
    assert len(fewer.features) == len(fewer.images) == 20


@pytest.mark.parametrize(
    "other",
    [
        (sampler(5), toy(), YARDSTICK),
        (sampler(eta=0.5), toy(), YARDSTICK),
        (sampler(clip=None), toy(), YARDSTICK),
        (sampler(), toy(blue), YARDSTICK),
        (sampler(), toy(sample_shape=(1, 8, 8)), YARDSTICK),
        (sampler(), toy(), toy_yardstick("others")),
        (sampler(), toy(), toy_yardstick(rounding="none")),
    ],
)
def test_images_of_something_else_are_refused(other, tmp_path: Path) -> None:
    path = tmp_path / "ddim.safetensors"
    draw(sampler(), toy(), 10, YARDSTICK, device=CPU, path=path)
    with pytest.raises(DDIMKitError, match="another model, sampler or extractor"):
        draw(other[0], other[1], 10, other[2], device=CPU, path=path)


def swept(judging: Judging | None, **settings) -> TradeoffCurve:
    given = {"steps": (2, 4), "etas": (0.0, 1.0), "samplers": (DDIMSampler, sigma_hat), "seeds": range(3), "rounds": 1, **settings}
    return sweep(toy(), judging=judging, **given)


def gaussian_error_of(times: tuple[int, ...], eta: float | None) -> float | None:
    """What DDIM makes of the pixels' mean and covariance, every eigenvalue by itself."""
    if eta is None or len(times) > 4:
        return None
    data = Gaussian.of(REAL[200:].reshape(200, -1))
    plan = DDIMSampler(toy().schedule, timesteps=times, eta=eta, prediction="x0").plan()
    return gaussian_error(plan, data.mean, data.spectrum, schedule=toy().schedule).frechet


@pytest.mark.promise(39)
def test_a_sweep_judges_what_it_draws(tmp_path: Path) -> None:
    judging = Judging(YARDSTICK, SampleCounts(40, long=30, noisy=20))
    found = swept(judging, out=tmp_path)
    counts = {c.label: c.quality.count for c in found.configurations if c.quality is not None}
    assert counts == {
        "DDPM-20": 30, "DDIM-2": 40, "DDIM-4": 40, "DDIM-2 eta 1": 20, "DDIM-4 eta 1": 20, "sigma-hat-2": 20, "sigma-hat-4": 20,
    }  # fmt: skip
    assert all(c.quality_note == "this run" for c in found.configurations)
    assert all(c.quality.seeds == ((0, c.quality.count),) for c in found.configurations if c.quality)
    assert found.floor == YARDSTICK.floor
    assert {c.label: c.same_seed_distance is None for c in found.configurations} == {
        label: label == "DDIM-4" == found.finest for label in counts
    }
    for c in found.configurations:
        predicted = gaussian_error_of(c.timesteps, c.eta)
        assert c.predicted_distance is not None
        assert predicted is None or c.predicted_distance == pytest.approx(predicted, rel=0.1)
    found.save(tmp_path / "results.json")
    read = TradeoffCurve.load(tmp_path / "results.json")
    assert read.configurations == found.configurations
    assert (read.floor, read.noise) == (found.floor, found.noise)
    plain = json.loads((tmp_path / "results.json").read_text())
    assert plain["configurations"][1]["quality"]["label"]["reference"] == "toys test"


def test_a_second_sweep_draws_nothing_again(tmp_path: Path) -> None:
    judging, bundle, said = Judging(YARDSTICK, SampleCounts(40, 30)), toy(), []
    settings = {"steps": (2, 4), "seeds": range(3), "rounds": 1, "out": tmp_path, "judging": judging}
    first = sweep(bundle, **settings)
    calls = bundle.model.calls
    again = sweep(bundle, **settings, progress=lambda done, total, what: said.append((done, total, what)))
    assert bundle.model.calls == calls
    assert again.configurations == first.configurations
    assert all(what.startswith("kept from before") or done == total for done, total, what in said)


def test_what_takes_too_long_comes_from_the_study_and_says_so() -> None:
    study = swept(Judging(YARDSTICK, SampleCounts(40, long=30)))
    assert study.model["weights_sha256"] is None
    study = replace(study, model={**study.model, "weights_sha256": "these"})

    class Known:
        """A bundle whose weights are the study's."""

        def weights_sha256(self) -> str:
            return "these"

    made = configurations(toy(), (2, 4), (0.0,), (DDIMSampler,))
    judging = Judging(YARDSTICK, SampleCounts(25, long=0), study)
    long = judging.from_study(made[0], Known())  # type: ignore[arg-type]
    assert long.quality == study.baseline.quality
    assert long.note.startswith("the study on ")
    other = judging.from_study(configurations(toy(), (3,), (0.0,), (DDIMSampler,))[1], Known())  # type: ignore[arg-type]
    assert other.quality is None
    assert "not in the study" in other.note
    unclipped = configurations(toy(clip=None), (2, 4), (0.0,), (DDIMSampler,))
    assert "not in the study" in judging.from_study(unclipped[0], Known()).note  # type: ignore[arg-type]
    assert "no study of this model" in judging.from_study(made[0], toy()).note
    nameless = Judging(YARDSTICK, SampleCounts(25), replace(study, model={**study.model, "weights_sha256": None}))
    assert "no study of this model" in nameless.from_study(made[0], toy()).note  # two functions are not one model
    elsewhere = Judging(toy_yardstick("others"), SampleCounts(25), study)
    assert "another measure" in elsewhere.from_study(made[0], Known()).note  # type: ignore[arg-type]


class Small(torch.nn.Module):
    """A toy with weights, so that a study of it can be known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.calls = 0

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.weight * x


def test_figures_of_a_study_that_rest_on_as_many_images_are_not_drawn_again() -> None:
    bundle = toy(Small().eval())
    made, run = configurations(bundle, (2, 4), (0.0,), (DDIMSampler,)), {"device": CPU, "folder": None, "progress": lambda *_: None}
    study = sweep(bundle, judging=Judging(YARDSTICK, SampleCounts(40, long=30)), steps=(2, 4), seeds=range(3), rounds=1)
    calls = bundle.model.calls
    again = Judging(YARDSTICK, SampleCounts(40, long=20), study, reuse=True).run(made, bundle, 1.0, **run)
    assert bundle.model.calls == calls
    assert [again[c.label].quality for c in made] == [c.quality for c in study.configurations]
    more = Judging(YARDSTICK, SampleCounts(41, long=20), study, reuse=True).run(made, bundle, 1.0, **run)
    assert {label: judged.count for label, judged in more.items()} == {"DDPM-20": 30, "DDIM-2": 41, "DDIM-4": 41}
    anew = Judging(YARDSTICK, SampleCounts(20), study).run(made, bundle, 1.0, **run)
    assert (anew["DDIM-2"].note, anew["DDIM-2"].count) == ("this run", 20)  # though the study has 40
    training = Training.of(REAL[:200], REAL[200:], YARDSTICK.extractor)
    looking = Judging(replace(YARDSTICK, training=training), SampleCounts(40, long=20), study, reuse=True)
    assert looking.run(made, bundle, 1.0, **run)["DDIM-2"].quality.memorised is not None  # which the study does not know


def test_drawing_ends_at_the_deadline_and_the_study_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, now = toy(Small().eval()), [0.0]
    made = configurations(bundle, (2, 4), (0.0, 1.0), (DDIMSampler,))
    study = sweep(bundle, judging=Judging(YARDSTICK, SampleCounts(20, long=10)), steps=(2, 4), seeds=range(3), rounds=1)
    monkeypatch.setattr(judgement.time, "monotonic", lambda: now[0])

    def progress(done: int, total: int, what: str) -> None:
        now[0] += 1.0

    judging = Judging(YARDSTICK, SampleCounts(40, long=40), study, batch=8, deadline_seconds=8)
    found = judging.run(made, bundle, 1.0, device=CPU, folder=tmp_path, progress=progress)
    counts = {label: judged.count for label, judged in found.items()}
    # Five batches of DDIM-2, then three of DDIM-4; of the others nothing, but the study had the baseline.
    assert counts == {"DDIM-2": 40, "DDIM-4": 24, "DDPM-20": 10, "DDIM-2 eta 1": 0, "DDIM-4 eta 1": 0}
    assert found["DDIM-2 eta 1"].note == "not drawn before the time was over"
    assert found["DDPM-20"].note.startswith("the study on")
    now[0] = 0.0
    whole = Judging(YARDSTICK, SampleCounts(40), batch=8).run(made, bundle, 1.0, device=CPU, folder=tmp_path, progress=progress)
    assert whole["DDIM-4"].count == 40
    assert now[0] == 1 + 2 + 5 + 5  # one word on what was kept, the rest of DDIM-4, and those with noise


def test_the_number_of_images_fills_the_time_there_is() -> None:
    made = configurations(toy(), (2, 4), (0.0,), (DDIMSampler,))  # 6 calls an image; the baseline is long
    assert Judging(YARDSTICK, budget_seconds=60).affordable(made, 0.01).short == 992  # 1000, in sixteens
    assert Judging(YARDSTICK, budget_seconds=60).affordable(made, 10.0).short == 64
    assert Judging(YARDSTICK, budget_seconds=60).affordable(made, 1e-9).short == 2000
    assert Judging(YARDSTICK, budget_seconds=60).affordable(made, 0.01).long == 0


def test_report_and_chart_show_quality_and_its_scale(tmp_path: Path) -> None:
    found = swept(Judging(YARDSTICK, SampleCounts(40, 30)))
    drawn = [path.name for path in draw_charts(found, tmp_path)]
    assert "quality.png" in drawn
    text = write_report(found, tmp_path).read_text()
    assert "## Quality" in text
    assert "toys test" in text
    for row in ("real images (floor)", "noise", "DDPM-20", "sigma-hat-2"):
        assert f"| {row} | " in text
    assert any(s.startswith("Kernel distance to real images, the scale: other real images") for s in findings(found))
    plain = swept(None)
    draw_charts(plain, tmp_path)
    assert not (tmp_path / "quality.png").exists()
    assert "Quality is not judged here" in write_report(plain, tmp_path).read_text()


@pytest.mark.parametrize("counts", [{"short": 4}, {"short": 5, "long": -1}, {"short": 5, "noisy": 1}])
def test_counts_too_small_to_judge_raise(counts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 5"):
        SampleCounts(**counts)


def test_a_compiled_model_is_asked_for_whole_batches_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """One size, one compilation; what is too many is left out, and the images are those of their seeds."""
    sizes, compiled = list[int](), list[dict[str, object]]()

    class Sized(Small):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return super().forward(x, t)

        def compile(self, **settings: object) -> None:
            compiled.append(settings)

    bundle = toy(Sized().eval())
    made = configurations(bundle, (2,), (0.0,), (DDIMSampler,))
    run = {"device": CPU, "folder": None, "progress": lambda *_: None}
    found = Judging(YARDSTICK, SampleCounts(20), batch=8, compile=True).run(made, bundle, 1.0, **run)
    assert compiled == [{"dynamic": False}]
    assert set(sizes) == {8}
    plain = Judging(YARDSTICK, SampleCounts(20), batch=8).run(made, bundle, 1.0, **run)
    assert set(sizes) == {8, 4}
    assert found["DDIM-2"] == plain["DDIM-2"]


def test_the_distance_between_seeds_is_measured() -> None:
    found = swept(None)
    images = found.samples["DDIM-4"]
    apart = [np.sqrt(((a - b) ** 2).mean()) / 2 for a, b in zip(images, np.roll(images, 1, axis=0), strict=True)]
    assert found.finest == "DDIM-4"
    assert found.other_seeds_distance == pytest.approx(np.mean(apart))
    assert found.other_seeds_distance > 0.01
    assert swept(None, seeds=[3]).other_seeds_distance is None
