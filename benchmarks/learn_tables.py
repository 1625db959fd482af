"""The tables of the bundled MNIST model that the package ships: learned, chosen, confirmed and evaluated on separate data.

Which table of few calls makes the bundled model's images nearest to real ones? Each table is learned with the learning network on
training images 1 to 30,000, chosen and confirmed with the same network on training images 30,001 to 60,000 (in the order of a fixed
permutation), and evaluated with the evaluating network on the test images and seeds of its own. ``--out`` gets one JSON file for
each table. A run that is interrupted goes on from ``--work``.

    python benchmarks/learn_tables.py --data DIR --calls 5
    python benchmarks/learn_tables.py --data DIR --calls 6 10 --noise
"""

import argparse
from pathlib import Path

import numpy as np

from ddimkit import DPMSolverPPSampler, ModelBundle, PlanSampler, load_pretrained
from ddimkit.learning import KernelObjective, LearnedSampler, evaluate_table, learn_plan, load_extractor
from ddimkit.models.data import load_images
from ddimkit.quality import load_evaluator

UNEVEN = {3: (985, 560, 270), 4: (974, 640, 480, 230)}
"""Lists that begin nearer to real images than the trailing spacing, for the smallest numbers of calls."""

FIRST_SEED, IMAGES = 500_000_000, 2000
"""Of the images that evaluate a table."""


def templates(bundle: ModelBundle, calls: int, *, noise: bool) -> list[PlanSampler]:
    """The samplers that compete as starts: DPM-Solver++ of order 2 and 3, trailing or from a list."""
    eta = 1.0 if noise else 0.0
    orders = (2,) if noise else (3, 2)
    found: list[PlanSampler] = [
        bundle.sampler(DPMSolverPPSampler, steps=calls, order=order, eta=eta) for order in orders if order <= calls
    ]
    if calls in UNEVEN and not noise:
        found[1:] = [bundle.sampler(DPMSolverPPSampler, timesteps=UNEVEN[calls], order=2)]
    return found


def learn(bundle: ModelBundle, objective: KernelObjective, calls: int, *, noise: bool, batches: int, work: Path) -> LearnedSampler:
    """The table of a number of calls."""
    name = f"{calls}{'-noise' if noise else ''}"
    return learn_plan(
        templates(bundle, calls, noise=noise),
        bundle,
        objective=objective,
        batches=batches,
        rates=(0.03,),
        choose_images=1000,
        confirm_images=4000,
        path=work / f"learning-{name}.safetensors",
        progress=True,
    )


def main() -> None:
    """Learn, evaluate and write the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the original data files")
    parser.add_argument("--calls", type=int, nargs="+", default=[5], help="numbers of model calls")
    parser.add_argument("--noise", action="store_true", help="begin with DPM-Solver++ SDE, and learn how much noise to add")
    parser.add_argument("--batches", type=int, default=150, help="steps of the winner")
    parser.add_argument("--work", type=Path, default=Path("ddimkit-train/tables"), help="folder of interrupted runs")
    parser.add_argument("--out", type=Path, default=Path("src/ddimkit/learning/tables"), help="folder of the tables")
    arguments = parser.parse_args()
    for folder in (arguments.work, arguments.out):
        folder.mkdir(parents=True, exist_ok=True)
    bundle, evaluator = load_pretrained("mnist"), load_evaluator("mnist")
    images, _ = load_images("mnist", arguments.data)
    images = images[np.random.default_rng(0).permutation(len(images))]
    objective = KernelObjective(images, load_extractor("mnist"), "mnist train")
    if objective.image_hashes & KernelObjective(load_images("mnist", arguments.data, "test")[0], objective.extractor).image_hashes:
        raise SystemExit("training and test images overlap: nothing that is learned with the one may be evaluated with the other")
    for calls in arguments.calls:
        table = learn(bundle, objective, calls, noise=arguments.noise, batches=arguments.batches, work=arguments.work)
        table = evaluate_table(table, bundle, evaluator, range(FIRST_SEED, FIRST_SEED + IMAGES))
        path = arguments.out / f"mnist-{calls}{'-noise' if arguments.noise else ''}.json"
        table.save(path)
        print(
            path,
            table.reason,
            table.origin.judged[-1]["quality"]["kernel"],
            table.origin.judged[-1]["quality"]["frechet"],
            flush=True,
        )


if __name__ == "__main__":
    main()
