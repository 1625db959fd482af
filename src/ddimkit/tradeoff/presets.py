"""Presets: the fewest calls known to close a share of the gap, by name.

A preset draws on the committed study of the model's very weights. A model without one gets plain DDIM with step counts that the
field has found reasonable, which nothing here has measured.
"""

from functools import lru_cache
from typing import Literal, get_args

from ddimkit.errors import DDIMKitError
from ddimkit.models.bundle import ModelBundle
from ddimkit.samplers import DDIMSampler
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.committed import find_study
from ddimkit.tradeoff.gap import Gap
from ddimkit.tradeoff.recommend import Recommendation, candidates, nearest_known, recommend
from ddimkit.tradeoff.study import Study

__all__ = ["PRESETS", "PresetName", "preset", "presets", "presets_of"]

PresetName = Literal["realtime", "interactive", "production", "research", "fast", "balanced", "quality"]
"""What a preset is for; ``fast``, ``balanced`` and ``quality`` are other names of the first three."""

PRESETS = ("realtime", "interactive", "production", "research")
"""The presets, by rising number of calls."""

_SHARES = {"realtime": (0.5, 0.0), "interactive": (0.8, 0.0), "production": (0.95, 0.2)}
"""The share of the gap and the buffer of each."""
_ALIASES = {"fast": "realtime", "balanced": "interactive", "quality": "production"}
_UNMEASURED = {"realtime": 20, "interactive": 50, "production": 100, "research": 1000}


def preset(name: PresetName, *, model: ModelBundle, refinable: bool = True) -> PlanSampler:
    """The sampler that a preset stands for with this model.

    Args:
        name: ``"realtime"``, the fewest calls known to close 50 % of the gap between DDIM with 10 steps and DDPM with all;
            ``"interactive"`` 80 %; ``"production"`` 95 %, with 20 % more calls for safety; ``"research"``, the least distance
            known at any number of calls. ``"fast"``, ``"balanced"`` and ``"quality"`` are other names of the first three.
        model: the model.
        refinable: whether a seed must give the image that DDIM with many steps gives, so that more calls refine it. False also
            admits samplers that add noise.

    Raises:
        ValueError: no preset has this name.

    >>> from ddimkit import load_pretrained, preset
    >>> preset("realtime", model=load_pretrained("mnist")).nfe < 10
    True
    """
    if name not in get_args(PresetName):
        raise ValueError(f"the presets are {', '.join(get_args(PresetName))}, got {name!r}")
    return presets(model, refinable=refinable)[_ALIASES.get(name, name)].sampler


def presets(model: ModelBundle, *, refinable: bool = True) -> dict[str, Recommendation]:
    """Every preset of a model by its name, with its reasons."""
    study = find_study(model)
    if study is not None:
        return dict(_committed(study, refinable))
    most, found = model.schedule.num_timesteps, dict[str, Recommendation]()
    for name, steps in _UNMEASURED.items():
        sampler = model.sampler(DDIMSampler, steps=min(steps, most))
        reasons = ("No study of this model has been made: `ddimkit sweep` makes one.",)
        found[name] = Recommendation(sampler, None, sampler.nfe, None, False, None, None, reasons)
    return found


def presets_of(study: Study, *, refinable: bool = True) -> dict[str, Recommendation]:
    """The presets that a study's figures give.

    Raises:
        DDIMKitError: the quality of the baseline was not measured, or no row can be a preset.
    """
    found = {name: recommend(study, close=share, refinable=refinable, buffer=buffer) for name, (share, buffer) in _SHARES.items()}
    return {**found, "research": _nearest(study, refinable=refinable)}


@lru_cache(maxsize=8)
def _committed(study: Study, refinable: bool) -> dict[str, Recommendation]:
    return presets_of(study, refinable=refinable)


def _nearest(study: Study, *, refinable: bool) -> Recommendation:
    """The least distance known at any number of calls, the baseline's among them unless the image of a seed must stay."""
    rows = candidates(study, refinable=refinable) + ([] if refinable and not study.base.refinable else [study.base])
    if not rows:
        raise DDIMKitError(f"no evaluated row can be a preset with refinable={refinable}")
    row, gap = nearest_known(study, rows), Gap(study)
    reason = f"{row.label} has the least distance known at any number of calls."
    return Recommendation(row.sampler, row, row.calls, None, True, gap.closed(row), None, (reason,))
