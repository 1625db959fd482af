"""Does the paper's Table 1 come out here? Fréchet distances of DDIM and DDPM at few steps, the paper's figures beside ours.

    python benchmarks/table1.py --weights FOLDER [--images 50000] [--steps 10,20,50,100,1000] [--rows "eta 0,…,sigma-hat"]
                                [--inception FILE --data DIR | --evaluator FOLDER] [--batch 500] [--compile] [--minutes M]
                                [--work table1] [--device cpu] [--out results/….json]

``--weights`` is the published checkpoint of Ho et al. in diffusers' format (``config.json`` and safetensors, as of
``google/ddpm-cifar10-32``), or a folder with a ``cifar10.safetensors`` of ours. As in the paper's code the timesteps are
``quadratic_song2021``, and all of them where there are as many steps as timesteps; x0_hat is clipped for sigma-hat and not for the
etas. Compared with the 50,000 training images, by Inception's features where ``--inception`` (torch-fidelity's weights as
safetensors, see ``ddimkit.interop.inception``) and ``--data`` (the original files) are given: these are the paper's figures. Else
by our CIFAR-10 features, whose distances are on another scale: their order is what can be compared.

Everything drawn is kept in ``--work``: the same command goes on, ``--minutes`` ends a sitting.
Source: Song, Meng and Ermon, *Denoising Diffusion Implicit Models*, 2020, Table 1, and the authors' code.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from _subjects import find_evaluator, pick_device
from ddimkit import DDIMSampler, DDPMSampler, ModelBundle, NoiseSchedule, PlanSampler, UNet
from ddimkit._machine import describe_machine, versions
from ddimkit.interop.inception import inception_extractor
from ddimkit.models.bundle import load_bundle
from ddimkit.models.data import load_images
from ddimkit.models.unet import channels_last
from ddimkit.quality import Evaluator, Extractor, Quality, Reference
from ddimkit.timesteps import Spacing
from ddimkit.tradeoff._drawing import draw

STEPS = (10, 20, 50, 100, 1000)
PAPER = {
    "eta 0": (13.36, 6.84, 4.67, 4.16, 4.04),
    "eta 0.2": (14.04, 7.11, 4.77, 4.25, 4.09),
    "eta 0.5": (16.66, 8.35, 5.25, 4.46, 4.29),
    "eta 1": (41.07, 18.36, 8.01, 5.78, 4.73),
    "sigma-hat": (367.43, 133.37, 32.72, 9.99, 3.17),
}


@dataclass(frozen=True)
class Cell:
    """One figure of the table: its sampler and the metrics of its images; None where they are not all drawn yet."""

    row: str
    steps: int
    sampler: PlanSampler
    quality: Quality | None

    @property
    def paper(self) -> float | None:
        """The paper's figure; None where it has none."""
        return PAPER[self.row][STEPS.index(self.steps)] if self.steps in STEPS else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        quality = None if self.quality is None else {**self.quality.to_dict(), "label": asdict(self.quality.label)}
        used = {"timesteps": list(self.sampler.timesteps), "record": self.sampler.record()}
        return {"row": self.row, "steps": self.steps, "paper": self.paper, **used, "quality": quality}


def find_bundle(folder: Path) -> ModelBundle:
    """A checkpoint in diffusers' format, or a model of ours."""
    if (folder / "config.json").exists() or (folder / "unet").exists():
        model = channels_last(UNet.from_diffusers(folder))
        shape = (model.config.in_channels, 32, 32)
        return ModelBundle(model, NoiseSchedule.linear(1000), sample_shape=shape, name="ddpm-cifar10")
    return load_bundle(folder / "cifar10.safetensors")


def make_sampler(bundle: ModelBundle, row: str, steps: int) -> PlanSampler:
    """The sampler of a row at so many steps, as the paper's code has it."""
    spacing: Spacing = "trailing" if steps == bundle.schedule.num_timesteps else "quadratic_song2021"
    if row == "sigma-hat":
        return bundle.sampler(DDPMSampler, steps=steps, spacing=spacing, variance="fixed_large", clip=(-1.0, 1.0))
    return bundle.sampler(DDIMSampler, steps=steps, spacing=spacing, eta=float(row.removeprefix("eta ")), clip=None)


def inception_evaluator(weights: Path, data: Path, work: Path, device: torch.device) -> Evaluator:
    """Inception's features of the training images, which are kept for the next sitting, and of the test images."""
    extractor: Extractor = inception_extractor(weights, device=device)
    path = work / f"reference-{extractor.sha256[:12]}.safetensors"
    if not path.exists():
        Reference.of("cifar10 train", extractor(load_images("cifar10", data)[0]), extractor).save(path)
    return Evaluator.of(extractor, Reference.load(path), load_images("cifar10", data, "test")[0])


def fill(bundle: ModelBundle, evaluator: Evaluator, arguments: argparse.Namespace, device: torch.device) -> list[Cell]:
    """Every cell of the table, as far as the time goes; those of few steps first."""
    wanted = [(row, steps) for steps in sorted(arguments.steps) for row in arguments.rows]
    cells = []
    for row, steps in tqdm(wanted, unit="cell"):
        sampler = make_sampler(bundle, row, steps)
        drawn = draw(
            sampler,
            bundle,
            arguments.images,
            evaluator,
            device=device,
            batch=arguments.batch,
            path=arguments.work / "drawn" / f"{row}-{steps}.safetensors".replace(" ", "-"),
            end=arguments.end,
            whole_batches=arguments.compile,
        )
        seeds = range(arguments.images)
        quality = evaluator.evaluate_features(drawn.features.numpy(), seeds) if len(drawn) == len(seeds) else None
        cells.append(Cell(row, steps, sampler, quality))
    return cells


def table(cells: list[Cell]) -> str:
    """The table as Markdown: our Fréchet distance, and the paper's in brackets."""
    steps, names = sorted({c.steps for c in cells}), list(dict.fromkeys(c.row for c in cells))
    found = {(c.row, c.steps): c for c in cells}
    head = ["| | " + " | ".join(f"S={n}" for n in steps) + " |", "|---" * (len(steps) + 1) + "|"]
    return "\n".join([*head, *(f"| {row} | " + " | ".join(_written(found[row, n]) for n in steps) + " |" for row in names)])


def _written(cell: Cell) -> str:
    ours = "not drawn yet" if cell.quality is None else f"{cell.quality.frechet.value:.4g}"
    return ours if cell.paper is None else f"{ours} ({cell.paper:.2f})"


def main() -> None:
    """Draw, evaluate, print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--steps", type=lambda text: [int(part) for part in text.split(",")], default=list(STEPS))
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(PAPER), help=", ".join(PAPER))
    parser.add_argument("--inception", type=Path, help="safetensors file of Inception's weights")
    parser.add_argument("--data", type=Path, help="folder of the original data files, for --inception")
    parser.add_argument("--evaluator", type=Path, help="folder of feature network and reference of your own")
    parser.add_argument("--batch", type=int, help="images drawn at once; 64 on a CPU and 1000 elsewhere by default")
    parser.add_argument("--compile", action="store_true", help="draw with the model compiled")
    parser.add_argument("--minutes", type=float, default=1e9, help="end the sitting after so long")
    parser.add_argument("--work", type=Path, default=Path("table1"), help="keeps what is drawn")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, help="also write the result there, as JSON")
    arguments = parser.parse_args()
    if not set(arguments.rows) <= set(PAPER):
        parser.error(f"--rows must be of {', '.join(PAPER)}, got {','.join(arguments.rows)}")
    if (arguments.inception is None) != (arguments.data is None):
        parser.error("--inception and --data go together")
    arguments.end, device = time.monotonic() + 60 * arguments.minutes, pick_device(arguments.device)
    arguments.work.mkdir(parents=True, exist_ok=True)
    bundle = find_bundle(arguments.weights)
    evaluator = (
        find_evaluator("cifar10", arguments.evaluator, device, "train")
        if arguments.inception is None
        else inception_evaluator(arguments.inception, arguments.data, arguments.work, device)
    )
    bundle.model.to(device)
    if arguments.compile:
        bundle.model.compile(dynamic=False)
    cells = fill(bundle, evaluator, arguments, device)
    print(f"Fréchet distance of {arguments.images} images by {evaluator.extractor.name}; in brackets the paper's, by Inception.\n")
    print(table(cells))
    if arguments.out:
        named = {"weights_sha256": bundle.weights_sha256(), "machine": describe_machine(device), "versions": versions()}
        found = {"schema_version": 1, "images": arguments.images, **named, "cells": [cell.to_dict() for cell in cells]}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
