"""The tables of the bundled MNIST model that the package ships: learned, chosen, confirmed and evaluated on separate data.

Which table of few calls makes the bundled model's images nearest to real ones? Each table is learned with the learning network and
half of the training images. The same network chooses it with a quarter of them and confirms it with the last quarter. The
evaluating network evaluates it with the test images and seeds of its own. ``--out`` gets one JSON file for each table. An
interrupted run goes on from ``--work``.

    python benchmarks/learn_tables.py --data DIR --calls 5
    python benchmarks/learn_tables.py --data DIR --calls 6 10 --noise
    python benchmarks/learn_tables.py --data DIR --picture docs/_static/learned-tables.png
"""

import argparse
from pathlib import Path
from typing import Literal

import numpy as np

from ddimkit import DDIMSampler, DDPMSampler, DPMSolverPPSampler, ModelBundle, PlanSampler, load_pretrained
from ddimkit.learning import KernelObjective, LearnedSampler, evaluate_table, learn_plan, load_extractor
from ddimkit.learning.shipped import shipped_tables
from ddimkit.models.data import load_images
from ddimkit.quality import load_evaluator
from ddimkit.tradeoff.report.samples import tile

UNEVEN = {3: (985, 560, 270), 4: (974, 640, 480, 230), 5: (933, 791, 541, 424, 191)}
"""Lists that end nearer to real images than the trailing spacing, for the smallest numbers of calls."""

FIRST_SEED, IMAGES = 500_000_000, 2000
"""Of the images that evaluate a table."""

SEEN = 16
"""Seeds of the picture."""


def templates(bundle: ModelBundle, calls: int, *, noise: bool) -> list[PlanSampler]:
    """The samplers that may compete as starts: DPM-Solver++ from a list, then of order 3 and 2 with the trailing spacing."""
    eta = 1.0 if noise else 0.0
    orders: tuple[Literal[2, 3], ...] = (2,) if noise else (3, 2)
    found: list[PlanSampler] = [
        bundle.sampler(DPMSolverPPSampler, steps=calls, order=order, eta=eta) for order in orders if order <= calls
    ]
    if calls in UNEVEN and not noise:
        found.insert(0, bundle.sampler(DPMSolverPPSampler, timesteps=UNEVEN[calls], order=2))
    return found


def learn(
    bundle: ModelBundle, objective: KernelObjective, calls: int, *, noise: bool, starts: int, batches: int, work: Path
) -> LearnedSampler:
    """The table of a number of calls."""
    name = f"{calls}{'-noise' if noise else ''}"
    return learn_plan(
        templates(bundle, calls, noise=noise)[:starts],
        bundle,
        objective=objective,
        batches=batches,
        batch_size=256,
        rates=(0.02,) if noise else (0.05,),
        moves=0,
        choose_images=2000,
        confirm_images=3000,
        path=work / f"learning-{name}.safetensors",
        progress=True,
    )


def draw_picture(bundle: ModelBundle, path: Path) -> None:
    """The same 16 seeds by the shipped tables, by DDIM and by DDPM with all timesteps: one row a sampler."""
    import matplotlib.pyplot as plt

    tables = {f"learned, {table.nfe} calls": table for table in shipped_tables(bundle.name) if not table.plan().adds_noise}
    ddim = {f"DDIM, {steps} calls": bundle.sampler(DDIMSampler, steps=steps) for steps in (5, 50)}
    ddpm = {"DDPM, 1000 calls": bundle.sampler(DDPMSampler, steps=1000)}
    samplers: dict[str, PlanSampler] = {**tables, **ddim, **ddpm}
    figure, axes = plt.subplots(len(samplers), 1, figsize=(9, 0.62 * len(samplers)))
    for axis, (name, sampler) in zip(np.atleast_1d(axes), samplers.items(), strict=True):
        images = bundle.draw(sampler, range(SEEN))
        axis.imshow(tile(images.numpy(), SEEN), interpolation="nearest")
        axis.set_axis_off()
        axis.text(-0.01, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=11)
    figure.subplots_adjust(left=0.2, right=1, top=1, bottom=0, hspace=0.02)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Learn, evaluate and write the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the original data files")
    parser.add_argument("--calls", type=int, nargs="+", default=[5], help="numbers of model calls")
    parser.add_argument("--noise", action="store_true", help="begin with DPM-Solver++ SDE, and learn how much noise to add")
    parser.add_argument("--starts", type=int, default=1, help="templates that compete")
    parser.add_argument("--batches", type=int, default=60, help="steps of the winner")
    parser.add_argument("--picture", type=Path, help="only draw the same seeds by all tables, DDIM and DDPM, as a PNG")
    parser.add_argument("--work", type=Path, default=Path("ddimkit-train/tables"), help="folder of interrupted runs")
    parser.add_argument("--out", type=Path, default=Path("src/ddimkit/learning/tables"), help="folder of the tables")
    arguments = parser.parse_args()
    for folder in (arguments.work, arguments.out):
        folder.mkdir(parents=True, exist_ok=True)
    bundle, evaluator = load_pretrained("mnist"), load_evaluator("mnist")
    if arguments.picture is not None:
        draw_picture(bundle, arguments.picture)
        return
    images, _ = load_images("mnist", arguments.data)
    objective = KernelObjective(images, load_extractor("mnist"), "mnist train")
    if objective.shared_images(load_images("mnist", arguments.data, "test")[0]):
        raise SystemExit("training and test images overlap: nothing that is learned with the one may be evaluated with the other")
    for calls in arguments.calls:
        settings = {"noise": arguments.noise, "starts": arguments.starts, "batches": arguments.batches}
        table = learn(bundle, objective, calls, **settings, work=arguments.work)
        table = evaluate_table(table, bundle, evaluator, range(FIRST_SEED, FIRST_SEED + IMAGES))
        path = arguments.out / f"mnist-{calls}{'-noise' if arguments.noise else ''}.json"
        table.save(path)
        print(
            path,
            table.reason,
            table.origin.evaluations[-1]["quality"]["kernel"],
            table.origin.evaluations[-1]["quality"]["frechet"],
            flush=True,
        )


if __name__ == "__main__":
    main()
