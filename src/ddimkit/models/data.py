"""The training images, read from the original files: MNIST's IDX and CIFAR-10's binary batches."""

import gzip
import lzma
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["DatasetName", "load_images", "read_cifar10", "read_idx"]

DatasetName = Literal["mnist", "cifar10"]
Split = Literal["train", "test"]
Bytes = NDArray[np.uint8]

_CIFAR10_RECORD = 1 + 3 * 32 * 32
_MNIST_SIZES: dict[Split, int] = {"train": 60_000, "test": 10_000}
_MNIST_FILES: dict[Split, str] = {"train": "train-{}-idx{}-ubyte", "test": "t10k-{}-idx{}-ubyte"}
_CIFAR10_FILES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}


def read_idx(path: str | Path) -> Bytes:
    """The array in an IDX file of unsigned bytes, gzipped or not (LeCun's format of MNIST).

    Args:
        path: the file; a name that ends in ``.gz`` is unpacked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is no IDX file of unsigned bytes, or is longer or shorter than its header says.
    """
    raw = _unpack(Path(path))
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{path}: not an IDX file of unsigned bytes (its first bytes are {raw[:4].hex()}, not 000008xx)")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    found, wanted = len(raw) - 4 - 4 * raw[3], math.prod(shape)
    if found != wanted:
        raise ValueError(
            f"{path}: the header says {shape}, {wanted} bytes, but {found} bytes follow: the file is truncated or damaged"
        )
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def read_cifar10(path: str | Path) -> tuple[Bytes, Bytes]:
    """Images (N, 3, 32, 32) and labels (N,) in a file of CIFAR-10's binary version, packed with xz or not.

    Args:
        path: the file; a name that ends in ``.xz`` is unpacked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is no whole number of records, or has a label above 9.
    """
    raw = _unpack(Path(path))
    if not raw or len(raw) % _CIFAR10_RECORD:
        raise ValueError(
            f"{path}: {len(raw)} bytes are no whole number of {_CIFAR10_RECORD}-byte records: the file is truncated or wrong"
        )
    records = np.frombuffer(raw, np.uint8).reshape(-1, _CIFAR10_RECORD)
    if records[:, 0].max() > 9:
        raise ValueError(f"{path}: a label is {records[:, 0].max()}, above 9: this is not CIFAR-10's binary version")
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def load_images(dataset: DatasetName, folder: str | Path, split: Split = "train") -> tuple[Bytes, Bytes]:
    """All images (N, C, H, W) and labels (N,) of a split, unsigned bytes.

    Args:
        dataset: ``"mnist"`` or ``"cifar10"``.
        folder: where the original files lie, packed or not, in the folder itself or in one named like the data set.
        split: ``"train"`` or ``"test"``.

    Raises:
        FileNotFoundError: a file is missing, naming it.
        ValueError: a file is damaged, or holds something else.
    """
    folder = Path(folder)
    if dataset == "mnist":
        images, labels = (
            read_idx(_find(folder, dataset, _MNIST_FILES[split].format(*kind))) for kind in (("images", 3), ("labels", 1))
        )
        if images.shape != (_MNIST_SIZES[split], 28, 28) or labels.shape != (_MNIST_SIZES[split],):
            raise ValueError(
                f"{folder}: MNIST {split} should be {_MNIST_SIZES[split]} images, got {images.shape} and labels {labels.shape}"
            )
        return images[:, None], labels
    if dataset != "cifar10":
        raise ValueError(f"dataset must be 'mnist' or 'cifar10', got {dataset!r}")
    batches = [read_cifar10(_find(folder, dataset, name)) for name in _CIFAR10_FILES[split]]
    return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])


def _find(folder: Path, dataset: str, name: str) -> Path:
    for candidate in (folder, folder / dataset):
        for suffix in ("", ".gz", ".xz"):
            if (candidate / (name + suffix)).is_file():
                return candidate / (name + suffix)
    raise FileNotFoundError(f"{name} (or .gz, .xz) is neither in {folder} nor in {folder / dataset}")


def _unpack(path: Path) -> bytes:
    openers: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress}
    packed = path.read_bytes()
    try:
        return openers.get(path.suffix, bytes)(packed)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path}: cannot be unpacked, truncated or damaged ({error})") from error
