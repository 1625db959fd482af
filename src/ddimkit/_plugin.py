"""What a class of samplers gets when it inherits :class:`~ddimkit.PlanSampler`: its methods, with the checks around them."""

import math
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from numbers import Real
from typing import Any

from ddimkit.plan import Plan

__all__ = ["adopt", "then_plan"]


def adopt(kind: type[Any]) -> None:
    """Put the checks around the methods that a class of samplers defines itself."""
    own = kind.__dict__
    if "plan" in own:
        type.__setattr__(kind, "plan", _with_levels(own["plan"]))
    if "__post_init__" in own:
        type.__setattr__(kind, "__post_init__", then_plan(own["__post_init__"]))
    if "__repr__" not in own:
        # Else @dataclass writes one, which shows every timestep.
        type.__setattr__(kind, "__repr__", kind.__repr__)


def then_plan(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """A class's ``__post_init__`` that ends with the making of the plan, where it is the last one of the object.

    The errors of a plan then belong to the constructor, and torch.compile, which cannot trace its making, finds it made.
    """

    @wraps(check)
    def checked(sampler: Any) -> None:
        check(sampler)
        if type(sampler).__post_init__ is checked:
            _ = sampler.coefficients

    return checked


def _with_levels(plan: Callable[[Any], Plan]) -> Callable[[Any], Plan]:
    """A class's ``plan()``, which refuses settings that are NaN, and whose table knows the sampler's signal and noise."""

    @wraps(plan)
    def known(sampler: Any) -> Plan:
        for setting in fields(sampler):
            value = getattr(sampler, setting.name)
            if isinstance(value, Real) and math.isnan(value):
                raise ValueError(f"{setting.name} of {type(sampler).__name__} must be a number, got {value}")
        made = plan(sampler)
        if not isinstance(made, Plan):
            raise TypeError(f"{type(sampler).__name__}.plan() must return a Plan, got {type(made).__name__}")
        return made.with_levels(sampler.schedule)

    return known
