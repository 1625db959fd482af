"""The pictures of a sweep; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ddimkit.tradeoff.figures import BASE, COLOURS, INK, SOFT, new_figure, place, save_figure, style, whiskers
from ddimkit.tradeoff.findings import fit_power, lines, main_line
from ddimkit.tradeoff.quality_chart import draw_quality
from ddimkit.tradeoff.results import ConfigurationResult, TradeoffCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_charts", "draw_eta", "draw_samples", "draw_speedup", "draw_timing", "save_grid", "tile"]


def draw_charts(curve: TradeoffCurve, folder: Path) -> list[Path]:
    """All pictures that the curve has data for; returns their files."""
    drawn = [draw_timing(curve, folder / "timing.png"), draw_speedup(curve, folder / "speedup.png")]
    if curve.samples:
        drawn.append(draw_samples(curve, folder / "samples.png"))
    judged = [c for c in curve.configurations if c.quality is not None and not c.baseline]
    for wanted, draw, name in ((eta_grid(curve), draw_eta, "eta.png"), (judged, draw_quality, "quality.png")):
        if wanted:
            drawn.append(draw(curve, folder / name))
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier sweep
    return drawn


def draw_timing(curve: TradeoffCurve, path: Path) -> Path:
    """Bars of each configuration's time, log scale, with quartiles."""
    shown = sorted(curve.configurations, key=lambda c: (not c.baseline, c.sampler, c.eta or 0, -c.steps))
    figure, axes = new_figure(8, 1.2 + 0.32 * len(shown))
    positions = range(len(shown))
    values = [c.total_seconds for c in shown]
    reach = whiskers([(c.total_seconds, c.total_seconds_spread.low, c.total_seconds_spread.high) for c in shown])
    axes.barh(positions, values, xerr=reach, color=[BASE if c.baseline else INK for c in shown], ecolor=SOFT, capsize=2)
    axes.set_yticks(positions, [c.label for c in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(values) * 0.6, max(values) * 2.6)
    for y, c, extra in zip(positions, shown, reach[1], strict=True):
        gain = "" if c.baseline else f"  {c.speedup:.3g}×"
        axes.text((c.total_seconds + extra) * 1.06, y, f"{c.total_seconds:.3g} s{gain}", va="center", fontsize=8)
    axes.set_xlabel(f"seconds for {len(curve.baseline.seeds)} samples (log scale; whiskers: quartiles)")
    axes.set_title(f"Time of a run: {curve.model['name']} on {place(curve)}", fontsize=10)
    axes.grid(axis="y", visible=False)
    return save_figure(figure, path)


def draw_speedup(curve: TradeoffCurve, path: Path) -> Path:
    """Speed-up over the baseline against steps on log-log axes, a line a sampler, with the fitted slope of its time."""
    base = curve.baseline
    figure, axes = new_figure(7, 4.6)
    for i, line in enumerate(lines(curve)):
        steps, speedups = [c.nfe for c in line], [c.speedup for c in line]
        reach = whiskers([(c.speedup, c.speedup_spread.low, c.speedup_spread.high) for c in line])
        name, colour = line[0].sampler.removesuffix("Sampler"), COLOURS[i % len(COLOURS)]
        axes.errorbar(steps, speedups, yerr=reach, fmt="o", color=colour, capsize=2, label=name, zorder=3)
        fit = fit_power(steps, [1 / v for v in speedups])
        if fit is not None:
            ends = np.array([min(steps), max(steps)], dtype=float)
            text = f"{name}: time ∝ steps^{fit.slope:.3f}, R² {fit.r_squared:.4f}"
            axes.plot(ends, [1 / fit(float(s)) for s in ends], color=colour, linewidth=1, alpha=0.6, label=text, zorder=1)
    for c in main_line(curve):
        axes.annotate(f"{c.speedup:.3g}×", (c.nfe, c.speedup), xytext=(7, 4), textcoords="offset points", fontsize=8)
    axes.plot([base.nfe], [1.0], "D", color=BASE, label=f"{base.label} (baseline)", zorder=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({base.nfe, *(c.nfe for c in main_line(curve))})
    axes.set_xticks(ticks, [str(s) for s in ticks])
    axes.minorticks_off()
    axes.set_xlabel("steps (model calls)")
    axes.set_ylabel(f"speed-up over {base.label}")
    axes.set_title(f"Speed-up against steps: {curve.model['name']} on {place(curve)}", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return save_figure(figure, path)


def draw_samples(curve: TradeoffCurve, path: Path) -> Path:
    """A row for each step count of each sampler, the baseline on top; a column for each seed."""
    rows = [c for c in [curve.baseline, *(c for line in lines(curve) for c in line)] if c.label in curve.samples]
    return _rows_of_images(curve, rows, [c.label for c in rows], path, "the same column is the same noise in every row")


def draw_eta(curve: TradeoffCurve, path: Path) -> Path:
    """Time by eta for each step count, and the samples of the fewest and the most steps at each eta.

    Raises:
        ValueError: no sampler ran with several etas at one step count.
    """
    from matplotlib.figure import Figure

    chosen = eta_grid(curve)
    if not chosen:
        raise ValueError("no sampler of this curve ran with several etas at one number of steps")
    name, etas, counts = chosen[0].sampler, sorted({c.eta for c in chosen if c.eta is not None}), sorted({c.steps for c in chosen})

    figure = Figure(figsize=(9, 2.6 + 0.62 * len(etas) * min(2, len(counts))), layout="constrained")
    shown = _spread_out(counts)
    parts = figure.subfigures(1 + len(shown), 1, height_ratios=[3.0, *[0.75 * len(etas)] * len(shown)], squeeze=False)[:, 0]
    axes = parts[0].subplots()
    style(axes)
    width = 0.8 / len(etas)
    for i, eta in enumerate(etas):
        found = [next(c for c in chosen if c.steps == s and c.eta == eta) for s in counts]
        places = np.arange(len(counts)) + (i - (len(etas) - 1) / 2) * width
        axes.bar(
            places,
            [c.total_seconds for c in found],
            width,
            yerr=whiskers([(c.total_seconds, c.total_seconds_spread.low, c.total_seconds_spread.high) for c in found]),
            color=COLOURS[i % 6],
            ecolor=SOFT,
            capsize=2,
            label=f"eta {eta:g}",
        )
    axes.set_xticks(range(len(counts)), [f"{s} steps" for s in counts])
    axes.set_ylabel("seconds")
    axes.legend(frameon=False, fontsize=8, ncols=len(etas))
    axes.set_title(f"{name.removesuffix('Sampler')}: time by eta, and what each eta draws from the same noise", fontsize=10)
    for part, count in zip(parts[1:], shown, strict=True):
        found = [next(c for c in chosen if c.steps == count and c.eta == eta) for eta in etas]
        images = [curve.samples[c.label] for c in found if c.label in curve.samples]
        _image_rows(part, images, [f"{count} steps, eta {c.eta:g}" for c in found])
    return save_figure(figure, path)


def eta_grid(curve: TradeoffCurve) -> list[ConfigurationResult]:
    """The first sampler with several etas, at the step counts where it ran with each of them; empty if there is none."""
    others = [c for c in curve.configurations if not c.baseline and c.eta is not None]
    for name in dict.fromkeys(c.sampler for c in others):
        ran = [c for c in others if c.sampler == name]
        etas = {c.eta for c in ran}
        full = {steps for steps in {c.steps for c in ran} if {c.eta for c in ran if c.steps == steps} == etas}
        if len(etas) > 1 and full:
            return [c for c in ran if c.steps in full]
    return []


def _spread_out(counts: Sequence[int]) -> list[int]:
    """The smallest and the largest of some counts."""
    return list(dict.fromkeys([counts[0], counts[-1]]))


def save_grid(images: NDArray[np.float32], path: Path, columns: int | None = None) -> Path:
    """Write images (N, C, H, W) in [−1, 1] as one picture, pixel for pixel, four screen pixels to one.

    Args:
        images: the images; one or three channels.
        path: a ``.png`` file.
        columns: images in a row; near a square by default.
    """
    from matplotlib import image

    picture = tile(images, columns or int(np.ceil(np.sqrt(len(images)))))
    image.imsave(path, np.repeat(np.repeat(picture, 4, axis=0), 4, axis=1))
    return path


def tile(images: NDArray[np.float32], columns: int) -> NDArray[np.uint8]:
    """Images (N, C, H, W) in [−1, 1], laid out in rows of ``columns`` with two pixels between: (rows·(H+2), columns·(W+2), 3).

    Raises:
        ValueError: not (N, 1 or 3, H, W), or no images.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"only images of shape (N, 1 or 3, H, W) can be drawn, got {images.shape}")
    bytes_ = np.clip(np.rint((np.nan_to_num(images) + 1) * 127.5), 0, 255).astype(np.uint8)
    _, _, height, width = bytes_.shape
    rows = -(-len(bytes_) // columns)
    canvas = np.full((rows * (height + 2), columns * (width + 2), 3), 255, dtype=np.uint8)
    for i, picture in enumerate(bytes_):
        y, x = (i // columns) * (height + 2), (i % columns) * (width + 2)
        canvas[y : y + height, x : x + width] = picture.transpose(1, 2, 0)
    return canvas


def _rows_of_images(curve: TradeoffCurve, rows: list[ConfigurationResult], names: list[str], path: Path, note: str) -> Path:
    from matplotlib.figure import Figure

    images = [curve.samples[c.label] for c in rows]
    figure = Figure(figsize=(1.4 + 0.62 * len(images[0]), 0.5 + 0.62 * len(rows)), layout="constrained")
    figure.suptitle(f"{curve.model['name']}: {note}", fontsize=10)
    _image_rows(figure, images, names)
    return save_figure(figure, path)


def _image_rows(figure: Figure, images: Sequence[NDArray[np.float32]], names: Sequence[str]) -> None:
    """Rows of images under each other, each with its name at the left."""
    drawable = [part for part in images if part.ndim == 4 and part.shape[1] in (1, 3)]
    if len(drawable) < len(images) or not images:
        figure.text(0.5, 0.5, "samples of this shape cannot be drawn as images", ha="center")
        return
    axes = figure.subplots(len(images), 1, squeeze=False)[:, 0]
    for row, part, name in zip(axes, images, names, strict=True):
        row.imshow(tile(part, len(part)), interpolation="nearest")
        row.set_xticks([])
        row.set_yticks([tile(part, len(part)).shape[0] / 2], [name], fontsize=8)
        row.tick_params(length=0)
        for side in row.spines.values():
            side.set_visible(False)
