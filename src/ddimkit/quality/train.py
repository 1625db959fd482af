"""The recipe of the feature networks and their references: ``python -m ddimkit.quality.train mnist --data DIR``.

A classifier by cross-entropy with smoothed labels: AdamW, one cycle of the learning rate, an exponential moving average of the
weights; images turned, scaled, moved and (in colour) mirrored at random. Its features of a split become the reference that
generated images are compared with, those of the other split the floor of the scale.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ddimkit.errors import DDIMKitError
from ddimkit.loop import check_device
from ddimkit.models.data import DatasetName, load_images
from ddimkit.models.train import check_gradients
from ddimkit.quality.features import Extractor
from ddimkit.quality.network import FeatureNetwork, FeatureNetworkConfig, load_network, save_network
from ddimkit.quality.reference import Reference
from ddimkit.quality.yardstick import Yardstick

__all__ = ["CIFAR10_FEATURES", "MNIST_FEATURES", "FeatureRecipe", "accuracy", "main", "train"]


@dataclass(frozen=True)
class FeatureRecipe:
    """Everything that decides a feature network, data and device aside.

    Args:
        dataset: which images.
        network: the network.
        epochs: how often every image is seen.
        batch_size: images a step.
        learning_rate: AdamW's rate at its height.
        weight_decay: AdamW's decoupled weight decay.
        smoothing: share of a label spread over all classes.
        degrees: images are turned by up to so much.
        scale: and scaled by up to this fraction.
        shift: and moved by up to so many pixels.
        flip: whether images are mirrored at random.
        ema_decay: decay of the moving average of the weights.
        seed: of the initial weights and every step.
    """

    dataset: DatasetName = "mnist"
    network: FeatureNetworkConfig = field(default_factory=FeatureNetworkConfig)
    epochs: int = 12
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    smoothing: float = 0.1
    degrees: float = 10.0
    scale: float = 0.1
    shift: float = 2.0
    flip: bool = False
    ema_decay: float = 0.995
    seed: int = 0


MNIST_FEATURES = FeatureRecipe()
"""The recipe of the bundled MNIST feature network."""

CIFAR10_FEATURES = FeatureRecipe(
    "cifar10", FeatureNetworkConfig(3, (48, 96, 184), blocks=2), epochs=60, weight_decay=0.05, degrees=0.0, shift=4.0, flip=True
)
"""The recipe of the CIFAR-10 feature network."""

_RECIPES = {"mnist": MNIST_FEATURES, "cifar10": CIFAR10_FEATURES}


def augment(images: Tensor, recipe: FeatureRecipe, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) in [−1, 1], each turned, scaled, moved and mirrored at random; what comes in from outside is −1."""
    batch, _, _, width = images.shape

    def uniform(most: float) -> Tensor:
        return (torch.rand(batch, generator=generator, device=images.device) * 2 - 1) * most

    angle, size = uniform(math.radians(recipe.degrees)), 1 + uniform(recipe.scale)
    mirror = torch.where(uniform(1) < 0, -1.0, 1.0) if recipe.flip else torch.ones_like(size)
    sine, cosine = angle.sin() / size, angle.cos() / size
    across, down = uniform(2 * recipe.shift / width), uniform(2 * recipe.shift / width)
    matrix = torch.stack((torch.stack((cosine * mirror, -sine, across), 1), torch.stack((sine * mirror, cosine, down), 1)), 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved: Tensor = F.grid_sample(images + 1, grid, align_corners=False)
    return moved - 1


def train(
    recipe: FeatureRecipe, data: Path, out: Path, *, device: str | None = None, fast: bool | None = None, progress: bool = True
) -> Path:
    """Train a feature network and write it to ``out``, with reference and scale of both splits: two yardsticks.

    Args:
        recipe: what to train.
        data: folder of the original data files.
        out: folder for ``NAME-features.safetensors``, ``NAME-reference-SPLIT.safetensors`` and ``NAME-scale-SPLIT.json``; made if
            missing.
        device: ``"cpu"`` or ``"cuda"``; CUDA if there is one by default.
        fast: ``torch.compile`` and bfloat16 autocast, which needs a compiler; on CUDA by default.
        progress: whether to show a progress bar.

    Returns:
        the network's file.

    Raises:
        FileNotFoundError, ValueError: the data are missing or damaged.
        FloatingPointError: the loss is no longer finite.
    """
    where = check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    images, labels = load_images(recipe.dataset, data)
    test_images, test_labels = load_images(recipe.dataset, data, "test")
    network = _fit(recipe, images, labels, where, where.type == "cuda" if fast is None else fast, progress)
    out.mkdir(parents=True, exist_ok=True)
    path, name = out / f"{recipe.dataset}-features.safetensors", f"{recipe.dataset} features"
    save_network(network, {}, path)
    correct = accuracy(load_network(path, name=name, device=where), test_images, test_labels)
    save_network(network, {"recipe": asdict(recipe), "test_accuracy": correct}, path)
    extractor = load_network(path, name=name, device=where)
    splits = {"train": images, "test": test_images}
    for (split, real), other in zip(splits.items(), (test_images, images[: len(test_images)]), strict=True):
        reference = Reference.of(f"{recipe.dataset} {split}", extractor(real), extractor)
        reference.save(out / f"{recipe.dataset}-reference-{split}.safetensors")
        Yardstick.of(extractor, reference, other).save_scale(out / f"{recipe.dataset}-scale-{split}.json")
    print(json.dumps({"network": path.name, "bytes": path.stat().st_size, "test_accuracy": correct}))
    return path


def _fit(
    recipe: FeatureRecipe, images: NDArray[np.uint8], labels: NDArray[np.uint8], device: torch.device, fast: bool, progress: bool
) -> FeatureNetwork:
    """The averaged network after the recipe's epochs."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        network = FeatureNetwork(recipe.network)
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
    forward = torch.compile(network) if fast else network
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    pixels, wanted = torch.from_numpy(images.copy()).to(device), torch.from_numpy(labels.astype(np.int64)).to(device)
    batches = len(pixels) // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=batches * recipe.epochs)
    generator = torch.Generator(device).manual_seed(recipe.seed)
    if fast:
        first = augment(pixels[: recipe.batch_size].to(torch.float32).div(127.5).sub(1), recipe, generator)
        check_gradients(dict(network.named_parameters()), lambda quick: _loss(network, forward, first, wanted, recipe, fast=quick))
    loss = torch.tensor(math.nan)
    bar = tqdm(total=batches * recipe.epochs, disable=not progress, unit="step", mininterval=2)
    with bar:
        for _ in range(recipe.epochs):
            order = torch.randperm(len(pixels), generator=generator, device=device)
            for picked in order[: batches * recipe.batch_size].view(batches, recipe.batch_size):
                x = augment(pixels[picked].to(torch.float32).div_(127.5).sub_(1), recipe, generator)
                loss = _loss(network, forward, x, wanted[picked], recipe, fast=fast)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                average.update_parameters(network)
                bar.update()
            found = float(loss.detach())
            if not math.isfinite(found):
                raise FloatingPointError(f"the loss is {found}: lower learning_rate")
            bar.set_postfix(loss=f"{found:.4f}")
    averaged: nn.Module = average.module
    assert isinstance(averaged, FeatureNetwork)
    return averaged.eval()


def _loss(
    network: FeatureNetwork, forward: Callable[[Tensor], Tensor], x: Tensor, wanted: Tensor, recipe: FeatureRecipe, *, fast: bool
) -> Tensor:
    """Cross-entropy of a batch (B, C, H, W) with its first B labels, compiled and in bfloat16 or plainly."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=fast):
        scores = network.head((forward if fast else network)(x.contiguous(memory_format=torch.channels_last)))
    return F.cross_entropy(scores.float(), wanted[: len(x)], label_smoothing=recipe.smoothing)


def accuracy(extractor: Extractor, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> float:
    """Share of the images (N, C, H, W) whose class the extractor gets right."""
    return float((extractor.classes(extractor(images)) == labels).mean())


def main() -> None:
    """The command line of the recipe."""
    parser = argparse.ArgumentParser(prog="python -m ddimkit.quality.train", description="Train a feature network.")
    parser.add_argument("recipe", choices=sorted(_RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder of the original data files")
    parser.add_argument("--out", type=Path, default=Path("ddimkit-train"), help="folder for the network and its references")
    parser.add_argument("--epochs", type=int, help="epochs, instead of the recipe's")
    parser.add_argument("--device", help="cpu or cuda; CUDA if there is one by default")
    parser.add_argument("--fast", action=argparse.BooleanOptionalAction, help="compile, and train in bfloat16; on CUDA by default")
    arguments = parser.parse_args()
    recipe = _RECIPES[arguments.recipe]
    if arguments.epochs is not None:
        recipe = replace(recipe, epochs=arguments.epochs)
    try:
        train(recipe, arguments.data, arguments.out, device=arguments.device, fast=arguments.fast)
    except (DDIMKitError, FloatingPointError, OSError, TypeError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
