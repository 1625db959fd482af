"""Named choices of sampler and steps, from a model's study where there is one."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ddimkit.errors import DDIMKitError
from ddimkit.models.bundle import ModelBundle, PresetName
from ddimkit.samplers.named import MAKERS, SamplerMaker
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule
from ddimkit.tradeoff.budget import SEARCHED, BudgetResult, BudgetStudy
from ddimkit.tradeoff.findings import SAME
from ddimkit.tradeoff.recommend import Recommendation, Scale, Verdict, best_of, percent_kept, recommendations
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
    eta, own = line.eta if _takes_eta(line.sampler) else None, _own_best(line, study)
    missing = {name: known for name, known in _by_itself(own).items() if found[name] is None}
    both = {name: known for name, known in {**found, **missing}.items() if known is not None}
    chosen = {name: Choice(name, line.sampler, *known, eta=eta) for name, known in both.items()}
    if budget is not None:
        chosen |= _cheaper(chosen, {name: found[name] is not None for name in chosen}, _baseline(study), own, budget, refinable)
    return _rising(chosen)


def _takes_eta(sampler: str) -> bool:
    return "eta" in inspect.signature(_MAKERS[sampler]).parameters


@dataclass(frozen=True, eq=False)
class _Target:
    """What a preset is held against.

    Args:
        scale: its quality.
        name: what it is called.
        known: what of the study is held against it, by rising steps.
    """

    scale: Scale
    name: str
    known: Sequence[Verdict] = ()


def _baseline(study: TradeoffCurve) -> _Target:
    assert study.baseline.quality is not None
    assert study.floor is not None
    return _Target(Scale(study.baseline.quality, study.floor), "the baseline")


def _cheaper(
    chosen: Mapping[str, Choice], reached: Mapping[str, bool], base: _Target, own: _Target, budget: BudgetStudy, refinable: bool
) -> dict[str, Choice]:
    """The presets for which the samplers at equal calls know something cheaper, or the first thing that reaches the baseline."""
    results = [r for r in budget.results if r.sampler in MAKERS and not (refinable and _draws_another(r))]
    found = dict[str, Choice]()
    for name in (*_KEPT, "production"):
        cheapest = _cheapest(name, results, base)
        if cheapest is None or (reached[name] and cheapest.steps >= chosen[name].steps):
            cheapest = None if reached[name] else _cheapest(name, results, own)
            if cheapest is None or cheapest.steps >= chosen[name].steps:
                continue
        found[name] = cheapest
    return found


def _draws_another(r: BudgetResult) -> bool:
    """Whether a seed draws another image than it does in DDIM's many steps."""
    return _noisy(MAKERS[r.sampler]) or (r.apart is not None and r.apart >= SAME)


def _cheapest(name: str, results: Sequence[BudgetResult], target: _Target) -> Choice | None:
    """The fewest calls that keep a preset's share of the target's quality, or are within the tolerance of it; None if none do."""
    scale, share = target.scale, _KEPT.get(name)
    known = [(r, scale.verdict(r.label, r.calls, r.quality)) for r in results]
    if share is None:
        # A list has no 20 % more steps.
        enough = [(r, v) for r, v in known if v.verdict == "within" and r.spacing not in SEARCHED]
    else:
        enough = [(r, v) for r, v in known if v.keeps(share)]
    if not enough:
        return None
    r, v = min(enough, key=lambda one: (one[0].calls, one[1].excess))
    if share is not None:
        why = f"the fewest calls known to keep {share:.0%} of the quality of {target.name} ({percent_kept(v.kept)})"
        return _of_budget(name, r, r.calls, why)
    steps = math.ceil(round(r.calls * (1 + scale.buffer), 9))
    return _of_budget(name, r, steps, f"{v.label} is within {scale.tolerance:.0%} of {target.name}; with {scale.buffer:.0%} more")


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
    return found.steps, f"the fewest steps known to keep {share:.0%} of the quality of the baseline ({percent_kept(found.kept)})"


def _own_best(line: Recommendation, study: TradeoffCurve) -> _Target:
    """The best that the sampler itself reaches, of the counts that the most images are known of, and what takes no more steps."""
    assert study.floor is not None
    judged = [(c, c.quality) for c in study.configurations if (c.sampler, c.eta) == (line.sampler, line.eta) and not c.baseline]
    known = [(c, quality) for c, quality in judged if quality is not None]
    most = max(quality.count for _, quality in known)
    best, reached = min(((c, q) for c, q in known if q.count == most), key=lambda one: one[1].kernel.value)
    scale = Scale(reached, study.floor)
    verdicts = sorted((scale.verdict(c.label, c.steps, q) for c, q in known if c.steps <= best.steps), key=lambda v: v.steps)
    return _Target(scale, f"{best.label}, as good as this sampler is known to become, though not as the baseline", verdicts)


def _by_itself(own: _Target) -> dict[str, tuple[int, str]]:
    """The steps and reasons of the presets where the sampler's own best stands in for the baseline."""
    found = {}
    for name, share in _KEPT.items():
        v = next(v for v in own.known if v.keeps(share))
        found[name] = v.steps, f"the fewest steps known to keep {share:.0%} of the quality of {own.name} ({percent_kept(v.kept)})"
    bare, tolerance = next(v for v in own.known if v.verdict == "within"), f"{own.scale.tolerance:.0%}"
    steps = math.ceil(round(bare.steps * (1 + own.scale.buffer), 9))
    why = f"{bare.label} is within {tolerance} of {own.name}"
    if bare is own.known[-1]:
        why = f"fewer steps are not known to be within {tolerance} of {own.name}"
    return {**found, "production": (steps, f"{why}; with {own.scale.buffer:.0%} more")}


def _rising(chosen: Mapping[str, Choice]) -> dict[str, Choice]:
    """The same, where none takes more steps than one that promises more."""
    names = list(chosen)
    cheapest = {name: min((chosen[more] for more in names[i:]), key=lambda choice: choice.steps) for i, name in enumerate(names)}
    return {name: replace(choice, name=name) for name, choice in cheapest.items()}
