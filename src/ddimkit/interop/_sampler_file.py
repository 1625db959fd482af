"""A sampler as plain JSON values, and again: ddimkit's own classes by their settings, every other one by its table."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ddimkit import samplers
from ddimkit.plan import Plan
from ddimkit.prediction import DynamicThreshold
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule

__all__ = ["describe", "restore"]

_FORMAT, _SCHEMA, _TABLE = "ddimkit-sampler", 1, "table"
_CLASSES: dict[str, type[PlanSampler]] = {
    name: found
    for name in samplers.__all__
    if isinstance(found := getattr(samplers, name), type) and issubclass(found, PlanSampler)
}


def describe(sampler: PlanSampler) -> dict[str, Any]:
    """The sampler as plain JSON values."""
    kind = type(sampler).__name__
    settings: dict[str, Any]
    if _CLASSES.get(kind) is type(sampler):
        left_out = {"schedule", "timesteps" if sampler.steps is not None else "steps"}
        settings = {f.name: getattr(sampler, f.name) for f in fields(sampler) if f.name not in left_out}
    else:
        kind, settings = _TABLE, {"prediction": sampler.prediction, "plan": sampler.coefficients.plan.to_dict()}
    settings["clip"] = asdict(sampler.clip) if isinstance(sampler.clip, DynamicThreshold) else sampler.clip
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return {"format": _FORMAT, "schema": _SCHEMA, "kind": kind, "schedule": _described(sampler.schedule), "settings": plain}


def _described(schedule: NoiseSchedule) -> dict[str, Any]:
    if schedule.spec is not None:
        return dict(schedule.spec)
    return {"signal": schedule.signal.tolist(), "noise": schedule.noise.tolist()}


def restore(saved: object) -> PlanSampler:
    """What :func:`describe` gave, as a sampler.

    Raises:
        ValueError: no description of a sampler, or one that this version cannot read.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(f"the description of a sampler must be a mapping, got {type(saved).__name__}")
    if (saved.get("format"), saved.get("schema")) != (_FORMAT, _SCHEMA):
        raise ValueError(
            f"a sampler of format {_FORMAT}, schema {_SCHEMA}, is wanted, got {saved.get('format')!r}, {saved.get('schema')!r}"
        )
    try:
        kind, levels, settings = saved["kind"], saved["schedule"], dict(saved["settings"])
        schedule = NoiseSchedule.from_spec(levels) if "name" in levels else NoiseSchedule(levels["signal"], levels["noise"])
        if isinstance(settings["clip"], Mapping):
            settings["clip"] = DynamicThreshold(**settings["clip"])
        if kind == _TABLE:
            return PlanSampler.from_plan(schedule, Plan.from_dict(settings.pop("plan")), **settings)
        return _CLASSES[kind](schedule, **settings)
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"the saved sampler cannot be read: {error}") from error
