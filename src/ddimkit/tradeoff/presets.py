"""Named choices of sampler and steps, from a model's study where there is one."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ddimkit.errors import DDIMKitError
from ddimkit.models.bundle import ModelBundle, PresetName
from ddimkit.quality.measure import Quality
from ddimkit.samplers.named import MAKERS, adds_noise
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.budget import SEARCHED, BudgetResult, BudgetStudy, best_at_calls
from ddimkit.tradeoff.recommend import Recommendation, Scale, Verdict, best_of, percent_kept, recommendations
from ddimkit.tradeoff.results import ConfigurationResult, TradeoffCurve
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
            taken up again, better. False takes what needs the fewest steps of all, for the same quality.

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
    """The presets that a study's figures give, all held against the baseline, or, where nothing without noise is known to be within
    5 % of that, against the best that the study's best sampler without noise reaches.

    Args:
        study: the curve, whose samplers the presets have,
        budget: unless this knows one that needs fewer model calls for the same. Of its many results the best of each number of
            calls is asked, by images that did not choose it.
        refinable: whether samplers are left out that add noise, or whose images are known to be others than DDIM's. The target
            does not depend on it, so that False never takes more steps but for ``"research"``.

    Raises:
        DDIMKitError: nothing in the study can be a preset.
    """
    known = [r for r in recommendations(study) if r.sampler in _MAKERS]
    plain = [r for r in known if not _adds_noise(r)]
    kept = sorted(plain if refinable else known, key=lambda r: min(v.excess for v in r.verdicts))
    if not kept:
        raise DDIMKitError("the study judged no sampler that such a preset can be made of")
    every = [] if budget is None else [r for r in budget.results if r.sampler in MAKERS and r.calls < study.baseline.nfe]
    same = [r for r in every if not r.draws_another]
    target = _target(best_of(plain), study, same) if plain else _target(best_of(known), study, every)
    found = _fewest([*(_of_line(line, study, target) for line in kept), _of_budget(same if refinable else every, study, target)])
    most, baseline = best_of(kept), study.baseline
    found["research"] = _most(most)
    if not refinable and baseline.nfe > found["research"].steps:
        found["research"] = Choice("research", baseline.sampler, baseline.nfe, "the baseline itself")
    names = (*_KEPT, "production", "research")
    first = {name: next(found[more] for more in names[i:] if more in found) for i, name in enumerate(names)}
    return {name: replace(choice, name=name) for name, choice in first.items()}


def _fewest(offers: Sequence[Mapping[str, Choice]]) -> dict[str, Choice]:
    """Of each preset the offer with the fewest steps, of equals the first, by lines that come closest to real images."""
    found = dict[str, Choice]()
    for name, choice in (pair for offer in offers for pair in offer.items()):
        if name not in found or choice.steps < found[name].steps:
            found[name] = choice
    return found


def _most(line: Recommendation) -> Choice:
    finest = line.verdicts[0]
    return Choice("research", line.sampler, finest.steps, f"{finest.label}, the most steps of the study", _eta(line))


def _eta(line: Recommendation) -> float | None:
    return line.eta if _takes_eta(line.sampler) else None


def _takes_eta(sampler: str) -> bool:
    return "eta" in inspect.signature(_MAKERS[sampler]).parameters


@dataclass(frozen=True, eq=False)
class _Target:
    """What presets are held against.

    Args:
        scale: its quality.
        name: its label; None for the baseline.
        about: what there is to say of it, at the end of a reason.
    """

    scale: Scale
    name: str | None = None
    about: str = ""

    @property
    def title(self) -> str:
        return self.name or "the baseline"


def _target(line: Recommendation, study: TradeoffCurve, results: Sequence[BudgetResult]) -> _Target:
    """The baseline, if the line or the best of a budget is within its tolerance; else the line's own best."""
    assert study.baseline.quality is not None
    assert study.floor is not None
    scale = Scale(study.baseline.quality, study.floor)
    if line.bare is not None or any(v.verdict == "within" for _, v in _verdicts(results, scale)):
        return _Target(scale)
    return _own_best(line, study, study.floor)


def _own_best(line: Recommendation, study: TradeoffCurve, floor: Quality) -> _Target:
    """The best that a sampler itself reaches, of the counts that the most images are known of."""
    known = _known(line, study)
    most = max(quality.count for _, quality in known)
    best, reached = min(((c, q) for c, q in known if q.count == most), key=lambda one: one[1].kernel.value)
    scale = Scale(reached, floor)
    sampler = line.sampler.removesuffix("Sampler") + ("" if line.eta is None else f" with eta {line.eta:g}")
    nothing = "nothing" if _adds_noise(line) else "nothing without noise"
    about = f". {best.label} is the best known of {sampler}; {nothing} is known to be within {scale.tolerance:.0%} of the baseline"
    return _Target(scale, best.label, about)


def _known(line: Recommendation, study: TradeoffCurve) -> list[tuple[ConfigurationResult, Quality]]:
    """The line's judged step counts."""
    own = [c for c in study.configurations if (c.sampler, c.eta) == (line.sampler, line.eta) and not c.baseline]
    return [(c, c.quality) for c in own if c.quality is not None]


def _of_line(line: Recommendation, study: TradeoffCurve, target: _Target) -> dict[str, Choice]:
    """What the line's step counts give; a preset that none is known to suffice for is left out."""
    scale, found = target.scale, dict[str, Choice]()
    verdicts = sorted((scale.verdict(c.label, c.steps, q) for c, q in _known(line, study)), key=lambda v: v.steps)
    for name, share in _KEPT.items():
        v = next((v for v in verdicts if v.keeps(share)), None)
        if v is not None:
            found[name] = Choice(name, line.sampler, v.steps, f"the fewest steps known to {_keep(share, target, v)}", _eta(line))
    if target.name is None:
        bare, why = line.bare, line.reasons[1]
    else:
        within = next((v for v in verdicts if v.verdict == "within"), None)
        bare, why = (None, "") if within is None else (within.steps, _within(within, target))
    if bare is not None:
        found["production"] = Choice("production", line.sampler, scale.buffered(bare, study.baseline.nfe), why, _eta(line))
    return found


def _within(v: Verdict, target: _Target) -> str:
    said = f"{v.label} is" if v.label != target.name else "fewer steps are not known to be"
    return f"{said} within {target.scale.tolerance:.0%} of {target.title}; with {target.scale.buffer:.0%} more{target.about}"


def _of_budget(results: Sequence[BudgetResult], study: TradeoffCurve, target: _Target) -> dict[str, Choice]:
    """The same of the best of each number of calls, the fewest first."""
    scale, known, found = target.scale, _verdicts(results, target.scale), dict[str, Choice]()
    for name, share in _KEPT.items():
        kept = next(((r, v) for r, v in known if v.keeps(share)), None)
        if kept is not None:
            r, v = kept
            found[name] = _chosen(name, r, r.calls, f"the fewest calls known to {_keep(share, target, v)}")
    named = [r for r in results if r.spacing not in SEARCHED]  # a searched list has no 20 % more steps
    within = next(((r, v) for r, v in _verdicts(named, scale) if v.verdict == "within"), None)
    if within is not None:
        r, v = within
        found["production"] = _chosen("production", r, scale.buffered(r.calls, study.baseline.nfe), _within(v, target))
    return found


def _verdicts(results: Sequence[BudgetResult], scale: Scale) -> list[tuple[BudgetResult, Verdict]]:
    """The best of each number of calls, by images that did not choose it: some of very many would else be within by chance."""
    best = [(r, r.fresh) for r in best_at_calls(results)]
    return [(r, scale.verdict(r.label, r.calls, fresh)) for r, fresh in best if fresh is not None]


def _keep(share: float, target: _Target, v: Verdict) -> str:
    return f"keep {share:.0%} of the quality of {target.title} ({percent_kept(v.kept)}){target.about}"


def _chosen(name: str, r: BudgetResult, steps: int, reason: str) -> Choice:
    searched = r.timesteps if r.spacing in SEARCHED else None
    return Choice(name, MAKERS[r.sampler].__name__, steps, reason, None, r.spacing, searched)


def _adds_noise(line: Recommendation) -> bool:
    eta: dict[str, float] = {"eta": line.eta} if line.eta is not None and _takes_eta(line.sampler) else {}
    return adds_noise(_MAKERS[line.sampler], **eta)
