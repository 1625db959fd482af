"""The command line: what it writes, what it says, and how it stops."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ddimkit import DDIMSampler, DDPMSampler, LearnedSampler, NoiseSchedule, Plan
from ddimkit.editing import image_to_image, inpaint, repaint_rows
from ddimkit.guidance import classifier_free
from ddimkit.quality.network import FeatureNetwork, FeatureNetworkConfig, save_network
from ddimkit.tradeoff import _timing as timing
from ddimkit.tradeoff import evaluation
from ddimkit.tradeoff.report import samples
from ddimkit.tradeoff.rows import Row
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.times import calls_a_round
from probes import smooth
from studies import LINE, SHAPE, ddim, ddpm, line, study, toy

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from ddimkit import cli
from ddimkit.cli.display import SCREEN, show_study

# A user's own module, as `--model` and `--sampler` import it from the current folder.
MODULE = """
import os
from studies import toy, toy_evaluator
from plugins import AdamsBashforth2
from probes import smooth
from ddimkit.models.conditions import seed_labels

class Stopping:
    calls, stop_at = 0, None

    def __call__(self, x, t):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return smooth(x, t)

model = Stopping()
bundle = toy(model)
flat = toy(smooth, name="flat")

def labelled(x, t, labels):
    return smooth(x, t) + labels[:, None, None, None] / 8

zero = toy(labelled, conditions=lambda seeds: seed_labels(4)(seeds), unconditional={"labels": 0}, name="zero")
conditional = toy(labelled, conditions=seed_labels(4), unconditional={"labels": 4}, name="conditional")
latent = toy(smooth, decode=lambda z: z / 2, name="latent")
object.__setattr__(flat, "sample_shape", (3,))

evaluator = toy_evaluator()

class inner:
    bundle = bundle
"""

Run = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in a folder of its own: its exit code, or the message it exits with, and its two outputs."""
    (tmp_path / "mymodule.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mymodule", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(timing._Bench, "_peak_memory", lambda *_: (123, "not measured here"))

    def command(*arguments: str) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["ddimkit", *arguments])
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as done:
            code = done.code
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return command


MINE = ("--model", "mymodule:bundle", "--steps", "4")
SWEEP = ("sweep", "--model", "mymodule:bundle", "--steps", "4,2", "--num", "2", "--rounds", "1", "--device", "cpu")


def test_sample_writes_an_array_and_a_grid(run: Run, tmp_path: Path) -> None:
    from matplotlib import image

    code, out, _ = run(
        "sample", *MINE, "--eta", "0.5", "--num", "3", "--seed", "7", "--out", "x.npy", "--grid", "x.png", "--device", "cpu"
    )
    assert code == 0
    assert out.strip() == "3 samples, 4 model calls, seed 7: x.png, x.npy"
    images = np.load(tmp_path / "x.npy")
    bundle = toy(smooth)
    expected = bundle.sampler(DDIMSampler, steps=4, eta=0.5).sample(smooth, (3, *SHAPE), seed=7)
    assert np.array_equal(images, expected.numpy())
    drawn = np.rint(image.imread(tmp_path / "x.png")[..., :3] * 255).astype(np.uint8)
    assert np.array_equal(drawn, np.kron(samples.tile(images, 2), np.ones((4, 4, 1), np.uint8)))


def test_sample_prints_json_that_reproduces_it(run: Run) -> None:
    code, out, _ = run(
        "sample", "--model", "mymodule:inner.bundle", "--timesteps", "19,7", "--num", "2", "--out", "x.npy", "--json"
    )
    found = json.loads(out)
    assert code == 0
    assert found["written"] == ["x.npy"]
    assert found["record"] == json.loads(
        json.dumps(toy(smooth).sampler(DDIMSampler, timesteps=(19, 7)).record((2, *SHAPE), seed=0))
    )


def test_sample_takes_a_plug_in(run: Run, tmp_path: Path) -> None:
    assert run("sample", *MINE, "--sampler", "mymodule:AdamsBashforth2", "--out", "x.npy")[0] == 0
    assert np.load(tmp_path / "x.npy").shape == (16, *SHAPE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sample_takes_a_folder_of_diffusers(run: Run, tmp_path: Path) -> None:
    pipelines = pytest.importorskip("pipelines")
    made = pipelines.diffusers.DDPMPipeline(pipelines.unet(), pipelines.diffusers.DDPMScheduler())
    made.save_pretrained(tmp_path / "theirs")
    given = ("--steps", "3", "--num", "2", "--seed", "5", "--device", "cpu")
    for name in ("theirs", "./theirs"):
        code, _, err = run("sample", "--model", name, *given, "--out", "x.npy")
        assert (code, err.count("\n") < 3) == (0, True), err
        sampler = DDIMSampler(NoiseSchedule.linear(), 3, clip=(-1, 1))
        wanted = sampler.sample(lambda x, t: made.unet(x, t).sample, (2, 3, 8, 8), seed=5)
        np.testing.assert_allclose(np.load(tmp_path / "x.npy"), wanted.numpy(), rtol=0, atol=1e-5)
    said, _, _ = run("sample", "--model", "./nowhere", *given, "--out", "x.npy")
    assert "nowhere holds no scheduler_config.json" in str(said)


def test_check_prints_what_it_found(run: Run, tmp_path: Path) -> None:
    with np.load(Path(__file__).parent / "golden" / "digits.npz") as file:
        np.save(tmp_path / "digits.npy", file["images"])
    code, out, _ = run("check", "--data", "digits.npy", "--num", "32", "--device", "cpu")
    assert (code, out.splitlines()[0]) == (0, "mnist, 32 images")
    found = json.loads(run("check", "--data", "digits.npy", "--num", "32", "--device", "cpu", "--json")[1])
    assert found["summary"] == out.splitlines()[-1]
    assert "must hold bytes of shape (N, 3)" in str(run("check", "--model", "mymodule:flat", "--data", "digits.npy")[0])


def labelled(x: Any, t: Any, labels: Any) -> Any:
    return smooth(x, t) + labels[:, None, None, None] / 8


def test_sample_draws_labels_with_guidance(run: Run, tmp_path: Path) -> None:
    base = ("sample", "--model", "mymodule:conditional", "--steps", "4", "--num", "3", "--device", "cpu", "--out", "x.npy")
    sampler, shape = toy().sampler(DDIMSampler, steps=4), (3, *SHAPE)
    for options, labels, scale in (
        ((), [s % 4 for s in sampler.seeds(0, 3)], 1.0),
        (("--label", "2"), [2, 2, 2], 1.0),
        (("--label", "2", "--guidance", "2.5"), [2, 2, 2], 2.5),
    ):
        assert run(*base, *options)[0] == 0
        model = classifier_free(labelled, scale, {"labels": 4})
        expected = sampler.sample(model, shape, seed=0, model_kwargs={"labels": torch.tensor(labels)})
        assert np.array_equal(np.load(tmp_path / "x.npy"), expected.numpy())


def test_sweep_measures_a_guided_model(run: Run, tmp_path: Path) -> None:
    settings = ("--steps", "4", "--eta", "0", "--num", "2", "--rounds", "1", "--device", "cpu", "--baseline", "ddim:5")
    args = ("sweep", "--model", "mymodule:conditional", "--sampler", "ddim", *settings)
    assert run(*args, "--guidance", "2", "--out", "two")[0] == 0
    assert labels(tmp_path / "two") == ["DDIM-5", "DDIM-4"]
    code, _, err = run(*args, "--guidance", "3", "--out", "two")
    assert "two holds a sweep of another model" in f"{code}{err}"


def test_sample_decodes_latents(run: Run, tmp_path: Path) -> None:
    assert run("sample", "--model", "mymodule:latent", "--steps", "4", "--num", "2", "--out", "x.npy", "--grid", "x.png")[0] == 0
    expected = toy().sampler(DDIMSampler, steps=4).sample(smooth, (2, *SHAPE), seed=0) / 2
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected.numpy())


def test_sample_edits_pictures(run: Run, tmp_path: Path) -> None:
    from matplotlib import image

    grey = np.linspace(0, 255, 16).reshape(4, 4).astype(np.uint8)
    image.imsave(tmp_path / "x.png", np.stack([grey] * 3, axis=2))
    hole = np.zeros((4, 4))
    hole[1:3] = 1
    image.imsave(tmp_path / "hole.png", hole, cmap="gray", vmin=0, vmax=1)
    picture = grey.astype(np.float32) / 255 * 2 - 1
    base = ("sample", *MINE, "--eta", "0.5", "--num", "3", "--batch-size", "2", "--device", "cpu", "--out", "y.npy")
    sampler, x = toy().sampler(DDIMSampler, steps=4, eta=0.5), torch.from_numpy(picture).expand(3, 1, 4, 4)

    code, out, _ = run(*base, "--from-image", "x.png", "--strength", "0.75", "--json")
    assert code == 0
    assert json.loads(out)["options"] == {"from_image": "x.png", "strength": 0.75}
    assert (json.loads(out)["record"]["call"]["start_at"], json.loads(out)["record"]["nfe"]) == (1, 3)
    made = np.load(tmp_path / "y.npy")
    assert np.allclose(made, image_to_image(sampler, smooth, x, strength=0.75, seed=0).numpy(), atol=1e-6)
    np.save(tmp_path / "three.npy", x.numpy())
    found = json.loads(run(*base, "--from-image", "x.png", "--json")[1])
    assert (found["options"]["strength"], found["record"]["call"]["start_at"], found["record"]["nfe"]) == (0.5, 2, 2)
    found = json.loads(run(*base, "--from-image", "x.png", "--mask", "hole.png", "--json")[1])
    assert (found["options"], found["record"]["nfe"]) == ({"from_image": "x.png", "mask": "hole.png"}, len(repaint_rows(4)))
    for name, dtype in (("hole", np.float64), ("bool", bool), ("byte", np.uint8)):
        np.save(tmp_path / f"{name}.npy", hole.astype(dtype))
    for given in (("x.png", "hole.png"), *(("three.npy", f"{name}.npy") for name in ("hole", "bool", "byte"))):
        code, out, _ = run(*base, "--from-image", given[0], "--mask", given[1])
        assert (code, out.strip()) == (0, f"3 samples, drawn from {given[0]}, seed 0: y.npy")
        made, mask = np.load(tmp_path / "y.npy"), torch.from_numpy(hole).float()
        assert np.allclose(made, inpaint(sampler, smooth, x, mask, seed=0).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label", "2"), "--label: the model 'toy' takes no labels"),
        (("--guidance", "2"), "the model 'toy' cannot be guided"),
        (("--mask", "hole.png"), "--mask needs --from-image"),
        (("--strength", "0.5"), "--strength needs --from-image"),
        (("--from-image", "x.npy", "--strength", "0"), "--strength must lie in (0, 1], got 0.0"),
        (("--from-image", "x.npy", "--strength", "0.5", "--mask", "x.npy"), "--strength does not go with --mask"),
        (("--from-image", "x.jpg"), "--from-image must be a .png or a .npy file, got x.jpg"),
        (("--from-image", "none.png"), "--from-image none.png: there is no such file"),
        (("--from-image", "small.npy"), "must have the model's shape (1, 4, 4), got (1, 3, 3)"),
        (("--from-image", "bytes.npy"), "must hold floating point numbers, got uint8"),
        (("--from-image", "bright.npy"), "of numbers in [−1, 1]"),
        (("--from-image", "x.npy", "--mask", "small.npy"), "--mask small.npy must be (4, 4) of numbers in [0, 1], got (1, 3, 3)"),
        (("--from-image", "x.npy", "--mask", "bright.npy"), "--mask bright.npy must be (4, 4) of numbers in [0, 1]"),
        (("--model", "mymodule:latent", "--from-image", "x.npy"), "--from-image: the model 'latent' draws latents"),
        (("--model", "mymodule:conditional", "--label", "-1"), "--label must lie in 0..3, got -1"),
        (("--model", "mymodule:conditional", "--label", "5"), "--label must lie in 0..3, got 5"),
        (("--model", "mymodule:conditional", "--label", "4"), "--label must lie in 0..3, got 4"),
        (("--model", "mymodule:zero", "--label", "0"), "--label 0 stands for no label in the model 'zero'"),
        (("--from-image", "empty.npy"), "--from-image empty.npy cannot be read"),
        (("--from-image", "text.png"), "--from-image text.png cannot be read"),
        (("--from-image", "text.npy"), "--from-image text.npy cannot be read"),
        (("--from-image", "zipped.npy"), "--from-image zipped.npy must hold one array"),
        (("--from-image", "x.npy", "--mask", "bytes255.npy"), "--mask bytes255.npy must be (4, 4) of numbers in [0, 1]"),
    ],
)
def test_edits_that_cannot_be_are_refused_in_a_line(run: Run, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    for name, numbers in {
        "x": np.zeros((1, 4, 4), np.float32),
        "small": np.zeros((1, 3, 3), np.float32),
        "bright": np.full((1, 4, 4), 255.0),
        "bytes": np.zeros((1, 4, 4), np.uint8),
        "bytes255": np.full((4, 4), 255, np.uint8),
    }.items():
        np.save(tmp_path / f"{name}.npy", numbers)
    (tmp_path / "empty.npy").touch()
    for name in ("text.png", "text.npy"):
        (tmp_path / name).write_text("no picture\nbut two lines")
    with (tmp_path / "zipped.npy").open("wb") as file:
        np.savez(file, x=np.zeros(3))
    code, out, err = run("sample", *MINE, "--num", "2", "--out", "y.npy", *options)
    assert out == ""
    assert message in f"{code}{err}"
    assert len(f"{code}{err}".strip().splitlines()) == 1
    assert sys.modules["mymodule"].model.calls == 0
    assert not (tmp_path / "y.npy").exists()


def test_sample_that_is_stopped_says_so(run: Run, tmp_path: Path) -> None:
    assert run("plan", *MINE)[0] == 0
    sys.modules["mymodule"].model.stop_at = 3
    code, out, err = run("sample", *MINE, "--out", "x.npy")
    assert (code, out) == (130, "")
    assert err.strip().endswith("ddimkit: stopped")
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize(
    ("arguments", "make"),
    [
        (("--steps", "4"), lambda b: b.sampler(DDIMSampler, steps=4)),
        (
            ("--steps", "4", "--spacing", "leading", "--eta", "0.3"),
            lambda b: b.sampler(DDIMSampler, steps=4, spacing="leading", eta=0.3),
        ),
        (("--sampler", "ddpm", "--timesteps", "19,9,2"), lambda b: b.sampler(DDPMSampler, timesteps=(19, 9, 2))),
    ],
    ids=["steps", "spacing and eta", "ddpm and timesteps"],
)
def test_plan(run: Run, arguments: tuple[str, ...], make: Callable[[Any], Any]) -> None:
    expected = make(toy()).plan()
    assert run("plan", "--model", "mymodule:bundle", *arguments) == (0, f"{expected}\n", "")
    code, out, err = run("plan", "--model", "mymodule:bundle", *arguments, "--json")
    assert (code, err) == (0, "")
    assert Plan.from_dict(json.loads(out)) == expected


def test_plan_of_the_bundled_model(run: Run) -> None:
    code, out, _ = run("plan")
    assert code == 0
    assert len(out.splitlines()) == 51
    assert out.splitlines()[1].split()[:3] == ["0", "999", "979"]


def labels(folder: Path) -> list[str]:
    return [row.label for row in Study.load(folder / "results.json").rows]


def test_sweep_writes_results_and_shows_them(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*SWEEP, "--eta", "0,1")
    assert code == 0
    assert all(text in out for text in ("The fastest is", "DDPM-20", "DDIM-4", "DDIM-2 eta 1", "Report: ddimkit-study/report.html"))
    found = labels(tmp_path / "ddimkit-study")
    assert found == ["DDPM-20", "DDIM-4", "DDIM-2", "DDIM-4 eta 1", "DDIM-2 eta 1", "sigma-hat-4", "sigma-hat-2"]
    assert Study.load(tmp_path / "ddimkit-study" / "results.json").settings["seeds"] == [0, 1]
    first, *stages = err.splitlines()
    assert first.startswith("7 samplers, timed for about ")
    assert stages == ["Now: overhead and memory", "Now: round 1/1", "Now: charts and report"]
    written = {path.name for path in (tmp_path / "ddimkit-study").iterdir()}
    assert {"results.json", "report.html", "report.md"} <= written
    for report in ("report.html", "report.md"):
        text = (tmp_path / "ddimkit-study" / report).read_text(encoding="utf-8")
        assert all(label in text for label in found)


def test_sweep_takes_plug_ins_and_prints_json(run: Run, tmp_path: Path) -> None:
    samplers = ("--sampler", "mymodule:AdamsBashforth2", "--sampler", "ddpm", "--out", "mine")
    code, out, _ = run(*SWEEP, *samplers, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "mine" / "results.json").read_text())
    assert labels(tmp_path / "mine") == ["DDPM-20", "AdamsBashforth2-4", "AdamsBashforth2-2", "DDPM-4", "DDPM-2"]


def test_the_whole_sweep_holds_what_a_newcomer_wants_to_see(run: Run, tmp_path: Path) -> None:
    """The study's steps as far as the model has them, few calls of DPM-Solver++, and the presets, none twice."""
    code, _, _ = run("sweep", "--model", "mymodule:bundle", "--eta", "0", "--num", "1", "--rounds", "1", "--device", "cpu")
    assert code == 0
    wanted = ["DDPM-20", "DDIM-10", "DDIM-20", "sigma-hat-10", "sigma-hat-20", "DPM++2M-10", "DPM++2M-20", "DPM++2M-SDE-10"]
    assert labels(tmp_path / "ddimkit-study") == wanted


@pytest.mark.parametrize(
    ("given", "label"), [("ddim:5", "DDIM-5"), ("sigma-hat", "sigma-hat-20"), ("mymodule:AdamsBashforth2:7", "AdamsBashforth2-7")]
)
def test_the_baseline_is_any_sampler(run: Run, tmp_path: Path, given: str, label: str) -> None:
    code, out, _ = run(*SWEEP, "--eta", "0", "--baseline", given)
    assert code == 0
    assert Study.load(tmp_path / "ddimkit-study" / "results.json").baseline == label
    assert f"as fast as {label}" in out


def mine() -> ModuleType:
    return sys.modules["mymodule"]


PACE_CALLS = 9  # two to warm up, and seven timed


def test_a_stopped_sweep_says_how_to_go_on_and_goes_on(run: Run, tmp_path: Path) -> None:
    """Whole rounds are kept."""
    assert run("plan", *MINE)[0] == 0
    plain = (*SWEEP, "--sampler", "ddim", "--rounds", "2")
    warm_up, a_round = 3 * 2, calls_a_round([20, 4, 2], 1)
    mine().model.stop_at = PACE_CALLS + warm_up + a_round + 5
    code, out, err = run(*plain, "--eta", "0")
    assert (code, out) == (130, "")
    assert "Stopped. What is finished is kept in ddimkit-study; the same command goes on from there." in err
    assert not (tmp_path / "ddimkit-study" / "results.json").exists()
    mine().model.calls, mine().model.stop_at = 0, None
    assert run(*plain, "--eta", "0")[0] == 0
    assert mine().model.calls == PACE_CALLS + warm_up + a_round
    mine().model.calls = 0
    assert "Everything was already measured in ddimkit-study" in run(*plain, "--eta", "0")[2]
    assert mine().model.calls == PACE_CALLS
    code, _, _ = run(*plain, "--eta", "0.5")
    assert str(code).startswith("ddimkit: ddimkit-study holds a sweep of another model, machine or other settings")
    assert run(*plain, "--eta", "0.5", "--restart")[0] == 0


def test_sweep_measures_quality_as_asked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the baseline, which is long here, only where it is asked for."""
    monkeypatch.setattr(evaluation, "LONG", 10)
    monkeypatch.setattr(evaluation, "_MOST", 400)
    quick = (*SWEEP, "--eta", "0", "--sampler", "ddim", "--evaluator", "mymodule:evaluator", "--out")
    for options, short, long in ((("--quality-samples", "6"), 6, 0), (("--quality-samples", "6", "--full"), 6, 6), ((), 400, 0)):
        code, out, err = run(*quick, "".join(options) or "default", *options)
        assert code == 0
        assert ("of the gap from DDIM-10 to DDPM-20" in out or "no gap between DDIM-10 and DDPM-20" in out) == bool(long)
        assert "Now: images, from which the quality is measured" in err
        found = Study.load(tmp_path / ("".join(options) or "default") / "results.json")
        counts = {row.label: 0 if row.quality is None else row.quality.count for row in found.rows}
        assert counts == {"DDPM-20": long, "DDIM-4": short, "DDIM-2": short, "DDIM-10": short}
    assert run(*quick, "none", "--quality-samples", "0")[0] == 0
    assert Study.load(tmp_path / "none" / "results.json").evaluated == ()
    assert "at least 5" in str(run(*quick, "few", "--quality-samples", "3")[0])
    assert "give --evaluator package.module:name" in str(run(*SWEEP, "--full")[0])


def many() -> Study:
    """As many rows as the whole sweep has, with a long label among them."""
    etas = [ddim(steps, 1.0 + eta + 10 / steps, eta=eta) for eta in (0.2, 0.5, 1.0) for steps in (10, 20, 50)]
    steps: dict[int, float | None] = {s: 1.0 + 10 / s for s in (10, 20, 25, 30, 40, 50, 60, 70, 80, 100, 250, 500, 1000)}
    named = ddim(5, 0.9, label="DPM++3M-5 a searched list of a very long name", seconds=0.0123456)
    return study(*line(steps), *etas, named, baseline=ddpm(1.0, seconds=12.3456), correlation=0.0)


SCREENS = {"whole": many(), "few": study(*line(LINE)), "times": study(*line(dict.fromkeys(LINE)), baseline=ddpm())}


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", SCREENS)
def test_results_fit_a_screen(name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    made = SCREENS[name]
    show_study(made, Path("a/report.html"))
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) <= width
    assert lines[-1] == "Report: a/report.html"
    rule = next(i for i, line in enumerate(lines) if line.startswith("──"))
    rows = [line for line in lines[rule + 1 : -1] if "in the report." not in line]
    assert len({len(line.split("  ")) > 1 for line in rows}) == 1
    assert any("DDPM-1000 " in line and "baseline" in line for line in rows)
    left = len(made.rows) - len(rows)
    assert (f"{left} more rows in the report." in lines) == (left > 0)
    assert (left > 0) == (name == "whole")
    assert not any("…" in line.partition("  ")[2] for line in rows)
    if name == "few":
        assert all("2,000" in line for line in rows)


def test_the_rows_that_matter_are_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    show_study(many(), Path("report.html"))
    out = capsys.readouterr().out
    assert all(f"DDIM-{steps} " in out for steps in (10, 20, 25, 30, 40, 50, 60, 70, 80, 100, 250, 500, 1000))
    assert "DPM++3M-5 a searched list" in out
    assert "12.3 " in out
    assert "0.0123 " in out


def test_recommend_says_why(run: Run, tmp_path: Path) -> None:
    study(*line(LINE), ddim(20, 1.6, eta=1.0)).save(tmp_path / "mine.json")
    code, out, _ = run("recommend", "mine.json")
    assert code == 0
    first, reason, safety, *rest = out.splitlines()
    assert first == "Use DDIM with 60 calls."
    assert reason.startswith("- DDIM-50 is the row with the fewest calls known to close 95 % of the gap")
    assert safety == "- For safety 20 % more calls are taken, 60 instead of 50."
    table = [line.split() for line in rest[2:]]
    assert [(line[0], line[1], line[-2], line[-1]) for line in table] == [
        ("realtime", "20", "yes", "DDIM-20"),
        ("interactive", "50", "yes", "DDIM-50"),
        ("production", "60", "yes", "DDIM-50"),
        ("research", "250", "yes", "DDIM-250"),
    ]
    assert run("recommend", "mine.json", "--close", "0.5", "--buffer", "0", "--refinable")[1].startswith("Use DDIM with 20 calls.")
    code, out, _ = run("recommend", "mine.json", "--sampler", "DDIM", "--close", "0.8", "--buffer", "0", "--json")
    found = json.loads(out)
    assert (found["label"], found["calls"], found["share"], found["known"]) == ("DDIM-50", 50, 0.8, True)
    assert set(found) == {"label", "calls", "share", "known", "closed", "images_needed", "row", "reasons", "record"}
    assert found["record"]["nfe"] == found["calls"]
    assert "there is no committed study" in str(run("recommend", "--model", "mymodule:bundle")[0])


def test_recommend_answers_where_nothing_is_known_to_close_the_gap(run: Run, tmp_path: Path) -> None:
    study(*line({10: 3.0, 100: 2.0})).save(tmp_path / "far.json")
    code, out, _ = run("recommend", "far.json")
    assert (code, out.splitlines()[0]) == (0, "Use DDIM with 100 calls.")
    assert "More images would not tell" in out


def test_recommend_takes_the_bundled_models_study(run: Run) -> None:
    code, out, _ = run("recommend")
    assert code == 0
    assert out.startswith("Use ")
    assert "research" in out


def test_compare(run: Run, tmp_path: Path) -> None:
    def rows(factor: float) -> list[Row]:
        return [ddim(s, seconds=factor * s / 100) for s in (10, 20, 50)]

    study(*rows(1)).save(tmp_path / "a.json")
    study(*rows(2), baseline=ddpm(seconds=20.0)).save(tmp_path / "b.json")
    code, out, _ = run("sweep", "--compare", "a.json", "b.json")
    assert code == 0
    assert "Speed-ups are maintained" in out
    assert "DDIM-20" in out
    code, out, _ = run("sweep", "--compare", "a.json", "b.json", "--json")
    found = json.loads(out)
    assert (code, found["maintained"], found["differences"]) == (0, True, [])
    assert found["rows"][1] == ["DDIM-10", "0.1", "0.2", "0.5×", "100×", "100×", "1.000"]
    assert not (tmp_path / "ddimkit-study").exists()


def learning_files(folder: Path) -> None:
    """Real images and a feature network for the toy model."""
    noise = torch.rand(400, *SHAPE, generator=torch.Generator().manual_seed(0))
    np.save(folder / "real.npy", (255 * noise).to(torch.uint8).numpy())
    torch.manual_seed(0)
    save_network(FeatureNetwork(FeatureNetworkConfig(1, (4,), classes=3)).eval(), {}, folder / "network.safetensors")


LEARN = ("learn", "--model", "mymodule:bundle", "--calls", "2", "--batches", "3", "--batch-size", "8", "--device", "cpu")


def test_learn_writes_a_table_that_sample_takes(run: Run, tmp_path: Path) -> None:
    learning_files(tmp_path)
    more = ("--extractor", "network.safetensors", "--data", "real.npy", "--json")
    code, out, _ = run(*LEARN, *more, "--out", "two.json")
    assert code == 0
    said = json.loads(out)
    table = LearnedSampler.load(tmp_path / "two.json", schedule=toy().schedule)
    assert said["written"] == "two.json"
    assert said["gained"] is table.gained
    assert table.nfe == 2
    code, out, _ = run("sample", "--model", "mymodule:bundle", "--table", "two.json", "--num", "3", "--out", "x.npy")
    assert code == 0
    assert np.array_equal(np.load(tmp_path / "x.npy"), table.sample(toy(smooth).model, (3, *SHAPE), seed=0).numpy())
    for wrong, message in (
        (("sample", *MINE, "--table", "two.json", "--out", "x.npy"), "--table is a whole sampler"),
        (("sample", "--model", "mnist", "--table", "two.json", "--out", "x.npy"), "another schedule"),
        ((*LEARN, "--data", "real.npy", "--out", "two.json"), "no feature network of its own"),
        ((*LEARN, "--extractor", "network.safetensors", "--data", ".", "--out", "two.json"), "must be a .npy file"),
        ((*LEARN, "--extractor", "network.safetensors", "--data", "x.npy", "--out", "two.json"), "must hold bytes of shape"),
    ):
        code, _, err = run(*wrong)
        assert message in f"{code} {err}"


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ("learn", "ddimkit learn --calls 5 --data DIR --out five.json"),
        ("sample", "ddimkit sample --steps 50 --seed 7 --grid out.png"),
        ("plan", "ddimkit plan --steps 10"),
        ("sweep", "ddimkit sweep --compare laptop/results.json server/results.json"),
    ],
)
def test_help_lists_examples(run: Run, command: str, example: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Examples" in out
    assert example in out
    assert command in run("--help")[1]


SAMPLE, PLAN = ("sample", *MINE), ("plan", *MINE)
WRONG: list[tuple[tuple[str, ...], str]] = [
    (SAMPLE, "nowhere to write to: give --grid out.png, --out samples.npy, or both"),
    ((*SAMPLE, "--grid", "a.jpg"), "a.jpg must end in .png"),
    ((*SAMPLE, "--out", "no/a.npy"), "no/a.npy must end in .npy and lie in a folder that exists"),
    ((*SAMPLE, "--out", "a.npy", "--device", "gpu"), "device 'gpu' cannot be used here: give 'cpu'"),
    ((*SAMPLE, "--out", "a.npy", "--seed", "-1"), "[0, 2^63), got -1"),
    (("plan", "--model", "celeba"), "the pretrained models are mnist, cifar10, got 'celeba'"),
    (
        ("plan", "--model", "nowhere:bundle"),
        "'nowhere:bundle' cannot be imported (No module named 'nowhere'): write package.module:name",
    ),
    (("plan", "--model", "mymodule:nothing"), "has no attribute 'nothing'): write package.module:name"),
    (("plan", "--model", ".mymodule:bundle"), "write package.module:name"),
    (("plan", "--model", "mymodule:smooth"), "must be a ddimkit.ModelBundle, got function"),
    ((*PLAN, "--sampler", "euler"), "gradient-estimation, or package.module:name, got 'euler'"),
    ((*PLAN, "--sampler", "mymodule:bundle"), "must be a sampler class, got ModelBundle"),
    ((*PLAN, "--sampler", "ddpm", "--eta", "0.5"), "--sampler ddpm takes no --eta"),
    ((*PLAN, "--eta", "1.5"), "eta must lie in [0, 1]"),
    ((*PLAN, "--spacing", "odd"), "spacing must be one of trailing, leading"),
    ((*PLAN, "--timesteps", "9,3"), "give exactly one of steps and timesteps"),
    (("plan", "--model", "mymodule:bundle", "--timesteps", "3;9"), "--timesteps must be numbers with commas between"),
    (("plan", "--model", "mymodule:bundle", "--timesteps", "3,9"), "must descend strictly"),
    (("plan", "--model", "mymodule:bundle", "--steps", "21"), "steps must lie in 1..20"),
    ((*SWEEP, "--steps", "10,x"), "--steps must be numbers with commas between, as in 10,20,50, got '10,x'"),
    ((*SWEEP, "--eta", "a"), "--eta must be numbers with commas between"),
    ((*SWEEP, "--eta", "2"), "eta must lie in [0, 1]"),
    ((*SWEEP, "--steps", ""), "--steps must be numbers with commas between, as in 10,20,50, got ''"),
    ((*SWEEP, "--baseline", "ddim:many"), "--baseline must be a sampler and its number of steps, as in ddim:250, got 'ddim:many'"),
    ((*SWEEP, "--baseline", ""), "--baseline must be a sampler and its number of steps"),
    ((*SWEEP, "--baseline", "euler:5"), "sampler must be one of ddim, ddpm"),
    ((*SWEEP, "--baseline", "ddim:21"), "steps must lie in 1..20"),
    ((*SWEEP, "--out", "/proc/nowhere"), "the results cannot be written to /proc/nowhere"),
    ((*SAMPLE, "--out", "/proc/a.npy"), "the results cannot be written to /proc"),
    ((*SWEEP, "--device", "gpu"), "device 'gpu' cannot be used here"),
    (("sweep", "--compare", "a.json", "b.json"), "No such file or directory: 'a.json'"),
    (("sweep", "--compare", "mymodule.py", "mymodule.py"), "mymodule.py is not a study that this version reads"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[case[1][:40] for case in WRONG])
def test_errors_are_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*arguments)
    assert isinstance(code, str)
    assert code.startswith("ddimkit: ")
    assert message in code
    assert "\n" not in code
    assert out == ""
    assert "Traceback" not in err


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    """A study's file with something changed in it."""
    saved = study(*line(LINE)).to_dict()
    change(saved)
    return json.dumps(saved)


def _without_quality(saved: dict[str, Any]) -> None:
    for row in saved["rows"]:
        row.pop("quality", None)
    saved["covariances"] = {}


FILES: dict[str, tuple[str, str]] = {
    "of another kind": ('{"a": 1}', "it holds no study, but something else"),
    "a list": ("[1, 2]", "it holds no study, but something else"),
    "an older schema": (changed(lambda s: s.update(schema_version=0)), "it is of schema 0, and this version reads schema 1"),
    "the schema before studies": ('{"schema_version": 2, "configurations": []}', "it holds no study"),
    "truncated": (changed(lambda _: None)[:700], "not a study that this version reads"),
    "empty": ("", "not a study that this version reads"),
    "with NaN": (changed(lambda s: s["rows"][1]["times"].update(seconds=float("nan"))), "it holds NaN"),
    "a metric that is NaN": (changed(lambda s: s["rows"][1]["quality"]["kernel"].update(value=float("nan"))), "it holds NaN"),
    "a row without sampler": (changed(lambda s: s["rows"][1].pop("sampler")), "row 'DDIM-10' has no sampler"),
    "a row that is no row": (changed(lambda s: s["rows"].append(3)), "not a study that this version reads"),
    "no baseline": (changed(lambda s: s.update(baseline="mine")), "the baseline 'mine' is none of the rows"),
    "no quality": (changed(_without_quality), "the quality of the baseline DDPM-1000 was not measured"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_wrong_results_get_one_clear_line(run: Run, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "wrong.json").write_text(content, encoding="utf-8")
    code, out, err = run("recommend", "wrong.json")
    assert str(code).startswith("ddimkit: ")
    assert message in str(code)
    assert "\n" not in str(code)
    assert (out, err) == ("", "")


@pytest.mark.promise(56)
def test_an_unwritable_folder_is_noticed_before_anything_is_computed(run: Run) -> None:
    assert run("plan", *MINE)[0] == 0
    for command in ((*SWEEP, "--out", "/proc/nowhere"), (*SWEEP, "--out", "mymodule.py"), (*SAMPLE, "--out", "/proc/a.npy")):
        assert "cannot be written to" in str(run(*command)[0])
    assert mine().model.calls == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("plan", "--nope"), "No such option: --nope"),
        (("sample", "--num", "0", "--out", "a.npy"), "greater than or equal to 1"),
        (("plan", "--steps", "ten"), "'--steps'"),
    ],
)
def test_usage_errors_exit_with_2(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err.replace("\n", " ")
    assert "Traceback" not in err


def test_a_bug_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddimkit.cli.plan.make_sampler", lambda *_: {}["a bug"])
    with pytest.raises(KeyError, match="a bug"):
        run(*PLAN)


def test_samples_that_are_no_images_get_no_grid(run: Run) -> None:
    code, _, _ = run("sample", "--model", "mymodule:flat", "--steps", "2", "--grid", "a.png")
    assert str(code).startswith("ddimkit: --grid draws samples of shape (1 or 3, H, W)")


BLOCKED = """
import sys
sys.modules[{name!r}] = None
sys.argv = ["ddimkit", "plan"]
from ddimkit.cli import main
main()
"""


@pytest.mark.parametrize("name", ["typer", "rich"])
def test_a_missing_extra_is_named(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED.format(name=name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == f"ddimkit's command line needs {name}: pip install 'ddimkit[study]'"


COMMANDS = (
    ("--help",),
    ("sweep", "--help"),
    ("recommend",),
    ("plan", "--steps", "3"),
    ("sweep", "--compare", "a.json", "b.json"),
    ("x",),
)
ONE_AFTER_ANOTHER = """
import json, sys, traceback
from ddimkit.cli import main

for arguments in json.loads(sys.argv[1]):
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="strict")  # as a new process has them
    sys.argv, code = ["ddimkit", *arguments], 0
    try:
        main()
    except SystemExit as done:
        code = done.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        stream.buffer.write(b"\\0%d\\0" % code)
        stream.flush()
"""


@pytest.mark.promise(51)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_a_terminal_lacks_is_replaced(tmp_path: Path, encoding: str) -> None:
    for name in ("a.json", "b.json"):
        study(*line(LINE), model={"name": "Zahlen – 数", "weights_sha256": None, "sample_shape": []}).save(tmp_path / name)
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0", "LC_ALL": "C", "COLUMNS": "80"}
    command = [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(COMMANDS)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    outs, errs = (stream.decode(encoding).split("\0")[:-1] for stream in (done.stdout, done.stderr))
    assert [int(code) for code in outs[1::2]] == [0] * 5 + [2]
    assert all(out.strip() for out in outs[:10:2])
    assert "No such command" in errs[10]


@pytest.mark.promise(51)
def test_the_program_itself_replaces_what_its_terminal_lacks() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-m", "ddimkit", "--help"], capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert "Usage" in done.stdout.decode("ascii")
