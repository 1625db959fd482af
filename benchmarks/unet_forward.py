"""How fast is one forward of the network? diffusers' UNet2DModel and ours, with the same weights, in one run.

    python benchmarks/unet_forward.py [--device cuda] [--networks mnist,cifar10] [--batch 16] [--no-compile] [--out results/….json]

Their outputs must agree to 1e-5 in float32 before anything is timed. diffusers runs as it comes and at the best flags that it has:
channels-last layout, the SDPA processor, query, key and value in one product, ``torch.compile``. Ratios are ours over theirs.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from _contest import Contender, Contest, Ratio, case, contest
from _networks import NAMES, same_weights, tuned
from _script import Precision, casting, chosen, dtype_of, integers, options, parameters, start, words, write
from ddimkit.models.unet import channels_last

Network = Callable[[Tensor, Tensor], Tensor]
_AGREE = 1e-5


def networks(theirs: Any, ours: Any, modes: Sequence[str]) -> dict[str, Network]:
    """Both networks with every set of flags, eager and then compiled in some modes of ``torch.compile``."""
    best, our_best = tuned(theirs, fused=True), channels_last(copy.deepcopy(ours))
    found: dict[str, Network] = {
        "diffusers": _unwrapped(theirs),
        "diffusers, channels_last": _unwrapped(tuned(theirs, fused=False)),
        "diffusers, channels_last, fused": _unwrapped(best),
        "ours": ours,
        "ours, channels_last": our_best,
    }
    for mode in modes:
        how = "compiled" if mode == "default" else f"compiled ({mode})"
        found |= {
            f"diffusers, {how}": _unwrapped(_compiled(theirs, mode)),
            f"diffusers, channels_last, fused, {how}": _unwrapped(_compiled(best, mode)),
            f"ours, channels_last, {how}": _compiled(our_best, mode),
        }
    return found


def _compiled(model: Any, mode: str) -> Any:
    return torch.compile(model, dynamic=False, mode=mode)


def _unwrapped(model: Any) -> Network:
    """A network of diffusers as ``model(x, t)``."""
    return lambda x, t: cast("Tensor", model(x, t, return_dict=False)[0])


def distances(found: dict[str, Network], wanted: Tensor, x: Tensor, t: Tensor, precision: Precision) -> dict[str, float]:
    """The largest distance of every output from the wanted one, relative to the largest value there."""
    scale = wanted.abs().max().clamp(min=1)
    # TensorFloat-32, which convolutions on CUDA use by default, is not exact enough to tell whether two networks are equal.
    with torch.backends.cudnn.flags(allow_tf32=False):
        outputs = ((name, cast("Tensor", forward(network, x, t, precision).run())) for name, network in found.items())
        # One by one: the next run may write over the output of a network that replays a CUDA graph.
        return {name: float((output.float() - wanted).abs().max() / scale) for name, output in outputs}


def check_agreement(found: dict[str, float]) -> None:
    """Refuse to time networks that are not the same.

    Raises:
        AssertionError: a distance is above 1e-5.
    """
    for name, distance in found.items():
        assert distance <= _AGREE, f"{name} differs from diffusers by {distance:.1e}, more than {_AGREE:.0e}"


def forward(network: Network, x: Tensor, t: Tensor, precision: Precision) -> Contender:
    """One forward without autograd."""

    def run() -> Tensor:
        with torch.no_grad(), casting(x.device, precision):
            return network(x, t)

    return Contender(run)


def compare(found: Contest) -> dict[str, Ratio]:
    """Ours over theirs: eager against their default and their best, compiled best against compiled best."""
    ours, theirs = ([name for name in found.seconds if name.startswith(who)] for who in ("ours", "diffusers"))
    mine, best = (found.fastest(name for name in names if "compiled" not in name) for names in (ours, theirs))
    goals = {(mine, best): 1.0, (mine, "diffusers"): 1 / 1.1}  # the stricter goal, where their default is their best
    if any("compiled" in name for name in ours):
        mine, best = (found.fastest(name for name in names if "compiled" in name) for names in (ours, theirs))
        goals[mine, best] = 1.0
    return {f"{one} / {other}": found.ratio(one, other, goal) for (one, other), goal in goals.items()}


def measure(name: str, batch: int, precision: Precision, device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case: check that all outputs agree, then let them take turns."""
    theirs, ours, shape = same_weights(name)
    dtype, size = dtype_of(precision), parameters(ours)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((batch, *shape), generator=generator).to(device)
    t = torch.randint(0, 1000, (batch,), generator=generator).to(device)
    modes = arguments.modes if arguments.compile else ()
    found = networks(theirs.to(device), ours.to(device), modes if precision == "float32" else ())
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        wanted = found["diffusers"](x, t)
    apart = distances(found, wanted, x, t, "float32")
    check_agreement(apart)
    if precision != "float32":
        found, x = networks(theirs.to(dtype), ours.to(dtype), modes), x.to(dtype)
        apart = distances(found, wanted, x, t, precision)
    contenders = {key: forward(value, x, t, precision) for key, value in found.items()}
    timed = contest(contenders, arguments.rounds, least=arguments.least)
    result = case(f"{name} ({size / 1e6:.1f} M parameters), batch {batch}, {precision}", timed, compare(timed))
    torch.compiler.reset()
    about = {"network": name, "parameters": size, "batch": batch, "precision": precision}
    return {**result, **about, "distances_from_float32": apart}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with defaults of the device's size."""
    parser = options(__doc__)
    parser.add_argument("--networks", type=words, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--precisions", type=words, help="of float32, autocast (to bfloat16) and bfloat16 (the weights too)")
    parser.add_argument("--batches", type=integers)
    parser.add_argument("--modes", type=words, help="of torch.compile, for both")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="whether to measure compiled networks too")
    found = parser.parse_args(argv)
    found.networks = chosen(found.networks, found, quick=("tiny",), cpu=("mnist",), cuda=("mnist", "cifar10"))
    usual = ("float32", "autocast")
    found.precisions = chosen(found.precisions, found, quick=usual, cpu=usual, cuda=(*usual, "bfloat16"))
    found.batches = chosen(found.batches, found, quick=(2,), cpu=(16,), cuda=(16, 256))
    found.modes = chosen(found.modes, found, quick=("default",), cpu=("default",), cuda=("default", "max-autotune"))
    found.compile = chosen(found.compile, found, quick=False, cpu=True, cuda=True)
    found.rounds = chosen(found.rounds, found, quick=2, cpu=21, cuda=31)
    found.least = chosen(None, found, quick=0.0, cpu=0.1, cuda=0.1)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write if asked to."""
    arguments = parse(argv)
    device = start(arguments)
    cases = [
        measure(name, batch, precision, device, arguments)
        for name in arguments.networks
        for batch in arguments.batches
        for precision in arguments.precisions
    ]
    settings = {"rounds": arguments.rounds, "compiled": arguments.compile, "modes": arguments.modes}
    write(arguments, settings, {"unit": "forward", "cases": cases}, peers=("diffusers",))


if __name__ == "__main__":
    main()
