"""The readers of the original data files, on small files of the same formats."""

import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimkit.models import data
from ddimkit.models.data import Bytes, load_images, read_cifar10, read_idx

PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
shapes = st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple)


def idx(values: Bytes) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def cifar(images: Bytes, labels: Bytes) -> bytes:
    return b"".join(bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True))


def pixels(*shape: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three training and two test images in MNIST's files, which the reader is told to expect."""
    for split, stem, count in (("train", "train", 3), ("test", "t10k", 2)):
        monkeypatch.setitem(data._MNIST_SIZES, split, count)  # type: ignore[misc]
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels(count, 28, 28, seed=count))))
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8)))
    return tmp_path


@given(shape=shapes, packing=st.sampled_from(list(PACKERS)), seed=st.integers(0, 9))
def test_idx_round_trip(tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], packing: str, seed: int) -> None:
    path, values = tmp_path_factory.getbasetemp() / f"values{packing}", pixels(*shape, seed=seed)
    path.write_bytes(PACKERS[packing](idx(values)))
    found = read_idx(path)
    assert found.dtype == np.uint8
    assert found.shape == shape
    assert np.array_equal(found, values)


@given(shape=shapes, change=st.integers(-8, 8).filter(bool))
def test_idx_of_another_length_is_refused(tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], change: int) -> None:
    path, whole = tmp_path_factory.getbasetemp() / "length", idx(pixels(*shape))
    path.write_bytes(whole[:change] if change < 0 else whole + bytes(change))
    with pytest.raises(ValueError, match=r"truncated or damaged|not an IDX file") as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@given(count=st.integers(1, 4), packing=st.sampled_from(list(PACKERS)), seed=st.integers(0, 9))
def test_cifar10_round_trip(tmp_path_factory: pytest.TempPathFactory, count: int, packing: str, seed: int) -> None:
    path = tmp_path_factory.getbasetemp() / f"batch.bin{packing}"
    images, labels = pixels(count, 3, 32, 32, seed=seed), pixels(count, seed=seed) % 10
    path.write_bytes(PACKERS[packing](cifar(images, labels)))
    found_images, found_labels = read_cifar10(path)
    assert np.array_equal(found_images, images)
    assert np.array_equal(found_labels, labels)


GOOD, RECORD = idx(pixels(2, 3)), cifar(pixels(1, 3, 32, 32), np.array([3], np.uint8))
DAMAGED = bytearray(gzip.compress(GOOD))
DAMAGED[-5] ^= 1  # a bit of the checksum

WRONG: list[tuple[str, Callable[[Path], Any], str, bytes, str]] = [
    ("empty", read_idx, "a", b"", "not an IDX file"),
    ("signed bytes", read_idx, "a", GOOD[:2] + b"\x09" + GOOD[3:], "first bytes are 00000902, not 000008xx"),
    ("a picture", read_idx, "a", b"\x89PNG\r\n\x1a\n", "first bytes are 89504e47"),
    ("a header cut off", read_idx, "a", GOOD[:9], "not an IDX file"),
    ("pixels cut off", read_idx, "a", GOOD[:-1], r"\(2, 3\), 6 bytes, but 5 bytes follow"),
    ("more than its header says", read_idx, "a", GOOD + b"x", "but 7 bytes follow"),
    ("a huge header", read_idx, "a", struct.pack(">HBBII", 0, 8, 2, 2**32 - 1, 2**32 - 1), "but 0 bytes follow"),
    ("gzip cut off", read_idx, "a.gz", gzip.compress(GOOD)[:-9], "cannot be unpacked"),
    ("gzip damaged", read_idx, "a.gz", bytes(DAMAGED), "cannot be unpacked"),
    ("gzip's data damaged", read_idx, "a.gz", gzip.compress(GOOD)[:10] + b"\xff\xff\xff", "cannot be unpacked"),
    ("no gzip", read_idx, "a.gz", GOOD, "cannot be unpacked"),
    ("xz cut off", read_cifar10, "a.xz", lzma.compress(RECORD)[:-9], "cannot be unpacked"),
    ("no xz", read_cifar10, "a.xz", RECORD, "cannot be unpacked"),
    ("no records", read_cifar10, "a", b"", "0 bytes are no whole number of 3073-byte records"),
    ("a record cut off", read_cifar10, "a", RECORD[:-1], "3072 bytes are no whole number"),
    ("a label of 10", read_cifar10, "a", RECORD + b"\x0a" + RECORD[1:], "a label is 10, above 9"),
]


@pytest.mark.parametrize(("_", "read", "name", "content", "message"), WRONG, ids=[case[0] for case in WRONG])
def test_a_wrong_file_is_named(
    tmp_path: Path, _: str, read: Callable[[Path], Any], name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_idx, read_cifar10):
        with pytest.raises(FileNotFoundError, match="nothing"):
            read(tmp_path / "nothing")


def test_load_mnist(mnist: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        images, labels = load_images("mnist", mnist, split)  # type: ignore[arg-type]  # mypy widens the literal
        assert np.array_equal(images, pixels(count, 28, 28, seed=count)[:, None])
        assert labels.tolist() == list(range(count))


def test_load_mnist_from_a_folder_of_its_name(mnist: Path) -> None:
    inner = mnist / "mnist"
    inner.mkdir()
    for path in [p for p in mnist.iterdir() if p.is_file()]:
        path.rename(inner / path.name)
    assert load_images("mnist", mnist)[0].shape == (3, 1, 28, 28)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"])
def test_a_missing_part_of_mnist_is_named(mnist: Path, name: str) -> None:
    (mnist / name).unlink()
    with pytest.raises(FileNotFoundError, match=name.removesuffix(".gz")):
        load_images("mnist", mnist)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("train-images-idx3-ubyte", pixels(2, 28, 28)),
        ("train-images-idx3-ubyte", pixels(3, 28, 27)),
        ("train-labels-idx1-ubyte", pixels(2)),
    ],
    ids=["two images", "another width", "two labels"],
)
def test_mnist_of_another_size_is_refused(mnist: Path, name: str, values: Bytes) -> None:
    (mnist / name).write_bytes(idx(values))
    with pytest.raises(ValueError, match="MNIST train should be 3 images") as caught:
        load_images("mnist", mnist)
    assert str(mnist) in str(caught.value)


def test_load_cifar10(tmp_path: Path) -> None:
    names = [*(f"data_batch_{i}.bin.xz" for i in range(1, 6)), "test_batch.bin"]
    for i, name in enumerate(names):
        packed = cifar(pixels(2, 3, 32, 32, seed=i), np.array([i, 9], np.uint8))
        (tmp_path / name).write_bytes(lzma.compress(packed) if name.endswith(".xz") else packed)
    images, labels = load_images("cifar10", tmp_path)
    assert labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert np.array_equal(images, np.concatenate([pixels(2, 3, 32, 32, seed=i) for i in range(5)]))
    assert load_images("cifar10", tmp_path, "test")[1].tolist() == [5, 9]
    (tmp_path / names[2]).unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3\.bin"):
        load_images("cifar10", tmp_path)


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'mnist' or 'cifar10', got 'svhn'"):
        load_images("svhn", tmp_path)  # type: ignore[arg-type]
