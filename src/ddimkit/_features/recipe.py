"""What decides a feature network, and the recipes of ours."""

from dataclasses import dataclass, field

from ddimkit._numbers import integer
from ddimkit.models.data import DatasetName
from ddimkit.quality.network import FeatureNetworkConfig

__all__ = ["CIFAR10_FEATURES", "MNIST_FEATURES", "MNIST_LEARNING_FEATURES", "FeatureRecipe"]


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
        shift: and moved by up to so many pixels; by whole ones where they are neither turned nor scaled, which keeps them sharp.
        cutout: side of the square that is covered in grey, in pixels; 0 for none.
        flip: whether images are mirrored at random.
        grad_clip: largest norm of the gradient; None for any.
        ema_decay: decay of the moving average of the weights.
        long_ema_decay: decay of a second, longer moving average; None for none.
        bfloat16: whether the forward pass runs in bfloat16 autocast, uncompiled, on a CPU.
        seed: of the initial weights and every step.

    Raises:
        ValueError: no epochs, or an empty batch.
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
    cutout: int = 0
    flip: bool = False
    grad_clip: float | None = None
    ema_decay: float = 0.995
    long_ema_decay: float | None = None
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "cutout", "seed"):
            object.__setattr__(self, name, integer(getattr(self, name), name))
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs and batch_size must be at least 1, got {self.epochs} and {self.batch_size}")


MNIST_FEATURES = FeatureRecipe()
"""The recipe of the bundled MNIST feature network."""

MNIST_LEARNING_FEATURES = FeatureRecipe(
    network=FeatureNetworkConfig(widths=(24, 48, 64), family="convnext"),
    epochs=16,
    degrees=6.0,
    scale=0.2,
    shift=3.0,
    cutout=8,
    seed=1,
)
"""The recipe of the MNIST feature network that tables are learned with: other blocks and augmentations than the evaluating one."""

CIFAR10_FEATURES = FeatureRecipe(
    "cifar10",
    FeatureNetworkConfig(3, (64, 128, 128), blocks=2),
    epochs=100,
    batch_size=512,
    learning_rate=5e-3,
    weight_decay=0.05,
    degrees=0.0,
    scale=0.0,
    shift=4.0,
    cutout=8,
    flip=True,
)
"""The recipe of the CIFAR-10 feature network, of 1.3 million parameters, 2.6 MB in half precision."""
