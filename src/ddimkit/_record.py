"""The record of a call: everything that reproduces it, as plain JSON values."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

from ddimkit._numbers import integer, sizes
from ddimkit._version import __version__
from ddimkit.noise import NOISE_SCHEME, SeedLike, sample_seeds, seed_list
from ddimkit.prediction import DynamicThreshold
from ddimkit.schedule import NoiseSchedule

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["make_record"]

_SCHEMA = 1


@runtime_checkable
class Saveable(Protocol):
    """A setting that gives itself as plain JSON values."""

    def to_dict(self) -> dict[str, Any]:
        """The values."""
        ...


def make_record(
    sampler: "DataclassInstance",
    schedule: NoiseSchedule,
    nfe: int,
    shape: Sequence[int] | None,
    seed: SeedLike | None,
    start_at: int,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """What :meth:`PlanSampler.record` gives: the sampler's fields are the settings, ``nfe`` the model calls of this call."""
    settings = {f.name: _plain(getattr(sampler, f.name)) for f in fields(sampler) if f.name != "schedule"}
    seeds = None if seed is None else list(sample_seeds(seed, integer(shape[0], "shape"))) if shape else seed_list(seed)
    return {
        "schema": _SCHEMA,
        "sampler": f"{type(sampler).__module__}.{type(sampler).__qualname__}",
        "settings": settings,
        "schedule": {"sha256": schedule.sha256, "spec": None if schedule.spec is None else dict(schedule.spec)},
        "nfe": nfe,
        "noise": NOISE_SCHEME,
        "call": {
            "shape": None if shape is None else list(sizes(shape, "shape", "(B, ...)")),
            "seeds": seeds,
            "start_at": integer(start_at, "start_at"),
            "dtype": str(dtype or torch.float32).removeprefix("torch."),
        },
        "versions": {"ddimkit": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
    }


def _plain(value: object) -> Any:
    """A setting as a JSON value."""
    if isinstance(value, DynamicThreshold):
        return {"quantile": value.quantile, "max": value.max}
    if isinstance(value, Saveable):
        return value.to_dict()
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(v) for v in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
