"""Committed studies: the metrics of very many images, for the very models that are bundled."""

from functools import cache
from pathlib import Path

from ddimkit.models.bundle import ModelBundle
from ddimkit.tradeoff.rows import read_shared, shared_settings
from ddimkit.tradeoff.study import Study

__all__ = ["FOLDER", "find_study"]

FOLDER = Path(__file__).parent / "data"
"""Where the package keeps them."""


@cache
def _studies() -> tuple[Study, ...]:
    return tuple(Study.load(path) for path in sorted(FOLDER.glob("*.json")))


def find_study(bundle: ModelBundle) -> Study | None:
    """The study of a model's very weights, with the same schedule, prediction, clip and conditions; None if there is none.

    Schedules are the same where signal and noise agree to 1e-9: their last bits depend on the processor.
    """
    weights = bundle.weights_sha256()
    if weights is None:
        return None
    wanted = {"prediction": bundle.prediction, "clip": bundle.clip}
    for study in _studies():
        same = read_shared(shared_settings(study.base.sampler)) == wanted and study.schedule.is_same(bundle.schedule)
        known = study.model["weights_sha256"], study.model.get("conditions_sha256")
        if known == (weights, bundle.conditions_sha256()) and same:
            return study
    return None
