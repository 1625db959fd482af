"""What does a sampler cost a step, beside the model? Ours, diffusers' and the bare arithmetic, in one run.

    python benchmarks/sampler_overhead.py [--device cpu] [--threads 1] [--steps 1000] [--rounds 7] [--no-compile]
                                          [--out results/….json]

The model returns a constant tensor, so that all time is the sampler's. It is compared with one out-of-place
``torch.add(x * a, out, alpha=b)``, the arithmetic of a step at eta 0. Contenders take turns, round after round; a
figure is the median over rounds of microseconds a step, a ratio the median over rounds of the two times of one round.
"""

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from _contest import Contender, Contest, Ratio, case, contest
from _networks import network
from _script import chosen, options, start, write
from ddimkit import DDIMSampler, NoiseSchedule
from ddimkit._compilers import has_compiler
from ddimkit.noise import compile_noise

SHAPE = (16, 1, 28, 28)


def peer(steps: int, device: torch.device, eta: float, noise: torch.Tensor | None) -> Callable[[], None]:
    """The loop of diffusers' DDIMPipeline around its DDIMScheduler, the model's call excepted."""
    import diffusers

    make: Any = diffusers.DDIMScheduler  # it has no annotations
    scheduler = make(num_train_timesteps=1000, clip_sample=False, timestep_spacing="trailing")
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


def compiled(run: Callable[[], None]) -> Callable[[], None]:
    """The same with the noise's integers from compiled code."""

    def turn() -> None:
        compile_noise()
        try:
            run()
        finally:
            compile_noise(False)

    return turn


def arithmetic(steps: int, device: torch.device) -> Callable[[], None]:
    """The bare expression, as often as there are steps."""
    x, constant = torch.randn(SHAPE, device=device), torch.randn(SHAPE, device=device)

    def run() -> None:
        for _ in range(steps):
            torch.add(x * 0.99, constant, alpha=0.01)

    return run


def forward(device: torch.device, calls: int = 20) -> Contender:
    """The bundled model's forward, in eval mode."""
    model = network("mnist")[0].to(device)
    x, t = torch.randn(SHAPE, device=device), torch.full(SHAPE[:1], 500, device=device)

    def run() -> None:
        with torch.no_grad():
            for _ in range(calls):
                model(x, t)

    return Contender(run, calls)


def _drop(value: object) -> None:
    del value


def contenders(steps: int, device: torch.device, *, calls: int, with_compiled: bool) -> dict[str, Contender]:
    """All that take turns; diffusers only where it is installed."""
    noise = torch.randn(SHAPE, device=device)
    runs = {
        "one expression": arithmetic(steps, device),
        "ours, eta 0": ours(steps, device, 0.0, None),
        "ours, eta 1, noise given": ours(steps, device, 1.0, noise),
        "ours, eta 1, keyed noise": ours(steps, device, 1.0, None),
    }
    if with_compiled:
        runs["ours, eta 1, compiled noise"] = compiled(ours(steps, device, 1.0, None))
    if find_spec("diffusers"):
        runs |= {"diffusers, eta 0": peer(steps, device, 0.0, None), "diffusers, eta 1": peer(steps, device, 1.0, None)}
    else:
        print("diffusers is not installed: measuring without it")
    return {name: Contender(run, steps) for name, run in runs.items()} | {"bundled model's forward": forward(device, calls)}


def compare(found: Contest) -> dict[str, Ratio]:
    """What a step of ours costs over the others."""
    pairs = [
        ("ours, eta 0", "one expression", 1.5),
        ("ours, eta 0", "diffusers, eta 0", 1 / 6),
        ("ours, eta 1, noise given", "diffusers, eta 1", 1 / 8),
        ("ours, eta 1, keyed noise", "diffusers, eta 1", 2 / 3),
        ("ours, eta 1, compiled noise", "diffusers, eta 1", 2 / 3),
        ("ours, eta 1, keyed noise", "bundled model's forward", 0.02),
        ("ours, eta 1, compiled noise", "bundled model's forward", 0.02),
    ]
    there = [pair for pair in pairs if {*pair[:2]} <= set(found.seconds)]
    return {f"{one} / {other}": found.ratio(one, other, goal) for one, other, goal in there}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write if asked to."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="whether to measure compiled noise too")
    arguments = parser.parse_args(argv)
    arguments.threads = arguments.threads or 1
    device = start(arguments)
    steps = chosen(arguments.steps, arguments, quick=3, cpu=1000, cuda=1000)
    rounds = chosen(arguments.rounds, arguments, quick=2, cpu=7, cuda=7)
    there = has_compiler(torch.device("cpu"))
    with_compiled = chosen(arguments.compile, arguments, quick=False, cpu=there, cuda=there)
    calls = chosen(None, arguments, quick=1, cpu=20, cuda=20)
    found = contest(contenders(steps, device, calls=calls, with_compiled=with_compiled), rounds)
    result = case("a step", found, compare(found))
    settings = {"shape": SHAPE, "steps": steps, "rounds": rounds, "compiled": with_compiled}
    write(arguments, settings, {"unit": "step", **result}, peers=("diffusers",) if find_spec("diffusers") else ())


if __name__ == "__main__":
    main()
