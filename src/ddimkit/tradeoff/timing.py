"""Seconds, bytes and the machine they were measured on."""

import os
import platform
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ddimkit._version import __version__
from ddimkit.loop import Model
from ddimkit.models.bundle import ModelBundle
from ddimkit.sampling import PlanSampler

__all__ = ["TimedRun", "describe_machine", "first_rows", "measure_overhead", "measure_peak_memory", "time_run", "versions"]

_TENTHS = 10


def timer() -> float:
    """``torch.utils.benchmark``'s clock, which waits for the device; imported late, since that package takes long to import."""
    from torch.utils import benchmark

    return benchmark.timer()


@dataclass
class _Clock:
    """A model that notes the time at the start of every tenth of its calls, by a clock that waits for the device."""

    model: Model
    calls: int
    marks: list[float] = field(default_factory=list[float])
    seen: int = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self.seen * _TENTHS >= len(self.marks) * self.calls:
            self.marks.append(timer())
        self.seen += 1
        return self.model(x, t)


@dataclass(frozen=True)
class TimedRun:
    """One timed run: its seconds, what the whole would take at the pace of each tenth, and what it drew."""

    seconds: float
    tenths: tuple[float, ...]
    samples: Tensor


def time_run(sampler: PlanSampler, bundle: ModelBundle, seeds: tuple[int, ...], device: torch.device) -> TimedRun:
    """Time one whole ``sample`` of one image a seed, by ``torch.utils.benchmark``'s synchronised clock.

    ``Timer`` itself would run the whole three times for one measurement; here the caller repeats and warms up.
    """
    clock = _Clock(bundle.model, sampler.nfe)
    began = timer()
    samples = sampler.sample(clock, (len(seeds), *bundle.sample_shape), seed=seeds, device=device)
    ended = timer()
    pace = np.diff([*clock.marks, ended]) * len(clock.marks)
    return TimedRun(ended - began, tuple(float(v) for v in pace), samples.float().cpu())


def first_rows(sampler: PlanSampler, count: int) -> PlanSampler:
    """A sampler that walks only the first rows of another's plan."""
    return PlanSampler.from_plan(sampler.schedule, sampler.plan()[:count], prediction=sampler.prediction, clip=sampler.clip)


def measure_overhead(
    sampler: PlanSampler, bundle: ModelBundle, seeds: tuple[int, ...], device: torch.device, repeats: int = 3
) -> float:
    """Seconds of the same run with a model that returns a constant tensor: the median of some runs."""
    shape = (len(seeds), *bundle.sample_shape)
    channels = 2 * shape[1] if sampler.coefficients.learned else shape[1]
    constant = torch.zeros((shape[0], channels, *shape[2:]), device=device)
    seconds: list[float] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        del x, t
        return constant

    for _ in range(repeats):
        began = timer()
        sampler.sample(model, shape, seed=seeds, device=device)
        seconds.append(timer() - began)
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
