"""Everything that images of one data set are judged with: extractor, reference, and the two ends of the scale."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddimkit.analytic import Gaussian
from ddimkit.errors import WeightsError
from ddimkit.noise import STREAM_X_T, keyed_normal
from ddimkit.quality.features import Extractor
from ddimkit.quality.measure import Quality, judge
from ddimkit.quality.network import load_network
from ddimkit.quality.reference import Reference, Training
from ddimkit.quality.statistics import FeatureStatistics
from ddimkit.weights.pieces import has_content, read_content
from ddimkit.weights.registry import find_published, published_hashes, weights_folder
from ddimkit.weights.tensorfile import check_sha256

__all__ = ["YARDSTICKS", "Yardstick", "load_yardstick", "read_yardstick"]

_WEIGHTS = Path(__file__).parent / "weights"
_SCHEMA = 2
_MOST_PIXELS = 4096
_CHUNK = 1000
_PRETRAINED: dict[str, dict[str, str]] = {
    "mnist": {
        "mnist-features.safetensors": "4ce0f3b3c0c8c941ded31d56391b97b3fc297c5ec1620216a8c586d389bdbbbf",
        "mnist-reference-test.safetensors": "e9cf10e5c433cee03bd9de0b37ae02cde658d752262659ab916257ec181e8e75",
        "mnist-reference-train.safetensors": "a12f8c75c16983680c5cc5826e7eca32de81c4575dc8ed5dfbfeecffa0388537",
        "mnist-scale-test.json": "f625e76ae680d9a6e79e777abf7de1227d68f04e1dfaf7368c50283fd4cf356b",
        "mnist-scale-train.json": "75027b181786d1e2295af2b11710b510ea68d562067a6d2f99f65336b50b18eb",
    }
}
"""The hash of each file of the bundled yardsticks."""

_BESIDE = ("cifar10",)

YARDSTICKS = (*_PRETRAINED, *(name for name in _BESIDE if f"{name}-features.safetensors" in published_hashes()))
"""Names of the yardsticks that this version knows."""

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What images are judged with.

    Attributes:
        extractor: images to features.
        reference: the real images they are compared with.
        floor: how far other real images are from the reference: no sampler can be expected below.
        noise: how far pure noise is.
        training: the training images, to look for memorised ones; None where they are not at hand.
        pixels: mean and covariance spectrum of real images' pixels, from which errors are predicted without a model call; None for
            images of more than 4096 numbers.
    """

    extractor: Extractor
    reference: Reference
    floor: Quality
    noise: Quality
    training: Training | None = None
    pixels: Gaussian | None = None

    @classmethod
    def of(
        cls, extractor: Extractor, reference: Reference, real: Tensor | NDArray[np.uint8], *, noise_images: int = 2000
    ) -> "Yardstick":
        """The yardstick of a reference.

        Args:
            extractor: images to features.
            reference: the real images generated ones are compared with.
            real: real images (N, C, H, W) of another split.
            noise_images: how many images of noise the other end of the scale rests on.
        """
        floor = judge(extractor(real), range(len(real)), reference, extractor)
        seeds, draw = torch.arange(noise_images), torch.zeros(1, dtype=torch.int64)
        noise = keyed_normal(seeds, draw, real.shape[1:], stream=STREAM_X_T)[0]
        ends = floor, judge(extractor(noise), range(noise_images), reference, extractor)
        return cls(extractor, reference, *ends, pixels=_pixels(real))

    def judge(self, images: Tensor | NDArray[np.uint8], seeds: Sequence[int]) -> Quality:
        """Every figure of images (N, C, H, W), floating point in [−1, 1] or unsigned bytes; one seed an image."""
        return self.judge_features(self.extractor(images), seeds)

    def judge_features(self, features: ArrayLike, seeds: Sequence[int]) -> Quality:
        """Every figure of images whose features (N, d) this yardstick's extractor made."""
        return judge(features, seeds, self.reference, self.extractor, self.training)

    def save_scale(self, path: Path) -> str:
        """Write floor and noise as JSON; returns the file's SHA-256."""
        ends = {"floor": self.floor.to_dict(), "noise": self.noise.to_dict()}
        pixels = None if self.pixels is None else self.pixels.to_dict()
        path.write_text(json.dumps({"schema_version": _SCHEMA, **ends, "pixels": pixels}) + "\n")
        return hashlib.sha256(path.read_bytes()).hexdigest()


def load_yardstick(
    name: str, split: Split = "test", *, folder: Path | None = None, device: torch.device | str = "cpu"
) -> Yardstick:
    """A yardstick of ours; its hashes are checked. MNIST's is part of the package, CIFAR-10's lies beside it.

    Args:
        name: ``"mnist"``: a classifier's 64 features; ``"cifar10"``: another's 128.
        split: the real images to compare with: the 10,000 of the test split, or those that the model was trained on.
        folder: where files that are not part of the package lie, as in :func:`~ddimkit.models.bundle.load_pretrained`.
        device: where the network runs.

    Raises:
        ValueError: no yardstick has this name, the data set has no such split, or a folder is named for one of the package's.
        WeightsError: a file is missing, damaged, or not one that this version knows; the message says how to come by it.
    """
    if name not in (*_PRETRAINED, *_BESIDE):
        raise ValueError(f"the yardsticks are {', '.join((*_PRETRAINED, *_BESIDE))}, got {name!r}")
    if name in _BESIDE:
        recipe = f"python -m ddimkit.quality.train {name} --data DIR"
        reader = f"ddimkit.quality.yardstick.read_yardstick({name!r}, folder)"
        hashes = find_published(_files(name, split), folder=folder, recipe=recipe, reader=reader)
        return read_yardstick(name, weights_folder(folder), split, hashes, device=device)
    if folder is not None:
        raise ValueError(f"{name} is part of the package: read files of your own with read_yardstick, got folder={folder}")
    return read_yardstick(name, _WEIGHTS, split, _PRETRAINED[name], device=device)


def read_yardstick(
    name: str,
    folder: Path,
    split: Split = "test",
    hashes: Mapping[str, str] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Yardstick:
    """The yardstick whose files ``python -m ddimkit.quality.train`` wrote.

    Args:
        name: the data set.
        folder: where the files lie.
        split: the real images to compare with.
        hashes: the SHA-256 of each file, by its name; None to take any.
        device: where the network runs.

    Raises:
        ValueError: an unknown split.
        WeightsError: a file is missing, damaged, or has another hash.
    """
    network, reference, scale = (_checked(folder / file, (hashes or {}).get(file)) for file in _files(name, split))
    extractor, real = load_network(network, name=f"{name} features", device=device), Reference.load(reference)
    try:
        saved = json.loads(read_content(scale))
        if saved["schema_version"] != _SCHEMA:
            raise ValueError(f"schema {saved['schema_version']}, this version reads {_SCHEMA}")
        floor, noise = (Quality.from_dict(saved[end]) for end in ("floor", "noise"))
        pixels = None if saved["pixels"] is None else Gaussian(**saved["pixels"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{scale} is no scale that this version can read: {error}") from error
    floor.label.check(real.label)
    return Yardstick(extractor, real, floor, noise, pixels=pixels)


def _files(name: str, split: Split) -> tuple[str, str, str]:
    """Names of the network, the reference and the scale."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    return f"{name}-features.safetensors", f"{name}-reference-{split}.safetensors", f"{name}-scale-{split}.json"


def _pixels(real: Tensor | NDArray[np.uint8]) -> Gaussian | None:
    """Of images (N, C, H, W) in [−1, 1] or bytes, on the scale [−1, 1]; None where the covariance would be very large."""
    width = int(np.prod(real.shape[1:]))
    if width > _MOST_PIXELS or len(real) < 2:
        return None
    found = FeatureStatistics.empty(width)
    for first in range(0, len(real), _CHUNK):
        part = torch.as_tensor(
            real[first : first + _CHUNK].copy() if isinstance(real, np.ndarray) else real[first : first + _CHUNK]
        )
        numbers = part.detach().reshape(len(part), -1).to("cpu", torch.float64)
        found = found.merge(FeatureStatistics.of((numbers / 127.5 - 1 if part.dtype is torch.uint8 else numbers).numpy()))
    values, vectors = np.linalg.eigh(found.covariance)
    return Gaussian(found.mean @ vectors, np.maximum(values, 0.0))


def _checked(path: Path, sha256: str | None) -> Path:
    if not has_content(path):
        raise WeightsError(f"{path} is missing: install ddimkit again, or train it as the documentation says")
    check_sha256(path, read_content(path), sha256)
    return path
