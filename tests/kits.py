"""The conformance kit as a plug-in's author inherits it, for samplers given as functions; and one check of it at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddimkit import NoiseSchedule, PlanSampler
from ddimkit.testing import SamplerConformance, TableConformance

Maker = Callable[..., PlanSampler]

OTHER: dict[str, dict[str, Any]] = {
    "DDIMSampler": {"eta": 0.9},
    "DDPMSampler": {"variance": "fixed_large"},
    "DPMSolverPPSampler": {"order": 1, "eta": 1.0},
    "UniPCSampler": {"order": 1, "variant": "bh1"},
    "DEISSampler": {"order": 1, "variant": "ipndm"},
    "SASolverSampler": {"order": 1, "corrector_order": 0, "eta": 0.3},
    "GradientEstimationSampler": {"gamma": 1.5},
}
"""Another value of each setting, by class; where a test's own setting is that value, the second of its pair in `SECOND`."""
SECOND: dict[str, Any] = {"eta": 0.0, "variance": "fixed_small", "order": 2, "variant": "bh2", "corrector_order": 1, "gamma": 2.0}


def of(kind: type[PlanSampler], **settings: Any) -> Maker:
    def make(schedule: NoiseSchedule, **keywords: Any) -> PlanSampler:
        return kind(schedule, **settings, **keywords)

    make.settings = others_of(kind, settings)  # type: ignore[attr-defined]
    return make


def others_of(kind: type[PlanSampler], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Another value of each setting that the class adds, different from the ones given."""
    named = next((OTHER[base.__name__] for base in kind.__mro__ if base.__name__ in OTHER), {})
    second = {**SECOND, **({"variant": "rho_ab"} if kind.__name__ == "DEISSampler" else {})}
    return {name: second[name] if settings.get(name) == value else value for name, value in named.items()}


def conformance(make: Maker, schedule: NoiseSchedule = SamplerConformance.schedule, **attributes: Any) -> type[SamplerConformance]:
    """The kit for what `make` makes."""
    default, named = schedule, getattr(make, "settings", {})

    class Kit(SamplerConformance):
        schedule = default

        def make(self, schedule: NoiseSchedule, *, steps: int | None = None, timesteps: Sequence[int] = ()) -> PlanSampler:
            return make(schedule, steps=steps, timesteps=tuple(timesteps))

        def other_settings(self) -> Mapping[str, Any]:
            return named

    for name, value in attributes.items():
        setattr(Kit, name, value)
    return Kit


def table_conformance(make: Callable[[], PlanSampler]) -> type[TableConformance]:
    """The kit of tables for what `make` makes."""

    class Kit(TableConformance):
        def make(self) -> PlanSampler:
            return make()

    return Kit


def checks(kit: type[object]) -> list[str]:
    """The names of a kit's checks."""
    return [name for name in dir(kit) if name.startswith("test_")]
