"""The training recipe of the models: ``python -m ddimkit.models.train cifar10 --data DIR``.

The simplified objective of Ho et al. 2020, eq. 14, for any prediction: the mean square of its target minus ``model(x_t, t)`` over
images, noise and timesteps, the timesteps of a batch stratified. AdamW with warm-up, a constant rate and a linear fall to 0 at
the end; gradient clipping; an exponential moving average of the weights, which is what is kept. The images lie on the device as
bytes. On CUDA the network is compiled and runs in bfloat16 autocast; ``--no-fast`` does without, ``--fast`` does so elsewhere.

Training goes on from the checkpoint in ``--out``; ``--minutes`` ends a sitting. What is in ``--portable``, pieces of less than
16 MiB, can be carried to another machine and taken up there.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ddimkit._training.pace import Pace
from ddimkit._training.session import Session, pick_device
from ddimkit._training.trainer import Forward, Moment, Trainer
from ddimkit.errors import DDIMKitError
from ddimkit.models._recipe import CIFAR10_RECIPE, MNIST_RECIPE, RECIPES, Recipe, named_schedule
from ddimkit.models.bundle import ModelBundle, save_bundle
from ddimkit.models.conditions import seed_labels
from ddimkit.models.data import load_images
from ddimkit.models.unet import UNet
from ddimkit.prediction import prediction_target

__all__ = ["CIFAR10_RECIPE", "MNIST_RECIPE", "Denoising", "Recipe", "main", "make_bundle", "train"]


class Denoising:
    """The task of a diffusion model: to say what noise, image or velocity is in a noised image.

    Args:
        recipe: what to train.
        images: (N, C, H, W) unsigned bytes.
        device: where they are to lie.
        labels: (N,) unsigned bytes, below the number of classes; for class-conditional networks only.

    Raises:
        ValueError: labels are missing, not wanted, or out of range.
    """

    def __init__(
        self,
        recipe: Recipe,
        images: NDArray[np.uint8] | Tensor,
        device: torch.device,
        labels: NDArray[np.uint8] | None = None,
    ) -> None:
        classes = recipe.unet.num_classes
        if (labels is None) != (classes == 0):
            raise ValueError(f"the network has {classes} classes, so labels must {'' if classes else 'not '}be given")
        if labels is not None and (labels.shape != images.shape[:1] or labels.max(initial=0) >= classes):
            raise ValueError(f"labels must be ({len(images)},), below {classes}: got {labels.shape}, up to {labels.max(initial=0)}")
        self.labels = None if labels is None else torch.from_numpy(labels.astype(np.int64)).to(device)
        pixels = images if isinstance(images, Tensor) else torch.from_numpy(images.copy())
        self.recipe, self.images, self.device = recipe, pixels.to(device), device
        # As tables on the device, because a copy from the host would wait for the step before.
        schedule, every = recipe.schedule, torch.arange(recipe.schedule.num_timesteps)
        one, zero = torch.ones(len(every)), torch.zeros(len(every))
        self._noised = [schedule.add_noise(*pair, every).to(device) for pair in ((one, zero), (zero, one))]
        self._target = [
            prediction_target(recipe.prediction, schedule, *pair, every).to(device) for pair in ((one, zero), (zero, one))
        ]

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.recipe.steps

    def network(self) -> UNet:
        """A new network."""
        network = UNet(self.recipe.unet)
        if self.recipe.zero_last:
            for parameter in network.conv_out.parameters():
                nn.init.zeros_(parameter)
        return network

    def moment(self, step: int) -> Moment:
        """The learning rate of a step."""
        return Moment(self.recipe.rate(step))

    def identity(self) -> dict[str, object]:
        """The recipe; a checkpoint may have been made for another number of steps, and clipping does not matter to it."""
        return {key: value for key, value in self.recipe.describe().items() if key not in ("steps", "clip")}

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Clean images in [−1, 1] (B, C, H, W), noise of that shape, stratified timesteps (B,), and labels (B,) if any."""
        recipe, device = self.recipe, self.device
        generator = torch.Generator(device).manual_seed(recipe.seed * 2**32 + step)
        size = (recipe.batch_size,)
        picked = torch.randint(len(self.images), size, generator=generator, device=device)
        x0 = self.images[picked].to(torch.float32).div_(127.5).sub_(1)
        if recipe.flip:
            mirrored = torch.rand(size, generator=generator, device=device) < 0.5
            x0 = torch.where(mirrored[:, None, None, None], x0.flip(3), x0)
        eps = torch.randn(x0.shape, generator=generator, device=device)
        strata = torch.rand(size, generator=generator, device=device) + torch.arange(size[0], device=device)
        t = (strata * (recipe.schedule.num_timesteps / size[0])).long().clamp_(max=recipe.schedule.num_timesteps - 1)
        if self.labels is None:
            return x0, eps, t, ()
        dropped = torch.rand(size, generator=generator, device=device) < recipe.label_drop
        return x0, eps, t, (torch.where(dropped, recipe.unet.num_classes - 1, self.labels[picked]),)

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """``schedule.add_noise(x0, eps, t)`` and the prediction's target, both (B, C, H, W)."""
        (s, n), (p, q) = ([table[t][:, None, None, None] for table in pair] for pair in (self._noised, self._target))
        return x0 * s + eps * n, x0 * p + eps * q

    def loss(self, forward: Forward, step: int) -> Tensor:
        """The mean square of what the network says of a step's batch."""
        x0, eps, t, labels = self.batch(step)
        x, target = self.noised(x0, eps, t)
        return F.mse_loss(forward(x.contiguous(memory_format=torch.channels_last), t, *labels), target)


def make_bundle(trainer: Trainer[UNet], task: Denoising) -> ModelBundle:
    """The averaged weights as a model, with the run's figures; labels follow from the seeds, and the last one is "no label"."""
    run = {"steps": trainer.step, "loss": trainer.loss, "images": len(task.images)}
    recipe = task.recipe
    return ModelBundle(
        trainer.averaged(),
        recipe.schedule,
        sample_shape=tuple(task.images.shape[1:]),
        prediction=recipe.prediction,
        clip=recipe.clip,
        name=recipe.dataset,
        figures={**run, "recipe": recipe.describe()},
        conditions=seed_labels(recipe.unet.num_classes - 1) if task.labels is not None else None,
        unconditional={"labels": recipe.unet.num_classes - 1} if task.labels is not None else None,
    )


def train(
    recipe: Recipe, data: Path, session: Session, *, device: str | None = None, fast: bool | None = None
) -> tuple[Path, dict[str, float]]:
    """Train a recipe, going on from the session's checkpoint if it is there.

    Args:
        recipe: what to train.
        data: folder of the original data files.
        session: where checkpoint, log and weights are kept, and for how long.
        device: ``"cpu"`` or ``"cuda"``; CUDA if there is one by default.
        fast: ``torch.compile`` and bfloat16 autocast, which needs a compiler; on CUDA by default.

    Returns:
        the file of the averaged weights so far, float16, which :func:`~ddimkit.models.bundle.load_bundle` reads; and the run's
        figures: step, loss, images a second and their share of the device's matrix-multiplication rate.

    Raises:
        FileNotFoundError, ValueError: the data are missing or damaged.
        WeightsError: the checkpoint is damaged or of another recipe.
        DDIMKitError: ``fast``, and the compiled gradients are wrong.
        FloatingPointError: the loss is no longer finite.
    """
    images, labels = load_images(recipe.dataset, data)
    where = pick_device(device)
    task = Denoising(recipe, images, where, labels if recipe.unet.num_classes else None)
    trainer = Trainer(task, where, fast=fast)
    inputs = ((1, *images.shape[1:]), (1,), *([(1,)] if recipe.unet.num_classes else []))
    figures = session.run(trainer, lambda: Pace.of(trainer, *inputs))
    weights = session.out / f"{recipe.dataset}.safetensors"
    save_bundle(make_bundle(trainer, task), weights)
    return weights, figures


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe of this name, with what the command line changes."""
    named: dict[str, Any] = {name: getattr(arguments, name) for name in ("steps", "batch_size", "learning_rate")}
    changes = {name: value for name, value in named.items() if value is not None}
    if arguments.betas is not None:
        changes["schedule"] = named_schedule(arguments.betas)
    if arguments.widths is not None:
        widths = tuple(int(width) for width in arguments.widths.split(","))
        changes["unet"] = replace(RECIPES[arguments.recipe].unet, channels=widths)
    if arguments.clip is not None:
        changes["clip"] = (-1.0, 1.0) if arguments.clip else None
    return replace(RECIPES[arguments.recipe], **changes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ddimkit.models.train", description="Train one of ddimkit's models.")
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder of the original data files")
    parser.add_argument("--out", type=Path, default=Path("ddimkit-train"), help="folder for checkpoint, log and weights")
    parser.add_argument("--portable", type=Path, help="folder for a small checkpoint in pieces, to be taken up elsewhere")
    parser.add_argument("--minutes", type=float, help="end the sitting after so long; the same command goes on")
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the recipe's")
    parser.add_argument("--batch-size", type=int, help="images a step, instead of the recipe's")
    parser.add_argument("--learning-rate", type=float, help="the highest learning rate, instead of the recipe's")
    parser.add_argument("--betas", choices=("linear", "cosine"), help="the noise schedule, instead of the recipe's")
    parser.add_argument("--widths", help="the network's widths, finest level first, as in 64,128, instead of the recipe's")
    parser.add_argument(
        "--clip", action=argparse.BooleanOptionalAction, help="whether samplers are to clip to [-1, 1]; training does not"
    )
    parser.add_argument("--device", help="cpu or cuda; CUDA if there is one by default")
    parser.add_argument(
        "--fast", action=argparse.BooleanOptionalAction, help="compile, and train in bfloat16 autocast; on CUDA by default"
    )
    return parser


def main() -> None:
    """The command line of the recipe: prints the weights' file and the run's figures, JSON on the last line."""
    parser = _parser()
    arguments = parser.parse_args()
    session = Session(arguments.out, arguments.portable, arguments.minutes)
    try:
        weights, figures = train(_recipe(arguments), arguments.data, session, device=arguments.device, fast=arguments.fast)
    except (DDIMKitError, FloatingPointError, OSError, TypeError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    print(weights)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
