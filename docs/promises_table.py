"""Which tests prove which promise, read from the markers ``@pytest.mark.promise(n, …)`` in the tests' source."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Proof(NamedTuple):
    """A marked test; ``test`` is ``"TestClass::test_name"``, a whole ``"TestClass"``, or None for a whole file."""

    file: str
    test: str | None


def statements(path: Path) -> dict[str, dict[int, str]]:
    """Heading → number → statement, from ``promises.toml``."""
    sections = tomllib.loads(path.read_text(encoding="utf-8"))
    return {heading: {int(number): text for number, text in promises.items()} for heading, promises in sections.items()}


def proofs(tests: Path) -> dict[int, list[Proof]]:
    """Number → the marked tests of the files ``test_*.py`` in a folder."""
    found: dict[int, list[Proof]] = {}
    for path in sorted(tests.glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, numbers in _marked(tree.body, ""):
            for number in numbers:
                found.setdefault(number, []).append(Proof(path.name, name))
    return found


def _marked(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str | None, list[int]]]:
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) if name.startswith("test"):
                yield prefix + name, _numbers(statement.decorator_list)
            case ast.ClassDef(name=name) if name.startswith("Test"):
                yield prefix + name, _numbers(statement.decorator_list)
                yield from _marked(statement.body, f"{prefix}{name}::")
            case ast.Assign(targets=[ast.Name(id="pytestmark")], value=value):
                yield prefix.removesuffix("::") or None, _numbers([value])
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Call() as mark)) if name.startswith("Test"):
                yield prefix + name, _numbers([mark])


def _numbers(expressions: list[ast.expr]) -> list[int]:
    """The arguments of every ``pytest.mark.promise(…)`` in some expressions."""
    calls = [node for expression in expressions for node in ast.walk(expression) if isinstance(node, ast.Call)]
    marks = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "promise"]
    return [ast.literal_eval(argument) for mark in marks for argument in mark.args]
