"""Tiny pipelines of diffusers, randomly initialised from configurations; nothing is downloaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from probes import normal

diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is not installed: nox -s tests installs it")
transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed: nox -s tests installs it")

WORDS = ["a", "cat", "on", "the", "moon"]


def seeded(make: Any, **settings: Any) -> Any:
    """A model in eval mode whose weights do not depend on what was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(**settings).eval()


def unet(**settings: Any) -> Any:
    """A UNet2DModel of 8 × 8 images in colour, with diffusers' own defaults where they can be small."""
    small = {"sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return seeded(diffusers.UNet2DModel, **{**small, **blocks, **settings})


def conditional_unet(**settings: Any) -> Any:
    small = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1}
    heads = {"cross_attention_dim": 16, "norm_num_groups": 4, "attention_head_dim": 4}
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    return seeded(diffusers.UNet2DConditionModel, **{**small, **heads, **blocks, **settings})


def autoencoder(channels: int = 4) -> Any:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    small = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": channels, "sample_size": 16}
    return seeded(diffusers.AutoencoderKL, in_channels=3, out_channels=3, **blocks, **small)


def tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer of a vocabulary of five words and their letters, written here."""
    letters = sorted({letter for word in WORDS for letter in word})
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
            pieces.append(parts[0])
    vocabulary = list(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges), ""]))
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)


def text_encoder(tokens: Any) -> Any:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    ends = {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    config = transformers.CLIPTextConfig(vocab_size=len(tokens), max_position_embeddings=8, **small, **ends)
    return seeded(transformers.CLIPTextModel, config=config)


def stable_diffusion(folder: Path, scheduler: Any = None, kind: str = "StableDiffusionPipeline") -> Any:
    tokens = tokenizer(folder / "vocabulary")
    scheduler = scheduler or diffusers.PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
    )
    parts = {"unet": conditional_unet(), "vae": autoencoder(), "text_encoder": text_encoder(tokens), "tokenizer": tokens}
    extras = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    made = getattr(diffusers, kind)(**parts, scheduler=scheduler, **extras)
    made.set_progress_bar_config(disable=True)
    return made


def flow_transformer(**settings: Any) -> Any:
    small = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "attention_head_dim": 8}
    wide = {"num_attention_heads": 2, "joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 16}
    return seeded(diffusers.SD3Transformer2DModel, pos_embed_max_size=8, **{**small, **wide, **settings})


def stable_diffusion_3(scheduler: Any = None) -> Any:
    """A flow-matching pipeline that is given its prompt embeddings, and so needs no text encoder."""
    scheduler = scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    encoders = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")}
    made = diffusers.StableDiffusion3Pipeline(transformer=flow_transformer(), vae=autoencoder(), scheduler=scheduler, **encoders)
    made.set_progress_bar_config(disable=True)
    return made


def embeddings(count: int = 1) -> dict[str, torch.Tensor]:
    """Conditions of the flow-matching transformer."""
    return {"encoder_hidden_states": normal(count, 3, 16, seed=5), "pooled_projections": normal(count, 16, seed=6)}
