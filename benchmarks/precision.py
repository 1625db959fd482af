"""What does half precision do to whole images? The same seeds in float32, bfloat16 and float16, step by step and by quality.

    python benchmarks/precision.py [--device cuda] [--network mnist] [--steps 1000] [--samples 64] [--out results/….json]

The bundled model's forward runs in autocast, as ``accelerate`` lets it; x and the sampler's arithmetic stay float32. Drift is the
root mean square distance of x from float32's x of the same seed after so many steps; beside it stands the distance of other seeds'
images, with which it compares, and the difference of the kernel distances with its paired 95 % interval.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from _script import chosen, options, start, words, write
from ddimkit import DDIMSampler, DDPMSampler, ModelBundle, PlanSampler, accelerate, load_pretrained
from ddimkit.quality import Quality, difference, load_evaluator
from ddimkit.speed.acceleration import Precision

SAMPLERS = {"DDIM": DDIMSampler, "DDPM": DDPMSampler}
_CHECKPOINTS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def checkpoints(steps: int) -> tuple[int, ...]:
    """After how many steps x is looked at."""
    return tuple(dict.fromkeys(max(1, round(part * steps)) for part in _CHECKPOINTS))


def run(sampler: PlanSampler, model: Any, bundle: ModelBundle, arguments: argparse.Namespace) -> dict[int, Tensor]:
    """X of every sample at each checkpoint, a batch of seeds at a time."""
    found: dict[int, list[Tensor]] = {step: [] for step in checkpoints(sampler.nfe)}
    for first in tqdm(range(0, arguments.samples, arguments.batch), unit="batch", leave=False):
        size = min(arguments.batch, arguments.samples - first)
        for state in sampler.iterate(model, (size, *bundle.sample_shape), seed=range(first, first + size)):
            if state.nfe in found:
                found[state.nfe].append(state.x.cpu())
    return {step: torch.cat(parts) for step, parts in found.items()}


def rms(x: Tensor, y: Tensor) -> float:
    """Root mean square distance."""
    return float((x.double() - y.double()).square().mean().sqrt())


def compare(name: str, bundle: ModelBundle, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One sampler in every precision."""
    sampler, evaluator = bundle.sampler(SAMPLERS[name], steps=arguments.steps), load_evaluator(arguments.network)
    evaluate = partial(evaluator.evaluate, seeds=range(arguments.samples))
    runs: dict[str, dict[int, Tensor]] = {}
    for precision in ("float32", *arguments.precisions):
        fast = accelerate(bundle.model, device=device, precision=precision, compile=arguments.compile)  # type: ignore[arg-type]
        with torch.backends.cudnn.flags(allow_tf32=False):  # else float32 would be half precision too
            runs[precision] = run(sampler, fast, bundle, arguments)
    exact = runs["float32"]
    last, wanted = exact[sampler.nfe], evaluate(exact[sampler.nfe])
    drift = {p: {step: rms(x, exact[step]) for step, x in runs[p].items()} for p in arguments.precisions}
    quality = {p: _gap(evaluate(runs[p][sampler.nfe]), wanted) for p in arguments.precisions}
    label = f"{name}-{arguments.steps}"
    return {"name": label, "drift": drift, "other_seeds": rms(last, last.roll(1, 0)), "kernel": wanted.kernel.value, "gap": quality}


def _gap(half: Quality, full: Quality) -> dict[str, float]:
    found = difference(half, full)
    return {"value": found.value, "low": found.low, "high": found.high}


def report(case: dict[str, Any]) -> dict[str, Any]:
    """Print a case, and hand it on."""
    print(f"{case['name']}: other seeds' images are {case['other_seeds']:.3f} away, kernel distance {case['kernel']:.4f}")
    for precision, drift in case["drift"].items():
        gap = case["gap"][precision]
        print(f"  {precision:9} " + ", ".join(f"{step}: {value:.2e}" for step, value in drift.items()))
        print(f"  {'':9} kernel distance {gap['value']:+.5f} ({gap['low']:+.5f} to {gap['high']:+.5f})")
    return case


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with defaults of the device's size."""
    parser = options(__doc__)
    parser.add_argument("--network", default="mnist", help="a bundled model")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--precisions", type=words, help="beside float32")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="whether to compile; by default where that is possible"
    )
    found = parser.parse_args(argv)
    found.steps = chosen(found.steps, found, quick=4, cpu=1000, cuda=1000)
    found.samples = chosen(found.samples, found, quick=6, cpu=64, cuda=2000)
    found.batch = chosen(found.batch, found, quick=3, cpu=32, cuda=500)
    found.precisions = chosen(found.precisions, found, quick=("bfloat16",), cpu=("bfloat16",), cuda=("bfloat16", "float16"))
    found.rounds = 1
    if found.quick:
        found.compile = False
    unknown = set(found.precisions) - set(get_args(Precision))
    if unknown:
        parser.error(f"precisions are {', '.join(get_args(Precision))}, got {', '.join(sorted(unknown))}")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write if asked to."""
    arguments = parse(argv)
    device, bundle = start(arguments), load_pretrained(arguments.network)
    cases = [report(compare(name, bundle, arguments, device)) for name in SAMPLERS]
    settings = {key: getattr(arguments, key) for key in ("network", "steps", "samples", "batch", "precisions", "rounds", "compile")}
    write(arguments, settings, {"cases": cases})


if __name__ == "__main__":
    main()
