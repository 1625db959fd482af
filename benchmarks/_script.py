"""What the scripts share: their options, and results as dated JSON with the machine's name."""

import argparse
import json
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from ddimkit._machine import describe_machine, versions

T = TypeVar("T")
Precision = Literal["float32", "autocast", "bfloat16"]
"""float32; bfloat16 autocast around float32 weights; weights and images in bfloat16."""


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of torch on the CPU; torch's own default if left out")
    parser.add_argument("--rounds", type=int, help="turns of every contender; an interval needs six")
    parser.add_argument("--quick", action="store_true", help="a tiny network and two rounds: a rehearsal, no measurement")
    parser.add_argument("--out", type=Path, help="also write the result there, as JSON")
    return parser


def start(arguments: argparse.Namespace) -> torch.device:
    """Set the threads, and quiet what diffusers warns of; the device to run on."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="(?s).*Dynamo detected a call to a `functools.lru_cache`")
    return torch.device(arguments.device)


def chosen(given: T | None, arguments: argparse.Namespace, *, quick: T, cpu: T, cuda: T) -> T:
    """An option's value, or its default for a rehearsal, a CPU or a GPU."""
    if given is not None:
        return given
    if arguments.quick:
        return quick
    return cuda if torch.device(arguments.device).type == "cuda" else cpu


def integers(text: str) -> tuple[int, ...]:
    """``"1,16"`` as (1, 16)."""
    return tuple(int(part) for part in text.split(","))


def words(text: str) -> tuple[str, ...]:
    """``"default,max-autotune"`` as a tuple."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def dtype_of(precision: Precision) -> torch.dtype:
    """What weights and images are kept in."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def casting(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context to run in."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "autocast" else nullcontext()


def parameters(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def write(
    arguments: argparse.Namespace, settings: Mapping[str, Any], results: Mapping[str, Any], *, peers: tuple[str, ...] = ()
) -> None:
    """Write results with date, machine, versions and settings where the options say, if they do.

    Args:
        arguments: the parsed options.
        settings: what reproduces the run, as JSON values.
        results: what was found, as JSON values.
        peers: packages that were measured too, whose versions belong to the result.
    """
    if arguments.out is None:
        return
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(torch.device(arguments.device)),
        "versions": versions() | {name: version(name) for name in peers},
        "settings": {**settings, "threads": torch.get_num_threads(), "quick": arguments.quick},
    }
    arguments.out.write_text(json.dumps({**head, **results}, indent=1) + "\n")
