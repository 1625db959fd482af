"""What does a sampler cost a step, beside the model? Ours, diffusers' and the bare arithmetic, in one run.

    python benchmarks/sampler_overhead.py [--device cpu] [--threads 1] [--steps 1000] [--rounds 7] [--out results/….json]

The model returns a constant tensor, so that all time is the sampler's. The yardstick is one out-of-place
``torch.add(x * a, out, alpha=b)``, the arithmetic of a step at eta 0. Contenders take turns, round after round; a
figure is the median over rounds of microseconds a step, a ratio the median over rounds of the two times of one round.
"""

import argparse
import json
import statistics
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import timer

from ddimkit import DDIMSampler, NoiseSchedule, load_pretrained
from ddimkit.tradeoff.timing import describe_machine, versions

SHAPE = (16, 1, 28, 28)


def peer(steps: int, device: torch.device, eta: float, noise: torch.Tensor | None) -> Callable[[], None]:
    """The loop of diffusers' DDIMPipeline around its DDIMScheduler, the model's call excepted."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=1000, clip_sample=False, timestep_spacing="trailing")
    x, constant = torch.randn(SHAPE, device=device), torch.randn(SHAPE, device=device)

    def run() -> None:
        scheduler.set_timesteps(steps)
        y = x
        for t in scheduler.timesteps:
            y = scheduler.step(constant, t, y, eta=eta, variance_noise=noise).prev_sample

    return run


def ours(steps: int, device: torch.device, eta: float, noise: torch.Tensor | None) -> Callable[[], None]:
    """Our whole ``sample``: the loop, the timesteps of the model, every check."""
    sampler = DDIMSampler(NoiseSchedule.linear(), steps=steps, eta=eta)
    constant, x = torch.randn(SHAPE, device=device), torch.randn(SHAPE, device=device)
    if noise is None:
        return lambda: _drop(sampler.sample(lambda x, t: constant, SHAPE, x_T=x, seed=0, device=device))
    return lambda: _drop(sampler.sample(lambda x, t: constant, SHAPE, x_T=x, noise_fn=lambda draw, like: noise))


def yardstick(steps: int, device: torch.device) -> Callable[[], None]:
    """The bare expression, as often as there are steps."""
    x, constant = torch.randn(SHAPE, device=device), torch.randn(SHAPE, device=device)

    def run() -> None:
        for _ in range(steps):
            torch.add(x * 0.99, constant, alpha=0.01)

    return run


def forward(device: torch.device, calls: int = 20) -> tuple[Callable[[], None], int]:
    """The bundled model's forward, in eval mode."""
    model = load_pretrained("mnist").model.to(device)  # type: ignore[attr-defined]
    x, t = torch.randn(SHAPE, device=device), torch.full(SHAPE[:1], 500, device=device)

    def run() -> None:
        with torch.no_grad():
            for _ in range(calls):
                model(x, t)

    return run, calls


def _drop(value: object) -> None:
    del value


def measure(contenders: dict[str, tuple[Callable[[], None], int]], rounds: int) -> dict[str, list[float]]:
    """Microseconds a step of every contender in every round; they take turns."""
    for run, _ in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (run, steps) in contenders.items():
            began = timer()
            run()
            seconds[name].append(1e6 * (timer() - began) / steps)
    return seconds


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """Median over rounds of the ratio of two contenders' times in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the result there, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    device, steps, noise = torch.device(arguments.device), arguments.steps, torch.randn(SHAPE, device=arguments.device)
    contenders: dict[str, tuple[Callable[[], None], int]] = {
        "one expression": (yardstick(steps, device), steps),
        "ours, eta 0": (ours(steps, device, 0.0, None), steps),
        "ours, eta 1, noise given": (ours(steps, device, 1.0, noise), steps),
        "ours, eta 1, keyed noise": (ours(steps, device, 1.0, None), steps),
    }
    try:
        contenders |= {
            "diffusers, eta 0": (peer(steps, device, 0.0, None), steps),
            "diffusers, eta 1": (peer(steps, device, 1.0, None), steps),
        }
    except ImportError:
        print("diffusers is not installed: measuring without it")
    contenders["bundled model's forward"] = forward(device)
    seconds = measure(contenders, arguments.rounds)
    figures: dict[str, Any] = {}
    for name, values in seconds.items():
        low, _, high = statistics.quantiles(values, n=4)
        figures[name] = {"median_us": statistics.median(values), "low_us": low, "high_us": high}
        print(f"{name:26} {statistics.median(values):9.1f} us a step ({low:.1f} to {high:.1f})")
    pairs = [
        ("ours, eta 0", "one expression", 1.5),
        ("ours, eta 0", "diffusers, eta 0", 1 / 6),
        ("ours, eta 1, noise given", "diffusers, eta 1", 1 / 8),
        ("ours, eta 1, keyed noise", "diffusers, eta 1", 2 / 3),
        ("ours, eta 1, keyed noise", "bundled model's forward", 0.02),
    ]
    ratios = {
        f"{one} / {other}": {"ratio": ratio(seconds, one, other), "goal": goal} for one, other, goal in pairs if other in seconds
    }
    for name, found in ratios.items():
        verdict = "reached" if found["ratio"] <= found["goal"] else "not reached"
        print(f"{name:52} {found['ratio']:.3f}, goal {found['goal']:.3f}: {verdict}")
    if arguments.out:
        settings = {"shape": SHAPE, "steps": steps, "rounds": arguments.rounds, "threads": arguments.threads}
        result = {"date": datetime.now(UTC).date().isoformat(), "machine": describe_machine(device), "versions": versions()}
        arguments.out.write_text(
            json.dumps({**result, "settings": settings, "figures": figures, "ratios": ratios}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
