"""Models that keep an eye on their caller, and dispatch modes that watch what the loop does to tensors."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddimkit import NoiseSchedule


def column(t: Tensor, x: Tensor) -> Tensor:
    """(B,) timesteps as numbers of x's dtype that broadcast with x."""
    return t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def smooth(x: Tensor, t: Tensor) -> Tensor:
    """An elementwise model of exactly rounded operations, so that equal bits in are equal bits out in any batch."""
    return x / (1 + x * x) + column(t, x) / 8000


def twice(x: Tensor, t: Tensor) -> Tensor:
    """The same, with a second half of channels in [−1, 1] for a learned range."""
    return torch.cat([smooth(x, t), (x / (1 + x * x))], dim=1)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gaussian_x0(schedule: NoiseSchedule, variance: float, mean: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact x0 prediction for data N(mean, variance), float64."""
    s, n = (torch.from_numpy(v.copy()) for v in (schedule.signal, schedule.noise))

    def model(x: Tensor, t: Tensor) -> Tensor:
        a, b = (v[t].reshape(-1, *(1,) * (x.ndim - 1)).to(x.dtype) for v in (s, n))
        return mean + a * variance * (x - a * mean) / (a * a * variance + b * b)

    return model


class Counting:
    """A model that counts its calls and keeps the t of each."""

    def __init__(self, model: Callable[..., Tensor] = smooth) -> None:
        self.model, self.times = model, list[Tensor]()

    def __call__(self, x: Tensor, t: Tensor, **keywords: Any) -> Tensor:
        self.times.append(t.clone())
        return self.model(x, t, **keywords)

    @property
    def calls(self) -> int:
        return len(self.times)


class HostReads(TorchDispatchMode):
    """Counts the operations that make the host wait for a value; on the meta device, which has none, a read gives True."""

    READS = frozenset({"_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero", "_unique2", "bincount"})

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in self.READS:
            self.names.append(name)
            if args[0].is_meta:
                return True
        return func(*args, **(kwargs or {}))


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors made within it held at once; each storage counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else (result,)
        self._alive = [ref for ref in self._alive if ref() is not None]
        self._alive += [weakref.ref(value) for value in made if isinstance(value, Tensor)]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for ref in self._alive if (t := ref()) is not None}
        self.peak = max(self.peak, sum(storages.values()))
        return result


class Malicious:
    """Whoever unpickles it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)
