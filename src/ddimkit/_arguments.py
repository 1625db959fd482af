"""The arguments of a run, checked before anything is drawn."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddimkit._modes import in_train_mode, module_of, modules_of
from ddimkit._numbers import integer, sizes
from ddimkit.noise import SeedLike, fresh_seed, sample_seeds
from ddimkit.step import Coefficients

_PACKAGE = str(Path(__file__).parent)

LARGEST_START = 0.01
"""Where alpha_bar is larger, pure noise is no image that the model knows."""


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of a run as the caller gave them; :meth:`PlanSampler.sample` documents each."""

    shape: Sequence[int] | None = None
    seed: SeedLike | None = None
    x_T: Tensor | None = None
    start_at: int = 0
    generator: torch.Generator | None = None
    noise_fn: Callable[[int, Tensor], Tensor] | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    model_kwargs: Mapping[str, Any] | None = None
    first_row: int = 0
    """The number of the row at which a walk from ``start_at`` begins."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "start_at", integer(self.start_at, "start_at"))


@dataclass(frozen=True, eq=False)
class Batch:
    """The samples of a run: its arguments checked and completed, nothing drawn yet.

    Attributes:
        arguments: the arguments; shape, device, dtype and seeds hold here.
        shape: (B, *) of x.
        device: of x.
        dtype: of x.
        seeds: one seed a sample, None where the noise is not keyed.
    """

    arguments: Arguments
    shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    seeds: tuple[int, ...] | None

    def parts(self, size: int | None) -> "list[Batch]":
        """The batch in parts of ``size`` samples, the last one smaller where B is no multiple; itself where ``size`` is None.

        Raises:
            TypeError, ValueError: a size that is no int of at least 1; noise that is not keyed.
        """
        if size is None:
            return [self]
        size = _check_batch_size(size)
        if self.seeds is None:
            raise ValueError(
                "batch_size needs noise keyed by seeds: generator and noise_fn make the noise of a whole batch; give seed= instead"
            )
        return [self._part(slice(first, first + size)) for first in range(0, max(self.shape[0], 1), size)]

    def _part(self, samples: slice) -> "Batch":
        """Some of the samples, with their seeds, their x_T and their entries of the model's arguments."""
        assert self.seeds is not None
        x_T, keywords = self.arguments.x_T, self.arguments.model_kwargs or {}
        each = {name: value[samples] if self._is_per_sample(value) else value for name, value in keywords.items()}
        arguments = replace(self.arguments, x_T=None if x_T is None else x_T[samples], model_kwargs=each)
        seeds = self.seeds[samples]
        return replace(self, arguments=arguments, shape=(len(seeds), *self.shape[1:]), seeds=seeds)

    def _is_per_sample(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.shape[0]


def check_arguments(coefficients: Coefficients, model: object, arguments: Arguments) -> Batch:
    """The batch that the arguments of a new run describe, or an error before anything is drawn."""
    check_callers(model, arguments)
    check_rows(model, coefficients)
    if sum(v is not None for v in (arguments.seed, arguments.generator, arguments.noise_fn)) > 1:
        raise ValueError("seed, generator and noise_fn exclude one another: give at most one")
    x_T, start_at = arguments.x_T, arguments.start_at
    if start_at and x_T is None:
        raise ValueError(f"start_at={start_at} needs x_T, the image at that timestep")
    shape = _check_shape(arguments.shape, x_T, coefficients)
    device = _device(arguments, model)
    dtype = arguments.dtype or (x_T.dtype if x_T is not None else torch.float32)
    _check_dtype(dtype)
    seeds = _seeds(arguments, shape[0])
    if x_T is None:
        _warn_of_signal(coefficients)
    elif device.type == "cpu" and not bool(torch.isfinite(x_T.detach().to(dtype)).all()):
        raise ValueError("x_T holds NaN or infinity")
    check_history(coefficients, 0, 0, arguments.first_row)
    return Batch(arguments, shape, device, dtype, seeds)


def _device(arguments: Arguments, model: object) -> torch.device:
    """Where x is: the device given, else x_T's, else that of the model's first parameter, else the CPU."""
    if arguments.device is not None:
        return check_device(arguments.device)
    if arguments.x_T is not None:
        return arguments.x_T.device
    return model_device(model)


def model_device(model: object) -> torch.device:
    """The device of a model's first parameter, else the CPU."""
    module = module_of(model)
    parameter = next(module.parameters(), None) if module is not None else None
    return torch.device("cpu") if parameter is None else parameter.device


def _seeds(arguments: Arguments, batch: int) -> tuple[int, ...] | None:
    if arguments.generator is not None or arguments.noise_fn is not None:
        return None
    return sample_seeds(fresh_seed() if arguments.seed is None else arguments.seed, batch)


def _check_batch_size(value: object) -> int:
    size = integer(value, "batch_size")
    if size < 1:
        raise ValueError(f"batch_size must be an int of at least 1, got {size}")
    return size


def check_device(device: torch.device | str) -> torch.device:
    """The device, or a ValueError where this machine or this build of torch has none of its name."""
    try:
        found = torch.device(device)
        torch.empty(0, dtype=torch.float32, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here: give 'cpu' or another one ({reason})") from None
    return found


def _check_dtype(dtype: torch.dtype) -> None:
    """Raise a TypeError for a type that x cannot have."""
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        hint = f": give torch.{dtype}" if isinstance(dtype, str) else ""
        raise TypeError(f"dtype must be torch.float16, bfloat16, float32 or float64, got {dtype!r}{hint}")


def check_callers(model: object, arguments: Arguments) -> None:
    """Raise for a model, source of noise or arguments of the model of the wrong kind; warn of a model in train mode."""
    generator, noise_fn, model_kwargs = arguments.generator, arguments.noise_fn, arguments.model_kwargs
    if not callable(model):
        raise TypeError(f"model must be callable as model(x, t), got {type(model).__name__}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}: an int goes to seed=")
    if noise_fn is not None and not callable(noise_fn):
        raise TypeError(f"noise_fn must be callable as noise_fn(draw, like), got {type(noise_fn).__name__}")
    if model_kwargs is not None and not isinstance(model_kwargs, Mapping):
        raise TypeError(f"model_kwargs must be a mapping of names to arguments, got {type(model_kwargs).__name__}")
    if in_train_mode(model):
        _warn("the model is in train mode (dropout and batch statistics are active): call model.eval() first")


def check_rows(model: object, coefficients: Coefficients) -> None:
    """Raise for a model that holds for some rows only, and not for these."""
    for module in (part for whole in modules_of(model) for part in whole.modules()):
        check: Callable[[Coefficients], None] | None = getattr(module, "check_rows_of_run", None)
        if check is not None:
            check(coefficients)


def _warn(message: str) -> None:
    """Warn at the line outside this package from which the call came."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _check_shape(shape: Sequence[int] | None, x_T: Tensor | None, coefficients: Coefficients) -> tuple[int, ...]:
    """The shape of a run, which x_T may give."""
    if x_T is not None and (not isinstance(x_T, Tensor) or not x_T.is_floating_point()):
        raise TypeError(f"x_T must be a floating point tensor, got {x_T.dtype if isinstance(x_T, Tensor) else x_T!r}")
    if shape is None:
        if x_T is None:
            raise ValueError("give the shape of the batch, as in (16, 1, 28, 28), or x_T")
        shape = tuple(x_T.shape)
    asked = _check_sizes(shape)
    if x_T is not None and asked != tuple(x_T.shape):
        raise ValueError(f"shape {asked} and x_T's shape {tuple(x_T.shape)} differ: give one of them")
    if coefficients.learned and len(asked) < 2:
        raise ValueError(f"variance='learned_range' needs channels, (B, C, ...), got shape {asked}")
    return asked


def _check_sizes(shape: object) -> tuple[int, ...]:
    found = sizes(shape, "shape", "(B, ...)")
    if not found or min(found) < 0:
        raise ValueError(f"shape must be (B, ...) of sizes at least 0, got {found}")
    return found


def check_history(coefficients: Coefficients, done: int, held: int, start_at: int) -> None:
    """Raise where a row still to be done reads more x0 predictions than there will be."""
    for k in range(done, len(coefficients.reach)):
        if coefficients.reach[k] > held + k - done:
            wanted = f"row {start_at + k} reads {coefficients.reach[k]} earlier x0 predictions"
            raise ValueError(f"{wanted}, but {held + k - done} come before it in a walk from row {start_at + done}")


def _warn_of_signal(coefficients: Coefficients) -> None:
    """Warn of pure noise where the model knows only images that still hold signal."""
    t = coefficients.plan.t[0]
    alpha_bar = float(coefficients.schedule.alpha_bars[t])
    if alpha_bar > LARGEST_START:
        higher = "start higher, as spacing='trailing' does"
        if t == coefficients.schedule.num_timesteps - 1:
            higher = "the schedule goes no higher, so check it (were alphas given for alpha_bars, their cumulative products?)"
        _warn(
            f"sampling starts from pure noise at t={t}, where the model was trained on images that still hold signal "
            f"(alpha_bar = {alpha_bar:.4g}): {higher}, or give x_T"
        )
