"""The machine and the versions that something was measured with, for results that say so."""

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddimkit._version import __version__

__all__ = ["describe_machine", "versions"]


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
