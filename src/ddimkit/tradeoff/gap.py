r"""The scale of quality: which share of the gap between ten steps of DDIM and the baseline a sampler closes.

With D the kernel distance to real images, :math:`D_{10}` that of DDIM with 10 steps and :math:`D_0` the baseline's, a sampler
closes the share :math:`(D_{10} - D) / (D_{10} - D_0)` of the gap. It is *known* to close the share q where the interval of
:math:`(1-q) D_{10} + q D_0 - D` lies above 0, so that nothing is divided. Of several candidates the intervals are simultaneous: the
chance that any of them misses its value is 5 %.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ddimkit.errors import DDIMKitError
from ddimkit.quality.estimate import Z95, Estimate
from ddimkit.samplers import DDIMSampler
from ddimkit.schedule import FloatArray
from ddimkit.tradeoff.grid import ZERO_STEPS
from ddimkit.tradeoff.rows import Row, spacing_of
from ddimkit.tradeoff.study import Study

__all__ = ["Closing", "Gap", "is_plain_ddim", "simultaneous"]

_DRAWS = 20_000


def is_plain_ddim(row: Row) -> bool:
    """Whether a row is DDIM without noise over a trailing spacing."""
    sampler = row.sampler
    return isinstance(sampler, DDIMSampler) and sampler.eta == 0 and spacing_of(sampler) == "trailing"


@dataclass(frozen=True)
class Closing:
    """What is known of a share of the gap that a row may close.

    Attributes:
        row: the row.
        share: the share asked for, q.
        lead: :math:`(1-q) D_{10} + q D_0 - D` with its simultaneous interval.
    """

    row: Row
    share: float
    lead: Estimate

    @property
    def known(self) -> bool:
        """Whether the row is known to close the share."""
        return self.lead.low > 0

    @property
    def images_needed(self) -> int | None:
        """Images that would tell if the figure stays, as intervals narrow with their root; None where no number of images would."""
        if self.known or self.lead.value <= 0 or self.row.quality is None:
            return None
        ratio = self.lead.margin / self.lead.value
        needed = self.row.quality.count * ratio * ratio
        return math.ceil(needed) if math.isfinite(needed) else None


@dataclass(frozen=True, eq=False)
class Gap:
    """The gap of a study, from its lower end, 0 %, to its baseline, 100 %.

    Args:
        study: whose rows.

    Raises:
        DDIMKitError: the quality of the baseline, or of any other row, was not measured.
    """

    study: Study

    def __post_init__(self) -> None:
        if self.study.base.quality is None:
            raise DDIMKitError(f"the quality of the baseline {self.study.baseline} was not measured")
        _ = self.zero

    @cached_property
    def zero(self) -> Row:
        """DDIM with 10 steps, the row at 0 %; else the DDIM with the fewest steps, else the row with the fewest calls."""
        others = [row for row in self.study.evaluated if row.label != self.study.baseline]
        if not others:
            raise DDIMKitError("the study measured the quality of its baseline alone, which leaves nothing to choose")
        return min(others, key=lambda row: (not is_plain_ddim(row), row.calls != ZERO_STEPS, row.calls))

    @cached_property
    def whole(self) -> Estimate:
        """The gap itself, the distance at 0 % less the baseline's."""
        return self.study.difference(self.zero.label, self.study.baseline)

    @property
    def is_known(self) -> bool:
        """Whether there is a gap to close."""
        return self.whole.low > 0

    def closings(self, rows: Sequence[Row], share: float) -> list[Closing]:
        """What is known of each row, with simultaneous intervals over all of them."""
        if not rows:
            return []
        leads = simultaneous(self.study, [self._lead(row, share) for row in rows])
        return [Closing(row, share, lead) for row, lead in zip(rows, leads, strict=True)]

    def _lead(self, row: Row, share: float) -> dict[str, float]:
        weights = {self.zero.label: 1.0 - share}
        for label, weight in ((self.study.baseline, share), (row.label, -1.0)):
            weights[label] = weights.get(label, 0.0) + weight
        return weights

    def closed(self, row: Row) -> Estimate | None:
        r"""The share of the gap that a row closes, with Fieller's interval; None where no gap is known.

        The interval holds every q for which the interval of :math:`(1-q) D_{10} + q D_0 - D` holds 0.
        """
        if not self.is_known:
            return None
        zero, base = self.zero.label, self.study.baseline
        gained = {zero: 1.0, row.label: -1.0} if row.label != zero else {}
        (a, b), v = self.study.contrast_covariance([gained, {zero: 1.0, base: -1.0}])
        value, z2 = float(a / b), Z95**2
        square, middle, rest = b**2 - z2 * v[1, 1], a * b - z2 * v[0, 1], a**2 - z2 * v[0, 0]
        root = math.sqrt(max(0.0, middle**2 - square * rest))
        low, high = (middle - root) / square, (middle + root) / square
        return Estimate(value, min(value, float(low)), max(value, float(high)))


def simultaneous(study: Study, contrasts: Sequence[Mapping[str, float]]) -> list[Estimate]:
    """Weighted sums of distances with simultaneous 95 % intervals: the chance that any of them misses its value is 5 %.

    The critical value is the 95 % quantile of the largest absolute value of normal variables with the sums' own correlations.
    """
    values, matrix = study.contrast_covariance(contrasts)
    errors = np.sqrt(np.maximum(matrix.diagonal(), 0.0))
    critical = _critical(matrix / np.maximum(np.outer(errors, errors), 1e-300))
    pairs = zip(values, errors, strict=True)
    return [Estimate(float(v), float(v - critical * e), float(v + critical * e)) for v, e in pairs]


def _critical(correlations: FloatArray) -> float:
    """The quantile, from draws of a fixed seed; a single variable has 1.96."""
    count = len(correlations)
    if count == 1:
        return Z95
    values, vectors = np.linalg.eigh(correlations)
    draws = np.random.Generator(np.random.Philox(key=0)).standard_normal((_DRAWS, count))
    largest = np.abs(draws @ (vectors * np.sqrt(np.maximum(values, 0.0))).T).max(axis=1)
    return max(Z95, float(np.quantile(largest, 0.95)))
