"""``ddimkit recommend``: which sampler to use with how many calls, with the reasons."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ddimkit.cli.arguments import JsonOption, ModelOption, find_model
from ddimkit.cli.display import show_presets
from ddimkit.tradeoff.committed import find_study
from ddimkit.tradeoff.presets import presets_of
from ddimkit.tradeoff.recommend import Recommendation
from ddimkit.tradeoff.recommend import recommend as choose
from ddimkit.tradeoff.rows import label_of
from ddimkit.tradeoff.study import Study

__all__ = ["recommend"]


def recommend(
    results: Annotated[Path | None, typer.Argument(help="A sweep's results.json; by default the model's committed study.")] = None,
    model: ModelOption = "mnist",
    close: Annotated[
        float, typer.Option("--close", help="The share of the gap from DDIM with 10 steps to the baseline that is to be closed.")
    ] = 0.95,
    refinable: Annotated[
        bool, typer.Option("--refinable/--no-refinable", help="Only samplers that draw DDIM's image of a seed, or any.")
    ] = False,
    buffer: Annotated[float, typer.Option("--buffer", help="Share of calls added for safety.")] = 0.2,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="Only this kind, as tables name it: DDIM, DPM++2M-SDE, UniPC3, …")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which sampler to use with how many model calls, and why.

    Examples:

        ddimkit recommend

        ddimkit recommend --refinable --close 0.8

        ddimkit recommend ddimkit-study/results.json --sampler DDIM
    """
    study = Study.load(results) if results is not None else find_study(find_model(model))
    if study is None:
        raise ValueError(f"there is no committed study of {model!r}: run `ddimkit sweep`, and give its results.json")
    found = choose(study, close=close, refinable=refinable, buffer=buffer, sampler=sampler)
    if as_json:
        print(json.dumps(_plain(found)))
    else:
        show_presets(found, presets_of(study, refinable=refinable))


def _plain(found: Recommendation) -> dict[str, Any]:
    """A recommendation as plain JSON values."""
    return {
        "label": label_of(found.sampler),
        "calls": found.calls,
        "share": found.share,
        "known": found.known,
        "closed": None if found.closed is None else found.closed.to_dict(),
        "images_needed": found.images_needed,
        "row": None if found.row is None else found.row.label,
        "reasons": list(found.reasons),
        "record": found.sampler.record(),
    }
