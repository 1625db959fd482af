"""The loop's step in a CUDA graph: captured once, replayed for every row.

Between the model's forward passes a GPU waits for the host, which launches every kernel anew. A graph holds all kernels of a whole
denoising step (rows looked up, model, conversion, update, counter) and is launched as one. Coefficients and timesteps are tables on
the device that a counter on the device walks through, so that one graph serves every plan of its :class:`Structure`: any number of
steps, list of timesteps and eta. The images are the eager loop's, bit for bit, for models whose own two runs agree.

On the CPU, which has no such graphs, the same steps run uncaptured.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ddimkit._arguments import module_of
from ddimkit.errors import GraphError
from ddimkit.loop import Model, NoiseFn, Run, SamplerState, check_finite, prepare, with_bar
from ddimkit.prediction import Clip
from ddimkit.sampling import PlanSampler
from ddimkit.step import Coefficients, advance, check_output, gathered, work_dtype

__all__ = ["Captured", "Structure", "capture"]

_WARM_UPS = 3
_LEAST_ROWS = 1024

# A zero that leaves every x as it is when its product with a coefficient of 0 is added: with +0.0 an x of -0.0 would become 0.0.
_NOTHING = -0.0


@dataclass(frozen=True)
class Structure:
    r"""What a graph is captured for; runs that agree in it share the graph.

    Attributes:
        shape: (B, \*) of x.
        dtype: of x.
        device: of x.
        depth: earlier x0 predictions that rows may read, K − 1.
        noisy: whether some row adds noise.
        learned: whether the model's output carries a learned range.
        clip: how x0_hat is clipped.
        rows: how many rows its tables have room for.
        training: whether the model is in train mode.
        autocast: the dtype of autocast on the device, None where it is off.
        model_kwargs: the model's further arguments; of tensors, shape and dtype.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    depth: int
    noisy: bool
    learned: bool
    clip: Clip
    rows: int
    training: bool
    autocast: torch.dtype | None
    model_kwargs: tuple[tuple[str, object], ...]

    @classmethod
    def of(cls, run: Run, model: Model, model_kwargs: Mapping[str, Any]) -> "Structure":
        """The structure of a run."""
        coefficients, device, module = run.coefficients, run.x.device, module_of(model)
        return cls(
            shape=tuple(run.x.shape),
            dtype=run.x.dtype,
            device=device,
            depth=coefficients.depth,
            noisy=coefficients.noisy,
            learned=coefficients.learned,
            clip=coefficients.clip,
            rows=max(_LEAST_ROWS, 1 << (len(coefficients.plan) - 1).bit_length()),
            training=module is not None and module.training,
            autocast=torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None,
            model_kwargs=tuple((name, _kind(name, value)) for name, value in sorted(model_kwargs.items())),
        )


def _kind(name: str, value: object) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.device
    try:
        hash(value)
    except TypeError:
        raise TypeError(f"a captured model's arguments must be tensors or hashable, got {name}={type(value).__name__}") from None
    return value


class _Recording:
    """The tensors of one structure, and the step that reads and writes them."""

    def __init__(self, structure: Structure, coefficients: Coefficients, model: Model, model_kwargs: Mapping[str, Any]) -> None:
        shape, device = structure.shape, structure.device
        self.coefficients, self.model = coefficients, model
        self.model_kwargs = {k: v.clone() if isinstance(v, Tensor) else v for k, v in model_kwargs.items()}
        self.x = torch.zeros(shape, dtype=structure.dtype, device=device)
        work = work_dtype(self.x)
        self.noise = torch.full(shape, _NOTHING, dtype=work, device=device) if structure.noisy else None
        self.history = [torch.full(shape, _NOTHING, dtype=work, device=device) for _ in range(structure.depth)]
        self.table = torch.zeros(structure.rows, coefficients.table.shape[1], dtype=work, device=device)
        self.times = torch.zeros(structure.rows, dtype=torch.int64, device=device)
        self.counter = torch.zeros(1, dtype=torch.int64, device=device)
        self.addresses = _addresses(model)
        self.replay: Callable[[], None] = self.step

    def step(self) -> None:
        """One row, the counter's; all that is captured."""
        x, coefficients = self.x, self.coefficients
        t = self.times.index_select(0, self.counter).expand(len(x)).contiguous()
        output = check_output(self.model(x, t, **self.model_kwargs), x, coefficients.learned)
        row = gathered(self.table, self.counter, x.ndim)
        following, x0 = advance(row, x, output, self.noise, self.history, coefficients, bool(self.history))
        for older, newer in zip(reversed(self.history), [*reversed(self.history[:-1]), x0], strict=False):
            assert newer is not None
            older.copy_(newer)
        x.copy_(following)
        self.counter.add_(1)

    def load(self, run: Run, model_kwargs: Mapping[str, Any]) -> None:
        """Put a run's beginning into the tensors."""
        plan, self.coefficients = run.coefficients.plan, run.coefficients
        self.x.copy_(run.x)
        self.table[: len(plan)].copy_(torch.from_numpy(run.coefficients.table).to(self.table.dtype))
        self.times[: len(plan)].copy_(torch.tensor(plan.t, dtype=torch.int64))
        self.counter.zero_()
        for tensor in self.history:
            tensor.fill_(_NOTHING)
        for name, value in model_kwargs.items():
            if isinstance(value, Tensor):
                self.model_kwargs[name].copy_(value)

    def walk(self, run: Run) -> Iterator[Tensor]:
        """Do a run's rows; x after each is the same tensor. Nothing is read back."""
        for k, row in enumerate(run.coefficients.rows):
            if self.noise is not None:
                if row.c:
                    self.noise.copy_(run.source(run.start_at + k, self.x))
                else:
                    self.noise.fill_(_NOTHING)
            self.replay()
            yield self.x

    def record(self, pool: Any) -> None:
        """Capture the step, its memory from ``pool``.

        Raises:
            GraphError: the model does what a graph cannot hold.
        """
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):  # libraries choose their algorithms, compiled models compile
                    self.counter.zero_()
                    self.step()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, pool=pool):
                self.step()
        except RuntimeError as error:
            raise GraphError(
                "this model cannot be captured in a CUDA graph; it must not read a value back, move data to or from the host, or "
                f"be a graph already (torch.compile's mode='reduce-overhead'): use sampler.sample, or change it ({error})"
            ) from error
        self.replay = graph.replay


def _addresses(model: Model) -> tuple[int, ...]:
    """Where a module's weights lie: a graph reads them there and nowhere else."""
    module = module_of(model)
    return () if module is None else tuple(tensor.data_ptr() for tensor in chain(module.parameters(), module.buffers()))


@dataclass(eq=False)
class _Recordings:
    """The recordings of one model, the last used ones kept."""

    most: int
    kept: OrderedDict[Structure, _Recording] = field(default_factory=OrderedDict[Structure, _Recording])
    lock: threading.Lock = field(default_factory=threading.Lock)
    captures: int = 0
    pool: Any = None

    def of(self, run: Run, model: Model, model_kwargs: Mapping[str, Any]) -> _Recording:
        """The recording for a run, made if there is none or the model's weights are elsewhere now."""
        structure = Structure.of(run, model, model_kwargs)
        found = self.kept.pop(structure, None)
        if found is None or found.addresses != _addresses(model):
            found = _Recording(structure, run.coefficients, model, model_kwargs)
            found.load(run, model_kwargs)
            if structure.device.type == "cuda":
                self.pool = self.pool or torch.cuda.graph_pool_handle()
                # Without autocast's cache, which would hold copies of the weights as they are now.
                with torch.autocast("cuda", structure.autocast, enabled=structure.autocast is not None, cache_enabled=False):
                    found.record(self.pool)
            self.captures += 1
        self.kept[structure] = found
        while len(self.kept) > self.most:
            self.kept.popitem(last=False)
        return found


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
    _defaults: Mapping[str, Any] = field(repr=False)
    _recordings: _Recordings = field(repr=False)

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
        seed: int | Sequence[int] | None = None,
        x_T: Tensor | None = None,
        start_at: int = 0,
        generator: torch.Generator | None = None,
        noise_fn: NoiseFn | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        progress: bool = False,
        callback: Callable[[SamplerState], None] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        r"""Draw samples, as :meth:`PlanSampler.sample` does, whose arguments these are.

        A call with a callback, which looks at every step, runs the eager loop; its images are the same.

        Returns:
            (B, \*) samples, a fresh tensor.

        Raises:
            TypeError, ValueError, NonFiniteError: as for :meth:`PlanSampler.sample`.
            GraphError: the model cannot be captured with this shape.
        """
        mine = self._defaults if x_T is None else {}
        arguments: dict[str, Any] = {
            "seed": seed,
            "x_T": x_T,
            "start_at": start_at,
            "generator": generator,
            "noise_fn": noise_fn,
            "device": mine.get("device") if device is None else device,
            "dtype": mine.get("dtype") if dtype is None else dtype,
            "model_kwargs": model_kwargs,
        }
        shape = self.shape if shape is None and x_T is None else shape
        if callback is not None:
            return self.sampler.sample(self.model, shape, progress=progress, callback=callback, **arguments)
        run = prepare(self.sampler.coefficients_from(start_at), self.model, shape, **arguments)
        return self._finish(run, model_kwargs or {}, progress)

    def _finish(self, run: Run, model_kwargs: Mapping[str, Any], progress: bool) -> Tensor:
        with self._recordings.lock, torch.no_grad(), _current(run.x.device):
            recording = self._recordings.of(run, self.model, model_kwargs)
            recording.load(run, model_kwargs)
            for _ in with_bar(recording.walk(run), len(run.coefficients.plan), progress):
                pass
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

    Weights may change in place between calls; where they are moved or replaced, the step is captured anew. The model must not read
    values back or depend on them, and keeps no x that it was given.

    Args:
        sampler: whose plan is walked; :meth:`Captured.using` takes others.
        model: ``model(x, t)``, as for :meth:`PlanSampler.sample`.
        shape: (B, \*) to capture now; a call with another shape captures that too.
        device: default: that of the model's first parameter, else the CPU.
        dtype: of x, float32 by default.
        model_kwargs: further arguments of the model; a later call may bring others, of which tensors of the same shape need no new
            capture.
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
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ValueError(f"most must be an int of at least 1, got {most!r}")
    defaults = {"device": device, "dtype": dtype}
    run = prepare(sampler.coefficients_from(0), model, shape, seed=0, **defaults, model_kwargs=model_kwargs)  # type: ignore[arg-type]
    recordings = _Recordings(most)
    with torch.no_grad(), _current(run.x.device):
        recordings.of(run, model, model_kwargs or {})
    return Captured(sampler, model, tuple(run.x.shape), defaults, recordings)


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """The device made CUDA's current one, on which graphs are captured and launched."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _check_sampler(sampler: object) -> None:
    if not isinstance(sampler, PlanSampler):
        raise TypeError(f"sampler must be a PlanSampler, got {type(sampler).__name__}")
