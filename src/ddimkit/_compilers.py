"""Whether torch.compile finds the compiler that it needs for a device."""

import os
import shutil
import sys
from importlib.util import find_spec

import torch

__all__ = ["COMPILER", "has_compiler"]

COMPILER = {"cpu": "a C++ compiler", "cuda": "Triton and a C compiler"}
"""What is needed on a kind of device."""

_CXX = {"darwin": "clang++", "win32": "cl"}
_TRITON_LEAST = (7, 0)


def has_compiler(device: torch.device) -> bool:
    """Whether ``torch.compile`` can make code for a device here: by what its default backend calls."""
    if device.type == "cpu":
        return shutil.which(os.environ.get("CXX") or _CXX.get(sys.platform, "g++")) is not None
    if device.type == "cuda":
        compilers = (os.environ.get("CC"), "gcc", "clang", "cl")
        able = torch.cuda.get_device_capability(device) >= _TRITON_LEAST and find_spec("triton") is not None
        return able and any(shutil.which(name) for name in compilers if name)
    return False
