"""What decides a training run of a diffusion model, and the recipes of ours."""

from dataclasses import asdict, dataclass, field, fields
from typing import Literal

from ddimkit._numbers import integer
from ddimkit.models.data import DatasetName
from ddimkit.models.unet_config import UNetConfig
from ddimkit.prediction import Prediction
from ddimkit.schedule import NoiseSchedule

__all__ = ["CIFAR10_RECIPE", "CIFAR10_SMALL_RECIPE", "MNIST_RECIPE", "RECIPES", "Betas", "Recipe", "named_schedule"]

Betas = Literal["linear", "cosine"]
"""Names of the schedules that the command line offers."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run, data and device aside.

    Args:
        dataset: which images.
        unet: the network.
        schedule: the noise schedule.
        prediction: what the network learns to predict.
        steps: optimiser steps.
        batch_size: images a step.
        learning_rate: AdamW's rate at its height.
        warmup: steps of linear rise at the start.
        decay: fraction of the steps, at the end, over which the rate falls linearly to 0.
        weight_decay: AdamW's decoupled weight decay.
        grad_clip: largest norm of the gradient.
        ema_decay: decay of the moving average (smaller in the first steps).
        long_ema_decay: decay of a second, longer moving average, which checkpoints keep; None for none.
        clip: how x0_hat of the finished model is to be clipped; training does not use it.
        flip: whether images are mirrored at random.
        label_drop: share of the images whose label is replaced by the last one, ``num_classes - 1``, which stands for no label; for
            class-conditional networks only.
        zero_last: whether the last convolution starts at zero, so that the untrained network predicts 0.
        bfloat16: whether the forward pass runs in bfloat16 autocast, uncompiled, on a CPU.
        seed: of the initial weights and every step.

    Raises:
        TypeError: what must be an integer is none.
        ValueError: no steps, an empty batch, a schedule without a name, dropout, or a share of dropped labels out of range.
    """

    dataset: DatasetName = "mnist"
    unet: UNetConfig = field(default_factory=UNetConfig)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule.linear)
    prediction: Prediction = "epsilon"
    steps: int = 20_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: int = 500
    decay: float = 0.4
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    ema_decay: float = 0.9995
    long_ema_decay: float | None = None
    clip: tuple[float, float] | None = None
    flip: bool = False
    label_drop: float = 0.0
    zero_last: bool = False
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "warmup", "seed"):
            object.__setattr__(self, name, integer(getattr(self, name), name))
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}")
        if self.schedule.spec is None:
            raise ValueError("a recipe needs a schedule made by a named constructor, which its weights can be saved with")
        if self.unet.dropout:
            raise ValueError(f"training is reproducible without dropout only, got {self.unet.dropout}")
        if not 0 <= self.label_drop < 1 or (self.label_drop and not self.unet.num_classes):
            raise ValueError(f"label_drop must lie in [0, 1), and be 0 for a network without labels, got {self.label_drop}")

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.learning_rate * min(rise, fall)

    def describe(self) -> dict[str, object]:
        """The recipe as plain JSON values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**plain, "unet": asdict(self.unet), "schedule": dict(self.schedule.spec or {})}


def named_schedule(name: Betas) -> NoiseSchedule:
    """The schedule of a thousand steps with the betas of this name.

    Raises:
        ValueError: an unknown name.
    """
    match name:
        case "linear":
            return NoiseSchedule.linear(1000)
        case "cosine":
            return NoiseSchedule.cosine(1000)
    raise ValueError(f"betas must be 'linear' or 'cosine', got {name!r}")


MNIST_RECIPE = Recipe(unet=UNetConfig(1, 1, channels=(16, 32, 64), blocks=1, attention_levels=(2,), groups=8), prediction="v")
"""The recipe of the bundled MNIST model."""

CIFAR10_RECIPE = Recipe(
    "cifar10",
    UNetConfig(3, 3, channels=(64, 96, 192), blocks=2, attention_levels=(1, 2), groups=16),
    steps=30_000,
    batch_size=512,
    learning_rate=6e-4,
    warmup=1000,
    flip=True,
)
"""The recipe of the CIFAR-10 model, of 9.5 million parameters and 9.3 GFLOP an image and step; it sees 15 million images."""

CIFAR10_SMALL_RECIPE = Recipe(
    "cifar10",
    UNetConfig(3, 3, channels=(96, 192), blocks=1, attention_levels=(1,), groups=16, num_classes=11, patch=2),
    schedule=NoiseSchedule.cosine(1000),
    prediction="v",
    steps=100_000,
    batch_size=64,
    learning_rate=5e-4,
    warmup=500,
    decay=0.2,
    long_ema_decay=0.9999,
    flip=True,
    label_drop=0.1,
    zero_last=True,
    bfloat16=True,
)
"""The recipe of the class-conditional CIFAR-10 model for one CPU core, of 6.3 million parameters and 1.2 GFLOP a forward pass."""

RECIPES = {"mnist": MNIST_RECIPE, "cifar10": CIFAR10_RECIPE, "cifar10-small": CIFAR10_SMALL_RECIPE}
"""The recipes by their name."""
