"""Which sampler to use with how many calls: the fewest known to close a share of the gap, with the reasons.

Of every number of calls one candidate is looked at, which other seeds chose; where no seeds chose, all rows of that number. The
answer is the candidate with the fewest calls that is known to close the share. Where none is, the candidate whose distance is known
to be the least is named, and it is said that the share is not known to be closed.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ddimkit._repr import short_repr
from ddimkit.errors import DDIMKitError
from ddimkit.quality.estimate import Estimate
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.gap import Closing, Gap, is_plain_ddim, simultaneous
from ddimkit.tradeoff.rows import Row, family, kind_of, spacing_of
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.wording import percent

__all__ = ["Recommendation", "candidates", "nearest_known", "plain_ddim", "recommend"]

_START = 100


@dataclass(frozen=True, eq=False)
class Recommendation:
    """What to use, and why.

    Attributes:
        sampler: what to sample with.
        row: the measured row that the answer rests on; None where nothing was measured.
        calls: model calls a run, with the buffer.
        share: the share of the gap asked for; None where the nearest is wanted at any number of calls.
        known: whether the row is known to close the share.
        closed: the share that the row closes with its 95 % interval; None where no gap is known.
        images_needed: images of the row that would tell, where ``known`` is False and the figure does not itself fall short.
        reasons: the same in sentences.
    """

    sampler: PlanSampler
    row: Row | None
    calls: int
    share: float | None
    known: bool
    closed: Estimate | None
    images_needed: int | None
    reasons: tuple[str, ...]

    __repr__ = short_repr

    def __str__(self) -> str:
        """The answer, then the reasons, a line each."""
        return "\n".join((self.answer, *(f"- {reason}" for reason in self.reasons)))

    @property
    def answer(self) -> str:
        """The answer in one sentence."""
        return f"Use {describe(self.sampler)} with {self.calls} calls."


def describe(sampler: PlanSampler) -> str:
    """A sampler in words, without its number of calls."""
    kind, spacing, eta = family(sampler), spacing_of(sampler), getattr(sampler, "eta", 0.0)
    words = kind if "SDE" in kind or not eta else f"{kind} with eta {eta:g}"
    if spacing == "list":
        return f"{words} over the timesteps {', '.join(map(str, sampler.timesteps))}"
    return words if spacing in ("trailing", "table") else f"{words} over {spacing} timesteps"


def recommend(
    study: Study, *, close: float = 0.95, refinable: bool = False, buffer: float = 0.2, sampler: str | None = None
) -> Recommendation:
    """The fewest calls known to close a share of the gap between DDIM with 10 steps and the baseline.

    Args:
        study: a sweep, or a committed study.
        close: the share of the gap, in (0, 1].
        refinable: whether only rows are looked at that are known to draw DDIM's image of a seed.
        buffer: share of calls added for safety, rounded up; a searched list has no more calls, and the next longer list of the same
            kind is taken if it is not known to be worse.
        sampler: only this kind, as :func:`~ddimkit.tradeoff.rows.family` names it; all by default.

    Returns:
        always an answer; where nothing is known to close the share, ``known`` is False and ``reasons`` say what would tell.

    Raises:
        ValueError: close or buffer out of range.
        DDIMKitError: the quality of the baseline or of all other rows was not measured, or no row is left to choose from.
    """
    if not 0 < close <= 1 or not 0 <= buffer < math.inf:
        raise ValueError(f"close must lie in (0, 1] and buffer be at least 0, got {close} and {buffer}")
    gap, rows = Gap(study), candidates(study, refinable=refinable, sampler=sampler)
    if not rows:
        wanted = f"sampler {sampler!r}" if sampler else "rows that draw DDIM's image of a seed"
        raise DDIMKitError(f"no evaluated row is left to choose from: {wanted}, refinable={refinable}")
    closings = gap.closings(rows, close)
    known = min((c for c in closings if c.known), key=lambda c: (c.row.calls, -c.lead.value), default=None)
    if known is not None:
        return _buffered(known, gap, buffer)
    nearest = nearest_known(study, rows)
    return _unknown(next(c for c in closings if c.row is nearest), gap)


def candidates(study: Study, *, refinable: bool, sampler: str | None = None) -> list[Row]:
    """One row of each number of calls, the best by the seeds that chose; where none chose, all rows of that number."""
    admitted = [
        row
        for row in study.evaluated
        if row.label != study.baseline and (row.refinable or not refinable) and sampler in (None, family(row.sampler))
    ]
    found = list[Row]()
    for _, same in itertools.groupby(sorted(admitted, key=lambda row: row.calls), lambda row: row.calls):
        rows = list(same)
        chosen = [row for row in rows if row.selection is not None and _disjoint(row)]
        found += [min(chosen, key=_selected)] if chosen else rows
    return found


def _selected(row: Row) -> float:
    assert row.selection is not None
    return row.selection.kernel.value


def _disjoint(row: Row) -> bool:
    """Whether the seeds that chose a row are others than those that measured its quality."""
    assert row.quality is not None
    assert row.selection is not None
    pairs = itertools.product(row.quality.seeds, row.selection.seeds)
    return all(a_after <= b_first or b_after <= a_first for (a_first, a_after), (b_first, b_after) in pairs)


def nearest_known(study: Study, rows: Sequence[Row]) -> Row:
    """The row whose distance is known to be the least: that of the lowest upper end of simultaneous intervals."""
    bounds = simultaneous(study, [{row.label: 1.0} for row in rows])
    return min(zip(rows, bounds, strict=True), key=lambda pair: pair[1].high)[0]


def _buffered(found: Closing, gap: Gap, buffer: float) -> Recommendation:
    """The answer of a row that is known to close the share, with more calls for safety."""
    row, wanted = found.row, math.ceil(round(found.row.calls * (1 + buffer), 9))
    reasons = [
        f"{row.label} is the row with the fewest calls known to close {100 * found.share:.0f} % of the gap{_closed(gap, row)}."
    ]
    sampler = row.sampler
    if buffer and spacing_of(sampler) in ("list", "table"):
        longer = _longer(row, gap)
        sampler = longer.sampler
        taken = f"For safety {longer.label} is taken, which is not known to be worse."
        reasons.append("A list has no further calls to add for safety." if longer is row else taken)
    elif spacing_of(sampler) not in ("list", "table") and wanted > row.calls:
        most = min(wanted, sampler.schedule.num_timesteps)
        sampler = replace(sampler, steps=most, timesteps=())
        reasons.append(f"For safety {100 * buffer:.0f} % more calls are taken, {most} instead of {row.calls}.")
    return Recommendation(sampler, row, sampler.nfe, found.share, True, gap.closed(row), None, tuple(reasons))


def _longer(row: Row, gap: Gap) -> Row:
    """The next longer list or table of the same kind that is not known to be worse, else the row itself."""
    study = gap.study
    others = [r for r in study.evaluated if kind_of(r.sampler) == kind_of(row.sampler) and r.calls > row.calls]
    longer = min((r for r in others if r.refinable >= row.refinable), key=lambda r: r.calls, default=row)
    return longer if longer is row or study.difference(longer.label, row.label).low <= 0 else row


def _unknown(found: Closing, gap: Gap) -> Recommendation:
    """The answer where no row is known to close the share."""
    row, needed = found.row, found.images_needed
    reasons = [
        f"No row is known to close {100 * found.share:.0f} % of the gap.",
        f"{row.label} has the least distance known{_closed(gap, row)}.",
    ]
    if needed is not None:
        count = 0 if row.quality is None else row.quality.count
        reasons.append(f"About {needed:,} images of {row.label} and of both ends would tell, if the figure stays ({count:,} now).")
    elif found.lead.value <= 0:
        reasons.append("More images would not tell: the figure itself falls short.")
    return Recommendation(row.sampler, row, row.calls, found.share, False, gap.closed(row), needed, tuple(reasons))


def _closed(gap: Gap, row: Row) -> str:
    closed = gap.closed(row)
    return "" if closed is None else f": it closes {percent(closed)}"


def plain_ddim(study: Study, *, buffer: float = 0.2) -> tuple[Row, int] | None:
    """The usual procedure for DDIM alone: from 100 steps down until the quality is known to be worse than DDIM's best.

    Where 100 steps are themselves known to be worse, the search begins at the next larger count that is not, else at the next
    smaller one.

    Returns:
        the row with the fewest steps that is reached before one is known to be worse; and its steps with the buffer. None where
        fewer than two counts were evaluated.
    """
    rows = sorted((row for row in study.evaluated if is_plain_ddim(row)), key=lambda row: -row.calls)
    if len(rows) < 2:
        return None
    best = nearest_known(study, rows)
    good = [row is best or study.difference(row.label, best.label).low <= 0 for row in rows]
    start = next((i for i, row in enumerate(rows) if row.calls <= _START), len(rows) - 1)
    place = next(i for i in (*range(start, -1, -1), *range(start + 1, len(rows))) if good[i])
    while place + 1 < len(rows) and good[place + 1]:
        place += 1
    last = rows[place]
    return last, min(math.ceil(round(last.calls * (1 + buffer), 9)), study.schedule.num_timesteps)
