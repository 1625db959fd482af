"""``ddimkit learn``: a table for one model and number of calls."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from ddimkit.cli.arguments import DeviceOption, JsonOption, ModelOption, find_model, place_model, read_images
from ddimkit.learning import KernelObjective, learn_plan, load_extractor
from ddimkit.quality.features import Extractor
from ddimkit.quality.network import load_network
from ddimkit.samplers import DPMSolverPPSampler
from ddimkit.tradeoff.sweep import check_folder

__all__ = ["learn"]

_ORDERS: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)


def learn(
    data: Annotated[Path, typer.Option("--data", help="Real images: the folder of the original files, or a .npy of bytes.")],
    out: Annotated[Path, typer.Option("--out", help="Write the table as JSON.")],
    model: ModelOption = "mnist",
    calls: Annotated[int, typer.Option("--calls", min=1, help="Model calls of a run.")] = 5,
    noise: Annotated[bool, typer.Option("--noise", help="Add noise on the way, and learn how much.")] = False,
    extractor: Annotated[
        Path | None, typer.Option("--extractor", help="A feature network to learn with; the bundled model has its own.")
    ] = None,
    batches: Annotated[int, typer.Option("--batches", min=1, help="Steps of learning.")] = 150,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2, help="Images a step.")] = 128,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.0, help="Stop with the best table after so long.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the run.")] = 0,
    work: Annotated[
        Path | None, typer.Option("--work", help="File that keeps the state every minute; the same command goes on from it.")
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn a table of few calls, whose images come as near to real ones as its calls allow.

    Learning begins at DPM-Solver++ of order 2 and 3. Its table is written only where it is known to be better than they are, by
    images that learning never saw; otherwise theirs is written, and the output says so.

    Examples:

        ddimkit learn --calls 5 --data DIR --out five.json

        ddimkit learn --calls 8 --noise --data DIR --minutes 20 --out eight.json

        ddimkit sample --table five.json --grid out.png
    """
    check_folder(out.parent)
    bundle = find_model(model)
    where = place_model(bundle, device)
    network = _extractor(model, extractor, where)
    orders = _ORDERS[:calls][-2:]
    found = learn_plan(
        [bundle.sampler(DPMSolverPPSampler, steps=calls, order=order, eta=float(noise)) for order in orders],
        bundle,
        objective=KernelObjective(read_images(bundle, data), network, data.name),
        batches=batches,
        batch_size=batch_size,
        seed=seed,
        device=where,
        minutes=minutes,
        path=work,
        progress=not as_json,
    )
    found.save(out)
    if as_json:
        said: dict[str, Any] = {"written": str(out), "gained": found.gained, "reason": found.reason, "record": found.record()}
        print(json.dumps(said))
    else:
        print(f"{out}: {found.nfe} calls; kernel distance {found.reason}")


def _extractor(model: str, path: Path | None, device: torch.device) -> Extractor:
    """The network of the file, else that of the bundled model."""
    if path is not None:
        return load_network(path, name=path.stem, device=device)
    if ":" in model:
        raise ValueError(f"--model {model} has no feature network of its own: give --extractor FILE, or use learn_plan from Python")
    return load_extractor(model, device=device)
