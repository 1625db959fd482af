"""What one run costs beside the model's own time, and the machine it was measured on."""

import os
import platform
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ddimkit._version import __version__
from ddimkit.models.bundle import ModelBundle
from ddimkit.sampling import PlanSampler

__all__ = ["Clock", "Costs", "describe_machine", "first_rows", "measure_overhead", "measure_peak_memory", "timer", "versions"]

Clock = Callable[[], float]
"""Gives the time in seconds, from any origin, once all work given to the device is done."""

# Runs of more calls are averages in themselves.
_REPEATED_UP_TO = 100


@dataclass(frozen=True)
class Costs:
    """What one run of a sampler costs beside the model's own time.

    Attributes:
        overhead_seconds: one run with a model that returns a constant tensor.
        peak_memory_bytes: most bytes that three steps held beyond what was there before; None where not measurable.
        peak_memory_note: how that was measured, or why it was not.
    """

    overhead_seconds: float
    peak_memory_bytes: int | None
    peak_memory_note: str


def timer() -> float:
    """``torch.utils.benchmark``'s clock, which waits for the device; imported late, since that package takes long to import."""
    from torch.utils import benchmark

    return benchmark.timer()


def first_rows(sampler: PlanSampler, count: int) -> PlanSampler:
    """A sampler that walks only the first rows of another's plan."""
    return PlanSampler.from_plan(sampler.schedule, sampler.plan()[:count], prediction=sampler.prediction, clip=sampler.clip)


def measure_overhead(
    sampler: PlanSampler, bundle: ModelBundle, seeds: tuple[int, ...], device: torch.device, clock: Clock = timer
) -> float:
    """Seconds of one run with a model that returns a constant tensor: the median of three runs, of long runs one."""
    shape = (len(seeds), *bundle.sample_shape)
    channels = 2 * shape[1] if sampler.coefficients.learned else shape[1]
    constant = torch.zeros((shape[0], channels, *shape[2:]), device=device)
    seconds: list[float] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        del x, t
        return constant

    for _ in range(3 if sampler.nfe <= _REPEATED_UP_TO else 1):
        began = clock()
        sampler.sample(model, shape, seed=seeds, device=device)
        seconds.append(clock() - began)
    return median(seconds)


def measure_peak_memory(
    sampler: PlanSampler, bundle: ModelBundle, seeds: tuple[int, ...], device: torch.device
) -> tuple[int | None, str]:
    """Most bytes that three steps held beyond what was there before, and how that was measured (or why it was not)."""
    short, shape = first_rows(sampler, 3), (len(seeds), *bundle.sample_shape)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        short.sample(bundle.model, shape, seed=seeds, device=device)
        return torch.cuda.max_memory_allocated(device) - before, "CUDA allocator, three steps, weights not counted"
    if device.type != "cpu":
        return None, f"not measurable on a device of type {device.type}"
    with _native_stderr_off(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        short.sample(bundle.model, shape, seed=seeds, device=device)
    changes = sorted((e.time_range.end, e.self_cpu_memory_usage) for e in trace.events() or ())
    if not any(change for _, change in changes):
        return None, "this build of torch reports no memory events to its profiler"
    held = np.cumsum([change for _, change in changes])
    return int(held.max()), "torch profiler, three steps, weights not counted"


@contextmanager
def _native_stderr_off() -> Generator[None]:
    """Hide what native code writes to standard error: the profiler announces its start and stop there, whatever it is told."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads, memory and GPU, as far as they can be told."""
    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine |= {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return machine


def versions() -> dict[str, str]:
    """Of Python, torch, numpy and ddimkit."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__, "ddimkit": __version__}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
