"""Imports run one way: a room of the package imports only rooms below it, at the top of its modules, and in no circle."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import ddimkit

PACKAGE = Path(ddimkit.__file__).parent

# A room is a module or a folder at the top of the package; each imports only rooms that stand before it.
ORDER = (
    "_version",
    "_machine",
    "errors",
    "weights",
    "_modes",
    "_numbers",
    "_repr",
    "_compilers",
    "_betas",
    "schedule",
    "timesteps",
    "noise",
    "prediction",
    "plan",
    "_plugin",
    "_record",
    "step",
    "_arguments",
    "_state",
    "loop",
    "sampling",
    "brownian",
    "samplers",
    "speed",
    "graphs",
    "analytic",
    "_guided",
    "guidance",
    "editing",
    "_training",
    "models",
    "quality",
    "_features",
    "learning",
    "tradeoff",
    "generate",
    "interop",
    "testing",
    "cli",
    "",  # the package itself, which names what users import
    "__main__",
)

MOST_ENTRIES = 26

# The command line says what is missing where its extra is not installed, and so imports its program under a ``try``.
GUARDED = {"ddimkit.cli"}


class Import(NamedTuple):
    """One import of a module of ours, ``of`` by ``by``; ``top`` where it stands at a module's top level."""

    by: str
    of: str
    line: int
    top: bool

    def __str__(self) -> str:
        return f"{self.by}, line {self.line}: imports {self.of}"


def room(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def sources(package: Path) -> dict[str, Path]:
    """Every module of a package named ``ddimkit`` and its file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(("ddimkit", *(part for part in parts if part != "__init__")))] = path
    return found


def imports(modules: Mapping[str, Path]) -> list[Import]:
    """Every import of one of the modules by another, wherever it stands; those for type checkers too."""
    found = []
    for name, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(tree):
            wanted = targets(node, package, modules)
            found += [Import(name, target, getattr(node, "lineno", 0), node in tree.body) for target in wanted]
    return [one for one in found if one.of != one.by]


def targets(node: ast.AST, package: str, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules of ours that a statement or a call of ``import_module`` names."""
    match node:
        case ast.Import(names=names):
            wanted = [name.name for name in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            base = ".".join([*above, *([module] if module else [])])
            wanted = [f"{base}.{name.name}" for name in names]
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(value=str(text)), *_]):
            wanted = [text] if called in ("import_module", "__import__") else []
        case _:
            return
    for name in wanted:
        if name.split(".")[0] == "ddimkit":
            yield name if name in modules else name.rpartition(".")[0]


def wrong_rooms(found: list[Import]) -> list[str]:
    return [str(one) for one in found if room(one.by) != room(one.of) and ORDER.index(room(one.of)) > ORDER.index(room(one.by))]


def circles(found: list[Import]) -> list[list[str]]:
    """A circle of modules within one room, if there is one."""
    graph: dict[str, set[str]] = {}
    for one in found:
        if room(one.by) == room(one.of):
            graph.setdefault(one.by, set()).add(one.of)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [error.args[1]]
    return []


MODULES = sources(PACKAGE)
FOUND = imports(MODULES)


def test_every_room_has_its_place() -> None:
    assert sorted({room(module) for module in MODULES}) == sorted(ORDER)


def test_rooms_import_only_rooms_below() -> None:
    assert len(FOUND) > 100
    assert not wrong_rooms(FOUND)


def test_no_circle_within_a_room() -> None:
    assert not circles(FOUND)


def test_imports_of_ours_stand_at_the_top() -> None:
    assert not [str(one) for one in FOUND if not one.top and one.by not in GUARDED]


def test_the_top_of_the_package_has_few_entries() -> None:
    names = {path.name for path in PACKAGE.iterdir() if not path.name.startswith("_") and path.name != "py.typed"}
    assert len(names) <= MOST_ENTRIES, sorted(names)


@pytest.mark.parametrize(
    "text",
    [
        "from ddimkit.models.bundle import ModelBundle",
        "from ddimkit.models import bundle",
        "from ddimkit import models",
        "import ddimkit.models.bundle",
        "import ddimkit.models.bundle as b",
        "from .models.bundle import ModelBundle",
        "from . import models",
        "from ddimkit import ModelBundle",
        "def f():\n    from ddimkit.models.bundle import ModelBundle",
        "class C:\n    def f(self):\n        import ddimkit.models",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ddimkit.models.bundle import ModelBundle",
        "from importlib import import_module\ndef f():\n    import_module('ddimkit.models.bundle')",
    ],
)
def test_a_back_import_is_seen(text: str, tmp_path: Path) -> None:
    package = small_package(tmp_path, {"schedule": text, "models/__init__": "", "models/bundle": "import ddimkit.schedule"})
    found = imports(sources(package))
    (wrong,) = wrong_rooms(found)
    assert wrong.startswith("ddimkit.schedule, line ")
    inside = text.startswith(("def", "class", "from typing", "from importlib"))
    assert [one.top for one in found if one.by == "ddimkit.schedule"] == [not inside]


def test_a_circle_is_seen(tmp_path: Path) -> None:
    files = {
        "models/__init__": "",
        "models/a": "from . import b",
        "models/b": "def f():\n    from .a import g",
        "models/c": "from .a import f",
    }
    found = imports(sources(small_package(tmp_path, files)))
    assert not wrong_rooms(found)
    (circle,) = circles(found)
    assert set(circle) == {"ddimkit.models.a", "ddimkit.models.b"}


def small_package(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in {"__init__": "", **files}.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return folder
