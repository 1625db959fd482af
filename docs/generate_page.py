"""The newest figures of bulk generation as Markdown: faults injected, and throughput beside a bare loop."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def faults(results: Path = RESULTS) -> str:
    """A row for each kind of fault, and their sum."""
    found = _newest("generate_faults", results)
    if found is None:
        return _missing("generate_faults")
    rows = [[tally["kind"], *(tally[name] for name in ("injected", "lost", "doubled", "redrawn"))] for tally in found["faults"]]
    rows.append(["all", *(sum(row[i] for row in rows) for i in range(1, 5))])
    head = "| fault | runs | images lost | images doubled | drawn again although sound |\n|---|---|---|---|---|\n"
    return f"{_about(found)}\n\n{head}" + "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows) + "\n"


def throughput(results: Path = RESULTS) -> str:
    """What generation costs beside the model and beside a loop of ``sample``."""
    found = _newest("generate_throughput", results)
    if found is None:
        return _missing("generate_throughput")
    settings, ratio, outside = found["settings"], found["ratio"], found["outside_model"]
    interval = "" if ratio["low"] is None else f" ({ratio['low']:.3f} to {ratio['high']:.3f})"
    blocks = f"{settings['blocks']} blocks of {settings['batch']} images of 28 × 28"
    run = f"{blocks}, {settings['steps']} calls of {settings['milliseconds']:g} ms"
    gained = f"{ratio['ratio']:.3f}{interval} times the images a second of a bare loop of `sample`"
    rows = [f"| {name} | {share['clock']:.1%} | {share['processor']:.1%} |" for name, share in outside.items()]
    return "\n".join(
        [
            f"{_about(found)} {run}: {gained}; the goal is 0.97.",
            "",
            "| | time outside the model | processor's time outside the model, beside the model's time |",
            "|---|---|---|",
            *rows,
            "",
            "The goal is less than 3 % outside the model. The bare loop's share is the sampler's arithmetic and the noise.",
            "",
        ]
    )


def _newest(script: str, results: Path) -> Mapping[str, Any] | None:
    """The result of the latest date; rehearsals do not count."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob(f"*-{script}-*.json"))]
    whole = [result for result in found if not result["settings"]["quick"]]
    return whole[-1] if whole else None


def _about(result: Mapping[str, Any]) -> str:
    return f"{result['machine']['processor']}, {result['date']}, torch {result['versions']['torch']}."


def _missing(script: str) -> str:
    out = f"benchmarks/results/DATE-{script}-MACHINE.json"
    return f"Not yet measured. The command:\n\n```console\npython benchmarks/{script}.py --out {out}\n```\n"
