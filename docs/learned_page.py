"""The learned tables that the package ships, as a table of their metrics beside those of many steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddimkit import PlanSampler, load_pretrained
from ddimkit.learning import LearnedSampler, shipped
from ddimkit.tradeoff.committed import find_study
from ddimkit.tradeoff.rows import Row

TABLES = Path(shipped.__file__).parent / "tables"

_HEAD = (
    "| sampler | calls | noise | kernel distance | Fréchet distance | precision | recall | learned in |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def page(model: str) -> str:
    """One row for each table of a model, then DDIM and DDPM with all steps as the committed study has them."""
    study = find_study(load_pretrained(model))
    rows = [_learned(table) for table in shipped.shipped_tables(model)]
    for peer in [] if study is None else [study.row("DDIM-1000"), study.row(study.baseline)]:
        assert peer.quality is not None
        rows.append(_row(peer.label.partition("-")[0], peer.sampler, peer.quality.to_dict(), ""))
    return _HEAD + "\n".join(rows) + ("" if study is None else _poorer(model, study.row(study.baseline)))


def _poorer(model: str, baseline: Row) -> str:
    """In what the tables are known to be poorer than the baseline: where the interval lies below the baseline's."""
    assert baseline.quality is not None
    wanted, said = baseline.quality.to_dict(), list[str]()
    for table in shipped.shipped_tables(model):
        quality = table.origin.evaluations[-1]["quality"]
        less = [metric for metric in ("precision", "recall") if quality[metric]["high"] < wanted[metric]["low"]]
        figures = " and ".join(f"{metric}, {quality[metric]['value']:.2f} against {wanted[metric]['value']:.2f}" for metric in less)
        said += [f"The table with {table.nfe} calls has lower {figures} of {baseline.label}."] if less else []
    return "".join(f"\n\n{line}" for line in said)


def _learned(table: LearnedSampler) -> str:
    template, seconds = table.origin.template, table.origin.settings["seconds"]
    start = f"{template['sampler'].rpartition('.')[2].removesuffix('Sampler')} of order {template['settings']['order']}"
    return _row(f"learned from {start}", table, table.origin.evaluations[-1]["quality"], f"{seconds / 60:.0f} min")


def _row(name: str, sampler: PlanSampler, quality: Mapping[str, Any], time: str) -> str:
    noise = "yes" if sampler.plan().adds_noise else "no"
    distances = [_interval(quality[metric], digits) for metric, digits in (("kernel", 5), ("frechet", 3))]
    shares = [f"{quality[metric]['value']:.3f}" for metric in ("precision", "recall")]
    return f"| {' | '.join([name, str(sampler.nfe), noise, *distances, *shares, time])} |"


def _interval(estimate: Mapping[str, Any], digits: int) -> str:
    value, low, high = (f"{estimate[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
