"""The networks that are measured, ours and diffusers', with the same weights."""

import copy
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddimkit import UNet, UNetConfig, load_pretrained
from ddimkit.interop.diffusers import rename_unet_weights
from ddimkit.models.unet import CIFAR10_CONFIG

NAMES = ("mnist", "cifar10", "cifar10-small", "tiny")
_CONFIGS = {
    "cifar10": (CIFAR10_CONFIG, 32),
    "cifar10-small": (replace(CIFAR10_CONFIG, channels=(64, 128, 128, 128)), 32),
    "tiny": (UNetConfig(1, 1, channels=(8, 16), blocks=1, attention_levels=(1,), groups=4), 8),
}


def network(name: str) -> tuple[UNet, tuple[int, int, int]]:
    """A network in eval mode and the shape of its images: the bundled MNIST model, or random weights of a configuration.

    Raises:
        ValueError: no network has this name.
    """
    if name == "mnist":
        bundle = load_pretrained("mnist")
        model = bundle.model
        assert isinstance(model, UNet)
        channels, height, width = bundle.sample_shape
        return model, (channels, height, width)
    if name not in _CONFIGS:
        raise ValueError(f"the networks are {', '.join(NAMES)}, got {name!r}")
    config, side = _CONFIGS[name]
    return random_unet(config), (config.in_channels, side, side)


def random_unet(config: UNetConfig) -> UNet:
    """A network in eval mode with the initial weights of seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(config).eval()


def diffusers_unet(ours: UNet, side: int) -> Any:
    """A ``UNet2DModel`` of diffusers with the weights of ours.

    Raises:
        ImportError: diffusers is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
        from diffusers.utils import logging
    logging.set_verbosity_error()  # a network that is cast warns of a list of layers that is empty
    make: Any = diffusers.UNet2DModel  # it has no annotations
    config = ours.config
    attends = [level in config.attention_levels for level in range(len(config.channels))]
    with torch.random.fork_rng(devices=[]):
        theirs = make(
            sample_size=side,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            block_out_channels=config.channels,
            layers_per_block=config.blocks,
            norm_num_groups=config.groups,
            norm_eps=config.eps,
            down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
            up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
        )
    weights = ours.state_dict()
    renamed = {name: next(iter(rename_unet_weights({name: value}))) for name, value in theirs.state_dict().items()}
    theirs.load_state_dict({name: weights[mine] for name, mine in renamed.items()})
    return theirs.eval()


def same_weights(name: str) -> tuple[Any, UNet, tuple[int, int, int]]:
    """The network of diffusers, ours as ``UNet.from_diffusers`` loads what theirs saved, and the shape of their images."""
    model, shape = network(name)
    theirs = diffusers_unet(model, shape[-1])
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = UNet.from_diffusers(Path(folder))
    # A copy, because the weights that were loaded are a map of the file that is gone.
    return theirs, copy.deepcopy(ours), shape


def tuned(theirs: Any, *, fused: bool) -> Any:
    """A copy of diffusers' network, channels last and with the SDPA processor; fused: query, key and value are one product."""
    from diffusers.models import attention_processor

    kinds: Any = attention_processor
    model: nn.Module = copy.deepcopy(theirs)
    for module in model.modules():
        if isinstance(module, kinds.Attention):
            if fused:
                module.fuse_projections()
            module.set_processor(kinds.FusedAttnProcessor2_0() if fused else kinds.AttnProcessor2_0())
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
