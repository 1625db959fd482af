"""What does the forward make of the device? Its FLOP/s and bytes/s against measured peaks, and its time by kind of kernel.

    python benchmarks/roofline.py [--device cuda] [--networks mnist,cifar10] [--batches 16,256] [--out results/….json]

The peaks are measured, not quoted: a large matrix product of each dtype and a large copy. FLOPs are those that torch's
FlopCounterMode counts; bytes are those that the kernels of the eager forward read and write, each tensor once a kernel. A compiled
forward fuses kernels, so that it moves fewer; its FLOPs are the same.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from _contest import Contender, Contest, case, contest
from _kernels import Traffic, time_by_kind
from _networks import NAMES, network
from _script import Precision, casting, chosen, dtype_of, integers, options, parameters, start, words, write
from ddimkit import UNet
from ddimkit.models.unet import channels_last


def _in_tf32(a: Tensor, b: Tensor) -> Tensor:
    """A float32 product in TensorFloat-32, which convolutions on CUDA use by default."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return a @ b
    finally:
        torch.set_float32_matmul_precision(before)


def peaks(device: torch.device, side: int, megabytes: int, rounds: int) -> dict[str, float]:
    """The best FLOP/s of a square matrix product by dtype (TensorFloat-32 too on CUDA), and bytes/s of a copy, read and written."""
    contenders: dict[str, Contender] = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        contenders[str(dtype).removeprefix("torch.")] = Contender(partial(torch.mm, a, b))
        if device.type == "cuda" and dtype == torch.float32:
            contenders["tf32"] = Contender(partial(_in_tf32, a, b))
    source = torch.randn(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    contenders["copy"] = Contender(lambda: target.copy_(source))
    found = contest(contenders, rounds)
    best = {name: min(seconds) for name, seconds in found.seconds.items()}
    return {name: (2 * source.nbytes if name == "copy" else 2 * side**3) / seconds for name, seconds in best.items()}


def count(model: UNet, x: Tensor, t: Tensor, precision: Precision) -> tuple[int, int]:
    """FLOPs and bytes of one eager forward."""
    with torch.no_grad(), casting(x.device, precision):
        with FlopCounterMode(display=False) as flops:
            model(x, t)
        with Traffic() as traffic:
            model(x, t)
    return flops.get_total_flops(), traffic.moved


def forward(model: Any, x: Tensor, t: Tensor, precision: Precision) -> Contender:
    """One forward without autograd."""

    def run() -> object:
        with torch.no_grad(), casting(x.device, precision):
            return model(x, t)

    return Contender(run)


def achieved(found: Contest, work: tuple[int, int], top: dict[str, float], precision: Precision) -> dict[str, Any]:
    """FLOP/s of every contender, and bytes/s of the eager one, with their shares of the peaks."""
    flops, moved = work
    peak = top.get("tf32", top["float32"]) if precision == "float32" else top["bfloat16"]
    rates: dict[str, Any] = {}
    for name in found.seconds:
        rate = flops / found.median(name)
        rates[name] = {"flops_per_s": rate, "of_peak": rate / peak}
    rate = moved / found.median("eager")
    rates["eager"] |= {"bytes_per_s": rate, "of_copy": rate / top["copy"]}
    return {"flops": flops, "bytes": moved, "rates": rates}


def measure(
    name: str, batch: int, precision: Precision, top: dict[str, float], device: torch.device, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One network at one batch size and precision."""
    model, image = network(name)
    model = channels_last(model).to(device, dtype_of(precision))
    x = torch.randn((batch, *image), device=device, dtype=dtype_of(precision))
    t = torch.full((batch,), 500, device=device)
    runs = {"eager": forward(model, x, t, precision)}
    if arguments.compile:
        runs["compiled"] = forward(torch.compile(model, dynamic=False), x, t, precision)
    found = contest(runs, arguments.rounds, least=arguments.least)
    result = case(f"{name} ({parameters(model) / 1e6:.1f} M parameters), batch {batch}, {precision}", found, {})
    roof = achieved(found, count(model, x, t, precision), top, precision)
    for key, rates in roof["rates"].items():
        print(f"  {key}: {rates['flops_per_s'] / 1e9:.1f} GFLOP/s, {rates['of_peak']:.1%} of the measured peak")
    kinds = {key: time_by_kind(run.run, device) for key, run in runs.items()}
    for key, shares in kinds.items():
        print(f"  {key}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items()))
    torch.compiler.reset()
    return {**result, "batch": batch, "precision": precision, "roofline": roof, "kinds": kinds}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with defaults of the device's size."""
    parser = options(__doc__)
    parser.add_argument("--networks", type=words, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--batches", type=integers)
    parser.add_argument("--precisions", type=words, help=f"of {', '.join(get_args(Precision))}")
    parser.add_argument("--side", type=int, help="of the square matrices")
    parser.add_argument("--megabytes", type=int, help="that the copy reads")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="whether to measure compiled networks too")
    found = parser.parse_args(argv)
    usual = ("float32", "autocast")
    found.networks = chosen(found.networks, found, quick=("tiny",), cpu=("mnist",), cuda=("mnist", "cifar10"))
    found.batches = chosen(found.batches, found, quick=(2,), cpu=(16,), cuda=(16, 256))
    found.precisions = chosen(found.precisions, found, quick=("float32",), cpu=usual, cuda=(*usual, "bfloat16"))
    found.side = chosen(found.side, found, quick=32, cpu=2048, cuda=8192)
    found.megabytes = chosen(found.megabytes, found, quick=1, cpu=256, cuda=2048)
    found.compile = chosen(found.compile, found, quick=False, cpu=True, cuda=True)
    found.rounds = chosen(found.rounds, found, quick=2, cpu=9, cuda=31)
    found.least = chosen(None, found, quick=0.0, cpu=0.1, cuda=0.1)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write if asked to."""
    arguments = parse(argv)
    device = start(arguments)
    top = peaks(device, arguments.side, arguments.megabytes, arguments.rounds)
    print("measured peaks: " + ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in top.items()) + " (GFLOP/s; of the copy GB/s)")
    cases = [
        measure(name, batch, precision, top, device, arguments)
        for name in arguments.networks
        for batch in arguments.batches
        for precision in arguments.precisions
    ]
    keys = ("networks", "batches", "precisions", "side", "megabytes", "rounds")
    settings = {key: getattr(arguments, key) for key in keys} | {"compiled": arguments.compile}
    write(arguments, settings, {"unit": "forward", "peaks": top, "cases": cases})


if __name__ == "__main__":
    main()
