"""Every Python snippet of the README and the docs runs; a page is one program."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]

# A fence with a language; not the fences of directives, whose own content is looked at.
FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<language>\w.*|\{code.*)\n(?P<body>(?s:.*?))^(?P=indent)(?P=fence) *$", re.MULTILINE
)
RUN = {"python": True, "python cuda": torch.cuda.is_available(), "python diffusers": find_spec("diffusers") is not None}

pytestmark = pytest.mark.promise(45)


class Block(NamedTuple):
    line: int
    language: str
    body: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(text.count("\n", 0, m.start("body")), m["language"].strip(), dedent(m["body"])) for m in FENCE.finditer(text)]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def write_pipelines(folder: Path) -> None:
    """The folders that the page on diffusers reads, with tiny models."""
    pipelines = pytest.importorskip("pipelines")
    pipelines.stable_diffusion(folder).save_pretrained(folder / "stable-diffusion")
    made = pipelines.diffusers.DDPMPipeline(pipelines.unet(), pipelines.diffusers.DDPMScheduler())
    made.save_pretrained(folder / "ddpm")


# What lies in the current folder of a page's reader.
FILES: dict[str, Callable[[Path], None]] = {"docs/diffusers.md": write_pipelines} if RUN["python diffusers"] else {}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FILES.get(page_id(page), lambda _: None)(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if RUN.get(block.language):
            # Empty lines in front, so that a traceback names the line of the page.
            exec(compile("\n" * block.line + block.body, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_is_fenced_so_that_it_is_run(page: Path) -> None:
    python = re.compile(r"(\{code.*\} *)?(i?py|python|pycon)", re.IGNORECASE)
    unseen = [f"{page}:{b.line}: {b.language}" for b in blocks(page) if python.match(b.language) and b.language not in RUN]
    assert not unseen, f"write ```python, or one of {', '.join(RUN)}, not {unseen}"


def test_readme_begins_with_its_two_commands() -> None:
    commands = [block.body.strip() for block in blocks(ROOT / "README.md") if block.language == "console"]
    assert commands[:2] == [f"python -m pip install nox && python -m nox -s {session}" for session in ("sweep", "tests")]
