"""Made-up studies for reports, and a page read the way a browser does."""

from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

from ddimkit import DPMSolverPPSampler
from ddimkit.tradeoff.rows import Row
from ddimkit.tradeoff.study import Study
from studies import LINE, LINEAR, ddim, ddpm, line, row, study

VOID = {"meta", "img", "input", "br", "hr", "link"}
HOSTILE = "<script>alert(1)</script> | `x` \" ' & [a](b) __b__ $x^$"


def made(*, quality: bool = True, times: bool = True, images: bool = True, hostile: str = "") -> Study:
    """DDIM by steps and eta, an SDE, and the baseline, with as much of it measured as is wanted."""
    rows = [*line(LINE), *(ddim(s, 2.0, eta=e) for s in (10, 20) for e in (0.5, 1.0))]
    sde = row(DPMSolverPPSampler(LINEAR, steps=10, order=2, eta=1.0), -0.01)
    rows += [replace(sde, label=hostile) if hostile else sde]
    kept = [stripped(r, quality=quality, times=times) for r in [ddpm(1.0), *rows]]
    return study(*kept[1:], baseline=kept[0], images=images)


def stripped(measured: Row, *, quality: bool, times: bool) -> Row:
    """A row without what was not measured."""
    kept = measured if quality else replace(measured, quality=None, source="not evaluated")
    return kept if times else replace(kept, times=None)


class Page(HTMLParser):
    """The elements of a page: tags with their attributes, the text of each tag, and what is not closed as it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def values(self, name: str) -> list[str]:
        """The values of an attribute."""
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]

    def count(self, tag: str) -> int:
        """How many elements have this tag."""
        return Counter(found for found, _ in self.elements)[tag]

    def shown(self) -> str:
        """All text but that of styles and scripts, with single spaces."""
        return " ".join(" ".join(data for tag, data in self.texts if tag not in ("style", "script")).split())
