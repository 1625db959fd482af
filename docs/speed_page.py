"""The figures of the scripts in benchmarks/ as Markdown, computed from the committed results."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from _contest import Exponent, Ratio

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
Device = Literal["cpu", "cuda"]
Result = Mapping[str, Any]
_NAME = re.compile(r"\d{4}-\d\d-\d\d-(?P<script>[a-z_]+)-.+\.json")
_SIZES = ((1e6, "s"), (1e3, "ms"), (1.0, "µs"))


def page(script: str, results: Path = RESULTS) -> str:
    """What the newest results of a script say, on a CPU and on CUDA; that there are none, and the command, where there are none."""
    parts: list[str] = []
    for device in get_args(Device):
        found = newest(script, device, results)
        parts += [part for result in found for part in _result(result)] or _missing(script, device)
    return "\n\n".join(parts) + "\n"


def newest(script: str, device: Device, results: Path = RESULTS) -> list[Result]:
    """The results of a script on a kind of device that have the latest date; rehearsals do not count."""
    found: list[Result] = []
    for path in sorted(results.glob("*.json")):
        name = _NAME.fullmatch(path.name)
        if name is None or name["script"] != script:
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["machine"]["device"].startswith(device) and not result["settings"].get("quick"):
            found.append(result)
    last = max((result["date"] for result in found), default=None)
    return [result for result in found if result["date"] == last]


def _missing(script: str, device: Device) -> list[str]:
    where = "CUDA" if device == "cuda" else "a CPU"
    out = f"benchmarks/results/DATE-{script}-MACHINE.json"
    return [
        f"Not yet measured on {where}. The command:",
        f"```console\npython benchmarks/{script}.py --device {device} --out {out}\n```",
    ]


def _result(result: Result) -> Iterator[str]:
    cases: Sequence[Result] = result.get("cases") or [result]
    yield _about(result)
    timed = [case for case in cases if "figures" in case]
    if timed:
        yield _times(timed, result.get("unit", "step"))
    for part in (_ratios(timed), _fits(timed), _rates(timed), _kinds(timed), _drifts(cases)):
        if part:
            yield part


def _about(result: Result) -> str:
    machine, versions = result["machine"], result["versions"]
    place = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores"
    peers = "".join(f", {name} {versions[name]}" for name in ("diffusers",) if name in versions)
    said = f"{place}, {result['date']}, torch {versions['torch']}{peers}; {result['settings']['rounds']} rounds."
    if "peaks" in result:
        peaks = result["peaks"]
        products = ", ".join(f"{_giga(rate)} in {name}" for name, rate in peaks.items() if name != "copy")
        said += f" Measured peaks: matrix product, GFLOP/s: {products}; copy {_giga(peaks['copy'])} GB/s."
    return said


def _times(cases: Sequence[Result], unit: str) -> str:
    rows = [
        (name, _time(figures["median_us"]), f"{_time(figures['low_us'])} to {_time(figures['high_us'])}")
        for case in cases
        for name, figures in case["figures"].items()
    ]
    return _table((f"time a {unit}", "median", "quartiles"), rows, _labels(cases, "figures"))


def _ratios(cases: Sequence[Result]) -> str:
    rows = []
    for case in cases:
        for name, values in case["ratios"].items():
            ratio = Ratio(**values)
            interval = "" if ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
            rows.append((name, f"{ratio.ratio:.3f}", interval, "" if ratio.goal is None else f"≤ {ratio.goal:.3f}", ratio.verdict))
    return _table(("ratio", "median", "95 % interval", "goal", ""), rows, _labels(cases, "ratios")) if rows else ""


def _fits(cases: Sequence[Result]) -> str:
    fits = [(case["name"], Exponent(**case["fit"])) for case in cases if case.get("fit")]
    return "\n".join(f"- {name}: time grows to the power of {fit}." for name, fit in fits)


def _rates(cases: Sequence[Result]) -> str:
    rows = []
    for case in cases:
        for name, rates in case.get("roofline", {}).get("rates", {}).items():
            copied = f"{_giga(rates['bytes_per_s'])} ({rates['of_copy']:.0%})" if "bytes_per_s" in rates else "not counted"
            rows.append((case["name"], name, f"{_giga(rates['flops_per_s'])} ({rates['of_peak']:.0%})", copied))
    return _table(("forward", "", "GFLOP/s (of the peak)", "GB/s (of the copy)"), rows) if rows else ""


def _kinds(cases: Sequence[Result]) -> str:
    shares = [(case["name"], name, kinds) for case in cases for name, kinds in case.get("kinds", {}).items()]
    if not shares:
        return ""
    rows = [(case, name, *(f"{share:.0%}" for share in kinds.values())) for case, name, kinds in shares]
    return _table(("share of the time", "", *shares[0][2]), rows)


def _drifts(cases: Sequence[Result]) -> str:
    """How far half precision leads from float32's images, after so many steps and in quality."""
    drifting = [case for case in cases if "drift" in case]
    if not drifting:
        return ""
    steps = list(next(iter(drifting[0]["drift"].values())))
    rows = [
        (
            case["name"],
            precision,
            *(f"{drift[step]:.1e}" for step in steps),
            f"{case['other_seeds']:.2f}",
            _gap(case["gap"][precision]),
        )
        for case in drifting
        for precision, drift in case["drift"].items()
    ]
    return _table(("distance from float32 after", "", *steps, "other seeds", "kernel distance more by"), rows)


def _gap(gap: Mapping[str, float]) -> str:
    return f"{gap['value']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})"


def _labels(cases: Sequence[Result], key: str) -> list[str]:
    """The case's name before the first row of it; none where there is one case only."""
    return [case["name"] * (i == 0) for case in cases for i in range(len(case[key]))] if len(cases) > 1 else []


def _time(microseconds: float) -> str:
    size, unit = next((found for found in _SIZES if microseconds >= found[0]), _SIZES[-1])
    return f"{microseconds / size:.3g} {unit}"


def _giga(rate: float) -> str:
    return f"{rate / 1e9:.1f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], labels: Sequence[str] = ()) -> str:
    if labels:
        head, rows = ("", *head), [(label, *row) for label, row in zip(labels, rows, strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
