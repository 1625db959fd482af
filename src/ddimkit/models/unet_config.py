"""The sizes of the reference UNet, and those of its published CIFAR-10 model."""

from dataclasses import dataclass

from ddimkit._numbers import integer

__all__ = ["CIFAR10_CONFIG", "UNetConfig"]


@dataclass(frozen=True)
class UNetConfig:
    """What a :class:`~ddimkit.models.unet.UNet` is made of.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output; twice ``in_channels`` for a learned variance.
        channels: width of each level, finest first.
        blocks: residual blocks of a level on the way down (one more on the way up).
        attention_levels: the levels, 0 the finest, whose residual blocks are followed by self-attention.
        groups: groups of every GroupNorm; divides each width.
        eps: epsilon of every GroupNorm.
        dropout: dropout probability inside residual blocks, in [0, 1).
        num_classes: number of labels of a class-conditional model, 0 for an unconditional one.
        patch: side of the square of pixels that the network takes as one, 1 or 2: x is rearranged to (B, C·patch², H/patch,
            W/patch) before the first convolution, and back after the last.

    Raises:
        TypeError: what must be an integer is none.
        ValueError: a number is out of range, naming it.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: tuple[int, ...] = (128, 256, 256, 256)
    blocks: int = 2
    attention_levels: tuple[int, ...] = (1,)
    groups: int = 32
    eps: float = 1e-6
    dropout: float = 0.0
    num_classes: int = 0
    patch: int = 1

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "blocks", "groups", "num_classes", "patch"):
            object.__setattr__(self, name, integer(getattr(self, name), name))
        for name in ("channels", "attention_levels"):
            object.__setattr__(self, name, tuple(integer(value, f"each of {name}") for value in getattr(self, name)))
        if not self.channels or min(self.in_channels, self.out_channels, self.blocks, self.groups, *self.channels) < 1:
            raise ValueError(f"channels, blocks and groups must be at least 1, got {self}")
        for width in self.channels:
            if width % self.groups:
                raise ValueError(f"groups={self.groups} must divide every width, but channels has {width}")
        for level in self.attention_levels:
            if not 0 <= level < len(self.channels):
                raise ValueError(f"attention level {level} is outside 0..{len(self.channels) - 1}")
        if self.channels[0] % 2 or self.channels[0] < 4:
            raise ValueError(f"the first width must be even and at least 4 for the embedding of t, got {self.channels[0]}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.num_classes < 0:
            raise ValueError(f"num_classes must be at least 0, got {self.num_classes}")
        if self.patch not in (1, 2):
            raise ValueError(f"patch must be 1 or 2, got {self.patch!r}")


CIFAR10_CONFIG = UNetConfig()
"""The configuration of Ho et al.'s CIFAR-10 model."""
