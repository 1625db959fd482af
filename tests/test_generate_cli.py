"""``ddimkit generate``: its options, what it says, and its exit codes."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from ddimkit import DDIMSampler, load_pretrained, preset
from ddimkit.generate import Manifest, open_shards
from ddimkit.models.conditions import seed_labels
from ddimkit.quality.features import to_bytes
from probes import smooth
from studies import toy

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from ddimkit import cli
from ddimkit.cli.generate import STOPPED

MODULE = """
from studies import toy, toy_evaluator
from probes import smooth

def labelled(x, t, labels):
    return smooth(x, t) + labels.reshape(-1, 1, 1, 1) / 10

bundle, other = toy(smooth), toy(smooth, name="other")
classes = toy(labelled, unconditional={"labels": 3})
evaluator = toy_evaluator()
"""


def labelled(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return smooth(x, t) + labels.reshape(-1, 1, 1, 1) / 10


Run = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``ddimkit generate`` in a folder of its own: its exit code, or the message it exits with, and its two outputs."""
    (tmp_path / "generated.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "generated", raising=False)

    def command(*arguments: str) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["ddimkit", "generate", *arguments])
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as done:
            code = done.code
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return command


MINE = ("--model", "generated:bundle", "--device", "cpu", "--out", "images")
DRAW = (*MINE, "--seeds", "3-16", "--batch", "4", "--steps", "3")


def test_images_are_drawn_exported_and_measured(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*DRAW, "--quality", "--evaluator", "generated:evaluator", "--export", "adm.npz", "--export-images", "png")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("14 images in images, 14 drawn by this process in ")
    assert lines[1:3] == ["adm.npz: 14 images", "png: 14 images"]
    assert [line.split(":")[0] for line in lines[3:]] == ["kernel", "frechet", "precision", "recall"]
    assert "14/14" in err
    assert np.load("adm.npz")["arr_0"].shape == (14, 4, 4, 1)
    assert len(list(tmp_path.glob("png/**/*.png"))) == 14


def test_the_same_command_goes_on(run: Run) -> None:
    code, out, err = run(*DRAW, "--max-seconds", "0")
    assert (code, out) == (STOPPED, "")
    assert "0 of 14 images are in images; the same command goes on" in err
    code, out, err = run(*DRAW, "--json")
    found = json.loads(out)
    assert (code, err, found["images"], found["drawn"]) == (0, "", 14, 14)
    assert json.loads(run(*DRAW, "--json")[1])["drawn"] == 0


def test_ctrl_c_has_the_same_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ddimkit.generate.drawing.Drawing.draw", stop)
        code, out, err = run(*DRAW)
    assert (code, out) == (STOPPED, "")
    assert "stopped; the same command goes on from images" in err
    assert run(*DRAW)[0] == 0


def test_damaged_files_are_named(run: Run, tmp_path: Path) -> None:
    run(*DRAW)
    open_shards(tmp_path / "images").path(1).write_bytes(b"")
    code, out, _ = run(*DRAW)
    assert code == 0
    assert "damaged, set aside and drawn again: images/shards/000000/000000001.npz." in out


def test_verify_says_whether_a_folder_is_good(run: Run, tmp_path: Path) -> None:
    run(*DRAW)
    verify = ("--model", "generated:bundle", "--device", "cpu", "--verify", "images")
    code, out, _ = run(*verify)
    assert code == 0
    assert "images: 14 of 14 images, each seed once, checksums hold" in out
    assert out.count("the same to the byte") == 3
    open_shards(tmp_path / "images").path(1).unlink()
    code, out, _ = run(*verify, "--json")
    assert code == 1
    found = json.loads(out)
    assert (found["good"], found["missing"], found["images"]) == (False, [1], 10)
    assert "was drawn with the model 'toy', not 'other'" in str(run("--verify", "images", "--model", "generated:other")[0])


def test_labels_follow_from_the_seeds(run: Run) -> None:
    labelled = ("--model", "generated:classes", "--labels", "3")
    assert run(*DRAW, *labelled)[0] == 0
    labels = open_shards("images").read(3).labels
    assert labels is not None
    assert labels.tolist() == [15 % 3, 16 % 3]
    assert run("--verify", "images", "--device", "cpu", *labelled)[0] == 0


def test_guidance_draws_what_the_guided_bundle_draws(run: Run, tmp_path: Path) -> None:
    assert run(*DRAW, "--model", "generated:classes", "--labels", "3", "--guidance", "2")[0] == 0
    bundle = replace(toy(labelled), conditions=seed_labels(3), unconditional={"labels": 3})
    for scale, same in ((2.0, True), (1.0, False)):
        drawn = bundle.guided(scale).draw(bundle.sampler(DDIMSampler, steps=3), range(3, 7))
        wanted = to_bytes(drawn).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(open_shards(tmp_path / "images").read(0).images, wanted) is same
    assert "unconditional" in str(run("--seeds", "3-6", *MINE, "--guidance", "2")[0])


def test_ranks_share_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = run(*DRAW, "--export", "adm.npz")
    assert (code, out, err) == (0, "", "")  # rank 0 says what was done, and exports
    assert not Path("adm.npz").exists()
    assert len(open_shards("images").present()) == 4


def test_a_preset_and_a_sampler_of_a_table(run: Run) -> None:
    few = ("--device", "cpu", "--out", "images", "--seeds", "0-1", "--batch", "2")
    assert run(*few, "--preset", "realtime")[0] == 0
    mnist = load_pretrained("mnist")
    assert Manifest.load("images").configuration["plan"] == preset("realtime", model=mnist).plan().to_dict()
    assert Manifest.load("images").sampler(mnist.schedule).nfe != mnist.sampler(DDIMSampler, steps=50).nfe


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --out DIR"),
        (MINE, "nothing to do"),
        ((*MINE, "--seeds", "9"), "--seeds must be the first and the last seed"),
        ((*MINE, "--seeds", "9-3"), "--seeds must be the first and the last seed"),
        ((*MINE, "--seeds", "-3-9"), "--seeds must be the first and the last seed"),
        ((*DRAW, "--preset", "realtime"), "--preset is a whole sampler"),
        ((*DRAW, "--table", "x.json"), "--table is a whole sampler"),
        ((*MINE, "--seeds", "0-3", "--preset", "none"), "the presets are"),
        ((*DRAW, "--quality"), "--quality of the model 'generated:bundle' needs --evaluator"),
        (("--verify", "nowhere"), "nowhere/manifest.json"),
        (("--out", "nowhere", "--export", "x.npz"), "nowhere/manifest.json"),
        ((*DRAW, "--export", "missing/x.npz"), "missing/x.npz: missing is no folder"),
        ((*DRAW, "--export", "."), "the export needs the name of a file, and . is a folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments: tuple[str, ...], said: str, run: Run) -> None:
    code, out, _ = run(*arguments)
    assert said in str(code)
    assert out == ""
    assert not list(Path().glob("images/shards"))
