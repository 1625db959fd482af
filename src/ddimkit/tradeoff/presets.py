"""Named choices of sampler and steps, from a model's study where there is one."""

from dataclasses import dataclass

from ddimkit.errors import DDIMKitError
from ddimkit.models.bundle import ModelBundle, PresetName
from ddimkit.samplers.named import MAKERS
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule
from ddimkit.tradeoff.recommend import Recommendation, best_of, recommendations
from ddimkit.tradeoff.results import TradeoffCurve
from ddimkit.tradeoff.studies import find_study

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
        eta: of DDIM, None for a sampler without one.
        reason: why, from the study; or that there is none.
    """

    name: str
    sampler: str
    steps: int
    eta: float | None
    reason: str


def preset(name: PresetName, *, model: ModelBundle, refinable: bool = True) -> PlanSampler:
    """The sampler of a named preset for a model.

    Args:
        name: ``"realtime"`` (``"fast"``) keeps half of the baseline's quality, ``"interactive"`` (``"balanced"``) four fifths,
            ``"production"`` (``"quality"``) is within 5 % of it, with a safety buffer of 20 %; ``"research"`` takes the most steps.
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
    keywords = {} if choice.eta is None else {"eta": choice.eta}
    return model.sampler(_MAKERS[choice.sampler], steps=choice.steps, **keywords)


def choices(model: ModelBundle, *, refinable: bool = True) -> dict[str, Choice]:
    """Every preset of a model by its name, with the reason."""
    study = find_study(model)
    if study is None:
        most, none = model.schedule.num_timesteps, "no study of this model has been made"
        return {name: Choice(name, "DDIMSampler", min(steps, most), 0.0, none) for name, steps in _UNMEASURED.items()}
    return from_study(study, refinable=refinable)


def from_study(study: TradeoffCurve, *, refinable: bool = True) -> dict[str, Choice]:
    """The presets that a study's figures give, all of one sampler and eta; without noise where they are to be refinable.

    Raises:
        DDIMKitError: nothing in the study can be a preset.
    """
    known = [r for r in recommendations(study) if r.sampler in _MAKERS and not (refinable and _adds_noise(r))]
    if not known:
        raise DDIMKitError("the study judged no sampler that such a preset can be made of")
    line = best_of(known)
    finest = line.verdicts[0]
    found = {name: _fewest(line, share) for name, share in _KEPT.items()}
    found["production"] = _closest(line) if line.steps is None else (line.steps, line.reasons[1])
    found["research"] = (finest.steps, f"{finest.label}, the most steps of the study")
    return {name: Choice(name, line.sampler, steps, line.eta, reason) for name, (steps, reason) in found.items()}


def _adds_noise(line: Recommendation) -> bool:
    eta: dict[str, float] = {} if line.eta is None else {"eta": line.eta}
    return bool((_MAKERS[line.sampler](NoiseSchedule.linear(), steps=2, **eta).plan().c > 0).any())


def _fewest(line: Recommendation, share: float) -> tuple[int, str]:
    """The fewest steps known to keep a share of the baseline's quality, and the reason."""
    kept = [v for v in line.verdicts if v.keeps(share)]
    if not kept:
        return _closest(line)
    found = min(kept, key=lambda v: v.steps)
    return found.steps, f"the fewest steps known to keep {share:.0%} of the baseline's quality ({found.kept:.0%})"


def _closest(line: Recommendation) -> tuple[int, str]:
    return min(line.verdicts, key=lambda v: v.excess).steps, "the closest to the baseline, which none is known to reach"
