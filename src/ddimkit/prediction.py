r"""What a model predicts, and how that becomes :math:`\hat x_0`; clipping and dynamic thresholding of it.

With :math:`x_t = s x_0 + n \varepsilon` every prediction gives :math:`\hat x_0 = A x_t + B\,out`:

=========== ============================== =============================== ===================
prediction  the model's output             A                               B
=========== ============================== =============================== ===================
epsilon     the noise ε                    1/s                             −n/s
x0          the clean image                0                               1
v           s·ε − n·x0                     s/(s²+n²)                       −n/(s²+n²)
flow        ε − x0                         1/(s+n)                         −n/(s+n)
=========== ============================== =============================== ===================
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ddimkit._numbers import is_number
from ddimkit.schedule import FloatArray, NoiseSchedule

__all__ = ["Clip", "DynamicThreshold", "Prediction"]

Prediction = Literal["epsilon", "x0", "v", "flow"]
"""What a model predicts, as in this module's table."""

_ELSEWHERE: dict[str, Prediction] = {
    "eps": "epsilon",
    "noise": "epsilon",
    "sample": "x0",
    "x_start": "x0",
    "v_prediction": "v",
    "velocity": "v",
    "flow_prediction": "flow",
}


@dataclass(frozen=True)
class DynamicThreshold:
    r"""Clip :math:`\hat x_0` to ±q and divide by q, q the quantile of its absolute values in that sample, at least 1.

    Saharia et al. 2022 (Imagen), section 2.3.

    Args:
        quantile: in (0, 1].
        max: upper bound of q, at least 1; None for no bound.

    Raises:
        ValueError: ``quantile`` or ``max`` out of range.
    """

    quantile: float = 0.995
    max: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ValueError(f"quantile must lie in (0, 1], got {self.quantile}")
        if self.max is not None and not self.max >= 1:
            raise ValueError(f"max must be at least 1, got {self.max}")

    def __call__(self, x0: Tensor) -> Tensor:
        r"""x0 (B, \*), float32 or float64."""
        if x0.numel() == 0:
            return x0
        # By sorting: torch.quantile takes 2^24 numbers at most, and reads its argument back on the CPU.
        ordered = x0.reshape(len(x0), -1).abs().sort(dim=1).values
        place = self.quantile * (ordered.shape[1] - 1)
        low = int(place)
        q = torch.lerp(ordered[:, low], ordered[:, min(low + 1, ordered.shape[1] - 1)], place - low)
        q = q.clamp(1.0, self.max).reshape(-1, *(1,) * (x0.ndim - 1))
        return torch.minimum(torch.maximum(x0, -q), q) / q


Clip = tuple[float, float] | DynamicThreshold | None
"""How x0_hat is clipped, to a range (low, high), by a quantile of its own, or not at all."""


def check_clip(clip: object) -> Clip:
    """The clip setting in its canonical form, or a TypeError or ValueError naming what is wrong with it."""
    if clip is None or isinstance(clip, DynamicThreshold):
        return clip
    if not isinstance(clip, tuple | list) or len(clip) != 2 or not all(is_number(v) for v in clip):
        raise TypeError(f"clip must be None, a pair (low, high) or a DynamicThreshold, got {clip!r}")
    low, high = (float(v) for v in clip)
    if not low < high:
        raise ValueError(f"clip must be (low, high) with low < high, got {clip!r}")
    return low, high


def clip_x0(x0: Tensor, clip: Clip) -> Tensor:
    r"""x0 (B, \*) clipped as asked."""
    if clip is None:
        return x0
    return clip(x0) if isinstance(clip, DynamicThreshold) else x0.clamp(*clip)


def check_prediction(prediction: str, schedule: NoiseSchedule, timesteps: Sequence[int]) -> None:
    """Raise a ValueError for an unknown prediction, or for epsilon where an image holds no signal at all."""
    if prediction not in get_args(Prediction):
        meant = _ELSEWHERE.get(prediction) if isinstance(prediction, str) else None
        hint = f": elsewhere that is the name of what is {meant!r} here" if meant else ""
        raise ValueError(f"prediction must be one of {', '.join(get_args(Prediction))}, got {prediction!r}{hint}")
    if prediction == "epsilon" and timesteps and schedule.signal[timesteps[0]] == 0:
        raise ValueError(
            f"epsilon prediction cannot give x0 at t={timesteps[0]}, where the schedule's signal is 0: "
            "use a model of prediction='v', 'x0' or 'flow', or timesteps that start lower"
        )


def x0_coefficients(prediction: Prediction, s: FloatArray, n: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A and B of ``x0_hat = A·x + B·out`` for arrays of signal and noise."""
    match prediction:
        case "epsilon":
            # Zero SNR is refused by check_prediction, which a class of others may leave out: the conformance kit tells.
            with np.errstate(divide="ignore"):
                return 1 / s, -n / s
        case "x0":
            return np.zeros_like(s), np.ones_like(s)
        case "v":
            return s / (s * s + n * n), -n / (s * s + n * n)
        case "flow":
            return 1 / (s + n), -n / (s + n)


def prediction_target(prediction: Prediction, schedule: NoiseSchedule, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    r"""What a model of this prediction should say of ``schedule.add_noise(x0, eps, t)``: (B, \*).

    v is ``s·eps − n·x0``: what :meth:`NoiseSchedule.add_noise` makes of eps and −x0.
    """
    match prediction:
        case "epsilon":
            return eps
        case "x0":
            return x0
        case "v":
            return schedule.add_noise(eps, -x0, t)
        case "flow":
            return eps - x0
