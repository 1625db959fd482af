"""How long does a user wait? diffusers' DDIMPipeline against our ``DDIMSampler.sample``, with the same weights, in one run.

    python benchmarks/end_to_end.py [--device cuda] [--steps 10,50,1000] [--batches 1,16,256] [--out results/….json]

A run is a whole call, from the first noise to the finished images as a tensor. Before anything is timed, both networks must give
the same output, and both samplers the same images from the same noise. Ratios are ours over theirs.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor

from _contest import Contender, Contest, Ratio, case, contest
from _networks import NAMES, same_weights, tuned
from _script import Precision, casting, chosen, dtype_of, integers, options, start, words, write
from ddimkit import DDIMSampler, NoiseSchedule, UNet
from ddimkit.graphs import capture
from ddimkit.models.unet import channels_last
from unet_forward import check_agreement as check_networks
from unet_forward import distances

_AGREE = 1e-4
_CHECK_STEPS = 4  # divides 1000: elsewhere the pipeline steps to other timesteps than it asks the network at
_BEST = "diffusers, channels_last, fused"
_CAPTURED = ", captured"
Run = Callable[[], object]


@dataclass(frozen=True)
class Networks:
    """The same weights in every form that draws images: diffusers' pipelines and our networks, by name."""

    theirs: dict[str, Any]
    ours: dict[str, UNet]


def networks(theirs: Any, ours: UNet, modes: Sequence[str]) -> Networks:
    """Both eager, and compiled: theirs in some modes of ``torch.compile``, ours in the default, if there is any."""
    best = tuned(theirs, fused=True)
    found = Networks({"diffusers": pipeline(theirs), _BEST: pipeline(best)}, {"ours": channels_last(ours)})
    for mode in modes:
        how = "compiled" if mode == "default" else f"compiled ({mode})"
        found.theirs[f"{_BEST}, {how}"] = pipeline(_compiled(best, mode))
    if modes:
        found.ours["ours, compiled"] = _compiled(ours, "default")
    return found


def _compiled(model: Any, mode: str) -> Any:
    model = copy.deepcopy(model)
    model.compile(dynamic=False, mode=mode)
    return model


def pipeline(unet: Any) -> Any:
    """The DDIMPipeline of diffusers with our default schedule and timesteps; quiet."""
    import diffusers

    kinds: Any = diffusers  # without annotations
    found = kinds.DDIMPipeline(unet=unet, scheduler=kinds.DDIMScheduler(clip_sample=False, timestep_spacing="trailing"))
    found.set_progress_bar_config(disable=True)
    return found


def ddim(steps: int) -> DDIMSampler:
    """Our sampler, with the schedule and the timesteps of the pipeline."""
    return DDIMSampler(NoiseSchedule.linear(), steps=steps)


def their_run(pipe: Any, batch: int, steps: int) -> Run:
    """One call of the pipeline, with its images as a tensor."""
    generator = torch.Generator(pipe.unet.device).manual_seed(0)
    return lambda: pipe(batch, generator, num_inference_steps=steps, output_type="pt").images


def our_run(model: UNet, shape: tuple[int, ...], steps: int) -> Run:
    """One call of ``sample``."""
    sampler, weight = ddim(steps), next(model.parameters())
    return lambda: sampler.sample(model, shape, seed=0, dtype=weight.dtype)


def captured_run(model: UNet, shape: tuple[int, ...], steps: int) -> Run:
    """The same walk, captured in a CUDA graph."""
    captured = capture(ddim(steps), model, shape, dtype=next(model.parameters()).dtype)
    return lambda: captured(seed=0)


def check_agreement(theirs: Any, ours: UNet, shape: tuple[int, ...], device: torch.device) -> float:
    """The largest distance of the two samplers' float32 images in [0, 1] from one noise, by one network, once both networks agree.

    By two networks it would say little: what they differ by in rounding is x0's times n/s, 157 at the first timestep.

    Raises:
        AssertionError: it is above 1e-4, which the rounding errors of some steps stay below; or the networks' outputs differ.
    """
    noise = torch.randn(shape, generator=torch.Generator(device).manual_seed(0), device=device)
    t = torch.linspace(1, 999, shape[0], device=device).long()
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        check_networks(distances({"ours": ours}, theirs(noise, t).sample, noise, t, "float32"))
        wanted = cast("Tensor", their_run(pipeline(theirs), shape[0], _CHECK_STEPS)())
        found = ddim(_CHECK_STEPS).sample(lambda x, t: theirs(x, t).sample, x_T=noise)
    distance = float(((found / 2 + 0.5).clamp(0, 1) - wanted).abs().max())
    assert distance <= _AGREE, f"the pipeline's images differ from ours by {distance:.1e}, more than {_AGREE:.0e}"
    return distance


def contenders(
    found: Networks, shape: tuple[int, ...], steps: int, device: torch.device, precision: Precision
) -> dict[str, Contender]:
    """Every way to draw the images."""
    runs = {name: their_run(pipe, shape[0], steps) for name, pipe in found.theirs.items()}
    runs |= {name: our_run(model, shape, steps) for name, model in found.ours.items()}
    if device.type == "cuda":
        with casting(device, precision):
            runs |= {f"{name}{_CAPTURED}": captured_run(model, shape, steps) for name, model in found.ours.items()}
    return {name: Contender(_inside(run, device, precision)) for name, run in runs.items()}


def _inside(run: Run, device: torch.device, precision: Precision) -> Run:
    def cast_run() -> object:
        with casting(device, precision):
            return run()

    return cast_run


def compare(found: Contest, *, launch_bound: bool = False) -> dict[str, Ratio]:
    """Eager over eager as each comes, the fastest of ours over the fastest of theirs, and captured over the same uncaptured.

    Args:
        found: the contest.
        launch_bound: whether the forward is so short that a GPU waits for the host, where more is wanted of a graph.
    """
    ours, theirs = ([name for name in found.seconds if name.startswith(who)] for who in ("ours", "diffusers"))
    mine, best = found.fastest(ours), found.fastest(theirs)
    captured = [name for name in ours if name.endswith(_CAPTURED)]
    goals: dict[tuple[str, str], float | None] = {("ours", "diffusers"): 1.0, (mine, best): 1.0}
    if captured and launch_bound:
        goals |= {(mine, best): 1 / 1.5, (mine, "diffusers"): 0.1}
    goals |= {(name, name.removesuffix(_CAPTURED)): None for name in captured}
    return {f"{one} / {other}": found.ratio(one, other, goal) for (one, other), goal in goals.items()}


def measure_batch(batch: int, device: torch.device, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The cases of one batch size: a contest for every number of steps."""
    theirs, ours, image = same_weights(arguments.network)
    shape, precision = (batch, *image), arguments.precision
    distance = check_agreement(theirs.to(device), ours.to(device), shape, device)
    dtype = dtype_of(precision)
    found = networks(theirs.to(dtype), ours.to(dtype), arguments.modes if arguments.compile else ())
    results = []
    for steps in arguments.steps:
        if arguments.most and batch * steps > arguments.most:
            print(f"left out: batch {batch}, {steps} steps (--most {arguments.most})")
            continue
        timed = contest(contenders(found, shape, steps, device, precision), arguments.rounds, least=arguments.least)
        about = {"batch": batch, "steps": steps, "agreement": distance}
        ratios = compare(timed, launch_bound=(arguments.network, batch, steps) == ("mnist", 16, 50))
        results.append(case(f"{arguments.network}, batch {batch}, {steps} steps, {precision}", timed, ratios) | about)
    torch.compiler.reset()
    return results


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with defaults of the device's size."""
    parser = options(__doc__)
    parser.add_argument("--network", help=f"one of {', '.join(NAMES)}; mnist if left out")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    parser.add_argument("--steps", type=integers)
    parser.add_argument("--batches", type=integers)
    parser.add_argument("--most", type=int, help="leave out runs of more steps times images than this; 0 for none")
    parser.add_argument("--modes", type=words, help="of torch.compile, for theirs")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="whether to measure compiled networks too")
    found = parser.parse_args(argv)
    found.network = chosen(found.network, found, quick="tiny", cpu="mnist", cuda="mnist")
    found.steps = chosen(found.steps, found, quick=(2, 4), cpu=(10, 50, 1000), cuda=(10, 50, 1000))
    found.batches = chosen(found.batches, found, quick=(2,), cpu=(1, 16), cuda=(1, 16, 256))
    found.most = chosen(found.most, found, quick=0, cpu=1000, cuda=0)
    found.modes = chosen(found.modes, found, quick=("default",), cpu=("default",), cuda=("default", "reduce-overhead"))
    found.compile = chosen(found.compile, found, quick=False, cpu=True, cuda=True)
    found.rounds = chosen(found.rounds, found, quick=2, cpu=7, cuda=11)
    found.least = chosen(None, found, quick=0.0, cpu=0.2, cuda=0.2)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write if asked to."""
    arguments = parse(argv)
    device = start(arguments)
    cases = [result for batch in arguments.batches for result in measure_batch(batch, device, arguments)]
    settings = {key: getattr(arguments, key) for key in ("network", "precision", "steps", "batches", "most", "rounds", "modes")}
    write(arguments, {**settings, "compiled": arguments.compile}, {"unit": "run", "cases": cases}, peers=("diffusers",))


if __name__ == "__main__":
    main()
