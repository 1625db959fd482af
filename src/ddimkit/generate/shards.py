"""Files of generated images: ``.npz`` archives that are written whole or not at all, with a checksum of their own.

A shard is a plain NumPy archive, which ``numpy.load`` reads. Its zip comment holds the hash of the configuration that made it and
the SHA-256 of all bytes before it, so that each changed or missing byte is noticed. Equal content gives equal bytes.
"""

import hashlib
import io
import os
import re
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddimkit.errors import WeightsError
from ddimkit.generate.blocks import Blocks

__all__ = ["Shard", "Shards", "pack_shard", "unpack_shard", "write_durably"]

_FOLDER_SIZE = 1000
_NAME = re.compile(r"([0-9]{9,19})\.npz")
_COMMENT = re.compile(rb"ddimkit-shard 1 configuration ([0-9a-f]{64}) sha256 ([0-9a-f]{64})")
_DIGEST = 64
"""Characters of a SHA-256 in hexadecimal."""


@dataclass(frozen=True, eq=False)
class Shard:
    """The images of one block.

    Attributes:
        images: (n, H, W, C) bytes.
        seeds: (n,) int64, one an image.
        labels: (n,) int64, the class that each image was conditioned on; None where there are none.
        features: (n, d) float16, of an extractor; None where none were kept.
    """

    images: NDArray[np.uint8]
    seeds: NDArray[np.int64]
    labels: NDArray[np.int64] | None = None
    features: NDArray[np.float16] | None = None


_KINDS: Mapping[str, tuple[str, int]] = {"images": ("|u1", 4), "seeds": ("<i8", 1), "labels": ("<i8", 1), "features": ("<f2", 2)}
"""Type and number of dimensions of each array."""


def pack_shard(shard: Shard, configuration: str) -> bytes:
    """The content of a shard's file.

    Args:
        shard: what it holds.
        configuration: hash of the configuration that made it, 64 hexadecimal digits.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, (kind, _) in _KINDS.items():
            value = getattr(shard, name)
            if value is not None:
                # A ZipInfo of its own: its date is fixed, where the archive would take the clock's.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(value, dtype=kind), (1, 0), allow_pickle=False)
        archive.comment = f"ddimkit-shard 1 configuration {configuration} sha256 {'0' * _DIGEST}".encode()
    content = buffer.getbuffer()
    digest = hashlib.sha256(content[:-_DIGEST]).hexdigest().encode()
    return b"".join((content[:-_DIGEST], digest))


def unpack_shard(content: bytes, configuration: str | None = None) -> Shard:
    """Read what :func:`pack_shard` gave.

    Args:
        content: of the file.
        configuration: the hash that the shard must name; None to take any.

    Raises:
        WeightsError: the content is truncated or changed, is no shard, or belongs to another configuration.
    """
    comment = _COMMENT.fullmatch(content[-len(b"ddimkit-shard 1 configuration  sha256 ") - 2 * _DIGEST :])
    if comment is None:
        raise WeightsError("it is truncated, or no shard")
    if hashlib.sha256(content[:-_DIGEST]).hexdigest().encode() != comment[2]:
        raise WeightsError("its bytes are not those that were written")
    if configuration is not None and comment[1] != configuration.encode():
        raise WeightsError("it belongs to another configuration")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays: dict[str, Any] = {
                member.filename.removesuffix(".npy"): _array(content, archive, member) for member in archive.infolist()
            }
        shard = Shard(**arrays)
    # What zipfile and NumPy raise of a crafted archive is not listed anywhere.
    except Exception as error:
        raise WeightsError(f"it is no shard that this version can read ({error})") from error
    if any(len(value) != len(shard.images) for value in arrays.values()):
        raise WeightsError("its arrays are of different lengths")
    return shard


def _array(content: bytes, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """An array of the archive; its header is checked against the bytes that are there before memory is taken for it."""
    kind, dimensions = _KINDS[member.filename.removesuffix(".npy")]
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(content):
        raise ValueError(f"{member.filename} is compressed")
    data = io.BytesIO(archive.read(member))
    np.lib.format.read_magic(data)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(data)
    if dtype != np.dtype(kind) or fortran or len(shape) != dimensions or min(shape) < 0:
        raise ValueError(f"{member.filename} holds {dtype} of shape {shape}")
    found: NDArray[Any] = np.frombuffer(data.getbuffer()[data.tell() :], dtype).reshape(shape)
    return found


def write_durably(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file so that at every moment it is whole or absent, after a crash of the machine too.

    Args:
        path: where; its folder is there.
        content: all of it.
        replace: whether a file of the name gives way; else it stays, and nothing is written.

    Raises:
        OSError: the content cannot be written; nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid():x}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            partial.replace(path)
        else:
            _link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _link(partial: Path, path: Path) -> None:
    """Give a file its name unless another one has it."""
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            partial.replace(path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Shards:
    """The shards of a folder, one a block, a thousand a folder: ``shards/000000/000000123.npz`` is block 123.

    Args:
        folder: where the manifest lies.
        blocks: which blocks there are to be.
        configuration: hash of the configuration.
    """

    folder: Path
    blocks: Blocks
    configuration: str

    def path(self, block: int) -> Path:
        """The file of a block."""
        return self.folder / "shards" / f"{block // _FOLDER_SIZE:06d}" / f"{block:09d}.npz"

    def has(self, block: int) -> bool:
        """Whether a block's file is there."""
        return self.path(block).exists()

    def present(self, among: range | None = None) -> set[int]:
        """The blocks, or those among some consecutive ones, whose files are there, from the names of the files."""
        among = range(len(self.blocks)) if among is None else among
        named = ((path, _NAME.fullmatch(path.name)) for path in self._files(among))
        found = ((path, int(match[1])) for path, match in named if match)
        return {block for path, block in found if block in among and path == self.path(block)}

    def strange(self) -> list[Path]:
        """Files among the shards that are no shard of this set, such as parts of interrupted writes."""
        return sorted(set(self._files(range(len(self.blocks)))) - {self.path(block) for block in self.present()})

    def _files(self, among: range) -> Iterator[Path]:
        for first in range(among.start // _FOLDER_SIZE * _FOLDER_SIZE, among.stop, _FOLDER_SIZE):
            with suppress(FileNotFoundError), os.scandir(self.path(first).parent) as entries:
                yield from (Path(entry.path) for entry in entries)

    def images(self, blocks: set[int]) -> int:
        """How many images some blocks hold."""
        short = len(self.blocks) * self.blocks.batch - len(self.blocks.seeds)
        return len(blocks) * self.blocks.batch - (short if len(self.blocks) - 1 in blocks else 0)

    def read(self, block: int) -> Shard:
        """A block's images.

        Raises:
            FileNotFoundError: the block is missing.
            WeightsError: its file is damaged, or not of this set; the message names the file.
        """
        path, seeds = self.path(block), self.blocks.seeds_of(block)
        content = path.read_bytes()
        try:
            shard = unpack_shard(content, self.configuration)
            if shard.seeds.tolist() != list(seeds):
                raise WeightsError("it holds other seeds than its name says")
        except WeightsError as error:
            raise WeightsError(f"{path} is damaged: {error}") from error
        return shard

    def write(self, block: int, shard: Shard) -> None:
        """Write a block's images durably; a file that another process has written meanwhile is replaced by the same bytes.

        Raises:
            OSError: they cannot be written, naming the block and what remains.
        """
        path, content = self.path(block), pack_shard(shard, self.configuration)
        try:
            if not path.parent.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                sync_folder(path.parent.parent)
                sync_folder(self.folder)
            write_durably(path, content)
        except FileNotFoundError:
            if not path.exists():  # else another process made the set whole and cleared parts of writes away
                raise
        except OSError as error:
            reason = error.strerror or str(error)
            message = (
                f"block {block} cannot be written to {path} ({reason}); what is there stays, and the same call goes on from it"
            )
            raise OSError(error.errno, message) from error

    def set_aside(self, block: int) -> Path:
        """Rename a damaged file, so that the block counts as missing; its new name."""
        path = self.path(block)
        aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.damaged")
        path.replace(aside)
        return aside

    def clear_partial(self) -> None:
        """Remove what interrupted writes left behind."""
        for path in self.strange():
            if path.suffix == ".partial":
                path.unlink(missing_ok=True)
