"""The Markdown report of a sweep: findings, table, pictures, and what reproduces them."""

import json
from pathlib import Path

from ddimkit.tradeoff.findings import findings
from ddimkit.tradeoff.results import ConfigurationResult, Spread, TradeoffCurve

__all__ = ["COLUMNS", "cells", "write_report"]

COLUMNS = (
    "configuration",
    "model calls",
    "seconds (quartiles)",
    "ms a sample",
    "speed-up (quartiles)",
    "sampler overhead",
    "peak memory",
)
"""Heads of the report's result table."""

_PICTURES = (
    ("samples.png", "Samples: a row for each sampler and step count, a column for each seed"),
    ("timing.png", "Time of a run"),
    ("speedup.png", "Speed-up against steps, with the fitted slope of time"),
    ("eta.png", "What eta costs and draws"),
)


def cells(c: ConfigurationResult) -> tuple[str, ...]:
    """A result as the texts of one table row."""
    memory = "not measured" if c.peak_memory_bytes is None else f"{c.peak_memory_bytes / 2**20:.1f} MiB"
    gain = "baseline" if c.baseline else f"{c.speedup:.1f}× {_quartiles(c.speedup_spread, '.1f')}"
    seconds = f"{c.total_seconds:.3g} {_quartiles(c.total_seconds_spread, '.3g')}"
    overhead = f"{1e3 * c.sampler_overhead_seconds:.2f} ms, {c.sampler_overhead_seconds / c.total_seconds:.2%}"
    return c.label, str(c.nfe), seconds, f"{1e3 * c.per_sample_seconds:.1f}", gain, overhead, memory


def _quartiles(spread: Spread, form: str) -> str:
    """The quartiles, or how few runs there were."""
    return f"({spread.low:{form}}–{spread.high:{form}})" if spread.runs > 2 else f"({spread.runs} run{'s'[: spread.runs - 1]})"


def write_report(curve: TradeoffCurve, folder: Path) -> Path:
    """Write ``report.md`` beside the pictures; returns its path."""
    base, settings = curve.baseline, curve.settings
    rows = [cells(c) for c in curve.configurations]
    shape, place = "×".join(map(str, curve.model["sample_shape"])), curve.machine.get("gpu") or curve.machine["processor"]
    lines = [
        f"# Step-count sweep: {curve.model['name']}",
        "",
        f"{len(base.seeds)} samples of shape {shape}, all configurations from the same noise, on {place} "
        f"({curve.machine['threads']} threads), float32. The baseline is {base.label}.",
        "",
        "## Findings",
        "",
        *[f"- {sentence}" for sentence in findings(curve)],
        "",
        "## Results",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *["| " + " | ".join(row) + " |" for row in rows],
        "",
        f"Configurations of up to 100 steps ran {settings['rounds']} times, interleaved in rotated order, and each speed-up "
        "compares them with the baseline's first 100 rows of the same round; longer ones ran once, their quartiles are over tenths "
        "of the run, and their speed-ups compare the median paces. Overhead is the same run with a model that returns a constant "
        "tensor. "
        f"Peak memory: {base.peak_memory_note}.",
        "",
        "Quality is not judged here: no distance to real data has been measured in this run. Look at the samples.",
        "",
        "## Pictures",
        "",
        *[line for name, caption in _PICTURES if (folder / name).exists() for line in (f"![{caption}]({name})", "")],
        "## What reproduces this",
        "",
        "```json",
        json.dumps({"model": curve.model, "machine": curve.machine, "versions": curve.versions, "settings": settings}, indent=1),
        "```",
        "",
        "Timesteps, seeds and settings of every configuration are in `results.json`.",
        "",
    ]
    path = folder / "report.md"
    path.write_text("\n".join(lines))
    return path
