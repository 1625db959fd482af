"""The kernel distance to real images, as an objective that tables are learned with."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddimkit.quality.estimate import Estimate, estimate_kernel
from ddimkit.quality.features import Extractor, to_bytes
from ddimkit.quality.reference import Reference
from ddimkit.schedule import FloatArray

__all__ = ["KernelObjective", "Part"]

Part = Literal["choose", "confirm"]
"""Which of the real images that nothing is learned with an estimate rests on."""

_FEWEST = 400
_SMALLEST = 1e-3
_SHARES = {"learn": (0.0, 0.5), "choose": (0.5, 0.75), "confirm": (0.75, 1.0)}


@dataclass(frozen=True, eq=False)
class KernelObjective:
    r"""The unbiased squared kernel distance of generated to real images, in features that torch can differentiate.

    Each feature is standardised: less its mean over the real images that are learned with, divided by its standard deviation.
    Otherwise the few features with the largest variance decide alone. With standardised features
    :math:`f_i` of n generated and :math:`g_r` of m real images and :math:`k(f, g) = (f^T g / d + 1)^3` the distance is

    .. math:: \frac{1}{n(n-1)} \sum_{i \ne j} k(f_i, f_j) - \frac{2}{nm} \sum_{i, r} k(f_i, g_r)
        + \frac{1}{m(m-1)} \sum_{r \ne q} k(g_r, g_q).

    A random half of the real images is learned with, a quarter chooses among tables, and the last quarter confirms the gain.
    No teacher is needed, so a table may come nearer to real images than many steps of any sampler.

    Args:
        images: (N, C, H, W) real images that the model may have been trained on, floating point in [−1, 1] or unsigned bytes; at
            least 400 different ones. Each is used once, in a fixed random order.
        extractor: images to features, differentiable by torch; another one than that which evaluates the tables afterwards.
        name: what results call the images.

    Raises:
        ValueError: too few images; features that are all equal.

    Source: the distance is Bińkowski et al., *Demystifying MMD GANs*, 2018, eq. 4.
    """

    images: Tensor | NDArray[np.uint8]
    extractor: Extractor
    name: str = "real images"

    def __post_init__(self) -> None:
        if len(self._order) < _FEWEST:
            raise ValueError(f"a kernel objective needs at least {_FEWEST} different real images, got {len(self._order)}")

    @cached_property
    def _hashes(self) -> list[bytes]:
        """A hash of each image as bytes."""
        return _hashed(self.images)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """The places of the images, those that stand there twice left out, in a fixed random order."""
        first = {found: place for place, found in reversed(list(enumerate(self._hashes)))}
        return np.random.default_rng(0).permutation(sorted(first.values()))

    @cached_property
    def _parts(self) -> dict[str, FloatArray]:
        """The real images' features as the extractor gives them, by what they are for."""
        features = self.extractor(self.images)[self._order]
        count = len(features)
        return {part: features[int(low * count) : int(high * count)] for part, (low, high) in _SHARES.items()}

    @cached_property
    def _scale(self) -> tuple[FloatArray, FloatArray]:
        """Mean (d,) and standard deviation (d,) of the features that are learned with; a nearly constant feature counts nothing."""
        learned = self._parts["learn"]
        mean, spread = learned.mean(axis=0), learned.std(axis=0)
        if not spread.any():
            raise ValueError(f"the extractor {self.extractor.name!r} gives the same features for all {len(learned)} real images")
        # Below this a feature is the rounding of float32, or dead but for a few images, and would decide alone.
        constant = (spread < _SMALLEST * spread.max()) | (spread < _SMALLEST * np.abs(mean))
        return mean, np.where(constant, np.inf, spread)

    def _standardised(self, features: FloatArray) -> FloatArray:
        mean, spread = self._scale
        found: FloatArray = (features - mean) / spread
        return found

    @cached_property
    def _references(self) -> dict[str, Reference]:
        parts = {part: self._standardised(self._parts[part]) for part in ("choose", "confirm")}
        return {part: Reference.of(f"{self.name} {part}", features, self.extractor) for part, features in parts.items()}

    @cached_property
    def _real(self) -> tuple[Tensor, float]:
        """The augmented features (M, d + 1) of the images that are learned with, and the mean kernel of two different ones."""
        features = self._standardised(self._parts["learn"])
        real = _augmented(torch.from_numpy(features).to(self.extractor.device, torch.float32))
        return real, float(Reference.of("learn", features, self.extractor).kernel.within)

    def shared_images(self, images: Tensor | NDArray[np.uint8]) -> int:
        """How many of some images (N, C, H, W) this objective has too, compared as bytes."""
        return len(set(self._hashes) & set(_hashed(images)))

    def loss(self, images: Tensor, seeds: Sequence[int]) -> Tensor:  # noqa: ARG002 (of the protocol)
        """The distance of images (B, C, H, W), B at least 2, from the real ones that are learned with; () and differentiable."""
        pixels = images.clamp(-1, 1)
        if self.extractor.rounding == "uint8":  # the value of the rounded pixels, the gradient of the others
            pixels = pixels + (pixels.detach().add(1).mul(127.5).round().div(127.5).sub(1) - pixels.detach())
        features = self.extractor.extract(pixels.to(self.extractor.device, torch.float32))
        mean, spread = (torch.from_numpy(v).to(features) for v in self._scale)
        u, (real, within) = _augmented((features - mean) / spread), self._real
        kernel = (u @ u.T) ** 3
        own = (kernel.sum() - kernel.diagonal().sum()) / (len(u) * (len(u) - 1))
        return own - 2 * ((u @ real.T) ** 3).mean() + within

    def estimate(self, images: Tensor, seeds: Sequence[int], part: Part) -> Estimate:
        """The distance from real images that are not learned with."""
        reference = self._references[part]
        return estimate_kernel(self._standardised(self.extractor(images)), reference.kernel, seeds, reference.real)

    def to_dict(self) -> dict[str, Any]:
        """What names this objective, as plain JSON values."""
        digest = hashlib.sha256(b"".join(self._hashes)).hexdigest()
        learned, chosen, confirmed = (len(self._parts[part]) for part in _SHARES)
        return {
            "objective": "kernel distance to real images, features standardised",
            "images": {"name": self.name, "sha256": digest, "learn": learned, "choose": chosen, "confirm": confirmed},
            "extractor": {"name": self.extractor.name, "sha256": self.extractor.sha256},
        }


def _augmented(features: Tensor) -> Tensor:
    """(N, d + 1): each row over the root of d, and a 1, so that the kernel is the cube of an inner product."""
    return torch.cat((features / math.sqrt(features.shape[1]), torch.ones_like(features[:, :1])), dim=1)


def _hashed(images: Tensor | NDArray[np.uint8]) -> list[bytes]:
    return [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in _as_bytes(images)]


def _as_bytes(images: Tensor | NDArray[np.uint8]) -> NDArray[np.uint8]:
    if isinstance(images, Tensor):
        found: NDArray[np.uint8] = (images if images.dtype is torch.uint8 else to_bytes(images)).cpu().numpy()
        return found
    return images
