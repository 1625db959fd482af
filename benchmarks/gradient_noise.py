"""Which features a table of few calls is learned with: how much of the gradient of one batch is signal, and how much is chance.

The kernel distance of 5-call images of the bundled model is differentiated with respect to all numbers of the table. The features
are of the last level or of all levels of the learning network, as they are or standardised. The script prints, over batches of
fresh seeds, the squared mean of the gradient, less its own chance, over the variance of a batch.

    python benchmarks/gradient_noise.py --data DIR
"""

import argparse
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddimkit import DPMSolverPPSampler, load_pretrained
from ddimkit.learning import KernelObjective, load_extractor
from ddimkit.learning._learner import Drawing, Learner
from ddimkit.learning._table import walk_rows
from ddimkit.models.data import load_images
from ddimkit.quality import Extractor
from ddimkit.quality.network import FeatureNetwork

FIRST_SEED, REAL = 600_000_000, 12_000


def objectives(images: NDArray[np.uint8]) -> dict[str, KernelObjective]:
    """The objective with features of one or all levels, as they are and standardised."""
    whole = load_extractor("mnist")
    last = cast("FeatureNetwork", whole.extract).head.in_features
    found = dict[str, KernelObjective]()
    for levels, part in (("last level", slice(-last, None)), ("all levels", slice(None))):

        def extract(x: Tensor, part: slice = part) -> Tensor:
            return whole.extract(x)[:, part]

        made = KernelObjective(images, Extractor(extract, levels, f"{whole.sha256} {levels}"), "mnist train")
        plain = KernelObjective(images, made.extractor, "mnist train")
        spread = np.full(len(made._scale[1]), float(np.sqrt(np.mean(np.square(made._parts["learn"])))))
        plain.__dict__["_scale"] = np.zeros_like(spread), spread  # one scale for all features keeps their proportions
        found[f"{levels}, as they are"], found[f"{levels}, standardised"] = plain, made
    return found


def signal(learner: Learner, found: dict[str, KernelObjective], drawing: Drawing, batches: int) -> dict[str, float]:
    """Squared mean of the gradient over its variance between batches, for each objective."""
    gradients = {name: list[Tensor]() for name in found}
    for batch in range(batches):
        theta = learner.theta.clone().requires_grad_()
        run = drawing.run(learner._coefficients, drawing.seeds(batch))
        images = walk_rows(learner.corrections.rows(theta, run.x), run, recompute=False)
        for name, objective in found.items():
            (gradient,) = torch.autograd.grad(objective.loss(images, ()), theta, retain_graph=True)
            gradients[name].append(gradient.flatten())
    return {name: _ratio(torch.stack(values)) for name, values in gradients.items()}


def _ratio(gradients: Tensor) -> float:
    variance = gradients.var(dim=0).sum()
    return float((gradients.mean(dim=0).square().sum() - variance / len(gradients)) / variance)


def main() -> None:
    """Measure at the template and after some steps, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the original data files")
    parser.add_argument("--batches", type=int, default=8, help="batches of 128 images that are compared")
    parser.add_argument("--steps", type=int, default=8, help="steps of learning before the second measurement")
    arguments = parser.parse_args()
    bundle, (images, _) = load_pretrained("mnist"), load_images("mnist", arguments.data)
    found = objectives(images[:REAL])
    drawing = Drawing(bundle, torch.device("cpu"), FIRST_SEED, 128, 1, recompute=False)
    learner = Learner(bundle.sampler(DPMSolverPPSampler, steps=5, order=3), 0.02, 100)
    before = signal(learner, found, drawing, arguments.batches)
    for _ in range(arguments.steps):
        learner.learn(found["all levels, standardised"], drawing)
    after = signal(learner, found, drawing, arguments.batches)
    print(f"| features | at the template | after {arguments.steps} steps |\n|---|---|---|")
    for name in found:
        print(f"| {name} | {before[name]:.1f} | {after[name]:.1f} |")


if __name__ == "__main__":
    main()
