"""``ddimkit recommend``: how few steps are enough, with the reasons."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ddimkit.cli.arguments import JsonOption, ModelOption, find_model, find_sampler
from ddimkit.tradeoff.quality_findings import scale
from ddimkit.tradeoff.recommend import recommend as choose
from ddimkit.tradeoff.results import TradeoffCurve
from ddimkit.tradeoff.studies import find_study

__all__ = ["recommend"]


def recommend(
    results: Annotated[Path | None, typer.Argument(help="A sweep's results.json; by default the model's committed study.")] = None,
    model: ModelOption = "mnist",
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Allowed excess over the baseline, as a share of its distance above the floor.")
    ] = 0.05,
    buffer: Annotated[float, typer.Option("--buffer", help="Share of steps added for safety.")] = 0.2,
    sampler: Annotated[str | None, typer.Option("--sampler", help="Only this sampler, as `ddimkit sweep` takes it.")] = None,
    eta: Annotated[float | None, typer.Option("--eta", help="Only this eta.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how few steps are enough, and why.

    Examples:

        ddimkit recommend

        ddimkit recommend ddimkit-study/results.json --tolerance 0.1
    """
    curve = TradeoffCurve.load(results) if results is not None else find_study(find_model(model))
    if curve is None:
        raise ValueError(f"there is no committed study of {model!r}: run `ddimkit sweep`, and give its results.json")
    name = None if sampler is None else str(getattr(find_sampler(sampler), "__name__", sampler))
    found = choose(curve, tolerance=tolerance, buffer=buffer, sampler=name, eta=eta)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    chosen = found.sampler.removesuffix("Sampler") + ("" if found.eta is None else f" with eta {found.eta:g}")
    print(f"{chosen}: {found.steps} steps" if found.steps is not None else "No recommendation")
    for reason in (scale(curve), *found.reasons):
        print(f"- {reason}")
