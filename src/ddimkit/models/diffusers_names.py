"""The names of diffusers' ``UNet2DModel``, in which the published DDPM checkpoints are kept, for the reference UNet."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ddimkit.errors import WeightsError
from ddimkit.models.unet_config import UNetConfig
from ddimkit.weights._json import read_json_object

__all__ = ["read_unet", "rename_unet_weights", "unet_config"]

_WEIGHTS = "diffusion_pytorch_model"
_VARIANT = re.compile(rf"{_WEIGHTS}\.(?:safetensors\.index\.)?(\w+)\.(?:safetensors|json)")

# What ours is; every setting with diffusers' default, where a file leaves it out.
_FIXED: dict[str, tuple[Any, Any]] = {
    "act_fn": ("silu", "silu"),
    "add_attention": (True, True),
    "attention_head_dim": (None, 8),
    "attn_norm_num_groups": (None, None),
    "center_input_sample": (False, False),
    "class_embed_type": (None, None),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "conv"),
    "flip_sin_to_cos": (False, True),
    "freq_shift": (1, 0),
    "mid_block_scale_factor": (1, 1),
    "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2D"),
    "num_train_timesteps": (None, None),
    "resnet_time_scale_shift": ("default", "default"),
    "time_embedding_dim": (None, None),
    "time_embedding_type": ("positional", "positional"),
    "upsample_type": ("conv", "conv"),
}
_BLOCKS = {"DownBlock2D": False, "AttnDownBlock2D": True}

# Attention's names before and after diffusers renamed them; the published checkpoints have the older.
_NAMES = (
    (r"^time_embedding\.linear_(\d)\.", r"time\1."),
    (r"^class_embedding\.", "label."),
    (r"^conv_norm_out\.", "norm_out."),
    (r"^mid_block\.attentions\.0\.", "middle_attention."),
    (r"^mid_block\.resnets\.", "middle."),
    (r"^(down|up)_blocks\.(\d+)\.resnets\.", r"\1.\2.blocks."),
    (r"^(down|up)_blocks\.(\d+)\.attentions\.", r"\1.\2.attentions."),
    (r"^(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv\.", r"\1.\2.resample."),
    (r"\.time_emb_proj\.", ".embedding."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"(attention[s.\d]*)\.group_norm\.", r"\1.norm."),
    (r"(attention[s.\d]*)\.(?:to_q|query)\.", r"\1.query."),
    (r"(attention[s.\d]*)\.(?:to_k|key)\.", r"\1.key."),
    (r"(attention[s.\d]*)\.(?:to_v|value)\.", r"\1.value."),
    (r"(attention[s.\d]*)\.(?:to_out\.0|proj_attn)\.", r"\1.out."),
)


def rename_unet_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ``UNet2DModel``'s state dict under the names of :class:`ddimkit.UNet`; the tensors are the same.

    Args:
        weights: names and tensors as diffusers saved them.

    Returns:
        the same tensors under our names, ready for ``UNet.load_state_dict``.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for theirs, ours in _NAMES:
            name = re.sub(theirs, ours, name)
        renamed[name] = tensor
    return renamed


def unet_config(saved: Mapping[str, Any]) -> UNetConfig:
    """The configuration of our UNet that equals a ``UNet2DModel``'s.

    Args:
        saved: the content of diffusers' ``config.json``.

    Raises:
        ValueError: a setting whose value our UNet has no equal of, naming it.
    """
    wrong = [
        f"{name}={saved.get(name, default)!r} (only {wanted!r})"
        for name, (wanted, default) in _FIXED.items()
        if saved.get(name, default) != wanted
    ]
    down = list(saved.get("down_block_types", ["DownBlock2D", *["AttnDownBlock2D"] * 3]))
    up = list(saved.get("up_block_types", [*["AttnUpBlock2D"] * 3, "UpBlock2D"]))
    if any(kind not in _BLOCKS for kind in down):
        wrong.append(f"down_block_types={down} (only {', '.join(_BLOCKS)})")
    if up != [kind.replace("Down", "Up") for kind in reversed(down)]:
        wrong.append(f"up_block_types={up} (only the mirror image of down_block_types)")
    if wrong:
        raise ValueError(f"ddimkit's UNet has no equal of this UNet2DModel: {'; '.join(wrong)}")
    return UNetConfig(
        in_channels=saved.get("in_channels", 3),
        out_channels=saved.get("out_channels", 3),
        channels=tuple(saved.get("block_out_channels", (224, 448, 672, 896))),
        blocks=saved.get("layers_per_block", 2),
        attention_levels=tuple(level for level, kind in enumerate(down) if _BLOCKS[kind]),
        groups=saved.get("norm_num_groups", 32),
        eps=saved.get("norm_eps", 1e-5),
        dropout=saved.get("dropout", 0.0),
        num_classes=saved.get("num_class_embeds") or 0,
    )


def read_unet(folder: str | Path, variant: str | None = None) -> tuple[UNetConfig, dict[str, Tensor]]:
    """The configuration and the renamed weights of a folder that ``UNet2DModel.save_pretrained`` wrote.

    Args:
        folder: with ``config.json`` and the weights as safetensors, in one file or in shards with their index; or a pipeline's
            folder that holds such a ``unet``.
        variant: as in ``save_pretrained(folder, variant="fp16")``; None reads the files without a variant.

    Returns:
        the configuration, and the weights as float32 whatever precision they were saved in.

    Raises:
        FileNotFoundError: there is no configuration.
        ValueError: a setting that the UNet has no equal of, naming it.
        WeightsError: there are no weights of this variant as safetensors, or a file cannot be read.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists() and (folder / "unet" / "config.json").exists():
        folder = folder / "unet"
    config = unet_config(read_json_object(folder / "config.json"))
    weights = dict[str, Tensor]()
    for path in _weight_files(folder, variant):
        try:
            weights |= {name: tensor.float() for name, tensor in load_file(path).items()}
        except (SafetensorError, FileNotFoundError) as error:
            raise WeightsError(f"{path} does not hold the weights of its config.json: {error}") from error
    return config, rename_unet_weights(weights)


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The file of the weights, or the shards that its index lists."""
    middle = "" if variant is None else f".{variant}"
    whole, index = folder / f"{_WEIGHTS}{middle}.safetensors", folder / f"{_WEIGHTS}.safetensors.index{middle}.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        return listed_shards(index)
    others = {name.group(1) for path in folder.iterdir() if (name := _VARIANT.fullmatch(path.name))} - {variant}
    hint = (
        f"give variant={sorted(others)[0]!r}" if others else "save the model with safe_serialization=True, pickles are not loaded"
    )
    raise WeightsError(f"{whole} is missing: {hint}")


def listed_shards(index: Path) -> list[Path]:
    """The files that an index of shards lists; only files beside it."""
    listed = read_json_object(index).get("weight_map")
    names = sorted(set(map(str, listed.values()))) if isinstance(listed, Mapping) else []
    wrong = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if wrong or not names:
        raise WeightsError(f"{index} must list safetensors files beside it as its weight_map, got {wrong or listed!r}")
    return [index.parent / name for name in names]
