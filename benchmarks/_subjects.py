"""What the scripts beside this one study: a model and what judges it, published or from a folder of one's own."""

from pathlib import Path

import torch

from ddimkit import ModelBundle, load_pretrained
from ddimkit.models.bundle import load_bundle
from ddimkit.quality import Yardstick, load_yardstick
from ddimkit.quality.yardstick import Split, read_yardstick


def find_model(name: str, weights: Path | None) -> ModelBundle:
    """Our model of this name; from ``weights``, which ``python -m ddimkit.models.train`` wrote, without a look at its hash."""
    return load_pretrained(name) if weights is None else load_bundle(weights / f"{name}.safetensors")


def find_yardstick(name: str, weights: Path | None, device: torch.device, split: Split = "test") -> Yardstick:
    """What judges its images; from ``weights``, which ``python -m ddimkit.quality.train`` wrote, without a look at its hashes."""
    if weights is None:
        return load_yardstick(name, split, device=device)
    return read_yardstick(name, weights, split, device=device)


def pick_device(name: str | None) -> torch.device:
    """The device of this name; CUDA if there is one by default."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
