"""Numbers from callers, checked: each comes back as what it is used as, or is refused with its name and value."""

import operator
from collections.abc import Sequence
from numbers import Real
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Floats = NDArray[np.float64]

AGREEMENT = 1e-9
"""How far signal and noise of the same schedule may differ: processors differ in the last bit."""


def frozen_array(values: ArrayLike, name: str) -> Floats:
    """A read-only float64 copy of real numbers, or a TypeError or ValueError that names what they are."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        # numpy has no bfloat16
        values = (values.double() if values.is_floating_point() else values).numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be real numbers, got {array.dtype}")
    array = np.array(array, dtype=np.float64)
    if not np.isfinite(array).all():
        index = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, got {array.flat[index]} at entry {index}")
    return read_only(array)


def read_only(array: Floats) -> Floats:
    """The array itself, which can no longer be written to."""
    array.setflags(write=False)
    return array


def unlike(ours: Floats, theirs: Floats) -> NDArray[np.bool_]:
    """Where two arrays of one shape differ by more than 1e-9, or only one of them is 0."""
    found: NDArray[np.bool_] = (np.abs(ours - theirs) > AGREEMENT) | ((ours == 0) != (theirs == 0))
    return found


def check_every(good: NDArray[np.bool_], values: Floats, message: str) -> None:
    """Raise a ValueError that names the first entry which is not good."""
    bad = np.flatnonzero(~good)
    if bad.size:
        raise ValueError(f"{message}, got {values[bad[0]]} at entry {bad[0]}")


def check_count(num_timesteps: object) -> int:
    """T as an int above 0, or a TypeError or ValueError."""
    count = integer(num_timesteps, "num_timesteps")
    if count < 1:
        raise ValueError(f"num_timesteps must be at least 1, got {count}")
    return count


def integer(value: object, name: str) -> int:
    """An integer of any type as an int: one of Python or NumPy, or a tensor or array of shape (); never a bool.

    Raises:
        TypeError: anything else, naming it.
    """
    if type(value) is int:
        return value
    truth = isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) in (torch.bool, np.bool_)
    if not truth and not getattr(value, "ndim", 0):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{name} must be an integer, got {value!r}")


def sizes(values: object, name: str, form: str) -> tuple[int, ...]:
    """A shape as a tuple of ints, or a TypeError that says which form was expected."""
    try:
        if isinstance(values, Sequence) and not isinstance(values, str):
            return tuple(integer(value, name) for value in values)
    except TypeError:
        pass
    raise TypeError(f"{name} must be a sequence of integers {form}, got {values!r}")


def number(value: object, name: str) -> float:
    """A real number as an int or float, or a TypeError that names it."""
    if not is_number(value):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return value if isinstance(value, int | float) else float(value)


def is_number(value: object) -> TypeGuard[Real]:
    """Whether this is a real number, which a bool is not."""
    return isinstance(value, Real) and not isinstance(value, bool)
