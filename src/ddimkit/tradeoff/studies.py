"""Committed studies: curves with the quality of very many images, for the very models that are bundled."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from ddimkit.models.bundle import ModelBundle
from ddimkit.samplers import DDPMSampler
from ddimkit.tradeoff.budget import BudgetStudy
from ddimkit.tradeoff.results import TradeoffCurve

__all__ = ["find_budget_study", "find_study", "identity"]

_BUDGET = ".budget.json"
_FOLDER = Path(__file__).parent / "data"


@cache
def _studies() -> tuple[TradeoffCurve, ...]:
    return tuple(TradeoffCurve.load(path) for path in sorted(_FOLDER.glob("*.json")) if not path.name.endswith(_BUDGET))


def find_study(bundle: ModelBundle) -> TradeoffCurve | None:
    """The study of a model's very weights, with the same schedule, prediction and clip; None if there is none."""
    weights = bundle.weights_sha256()
    if weights is None:
        return None
    baseline = bundle.sampler(DDPMSampler, steps=bundle.schedule.num_timesteps).record()
    wanted = json.loads(json.dumps([baseline["settings"], baseline["schedule"]]))
    for study in _studies():
        record = study.baseline.record
        if study.model["weights_sha256"] == weights and [record["settings"], record["schedule"]] == wanted:
            return study
    return None


def find_budget_study(bundle: ModelBundle) -> BudgetStudy | None:
    """The study of samplers and timestep lists for a model's very weights; None if there is none."""
    wanted = identity(bundle)
    return next((study for study in _budget_studies() if wanted["weights_sha256"] and dict(study.model) == wanted), None)


@cache
def _budget_studies() -> tuple[BudgetStudy, ...]:
    return tuple(BudgetStudy.load(path) for path in sorted(_FOLDER.glob(f"*{_BUDGET}")))


def identity(bundle: ModelBundle) -> dict[str, Any]:
    """What a study of budgets must have in common with a model, as plain JSON values."""
    settings = bundle.sampler(DDPMSampler, steps=1).record()["settings"]
    plain = {"weights_sha256": bundle.weights_sha256(), "schedule_sha256": bundle.schedule.sha256}
    return {"name": bundle.name, **plain, "prediction": settings["prediction"], "clip": settings["clip"]}
