"""How does sampling time grow with steps, batch, resolution and network, and is it more than the forwards?

    python benchmarks/scaling.py [--device cuda] [--steps 10,20,50,100,200] [--batches 1,4,16] [--out results/….json]

Four contests, one for each thing that grows, and the exponent of a power of it that the medians fit; a fifth compares a whole
``sample`` of the bundled model with as many bare forwards of it. Contenders take turns, so that a slow spell hits all of a fit.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from _contest import Contender, Ratio, case, contest
from _networks import network, random_unet
from _script import chosen, integers, options, parameters, start, write
from ddimkit import DDIMSampler, NoiseSchedule, UNet
from ddimkit.models.unet import channels_last


def draw(model: UNet, image: tuple[int, ...], batch: int, steps: int, device: torch.device) -> Contender:
    """One whole ``sample``."""
    sampler = DDIMSampler(NoiseSchedule.linear(), steps=steps)
    return Contender(lambda: sampler.sample(model, (batch, *image), seed=0, device=device))


def forwards(model: UNet, image: tuple[int, ...], batch: int, steps: int, device: torch.device) -> Contender:
    """As many bare forwards as the sampler has steps."""
    x, t = torch.randn((batch, *image), device=device), torch.full((batch,), 500, device=device)

    def run() -> Tensor:
        with torch.no_grad():
            for _ in range(steps):
                out: Tensor = model(x, t)
        return out

    return Contender(run)


def by_steps(model: UNet, image: tuple[int, ...], device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time against steps."""
    runs = {f"{steps} steps": draw(model, image, arguments.batches[0], steps, device) for steps in arguments.steps}
    found = contest(runs, arguments.rounds, least=arguments.least)
    fit = found.exponent(dict(zip(runs, arguments.steps, strict=True)), goal=1.0)
    return case(f"steps, batch {arguments.batches[0]}", found, {}, fit)


def by_batch(model: UNet, image: tuple[int, ...], device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time a sample against batch: is it changed by a larger one?"""
    batches, steps = arguments.batches, arguments.steps[0]
    whole = {f"batch {batch}": draw(model, image, batch, steps, device) for batch in batches}
    shared = {name: replace(run, units=batch) for (name, run), batch in zip(whole.items(), batches, strict=True)}
    found = contest(shared, arguments.rounds, least=arguments.least)
    smallest, *larger = shared
    ratios: dict[str, Ratio] = {f"{name} / {smallest}": found.ratio(name, smallest) for name in larger}
    fit = found.exponent(dict(zip(shared, batches, strict=True)))
    return case(f"batch, {steps} steps, time a sample", found, ratios, fit)


def by_resolution(model: UNet, image: tuple[int, ...], device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time against the number of pixels."""
    steps = arguments.steps[0]
    runs = {f"{side}x{side}": draw(model, (image[0], side, side), 1, steps, device) for side in arguments.sides}
    found = contest(runs, arguments.rounds, least=arguments.least)
    fit = found.exponent({name: side**2 for name, side in zip(runs, arguments.sides, strict=True)})
    return case(f"pixels, batch 1, {steps} steps", found, {}, fit)


def by_parameters(model: UNet, image: tuple[int, ...], device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time against the number of parameters: the same network with all widths multiplied, random weights."""
    runs: dict[str, Contender] = {}
    sizes: dict[str, float] = {}
    steps = arguments.steps[0]
    for factor in arguments.widths:
        wider = random_unet(replace(model.config, channels=tuple(factor * width for width in model.config.channels)))
        name = f"widths times {factor}"
        runs[name] = draw(channels_last(wider).to(device), image, 1, steps, device)
        sizes[name] = parameters(wider)
    found = contest(runs, arguments.rounds, least=arguments.least)
    return case(f"parameters, batch 1, {steps} steps", found, {}, found.exponent(sizes)) | {"parameters": sizes}


def against_forwards(model: UNet, image: tuple[int, ...], device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """A whole ``sample`` over as many forwards of the same batch."""
    batch, steps = arguments.batches[-1], arguments.forwards
    runs = {"sample": draw(model, image, batch, steps, device), "bare forwards": forwards(model, image, batch, steps, device)}
    found = contest(runs, arguments.turns, least=arguments.least)
    ratios = {"sample / bare forwards": found.ratio("sample", "bare forwards", 1.02)}
    return case(f"sample against {steps} bare forwards, batch {batch}", found, ratios)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with defaults of the device's size."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=integers)
    parser.add_argument("--batches", type=integers)
    parser.add_argument("--sides", type=integers, help="heights and widths of the images, multiples of 4")
    parser.add_argument("--widths", type=integers, help="what the widths of the network are multiplied by")
    parser.add_argument("--forwards", type=int, help="model calls of the comparison with bare forwards")
    parser.add_argument("--turns", type=int, help="rounds of that comparison")
    found = parser.parse_args(argv)
    found.steps = chosen(found.steps, found, quick=(2, 3, 4), cpu=(10, 20, 50, 100), cuda=(10, 20, 50, 100, 200, 500, 1000))
    found.batches = chosen(found.batches, found, quick=(1, 2, 3), cpu=(1, 2, 4, 8, 16), cuda=(1, 4, 16, 64, 256, 1024))
    found.sides = chosen(found.sides, found, quick=(4, 8, 12), cpu=(16, 32, 48, 64), cuda=(32, 64, 128, 256))
    found.widths = chosen(found.widths, found, quick=(1, 2, 3), cpu=(1, 2, 3, 4), cuda=(1, 2, 4, 8))
    found.forwards = chosen(found.forwards, found, quick=2, cpu=20, cuda=50)
    found.rounds = chosen(found.rounds, found, quick=2, cpu=21, cuda=21)
    found.turns = chosen(found.turns, found, quick=2, cpu=25, cuda=31)
    found.least = chosen(None, found, quick=0.0, cpu=0.1, cuda=0.2)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write if asked to."""
    arguments = parse(argv)
    device = start(arguments)
    model, image = network("tiny" if arguments.quick else "mnist")
    model = channels_last(model).to(device)
    parts = (by_steps, by_batch, by_resolution, by_parameters, against_forwards)
    cases = [part(model, image, device, arguments) for part in parts]
    keys = ("steps", "batches", "sides", "widths", "forwards", "rounds", "turns")
    write(arguments, {key: getattr(arguments, key) for key in keys}, {"unit": "run", "cases": cases})


if __name__ == "__main__":
    main()
