"""What does bulk generation cost beside the model, and beside a bare loop of ``sample``?

    python benchmarks/generate_throughput.py [--device cpu] [--threads 1] [--rounds 7] [--milliseconds 5] [--batch 16] [--steps 50]
                                             [--blocks 32] [--quick] [--out results/….json]

The model takes a fixed time a call, in which it waits as a host waits for a device. One contender is ``generate`` into an empty
folder on this disk. The other draws the same blocks by ``sample`` in a loop and keeps nothing. What ``generate`` adds is the
difference: bytes, checksums, files, claims. The share of time outside the model is that of ``generate``; the sampler's arithmetic
and the noise, which a bare loop has too, are part of it. On a machine that other processes share the clock counts their turns too:
the processor's time, given beside, counts those of this process only.
"""

import argparse
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from _contest import Contender, contest
from _script import chosen, options, start, write
from ddimkit import DDIMSampler, ModelBundle, NoiseSchedule
from ddimkit.generate import Blocks, generate

SHAPE = (1, 28, 28)


class Waiting:
    """A model of a fixed time a call; its output is always the same tensor."""

    def __init__(self, seconds: float, batch: int, device: torch.device) -> None:
        self.seconds, self.spent, self.busy = seconds, 0.0, 0.0
        self._output = torch.zeros((batch, *SHAPE), device=device)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The tensor, after the time."""
        began, busy = time.perf_counter(), time.process_time()
        time.sleep(self.seconds)
        self.spent, self.busy = self.spent + time.perf_counter() - began, self.busy + time.process_time() - busy
        return self._output

    @contextmanager
    def timed(self, clock: list[float], processor: list[float]) -> Generator[None]:
        """Note the share of the time that is outside the model, and of the processor's time outside beside the model's time."""
        began, busy, self.spent, self.busy = time.perf_counter(), time.process_time(), 0.0, 0.0
        yield
        whole, outside = time.perf_counter() - began, time.process_time() - busy - self.busy
        clock.append(1 - self.spent / whole)
        processor.append(outside / (outside + self.spent))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    arguments = _options().parse_args(argv)
    device = start(arguments)
    batch, steps = chosen(arguments.batch, arguments, quick=4, cpu=16, cuda=256), 2 if arguments.quick else arguments.steps
    blocks = Blocks(range((2 if arguments.quick else arguments.blocks) * batch), batch)
    model = Waiting(arguments.milliseconds / 1000, batch, device)
    bundle = ModelBundle(model, NoiseSchedule.linear(), sample_shape=SHAPE)
    sampler = bundle.sampler(DDIMSampler, steps=steps)
    shares: dict[str, tuple[list[float], list[float]]] = {"generate": ([], []), "a loop of sample": ([], [])}

    def bulk() -> None:
        folder = Path(place) / str(len(shares["generate"][0]))  # removed after all rounds: removing is no part of the work
        with model.timed(*shares["generate"]):
            generate(bundle, sampler, blocks.seeds, folder, batch=batch, device=device)

    def loop() -> None:
        with model.timed(*shares["a loop of sample"]):
            for block in range(len(blocks)):
                sampler.sample(model, (batch, *SHAPE), seed=blocks.padded(block), device=device)

    rounds = chosen(arguments.rounds, arguments, quick=2, cpu=7, cuda=15)
    with tempfile.TemporaryDirectory() as place:
        found = contest({"generate": Contender(bulk), "a loop of sample": Contender(loop)}, rounds)
    ratio = found.ratio("a loop of sample", "generate")
    images = len(blocks.seeds) / found.median("generate")
    print(f"{len(blocks)} blocks of {batch} images {SHAPE}, {steps} calls of {arguments.milliseconds:g} ms each, on {device}")
    print(f"generate: {images:.1f} images/s, {ratio} times those of a bare loop of sample; the goal is 0.97 at least")
    outside = {name: {"clock": median(clock), "processor": median(busy)} for name, (clock, busy) in shares.items()}
    for name, share in outside.items():
        print(f"{name}: outside the model {share['clock']:.2%} of the time, {share['processor']:.2%} of the processor's time")
    settings = {"batch": batch, "steps": steps, "blocks": len(blocks), "milliseconds": arguments.milliseconds, "rounds": rounds}
    write(arguments, settings, {"images_per_second": images, "ratio": asdict(ratio), "outside_model": outside})


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--milliseconds", type=float, default=5.0, help="time of a model call")
    parser.add_argument("--batch", type=int, help="images a call; 16 on a CPU, 256 on a GPU")
    parser.add_argument("--steps", type=int, default=50, help="model calls a block")
    parser.add_argument("--blocks", type=int, default=32, help="blocks of a run")
    return parser


if __name__ == "__main__":
    main()
