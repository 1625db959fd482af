r"""The feature network: a small residual classifier, whose average pooling gives the features.

``network(x)``: x (B, C, H, W) in [−1, 1] to features (B, d); ``network.classify`` turns features into scores of classes. Levels
halve the resolution. Blocks are those of He et al., *Deep Residual Learning*, 2016, or of Liu et al., *A ConvNet
for the 2020s* (ConvNeXt), 2022, with group normalisation.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from einops import reduce
from torch import Tensor, nn
from torch.nn import functional as F

from ddimkit._numbers import integer
from ddimkit.errors import WeightsError
from ddimkit.quality.features import Extractor
from ddimkit.weights._tensorfile import read_tensors, write_tensors

__all__ = ["FeatureNetwork", "FeatureNetworkConfig", "load_network", "save_network"]

_KIND = "ddimkit-features"
_SCHEMA = 1
_EXPANSION = 2

Family = Literal["resnet", "convnext"]
"""Kinds of blocks that a feature network can be made of."""


@dataclass(frozen=True)
class FeatureNetworkConfig:
    """What a :class:`FeatureNetwork` is made of.

    Args:
        in_channels: channels of the images.
        widths: channels of each level, finest first; there are as many features as channels in the last one.
        blocks: residual blocks a level.
        classes: number of classes.
        family: which kind of block.

    Raises:
        ValueError: a number below 1, or an unknown family.
    """

    in_channels: int = 1
    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 1
    classes: int = 10
    family: Family = "resnet"

    def __post_init__(self) -> None:
        for name in ("in_channels", "blocks", "classes"):
            object.__setattr__(self, name, integer(getattr(self, name), name))
        object.__setattr__(self, "widths", tuple(integer(width, "widths") for width in self.widths))
        if self.family not in get_args(Family):
            raise ValueError(f"family must be one of {', '.join(get_args(Family))}, got {self.family!r}")
        if not self.widths or min(self.in_channels, self.blocks, self.classes, *self.widths) < 1:
            raise ValueError(f"channels, blocks and classes must be at least 1, got {self}")


class _Block(nn.Module):
    """``relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))``, (B, C, H, W) to (B, C', H/stride, W/stride)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        plain = stride == 1 and width_in == width
        self.shortcut = nn.Identity() if plain else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C, H, W)."""
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + h)


class _MixingBlock(nn.Module):
    """``h + expand-and-project(norm(depthwise(h)))`` with h = x, or where the width changes h = conv(x) of stride 1 or 2."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        plain = stride == 1 and width_in == width
        self.resize = nn.Identity() if plain else nn.Conv2d(width_in, width, 3, stride, padding=1)
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.expand = nn.Conv2d(width, _EXPANSION * width, 1)
        self.project = nn.Conv2d(_EXPANSION * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C, H, W)."""
        h: Tensor = self.resize(x)
        mixed: Tensor = self.project(F.gelu(self.expand(self.norm(self.depthwise(h)))))
        return h + mixed


_FAMILIES = {"resnet": (_Block, 3, 1), "convnext": (_MixingBlock, 4, 2)}
"""Block, and kernel size and stride of the first convolution."""


class FeatureNetwork(nn.Module):
    """Residual convolutions, then the average over the pixels: (B, C, H, W) to features (B, d), all at least 0."""

    def __init__(self, config: FeatureNetworkConfig) -> None:
        super().__init__()
        self.config = config
        first = config.widths[0]
        make, kernel, stride = _FAMILIES[config.family]
        self.conv_in = nn.Conv2d(config.in_channels, first, kernel, stride, padding=1, bias=False)
        self.norm_in = nn.BatchNorm2d(first)
        levels = [
            make(config.widths[max(i - 1, 0)] if j == 0 else width, width, 2 if i and j == 0 else 1)
            for i, width in enumerate(config.widths)
            for j in range(config.blocks)
        ]
        self.blocks = nn.Sequential(*levels)
        self.head = nn.Linear(config.widths[-1], config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C, H, W) in [−1, 1]."""
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(f"images must be (B, {self.config.in_channels}, H, W), got {tuple(x.shape)}")
        h: Tensor = self.blocks(F.relu(self.norm_in(self.conv_in(x))))
        return reduce(F.relu(h), "b d h w -> b d", "mean")

    def classify(self, features: Tensor) -> Tensor:
        """Scores (B, K) of the classes, from features (B, d)."""
        scores: Tensor = self.head(features)
        return scores


def save_network(network: FeatureNetwork, figures: dict[str, Any], path: str | Path) -> str:
    """Write a network in float16, with its configuration and training figures in the metadata; returns the file's SHA-256."""
    weights = {name: value.to(torch.float16) for name, value in network.state_dict().items() if value.is_floating_point()}
    return write_tensors(path, weights, kind=_KIND, schema=_SCHEMA, settings={"config": asdict(network.config), "figures": figures})


def load_network(path: str | Path, *, name: str, sha256: str | None = None, device: torch.device | str = "cpu") -> Extractor:
    """Read what :func:`save_network` wrote, as an extractor named by the file's hash.

    Args:
        path: the file.
        name: what results call it.
        sha256: what the file's hash must be; None to take any.
        device: where it is to run.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: another hash, no safetensors file, or no feature network of this version's.
    """
    file = read_tensors(path, kind=_KIND, schema=_SCHEMA, sha256=sha256)
    try:
        with torch.device("meta"):
            network = FeatureNetwork(FeatureNetworkConfig(**file.settings["config"]))
        counters = {key: torch.tensor(0) for key in network.state_dict() if key.endswith("num_batches_tracked")}
        weights = {key: value.to(torch.float32) for key, value in file.tensors.items()}
        network.load_state_dict({**weights, **counters}, assign=True)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is no feature network that this version can read: {error}") from error
    network = network.eval().to(device)
    return Extractor(network, name, file.sha256, network.classify, device=torch.device(device))
