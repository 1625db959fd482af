"""The command line's reference as Markdown, made from the program itself: its commands' help, options and defaults."""

import re
from collections.abc import Iterator
from typing import Any

import typer


def reference(app: typer.Typer) -> str:
    """A section a command: its help, its examples and a table of its options."""
    program: Any = typer.main.get_command(app)
    sections = [_section(f"{program.name} {name}", command) for name, command in program.commands.items() if not command.hidden]
    return "\n\n".join(sections) + "\n"


def _section(title: str, command: Any) -> str:
    rows = [_row(option) for option in command.params if not option.hidden]
    table = ["| option | default | |", "|---|---|---|", *rows]
    return "\n\n".join([f"## {title}", *_paragraphs(command.help), "\n".join(table)])


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help text; a run of indented ones becomes one block of console lines."""
    lines: list[str] = []
    for paragraph in [*text.split("\n\n"), ""]:
        if paragraph.startswith("    "):
            lines.append(paragraph.strip())
            continue
        if lines:
            yield "\n".join(["```console", *lines, "```"])
            lines = []
        if paragraph:
            yield _marked(paragraph)


def _row(parameter: Any) -> str:
    name, default = _named(parameter)
    cells = (f"`{name}`", default, _marked(parameter.help or ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _named(parameter: Any) -> tuple[str, str]:
    """How an option or argument is written, and its default."""
    if parameter.param_type_name == "argument":
        return parameter.name.upper(), ""
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return f"{', '.join(parameter.opts)}{value}", "" if parameter.is_flag or parameter.default is None else f"`{parameter.default}`"


def _marked(text: str) -> str:
    """A text whose option names are code, which typography leaves alone."""
    return re.sub(r"(?<![\w`-])--[a-z][\w-]*", r"`\g<0>`", text)
