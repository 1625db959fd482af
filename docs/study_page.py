"""The figures of a committed study as Markdown: scale, curve, recommendation and presets, all computed from its results."""

from collections.abc import Iterable, Sequence

from ddimkit import load_pretrained
from ddimkit.published import published_hashes
from ddimkit.tradeoff.findings import lines, refining
from ddimkit.tradeoff.presets import Choice, choices
from ddimkit.tradeoff.quality_findings import quality_findings
from ddimkit.tradeoff.recommend import recommend
from ddimkit.tradeoff.report import QUALITY_COLUMNS, quality_cells
from ddimkit.tradeoff.results import TradeoffCurve
from ddimkit.tradeoff.studies import find_study

_BESIDE = ("cifar10",)


def page(name: str) -> str:
    """What the study of a model of ours says; that there is none, where no weights have been published or no study is of them."""
    if name in _BESIDE and f"{name}.safetensors" not in published_hashes():
        return f"No weights of the {name} model have been published yet, and so no study of them.\n"
    bundle = load_pretrained(name)
    study = find_study(bundle)
    if study is None:
        return f"No study of the bundled {name} model's present weights has been made yet.\n"
    parts = [
        f"Measured on {study.machine.get('gpu') or study.machine['processor']}, torch {study.versions['torch']}; weights "
        f"SHA-256 {study.model['weights_sha256'][:12]}….",
        "## The scale",
        _table(QUALITY_COLUMNS[:-2], _scale(study)),
        "## The curve",
        _table(QUALITY_COLUMNS, _curve(study)),
        "\n".join(f"- {finding}" for finding in quality_findings(study, lines(study, every_eta=True))),
        "## How few steps are enough",
        "\n".join(f"- {reason}" for reason in recommend(study).reasons),
        "## Presets",
        _presets(choices(bundle), choices(bundle, refinable=False)),
        "## Refining",
        refining(study) or "",
    ]
    return "\n\n".join(parts) + "\n"


def _scale(study: TradeoffCurve) -> list[Sequence[str]]:
    ends = (("other real images (floor)", study.floor), (study.baseline.label, study.baseline.quality), ("noise", study.noise))
    return [quality_cells(name, quality, None, "")[:-2] for name, quality in ends if quality is not None]


def _curve(study: TradeoffCurve) -> list[Sequence[str]]:
    return [quality_cells(c.label, c.quality, c.same_seed_distance, c.quality_note) for c in study.configurations]


def _presets(refinable: dict[str, Choice], best: dict[str, Choice]) -> str:
    rows = [(name, _named(choice), choice.reason, _named(best[name])) for name, choice in refinable.items()]
    return _table(("preset", "sampler and steps", "why", "with `refinable=False`"), rows)


def _named(choice: Choice) -> str:
    name = choice.sampler.removesuffix("Sampler").replace("_", "-")
    spacing = "" if choice.spacing == "trailing" else f", {choice.spacing} list" if choice.timesteps else f", {choice.spacing}"
    return f"{name}, {choice.steps} steps{spacing}" + (f", eta {choice.eta:g}" if choice.eta else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
