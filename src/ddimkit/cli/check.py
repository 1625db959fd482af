"""``ddimkit check``: whether a model's settings fit it."""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from ddimkit.cli.arguments import DeviceOption, JsonOption, ModelOption, find_model, place_model, read_images
from ddimkit.models.check import check_model

__all__ = ["check"]


def check(
    data: Annotated[Path, typer.Option("--data", help="Real images: the folder of the original files, or a .npy of bytes.")],
    model: ModelOption = "mnist",
    num: Annotated[int, typer.Option("--num", min=32, help="How many of the images.")] = 192,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise.")] = 0,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure whether a model's prediction type, range of images, schedule and count of t are the stated ones.

    Bytes are taken as images in [−1, 1].

    Examples:

        ddimkit check --data DIR

        ddimkit check --model mypackage.models:bundle --data images.npy --json
    """
    bundle = find_model(model)
    images = torch.from_numpy(read_images(bundle, data)[:num].copy()).float() / 127.5 - 1
    report = check_model(bundle, images, seed=seed, device=place_model(bundle, device))
    print(json.dumps(report.to_dict()) if as_json else report)
