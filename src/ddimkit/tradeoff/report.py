"""The Markdown report of a sweep: findings, table, pictures, and what reproduces them."""

import json
from pathlib import Path

from ddimkit.quality.estimate import Estimate
from ddimkit.quality.measure import Quality
from ddimkit.tradeoff.findings import findings
from ddimkit.tradeoff.results import ConfigurationResult, Spread, TradeoffCurve

__all__ = ["COLUMNS", "QUALITY_COLUMNS", "cells", "quality_cells", "write_report"]

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

QUALITY_COLUMNS = (
    "configuration",
    "images",
    "kernel distance (95 %)",
    "Fréchet distance",
    "precision / recall",
    "class distance",
    "memorised",
    "same-seed distance",
    "from",
)
"""Heads of the report's table of quality."""

_PICTURES = (
    ("samples.png", "Samples: a row for each sampler and step count, a column for each seed"),
    ("timing.png", "Time of a run"),
    ("speedup.png", "Speed-up against steps, with the fitted slope of time"),
    ("quality.png", "Quality against steps: distance to real images with 95 % intervals"),
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
        *_quality(curve),
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


def _quality(curve: TradeoffCurve) -> list[str]:
    """The part on quality, with what the figures are relative to."""
    judged = [c for c in curve.configurations if c.quality is not None]
    if not judged or judged[0].quality is None:
        return ["Quality is not judged here: no distance to real data has been measured in this run. Look at the samples.", ""]
    label = judged[0].quality.label
    pixels = "pixels not rounded" if label.rounding == "none" else "pixels rounded to 256 values"
    ends = [(name, end) for name, end in (("real images (floor)", curve.floor), ("noise", curve.noise)) if end is not None]
    return [
        "## Quality",
        "",
        f"Distances to the {label.images:,} images of {label.reference}, through the feature network {label.extractor!r} "
        f"(SHA-256 {label.extractor_sha256[:12]}…), {pixels}. The kernel distance is unbiased, its 95 % "
        "intervals are a bootstrap's, paired by seeds; the Fréchet distance falls with the number of images, and is comparable at "
        "equal numbers only, as are precision and recall. Memorised: the share that lies nearer to a training image than "
        f"99 % of other real images do. Same-seed distance: from what {curve.finest} draws.",
        "",
        "| " + " | ".join(QUALITY_COLUMNS) + " |",
        "|" + "---|" * len(QUALITY_COLUMNS),
        *["| " + " | ".join(quality_cells(name, end, None, "")) + " |" for name, end in ends],
        *[
            "| " + " | ".join(quality_cells(c.label, c.quality, c.same_seed_distance, c.quality_note)) + " |"
            for c in curve.configurations
        ],
        "",
    ]


def quality_cells(name: str, quality: Quality | None, same_seed: float | None, note: str) -> tuple[str, ...]:
    """Quality figures as the texts of one table row."""
    apart = "–" if same_seed is None else f"{same_seed:.4f}"
    if quality is None:
        return name, "–", "–", "–", "–", "–", "–", apart, note
    low, high = quality.kernel.interval()
    pair = f"{_within(quality.precision)} / {_within(quality.recall)}"
    shares = _within(quality.class_distance), _within(quality.memorised)
    kernel = f"{quality.kernel.value:.3g} ({low:.3g} to {high:.3g})"
    return name, f"{quality.count:,}", kernel, f"{quality.frechet.value:.3g}", pair, *shares, apart, note


def _within(share: Estimate | None) -> str:
    """A share and half the width of its 95 % interval."""
    if share is None:
        return "–"
    low, high = share.interval()
    return f"{share.value:.3f} ±{(high - low) / 2:.3f}"
