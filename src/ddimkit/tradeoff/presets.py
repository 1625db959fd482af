"""Named choices of sampler and steps, from a model's study where there is one."""

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ddimkit.errors import DDIMKitError
from ddimkit.models.bundle import ModelBundle, PresetName
from ddimkit.samplers.named import MAKERS, SamplerMaker
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule
from ddimkit.tradeoff.budget import SEARCHED, BudgetResult, BudgetStudy
from ddimkit.tradeoff.recommend import Recommendation, Scale, best_of, percent_kept, recommendations
from ddimkit.tradeoff.results import TradeoffCurve
from ddimkit.tradeoff.studies import find_budget_study, find_study

__all__ = ["Choice", "choices", "from_study", "preset"]

_ALIASES: dict[str, str] = {"fast": "realtime", "balanced": "interactive", "quality": "production"}
_KEPT = {"realtime": 0.5, "interactive": 0.8}
_UNMEASURED = {"realtime": 50, "interactive": 100, "production": 250, "research": 1000}
_MAKERS = {make.__name__: make for make in MAKERS.values()}


@dataclass(frozen=True)
class Choice:
    """What a preset stands for.

    Attributes:
        name: the preset.
        sampler: name of the sampler's class.
        steps: its steps.
        reason: why, from the study; or that there is none.
        eta: of DDIM, None for a sampler without one.
        spacing: how the steps are spaced, or the objective by which a list was searched for.
        timesteps: that list; None for a named spacing.
    """

    name: str
    sampler: str
    steps: int
    reason: str
    eta: float | None = None
    spacing: str = "trailing"
    timesteps: tuple[int, ...] | None = None


def preset(name: PresetName, *, model: ModelBundle, refinable: bool = True) -> PlanSampler:
    """The sampler of a named preset for a model.

    Args:
        name: ``"realtime"`` (``"fast"``) keeps half of the baseline's quality, ``"interactive"`` (``"balanced"``) four fifths,
            ``"production"`` (``"quality"``) is within 5 % of it, with a safety buffer of 20 %; ``"research"`` takes the most steps.
            Where no count is known to reach the baseline, the sampler's own best stands in its place.
        model: whose study decides; without one, DDIM with 50, 100, 250 and 1000 steps, at most as many as the model has.
        refinable: only samplers without noise: a seed then draws nearly the same image in every preset, so that a preview can be
            taken up again, better. False takes the best of all.

    Raises:
        ValueError: no preset has this name.
        TypeError: the model is no ModelBundle.

    >>> from ddimkit import load_pretrained, preset
    >>> preset("research", model=load_pretrained("mnist")).nfe
    1000
    """
    if not isinstance(model, ModelBundle):
        raise TypeError(
            f"model must be a ModelBundle, as in preset(name, model=load_pretrained('mnist')), got {type(model).__name__}"
        )
    known = choices(model, refinable=refinable)
    wanted = _ALIASES.get(name, name)
    if wanted not in known:
        raise ValueError(f"the presets are {', '.join([*known, *_ALIASES])}, got {name!r}")
    choice = known[wanted]
    return model.sampler(_MAKERS[choice.sampler], **_settings(choice))


def _settings(choice: Choice) -> dict[str, Any]:
    walk = {"steps": choice.steps, "spacing": choice.spacing} if choice.timesteps is None else {"timesteps": choice.timesteps}
    return walk if choice.eta is None else {**walk, "eta": choice.eta}


def choices(model: ModelBundle, *, refinable: bool = True) -> dict[str, Choice]:
    """Every preset of a model by its name, with the reason."""
    study = find_study(model)
    if study is None:
        most, none = model.schedule.num_timesteps, "no study of this model has been made"
        return {name: Choice(name, "DDIMSampler", min(steps, most), none, 0.0) for name, steps in _UNMEASURED.items()}
    return from_study(study, find_budget_study(model), refinable=refinable)


def from_study(study: TradeoffCurve, budget: BudgetStudy | None = None, *, refinable: bool = True) -> dict[str, Choice]:
    """The presets that a study's figures give; without noise where they are to be refinable.

    Args:
        study: the curve, whose best sampler and eta every preset has,
        budget: unless this knows one that needs fewer model calls for the same.
        refinable: whether samplers that add noise are left out.

    Raises:
        DDIMKitError: nothing in the study can be a preset.
    """
    known = [r for r in recommendations(study) if r.sampler in _MAKERS and not (refinable and _adds_noise(r))]
    if not known:
        raise DDIMKitError("the study judged no sampler that such a preset can be made of")
    line = best_of(known)
    finest = line.verdicts[0]
    found = {name: _fewest(line, share) for name, share in _KEPT.items()}
    found["production"] = None if line.steps is None else (line.steps, line.reasons[1])
    found["research"] = (finest.steps, f"{finest.label}, the most steps of the study")
    eta = line.eta if _takes_eta(line.sampler) else None
    missing = {name: known for name, known in _by_itself(line, study).items() if found[name] is None}
    steps = _rising({name: known for name, known in {**found, **missing}.items() if known is not None})
    chosen = {name: Choice(name, line.sampler, *known, eta=eta) for name, known in steps.items()}
    for cheaper in [] if budget is None else _cheaper(study, budget, refinable):
        if found[cheaper.name] is None or cheaper.steps < chosen[cheaper.name].steps:
            chosen[cheaper.name] = cheaper
    return chosen


def _takes_eta(sampler: str) -> bool:
    return "eta" in inspect.signature(_MAKERS[sampler]).parameters


def _cheaper(study: TradeoffCurve, budget: BudgetStudy, refinable: bool) -> Iterator[Choice]:
    """What of the samplers at equal calls keeps the shares, and what is within the tolerance, with the fewest calls."""
    assert study.baseline.quality is not None
    assert study.floor is not None
    scale = Scale(study.baseline.quality, study.floor)
    known = [(r, scale.verdict(r.label, r.calls, r.quality)) for r in budget.results if r.sampler in MAKERS]
    known = [(r, v) for r, v in known if not (refinable and _noisy(MAKERS[r.sampler]))]
    for name, share in _KEPT.items():
        enough = [(r.calls, v.excess, r, v) for r, v in known if v.keeps(share)]
        if enough:
            _, _, r, v = min(enough, key=lambda one: one[:2])
            why = f"the fewest calls known to keep {share:.0%} of the baseline's quality ({percent_kept(v.kept)})"
            yield _of_budget(name, r, r.calls, why)
    within = [(r.calls, v.excess, r, v) for r, v in known if v.verdict == "within" and r.spacing not in SEARCHED]
    if within:
        calls, _, r, v = min(within, key=lambda one: one[:2])
        steps = math.ceil(round(calls * (1 + scale.buffer), 9))
        yield _of_budget(
            "production", r, steps, f"{v.label} is within {scale.tolerance:.0%} of the baseline; with {scale.buffer:.0%} more"
        )


def _of_budget(name: str, r: BudgetResult, steps: int, reason: str) -> Choice:
    searched = r.timesteps if r.spacing in SEARCHED else None
    return Choice(name, MAKERS[r.sampler].__name__, steps, reason, None, r.spacing, searched)


def _adds_noise(line: Recommendation) -> bool:
    eta: dict[str, float] = {"eta": line.eta} if line.eta is not None and _takes_eta(line.sampler) else {}
    return _noisy(_MAKERS[line.sampler], **eta)


def _noisy(make: SamplerMaker, **eta: float) -> bool:
    return bool((make(NoiseSchedule.linear(), steps=2, **eta).plan().c > 0).any())


def _fewest(line: Recommendation, share: float) -> tuple[int, str] | None:
    """The fewest steps known to keep a share of the baseline's quality, and the reason; None if none are."""
    kept = [v for v in line.verdicts if v.keeps(share)]
    if not kept:
        return None
    found = min(kept, key=lambda v: v.steps)
    return found.steps, f"the fewest steps known to keep {share:.0%} of the baseline's quality ({percent_kept(found.kept)})"


def _by_itself(line: Recommendation, study: TradeoffCurve) -> dict[str, tuple[int, str]]:
    """The same held against the best that the sampler itself reaches, of the counts that the most images are known of."""
    assert study.floor is not None
    judged = [(c, c.quality) for c in study.configurations if (c.sampler, c.eta) == (line.sampler, line.eta) and not c.baseline]
    known = [(c, quality) for c, quality in judged if quality is not None]
    most = max(quality.count for _, quality in known)
    best, reached = min(((c, q) for c, q in known if q.count == most), key=lambda one: one[1].kernel.value)
    scale = Scale(reached, study.floor)
    verdicts = sorted((scale.verdict(c.label, c.steps, q) for c, q in known if c.steps <= best.steps), key=lambda v: v.steps)
    beside = f"{best.label}, as good as this sampler is known to become, though not as the baseline"
    found = {}
    for name, share in _KEPT.items():
        v = next(v for v in verdicts if v.keeps(share))
        found[name] = v.steps, f"the fewest steps known to keep {share:.0%} of the quality of {beside} ({percent_kept(v.kept)})"
    bare = next(v for v in verdicts if v.verdict == "within")
    steps = math.ceil(round(bare.steps * (1 + scale.buffer), 9))
    why = f"{bare.label} is within {scale.tolerance:.0%} of {beside}"
    if bare.label == best.label:
        why = f"fewer steps are not known to be within {scale.tolerance:.0%} of {beside}"
    return {**found, "production": (steps, f"{why}; with {scale.buffer:.0%} more")}


def _rising(found: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """The same, where none takes more steps than one that promises more."""
    names = list(found)
    return {name: min((found[more] for more in names[i:]), key=lambda known: known[0]) for i, name in enumerate(names)}
