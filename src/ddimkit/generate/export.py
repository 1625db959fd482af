"""A whole folder in the forms that others read: the one file of the ADM evaluation suite, and PNG pictures."""

import errno
import hashlib
import os
import secrets
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ddimkit.errors import DDIMKitError
from ddimkit.generate.manifest import Manifest
from ddimkit.generate.shards import Shard, Shards, sync_folder, write_durably

__all__ = ["check_target", "export_adm", "export_images", "open_shards", "shuffled"]


_MARK = "configuration"
"""The file in a folder of pictures that holds the hash of their configuration."""


def open_shards(folder: str | Path) -> Shards:
    """The shards of a folder that :func:`~ddimkit.generate.generate` made.

    Raises:
        FileNotFoundError: it has no manifest.
        WeightsError: its manifest is damaged.
    """
    manifest = Manifest.load(folder)
    return Shards(Path(folder), manifest.blocks, manifest.sha256)


def each_shard(shards: Shards) -> Iterator[Shard]:
    """All shards in the order of their seeds, each checked.

    Raises:
        DDIMKitError: blocks are missing.
        WeightsError: a shard is damaged.
    """
    missing = sorted(set(range(len(shards.blocks))) - shards.present())
    if missing:
        raise DDIMKitError(
            f"{shards.folder} is not whole: {len(missing)} of {len(shards.blocks)} blocks are missing, the first is {missing[0]}; "
            "generate them first, with the same command"
        )
    return map(shards.read, range(len(shards.blocks)))


def shuffled(seeds: range) -> NDArray[np.int64]:
    """The order of the exported file: where each of its images stands among the seeds.

    Images are ordered by the SHA-256 of their seed, written in decimal. So the order depends on no version of anything, and images
    of one class, which some evaluations take for one split, do not stand together.

    Args:
        seeds: of all images.

    Returns:
        (N,): image i of the file has the seed ``seeds[order[i]]``.
    """
    keys = [hashlib.sha256(str(seed).encode()).digest() for seed in seeds]
    return np.array(sorted(range(len(seeds)), key=keys.__getitem__), dtype=np.int64)


def export_adm(folder: str | Path, path: str | Path) -> int:
    """Write the file that the ADM evaluation suite reads: ``arr_0``, (N, H, W, C) bytes, and ``arr_1``, labels where there are any.

    The images stand in the order of :func:`shuffled`. They are copied part by part, through a temporary file beside ``path``.

    Args:
        folder: of :func:`~ddimkit.generate.generate`.
        path: the ``.npz`` file; a former one stays whole until the new one is.

    Returns:
        the number of images.

    Raises:
        FileNotFoundError: the folder has no manifest.
        DDIMKitError: blocks are missing.
        WeightsError: a shard or the manifest is damaged.
        OSError: the file cannot be written, as where the disk is full or ``path`` is a folder.
    """
    shards, path = open_shards(folder), Path(path)
    check_target(path)
    seeds = shards.blocks.seeds
    order, labels = shuffled(seeds), list[NDArray[np.int64]]()
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    images: Any = None
    with tempfile.TemporaryFile(dir=path.parent) as scratch:
        done = 0
        for shard in each_shard(shards):
            if images is None:
                _allocate(scratch, len(seeds) * shard.images[0].size)
                images = np.memmap(scratch, np.uint8, "w+", shape=(len(seeds), *shard.images.shape[1:]))
            images[place[done : done + len(shard.images)]] = shard.images
            labels += [] if shard.labels is None else [shard.labels]
            done += len(shard.images)
        _write_archive(path, images, np.concatenate(labels)[order] if labels else None)
    return len(seeds)


def _allocate(scratch: IO[bytes], size: int) -> None:
    """Take the space of a file now, where the system can: a full disk is an OSError here, and kills a process that maps pages."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(scratch.fileno(), 0, size)


def check_target(path: str | Path) -> None:
    """Raise an OSError unless a file can be written to a path.

    Raises:
        FileNotFoundError: its folder is missing.
        IsADirectoryError: it is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"the export needs the name of a file, and {path} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"the export cannot be written to {path}: {path.parent} is no folder")


def _write_archive(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> None:
    """An uncompressed ``.npz`` of images and labels; NumPy copies memory-mapped images part by part."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            np.savez(file, images, *([] if labels is None else [labels]))  # as arr_0 and arr_1
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def export_images(folder: str | Path, target: str | Path) -> int:
    """Write one PNG picture a seed, ``000000/000123.png`` in folders of a thousand.

    The file ``configuration`` in the target holds the hash of the configuration that drew the pictures. Pictures of the same
    configuration that are there already stay.

    Args:
        folder: of :func:`~ddimkit.generate.generate`.
        target: the folder of the pictures, made where it is missing.

    Returns:
        the number of images.

    Raises:
        FileNotFoundError: the folder has no manifest.
        DDIMKitError: blocks are missing.
        WeightsError: a shard or the manifest is damaged.
        ValueError: images of neither one nor three channels; a target that holds pictures of another configuration.
        OSError: a picture cannot be written.
    """
    shards, target = open_shards(folder), Path(target)
    found = each_shard(shards)
    _mark(target, shards.configuration)
    for shard in found:
        for seed, image in zip(shard.seeds.tolist(), shard.images, strict=True):
            path = target / f"{seed - seed % 1000:06d}" / f"{seed:06d}.png"
            if path.exists():
                continue
            if not path.parent.exists():
                path.parent.mkdir(exist_ok=True)
                sync_folder(target)
            write_durably(path, _png(image))
    return len(shards.blocks.seeds)


def _mark(target: Path, configuration: str) -> None:
    """Give a folder of pictures the hash of a configuration, or raise a ValueError where it holds pictures of another one."""
    target.mkdir(parents=True, exist_ok=True)
    mark = target / _MARK
    if not mark.exists():
        strange = next(target.glob("*/*.png"), None)
        if strange is not None and not mark.exists():
            raise ValueError(f"{target} holds pictures of unknown origin, as {strange}: take another folder")
        write_durably(mark, f"{configuration}\n".encode(), replace=False)
    if mark.read_bytes() != f"{configuration}\n".encode():
        raise ValueError(f"{target} holds pictures of another configuration, as its file {_MARK} tells: take another folder")


def _png(image: NDArray[np.uint8]) -> bytes:
    """An image (H, W, 1 or 3) as a PNG file."""
    height, width, channels = image.shape
    if channels not in (1, 3):
        raise ValueError(f"only images of 1 or 3 channels can be PNG pictures, got {channels}")
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with its filter, 0 for none
    rows[:, 1:] = image.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
