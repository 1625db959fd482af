"""Every check of the project, ``python -m nox -s NAME``; plain ``python -m nox`` runs those that need no more than minutes.

``oldest`` and ``newest`` run the tests on other versions than the pinned ones; where there is a GPU they download gigabytes.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "types", "docs", "wheel"]
nox.options.reuse_venv = "yes"
# Not uv where there is one: it does not read pip's settings, such as the constraints below.
nox.options.default_venv_backend = "virtualenv"

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
# A URI, because pip splits the variable at spaces.
CONSTRAINTS = (ROOT / "tests" / "constraints.txt").as_uri()
ENVIRONMENT = {
    "PIP_CONSTRAINT": CONSTRAINTS,
    # Newer pips take the pins of an isolated build from here only.
    "PIP_BUILD_CONSTRAINT": CONSTRAINTS,
    # Else pyright asks the network whether there is a newer one.
    "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
}


def install(session: nox.Session, *requirements: str, groups: Sequence[str] = (), constraints: str = CONSTRAINTS) -> None:
    """Install requirements and dependency groups in one go, at the pinned versions or under other constraints, a URI."""
    session.env.update({**ENVIRONMENT, "PIP_CONSTRAINT": constraints})
    if any(requirement.startswith(".") or requirement.endswith(".whl") for requirement in requirements):
        install_torch(session)
    session.install(*requirements, *nox.project.dependency_groups(PYPROJECT, *groups))


def install_torch(session: nox.Session) -> None:
    """Install torch first where there is no GPU, so that a build for CUDA, several gigabytes, is not taken for want of another.

    pip is asked what it would take. Only if that is a build that needs CUDA's libraries is PyTorch's own index of CPU builds used.
    """
    if shutil.which("nvidia-smi"):
        return
    plan = session.run(
        "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--no-deps",
        "--ignore-installed",
        "--report",
        "-",
        "torch",
        silent=True,
    )
    # pip's warnings may stand before the report and after it.
    report, _ = json.JSONDecoder().raw_decode(str(plan), str(plan).index("{"))
    chosen = report["install"][0]["metadata"]
    if any(need.startswith(("nvidia-", "cuda-")) for need in chosen.get("requires_dist", ())):
        session.install("torch", "--index-url", "https://download.pytorch.org/whl/cpu")


@nox.session
def sweep(session: nox.Session) -> None:
    """Sample the bundled model over a grid of settings and report; takes the options of ``ddimkit sweep``."""
    install(session, ".[study]")
    session.run("python", "-m", "ddimkit", "sweep", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; takes pytest's options, and ``--slow``."""
    run_tests(session, CONSTRAINTS, "pipelines")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Give each reader of a file, and the command line, 5,000 changed inputs, anew each time; takes pytest's options."""
    install(session, ".[study]", groups=["tests"])
    session.run("pytest", "tests/test_fuzz.py", *session.posargs, env={"DDIMKIT_FUZZ": "5000"})


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests on the oldest torch, NumPy and so on that the package accepts; takes pytest's options.

    Those with pipelines of diffusers are skipped: diffusers wants newer ones.
    """
    run_tests(session, write_constraints(session, lowest_pins()))


@nox.session
def newest(session: nox.Session) -> None:
    """Run the tests on the newest releases of what the package declares; takes pytest's options."""
    run_tests(session, write_constraints(session, dict.fromkeys([*declared(), "sympy"])), "pipelines")


def run_tests(session: nox.Session, constraints: str, *groups: str) -> None:
    """Install the package, what its tests need and further dependency groups under the constraints, and run the tests."""
    install(session, ".[study]", groups=["tests", *groups], constraints=constraints)
    # Alone: the torchvision they declare has no build for a CPU, and what is used of them does not use it.
    session.install("--no-deps", "torch-fidelity", "azula", "smalldiffusion")
    # One process a core, each with one thread of torch; a file's tests stay together, with the fixtures that they share.
    parallel = ("-n", "auto", "--maxprocesses", "8", "--dist", "loadfile")
    session.run("pytest", "-rs", *parallel, *session.posargs, env={"OMP_NUM_THREADS": "1"})


def declared() -> dict[str, str]:
    """What the package declares that it needs: name → lowest version."""
    return dict(requirement.split(">=") for requirement in PYPROJECT["project"]["dependencies"])


def lowest_pins() -> dict[str, str | None]:
    """The oldest series of each, as in ``2.4.*``, and no pin of sympy, which torch pins itself."""
    return {**{name: f"{version}.*" for name, version in declared().items()}, "sympy": None}


def write_constraints(session: nox.Session, changed: Mapping[str, str | None]) -> str:
    """The URI of a copy of the pins with other versions of some packages, or, where the version is None, with no pin."""
    kept = [line for line in (ROOT / "tests" / "constraints.txt").read_text().splitlines() if line.split("==")[0] not in changed]
    path = Path(session.create_tmp()) / "constraints.txt"
    path.write_text("\n".join([*kept, *(f"{name}=={version}" for name, version in changed.items() if version), ""]))
    return path.as_uri()


@nox.session
def lint(session: nox.Session) -> None:
    """Check the source for mistakes and its format."""
    install(session, groups=["lint"])
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package and, against the wheel installed here, of the client project in tests/client."""
    install(session, ".[study]", groups=["tests", "types", "pipelines"])
    session.run("mypy")
    session.run("pyright")
    session.run("pytest", "tests/test_package.py", "-k", "types")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation and run its examples; warnings are errors."""
    install(session, ".[study,testing,diffusers]", groups=["docs"])
    options = ["-W", "--keep-going", "-n"]
    session.run("sphinx-build", *options, "-b", "html", "docs", "docs/_build/html")
    session.run("sphinx-build", *options, "-b", "doctest", "docs", "docs/_build/doctest")


@nox.session(reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel from the sdist; use it from elsewhere in an environment that holds it and what it declares, no more."""
    here = Path(session.create_tmp())
    install(session, "--target", str(here / "tools"), "build")
    session.run("python", "-m", "build", "--outdir", str(here / "dist"), env={"PYTHONPATH": str(here / "tools")})
    install(session, *map(str, (here / "dist").glob("*.whl")))
    with session.chdir(here):
        session.run("python", "-I", str(ROOT / "tests" / "client" / "smoke.py"))


@nox.session
def bench(session: nox.Session) -> None:
    """Run a script of benchmarks/, by default ``sampler_overhead.py``, with its options."""
    install(session, ".[study]", groups=["bench"])
    script, *options = (
        session.posargs if session.posargs[:1] and session.posargs[0].endswith(".py") else ["sampler_overhead.py", *session.posargs]
    )
    session.run("python", str(ROOT / "benchmarks" / script), *options)
