r"""Timestep subsequences: S strictly descending integers in [0, T−1], chosen by name or given as a list.

================== =========================================================================================================
spacing            timesteps, i = 0 … S−1
================== =========================================================================================================
trailing           ``(2T(S−i)+S)//(2S) − 1``: starts at T−1, equal strides (Lin et al. 2024)
leading            ``(T//S)(S−1−i)``: ends at 0, equal strides, starts below T−1 (Ho et al.'s code)
linspace           from T−1 to 0, both included
quadratic          from T−1 to 0, the i-th from the end at ``(i/(S−1))²(T−1)``: dense near the image
log_snr            equal steps of log-SNR, the nearest entries of the schedule (Lu et al. 2022)
karras             equal steps of (n/s)^(1/7), the nearest entries of the schedule (Karras et al. 2022, eq. 5)
quadratic_song2021 the list of the DDIM paper's code, from about 0.8 T; the one that may be shorter than S
================== =========================================================================================================

linspace, quadratic, log_snr and karras are made integers by one rule: ascending, ``m_i = max(floor(u_i + ½), m_{i−1} + 1)``, then
``min(m_i, T − S + i)``.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddimkit._numbers import integer
from ddimkit.schedule import NoiseSchedule

__all__ = ["Spacing", "TimestepsLike", "pairs"]

_RHO = 7

Spacing = Literal["trailing", "leading", "linspace", "quadratic", "log_snr", "karras", "quadratic_song2021"]
"""The name of a spacing, as in this module's table."""

TimestepsLike = Sequence[int] | Tensor | NDArray[np.integer[Any]]
"""A list, tuple, range or one-dimensional integer tensor or array of timesteps."""

if TYPE_CHECKING:
    # Of a field that takes TimestepsLike and reads back as a tuple: mypy knows no descriptors in inherited frozen dataclasses.
    TimestepsField = tuple[int, ...] | Any
else:
    TimestepsField = TimestepsLike


class SpacedTimesteps(tuple[int, ...]):
    """Timesteps that a sampler computed from ``steps`` and ``spacing``; its constructor takes them as not given."""


def chosen(schedule: NoiseSchedule, steps: int | None, timesteps: Any, spacing: Spacing) -> tuple[int, ...]:
    """A sampler's timesteps: ``steps`` of them by ``spacing``, or its own list.

    Raises:
        TypeError: ``steps`` is no int, or ``timesteps`` no list of ints.
        ValueError: both or neither are given, or one is out of range; an unknown spacing.
    """
    absent = timesteps is None or (isinstance(timesteps, tuple) and not timesteps)
    if steps is not None and (absent or isinstance(timesteps, SpacedTimesteps)):
        return spaced(schedule, steps, spacing)
    if steps is not None or absent:
        raise ValueError(f"give exactly one of steps and timesteps, got steps={steps} and timesteps={timesteps}")
    if spacing not in get_args(Spacing):
        raise ValueError(f"spacing must be one of {', '.join(get_args(Spacing))}, got {spacing!r}")
    return explicit(cast("TimestepsLike", timesteps), schedule.num_timesteps)


def spaced(schedule: NoiseSchedule, steps: int, spacing: Spacing) -> SpacedTimesteps:
    """The named subsequence, descending.

    Args:
        schedule: gives T, and the levels for ``"log_snr"`` and ``"karras"``.
        steps: S, in 1..T.
        spacing: one of the names in this module's table.

    Raises:
        TypeError: ``steps`` is no int.
        ValueError: ``steps`` outside 1..T, or an unknown spacing.
    """
    total, count = schedule.num_timesteps, integer(steps, "steps")
    if not 1 <= count <= total:
        raise ValueError(f"steps must lie in 1..{total} (the schedule's num_timesteps), got {count}")
    match spacing:
        case "trailing":
            return SpacedTimesteps((2 * total * (count - i) + count) // (2 * count) - 1 for i in range(count))
        case "leading":
            return SpacedTimesteps((total // count) * (count - 1 - i) for i in range(count))
        case "linspace" | "quadratic":
            power, gaps = (1 if spacing == "linspace" else 2), max(count - 1, 1)
            rounded = [(2 * i**power * (total - 1) + gaps**power) // (2 * gaps**power) for i in range(count)]
            return _strictly(rounded if count > 1 else [total - 1], total)
        case "log_snr":
            return _equal_steps(schedule.log_snr, count)
        case "karras":
            with np.errstate(divide="ignore"):
                return _equal_steps(-((schedule.noise / schedule.signal) ** (1 / _RHO)), count)
        case "quadratic_song2021":
            roots = np.linspace(0, np.sqrt(total * 0.8), count)
            return SpacedTimesteps(sorted({int(u) for u in roots**2}, reverse=True))
        case _:
            raise ValueError(f"spacing must be one of {', '.join(get_args(Spacing))}, got {spacing!r}")


def _equal_steps(levels: NDArray[np.float64], count: int) -> SpacedTimesteps:
    """The timesteps whose levels, descending with t, are nearest to equal steps from the last to the first."""
    total = levels.size
    if count == 1:
        return SpacedTimesteps([total - 1])
    if not np.isfinite(levels[-1]):
        # Only the last entry can be infinite: it is kept, and the finite ones share the other steps.
        finite = levels[:-1]
        lower = _nearest(finite, np.linspace(finite[0], finite[-1], count - 1)) if count > 2 else [finite.size - 1]
        return SpacedTimesteps([total - 1, *_strictly(lower, total - 1)])
    return _strictly(_nearest(levels, np.linspace(levels[0], levels[-1], count)), total)


def _nearest(descending: NDArray[np.float64], targets: NDArray[np.float64]) -> list[int]:
    """Index of the entry nearest to each target; the lower index where two are equally near."""
    right = np.clip(np.searchsorted(-descending, -targets), 1, max(descending.size - 1, 1))
    right = np.minimum(right, descending.size - 1)
    left = np.maximum(right - 1, 0)
    return [int(i) for i in np.where(descending[left] - targets <= targets - descending[right], left, right)]


def _strictly(ascending: Iterable[int], total: int) -> SpacedTimesteps:
    """Ascending integers made strictly ascending, still below ``total``; then descending."""
    raised: list[int] = []
    for m in ascending:
        raised.append(max(m, raised[-1] + 1) if raised else m)
    count = len(raised)
    return SpacedTimesteps(reversed([min(m, total - count + i) for i, m in enumerate(raised)]))


def explicit(timesteps: TimestepsLike, num_timesteps: int) -> tuple[int, ...]:
    """A user's own list, checked: integers, strictly descending, in [0, T−1].

    Raises:
        TypeError: an entry is no integer, or this is no list.
        ValueError: empty, out of range, or not strictly descending, naming the entry.
    """
    if isinstance(timesteps, Tensor | np.ndarray):
        if timesteps.ndim != 1:
            raise ValueError(f"timesteps must be one-dimensional, got shape {tuple(timesteps.shape)}")
        timesteps = timesteps.tolist()
    if isinstance(timesteps, str) or not isinstance(timesteps, Sequence):
        raise TypeError(f"timesteps must be a list, tuple, range or 1-D integer tensor, got {timesteps!r}")
    values = tuple(integer(t, f"timesteps[{i}]") for i, t in enumerate(timesteps))
    if not values:
        raise ValueError("timesteps must hold at least one timestep, got none")
    for i, t in enumerate(values):
        if not 0 <= t < num_timesteps:
            raise ValueError(f"timesteps[{i}] must lie in 0..{num_timesteps - 1}, got {t}")
        if i and t >= values[i - 1]:
            raise ValueError(f"timesteps must descend strictly, but timesteps[{i}] = {t} follows {values[i - 1]}")
    return values


def pairs(timesteps: Sequence[int]) -> tuple[tuple[int, int | None], ...]:
    """(t, t_next) of every transition; t_next is None, the clean image, after the last.

    >>> pairs((999, 499, 24))
    ((999, 499), (499, 24), (24, None))
    """
    return tuple(zip(timesteps, [*timesteps[1:], None], strict=True))
