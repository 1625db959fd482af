"""Numbers from callers, checked: each comes back as what it is used as, or is refused with its name and value."""

from numbers import Real

import numpy as np
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


def check_count(num_timesteps: object) -> None:
    """Raise unless this is an int above 0."""
    if not isinstance(num_timesteps, int) or isinstance(num_timesteps, bool):
        raise TypeError(f"num_timesteps must be an int, got {num_timesteps!r}")
    if num_timesteps < 1:
        raise ValueError(f"num_timesteps must be at least 1, got {num_timesteps}")


def number(value: object, name: str) -> float:
    """A real number as an int or float, or a TypeError that names it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return value if isinstance(value, int | float) else float(value)
