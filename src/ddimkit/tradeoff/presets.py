"""Named choices of sampler and steps, from a model's study where there is one."""

from dataclasses import dataclass

from ddimkit.errors import DDIMKitError
from ddimkit.models.bundle import ModelBundle, PresetName
from ddimkit.samplers import DDIMSampler
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.configurations import SamplerMaker, sigma_hat
from ddimkit.tradeoff.recommend import Recommendation, Verdict, best_of, recommendations
from ddimkit.tradeoff.results import TradeoffCurve
from ddimkit.tradeoff.studies import find_study

__all__ = ["Choice", "choices", "from_study", "preset"]

_ALIASES: dict[str, str] = {"fast": "realtime", "balanced": "interactive", "quality": "production"}
_KEPT = {"realtime": 0.5, "interactive": 0.8}
_UNMEASURED = {"realtime": 50, "interactive": 100, "production": 250, "research": 1000}
_MAKERS: dict[str, SamplerMaker] = {"DDIMSampler": DDIMSampler, "sigma_hat": sigma_hat}


@dataclass(frozen=True)
class Choice:
    """What a preset stands for.

    Attributes:
        name: the preset.
        sampler: name of the sampler's class.
        steps: its steps.
        eta: of DDIM, None for a sampler without one.
        reason: why, from the study; or that there is none.
    """

    name: str
    sampler: str
    steps: int
    eta: float | None
    reason: str


def preset(name: PresetName, *, model: ModelBundle) -> PlanSampler:
    """The sampler of a named preset for a model.

    Args:
        name: ``"realtime"`` (``"fast"``) keeps half of the baseline's quality, ``"interactive"`` (``"balanced"``) four fifths,
            ``"production"`` (``"quality"``) is within 5 % of it, with a safety buffer of 20 %; ``"research"`` takes the most steps.
        model: whose study decides; without one, DDIM with 50, 100, 250 and 1000 steps, at most as many as the model has.

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
    known = choices(model)
    wanted = _ALIASES.get(name, name)
    if wanted not in known:
        raise ValueError(f"the presets are {', '.join([*known, *_ALIASES])}, got {name!r}")
    choice = known[wanted]
    keywords = {} if choice.eta is None else {"eta": choice.eta}
    return model.sampler(_MAKERS[choice.sampler], steps=choice.steps, **keywords)


def choices(model: ModelBundle) -> dict[str, Choice]:
    """Every preset of a model by its name, with the reason."""
    study = find_study(model)
    if study is None:
        most, none = model.schedule.num_timesteps, "no study of this model has been made"
        return {name: Choice(name, "DDIMSampler", min(steps, most), 0.0, none) for name, steps in _UNMEASURED.items()}
    return from_study(study)


def from_study(study: TradeoffCurve) -> dict[str, Choice]:
    """The presets that a study's figures give.

    Raises:
        DDIMKitError: nothing in the study can be a preset.
    """
    known = [r for r in recommendations(study) if r.sampler in _MAKERS]
    if not known:
        raise DDIMKitError("the study judged no sampler that a preset can be made of")
    made = {name: _fewest(name, known, share) for name, share in _KEPT.items()}
    best = best_of(known)
    made["production"] = _closest("production", known) if best.steps is None else _recommended(best, best.steps)
    finest = max(known, key=lambda r: r.verdicts[0].steps)
    why = f"{finest.verdicts[0].label}, the most steps of the study"
    made["research"] = Choice("research", finest.sampler, finest.verdicts[0].steps, finest.eta, why)
    return made


def _fewest(name: str, known: list[Recommendation], share: float) -> Choice:
    """The fewest steps of any sampler that keep a share of the baseline's quality, the better one of equals."""
    kept = [(v.steps, v.excess, i) for i, r in enumerate(known) for v in r.verdicts if v.kept >= share]
    if not kept:
        return _closest(name, known)
    steps, _, i = min(kept)
    found = next(v for v in known[i].verdicts if v.steps == steps)
    return _choice(name, known[i], found, f"the fewest steps that keep {share:.0%} of the baseline's quality ({found.kept:.0%})")


def _closest(name: str, known: list[Recommendation]) -> Choice:
    _, i = min((v.excess, i) for i, r in enumerate(known) for v in r.verdicts)
    found = min(known[i].verdicts, key=lambda v: v.excess)
    return _choice(name, known[i], found, "the closest to the baseline, which none is known to reach")


def _choice(name: str, known: Recommendation, found: Verdict, reason: str) -> Choice:
    return Choice(name, known.sampler, found.steps, known.eta, reason)


def _recommended(best: Recommendation, steps: int) -> Choice:
    return Choice("production", best.sampler, steps, best.eta, best.reasons[1])
