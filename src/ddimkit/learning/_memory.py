"""Whether torch can differentiate a model, and what one call keeps for it."""

from typing import Any

import torch
from torch import Tensor

from ddimkit.loop import ask
from ddimkit.models.bundle import ModelBundle

__all__ = ["activation_bytes"]


def activation_bytes(bundle: ModelBundle, device: torch.device) -> int:
    """Bytes of activations that a call keeps for each sample: the difference between two samples and one.

    Raises:
        ValueError: the output does not depend on x in a way that torch can differentiate.
    """
    return max(0, _kept(bundle, device, 2) - _kept(bundle, device, 1))


def _kept(bundle: ModelBundle, device: torch.device, samples: int) -> int:
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        x = torch.zeros((samples, *bundle.sample_shape), device=device, requires_grad=True) * 1.0
        given = bundle.model_kwargs(range(samples), device)
        output = ask(bundle.model, x, torch.zeros(samples, dtype=torch.int64, device=device), **given)
    kept = sum(storages.values())
    if not isinstance(output, Tensor) or not _depends(output, x):
        raise ValueError(
            "torch cannot differentiate the model: its output does not depend on x through autograd. Learning needs a model that "
            "runs neither under no_grad nor in inference_mode"
        )
    return kept


def _depends(output: Tensor, x: Tensor) -> bool:
    """Whether autograd leads from the output to x itself, and not to the parameters alone."""
    if not output.requires_grad:
        return False
    found: Any = torch.autograd.grad(output.sum(), x, allow_unused=True)  # torch's types know no None
    return found[0] is not None
