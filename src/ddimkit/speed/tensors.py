"""The tensors and the step of :mod:`ddimkit.graphs`, captured for one structure after another and kept."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ddimkit._modes import modules_of
from ddimkit.errors import GraphError
from ddimkit.loop import Model, Run, ask
from ddimkit.prediction import Clip
from ddimkit.step import Coefficients, advance, check_output, gathered, work_dtype

__all__ = ["Recording", "Recordings", "Structure"]

_WARM_UPS = 3
_LEAST_ROWS = 1024

# While one thread captures, another's must not begin.
_CAPTURING = threading.Lock()

# A zero that leaves every x as it is when its product with a coefficient of 0 is added: with +0.0 an x of -0.0 would become 0.0.
_NOTHING = -0.0


@dataclass(frozen=True)
class Structure:
    r"""What a graph is captured for; runs that agree in it share the graph.

    Attributes:
        shape: (B, \*) of x.
        stride: of x, its layout in memory.
        dtype: of x.
        device: of x.
        depth: earlier x0 predictions that rows may read, K − 1.
        noisy: whether some row adds noise.
        learned: whether the model's output carries a learned range.
        clip: how x0_hat is clipped.
        rows: how many rows its tables have room for.
        training: whether a module of the model is in train mode.
        autocast: the dtype of autocast on the device, None where it is off.
        model_kwargs: the model's further arguments; of tensors on the device, shape, layout and dtype.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
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
        coefficients, device = run.coefficients, run.x.device
        return cls(
            shape=tuple(run.x.shape),
            stride=run.x.stride(),
            dtype=run.x.dtype,
            device=device,
            depth=coefficients.depth,
            noisy=coefficients.noisy,
            learned=coefficients.learned,
            clip=coefficients.clip,
            rows=max(_LEAST_ROWS, 1 << (len(coefficients.plan) - 1).bit_length()),
            training=any(module.training for whole in modules_of(model) for module in whole.modules()),
            autocast=torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None,
            model_kwargs=tuple((name, _kind(name, value, device)) for name, value in sorted(model_kwargs.items())),
        )


def _kind(name: str, value: object, device: torch.device) -> object:
    """What two values of an argument must have in common to share a graph: of tensors on the device all but their numbers."""
    if isinstance(value, Tensor):
        # Kernels take a number that lies on the host as it was when they were captured.
        numbers = () if value.device.type == device.type else tuple(value.flatten().tolist())
        return tuple(value.shape), value.stride(), value.dtype, value.device, numbers
    try:
        hash(value)
    except TypeError:
        raise TypeError(f"a captured model's arguments must be tensors or hashable, got {name}={type(value).__name__}") from None
    return type(value), value


class Recording:
    """The tensors of one structure, and the step that reads and writes them."""

    def __init__(self, structure: Structure, coefficients: Coefficients, model: Model, model_kwargs: Mapping[str, Any]) -> None:
        shape, device = structure.shape, structure.device
        self.coefficients, self.model = coefficients, model
        self.model_kwargs = {k: v.clone() if isinstance(v, Tensor) else v for k, v in model_kwargs.items()}
        self.x = torch.empty_strided(shape, structure.stride, dtype=structure.dtype, device=device).zero_()
        work = work_dtype(self.x)
        self.noise = torch.full(shape, _NOTHING, dtype=work, device=device) if structure.noisy else None
        self.history = [torch.full_like(self.x, _NOTHING, dtype=work) for _ in range(structure.depth)]
        self.table = torch.zeros(structure.rows, coefficients.table.shape[1], dtype=work, device=device)
        self.times = torch.zeros(structure.rows, dtype=torch.int64, device=device)
        self.counter = torch.zeros(1, dtype=torch.int64, device=device)
        self.addresses = _addresses(model)
        self.replay: Callable[[], None] = self.step

    def step(self) -> None:
        """One row, the counter's; all that is captured."""
        x, coefficients = self.x, self.coefficients
        t = self.times.index_select(0, self.counter).expand(len(x)).contiguous()
        output = check_output(ask(self.model, x, t, **self.model_kwargs), x, coefficients.learned)
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

    def record(self, stream: Any, pool: Any) -> None:
        """Capture the step on a stream, its memory from a pool.

        Raises:
            GraphError: the model does what a graph cannot hold.
        """
        graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        # The stream of ours, whose context ends whatever a capture that fails leaves behind; the caller's random numbers stay his.
        with torch.cuda.stream(stream), torch.random.fork_rng([self.x.device]):
            for _ in range(_WARM_UPS):  # libraries choose their algorithms, compiled models compile
                self.counter.zero_()
                self.step()
            try:
                with _reads_raise():  # before a capture, which they would leave in pieces
                    self.counter.zero_()
                    self.step()
                with _CAPTURING, torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    self.step()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise GraphError(
                    "this model cannot be captured in a CUDA graph; it must not read a value back, move data to or from the host, "
                    f"or be a graph already (torch.compile's mode='reduce-overhead'): use sampler.sample, or change it ({error})"
                ) from error
        torch.cuda.current_stream().wait_stream(stream)
        self.replay, self.addresses = graph.replay, _addresses(self.model)


@contextmanager
def _reads_raise() -> Generator[None]:
    """Let every operation that makes the host wait for the device raise."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _addresses(model: Model) -> tuple[int, ...]:
    """Where a model's weights lie: a graph reads them there and nowhere else."""
    tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules_of(model))
    return tuple(tensor.data_ptr() for tensor in tensors)


@dataclass(eq=False)
class Recordings:
    """The recordings of one model, the last used ones kept."""

    most: int
    kept: OrderedDict[Structure, Recording] = field(default_factory=OrderedDict[Structure, Recording])
    captures: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _busy: bool = False
    _streams: dict[torch.device, Any] = field(default_factory=dict[torch.device, Any])
    _pool: Any = None
    _done: Any = None

    @contextmanager
    def alone(self, device: torch.device) -> Generator[None]:
        """Nobody else uses the recordings meanwhile: neither another thread, nor the work that another stream still has to do."""
        with self._lock:
            if self._busy:
                raise RuntimeError(
                    "a captured sampler was called within its own call, as by its noise_fn: capture another one for that"
                )
            self._busy = True
            # Outside inference mode, whose tensors could not be written to later.
            with torch.inference_mode(False), torch.no_grad(), _current(device):
                if self._done is not None:
                    torch.cuda.current_stream().wait_event(self._done)
                try:
                    yield
                finally:
                    self._busy = False
                    if device.type == "cuda":
                        self._done = torch.cuda.current_stream().record_event()

    def of(self, run: Run, model: Model, model_kwargs: Mapping[str, Any]) -> Recording:
        """The recording for a run, made if there is none or the model's weights are elsewhere now."""
        structure = Structure.of(run, model, model_kwargs)
        found = self.kept.pop(structure, None)
        if found is None or found.addresses != _addresses(model):
            found = self._made(structure, run, model, model_kwargs)
        self.kept[structure] = found
        while len(self.kept) > self.most:
            self.kept.popitem(last=False)
        return found

    def _made(self, structure: Structure, run: Run, model: Model, model_kwargs: Mapping[str, Any]) -> Recording:
        made = Recording(structure, run.coefficients, model, model_kwargs)
        made.load(run, model_kwargs)
        if structure.device.type == "cuda":
            stream = self._streams.setdefault(structure.device, torch.cuda.Stream(structure.device))  # type: ignore[no-untyped-call]
            # A pool whose last graph is gone, or one that a failed capture was using, is not to be used again.
            self._pool = self._pool if self._pool is not None and self.kept else torch.cuda.graph_pool_handle()
            # Without autocast's cache, which would hold copies of the weights as they are now.
            on = structure.autocast is not None
            uncached = torch.autocast("cuda", structure.autocast, cache_enabled=False) if on else nullcontext()
            try:
                with uncached:
                    made.record(stream, self._pool)
            except BaseException:
                self._pool = None
                raise
        self.captures += 1
        return made


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """The device made CUDA's current one, on which graphs are captured and launched."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
