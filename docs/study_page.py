"""The figures of a committed study as Markdown: scale, curve, recommendation and presets, all computed from its results."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ddimkit import ModelBundle, load_pretrained
from ddimkit.tradeoff.budget import SEARCHED, BudgetStudy
from ddimkit.tradeoff.budget_findings import budget_findings
from ddimkit.tradeoff.findings import lines, refining
from ddimkit.tradeoff.presets import Choice, choices
from ddimkit.tradeoff.quality_findings import figure_with_interval, quality_findings
from ddimkit.tradeoff.recommend import recommend
from ddimkit.tradeoff.report import QUALITY_COLUMNS, quality_cells
from ddimkit.tradeoff.results import TradeoffCurve
from ddimkit.tradeoff.studies import find_budget_study, find_study
from ddimkit.weights.registry import published_hashes

_BESIDE = ("cifar10",)
_STATIC = Path(__file__).parent / "_static"


def page(name: str) -> str:
    """What the study of a model of ours says; that there is none, where no weights have been published or no study is of them."""
    bundle = _model(name)
    if bundle is None:
        return f"No weights of the {name} model have been published yet, and so no study of them.\n"
    study = find_study(bundle)
    if study is None:
        return f"No study of the bundled {name} model's present weights has been made yet.\n"
    parts = [
        "## The scale",  # first: what stands before a heading is lost
        _about(study),
        _table(QUALITY_COLUMNS[:-2], _scale(study)),
        "## The curve",
        _picture(name, "quality", "quality against steps"),
        _table(QUALITY_COLUMNS[:-1], _curve(study)),
        "\n".join(f"- {finding}" for finding in quality_findings(study, lines(study, every_eta=True))),
        _picture(name, "samples", "the same seeds in every configuration"),
        "## How few steps are enough",
        "\n".join(f"- {reason}" for reason in recommend(study).reasons),
        "## Presets",
        _presets(choices(bundle), choices(bundle, refinable=False)),
        "## Refining",
        refining(study) or "",
        _picture(name, "nearest", "images drawn, and below each the training image nearest to it"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def budget_page(name: str) -> str:
    """Which sampler and timesteps for a number of model calls, by the study of a model of ours; that there is none."""
    bundle = _model(name)
    study = None if bundle is None else find_budget_study(bundle)
    if bundle is None or study is None or not study.results:
        return f"No study of samplers and timestep lists of the {name} model's present weights has been made yet.\n"
    curve = find_study(bundle)
    parts = [
        "## The best of each budget",
        _about(study),
        "" if curve is None else _table(QUALITY_COLUMNS[:-2], _scale(curve)),
        _picture(name, "budget", "kernel distance against model calls"),
        _table(("model calls", "sampler", "timesteps", "kernel distance, by images that did not choose"), _best(study)),
        "\n".join(f"- {finding}" for finding in budget_findings(study)),
        "## What the search found",
        _table(("sampler", "calls", "objective", "timesteps", "what came of it"), _lists(study)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _model(name: str) -> ModelBundle | None:
    published = name not in _BESIDE or f"{name}.safetensors" in published_hashes()
    return load_pretrained(name) if published else None


def _about(study: TradeoffCurve | BudgetStudy) -> str:
    place = study.machine.get("gpu") or study.machine["processor"]
    return f"Measured on {place}, torch {study.versions['torch']}; weights SHA-256 {study.model['weights_sha256'][:12]}…."


def _picture(model: str, name: str, words: str) -> str:
    file = f"{model}-{name}.png"
    return f"![{words[0].upper()}{words[1:]}](_static/{file})" if (_STATIC / file).exists() else ""


def _best(study: BudgetStudy) -> list[Sequence[str]]:
    rows = []
    for best in study.best():
        times = best.spacing if best.spacing not in SEARCHED else f"{best.spacing}: {', '.join(map(str, best.timesteps))}"
        rows.append((str(best.calls), best.sampler, times, figure_with_interval(best.fresh)))
    return rows


def _lists(study: BudgetStudy) -> list[Sequence[str]]:
    return [(x.sampler, str(x.calls), x.objective, ", ".join(map(str, x.timesteps)), x.reason) for x in study.lists]


def _scale(study: TradeoffCurve) -> list[Sequence[str]]:
    ends = (("other real images (floor)", study.floor), (study.baseline.label, study.baseline.quality), ("noise", study.noise))
    return [_unbroken(quality_cells(name, quality, None, "")[:-2]) for name, quality in ends if quality is not None]


def _curve(study: TradeoffCurve) -> list[Sequence[str]]:
    return [_unbroken(quality_cells(c.label, c.quality, c.same_seed_distance, "")[:-1]) for c in study.configurations]


def _unbroken(cells: Sequence[str]) -> list[str]:
    """Cells whose lines do not break inside an interval."""
    return [re.sub(r"\(.*\)| ±| /", lambda part: part[0].replace(" ", "\N{NO-BREAK SPACE}"), cell) for cell in cells]


def _presets(refinable: dict[str, Choice], best: dict[str, Choice]) -> str:
    rows = [(name, _named(choice), choice.reason, _named(best[name])) for name, choice in refinable.items()]
    return _table(("preset", "sampler and steps", "why", "with `refinable=False`"), rows)


def _named(choice: Choice) -> str:
    name = choice.sampler.removesuffix("Sampler").replace("_", "-")
    spacing = "" if choice.spacing == "trailing" else f", {choice.spacing} list" if choice.timesteps else f", {choice.spacing}"
    return f"{name}, {choice.steps} steps{spacing}" + (f", eta {choice.eta:g}" if choice.eta else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
