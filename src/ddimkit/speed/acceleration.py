"""One call that makes a model's forward pass fast on its device, and says what it chose.

What it chooses: the memory layout of convolutions (channels last), the precision (autocast), and ``torch.compile``. Layout and
compilation change results by rounding. Half precision keeps 8 or 11 bits; what that does to whole images is measured by
``benchmarks/precision.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ddimkit._arguments import check_device
from ddimkit._compilers import COMPILER, has_compiler

__all__ = ["Accelerated", "Choices", "Precision", "accelerate"]

Precision = Literal["float32", "bfloat16", "float16"]
"""What a forward pass computes in; half precision by autocast, which leaves what needs it in float32."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Choices:
    """What :func:`accelerate` chose.

    Attributes:
        device: where the model is.
        precision: what its forward pass computes in.
        channels_last: whether its convolutions' weights are laid out so.
        compile: whether it is compiled, when first called with a shape.
        reasons: why, a sentence a choice.
    """

    device: torch.device
    precision: Precision
    channels_last: bool
    compile: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """The choices and their reasons, a line each."""
        layout, how = "channels last" if self.channels_last else "layout as it was", "compiled" if self.compile else "not compiled"
        return "\n".join((f"{self.device}, {self.precision}, {layout}, {how}", *(f"- {reason}" for reason in self.reasons)))


class Accelerated:
    r"""A model made fast by :func:`accelerate`: ``model(x, t)`` as before, the output in x's dtype.

    Attributes:
        module: the model itself, whose weights these are.
        choices: what was chosen, and why.
    """

    def __init__(self, module: nn.Module, choices: Choices) -> None:
        self.module, self.choices = module, choices
        self._call: Callable[..., Tensor] = torch.compile(module) if choices.compile else module

    def __call__(self, x: Tensor, t: Tensor, **model_kwargs: Any) -> Tensor:
        r"""X (B, \*), t int64 (B,), and whatever else the model takes."""
        precision = self.choices.precision
        with torch.autocast(x.device.type, _DTYPES[precision], enabled=precision != "float32"):
            return self._call(x, t, **model_kwargs).to(x.dtype)

    def __repr__(self) -> str:
        """The model's class, and what was chosen."""
        return f"{type(self.module).__name__} accelerated: {self.choices}"


def accelerate(
    model: nn.Module,
    *,
    device: torch.device | str | None = None,
    precision: Precision | None = None,
    channels_last: bool | None = None,
    compile: bool | None = None,  # noqa: A002  # torch's own word
) -> Accelerated:
    """A model that runs as fast as its device lets it; every choice can be made for it.

    The model is moved to the device and layout in place, as ``model.to`` does. Its mode is left alone.

    Args:
        model: ``model(x, t)``, a module.
        device: where; default: where the model is.
        precision: default: bfloat16 on a CUDA device that computes in it, float32 elsewhere.
        channels_last: default: whether it has two-dimensional convolutions.
        compile: default: whether there is a compiler for the device. Compiling takes a minute, once for every shape or two.

    Returns:
        a callable like the model, with ``choices``; ``print(fast)`` says what they are.

    Raises:
        TypeError: the model is no ``torch.nn.Module``.
        ValueError: an unknown precision, a device that is not here, or ``compile=True`` where there is no compiler.

    >>> from ddimkit import accelerate, load_pretrained
    >>> print(accelerate(load_pretrained("mnist").model, compile=False).choices)
    cpu, float32, channels last, not compiled
    - float32, since half precision is no sure gain on cpu
    - channels last, since the model has two-dimensional convolutions
    - not compiled, as asked for
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    first = next(model.parameters(), torch.empty(0))
    where = first.device if device is None else check_device(device)
    chosen_precision, why_precision = _precision(precision, where)
    layout, why_layout = _layout(channels_last, model)
    compiled, why_compiled = _compile(compile, where)
    if device is not None:
        model.to(where)
    if layout:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Accelerated(model, Choices(where, chosen_precision, layout, compiled, (why_precision, why_layout, why_compiled)))


def _precision(asked: Precision | None, device: torch.device) -> tuple[Precision, str]:
    if asked is not None:
        if asked not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {asked!r}")
        return asked, f"{asked}, as asked for"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return "bfloat16", "bfloat16, which this GPU multiplies several times faster than float32"
    return "float32", f"float32, since half precision is no sure gain on {device.type}"


def _layout(asked: bool | None, model: nn.Module) -> tuple[bool, str]:
    if asked is not None:
        return asked, f"{'channels last' if asked else 'layout as it was'}, as asked for"
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return True, "channels last, since the model has two-dimensional convolutions"
    return False, "layout as it was, since the model has no two-dimensional convolutions"


def _compile(asked: bool | None, device: torch.device) -> tuple[bool, str]:
    tool, there = COMPILER.get(device.type, "a compiler"), has_compiler(device)
    if asked is None:
        return there, f"compiled, since there is {tool}" if there else f"not compiled, since there is not {tool} for {device.type}"
    if asked and not there:
        raise ValueError(f"compile=True needs {tool}, which is not here: install it, or leave compile out")
    return asked, f"{'compiled' if asked else 'not compiled'}, as asked for"
