"""The command line: what it writes, what it says, and how it stops."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from curves import LINE, SHAPE, TOTAL, curve, judged, result, study, toy
from ddimkit import DDIMSampler, DDPMSampler, Plan, TradeoffCurve
from ddimkit.tradeoff import charts, figures
from ddimkit.tradeoff import sweep as sweeping
from probes import smooth

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from ddimkit import cli

# A user's own module, as `--model` and `--sampler` import it from the current folder.
MODULE = """
import os
from curves import toy, toy_yardstick
from plugins import AdamsBashforth2
from probes import smooth

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
object.__setattr__(flat, "sample_shape", (3,))

yardstick = toy_yardstick()

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
    monkeypatch.setattr(figures, "_DPI", 30)
    monkeypatch.setattr(sweeping, "measure_peak_memory", lambda *_: (123, "not measured here"))

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
    assert out.strip() == "3 samples, 4 model calls, seeds 7..9: x.png, x.npy"
    images = np.load(tmp_path / "x.npy")
    bundle = toy(smooth)
    expected = bundle.sampler(DDIMSampler, steps=4, eta=0.5).sample(smooth, (3, *SHAPE), seed=7)
    assert np.array_equal(images, expected.numpy())
    drawn = np.rint(image.imread(tmp_path / "x.png")[..., :3] * 255).astype(np.uint8)
    assert np.array_equal(drawn, np.kron(charts.tile(images, 2), np.ones((4, 4, 1), np.uint8)))


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


def test_sweep_writes_results_report_and_pictures(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*SWEEP, "--eta", "0,1")
    assert code == 0
    assert all(text in out for text in ("DDPM-20", "DDIM-4", "DDIM-2 eta 1", "Speed-up of DDIM", "Report: ddimkit-study/report.md"))
    folder = tmp_path / "ddimkit-study"
    pictures = {"samples.png", "timing.png", "speedup.png", "eta.png"}
    assert pictures | {"results.json", "report.md"} <= {path.name for path in folder.iterdir()}
    found = TradeoffCurve.load(folder / "results.json")
    assert [c.label for c in found.configurations] == [
        "DDPM-20", "DDIM-4", "DDIM-2", "DDIM-4 eta 1", "DDIM-2 eta 1", "sigma-hat-4", "sigma-hat-2",
    ]  # fmt: skip
    assert found.baseline.seeds == (0, 1)
    report = (folder / "report.md").read_text()
    assert all(c.label in report for c in found.configurations)
    assert all(f"]({name})" in report for name in pictures)


def test_sweep_takes_plug_ins_and_prints_json(run: Run, tmp_path: Path) -> None:
    samplers = ("--sampler", "mymodule:AdamsBashforth2", "--sampler", "ddpm", "--out", "mine")
    code, out, _ = run(*SWEEP, *samplers, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "mine" / "results.json").read_text())
    named = [(c["sampler"], c["steps"]) for c in json.loads(out)["configurations"]]
    assert named == [("DDPMSampler", TOTAL), *((name, s) for name in ("AdamsBashforth2", "DDPMSampler") for s in (4, 2))]


def test_sweep_takes_the_studys_steps_as_far_as_the_model_has_them(run: Run, tmp_path: Path) -> None:
    assert run("sweep", "--model", "mymodule:bundle", "--eta", "0", "--num", "1", "--rounds", "1")[0] == 0
    found = TradeoffCurve.load(tmp_path / "ddimkit-study" / "results.json")
    assert [c.label for c in found.configurations] == ["DDPM-20", "DDIM-10", "DDIM-20", "sigma-hat-10", "sigma-hat-20"]


def mine() -> ModuleType:
    return sys.modules["mymodule"]


def test_a_stopped_sweep_says_how_to_go_on_and_goes_on(run: Run, tmp_path: Path) -> None:
    assert run("plan", *MINE)[0] == 0
    mine().model.stop_at = 33  # in the opening rows, after the baseline and three calls to warm up
    plain = (*SWEEP, "--sampler", "ddim")
    code, out, err = run(*plain, "--eta", "0")
    assert (code, out) == (130, "")
    assert "Stopped. What is finished is kept in ddimkit-study; the same command goes on from there." in err
    assert not (tmp_path / "ddimkit-study" / "results.json").exists()
    mine().model.calls, mine().model.stop_at = 0, None
    assert run(*plain, "--eta", "0")[0] == 0
    assert mine().model.calls == 3 + TOTAL + 4 + 2  # not the baseline again
    assert run(*plain, "--eta", "0")[0] == 0
    assert mine().model.calls == 3 + TOTAL + 4 + 2
    code, _, _ = run(*plain, "--eta", "0.5")
    assert str(code).startswith("ddimkit: ddimkit-study holds a sweep of another model, machine or other settings")
    assert run(*plain, "--eta", "0.5", "--restart")[0] == 0


def test_sweep_judges_quality_as_asked(run: Run, tmp_path: Path) -> None:
    """The baseline by a study's figures, of which there are none here, or by its own."""
    quick = (*SWEEP, "--eta", "0", "--sampler", "ddim", "--yardstick", "mymodule:yardstick", "--out")
    for options, short, long in ((("--quality-samples", "6"), 6, 0), (("--quality-samples", "6", "--full"), 6, 6), ((), 2000, 0)):
        code, out, _ = run(*quick, "".join(options) or "default", *options)
        assert code == 0
        assert "the scale: other real images" in out
        found = TradeoffCurve.load(tmp_path / ("".join(options) or "default") / "results.json")
        counts = {c.label: 0 if c.quality is None else c.quality.count for c in found.configurations}
        assert counts == {"DDPM-20": long, "DDIM-4": short, "DDIM-2": short}
        assert long or "no study of this model: take --full" in found.baseline.quality_note
    assert run(*quick, "none", "--quality-samples", "0")[0] == 0
    assert TradeoffCurve.load(tmp_path / "none" / "results.json").floor is None
    assert "at least 5" in str(run(*quick, "few", "--quality-samples", "3")[0])


def test_recommend_says_why(run: Run, tmp_path: Path) -> None:
    study(*judged(LINE)).save(tmp_path / "mine.json")
    code, out, _ = run("recommend", "mine.json", "--tolerance", "0.1")
    assert code == 0
    first, *reasons = out.splitlines()
    assert first == "DDIM with eta 0: 60 steps"
    assert reasons[0].startswith("- Kernel distance to real images, the scale: other real images 0, DDPM-1000 1 (")
    assert any("DDIM-20 is outside" in reason for reason in reasons)
    assert run("recommend", "mine.json", "--tolerance", "0.6", "--buffer", "0")[1].startswith("DDIM with eta 0: 20 steps")
    study(*judged({10: 3.0, 100: 2.0})).save(tmp_path / "far.json")
    assert run("recommend", "far.json")[1].startswith("No recommendation\n")
    code, out, _ = run("recommend", "mine.json", "--sampler", "ddim", "--eta", "0", "--tolerance", "0.1", "--json")
    assert json.loads(out)["steps"] == 60
    assert "nothing judged to recommend from" in str(run("recommend", "mine.json", "--eta", "1")[0])
    assert "there is no committed study" in str(run("recommend", "--model", "mymodule:bundle")[0])


def test_recommend_takes_the_bundled_models_study(run: Run) -> None:
    code, out, _ = run("recommend")
    assert code == 0
    assert "the scale: other real images" in out


def test_compare(run: Run, tmp_path: Path) -> None:
    steps = (10, 20, 50)
    curve(*[result(steps=s) for s in steps]).save(tmp_path / "a.json")
    curve(*[result(steps=s, seconds=s / 50) for s in steps]).save(tmp_path / "b.json")
    code, out, _ = run("sweep", "--compare", "a.json", "b.json")
    assert code == 0
    assert "Relative speed-ups are maintained" in out
    assert "DDIM-20" in out
    code, out, _ = run("sweep", "--compare", "a.json", "b.json", "--json")
    found = json.loads(out)
    assert (code, found["maintained"], found["differences"]) == (0, True, [])
    assert [row[0] for row in found["rows"]] == ["DDPM-1000", "DDIM-10", "DDIM-20", "DDIM-50"]
    assert not (tmp_path / "ddimkit-study").exists()


@pytest.mark.parametrize(
    ("command", "example"),
    [
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
    ((*PLAN, "--sampler", "euler"), "unipc-3, or package.module:name, got 'euler'"),
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
    ((*SWEEP, "--steps", "2,2"), "asked for twice"),
    ((*SWEEP, "--device", "gpu"), "device 'gpu' cannot be used here"),
    (("sweep", "--compare", "a.json", "b.json"), "No such file or directory: 'a.json'"),
    (("sweep", "--compare", "mymodule.py", "mymodule.py"), "mymodule.py is not the results.json of a sweep"),
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
