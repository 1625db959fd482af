"""What a bundle's functions are made of, as plain JSON values, so that another decoder or wrapper is another configuration."""

import hashlib
import inspect
import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddimkit._modes import module_of
from ddimkit.guidance import Guided
from ddimkit.models.bundle import ModelBundle

__all__ = ["describe_functions"]

_DEPTH = 5
_LONGEST_TABLE = 10_000
_LIBRARIES = ("ddimkit", "diffusers", "numpy", "torch", "transformers")
"""Packages whose functions are told by their versions."""


def describe_functions(bundle: ModelBundle, known: bool) -> dict[str, Any]:
    """What the model's wrappers and ``decode`` hold: weights of modules, fields of dataclasses, what functions close over.

    Tables of numbers stand as they are, since processors differ in their last bits.

    Args:
        bundle: the model.
        known: whether the model's own module is told by its hash already.
    """
    own = module_of(bundle.model) if known else None
    seen = dict[int, object]({} if own is None else {id(own): own})
    given = [("model", bundle.model), *([] if bundle.decode is None else [("decode", bundle.decode)])]
    return dict(pair for name, function in given for pair in _told(name, function, _DEPTH, seen))


def _told(name: str, value: object, depth: int, seen: dict[int, object]) -> Iterator[tuple[str, Any]]:
    """Names and values; what is neither plain, a table nor a callable may change from call to call, and counts for nothing."""
    if value is None or isinstance(value, bool | int | str):
        yield name, value
    elif isinstance(value, float):
        yield name, value if math.isfinite(value) else repr(value)
    elif isinstance(value, bytes):
        yield name, hashlib.sha256(value).hexdigest()
    elif isinstance(value, Tensor):
        yield name, _sha256({"": value})
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        yield name, value.tolist() if value.size <= _LONGEST_TABLE else _sha256({"": torch.from_numpy(value.copy())})
    elif isinstance(value, tuple | list):
        for i, part in enumerate(value):
            yield from _told(f"{name}.{i}", part, depth, seen)
    elif depth and (callable(value) or is_dataclass(value)) and not isinstance(value, type) and id(value) not in seen:
        seen[id(value)] = value  # kept, so that no other object gets its id
        yield from _inside(name, value, depth, seen)


def _inside(name: str, value: object, depth: int, seen: dict[int, object]) -> Iterator[tuple[str, Any]]:
    """What a callable or a dataclass is and holds."""
    yield f"{name}.kind", getattr(value, "__qualname__", type(value).__qualname__)
    module = module_of(value)
    if module is not None and (module is value or id(module) not in seen):
        seen[id(module)] = module
        yield f"{name}.weights", _sha256(module.state_dict())
    if not isinstance(value, nn.Module) or isinstance(value, Guided):
        for key, part in _parts(value):
            yield from _told(f"{name}.{key}", part, depth - 1, seen)


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """What a callable or a dataclass holds, by names."""
    if isinstance(value, partial):
        yield from (("func", value.func), ("args", value.args), *sorted(value.keywords.items()))
    elif inspect.ismethod(value):
        yield from (("self", value.__self__), ("func", value.__func__))
    elif inspect.isfunction(value):
        yield from _closed_over(value)
        if str(value.__globals__.get("__name__")).split(".")[0] not in _LIBRARIES:
            yield from _named(value)
    elif is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value) if field.init)
    else:  # attributes that are no callables may be counters
        yield from ((key, part) for key, part in sorted(getattr(value, "__dict__", {}).items()) if callable(part))


def _closed_over(function: Any) -> Iterator[tuple[str, object]]:
    """The values of a function's free names, and its defaults."""
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield key, cell.cell_contents
        except ValueError:  # not set yet
            continue
    yield from (("defaults", function.__defaults__), *sorted((function.__kwdefaults__ or {}).items()))


def _named(function: Any) -> Iterator[tuple[str, object]]:
    """A function's code, and the values of its global names."""
    code, variables = function.__code__, function.__globals__
    try:
        yield "code", inspect.getsource(function).encode()
    except OSError:  # typed in, so only its constants can be told
        yield "code", repr([value for value in code.co_consts if isinstance(value, bool | int | float | str | bytes)]).encode()
    yield from ((key, variables[key]) for key in code.co_names if key in variables)


def _sha256(tensors: dict[str, Any]) -> str:
    """Hash of names and tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()
