"""The power law of time against model calls: fitted once, and quoted by chart, findings and report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ddimkit.tradeoff.gap import is_plain_ddim
from ddimkit.tradeoff.study import Study

__all__ = ["PowerFit", "fit_power", "time_fit"]


@dataclass(frozen=True)
class PowerFit:
    """The line ``log seconds = slope · log calls + constant`` through some points, and its R²."""

    slope: float
    constant: float
    r_squared: float

    def __call__(self, calls: float) -> float:
        """Seconds of a run of so many calls."""
        return math.exp(self.constant + self.slope * math.log(calls))


def fit_power(calls: Sequence[float], seconds: Sequence[float]) -> PowerFit | None:
    """Least squares through the logarithms; None for fewer than three different numbers of calls, or a time of 0."""
    if len(set(calls)) < 3 or min(*calls, *seconds) <= 0:
        return None
    x, y = np.log(np.asarray(calls)), np.log(np.asarray(seconds))
    slope, constant = (float(v) for v in np.polyfit(x, y, 1))
    residual, scatter = float(np.sum((y - slope * x - constant) ** 2)), float(np.sum((y - y.mean()) ** 2))
    return PowerFit(slope, constant, 1 - residual / scatter if scatter else 0.0)


@lru_cache(maxsize=8)
def time_fit(study: Study) -> PowerFit | None:
    """The fit of a study's timed rows of plain DDIM, a run each; None where there are fewer than three."""
    timed = [(row.calls, row.times.seconds) for row in study.rows if row.times is not None and is_plain_ddim(row)]
    return fit_power([calls for calls, _ in timed], [seconds for _, seconds in timed])
