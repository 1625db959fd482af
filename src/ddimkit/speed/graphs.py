"""The loop's step in a CUDA graph: captured once, replayed for every row.

Between the model's forward passes a GPU waits for the host, which launches every kernel anew. A graph holds all kernels of a whole
denoising step (rows looked up, model, conversion, update, counter) and is launched as one. Coefficients and timesteps are tables
on the device that a counter on the device walks through, so that one graph serves every plan of its
:class:`~ddimkit.graphs.Structure`: any number of steps, list of timesteps and eta. The images are the eager loop's, bit for bit,
for models whose own two runs agree.

What a graph reads besides is frozen when it is captured: Python numbers in the model, torch's settings of precision and kernels.

On the CPU, which has no such graphs, the same steps run uncaptured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ddimkit._arguments import Arguments, Batch, check_arguments
from ddimkit._numbers import integer
from ddimkit.loop import Model, NoiseFn, SamplerState, begin, check_finite, draw, finish, prepare
from ddimkit.noise import SeedLike
from ddimkit.sampling import PlanSampler
from ddimkit.speed.tensors import Recordings, Structure
from ddimkit.step import Coefficients

__all__ = ["Captured", "Structure", "capture"]


@dataclass(frozen=True, eq=False)
class Captured:
    """A sampler and model whose step is captured; made by :func:`capture`, called as :meth:`PlanSampler.sample` is.

    Calls from several threads wait for one another: a graph has one x.

    Attributes:
        sampler: whose plan is walked.
        model: what is asked.
        shape: of a call that names none.
    """

    sampler: PlanSampler
    model: Model
    shape: tuple[int, ...]
    _defaults: Arguments = field(repr=False)
    _recordings: Recordings = field(repr=False)

    @property
    def captures(self) -> int:
        """How many graphs were captured so far, by this and all that share its graphs."""
        return self._recordings.captures

    def using(self, sampler: PlanSampler) -> "Captured":
        """Another sampler of the same model on the same graphs; captured anew only where its structure has no graph yet.

        Raises:
            TypeError: this is no sampler.
        """
        _check_sampler(sampler)
        return replace(self, sampler=sampler)

    def __call__(
        self,
        shape: Sequence[int] | None = None,
        *,
        seed: SeedLike | None = None,
        x_T: Tensor | None = None,
        start_at: int = 0,
        generator: torch.Generator | None = None,
        noise_fn: NoiseFn | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        progress: bool = False,
        callback: Callable[[SamplerState], None] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        r"""Draw samples, as :meth:`PlanSampler.sample` does, whose arguments these are.

        A call with a callback, which looks at every step, runs the eager loop; its images are the same. With ``batch_size`` one
        graph serves all parts of that size, and a smaller last part has a graph of its own.

        Returns:
            (B, \*) samples, a fresh tensor.

        Raises:
            TypeError, ValueError, NonFiniteError: as for :meth:`PlanSampler.sample`.
            GraphError: the model cannot be captured with this shape.
        """
        shape = self.shape if shape is None and x_T is None else shape
        row = self.sampler.row_at(start_at)
        given = Arguments(shape, seed, x_T, start_at, generator, noise_fn, device, dtype, model_kwargs, row)
        coefficients, arguments = self.sampler.coefficients_from(start_at), self._completed(given)

        def draw_part(part: Batch, tick: Callable[[], object]) -> Tensor:
            if callback is not None:
                return finish(begin(coefficients, self.model, part), callback, tick)
            return self._replayed(coefficients, part, tick)

        batch = check_arguments(coefficients, self.model, arguments)
        return draw(batch, batch_size, len(coefficients.plan), progress, draw_part)

    def _completed(self, given: Arguments) -> Arguments:
        """The arguments of a call, with those of the capture where it brings none; x_T brings its own device and dtype."""
        mine = self._defaults if given.x_T is None else Arguments()
        return replace(
            given,
            device=mine.device if given.device is None else given.device,
            dtype=mine.dtype if given.dtype is None else given.dtype,
            model_kwargs=self._defaults.model_kwargs if given.model_kwargs is None else given.model_kwargs,
        )

    def _replayed(self, coefficients: Coefficients, part: Batch, tick: Callable[[], object]) -> Tensor:
        """Samples drawn by the graph of their structure."""
        run, model_kwargs = begin(coefficients, self.model, part), part.arguments.model_kwargs or {}
        with self._recordings.alone(run.x.device):
            recording = self._recordings.of(run, self.model, model_kwargs)
            recording.load(run, model_kwargs)
            for _ in recording.walk(run):
                tick()
            x = recording.x.clone()
        check_finite(run, x)
        return x


def capture(
    sampler: PlanSampler,
    model: Model,
    shape: Sequence[int],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    most: int = 8,
) -> Captured:
    r"""Capture a model's whole denoising step in a CUDA graph, for a sampler and everything of its structure.

    Weights may change in place between calls; where they are moved or replaced, the step is captured anew. They are looked for in
    the model itself, in its attributes, and in what a function names; deeper ones must stay where they are. The model must not read
    values back or depend on them, and keeps no x that it was given.

    Args:
        sampler: whose plan is walked; :meth:`Captured.using` takes others.
        model: ``model(x, t)``, as for :meth:`PlanSampler.sample`.
        shape: (B, \*) to capture now; a call with another shape captures that too.
        device: default: that of the model's first parameter, else the CPU.
        dtype: of x, float32 by default.
        model_kwargs: further arguments of the model, also of calls that bring none; other tensors of the same shape on the device
            need no new capture.
        most: how many graphs are kept; the one that was used longest ago goes first.

    Returns:
        a callable with the keywords of :meth:`PlanSampler.sample`.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
        GraphError: the model cannot be captured.

    >>> from ddimkit import DDIMSampler, graphs, load_pretrained
    >>> mnist = load_pretrained("mnist")
    >>> fast = graphs.capture(mnist.sampler(DDIMSampler, steps=2), mnist.model, (1, 1, 28, 28))
    >>> fast(seed=0).shape, fast.using(mnist.sampler(DDIMSampler, steps=3))(seed=0).shape, fast.captures
    (torch.Size([1, 1, 28, 28]), torch.Size([1, 1, 28, 28]), 1)
    """
    _check_sampler(sampler)
    most = integer(most, "most")
    if most < 1:
        raise ValueError(f"most must be an int of at least 1, got {most!r}")
    arguments = Arguments(shape, seed=0, device=device, dtype=dtype, model_kwargs=model_kwargs)
    run = prepare(sampler.coefficients_from(0), model, arguments)
    recordings = Recordings(most)
    with recordings.alone(run.x.device):
        recordings.of(run, model, model_kwargs or {})
    return Captured(sampler, model, tuple(run.x.shape), arguments, recordings)


def _check_sampler(sampler: object) -> None:
    if not isinstance(sampler, PlanSampler):
        raise TypeError(f"sampler must be a PlanSampler, got {type(sampler).__name__}")
