"""The public names of every module, pinned: a name that comes, goes or changes must be meant.

``python tests/test_public_names.py`` writes ``public_names.json`` anew, and that file's difference shows what changed.
"""

import ast
import json
from pathlib import Path

import ddimkit

PACKAGE = Path(ddimkit.__file__).parent
PINNED = Path(__file__).parent / "public_names.json"


def public_names(package: Path) -> dict[str, list[str]]:
    """Module → its ``__all__``, read from the source, for every module without an underscore in its path."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [part for part in path.relative_to(package).with_suffix("").parts if part != "__init__"]
        if not any(part.startswith("_") for part in parts):
            found[".".join(("ddimkit", *parts))] = listed(path)
    return dict(sorted(found.items()))


def listed(path: Path) -> list[str]:
    """The literal ``__all__`` of a file; empty where it has none."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                names: list[str] = ast.literal_eval(value)
                return names
    return []


def differences(pinned: dict[str, list[str]], found: dict[str, list[str]]) -> list[str]:
    """A line for each module whose names changed."""
    lines = []
    for module in sorted(pinned.keys() | found.keys()):
        before, now = set(pinned.get(module, ())), set(found.get(module, ()))
        changes = [*(f"+{name}" for name in sorted(now - before)), *(f"-{name}" for name in sorted(before - now))]
        state = "new module " if module not in pinned else "module gone " if module not in found else ""
        if state or changes:
            lines.append(f"{state}{module}: {' '.join(changes)}".rstrip(": "))
    return lines


def test_public_names_are_the_pinned_ones() -> None:
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    changed = differences(pinned, public_names(PACKAGE))
    assert not changed, "\n".join(["python tests/test_public_names.py pins these changes:", *changed])


def test_the_file_reads_as_it_is_written() -> None:
    assert PINNED.read_text(encoding="utf-8") == written(json.loads(PINNED.read_text(encoding="utf-8")))


def test_modules_that_define_names_list_them() -> None:
    names = public_names(PACKAGE)
    empty = [module for module in names if not names[module]]
    assert all((PACKAGE.joinpath(*module.split(".")[1:]) / "__init__.py").is_file() for module in empty), empty
    assert names["ddimkit"] == ddimkit.__all__


def test_a_change_is_named(tmp_path: Path) -> None:
    for name, text in {
        "__init__": "",
        "plan": "__all__ = ['Plan', 'b']",
        "_own": "__all__ = ['c']",
        "new/_a": "",
        "new/b": "",
    }.items():
        (tmp_path / f"{name}.py").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text + "\n", encoding="utf-8")
    found = public_names(tmp_path)
    assert found == {"ddimkit": [], "ddimkit.new.b": [], "ddimkit.plan": ["Plan", "b"]}
    pinned = {"ddimkit": [], "ddimkit.old": ["x"], "ddimkit.plan": ["Plan", "a"]}
    assert differences(pinned, found) == ["new module ddimkit.new.b", "module gone ddimkit.old: -x", "ddimkit.plan: +b -a"]
    assert differences(found, found) == []


def written(names: dict[str, list[str]]) -> str:
    """The file's text, a line a module."""
    return "{\n" + ",\n".join(f"  {json.dumps(module)}: {json.dumps(names[module])}" for module in names) + "\n}\n"


if __name__ == "__main__":
    PINNED.write_text(written(public_names(PACKAGE)), encoding="utf-8")
