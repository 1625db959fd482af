"""What the scripts study: a model and its evaluator, published or from a folder of one's own."""

from pathlib import Path

import torch

from ddimkit import ModelBundle, load_pretrained
from ddimkit.models.bundle import load_bundle
from ddimkit.quality import Evaluator, load_evaluator
from ddimkit.quality.evaluator import Split, read_evaluator


def find_model(name: str, weights: Path | None) -> ModelBundle:
    """Our model of this name; from ``weights``, which ``python -m ddimkit.models.train`` wrote, without a look at its hash."""
    return load_pretrained(name) if weights is None else load_bundle(weights / f"{name}.safetensors")


def find_evaluator(name: str, weights: Path | None, device: torch.device, split: Split = "test") -> Evaluator:
    """The model's evaluator; from ``weights``, which ``python -m ddimkit._features.train`` wrote, without a look at its hashes."""
    if weights is None:
        return load_evaluator(name, split, device=device)
    return read_evaluator(name, weights, split, device=device)


def pick_device(name: str | None) -> torch.device:
    """The device of this name; CUDA if there is one by default."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
