"""The learned tables that the package ships, as a table of their metrics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddimkit.learning import LearnedSampler, shipped

TABLES = Path(shipped.__file__).parent / "tables"

_HEAD = (
    "| calls | noise | begun with | kernel distance | Fréchet distance | precision | recall | learned in |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def page(model: str) -> str:
    """One row for each table of a model, fewest calls first."""
    tables = [LearnedSampler.load(path) for path in TABLES.glob(f"{model}-*.json")]
    return _HEAD + "\n".join(_row(table) for table in sorted(tables, key=lambda t: (t.plan().adds_noise, t.nfe)))


def _row(table: LearnedSampler) -> str:
    quality, template = table.origin.evaluations[-1]["quality"], table.origin.template
    settings = template["settings"]
    begun = f"{template['sampler'].rpartition('.')[2].removesuffix('Sampler')} of order {settings['order']}"
    cells = [
        str(table.nfe),
        "yes" if table.plan().adds_noise else "no",
        begun,
        _interval(quality["kernel"], 5),
        _interval(quality["frechet"], 3),
        f"{quality['precision']['value']:.3f}",
        f"{quality['recall']['value']:.3f}",
        f"{table.origin.settings['seconds'] / 60:.0f} min",
    ]
    return f"| {' | '.join(cells)} |"


def _interval(estimate: Mapping[str, Any], digits: int) -> str:
    value, low, high = (f"{estimate[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
