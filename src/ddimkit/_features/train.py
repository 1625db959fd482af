"""The recipe of the feature networks and their references: ``python -m ddimkit._features.train mnist --data DIR``.

A classifier by cross-entropy with smoothed labels: AdamW, one cycle of the learning rate, an exponential moving average of the
weights; images turned, scaled, moved, covered in part and (in colour) mirrored at random. Its features of a split become the
reference that generated images are compared with, those of the other split the real-vs-real end of the scale. Training goes on
from the checkpoint in ``--out``.
"""

import argparse
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ddimkit._features.augment import augment
from ddimkit._features.recipe import CIFAR10_FEATURES, MNIST_FEATURES, MNIST_LEARNING_FEATURES, FeatureRecipe
from ddimkit._training.pace import Pace
from ddimkit._training.session import Session, pick_device
from ddimkit._training.trainer import Forward, Moment, Trainer
from ddimkit.errors import DDIMKitError
from ddimkit.models.data import load_images
from ddimkit.quality.evaluator import Evaluator
from ddimkit.quality.features import Extractor
from ddimkit.quality.network import FeatureNetwork, FeatureNetworkConfig, load_network, save_network
from ddimkit.quality.reference import Reference

__all__ = ["CIFAR10_FEATURES", "MNIST_FEATURES", "Classifier", "Classifying", "FeatureRecipe", "accuracy", "main", "train"]

_RISE = 0.3
_FIRST, _LAST = 1 / 25, 1 / 250_000
_SLOW, _QUICK = 0.95, 0.85


_RECIPES = {"mnist": MNIST_FEATURES, "mnist-learning": MNIST_LEARNING_FEATURES, "cifar10": CIFAR10_FEATURES}


class Classifier(nn.Module):
    """A feature network with its head: images (B, C, H, W) to scores of classes (B, K)."""

    def __init__(self, config: FeatureNetworkConfig) -> None:
        super().__init__()
        self.features = FeatureNetwork(config)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C, H, W) in [−1, 1]."""
        scores: Tensor = self.features.classify(self.features(x))
        return scores


class Classifying:
    """The task of a feature network: to tell the classes of images.

    Args:
        recipe: what to train.
        images: (N, C, H, W) unsigned bytes.
        labels: (N,) their classes.
        device: where they are to lie.

    Raises:
        ValueError: fewer images than a batch.
    """

    def __init__(self, recipe: FeatureRecipe, images: NDArray[np.uint8], labels: NDArray[np.uint8], device: torch.device) -> None:
        self.recipe, self.device, self.batches = recipe, device, len(images) // recipe.batch_size
        if not self.batches:
            raise ValueError(f"there are {len(images)} images, less than a batch of {recipe.batch_size}")
        self.images = torch.from_numpy(images.copy()).to(device)
        self.labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        self._order: tuple[int, Tensor] | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.batches * self.recipe.epochs

    def network(self) -> Classifier:
        """A new network."""
        return Classifier(self.recipe.network)

    def moment(self, step: int) -> Moment:
        """One cycle: the rate rises from 1/25 of its height for 30 % of the steps and falls to 1/250,000, beta1 the other way.

        Source: Smith and Topin, *Super-Convergence*, 2017, with cosines between the turning points.
        """
        rise = max(1.0, _RISE * self.steps - 1)
        if step < rise:
            height, beta1 = _between(_FIRST, 1.0, step / rise), _between(_SLOW, _QUICK, step / rise)
        else:
            gone = (step - rise) / max(1.0, self.steps - 1 - rise)
            height, beta1 = _between(1.0, _LAST, gone), _between(_QUICK, _SLOW, gone)
        return Moment(self.recipe.learning_rate * height, beta1)

    def identity(self) -> dict[str, object]:
        """The recipe; a checkpoint may have been made for another number of epochs."""
        return {key: value for key, value in asdict(self.recipe).items() if key != "epochs"}

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images in [−1, 1] (B, C, H, W), changed at random, and their labels (B,); an epoch sees every image at most once."""
        epoch, place = divmod(step, self.batches)
        generator = torch.Generator(self.device)
        if self._order is None or self._order[0] != epoch:
            generator.manual_seed(self.recipe.seed * 2**32 + epoch)
            self._order = epoch, torch.randperm(len(self.images), generator=generator, device=self.device)
        size = self.recipe.batch_size
        picked = self._order[1][place * size : (place + 1) * size]
        generator.manual_seed((self.recipe.seed * 2 + 1) * 2**31 + step)
        return augment(self.images[picked].to(torch.float32).div_(127.5).sub_(1), self.recipe, generator), self.labels[picked]

    def loss(self, forward: Forward, step: int) -> Tensor:
        """Cross-entropy of a step's batch."""
        x, wanted = self.batch(step)
        scores = forward(x.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(scores, wanted, label_smoothing=self.recipe.smoothing)


def _between(a: float, b: float, share: float) -> float:
    """From a to b along half a cosine."""
    return b + (a - b) * (1 + math.cos(math.pi * share)) / 2


def train(
    recipe: FeatureRecipe, data: Path, session: Session, *, device: str | None = None, fast: bool | None = None
) -> tuple[Path, dict[str, float]]:
    """Train a feature network; when it is finished, write it with reference and scale of both splits: two evaluators.

    Args:
        recipe: what to train.
        data: folder of the original data files.
        session: where checkpoint, log and results are kept, and for how long.
        device: ``"cpu"`` or ``"cuda"``; CUDA if there is one by default.
        fast: ``torch.compile`` and bfloat16 autocast, which needs a compiler; on CUDA by default.

    Returns:
        the folder of ``NAME-features.safetensors``, ``NAME-reference-SPLIT.safetensors`` and ``NAME-scale-SPLIT.json``, of which
        there are none before the last step; and the run's figures, the accuracy on the test split among them.

    Raises:
        FileNotFoundError, ValueError: the data are missing or damaged.
        WeightsError: the checkpoint is damaged or of another recipe.
        DDIMKitError: ``fast``, and the compiled gradients are wrong.
        FloatingPointError: the loss is no longer finite.
    """
    where = pick_device(device)
    images, labels = load_images(recipe.dataset, data)
    test = load_images(recipe.dataset, data, "test")
    trainer = Trainer(Classifying(recipe, images, labels, where), where, fast=fast)
    figures = session.run(trainer, lambda: Pace.of(trainer, (1, *images.shape[1:])))
    if trainer.step < trainer.task.steps:
        return session.out, figures
    correct = _write(trainer.averaged().features, recipe, images, test, session.out, where)
    return session.out, {**figures, "test_accuracy": correct}


def _write(
    network: FeatureNetwork,
    recipe: FeatureRecipe,
    images: NDArray[np.uint8],
    test: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    out: Path,
    device: torch.device,
) -> float:
    """Write a network and the evaluators of both splits; its accuracy on the test split, as it reads back from half precision."""
    path, name = out / f"{recipe.dataset}-features.safetensors", f"{recipe.dataset} features"
    save_network(network, {}, path)
    correct = accuracy(load_network(path, name=name, device=device), *test)
    save_network(network, {"recipe": asdict(recipe), "test_accuracy": correct}, path)
    extractor = load_network(path, name=name, device=device)
    splits = {"train": images, "test": test[0]}
    for (split, real), other in zip(splits.items(), (test[0], images[: len(test[0])]), strict=True):
        reference = Reference.of(f"{recipe.dataset} {split}", extractor(real), extractor)
        reference.save(out / f"{recipe.dataset}-reference-{split}.safetensors")
        Evaluator.of(extractor, reference, other).save_scale(out / f"{recipe.dataset}-scale-{split}.json")
    return correct


def accuracy(extractor: Extractor, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> float:
    """Share of the images (N, C, H, W) whose class the extractor gets right."""
    return float((extractor.classes(extractor(images)) == labels).mean())


def main() -> None:
    """The command line of the recipe: prints the folder and the run's figures, JSON on the last line."""
    parser = argparse.ArgumentParser(prog="python -m ddimkit._features.train", description="Train a feature network.")
    parser.add_argument("recipe", choices=sorted(_RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder of the original data files")
    parser.add_argument("--out", type=Path, default=Path("ddimkit-train"), help="folder for checkpoint, network and references")
    parser.add_argument("--portable", type=Path, help="folder for a small checkpoint in pieces, to be taken up elsewhere")
    parser.add_argument("--minutes", type=float, help="end the sitting after so long; the same command goes on")
    parser.add_argument("--epochs", type=int, help="epochs, instead of the recipe's")
    parser.add_argument("--device", help="cpu or cuda; CUDA if there is one by default")
    parser.add_argument("--fast", action=argparse.BooleanOptionalAction, help="compile, and train in bfloat16; on CUDA by default")
    arguments = parser.parse_args()
    recipe, session = _RECIPES[arguments.recipe], Session(arguments.out, arguments.portable, arguments.minutes, prefix="features-")
    try:
        recipe = recipe if arguments.epochs is None else replace(recipe, epochs=arguments.epochs)
        folder, figures = train(recipe, arguments.data, session, device=arguments.device, fast=arguments.fast)
    except (DDIMKitError, FloatingPointError, OSError, TypeError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    print(folder)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
