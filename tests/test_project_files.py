"""The files that a host of repositories reads agree with the project's own: sessions, versions, pins."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = dict(line.split("==") for line in (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8").split() if "==" in line)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def sessions_of(job: dict[str, Any]) -> set[str]:
    """The sessions of nox that a job runs, those of its matrix among them."""
    matrix = job.get("strategy", {}).get("matrix", {})
    several = {*matrix.get("session", ()), *(entry["session"] for entry in matrix.get("include", ()))}
    named = {name for step in job.get("steps", ()) for name in re.findall(r"nox -s (\S+)", step.get("run", ""))}
    return {*named, *several} if "${{" in named else named


def test_workflows_run_sessions_that_there_are_and_all_that_check() -> None:
    defined = set(re.findall(r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE))
    used = {name for path in WORKFLOWS for job in read(path)["jobs"].values() for name in sessions_of(job)}
    assert used - {"${{"} == {"tests", "oldest", "newest", "lint", "types", "docs", "wheel"}
    assert used - {"${{"} <= defined


def test_the_workflow_tests_the_supported_pythons_on_three_systems() -> None:
    matrix = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    classified = [line.rsplit(" ", 1)[1] for line in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert matrix["python"] == classified
    assert PROJECT["project"]["requires-python"] == f">={classified[0]}"
    assert matrix["system"] == ["ubuntu-latest", "windows-latest", "macos-latest"]
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    assert f"| Python | {classified[0]} to {classified[-1]} |" in page


@pytest.mark.parametrize("name", ["README.md", "docs/index.md", "docs/versions.md"])
def test_pages_name_the_torch_that_is_asked_for(name: str) -> None:
    (least,) = (need.split(">=")[1] for need in PROJECT["project"]["dependencies"] if need.startswith("torch>="))
    found = re.findall(r"(?:PyTorch|\| torch \|) (\d+\.\d+) (?:or|and) newer", (ROOT / name).read_text(encoding="utf-8"))
    assert found == [least]


def test_pre_commit_runs_the_pinned_ruff_as_lint_does() -> None:
    (ruff,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert ruff["rev"] == f"v{PINS['ruff']}"
    assert [(hook["id"], hook.get("args", [])) for hook in ruff["hooks"]] == [("ruff-check", []), ("ruff-format", ["--check"])]


def test_only_publishing_may_do_more_than_read() -> None:
    for path in WORKFLOWS:
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}
        more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
        assert more == ({"publish": {"id-token": "write"}} if path.name == "release.yml" else {})


def test_publishing_waits_for_tests_and_the_wheel() -> None:
    jobs = read(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert jobs["publish"]["needs"] == ["tests", "build"]
    assert jobs["tests"] == {"uses": "./.github/workflows/tests.yml"}
    assert "${{ github.ref_name }}" not in "".join(step.get("run", "") for step in jobs["build"]["steps"])
