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
    found = _pairs(a, b)
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


def _pairs(a: Study, b: Study) -> tuple[Pair, ...]:
    """The samplers that both studies timed, known by their settings; none where a baseline was not timed."""
    there, bases = {_key(row): row.times for row in b.rows}, (a.base.times, b.base.times)
    if bases[0] is None or bases[1] is None:
        return ()
    both = [(row.label, row.times, there.get(_key(row))) for row in a.rows]
    return tuple(Pair(name, (x, y), (speedup(bases[0], x), speedup(bases[1], y))) for name, x, y in both if x and y)


def _key(row: Row) -> str:
    return json.dumps(sampler_to_dict(row.sampler), sort_keys=True)


def _differences(a: Study, b: Study) -> list[str]:
    groups = [(group, getattr(a, group), getattr(b, group)) for group in ("model", "machine", "versions", "settings")]
    keys = [(group, key, x.get(key), y.get(key)) for group, x, y in groups for key in {**x, **y}]
    return [f"{group} {key}: {x} against {y}" for group, key, x, y in keys if x != y]
