"""Bulk generation through faults: what ``benchmarks/generate_faults.py --quick`` finds, in a process that may fork."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.promise(40, 59),
    pytest.mark.skipif(sys.platform == "win32", reason="processes are forked and killed"),
]

ROOT = Path(__file__).parent.parent
KILLS = ("kill before each file operation", "kill in the middle of each write", "kill at a random moment")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Each kind of fault with what it did."""
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    out = tmp_path_factory.mktemp("faults") / "faults.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "generate_faults.py"), "--quick", "--device", "cpu", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "benchmarks")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {tally["kind"]: tally for tally in json.loads(out.read_text())["faults"]}


def test_at_least_forty_kill_points(faults: dict[str, dict[str, Any]]) -> None:
    assert sum(faults[kind]["injected"] for kind in KILLS) >= 40


def test_no_fault_loses_or_doubles_an_image_or_does_what_it_must_not(faults: dict[str, dict[str, Any]]) -> None:
    for kind, tally in faults.items():
        assert tally["injected"] > 0, kind
        assert (tally["lost"], tally["doubled"], tally["wrong"]) == (0, 0, []), kind


def test_what_was_sound_is_not_drawn_again(faults: dict[str, dict[str, Any]]) -> None:
    assert {kind: tally["redrawn"] for kind, tally in faults.items() if tally["redrawn"]} == {}


@pytest.mark.parametrize(
    "kind",
    [
        "disk full at each file operation",
        "folder read-only at each file operation",
        "shard truncated",
        "bit of a shard flipped",
        "clock jumps, between runs and within",
        *(f"{count} process{'es' if count > 1 else ''}, no fault" for count in (1, 2, 3, 4)),
        "two runs of one share on one folder",
        "3 processes, a file system without locks",
        "3 processes, one lost",
        "3 processes, one hangs",
        "3 processes, one hangs and goes on late",
        "SIGTERM, exit code 75",
        "torchrun, 2 ranks, one killed, one restart",
    ],
)
def test_every_kind_was_tried(kind: str, faults: dict[str, dict[str, Any]]) -> None:
    assert faults[kind]["injected"] >= 1
