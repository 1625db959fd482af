"""Two studies side by side: of two machines, batch sizes or models."""

import json
from dataclasses import dataclass

from ddimkit.errors import DDIMKitError
from ddimkit.quality.estimate import Estimate
from ddimkit.tradeoff.rows import Row, sampler_to_dict
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.times import Times, speedup

__all__ = ["Comparison", "Pair", "compare"]

_TOLERANCE = 0.1


@dataclass(frozen=True)
class Pair:
    """One sampler in both studies: its times, and its speed-ups over each study's baseline."""

    label: str
    times: tuple[Times, Times]
    gains: tuple[Estimate, Estimate]

    @property
    def change(self) -> float:
        """How much larger the second speed-up is than the first, as a share of it."""
        return self.gains[1].value / self.gains[0].value - 1

    @property
    def overlap(self) -> bool:
        """Whether the 95 % intervals of the two speed-ups overlap."""
        a, b = self.gains
        return a.low <= b.high and b.low <= a.high


@dataclass(frozen=True)
class Comparison:
    """What two studies have in common, and whether their speed-ups agree.

    Attributes:
        pairs: the samplers that both timed, the baseline first.
        differences: what the two were measured on, where it is not the same.
        maintained: whether all speed-ups agree within a tenth; None where some do not, but their 95 % intervals overlap.
        finding: the same in one sentence.
    """

    pairs: tuple[Pair, ...]
    differences: tuple[str, ...]
    maintained: bool | None
    finding: str


def compare(a: Study, b: Study) -> Comparison:
    """Compare the times of two studies row by row.

    Raises:
        DDIMKitError: they have no timed sampler in common beside the baseline, or a baseline was not timed.
    """
    there = {_key(row): row for row in b.rows}
    pairs = [_pair(a, row, b, there[_key(row)]) for row in a.rows if _key(row) in there]
    found = tuple(pair for pair in pairs if pair is not None)
    others = [pair for pair in found if pair.label != a.baseline]
    if not others:
        raise DDIMKitError("the two studies have timed no sampler in common: sweep the same steps, etas and samplers")
    moved = [pair for pair in others if abs(pair.change) > _TOLERANCE]
    clear = [pair for pair in moved if not pair.overlap]
    named = ", ".join(f"{p.label} {p.gains[0].value:.3g}× against {p.gains[1].value:.3g}×" for p in clear or moved)
    worst = max(others, key=lambda pair: abs(pair.change))
    if clear:
        finding = f"Speed-ups are not maintained for {len(clear)} of {len(others)} samplers: {named}."
    elif moved:
        finding = f"Whether speed-ups are maintained is not resolved: the intervals overlap for {named}; take more rounds."
    else:
        finding = (
            f"Speed-ups are maintained: over {len(others)} samplers the largest change is "
            f"{100 * worst.change:+.1f} % ({worst.label})."
        )
    return Comparison(found, tuple(_differences(a, b)), None if moved and not clear else not moved, finding)


def _key(row: Row) -> str:
    return json.dumps(sampler_to_dict(row.sampler), sort_keys=True)


def _pair(a: Study, row_a: Row, b: Study, row_b: Row) -> Pair | None:
    bases, times = (a.base.times, b.base.times), (row_a.times, row_b.times)
    if bases[0] is None or bases[1] is None or times[0] is None or times[1] is None:
        return None
    return Pair(row_a.label, (times[0], times[1]), (speedup(bases[0], times[0]), speedup(bases[1], times[1])))


def _differences(a: Study, b: Study) -> list[str]:
    groups = [(group, getattr(a, group), getattr(b, group)) for group in ("model", "machine", "versions", "settings")]
    keys = [(group, key, x.get(key), y.get(key)) for group, x, y in groups for key in {**x, **y}]
    return [f"{group} {key}: {x} against {y}" for group, key, x, y in keys if x != y]
