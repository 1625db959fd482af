"""Short representations: one line, whatever an object holds."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

__all__ = ["short_repr"]

_ENTRIES = 6
_CHARACTERS = 160


def short_repr(self: Any) -> str:
    """A dataclass with its fields, on one line: of arrays the shape, of networks the size, of long sequences both ends.

    Set it as ``__repr__`` in a dataclass's body.
    """
    shown = (f"{f.name}={_short(getattr(self, f.name))}" for f in fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _short(value: object) -> str:
    match value:
        case Tensor():
            return f"Tensor(shape={tuple(value.shape)}, dtype={str(value.dtype).removeprefix('torch.')}, device={value.device})"
        case np.ndarray():
            return f"array(shape={value.shape}, dtype={value.dtype})"
        case nn.Module():
            return f"<{type(value).__name__} of {sum(p.numel() for p in value.parameters()):,} parameters>"
        case tuple() | list():
            return _ends(cast("Sequence[object]", value))
        case Mapping():
            return f"<{type(value).__name__} of {len(cast('Mapping[object, object]', value))}>"
        case _:
            return _cut(" ".join(repr(value).split()))


def _ends(values: Sequence[object]) -> str:
    """A tuple or list; a long one by its first entries, its last, and its length."""
    left, right = "[]" if isinstance(values, list) else "()"
    if len(values) <= _ENTRIES:
        comma = "," if len(values) == 1 and left == "(" else ""
        return f"{left}{', '.join(map(_short, values))}{comma}{right}"
    first = ", ".join(map(_short, values[: _ENTRIES // 2]))
    return f"{left}{first}, …, {_short(values[-1])}; {len(values)} in all{right}"


def _cut(text: str) -> str:
    """The text, or both its ends where it is long."""
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS // 2]} … {text[-_CHARACTERS // 4 :]}"
