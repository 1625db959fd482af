"""Committed studies: curves with the quality of very many images, for the very models that are bundled."""

from functools import cache
from pathlib import Path

from ddimkit.models.bundle import ModelBundle
from ddimkit.tradeoff.results import TradeoffCurve

__all__ = ["find_study"]

_FOLDER = Path(__file__).parent / "data"


@cache
def _studies() -> tuple[TradeoffCurve, ...]:
    return tuple(TradeoffCurve.load(path) for path in sorted(_FOLDER.glob("*.json")))


def find_study(bundle: ModelBundle) -> TradeoffCurve | None:
    """The study of a model's very weights; None if there is none."""
    weights = bundle.weights_sha256()
    return next((study for study in _studies() if weights is not None and study.model["weights_sha256"] == weights), None)
