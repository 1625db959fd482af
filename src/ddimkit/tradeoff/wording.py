"""Numbers of a study as text, the same on the terminal, in findings and in reports."""

import math
from collections.abc import Iterable

import numpy as np

from ddimkit.quality.estimate import Estimate
from ddimkit.tradeoff.rows import Row

__all__ = ["close_in", "count_of", "decimal", "duration", "percent", "plural", "share", "size", "three", "with_margin"]


def decimal(value: float, digits: int = 2) -> str:
    """A number with so many significant digits and no exponent, as in ``0.00062``."""
    return np.format_float_positional(value, precision=digits, fractional=False, trim="-")


def three(value: float) -> str:
    """A number of at most three significant digits where it has decimals, else with marks at thousands: ``0.0571``, ``1,234``."""
    text = decimal(value, 3)
    return f"{int(text):,}" if text.isdigit() else text


def with_margin(estimate: Estimate) -> str:
    """A value with half the width of its 95 % interval, to the second digit of the latter, as in ``0.00062 ± 0.00031``."""
    margin = estimate.margin
    if margin <= 0:
        return f"{decimal(estimate.value, 3)} ± 0"
    digits = max(0, 1 - math.floor(math.log10(margin)))
    return f"{estimate.value:.{digits}f} ± {margin:.{digits}f}"


def size(estimate: Estimate) -> str:
    """The same without the sign."""
    return with_margin(estimate).removeprefix("-")


def percent(estimate: Estimate) -> str:
    """A share with its 95 % interval, as in ``62 % (95 % interval 55 to 70 %)``."""
    low, high = (round(100 * end) for end in estimate.interval)
    return f"{round(100 * estimate.value)} % (95 % interval {low} to {high} %)"


def share(estimate: Estimate) -> str:
    """The same for a cell of a table, ``62 % (55 to 70)``; what is far below 0 without the interval."""
    if estimate.value < -1:
        return "below −100 %"
    low, high = (f"{100 * end:.0f}" for end in estimate.interval)
    reach = "" if estimate.low == estimate.high else f" ({low} to {high})"
    return f"{100 * estimate.value:.0f} %{reach}".replace("-", "−")


def close_in(rows: Iterable[Row], estimate: Estimate) -> str:
    """What stands for a difference whose interval holds 0."""
    return f"not distinguishable (n = {count_of(rows)}, ±{decimal(estimate.margin, 1)})"


def count_of(rows: Iterable[Row]) -> str:
    """The numbers of images that rows rest on, as in ``2,000`` or ``2,000 and 10,000``."""
    counts = sorted({row.quality.count for row in rows if row.quality is not None})
    if not counts:
        return "0"
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def plural(count: int, noun: str) -> str:
    """A count of things: ``1 pair``, ``9 pairs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it: ``21 ms``, ``1.3 s``, ``4 min``, ``1.7 h``."""
    for limit, unit, name in ((1.0, 1e-3, "ms"), (100.0, 1.0, "s"), (5400.0, 60.0, "min")):
        if seconds < limit:
            return f"{decimal(seconds / unit)} {name}"
    return f"{decimal(seconds / 3600)} h"
