"""The reference UNet: the network of Ho, Jain and Abbeel, *Denoising Diffusion Probabilistic Models*, 2020.

``model(x, t)`` maps x of shape (B, C, H, W) and t, int64 of shape (B,), to a tensor of x's height and width:

- an embedding of t, ``[sin(t·w), cos(t·w)]`` with ``w_i = 10000^(-i / (half - 1))``, through two linear layers;
- a way down: at each level residual blocks (and attention where asked), then a stride-2 convolution;
- a middle: residual block, attention, residual block;
- a way up: at each level one residual block more than on the way down, each fed with the matching activation of the way
  down, then nearest-neighbour up-sampling and a convolution.

The published CIFAR-10 checkpoint of that paper is :data:`~ddimkit.models.unet_config.CIFAR10_CONFIG` (35,746,307 parameters).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from ddimkit.errors import WeightsError
from ddimkit.models.diffusers_names import read_unet
from ddimkit.models.unet_config import CIFAR10_CONFIG, UNetConfig

__all__ = ["CIFAR10_CONFIG", "UNet", "UNetConfig", "channels_last"]


_HOOKS = ("forward", "forward_pre", "backward", "backward_pre")


def time_embedding(t: Tensor, width: int) -> Tensor:
    """``[sin(t·w), cos(t·w)]``, ``w_i = 10000^(-i/(half-1))``: int64 (B,) to float32 (B, width)."""
    half = width // 2
    frequencies = torch.arange(half, dtype=torch.float32, device=t.device).mul_(-math.log(10000.0) / (half - 1)).exp_()
    angles = t.to(torch.float32)[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def _is_watched(module: nn.Module) -> bool:
    """Whether a hook of the module, or one of all modules, sees what it is given or gives."""
    # torch has no public word for whether there are any.
    return any(getattr(module, f"_{kind}_hooks") or getattr(torch_module, f"_global_{kind}_hooks") for kind in _HOOKS)


def _is_plain(module: nn.Module) -> bool:
    """Whether a call of the module is the product with its weight plus its bias, and nothing more: no hook, no adapter."""
    linear = type(module) is nn.Linear and getattr(module, "bias", None) is not None and "forward" not in module.__dict__
    return linear and not _is_watched(module)


def _activated(norm: nn.Module, h: Tensor) -> Tensor:
    """``silu(norm(h))``, written over the norm's output where no hook keeps that."""
    return F.silu(norm(h), inplace=not _is_watched(norm))


class ResidualBlock(nn.Module):
    """``x + conv(dropout(silu(norm(conv(silu(norm(x))) + linear(embedding)))))``, (B, C, H, W) to (B, C', H, W)."""

    def __init__(self, config: UNetConfig, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, width_in, config.eps)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.embedding = nn.Linear(4 * config.channels[0], width_out)
        self.norm2 = nn.GroupNorm(config.groups, width_out, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.shortcut = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """X (B, C, H, W), the activated embedding (B, E)."""
        h: Tensor = self.conv1(_activated(self.norm1, x))
        h = h + self.embedding(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(_activated(self.norm2, h)))
        shortcut: Tensor = self.shortcut(x)
        return shortcut + h


class Attention(nn.Module):
    """Single-head self-attention over the pixels, with a residual connection: (B, C, H, W) to the same."""

    def __init__(self, config: UNetConfig, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.groups, width, config.eps)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C, H, W)."""
        height = x.shape[2]
        h = rearrange(self.norm(x), "b c h w -> b 1 (h w) c")
        query, key, value = self._projected(h)
        h = F.scaled_dot_product_attention(query, key, value)
        attended: Tensor = rearrange(self.out(h), "b 1 (h w) c -> b c h w", h=height)
        return x + attended

    def _projected(self, h: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value in one product; the weights stay three, as published checkpoints name them."""
        three = (self.query, self.key, self.value)
        if not all(_is_plain(one) for one in three):
            return tuple(one(h) for one in three)  # adapted or watched by others
        weight, bias = torch.cat([one.weight for one in three]), torch.cat([one.bias for one in three])
        return F.linear(h, weight, bias).chunk(3, dim=-1)


class Level(nn.Module):
    """The residual blocks, attentions and the resampling convolution of one resolution on one way."""

    def __init__(self, config: UNetConfig, level: int, widths: Sequence[int], *, stride: int | None) -> None:
        """widths: the input channels of each block; stride: of the resampling convolution, None for none."""
        super().__init__()
        width = config.channels[level]
        self.blocks = nn.ModuleList(ResidualBlock(config, width_in, width) for width_in in widths)
        attends = level in config.attention_levels
        self.attentions = nn.ModuleList(Attention(config, width) if attends else nn.Identity() for _ in widths)
        self.resample = None if stride is None else nn.Conv2d(width, width, 3, stride, padding=1 if stride == 1 else 0)


class DownLevel(Level):
    """A level on the way down; pushes every activation that the way up will want."""

    def forward(self, h: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        """H (B, C, H, W) to (B, C', H/2, W/2), or (B, C', H, W) at the last level."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(h, embedding))
            skips.append(h)
        if self.resample is not None:
            h = self.resample(F.pad(h, (0, 1, 0, 1)))
            skips.append(h)
        return h


def _doubled(h: Tensor) -> Tensor:
    """Nearest up-sampling, (B, C, H, W) to (B, C, 2H, 2W)."""
    if torch.compiler.is_compiling():
        # With torch 2.13 on a CPU the compiled backward of interpolate is 0 in bfloat16; this one is right.
        doubled: Tensor = repeat(h, "b c h w -> b c (h 2) (w 2)")
        return doubled
    return F.interpolate(h, scale_factor=2.0, mode="nearest")


class UpLevel(Level):
    """A level on the way up; pops an activation for every block."""

    def forward(self, h: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        """H (B, C, H, W) to (B, C', 2H, 2W), or (B, C', H, W) at the finest level."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(torch.cat((h, skips.pop()), dim=1), embedding))
        if self.resample is not None:
            h = self.resample(_doubled(h))
        return h


class UNet(nn.Module):
    """The DDPM network: ``model(x, t)`` with x (B, C, H, W) and t int64 (B,) gives (B, C', H, W).

    Args:
        config: what it is made of; the default is the CIFAR-10 model of the paper.

    Raises:
        ValueError: in ``forward``, when height or width is not divisible by ``patch · 2^(levels - 1)``, when x has other channels
            than the configuration says, when t is not (B,), or when labels are missing or not wanted.

    Source: Ho, Jain and Abbeel 2020, appendix B.
    """

    def __init__(self, config: UNetConfig = CIFAR10_CONFIG) -> None:
        super().__init__()
        self.config = config
        widths, base, last = config.channels, config.channels[0], len(config.channels) - 1
        self.time1 = nn.Linear(base, 4 * base)
        self.time2 = nn.Linear(4 * base, 4 * base)
        self.label = nn.Embedding(config.num_classes, 4 * base) if config.num_classes else None
        self.conv_in = nn.Conv2d(config.in_channels * config.patch**2, base, 3, padding=1)
        skips, self.down, self.up = [base], nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            inputs = [skips[-1]] + [width] * (config.blocks - 1)
            self.down.append(DownLevel(config, i, inputs, stride=2 if i < last else None))
            skips += [width] * (config.blocks + (i < last))
        self.middle = nn.ModuleList((ResidualBlock(config, widths[-1], widths[-1]), ResidualBlock(config, widths[-1], widths[-1])))
        self.middle_attention = Attention(config, widths[-1])
        below = widths[-1]
        for i in range(last, -1, -1):
            inputs = [(below if j == 0 else widths[i]) + skips.pop() for j in range(config.blocks + 1)]
            self.up.append(UpLevel(config, i, inputs, stride=1 if i > 0 else None))
            below = widths[i]
        self.norm_out = nn.GroupNorm(config.groups, base, config.eps)
        self.conv_out = nn.Conv2d(base, config.out_channels * config.patch**2, 3, padding=1)

    @classmethod
    def from_diffusers(cls, folder: str | Path, *, variant: str | None = None) -> "UNet":
        """What diffusers' ``UNet2DModel.save_pretrained(folder)`` wrote, in eval mode; diffusers itself is not needed.

        The weights become float32, also where they were saved in float16 or bfloat16: :meth:`PlanSampler.sample
        <ddimkit.PlanSampler.sample>` draws in float32 by default. ``model.half()`` undoes that, and then ``dtype`` must be given.

        Args:
            folder: with ``config.json`` and the weights as safetensors, in one file or in shards with their index; or a pipeline's
                folder that holds such a ``unet``.
            variant: as in ``save_pretrained(folder, variant="fp16")``; None reads the files without a variant.

        Raises:
            FileNotFoundError: there is no configuration.
            ValueError: a setting that this UNet has no equal of, naming it.
            WeightsError: there are no weights of this variant as safetensors, or not those of this configuration.
        """
        config, weights = read_unet(folder, variant)
        with torch.device("meta"):
            model = cls(config)
        try:
            model.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise WeightsError(f"{folder} does not hold the weights of its config.json: {error}") from error
        return model.eval()

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """X (B, C, H, W), t int64 (B,), labels int64 (B,) if and only if the model is class-conditional."""
        self._check(x, t, labels)
        embedding = self.time2(F.silu(self.time1(time_embedding(t, self.config.channels[0]).to(x.dtype))))
        if self.label is not None:
            embedding = embedding + self.label(labels)
        embedding = F.silu(embedding)
        h: Tensor = self.conv_in(x if self.config.patch == 1 else F.pixel_unshuffle(x, self.config.patch))
        skips = [h]
        for level in self.down:
            h = level(h, embedding, skips)
        h = self.middle[1](self.middle_attention(self.middle[0](h, embedding)), embedding)
        for level in self.up:
            h = level(h, embedding, skips)
        out: Tensor = self.conv_out(_activated(self.norm_out, h))
        return out if self.config.patch == 1 else F.pixel_shuffle(out, self.config.patch)

    def _check(self, x: Tensor, t: Tensor, labels: Tensor | None) -> None:
        multiple = self.config.patch * 2 ** (len(self.config.channels) - 1)
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(f"x must be (B, {self.config.in_channels}, H, W), got {tuple(x.shape)}")
        if x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(f"height and width must be divisible by {multiple}, got {x.shape[2]}x{x.shape[3]}: pad the images")
        if not isinstance(t, Tensor) or t.shape != x.shape[:1]:
            found = tuple(t.shape) if isinstance(t, Tensor) else repr(t)
            raise ValueError(f"t must be a tensor of shape ({len(x)},), one timestep a sample, got {found}")
        if (labels is None) != (self.label is None):
            raise ValueError(f"num_classes={self.config.num_classes}, so labels must {'' if self.label else 'not '}be given")


def channels_last(model: UNet) -> UNet:
    """The model with its convolutions' weights in the channels-last layout, which they run faster in; in place."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
