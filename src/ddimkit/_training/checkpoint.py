"""What a run goes on from: a full checkpoint on the machine it runs on, and a small one that can be carried elsewhere.

The full one holds the optimiser's moments, and is gone on from bit for bit. The portable one leaves them out and halves the moving
average's precision; it is kept in pieces below 16 MiB, and the moments are rebuilt while the learning rate rises anew.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ddimkit._training.trainer import Trainer
from ddimkit.errors import WeightsError
from ddimkit.weights._pieces import write_pieces
from ddimkit.weights._tensorfile import pack_tensors, read_tensors

__all__ = ["load_checkpoint", "load_portable", "save_checkpoint", "save_portable"]

_KIND = "ddimkit-portable"
_SCHEMA = 1
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(trainer: Trainer[nn.Module], path: Path) -> None:
    """Write all that a later run needs to go on, atomically, as safetensors."""
    tensors = {f"{kind}.{name}": value for kind, average in trainer.averages.items() for name, value in average.items()}
    tensors |= {f"model.{name}": value for name, value in trainer.weights.items()}
    for name, p in trainer.parameters.items():
        state = trainer.optimiser.state[p]
        tensors |= {f"{key}.{name}": state[key] for key in _MOMENTS if state}
    settings = {"step": trainer.step, "taken_up": trainer.taken_up, "loss": trainer.loss, "recipe": trainer.task.identity()}
    partial = path.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {key: json.dumps(v) for key, v in settings.items()})
    partial.replace(path)


def load_checkpoint(trainer: Trainer[nn.Module], path: Path) -> None:
    """Go on from what :func:`save_checkpoint` wrote.

    Raises:
        WeightsError: the file is damaged, or was made by another recipe (another number of steps is allowed).
    """
    try:
        with safe_open(path, "pt", device=str(trainer.device)) as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        settings = {key: json.loads(value) for key, value in metadata.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is no checkpoint: {error}") from error
    step, taken_up, loss = _numbers(trainer, settings, path)
    # Without a step since the moments began anew there are none.
    moments = _MOMENTS if step > taken_up else ()
    _check_shapes(trainer, tensors, moments, path)
    _fill(trainer, tensors)
    trainer.step, trainer.taken_up, trainer.loss = step, taken_up, loss
    for name, p in trainer.parameters.items() if moments else ():
        # Of p's memory layout: the fused optimiser walks p and its moments side by side.
        state = {key: torch.empty_like(p).copy_(tensors[f"{key}.{name}"]) for key in moments}
        trainer.optimiser.state[p] = {"step": torch.tensor(float(step - taken_up), device=trainer.device), **state}


def save_portable(trainer: Trainer[nn.Module], path: Path) -> list[Path]:
    """Write weights and their average as pieces that :func:`load_portable` reads; returns the files.

    A run that is interrupted while it writes leaves the former pieces whole.
    """
    tensors = {f"model.{name}": value for name, value in trainer.weights.items()}
    tensors |= {
        f"{kind}.{name}": value.to(torch.float16) for kind, average in trainer.averages.items() for name, value in average.items()
    }
    settings = {"step": trainer.step, "loss": trainer.loss, "recipe": trainer.task.identity()}
    return write_pieces(pack_tensors(tensors, kind=_KIND, schema=_SCHEMA, settings=settings), path)


def load_portable(trainer: Trainer[nn.Module], path: Path) -> None:
    """Take a run up from what :func:`save_portable` wrote; its learning rate rises anew, over 500 steps.

    Raises:
        FileNotFoundError: there are no such pieces.
        WeightsError: the pieces are damaged or incomplete, or were made by another recipe (another number of steps is allowed).
    """
    file = read_tensors(path, kind=_KIND, schema=_SCHEMA)
    step, _, loss = _numbers(trainer, file.settings, path)
    _check_shapes(trainer, file.tensors, (), path)
    _fill(trainer, file.tensors)
    trainer.step, trainer.taken_up, trainer.loss = step, step, loss
    trainer.optimiser.state.clear()


def _numbers(trainer: Trainer[nn.Module], settings: Mapping[str, Any], path: Path) -> tuple[int, int, float]:
    """Step, the step that the moments began anew at, and loss, of a checkpoint of this very recipe."""
    if settings.get("recipe") != json.loads(json.dumps(trainer.task.identity())):
        raise WeightsError(f"{path} was made by another recipe: use another --out, or remove it")
    try:
        return int(settings["step"]), int(settings.get("taken_up", 0)), float(settings["loss"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is a damaged checkpoint, remove it: its step or loss cannot be read ({error})") from error


def _check_shapes(trainer: Trainer[nn.Module], tensors: Mapping[str, Tensor], moments: Iterable[str], path: Path) -> None:
    wanted = {f"{part}.{name}": value.shape for part in ("model", *trainer.averages) for name, value in trainer.weights.items()}
    wanted |= {f"{part}.{name}": p.shape for part in moments for name, p in trainer.parameters.items()}
    for key, shape in wanted.items():
        if key not in tensors or tensors[key].shape != shape:
            raise WeightsError(f"{path} is a damaged checkpoint, remove it: {key} of shape {tuple(shape)} is missing")


@torch.no_grad()
def _fill(trainer: Trainer[nn.Module], tensors: Mapping[str, Tensor]) -> None:
    for name, value in trainer.weights.items():
        value.copy_(tensors[f"model.{name}"])
        for kind, average in trainer.averages.items():
            average[name].copy_(tensors[f"{kind}.{name}"])
