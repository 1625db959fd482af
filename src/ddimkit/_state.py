"""What a run looks like after one row, and the file that keeps it: safetensors with JSON in the metadata, never a pickle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddimkit._arguments import Arguments, check_device
from ddimkit._numbers import AGREEMENT, frozen_array, integer, unlike
from ddimkit._repr import short_repr
from ddimkit.errors import WeightsError
from ddimkit.noise import NORMAL_SCHEME, sample_seeds
from ddimkit.plan import Plan
from ddimkit.weights._tensorfile import TensorFile, read_tensors, write_tensors

__all__ = ["SamplerState", "check_origin", "check_state", "levels_at"]

_KIND = "ddimkit-state"
_SCHEMA = 1
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTS = ("index", "t", "nfe", "start_at")
_SETTINGS = frozenset({*_COUNTS, "t_next", "seeds", "noise", "levels", "strides"})


@dataclass(frozen=True, eq=False)
class SamplerState:
    r"""What a run looks like after one row; :meth:`PlanSampler.iterate` goes on from it with ``resume=state``.

    Attributes:
        index: number of the row just done, counted in the sampler's full list.
        t: the timestep the model was asked at.
        t_next: the timestep x is now at, None for the clean image.
        x: (B, \*) the image after the row; the next row reads it, so change a copy.
        x0: (B, \*) the row's x0_hat, clipped as the sampler asks.
        nfe: model calls so far.
        history: x0 predictions that later rows may read, newest first.
        seeds: one seed a sample, None where the noise is not keyed.
        start_at: the row number the run began at.
        levels: the schedule's signal and noise at t, by which another schedule is refused; None if the plan does not know them.
    """

    index: int
    t: int
    t_next: int | None
    x: Tensor
    x0: Tensor
    nfe: int
    history: tuple[Tensor, ...]
    seeds: tuple[int, ...] | None
    start_at: int
    levels: tuple[float, float] | None = None

    __repr__ = short_repr

    def save(self, path: str | Path) -> str:
        """Write the state, so that the walk can go on in another process; every bit is kept.

        A file of that name is replaced only once the new one is complete. The file holds no model and no sampler's settings.

        Args:
            path: where; the usual ending is ``.safetensors``.

        Returns:
            the SHA-256 of the file.

        Raises:
            ValueError: x, x0, history and seeds are not those of the same samples.
        """
        _check_parts(self)
        tensors, layouts = _named(self), dict[str, list[int]]()
        for name, tensor in tensors.items():
            strides = tensor.stride() if _is_dense(tensor.shape, tensor.stride()) else tensor.contiguous().stride()
            layouts[name] = list(strides)
        scheme = None if self.seeds is None else NORMAL_SCHEME
        settings = {name: getattr(self, name) for name in _SETTINGS - {"noise", "strides"}}
        # Copied: safetensors refuses tensors that share memory, as x and x0 may.
        copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        return write_tensors(path, copies, kind=_KIND, schema=_SCHEMA, settings={**settings, "noise": scheme, "strides": layouts})

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> "SamplerState":
        """Read what :meth:`save` wrote. Nothing is unpickled.

        Args:
            path: the file.
            device: where the tensors are to be, and thus where the walk goes on.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a device that cannot be used.
            WeightsError: a damaged file, one of another kind or schema, or a state whose noise is of another scheme.
        """
        place = check_device(device)
        file = read_tensors(path, kind=_KIND, schema=_SCHEMA)
        try:
            state = _read(file)
            _check_parts(state)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{path} holds no state of a sampler: {error}") from error
        history = tuple(earlier.to(place) for earlier in state.history)
        return replace(state, x=state.x.to(place), x0=state.x0.to(place), history=history)


def check_state(state: object, arguments: Arguments) -> SamplerState:
    """A state to go on from, or an error: a shape given beside it must be its own, and what it holds must not be given."""
    if not isinstance(state, SamplerState):
        raise TypeError(f"resume must be a SamplerState that iterate yielded, got {type(state).__name__}")
    held = (arguments.seed, arguments.x_T, arguments.device, arguments.dtype, arguments.start_at or None)
    if any(v is not None for v in held):
        raise ValueError("a resumed state brings its own seed, x, start_at, device and dtype: leave them out")
    _check_parts(state)
    shape = arguments.shape
    if shape is not None and tuple(shape) != tuple(state.x.shape):
        raise ValueError(f"shape {tuple(shape)} is not the state's {tuple(state.x.shape)}: leave it out")
    return state


def check_origin(state: SamplerState, plan: Plan) -> None:
    """Raise a ValueError unless this plan, which begins at row ``state.start_at``, has the state's row, on the same schedule."""
    row = state.index - state.start_at
    if not 0 <= row < len(plan) or plan.t[row] != state.t or plan.t_next[row] != state.t_next:
        raise ValueError(f"the state (row {state.index}, t={state.t}) was not made by this sampler")
    ours = levels_at(plan, row)
    if ours is not None and state.levels is not None and unlike(np.array(state.levels), np.array(ours)).any():
        raise ValueError(
            f"the state was made with another schedule: its signal and noise at t={state.t} are {state.levels}, the sampler's "
            f"{ours}, and they may differ by {AGREEMENT:g}: go on with a sampler of the state's schedule"
        )


def levels_at(plan: Plan, row: int) -> tuple[float, float] | None:
    """Signal and noise at a row's t, if the plan knows them."""
    return None if plan.signal is None or plan.noise is None else (float(plan.signal[row]), float(plan.noise[row]))


def _check_parts(state: SamplerState) -> None:
    """Raise a ValueError where x, x0, history and seeds are not of one batch: they would broadcast."""
    shape, device = state.x.shape, state.x.device
    tensors = [("x0", state.x0), *(("history", earlier) for earlier in state.history)]
    for name, tensor in tensors:
        if tensor.shape != shape or tensor.device != device:
            raise ValueError(
                f"the state's x is {tuple(shape)} on {device}, but its {name} is {tuple(tensor.shape)} on {tensor.device}: x, x0, "
                "history and seeds must be those of the same samples"
            )
    if state.seeds is not None and len(state.seeds) != shape[0]:
        raise ValueError(
            f"the state holds {shape[0]} samples but {len(state.seeds)} seeds: x, x0, history and seeds must be those of the same "
            "samples"
        )


def _named(state: SamplerState) -> dict[str, Tensor]:
    """The state's tensors by their names in a file."""
    return {"x": state.x, "x0": state.x0, **{f"history.{i}": earlier for i, earlier in enumerate(state.history)}}


def _read(file: TensorFile) -> SamplerState:
    """The state that a file describes; a TypeError or ValueError that says what is wrong with it."""
    settings = file.settings
    lacking = sorted(_SETTINGS - settings.keys())
    if lacking:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    index, t, nfe, start_at = (_count(settings[name], name) for name in _COUNTS)
    calls = index - start_at + 1
    if nfe != calls:
        raise ValueError(f"after row {index} of a walk from row {start_at} the model was called {calls} times, not {nfe}")
    t_next = None if settings["t_next"] is None else _count(settings["t_next"], "t_next")
    x, x0, *history = _read_tensors(file)
    seeds = _read_seeds(settings["seeds"], settings["noise"], len(x))
    return SamplerState(index, t, t_next, x, x0, nfe, tuple(history), seeds, start_at, _read_levels(settings["levels"]))


def _count(value: object, name: str) -> int:
    count = integer(value, name)
    if count < 0:
        raise ValueError(f"{name} must be at least 0, got {count}")
    return count


def _read_tensors(file: TensorFile) -> list[Tensor]:
    """x, x0 and the history, laid out in memory as they were."""
    names = ["x", "x0", *(f"history.{i}" for i in range(len(file.tensors) - 2))]
    strides: object = file.settings["strides"]
    if set(file.tensors) != set(names) or not isinstance(strides, Mapping) or set(strides) != set(names):
        raise ValueError(f"its tensors must be x, x0 and history.0, history.1, …, got {', '.join(sorted(file.tensors)) or 'none'}")
    for name in names:
        tensor = file.tensors[name]
        if tensor.dtype not in _DTYPES or not tensor.ndim:
            raise ValueError(f"{name} must be a floating point tensor (B, ...), got {tensor.dtype} {tuple(tensor.shape)}")
    if file.tensors["x0"].dtype != file.tensors["x"].dtype:
        raise ValueError(f"x is {file.tensors['x'].dtype}, but x0 is {file.tensors['x0'].dtype}")
    return [_laid_out(file.tensors[name], strides[name], name) for name in names]


def _laid_out(tensor: Tensor, strides: object, name: str) -> Tensor:
    """A copy in the memory layout of the tensor that was saved: a network may round differently in another."""
    if not isinstance(strides, Sequence) or not _is_dense(tensor.shape, strides):
        raise ValueError(f"the strides of {name} must lay out {tuple(tensor.shape)} without gaps, got {strides!r}")
    return torch.empty_strided(tensor.shape, tuple(strides), dtype=tensor.dtype).copy_(tensor)


def _is_dense(shape: Sequence[int], strides: Sequence[Any]) -> bool:
    """Whether the strides give each entry a place of its own in a block of memory without gaps."""
    if len(strides) != len(shape) or not all(type(stride) is int and 0 <= stride < 2**62 for stride in strides):
        return False
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _read_seeds(seeds: object, scheme: object, batch: int) -> tuple[int, ...] | None:
    if seeds is None:
        return None
    if scheme != NORMAL_SCHEME:
        raise ValueError(f"its noise is of the scheme {scheme!r}, and this version makes that of {NORMAL_SCHEME!r}")
    if not isinstance(seeds, list):
        raise TypeError(f"seeds must be a list of one seed a sample, got {seeds!r}")
    return sample_seeds(seeds, batch)


def _read_levels(levels: object) -> tuple[float, float] | None:
    if levels is None:
        return None
    if not isinstance(levels, list) or len(levels) != 2:
        raise ValueError(f"levels must be signal and noise, got {levels!r}")
    signal, noise = frozen_array(levels, "levels").tolist()
    return signal, noise
