"""The answer of a study in two sentences: what to use, how long it takes, and how far from real images it is."""

from ddimkit.tradeoff.gap import Gap
from ddimkit.tradeoff.recommend import Recommendation, describe, recommend
from ddimkit.tradeoff.rows import Row
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.times import speedup
from ddimkit.tradeoff.wording import decimal, duration, percent, plural, with_margin

__all__ = ["answer", "has_quality"]


def has_quality(study: Study) -> bool:
    """Whether the quality of the baseline and of some other row was measured, so that one can be recommended."""
    return study.base.quality is not None and len(study.evaluated) > 1


def answer(study: Study) -> tuple[str, str]:
    """Which sampler to use and what it takes; then what is known of its quality.

    Without quality the answer rests on times alone: the fastest row, and what measures the quality.
    """
    if not has_quality(study):
        return _of_times(study)
    found = recommend(study)
    row = found.row
    assert row is not None
    took = _took(study, row, found.calls)
    return f"Use {describe(found.sampler)} with {found.calls} calls{took and ': '}{took}.", _quality(study, found, row)


def _of_times(study: Study) -> tuple[str, str]:
    wanted = "The quality was not measured: an evaluator (--evaluator, or evaluation= of sweep) tells how few calls are enough."
    timed = [row for row in study.rows if row.times is not None and row.label != study.baseline]
    if not timed:
        return "Nothing but the baseline was measured.", wanted
    fastest = min(timed, key=lambda row: row.times.seconds if row.times else 0.0)
    return f"The fastest is {fastest.label}: {_took(study, fastest, fastest.calls)}.", wanted


def _took(study: Study, row: Row, calls: int) -> str:
    """The time of a run and the speed-up; for more calls than the row has, in proportion."""
    if row.times is None:
        return ""
    run, about = row.times.scaled(calls / row.calls), "" if calls == row.calls else "about "
    took = f"{about}{duration(run.seconds)} for {plural(row.times.batch, 'image')}"
    if study.base.times is None:
        return took
    gain = speedup(study.base.times, run)
    ratio, low, high = (decimal(v, 3) for v in (gain.value, gain.low, gain.high))
    return f"{took}, {ratio} × as fast as {study.baseline} (95 % interval {low} to {high})"


def _quality(study: Study, found: Recommendation, row: Row) -> str:
    assert row.quality is not None
    real = "" if study.real_vs_real is None else f"; other real images {decimal(study.real_vs_real.kernel.value)}"
    distance = f"The KID of {row.label} is {with_margin(row.quality.kernel)} ({plural(row.quality.count, 'image')}{real})"
    if found.closed is None:
        return f"{distance}; no gap between {Gap(study).zero.label} and {study.baseline} is known."
    needed = "" if found.images_needed is None else f"; about {found.images_needed:,} images would tell"
    share = f"{100 * (found.share or 1.0):.0f} %"
    known = f"known to be at least {share}" if found.known else f"not known to be {share}{needed}"
    return f"{distance}. It closes {percent(found.closed)} of the gap from {Gap(study).zero.label} to {study.baseline}, {known}."
