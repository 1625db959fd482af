"""The documentation's table of promises says what the tests say, and its reference of the command line what the program says."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = load("promises_table")
PROMISES = [number for section in TABLE.statements(ROOT / "docs" / "promises.toml").values() for number in section]


def test_every_promise_has_a_statement() -> None:
    assert len(PROMISES) == len(set(PROMISES))
    assert set(range(1, 47)) <= set(PROMISES)


def test_markers_name_promises() -> None:
    found = TABLE.proofs(ROOT / "tests")
    unknown = {number: tests for number, tests in found.items() if type(number) is not int or number not in PROMISES}
    assert found
    assert not unknown


def test_the_table_lists_every_marked_test_that_pytest_found(request: pytest.FixtureRequest) -> None:
    listed = {(number, *proof) for number, tests in TABLE.proofs(ROOT / "tests").items() for proof in tests}
    for item in request.session.items:
        file, *scopes, name = item.nodeid.split("[")[0].split("::")
        # A mark may sit on the test, on any class around it, or on the whole file.
        places = ["::".join([*scopes, name]), *("::".join(scopes[: i + 1]) for i in range(len(scopes))), None]
        for number in {n for mark in item.iter_markers("promise") for n in mark.args}:
            assert any((number, Path(file).name, place) in listed for place in places), f"{item.nodeid}: promise {number}"


def test_marks_are_read_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(
        "import pytest\n"
        "pytestmark = [pytest.mark.slow, pytest.mark.promise(1)]\n"
        "@pytest.mark.promise(2, 3)\n"
        "@pytest.mark.parametrize('x', [1])\n"
        "def test_one(x): ...\n"
        "@pytest.mark.promise(4)\n"
        "class TestSome:\n"
        "    @pytest.mark.promise(5)\n"
        "    def test_two(self): ...\n"
        "TestMade = pytest.mark.promise(6)(Machine.TestCase)\n"
        "def helper(): ...\n"
    )
    proofs = TABLE.proofs(tmp_path)
    assert {number: [proof.test for proof in found] for number, found in proofs.items()} == {
        1: [None],
        2: ["test_one"],
        3: ["test_one"],
        4: ["TestSome"],
        5: ["TestSome::test_two"],
        6: ["TestMade"],
    }


@pytest.mark.promise(45)
def test_the_command_lines_reference_lists_what_the_program_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("typer")
    from ddimkit import cli

    def options(*command: str) -> set[str]:
        """What the program itself lists, without its examples."""
        monkeypatch.setattr(sys, "argv", ["ddimkit", *command, "--help"])
        cli.main()
        return set(re.findall(r"^\W*(--[\w-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}

    monkeypatch.setenv("COLUMNS", "200")
    page, *sections = re.split(r"^## ddimkit ", load("cli_reference").reference(cli.app), flags=re.MULTILINE)
    assert page == ""
    found = {section.split()[0]: set(re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE)) for section in sections}
    assert found.keys() == {command.callback.__name__ for command in cli.app.registered_commands if command.callback} != set()
    assert found == {command: options(command) for command in found}
    assert "| `--num NUM` | `16` | How many samples. |" in sections[0]
    assert "```console\nddimkit plan --steps 10\n" in sections[1]


def test_the_command_lines_page_shows_the_reference() -> None:
    assert "```{command-line}\n```" in (ROOT / "docs" / "cli.md").read_text()
