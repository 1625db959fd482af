"""A study of one of our models as Markdown and charts: the answer first; everything is computed from the committed results."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ddimkit import DDIMKitError, ModelBundle, Study, load_pretrained
from ddimkit.quality import Quality
from ddimkit.tradeoff.committed import find_study
from ddimkit.tradeoff.findings import findings
from ddimkit.tradeoff.gap import Gap
from ddimkit.tradeoff.recommend import candidates
from ddimkit.tradeoff.report.charts import charts_of
from ddimkit.tradeoff.report.content import answer_of, title_of
from ddimkit.tradeoff.report.samples import draw_samples
from ddimkit.tradeoff.report.style import save_png
from ddimkit.tradeoff.report.tables import MISSING, eta_table
from ddimkit.tradeoff.rows import Row
from ddimkit.tradeoff.wording import share, with_margin
from ddimkit.weights._registry import published_hashes

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
PICTURES = Path(__file__).parent / "generated"
"""Where a build puts the charts: no page of its own, and in no commit."""

_BESIDE = ("cifar10",)
_SEEDS = 12
_SHOWN_CALLS = 100
_SEARCHED = 12


def page(name: str) -> str:
    """What the study of a model of ours found; that there is none, where no weights are published or no study is of them."""
    bundle = _model(name)
    if bundle is None:
        return f"No weights of the {name} model have been published yet, and so no study of them.\n"
    study = find_results(bundle)
    if study is None:
        return f"No study of the bundled {name} model's present weights has been made yet.\n"
    etas = eta_table(study)
    parts = [
        "## The answer",  # first: what stands before a heading is lost
        *_answer(study),
        "## Findings",
        "\n".join(f"- {_text(sentence)}" for sentence in findings(study)),
        "## Charts",
        *(f"![{_text(chart.alt)}](/generated/{name}-{chart.name}.png)\n\n{_text(chart.caption)}" for chart in charts_of(study)),
        *(() if etas is None else ("## Eta", _text(etas.caption), _table(etas.heads, etas.rows))),
        "## The best of each number of calls",
        _best(study),
        "## The same seeds",
        f"![A row for each sampler, a column for each seed](/generated/{name}-samples.png)",
        "## Every row that was measured",
        _measured(study),
        "## Lists that were searched",
        _lists(study),
        _about(study),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def draw(name: str) -> list[Path]:
    """Draw the charts of a model's study, and images of the same seeds by some of its rows."""
    bundle = _model(name)
    study = None if bundle is None else find_results(bundle)
    if bundle is None or study is None:
        return []
    PICTURES.mkdir(exist_ok=True)
    drawn = [save_png(lambda chart=chart: chart.draw(False), PICTURES / f"{name}-{chart.name}.png") for chart in charts_of(study)]  # type: ignore[misc]
    shown = [row for row in _shown(study) if row.calls <= _SHOWN_CALLS]
    images = {row.label: bundle.draw(row.sampler, range(_SEEDS)).numpy() for row in shown}
    return [*drawn, save_png(lambda: draw_samples(replace(study, images=images)), PICTURES / f"{name}-samples.png")]


def find_results(bundle: ModelBundle) -> Study | None:
    """The newest committed results of a model's very weights with all rows; where there are none, the package's."""
    for path in sorted(RESULTS.glob(f"*-study-{bundle.name}-*.json"), reverse=True):
        study = Study.load(path)
        if study.model["weights_sha256"] == bundle.weights_sha256():
            return study
    return find_study(bundle)


def _model(name: str) -> ModelBundle | None:
    published = name not in _BESIDE or f"{name}.safetensors" in published_hashes()
    return load_pretrained(name) if published else None


def _answer(study: Study) -> list[str]:
    """The recommendation with its reasons, and the presets."""
    said = answer_of(study)
    lines = [f"{name}: {text}." for name, text in said.facts] + list(said.reasons)
    return [
        f"**{_text(said.headline)}**",
        "\n".join(f"- {_text(line)}" for line in lines),
        *(part for group, rows in said.presets for part in (f"Presets. {_text(group)}:", _table(said.heads, rows))),
    ]


def _best(study: Study) -> str:
    """Of each number of calls what other seeds chose: the best of all, and the best that draws DDIM's image of a seed."""
    rows = list[Sequence[str]]()
    every, refinable = (candidates(study, refinable=only) for only in (False, True))
    for row in sorted({*every, *refinable}, key=lambda row: (row.calls, row.refinable)):
        if row.selection is not None and (row in every or row in refinable):
            chosen, measured = (_distance(quality) for quality in (row.selection, row.quality))
            rows.append((str(row.calls), row.label, "yes" if row.refinable else "no", chosen, measured, _closed(study, row)))
    heads = ("calls", "sampler", "refinable", "KID that chose (images)", "KID measured (images)", "gap closed")
    return _table(heads, rows) if rows else ""


def _measured(study: Study) -> str:
    """All rows by seeds that chose nothing, and the two ends of the scale."""
    ends = {"other real images": study.real_vs_real, "noise": study.noise}
    rows = [(row.label, *_metrics(row.quality), _closed(study, row), _number(row.same_seed)) for row in study.evaluated]
    rows += [(name, *_metrics(end), MISSING, MISSING) for name, end in ends.items() if end is not None]
    metrics = ("KID (images)", "FID", "precision", "recall", "class distance", "memorised")
    return _table(("sampler and calls", *metrics, "gap closed", "same-seed distance"), rows)


def _lists(study: Study) -> str:
    """The lists that a search found, up to so many calls, with their metrics by the seeds that choose."""
    found = [row for row in study.rows if row.search and row.calls <= _SEARCHED]
    rows = [
        (
            row.label,
            ", ".join(map(str, row.sampler.timesteps)),
            str((row.search or {}).get("reason", MISSING)),
            _distance(row.selection),
        )
        for row in sorted(found, key=lambda row: (row.calls, row.label))
    ]
    return _table(("list", "timesteps", "the objective's gain", "KID (images)"), rows) if rows else "None."


def _metrics(quality: Quality | None) -> tuple[str, ...]:
    if quality is None:
        return (MISSING,) * 6
    others = (quality.frechet, quality.precision, quality.recall, quality.class_distance, quality.memorised)
    return _distance(quality), *(MISSING if one is None else with_margin(one) for one in others)


def _distance(quality: Quality | None) -> str:
    return MISSING if quality is None else f"{with_margin(quality.kernel)} ({quality.count:,})"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _closed(study: Study, row: Row) -> str:
    try:
        closed = Gap(study).closed(row)
    except DDIMKitError:
        closed = None
    return MISSING if closed is None else share(closed)


def _shown(study: Study) -> list[Row]:
    """Rows whose images are shown: DDIM without noise, and the best of each number of calls."""
    plain = [row for row in study.evaluated if re.fullmatch(r"DDIM-\d+", row.label)]
    best = [row for row in candidates(study, refinable=False) if row.selection is not None]
    return sorted(dict.fromkeys([*plain, *best]), key=lambda row: row.calls)


def _about(study: Study) -> str:
    weights = str(study.model["weights_sha256"])[:12]
    return _text(f"{title_of(study)}, torch {study.versions['torch']}; weights SHA-256 {weights}….")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_unbroken(_text(cell)) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _unbroken(cell: str) -> str:
    """A cell whose lines do not break inside an interval."""
    return re.sub(r"\([^)]*\)| ± ", lambda part: part[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)


def _text(text: str) -> str:
    """A text in which nothing is markup."""
    return " ".join("".join(f"\\{c}" if c in "\\`*_[]<>|#$" else c for c in text).split())
