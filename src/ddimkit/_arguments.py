"""The arguments of a run, checked before anything is drawn."""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ddimkit.step import Coefficients

LARGEST_START = 0.01
"""Where alpha_bar is larger, pure noise is no image that the model knows."""


def check_device(device: torch.device | str) -> torch.device:
    """The device, or a ValueError where this machine or this build of torch has none of its name."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here: give 'cpu' or another one ({reason})") from None
    return found


def module_of(model: object) -> nn.Module | None:
    """The module that a model is, or holds under the name ``module`` as wrappers in torch do; None for any other callable."""
    inner = model if isinstance(model, nn.Module) else getattr(model, "module", None)
    return inner if isinstance(inner, nn.Module) else None


def check_dtype(dtype: torch.dtype) -> None:
    """Raise a TypeError for a type that x cannot have."""
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype}")


def check_callers(model: object, generator: object, noise_fn: object, model_kwargs: object) -> None:
    """Raise for a model or source of noise of the wrong kind; warn of a model in train mode, three calls further up."""
    if not callable(model):
        raise TypeError(f"model must be callable as model(x, t), got {type(model).__name__}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}: an int goes to seed=")
    if noise_fn is not None and not callable(noise_fn):
        raise TypeError(f"noise_fn must be callable as noise_fn(draw, like), got {type(noise_fn).__name__}")
    if model_kwargs is not None and not isinstance(model_kwargs, Mapping):
        raise TypeError(f"model_kwargs must be a mapping of names to arguments, got {type(model_kwargs).__name__}")
    module = module_of(model)
    if module is not None and module.training:
        warnings.warn("the model is in train mode (dropout and batch statistics are active): call model.eval() first", stacklevel=4)


def check_shape(shape: Sequence[int] | None, x_T: Tensor | None, coefficients: Coefficients) -> tuple[int, ...]:
    """The shape of a run, which x_T may give."""
    if x_T is not None and (not isinstance(x_T, Tensor) or not x_T.is_floating_point()):
        raise TypeError(f"x_T must be a floating point tensor, got {x_T.dtype if isinstance(x_T, Tensor) else x_T!r}")
    if shape is None:
        if x_T is None:
            raise ValueError("give the shape of the batch, as in (16, 1, 28, 28), or x_T")
        shape = tuple(x_T.shape)
    _check_sizes(shape)
    if x_T is not None and tuple(shape) != tuple(x_T.shape):
        raise ValueError(f"shape {tuple(shape)} and x_T's shape {tuple(x_T.shape)} differ: give one of them")
    if coefficients.learned and len(shape) < 2:
        raise ValueError(f"variance='learned_range' needs channels, (B, C, ...), got shape {tuple(shape)}")
    return tuple(shape)


def _check_sizes(shape: object) -> None:
    if (
        isinstance(shape, str | Tensor)
        or not isinstance(shape, Sequence)
        or not all(isinstance(n, int) and not isinstance(n, bool) for n in shape)
    ):
        raise TypeError(f"shape must be a sequence of ints (B, ...), got {shape!r}")
    if not shape or min(shape) < 0:
        raise ValueError(f"shape must be (B, ...) of sizes at least 0, got {tuple(shape)}")


def check_history(coefficients: Coefficients, done: int, held: int, start_at: int) -> None:
    """Raise where a row still to be done reads more x0 predictions than there will be."""
    for k in range(done, len(coefficients.reach)):
        if coefficients.reach[k] > held + k - done:
            wanted = f"row {start_at + k} reads {coefficients.reach[k]} earlier x0 predictions"
            raise ValueError(f"{wanted}, but {held + k - done} come before it in a walk from row {start_at + done}")


def warn_of_signal(coefficients: Coefficients) -> None:
    """Warn, three calls further up, of pure noise where the model knows only images that still hold signal."""
    t = coefficients.plan.t[0]
    alpha_bar = float(coefficients.schedule.alpha_bars[t])
    if alpha_bar > LARGEST_START:
        warnings.warn(
            f"sampling starts from pure noise at t={t}, where the model was trained on images that still hold signal "
            f"(alpha_bar = {alpha_bar:.4g}): start higher, as spacing='trailing' does, or give x_T",
            stacklevel=4,
        )
