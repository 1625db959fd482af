"""A sampler whose table was learned, with where the table is from; and the file it is kept in."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from ddimkit.errors import WeightsError
from ddimkit.plan import Plan
from ddimkit.prediction import DynamicThreshold, Prediction, check_clip
from ddimkit.sampling import BarePlanSampler
from ddimkit.schedule import NoiseSchedule

__all__ = ["LearnedSampler", "Origin"]

_FORMAT, _SCHEMA = "ddimkit-table", 1

SEED_SPAN = 10**9
"""How many seeds each part of a run of learning has."""


@dataclass(frozen=True)
class Origin:
    """Where a learned table is from.

    Attributes:
        gained: whether the paired 95 % interval of the gain over the template lies above 0 on seeds and real images that learning
            and choosing never saw. If not, the table is the template's own.
        gain: that interval, in units of the objective.
        reason: what came of learning, in a sentence.
        curve: (batches done, the objective on the data that choose) along the run that was chosen.
        template: the record of the sampler that the table was learned from.
        compared_with: the record of the best template, over which the gain is.
        objective: what names the objective.
        settings: of learning: batches, rates, seeds of each job, seconds.
        model: name and hash of the weights that it was learned for.
        versions: of ddimkit, torch and numpy.
        evaluations: metrics by networks and images that learning never saw, one entry for each evaluation.
    """

    gained: bool
    gain: tuple[float, float]
    reason: str
    curve: tuple[tuple[int, float], ...]
    template: Mapping[str, Any]
    compared_with: Mapping[str, Any]
    objective: Mapping[str, Any]
    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    versions: Mapping[str, str]
    evaluations: tuple[Mapping[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Origin":
        """Read what :meth:`to_dict` gave."""
        low, high = saved["gain"]
        curve = tuple((int(done), float(value)) for done, value in saved["curve"])
        changed: dict[str, Any] = {**saved, "gain": (low, high), "curve": curve, "evaluations": tuple(saved["evaluations"])}
        return cls(**changed)


@dataclass(frozen=True)
class LearnedSampler(BarePlanSampler):
    """A sampler that runs a learned table; :func:`~ddimkit.learning.learn_plan` makes it, :meth:`load` reads it from a file.

    Args:
        origin: where the table is from; no part of equality.
    """

    origin: Origin = field(kw_only=True, compare=False, repr=False)

    @property
    def gained(self) -> bool:
        """Whether the table is known to be better than its template; if not, it is the template's own."""
        return self.origin.gained

    @property
    def reason(self) -> str:
        """What came of learning, in a sentence."""
        return self.origin.reason

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, with schedule, prediction, clip and origin."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        clip = asdict(self.clip) if isinstance(self.clip, DynamicThreshold) else self.clip
        return {
            "format": _FORMAT,
            "schema": _SCHEMA,
            "schedule": None if self.schedule.spec is None else dict(self.schedule.spec),
            "prediction": self.prediction,
            "clip": clip,
            "plan": self.table.to_dict(),
            "origin": self.origin.to_dict(),
        }

    @classmethod
    def load(cls, path: str | Path, *, schedule: NoiseSchedule | None = None) -> "LearnedSampler":
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            schedule: the schedule of the model that it is to run; by default the one that the file names. A schedule that no named
                constructor made has no name in the file, and must be given.

        Raises:
            FileNotFoundError: there is no such file.
            WeightsError: no table of this version's.
            ValueError: the table was made for another schedule: signal or noise at its timesteps differ by more than 1e-9; or
                no schedule is given where the file names none.
        """
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(saved, dict) or (saved.get("format"), saved.get("schema")) != (_FORMAT, _SCHEMA):
                raise ValueError(f"it is not of format {_FORMAT}, schema {_SCHEMA}")
            plan, origin = Plan.from_dict(saved["plan"]), Origin.from_dict(saved["origin"])
            prediction: Prediction = saved["prediction"]
            clip = check_clip(DynamicThreshold(**saved["clip"]) if isinstance(saved["clip"], dict) else saved["clip"])
            named = None if saved["schedule"] is None else NoiseSchedule.from_spec(saved["schedule"])
            if prediction not in get_args(Prediction):
                raise ValueError(f"prediction {prediction!r} is unknown")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is no learned table that this version can read: {error}") from error
        schedule = schedule or named
        if schedule is None:
            raise ValueError(f"{path} names no schedule: give schedule=, the one of the model that the table is for")
        return cls.of(schedule, plan, prediction=prediction, clip=clip, origin=origin)

    @classmethod
    def of(cls, schedule: NoiseSchedule, plan: Plan, *, prediction: Prediction, clip: Any, origin: Origin) -> "LearnedSampler":
        """The sampler of a table and its origin; errors as for :meth:`PlanSampler.from_plan`."""
        times = tuple(dict.fromkeys(plan.t))
        return cls(schedule, timesteps=times, prediction=prediction, clip=clip, table=plan, origin=origin)
