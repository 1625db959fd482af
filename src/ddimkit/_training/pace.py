"""How fast a run is: images a second, and what share of the device's own matrix-multiplication rate that is."""

import statistics
import time
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.benchmark import timer
from torch.utils.flop_counter import FlopCounterMode

from ddimkit._training.trainer import Task, Trainer

__all__ = ["Pace", "matrix_rate", "training_flops"]

_SIZES = {"cuda": (8192, 20)}
_ELSEWHERE = (512, 1)
_ROUNDS = 5


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of large square matrix multiplications, the median of five rounds after one to warm up.

    A GPU multiplies 8192 × 8192 twenty times a round, which takes long enough for its clock to settle; a CPU 512 × 512 once.
    """
    size, times = _SIZES.get(device.type, _ELSEWHERE)
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator, device=device).to(dtype) for _ in range(2))
    seconds = list[float]()
    for _ in range(1 + _ROUNDS):
        began = timer()  # waits for the device
        for _ in range(times):
            torch.mm(a, b)
        seconds.append(timer() - began)
    return 2.0 * size**3 * times / statistics.median(seconds[1:])


def training_flops(task: Task[nn.Module], *inputs: torch.Size | tuple[int, ...]) -> int:
    """Operations of one forward and backward of a task's network on one batch, counted without computing anything.

    Args:
        task: whose network.
        inputs: the shapes of what the network takes; one of a single dimension stands for timesteps.
    """
    with torch.device("meta"):
        network = task.network()
        given = [torch.zeros(shape, dtype=torch.int64 if len(shape) == 1 else torch.float32) for shape in inputs]
    with FlopCounterMode(display=False) as counter:
        network(*given).square().mean().backward()
    return int(counter.get_total_flops())


@dataclass
class Pace:
    """A clock for a run; its figures begin with the second report, so that compilation is not in them.

    Args:
        trainer: the run.
        flops: operations an image and step.
        rate: the device's own, :func:`matrix_rate`.
    """

    trainer: Trainer[nn.Module]
    flops: float
    rate: float
    images: list[float] = field(default_factory=list[float])
    _last: tuple[int, float] | None = None

    @classmethod
    def of(cls, trainer: Trainer[nn.Module], *inputs: tuple[int, ...]) -> "Pace":
        """Of a trainer whose network takes one image as inputs of these shapes; measures the device."""
        dtype = torch.bfloat16 if trainer.fast else torch.float32
        return cls(trainer, training_flops(trainer.task, *inputs), matrix_rate(trainer.device, dtype))

    def report(self) -> dict[str, float]:
        """Images a second since the last report, and their share of the device's rate; empty at the first."""
        step, now = self.trainer.step, time.perf_counter()
        before, self._last = self._last, (step, now)
        if before is None or step == before[0]:
            return {}
        self.images.append(self.trainer.task.recipe.batch_size * (step - before[0]) / (now - before[1]))
        return self._figures(self.images[-1])

    def summary(self) -> dict[str, float]:
        """The same over the whole run: the median of the reports; empty where there was no second one."""
        return self._figures(statistics.median(self.images)) if self.images else {}

    def _figures(self, images: float) -> dict[str, float]:
        return {
            "images_per_second": images,
            "matrix_tflops": self.rate / 1e12,
            "share_of_matrix_rate": images * self.flops / self.rate,
        }
