"""What the checks run samplers with: a model, a denoiser in every prediction, and comparisons that say what differs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddimkit.prediction import Prediction
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule

__all__ = ["NoFloat64", "ProbeModel", "SineDenoiser", "normal", "require_same"]


class ProbeModel:
    r"""An elementwise model made of exactly rounded operations: :math:`x / (1 + x^2) + t/8000`; keeps the x and t of each call.

    Args:
        sampler: for a learned range the output has two halves along the channels, else one.
    """

    def __init__(self, sampler: PlanSampler) -> None:
        self.learned = sampler.coefficients.learned
        self.inputs: list[Tensor] = []
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        r"""The output for x (B, \*) and t (B,)."""
        self.inputs.append(x)
        self.times.append(t)
        output = x / (1 + x * x) + t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1)) / 8000
        return torch.cat([output, -output], dim=1) if self.learned else output


@dataclass(frozen=True, eq=False)
class SineDenoiser:
    r"""The clean image :math:`\hat x_0 = s \sin(x) + \tfrac14`, given as any of the four predictions.

    Args:
        schedule: gives the signal s and the noise n at t.
        prediction: what the output means.
        learned: whether a second half of channels, all zero, follows for a learned range.
    """

    schedule: NoiseSchedule
    prediction: Prediction
    learned: bool = False

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        r"""The output for x (B, \*) and t (B,)."""
        s, n = (
            torch.from_numpy(values[t.cpu().numpy()].copy()).to(x.dtype).to(x.device).reshape(-1, *(1,) * (x.ndim - 1))
            for values in (self.schedule.signal, self.schedule.noise)
        )
        x0 = s * x.sin() + 0.25
        match self.prediction:
            case "x0":
                output = x0
            case "epsilon":
                output = (x - s * x0) / n
            case "v":
                output = (s * x - (s * s + n * n) * x0) / n
            case "flow":
                output = (x - (s + n) * x0) / n
        return torch.cat([output, torch.zeros_like(output)], dim=1) if self.learned else output


class NoFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves this untyped
    """Within it, an operation that gives a float64 tensor raises, as it would on a device without float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it gives."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.dtype is torch.float64:
                raise AssertionError(f"{func} made a float64 tensor of shape {tuple(value.shape)} while x is float32")
        return result


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float32 numbers of a seed, on the CPU."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def require_same(found: Tensor, expected: Tensor, fault: str) -> None:
    """Raise an AssertionError with the fault, unless two tensors have the same dtype, shape and bits."""
    assert found.dtype is expected.dtype, f"{fault}: dtype {found.dtype}, expected {expected.dtype}"
    assert found.shape == expected.shape, f"{fault}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    if not torch.equal(found, expected):
        apart = float((found.double() - expected.double()).abs().nan_to_num(np.inf).max())
        raise AssertionError(f"{fault}: the largest difference is {apart:.3g}, expected 0")
