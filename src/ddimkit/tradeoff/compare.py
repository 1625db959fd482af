"""Two sweeps side by side: of two machines, batch sizes or models."""

from dataclasses import dataclass

from ddimkit.errors import DDIMKitError
from ddimkit.tradeoff.results import ConfigurationResult, TradeoffCurve

__all__ = ["Comparison", "compare"]

_TOLERANCE = 0.1


@dataclass(frozen=True)
class Comparison:
    """What two sweeps have in common, and whether their relative speed-ups agree.

    Attributes:
        pairs: the configurations found in both.
        differences: what the two were measured on, where it is not the same.
        finding: the verdict, computed.
        maintained: whether every pair's speed-ups agree within a tenth; None where some do not, but their quartiles overlap.
    """

    pairs: tuple[tuple[ConfigurationResult, ConfigurationResult], ...]
    differences: tuple[str, ...]
    finding: str
    maintained: bool | None

    def rows(self) -> list[tuple[str, ...]]:
        """A table: configuration, seconds of both, their ratio, speed-ups of both, their ratio."""
        return [
            (
                a.label,
                f"{a.total_seconds:.3g}",
                f"{b.total_seconds:.3g}",
                f"{a.total_seconds / b.total_seconds:.3g}×",
                f"{a.speedup:.3g}×",
                f"{b.speedup:.3g}×",
                f"{b.speedup / a.speedup:.3f}",
            )
            for a, b in self.pairs
        ]


def compare(a: TradeoffCurve, b: TradeoffCurve) -> Comparison:
    """Compare two curves configuration by configuration.

    Raises:
        DDIMKitError: they have no configuration in common beside the baseline.
    """
    others = {c.key: c for c in b.configurations if not c.baseline}
    pairs = tuple((c, others[c.key]) for c in a.configurations if not c.baseline and c.key in others)
    if not pairs:
        raise DDIMKitError("the two sweeps have no configuration in common: sweep the same steps, etas and samplers")
    moved = [(x, y) for x, y in pairs if abs(y.speedup / x.speedup - 1) > _TOLERANCE]
    clearly = [(x, y) for x, y in moved if not _overlap(x, y)]
    worst = max(pairs, key=lambda pair: abs(pair[1].speedup / pair[0].speedup - 1))
    change = f"{worst[1].speedup / worst[0].speedup - 1:+.1%} ({worst[0].label})"
    named = ", ".join(f"{x.label} {x.speedup:.3g}× against {y.speedup:.3g}×" for x, y in clearly or moved)
    if clearly:
        finding = f"Relative speed-ups are not maintained for {len(clearly)} of {len(pairs)} configurations: {named}."
    elif moved:
        finding = f"Whether relative speed-ups are maintained cannot be told: quartiles overlap for {named}. Take more rounds."
    else:
        finding = f"Relative speed-ups are maintained: over {len(pairs)} configurations the largest change is {change}."
    return Comparison(
        ((a.baseline, b.baseline), *pairs), tuple(_differences(a, b)), finding, None if moved and not clearly else not moved
    )


def _overlap(x: ConfigurationResult, y: ConfigurationResult) -> bool:
    return x.speedup_spread.low <= y.speedup_spread.high and y.speedup_spread.low <= x.speedup_spread.high


def _differences(a: TradeoffCurve, b: TradeoffCurve) -> list[str]:
    named = ("model", "machine", "versions", "settings")
    groups = [(group, getattr(a, group), getattr(b, group)) for group in named]
    return [
        f"{group} {key}: {x.get(key)} against {y.get(key)}"
        for group, x, y in groups
        for key in {**x, **y}
        if x.get(key) != y.get(key)
    ]
