r"""One row's arithmetic on tensors, the same for every sampler.

Without clipping a step is ``x·α + out·β`` with ``α = a + b0·A`` and ``β = b0·B``, where ``x0_hat = A·x + B·out`` is the same
expression in (A, B): so looking at x0_hat never changes x, and where a = 0, b0 = 1 both are equal bit for bit. Coefficients are
float64 until the device's arithmetic rounds them once. Half precision is computed in float32 and rounded once a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddimkit._numbers import integer
from ddimkit._repr import short_repr
from ddimkit.plan import Plan
from ddimkit.prediction import Clip, Prediction, clip_x0, x0_coefficients
from ddimkit.schedule import FloatArray, NoiseSchedule

__all__ = [
    "Coefficients",
    "Row",
    "advance",
    "check_image",
    "check_output",
    "device_row",
    "gathered",
    "needed_noise",
    "predict",
    "work_dtype",
]

Number = float | Tensor

_FULL = frozenset({torch.float32, torch.float64})


class Row(NamedTuple):
    """A row's coefficients: floats, or tensors that broadcast with x (one entry a sample)."""

    x0_x: Number
    x0_out: Number
    next_x: Number
    next_out: Number
    a: Number
    b: tuple[Number, ...]
    c: Number
    log_c: Number
    log_c_span: Number


@dataclass(frozen=True, eq=False)
class Coefficients:
    """A plan made ready for one prediction type and clip.

    What a step with a tensor index reads is plain attributes, made at once: torch.compile cannot trace their making, and compiles
    one step for all plans whose attributes, numbers of :attr:`padded` aside, are equal.

    Attributes:
        table: (S, 8 + K) float64, the columns in the order of :class:`Row`.
        padded: the same with a row for every timestep of the schedule or more, NaN after the plan's own.
        learned: whether the model's output carries the fraction f of a learned range in its second half of channels.
        depth: earlier x0 predictions that a plan of this width may read, K − 1.
        needs: earlier x0 predictions that some row does read.
        noisy: whether some row adds noise.
        tables: copies of :attr:`padded` by device and dtype.
    """

    plan: Plan
    schedule: NoiseSchedule
    prediction: Prediction
    clip: Clip
    table: FloatArray = field(init=False)
    padded: FloatArray = field(init=False)
    learned: bool = field(init=False)
    depth: int = field(init=False)
    needs: int = field(init=False)
    noisy: bool = field(init=False)
    tables: dict[tuple[torch.device, torch.dtype], Tensor] = field(
        default_factory=dict[tuple[torch.device, torch.dtype], Tensor], init=False, repr=False
    )

    __repr__ = short_repr

    def __post_init__(self) -> None:
        plan, table = self.plan, self._table()
        padded = np.full((max(len(table), self.schedule.num_timesteps), table.shape[1]), np.nan)
        padded[: len(table)] = table
        made: dict[str, object] = {
            "table": table,
            "padded": padded,
            "learned": plan.c_max is not None,
            "depth": int(plan.b.shape[1]) - 1,
            "needs": int(np.flatnonzero(plan.b.any(axis=0)).max(initial=0)),
            "noisy": plan.adds_noise,
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def _table(self) -> FloatArray:
        plan, index = self.plan, list(self.plan.t)
        x0_x, x0_out = x0_coefficients(self.prediction, self.schedule.signal[index], self.schedule.noise[index])
        b0 = plan.b[:, 0]
        c_max = plan.c if plan.c_max is None else plan.c_max
        log_c, log_c_max = (np.log(np.where(plan.c > 0, v, 1.0)) for v in (plan.c, c_max))
        columns = [x0_x, x0_out, plan.a + b0 * x0_x, b0 * x0_out, plan.a, *plan.b.T, plan.c, log_c, log_c_max - log_c]
        return np.stack(columns, axis=1)

    @cached_property
    def reach(self) -> list[int]:
        """How many earlier x0 predictions each row reads."""
        return [max((j for j, b in enumerate(row.b) if b), default=0) for row in self.rows]

    @cached_property
    def rows(self) -> list[Row]:
        """Every row as Python floats."""
        return [_row(values) for values in self.table.tolist()]

    def row(self, index: int | Tensor, x: Tensor) -> Row:
        """The row of an index, or the rows of one a sample."""
        if isinstance(index, Tensor):
            if index.dtype != torch.int64 or (index.ndim and index.shape != x.shape[:1]):
                raise TypeError(
                    f"index must be an int, or int64 of shape () or ({x.shape[0]},), got {index.dtype} {tuple(index.shape)}"
                )
            return self.gather(index, x)
        index = integer(index, "index")
        if not 0 <= index < len(self.rows):
            raise ValueError(f"index must be a row number in 0..{len(self.rows) - 1}, got {index}")
        return device_row(self.table_on(x)[index]) if x.is_cuda else self.rows[index]

    def table_on(self, x: Tensor) -> Tensor:
        """:attr:`padded` in x's working dtype on its device, brought there once."""
        place = x.device, work_dtype(x)
        if place not in self.tables:
            self.tables[place] = torch.from_numpy(self.padded).to(place[1]).to(place[0])
        return self.tables[place]

    def gather(self, index: Tensor, x: Tensor) -> Row:
        """The rows of an int64 index of shape () or (B,), as tensors that broadcast with x."""
        # Traced, a table that is kept would make every sampler a new case.
        kept = not torch.compiler.is_compiling()
        return gathered(self.table_on(x) if kept else torch.from_numpy(self.padded).to(work_dtype(x)).to(x.device), index, x.ndim)


def gathered(table: Tensor, index: Tensor, ndim: int) -> Row:
    """Rows of a table on the device, of an int64 index () or (B,), as tensors that broadcast with an x of ndim dimensions."""
    # Not table[index]: an index of shape () would be read back by the host.
    picked = table.index_select(0, index.to(table.device).reshape(-1)).T
    return _row(list(picked.reshape(picked.shape + (1,) * (ndim - 1))))


def device_row(values: Tensor) -> Row:
    """A row (8 + K,) of a table on the device, as tensors of shape ()."""
    return _row(list(values.unbind()))


def _row(values: Sequence[Number]) -> Row:
    x0_x, x0_out, next_x, next_out, a, *b, c, log_c, log_c_span = values
    return Row(x0_x, x0_out, next_x, next_out, a, tuple(b), c, log_c, log_c_span)


def work_dtype(x: Tensor) -> torch.dtype:
    """float32 for half precision, else x's own."""
    return torch.promote_types(x.dtype, torch.float32)


def _widened(x: Tensor) -> Tensor:
    return x if x.dtype in _FULL else x.to(work_dtype(x))


def predict(row: Row, x: Tensor, output: Tensor, clip: Clip) -> Tensor:
    r"""``x0_hat = A·x + B·out``, clipped as asked: (B, \*) of the working dtype."""
    return clip_x0(_weighted(_widened(x), row.x0_x, output, row.x0_out), clip)


def advance(
    row: Row,
    x: Tensor,
    output: Tensor,
    noise: Tensor | None,
    history: Sequence[Tensor],
    coefficients: Coefficients,
    keep_x0: bool,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    r"""One transition: x (B, \*) to (x', x0_hat or None).

    ``output`` has been through :func:`check_output`; ``history`` holds x0 predictions, newest first; ``noise`` None adds none;
    ``out`` is written to if given.
    """
    fraction = None
    if coefficients.learned:
        output, v = output.chunk(2, dim=1)
        fraction = (v + 1) / 2
    work, clip, x0 = _widened(x), coefficients.clip, None
    if clip is not None or keep_x0:
        x0 = predict(row, x, output, clip)
    if clip is None:
        following = _weighted(work, row.next_x, output, row.next_out, out)
    else:
        assert x0 is not None
        following = _weighted(work, row.a, x0, row.b[0], out)
    if history:
        for weight, earlier in zip(row.b[1:], history, strict=False):
            following = _plus(following, earlier, weight, out)
    if noise is not None:
        if fraction is not None:
            noise = noise * (fraction * row.log_c_span + row.log_c).exp()
            following = _plus(following, noise, (row.c > 0).to(noise.dtype) if isinstance(row.c, Tensor) else 1.0, out)
        else:
            following = _plus(following, noise, row.c, out)
    return following if following.dtype is x.dtype else following.to(x.dtype), x0


def _weighted(x: Tensor, a: Number, y: Tensor, b: Number, out: Tensor | None = None) -> Tensor:
    """``x·a + y·b``; on the CPU the two branches give the same bits, on CUDA only the first is used."""
    if isinstance(b, Tensor):
        return torch.addcmul(torch.mul(x, a, out=out), y, b, out=out)
    return torch.add(torch.mul(x, a, out=out), y, alpha=b, out=out)


def _plus(x: Tensor, y: Tensor, b: Number, out: Tensor | None) -> Tensor:
    """``x + y·b``."""
    if isinstance(b, Tensor):
        return torch.addcmul(x, y, b, out=out)
    return torch.add(x, y, alpha=b, out=out)


def needed_noise(
    coefficients: Coefficients, row: Row, index: int | Tensor, x: Tensor, noise: Tensor | None, history: Sequence[Tensor]
) -> Tensor | None:
    """The noise where the row adds any, else None.

    Raises:
        TypeError: noise or history is no floating point tensor.
        ValueError: the row needs noise or history that is missing, or it has another shape than x.
    """
    reach = coefficients.needs if isinstance(index, Tensor) else coefficients.reach[integer(index, "index")]
    if len(history) < reach:
        raise ValueError(f"this row reads {reach} earlier x0 predictions, got {len(history)} in history")
    noisy = coefficients.noisy if isinstance(index, Tensor) else bool(row.c)
    if noisy and noise is None:
        raise ValueError("this row adds noise: give noise=, standard normal and of x_t's shape")
    used = noise if noisy else None
    for name, tensor in (("noise", used), *(("history", h) for h in history)):
        if tensor is None:
            continue
        check_image(tensor, name)
        if tensor.shape != x.shape:
            raise ValueError(f"{name} must have x_t's shape {tuple(x.shape)}, got {tuple(tensor.shape)}")
    return used


def check_image(x: object, name: str) -> None:
    """Raise a TypeError unless this is a floating point tensor."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name} must be a floating point tensor, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}")


def check_output(output: object, x: Tensor, learned: bool) -> Tensor:
    """The model's output in the working dtype, or an error that says what it should have been.

    Raises:
        TypeError: no tensor, or one that is not floating point.
        ValueError: another shape than x's (learned range: twice the channels), or another device.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the model must return a tensor of x's shape {tuple(x.shape)}, got {type(output).__name__}: "
            "if it wraps its tensor, pass a function that unwraps it, as in lambda x, t: model(x, t).sample"
        )
    wanted = x.shape if not learned else torch.Size((len(x), 2 * x.shape[1], *x.shape[2:]))
    if output.shape != wanted:
        hint = " (variance='learned_range' wants prediction and v stacked along the channels)" if learned else ""
        if not learned and x.ndim > 1 and output.shape == (len(x), 2 * x.shape[1], *x.shape[2:]):
            hint = ": twice the channels are a learned range, for DDPMSampler(variance='learned_range'); else pass the first half"
        raise ValueError(f"the model must return a tensor of shape {tuple(wanted)}, got {tuple(output.shape)}{hint}")
    if output.device != x.device:
        raise ValueError(f"the model's output is on {output.device} but x is on {x.device}: move one of them")
    if output.dtype is x.dtype and output.dtype in _FULL:
        return output
    if not output.is_floating_point():
        raise TypeError(f"the model must return floating point numbers, got {output.dtype}")
    return output.to(work_dtype(x))
