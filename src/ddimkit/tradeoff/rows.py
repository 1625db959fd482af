"""One row of a study: a sampler of any kind, and what was measured of it."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from ddimkit._repr import short_repr
from ddimkit.learning import LearnedSampler
from ddimkit.learning.learned import Origin
from ddimkit.plan import Plan
from ddimkit.prediction import DynamicThreshold
from ddimkit.quality.measure import Quality
from ddimkit.quality.reference import Label
from ddimkit.samplers import (
    ConsistencySampler,
    DDIMSampler,
    DDPMSampler,
    DEISSampler,
    DPMSolverPPSampler,
    GradientEstimationSampler,
    HeunSampler,
    SASolverSampler,
    UniPCSampler,
)
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule
from ddimkit.tradeoff.times import Times

__all__ = [
    "SAME_IMAGE",
    "Row",
    "eta_pairs",
    "family",
    "kind_of",
    "label_of",
    "read_row",
    "sampler_from_dict",
    "sampler_to_dict",
    "spacing_of",
]

SAME_IMAGE = 0.5
"""A sampler draws the same image of a seed as another where the two are nearer than this share of the distance between seeds."""

_CLASSES: dict[str, type[PlanSampler]] = {
    kind.__name__: kind
    for kind in (
        DDIMSampler,
        DDPMSampler,
        DPMSolverPPSampler,
        UniPCSampler,
        HeunSampler,
        DEISSampler,
        SASolverSampler,
        GradientEstimationSampler,
        ConsistencySampler,
    )
}
_SHARED = ("prediction", "clip")
"""Settings that all samplers of a study have in common."""


@dataclass(frozen=True, eq=False)
class Row:
    """A sampler and what was measured of it.

    Attributes:
        sampler: of any kind: a class with its settings, a named spacing, a list of timesteps, or a table.
        label: what tells it from the other rows, as in ``DDIM-50 eta 0.5``.
        quality: metrics by seeds that chose nothing; None where there are none.
        selection: metrics by the seeds among which the best row of equal calls was chosen; None where nothing was chosen.
        source: where the metrics are from, or why there are none.
        times: seconds and memory of a run; None where it was not timed.
        same_seed: root mean square distance from the images that the study's finest row draws of the same seeds, as a share of the
            distance between images of different seeds; None where it is not known.
        predicted: squared Fréchet distance, in pixels, of what the sampler makes of normal data with the real images' mean and
            covariance, by arithmetic alone; None where it is not known.
        search: how its timesteps or table were found, as plain JSON values; empty for named spacings.
    """

    sampler: PlanSampler
    label: str
    quality: Quality | None = None
    selection: Quality | None = None
    source: str = ""
    times: Times | None = None
    same_seed: float | None = None
    predicted: float | None = None
    search: Mapping[str, Any] | None = None

    __repr__ = short_repr

    @property
    def calls(self) -> int:
        """Model calls of a run (NFE)."""
        return self.sampler.nfe

    @property
    def known(self) -> Quality | None:
        """The metrics by seeds that chose nothing, else those by which it was chosen or not."""
        return self.quality or self.selection

    @property
    def adds_noise(self) -> bool:
        """Whether the sampler adds noise on the way."""
        return self.sampler.coefficients.plan.adds_noise

    @property
    def refinable(self) -> bool:
        """Whether a seed is known to give the image that DDIM with many steps gives, so that more calls refine it."""
        return not self.adds_noise and self.same_seed is not None and self.same_seed < SAME_IMAGE

    @property
    def record(self) -> dict[str, Any]:
        """What reproduces the sampler, as plain JSON values."""
        return self.sampler.record()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what all rows share is left to the study."""
        parts: dict[str, Any] = {"label": self.label, "sampler": sampler_to_dict(self.sampler)}
        for name in ("quality", "selection", "times"):
            value = getattr(self, name)
            parts[name] = None if value is None else value.to_dict()
        rest = {"source": self.source or None, "same_seed": self.same_seed, "predicted": self.predicted, "search": self.search}
        rounded = {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in rest.items()}
        return {name: value for name, value in {**parts, **rounded}.items() if value is not None}


def read_row(saved: Mapping[str, Any], schedule: NoiseSchedule, shared: Mapping[str, Any], label: Label | None) -> Row:
    """The row that :meth:`Row.to_dict` gave.

    Args:
        saved: the row's values.
        schedule: the study's.
        shared: prediction and clip of all rows.
        label: what all metrics of the study are relative to.

    Raises:
        KeyError, TypeError, ValueError: something is missing, of another kind or out of range.
    """
    if "sampler" not in saved:
        raise ValueError(f"row {saved.get('label')!r} has no sampler")
    plain = {name: saved[name] for name in ("same_seed", "predicted", "search", "source") if name in saved}
    found: dict[str, Any] = {}
    for name in ("quality", "selection"):
        if name in saved:
            if label is None:
                raise ValueError(f"row {saved['label']!r} has a quality, but the study does not say relative to what")
            found[name] = Quality.from_dict(saved[name], label)
    if "times" in saved:
        found["times"] = Times.from_dict(saved["times"])
    return Row(sampler_from_dict(saved["sampler"], schedule, shared), str(saved["label"]), **found, **plain)


def sampler_to_dict(sampler: PlanSampler) -> dict[str, Any]:
    """Class and settings as plain JSON values, defaults left out; of other classes than ours the table too."""
    kind = type(sampler)
    given = {f.name: getattr(sampler, f.name) for f in fields(sampler) if f.name not in ("schedule", *_SHARED, "table", "origin")}
    unused = "timesteps" if sampler.steps is not None else "spacing"
    defaults = {f.name: f.default for f in fields(sampler) if f.default is not MISSING}
    settings = {name: v for name, v in given.items() if name != unused and (name not in defaults or v != defaults[name])}
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()}
    if _CLASSES.get(kind.__name__) is kind:
        return {"class": kind.__name__, "settings": plain}
    table = {"class": f"{kind.__module__}.{kind.__qualname__}", "plan": sampler.plan().to_dict()}
    return {**table, "origin": sampler.origin.to_dict()} if isinstance(sampler, LearnedSampler) else table


def sampler_from_dict(saved: Mapping[str, Any], schedule: NoiseSchedule, shared: Mapping[str, Any]) -> PlanSampler:
    """The sampler that :func:`sampler_to_dict` gave: one of our classes, or the table of another.

    Raises:
        KeyError, TypeError, ValueError: a class of ours does not take the settings, or there is no table.
    """
    if "origin" in saved:
        plan, origin = Plan.from_dict(saved["plan"]), Origin.from_dict(saved["origin"])
        return LearnedSampler.of(schedule, plan, origin=origin, **shared)
    if "plan" in saved:
        return PlanSampler.from_plan(schedule, Plan.from_dict(saved["plan"]), **shared)
    if saved["class"] not in _CLASSES:
        raise ValueError(f"{saved['class']!r} is no sampler of this version, and the row holds no table")
    settings: dict[str, Any] = {**saved["settings"], **shared}
    return _CLASSES[saved["class"]](schedule, **settings)


def shared_settings(sampler: PlanSampler) -> dict[str, Any]:
    """Prediction and clip as plain JSON values."""
    clip = asdict(sampler.clip) if isinstance(sampler.clip, DynamicThreshold) else sampler.clip
    return {"prediction": sampler.prediction, "clip": list(clip) if isinstance(clip, tuple) else clip}


def read_shared(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Read what :func:`shared_settings` gave."""
    clip = saved["clip"]
    made = DynamicThreshold(**clip) if isinstance(clip, dict) else None if clip is None else tuple(clip)
    return {"prediction": saved["prediction"], "clip": made}


def family(sampler: PlanSampler) -> str:
    """The kind of a sampler, whatever its timesteps: ``DDIM``, ``DPM++2M-SDE``, ``UniPC3``, ``sigma-hat``."""
    match sampler:
        case DDIMSampler():
            return "DDIM"
        case DDPMSampler():
            return {"fixed_small": "DDPM", "fixed_large": "sigma-hat", "learned_range": "DDPM-learned"}[sampler.variance]
        case DPMSolverPPSampler():
            return f"DPM++{sampler.order}M{'-SDE' if sampler.eta else ''}"
        case UniPCSampler():
            return f"UniPC{sampler.order}{'' if sampler.variant == 'bh2' else f'-{sampler.variant}'}"
        case DEISSampler():
            return f"{'DEIS' if sampler.variant == 'rho_ab' else 'iPNDM'}{sampler.order}"
        case SASolverSampler():
            return f"SA{sampler.order}-{sampler.corrector_order}"
        case GradientEstimationSampler():
            return f"GE{sampler.gamma:g}"
        case LearnedSampler():
            return "learned-SDE" if sampler.coefficients.plan.adds_noise else "learned"
        case _:
            return type(sampler).__name__.removesuffix("Sampler")


def spacing_of(sampler: PlanSampler) -> str:
    """The named spacing of a sampler's timesteps; ``"list"`` for timesteps given one by one, ``"table"`` for a bare table."""
    if hasattr(sampler, "table"):
        return "table"
    return "list" if sampler.steps is None else sampler.spacing


def label_of(sampler: PlanSampler) -> str:
    """A short name of a sampler, as in ``DDIM-50``, ``DDIM-50 eta 0.5``, ``DPM++2M-10 log_snr``."""
    return " ".join((f"{family(sampler)}-{sampler.nfe}", *_details(sampler)))


def kind_of(sampler: PlanSampler) -> str:
    """What samplers that differ in their number of calls alone have in common, as in ``DDIM eta 0.5``, ``DPM++2M log_snr``."""
    return " ".join((family(sampler), *_details(sampler)))


def _details(sampler: PlanSampler) -> list[str]:
    """Eta and spacing where they are not the usual ones."""
    usual = 1.0 if "SDE" in family(sampler) else 0.0
    eta, spacing = getattr(sampler, "eta", usual), spacing_of(sampler)
    told = spacing == "trailing" or isinstance(sampler, LearnedSampler)
    return [f"eta {eta:g}"] * (eta != usual) + [spacing] * (not told)


def eta_pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Rows of DDIM with eta above 0 over a trailing spacing, each with the row of eta 0 and as many steps."""
    trailing = [row for row in rows if isinstance(row.sampler, DDIMSampler) and spacing_of(row.sampler) == "trailing"]
    plain = {row.calls: row for row in trailing if not row.adds_noise}
    return [(row, plain[row.calls]) for row in trailing if row.adds_noise and row.calls in plain]
