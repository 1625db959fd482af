"""The one loop that runs every sampler: ask the model, apply a row, hand out the state.

It knows plans and tensors and no sampler. Its random numbers come from a source of noise, which it asks only where a row's
noise coefficient is not zero. Nothing is read back from the device until the last step is done.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddimkit._arguments import Arguments, Batch, check_arguments, check_callers, check_device, check_history, check_rows
from ddimkit._state import SamplerState, check_origin, levels_at
from ddimkit.errors import NonFiniteError
from ddimkit.noise import STREAM_SAMPLER, STREAM_X_T, keyed_normal
from ddimkit.step import Coefficients, advance, check_output, device_row, work_dtype

__all__ = [
    "Model",
    "NoiseFn",
    "Run",
    "SamplerState",
    "ask",
    "begin",
    "check_device",
    "draw",
    "finish",
    "prepare",
    "resume",
    "states",
    "step_bar",
    "walk",
]

Model = Callable[[Tensor, Tensor], Tensor] | Callable[..., Tensor]
r"""``model(x, t, **model_kwargs)``: x (B, \*), t int64 (B,); the output has x's shape (learned range: twice the channels).

The model must not write to x."""

NoiseFn = Callable[[int, Tensor], Tensor]
"""``noise_fn(draw, like)``: standard normal noise of ``like``'s shape; draw −1 for x_T, then the row's number."""

# Numbers a block of noise holds: what the CPU's caches like; elsewhere 2 MiB, and some 20 MiB while it is made.
_BLOCK_ELEMENTS_CPU = 100_000
_BLOCK_ELEMENTS_DEVICE = 2**19
_TIMES_BLOCK = 64


@dataclass(frozen=True, eq=False)
class Run:
    """A run about to begin: everything the loop reads.

    Attributes:
        coefficients: the rows from ``start_at`` on.
        model: the caller's model, its extra arguments bound.
        x: (B, *) where it begins; never written to.
        source: the noise of a row.
        seeds: one seed a sample, None where the noise is not keyed.
        start_at: number of the plan's first row in the sampler's full list.
        done: rows of the plan already done.
        history: x0 predictions of the rows already done, newest first.
    """

    coefficients: Coefficients
    model: Model
    x: Tensor
    source: NoiseFn
    seeds: tuple[int, ...] | None
    start_at: int = 0
    done: int = 0
    history: tuple[Tensor, ...] = ()


class KeyedNoise:
    """Noise of the rows ``draws``, made in blocks of rows from the samples' seeds; equal in whatever order it is asked for."""

    def __init__(self, seeds: Sequence[int], draws: Sequence[int], device: torch.device) -> None:
        # Uploaded here, once: an upload between steps would make the host wait for the device.
        self._seeds, self._draws = (torch.tensor(list(v), dtype=torch.int64, device=device) for v in (seeds, draws))
        self._positions = {draw: i for i, draw in enumerate(draws)}
        self._block: dict[int, Tensor] = {}

    def __call__(self, draw: int, like: Tensor) -> Tensor:
        if draw not in self._block:
            limit = _BLOCK_ELEMENTS_CPU if like.device.type == "cpu" else _BLOCK_ELEMENTS_DEVICE
            first = self._positions[draw]
            last = first + max(1, limit // max(like.numel(), 1))
            rows = keyed_normal(self._seeds, self._draws[first:last], like.shape[1:], stream=STREAM_SAMPLER)
            self._block = dict(zip(list(self._positions)[first:last], rows.to(work_dtype(like)).unbind(), strict=True))
        return self._block[draw]


def prepare(coefficients: Coefficients, model: Model, arguments: Arguments) -> Run:
    """Check the arguments of a run and make its first x."""
    return begin(coefficients, model, check_arguments(coefficients, model, arguments))


def begin(coefficients: Coefficients, model: Model, batch: Batch) -> Run:
    """The run that draws a batch, with its first x made."""
    arguments, seeds, device, dtype = batch.arguments, batch.seeds, batch.device, batch.dtype
    source = _source(coefficients, seeds, arguments, arguments.first_row, device)
    if arguments.x_T is not None:
        x = arguments.x_T.detach().to(device=device, dtype=dtype, copy=True)
    else:
        like = torch.empty(batch.shape, device=device, dtype=dtype)
        first = _keyed_start(seeds, batch.shape, device) if seeds is not None else source(-1, like)
        # Copied: a noise_fn may hand out one buffer again and again.
        x = first.detach().to(dtype, copy=True)
    return Run(coefficients, _bind(model, arguments.model_kwargs), x, source, seeds, arguments.first_row)


def resume(coefficients: Coefficients, model: Model, state: SamplerState, arguments: Arguments) -> Run:
    """The run that goes on after ``state``; ``coefficients`` are those of the rows from ``state.start_at`` on."""
    check_callers(model, arguments)
    check_rows(model, coefficients)
    check_origin(state, coefficients.plan)
    plan, done = coefficients.plan, state.index - state.start_at + 1
    keyed = arguments.generator is None and arguments.noise_fn is None
    seeds = state.seeds if keyed else None
    if seeds is None and keyed and bool((plan.c[done:] > 0).any()):
        raise ValueError("the state's noise was not keyed by seeds: give the generator or noise_fn again")
    check_history(coefficients, done, len(state.history), state.start_at)
    source = _source(coefficients, seeds, arguments, state.start_at, state.x.device)
    bound = _bind(model, arguments.model_kwargs)
    return Run(coefficients, bound, state.x.detach(), source, seeds, state.start_at, done, state.history)


def walk(run: Run, *, observe: bool) -> Iterator[tuple[int, Tensor, Tensor | None, tuple[Tensor, ...]]]:
    """Do the rows, yielding (row of the plan, x, x0_hat, history) after each; the caller turns autograd off.

    With ``observe`` every x is a fresh tensor and x0_hat is computed; without, x alternates between two buffers.
    """
    coefficients, x, history, source, model = run.coefficients, run.x, run.history, run.source, run.model
    rows, depth, learned = coefficients.rows, coefficients.depth, coefficients.learned
    # On CUDA the numbers are read where a graph reads them, so that both round alike.
    table = coefficients.table_on(x) if x.is_cuda else None
    keep_x0 = observe or depth > 0
    buffers = [None, None] if observe else [torch.empty_like(x, dtype=work_dtype(x)) for _ in range(2)]
    times = _times(coefficients.plan.t[run.done :], len(x), x.device)
    for k, t in enumerate(times, start=run.done):
        row = rows[k] if table is None else device_row(table[k])
        output = check_output(ask(model, x, t), x, learned)
        noise = source(run.start_at + k, x) if rows[k].c else None
        out = buffers[k % 2]
        if out is not None and output.data_ptr() == out.data_ptr():
            out = None  # the model gave back the x of its last call, which is this buffer
        x, x0 = advance(row, x, output, noise, history, coefficients, keep_x0, out)
        if depth and x0 is not None:
            history = (x0, *history[: depth - 1])
        yield k, x, x0, history


def ask(model: Model, x: Tensor, t: Tensor, **model_kwargs: Any) -> object:
    r"""What the model says of x (B, \*), which it must not write to.

    A write changes x's version counter, which costs nothing to read. There is no counter in inference mode, and neither ``x.data``
    nor a kernel outside torch changes it: then a write goes unseen.

    Raises:
        ValueError: the model wrote into x.
    """
    before = None if x.is_inference() else x._version
    output: object = model(x, t, **model_kwargs)
    if before is not None and x._version != before:
        raise ValueError(
            f"the model {_name(model)} wrote into its input x, which the sampler still reads, as with inplace=True: "
            "change that, or give it a copy, as in lambda x, t: model(x.clone(), t)"
        )
    return output


def _name(model: object) -> str:
    while isinstance(model, partial):
        model = model.func
    return str(getattr(model, "__qualname__", type(model).__name__))


def _times(times: Sequence[int], batch: int, device: torch.device) -> Iterator[Tensor]:
    """(B,) int64 tensors of each timestep, uploaded once and spread over the batch a block of rows at a time."""
    column = torch.tensor(list(times), dtype=torch.int64, device=device)[:, None]
    for first in range(0, len(column), _TIMES_BLOCK):
        yield from column[first : first + _TIMES_BLOCK].expand(-1, batch).contiguous().unbind()


def states(run: Run) -> Iterator[SamplerState]:
    """The states of a run; the last one is checked for NaN."""
    plan = run.coefficients.plan
    steps = walk(run, observe=True)
    for _ in range(run.done, len(plan)):
        with torch.no_grad():
            k, x, x0, history = next(steps)
        assert x0 is not None
        if k == len(plan) - 1:
            check_finite(run, x)
        nfe, index = k + 1, run.start_at + k
        # Copied where later rows read it: whoever looks may also write.
        x0 = x0.to(x.dtype, copy=bool(history))
        levels = levels_at(plan, k)
        yield SamplerState(index, plan.t[k], plan.t_next[k], x, x0, nfe, history, run.seeds, run.start_at, levels)


def finish(run: Run, callback: Callable[[SamplerState], None] | None, tick: Callable[[], object]) -> Tensor:
    """The last x of a run; ``tick`` is called after each row, and so is a callback, with the state and thus x0_hat."""
    x = run.x
    if callback is not None:
        if not callable(callback):
            raise TypeError(f"callback must be callable as callback(state), got {type(callback).__name__}")
        for state in states(run):
            callback(state)
            tick()
            x = state.x
        return x
    with torch.no_grad():
        for _, y, _, _ in walk(run, observe=False):
            x = y
            tick()
    check_finite(run, x)
    return x


def draw(
    batch: Batch, batch_size: int | None, rows: int, progress: bool, draw_part: Callable[[Batch, Callable[[], object]], Tensor]
) -> Tensor:
    """A batch drawn part by part under one bar; ``draw_part(part, tick)`` draws a part and ticks after each of its rows."""
    parts = batch.parts(batch_size)
    with step_bar(rows * len(parts), progress) as tick:
        if len(parts) == 1:
            return draw_part(parts[0], tick)
        result = torch.empty(batch.shape, dtype=batch.dtype, device=batch.device)
        for part, place in zip(parts, torch.split(result, parts[0].shape[0]), strict=True):
            place.copy_(draw_part(part, tick))
    return result


@contextmanager
def step_bar(total: int, progress: bool) -> Generator[Callable[[], object]]:
    """What advances a bar by one step; it does nothing where no bar is asked for."""
    if not progress:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="step") as bar:
        yield bar.update


def check_finite(run: Run, x: Tensor) -> None:
    """Raise a :class:`NonFiniteError` if x is not finite; where the noise can be made again, after finding the step it began at."""
    if bool(torch.isfinite(x).all()):
        return
    if run.seeds is None:
        raise NonFiniteError("the result holds NaN or infinity; sample with seed= to learn at which step it began")
    plan, began = run.coefficients.plan, ""
    with torch.no_grad():
        for k, y, x0, _ in walk(run, observe=True):
            if not bool(torch.isfinite(y).all()) or (x0 is not None and not bool(torch.isfinite(x0).all())):
                began = f"it began at step {run.start_at + k} (t={plan.t[k]})"
                break
    unknown = "the same walk again stays finite: the caller or a callback changed a state, or the model is not deterministic"
    raise NonFiniteError(f"the result holds NaN or infinity; {began or unknown}")


def _source(
    coefficients: Coefficients, seeds: tuple[int, ...] | None, arguments: Arguments, start_at: int, device: torch.device
) -> NoiseFn:
    generator, noise_fn = arguments.generator, arguments.noise_fn
    if seeds is not None:
        return KeyedNoise(seeds, [start_at + k for k, row in enumerate(coefficients.rows) if row.c], device)
    if noise_fn is not None:
        return lambda draw, like: _checked_noise(noise_fn(draw, like), like)
    return lambda _, like: torch.randn(
        like.shape, generator=generator, device=generator.device if generator else None, dtype=work_dtype(like)
    ).to(like.device)


def _keyed_start(seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> Tensor:
    keys, draw = torch.tensor(list(seeds), dtype=torch.int64, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    return keyed_normal(keys, draw, shape[1:], stream=STREAM_X_T)[0]


def _checked_noise(noise: object, like: Tensor) -> Tensor:
    if not isinstance(noise, Tensor) or noise.shape != like.shape:
        found = tuple(noise.shape) if isinstance(noise, Tensor) else type(noise).__name__
        raise ValueError(f"noise_fn must return a tensor of shape {tuple(like.shape)}, got {found}")
    return noise.to(device=like.device, dtype=work_dtype(like))


def _bind(model: Model, model_kwargs: Mapping[str, Any] | None) -> Model:
    return partial(model, **model_kwargs) if model_kwargs else model
