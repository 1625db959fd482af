"""Everything that images of one data set are evaluated with: extractor, reference, and the two ends of the scale."""

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

from ddimkit._repr import short_repr
from ddimkit.analytic import Gaussian
from ddimkit.errors import WeightsError
from ddimkit.noise import STREAM_X_T, keyed_normal
from ddimkit.quality.features import Extractor
from ddimkit.quality.measure import Quality, evaluate
from ddimkit.quality.network import load_network
from ddimkit.quality.reference import Reference, Training
from ddimkit.quality.statistics import FeatureStatistics
from ddimkit.weights._pieces import has_content, read_content
from ddimkit.weights._registry import find_published, published_hashes, weights_folder
from ddimkit.weights._tensorfile import check_sha256

__all__ = ["EVALUATORS", "Evaluator", "load_evaluator", "read_evaluator"]

_WEIGHTS = Path(__file__).parent / "weights"
_SCHEMA = 3
_MOST_PIXELS = 4096
_CHUNK = 1000
_PRETRAINED: dict[str, dict[str, str]] = {
    "mnist": {
        "mnist-features.safetensors": "4ce0f3b3c0c8c941ded31d56391b97b3fc297c5ec1620216a8c586d389bdbbbf",
        "mnist-reference-test.safetensors": "bc3a78385a94ab373c9c64c13aab3d54f76c967864d4b4a871eac09023cb4a0d",
        "mnist-reference-train.safetensors": "4c41b8dd4a71c17b0b3194942977ace9545ecad43fb558d7ec9f36e0c2521a63",
        "mnist-scale-test.json": "d3aeeed58b7a8d3e61d5574fe19b7797a6a5a02874d7a7945d8bb6f7ea7f85b7",
        "mnist-scale-train.json": "b4d58efe8124bc48320626822be55153d1f725db2fd1bf33c530758e643ec3bf",
    }
}
"""The hash of each file of the bundled evaluators."""

_BESIDE = ("cifar10",)

EVALUATORS = (*_PRETRAINED, *(name for name in _BESIDE if f"{name}-features.safetensors" in published_hashes()))
"""Names of the evaluators that this version knows."""

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Evaluator:
    """What images are evaluated with.

    Attributes:
        extractor: images to features.
        reference: the real images they are compared with.
        real_vs_real: metrics of other real images: no sampler can be expected to be nearer to the reference.
        noise: metrics of pure noise.
        training: the training images, to look for memorised ones; None where they are not at hand.
        pixels: mean and covariance spectrum of real images' pixels, from which errors are predicted without a model call; None for
            images of more than 4096 numbers.
    """

    extractor: Extractor
    reference: Reference
    real_vs_real: Quality
    noise: Quality
    training: Training | None = None
    pixels: Gaussian | None = None

    __repr__ = short_repr

    @classmethod
    def of(
        cls, extractor: Extractor, reference: Reference, real: Tensor | NDArray[np.uint8], *, noise_images: int = 2000
    ) -> "Evaluator":
        """The evaluator of a reference.

        Args:
            extractor: images to features.
            reference: the real images generated ones are compared with.
            real: real images (N, C, H, W) of another split.
            noise_images: how many images of noise the other end of the scale rests on.
        """
        real_vs_real = evaluate(extractor(real), range(len(real)), reference, extractor)
        seeds, draw = torch.arange(noise_images), torch.zeros(1, dtype=torch.int64)
        noise = keyed_normal(seeds, draw, real.shape[1:], stream=STREAM_X_T)[0]
        ends = real_vs_real, evaluate(extractor(noise), range(noise_images), reference, extractor)
        return cls(extractor, reference, *ends, pixels=_pixels(real))

    def evaluate(self, images: Tensor | NDArray[np.uint8], seeds: Sequence[int]) -> Quality:
        """Every metric of images (N, C, H, W), floating point in [−1, 1] or unsigned bytes; one seed an image."""
        return self.evaluate_features(self.extractor(images), seeds)

    def evaluate_features(self, features: ArrayLike, seeds: Sequence[int]) -> Quality:
        """Every metric of images whose features (N, d) this evaluator's extractor made."""
        return evaluate(features, seeds, self.reference, self.extractor, self.training)

    def save_scale(self, path: str | Path) -> str:
        """Write the metrics of other real images and of noise as JSON; returns the file's SHA-256."""
        ends = {"real_vs_real": self.real_vs_real.to_dict(), "noise": self.noise.to_dict()}
        exact = json.dumps(None if self.pixels is None else self.pixels.to_dict())
        pixels = json.loads(exact, parse_float=lambda text: float(f"{float(text):.9g}"))  # which errors on Gaussians resolve by far
        path = Path(path)
        path.write_text(json.dumps({"schema_version": _SCHEMA, **ends, "pixels": pixels}) + "\n")
        return hashlib.sha256(path.read_bytes()).hexdigest()


def load_evaluator(
    name: str, split: Split = "test", *, folder: str | Path | None = None, device: torch.device | str = "cpu"
) -> Evaluator:
    """An evaluator of ours; its hashes are checked. MNIST's is part of the package, CIFAR-10's lies beside it.

    Args:
        name: ``"mnist"``: a classifier's 64 features; ``"cifar10"``: another's 128.
        split: the real images to compare with: the 10,000 of the test split, or those that the model was trained on.
        folder: where files that are not part of the package lie, as in :func:`~ddimkit.models.bundle.load_pretrained`.
        device: where the network runs.

    Raises:
        ValueError: no evaluator has this name, the data set has no such split, or a folder is named for one of the package's.
        WeightsError: a file is missing, damaged, or not one that this version knows; the message says how to come by it.
    """
    if name not in (*_PRETRAINED, *_BESIDE):
        raise ValueError(f"the evaluators are {', '.join((*_PRETRAINED, *_BESIDE))}, got {name!r}")
    if name in _BESIDE:
        recipe = f"python -m ddimkit._features.train {name} --data DIR"
        reader = f"ddimkit.quality.evaluator.read_evaluator({name!r}, folder)"
        hashes = find_published(_files(name, split), folder=folder, recipe=recipe, reader=reader)
        return read_evaluator(name, weights_folder(folder), split, hashes, device=device)
    if folder is not None:
        raise ValueError(f"{name} is part of the package: read files of your own with read_evaluator, got folder={folder}")
    return read_evaluator(name, _WEIGHTS, split, _PRETRAINED[name], device=device)


def read_evaluator(
    name: str,
    folder: str | Path,
    split: Split = "test",
    hashes: Mapping[str, str] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Evaluator:
    """The evaluator whose files ``python -m ddimkit._features.train`` wrote.

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
    network, reference, scale = (_checked(Path(folder) / file, (hashes or {}).get(file)) for file in _files(name, split))
    extractor, real = load_network(network, name=f"{name} features", device=device), Reference.load(reference)
    try:
        saved = json.loads(read_content(scale))
        if saved["schema_version"] != _SCHEMA:
            raise ValueError(f"schema {saved['schema_version']}, this version reads {_SCHEMA}")
        real_vs_real, noise = (Quality.from_dict(saved[end], real.label) for end in ("real_vs_real", "noise"))
        pixels = None if saved["pixels"] is None else Gaussian(**saved["pixels"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{scale} is no scale that this version can read: {error}") from error
    return Evaluator(extractor, real, real_vs_real, noise, pixels=pixels)


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
