"""The package as others meet it: its names, its types, what importing it costs and what it pulls in."""

import importlib
import importlib.util
import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ddimkit

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / "tests" / "client"

# A name added here is a promise to keep; one taken away breaks its users.
PUBLIC = [
    "DDIMKitError",
    "DDIMSampler",
    "DDPMSampler",
    "DPMSolverPPSampler",
    "DynamicThreshold",
    "GraphError",
    "LearnedSampler",
    "ModelBundle",
    "NoiseSchedule",
    "NonFiniteError",
    "Plan",
    "PlanSampler",
    "Sampler",
    "SamplerState",
    "Study",
    "UNet",
    "UNetConfig",
    "UniPCSampler",
    "WeightsError",
    "__version__",
    "accelerate",
    "check_model",
    "learn_plan",
    "load_learned",
    "load_pretrained",
    "optimize_timesteps",
    "preset",
    "recommend",
    "sweep",
]

TOP_LEVEL = {"src", "tests", "docs", "benchmarks", "pyproject.toml", "noxfile.py", "CHANGELOG.md", "README.md", "LICENSE"}

OPTIONAL = {"jinja2", "matplotlib", "rich", "typer", "tqdm.notebook", "diffusers", "scipy"}

IMPORT_COST = """
import json, sys, time
import torch
before, start = set(sys.modules), time.perf_counter()
import ddimkit
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules) - before)}))
"""


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False)


def test_public_names() -> None:
    assert ddimkit.__all__ == PUBLIC
    assert all(hasattr(ddimkit, name) for name in PUBLIC)


@pytest.mark.promise(44)
def test_import_pulls_in_nothing_optional(tmp_path: Path, record_property) -> None:
    done = run("-W", "error", "-c", IMPORT_COST, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)
    # Reported and never asserted: a busy machine must not fail a test.
    record_property("import_ddimkit_ms", round(1000 * cost["seconds"], 1))
    print(f"import ddimkit adds {1000 * cost['seconds']:.0f} ms to import torch")
    assert not OPTIONAL & set(cost["modules"])


def test_top_level_entries() -> None:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    entries = {path.split("/")[0] for path in listed.splitlines()}
    assert {entry for entry in entries if not entry.startswith(".")} <= TOP_LEVEL


def test_constraints_pin_all_that_pyproject_names() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    lists = [pyproject["build-system"]["requires"], project["dependencies"]]
    lists += [*project["optional-dependencies"].values(), *pyproject["dependency-groups"].values()]
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "tests" / "constraints.txt").read_text(), re.M))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in (Requirement(text) for names in lists for text in names):
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"tests/constraints.txt does not pin {requirement.name}"
        assert pinned in requirement.specifier, f"{requirement.name}=={pinned} does not satisfy {requirement}"


def test_client_project_runs() -> None:
    runpy.run_path(str(CLIENT / "client.py"), run_name="__main__")


@pytest.mark.promise(43)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_types_of_a_client_project(checker: str) -> None:
    done = check_types(checker, "client.py", "smoke.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.promise(43)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_types_refuse_a_sampler_that_lacks_a_method(checker: str) -> None:
    done = check_types(checker, "bad_sampler.py")
    last_line = len((CLIENT / "bad_sampler.py").read_text().splitlines())
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"bad_sampler\.py:(\d+).*? error: ", done.stdout)
    assert found == [str(last_line - 1), str(last_line)], done.stdout
    assert len(re.findall(r"\bplan\b", done.stdout)) >= 2, done.stdout


def check_types(checker: str, *names: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed: `nox -s types` runs this")
    arguments = {"mypy": [], "pyright": ["--pythonpath", sys.executable]}[checker]
    return run("-m", checker, *arguments, *names, cwd=CLIENT)
