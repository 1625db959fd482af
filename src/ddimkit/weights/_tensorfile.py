"""Files of tensors: safetensors with JSON in the metadata, checked by hash, format and schema. Nothing is ever unpickled."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ddimkit.errors import WeightsError
from ddimkit.weights._pieces import read_content

__all__ = ["TensorFile", "check_sha256", "pack_tensors", "read_tensors", "write_tensors"]


@dataclass(frozen=True, eq=False)
class TensorFile:
    """What a file held.

    Attributes:
        tensors: by name.
        settings: the metadata, each value read as JSON.
        sha256: hash of the whole file.
    """

    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    sha256: str


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], *, kind: str, schema: int, settings: Mapping[str, Any]) -> str:
    """Write a file, the same bytes for the same content; returns its SHA-256. A former file stays whole until the new one is.

    Args:
        path: where.
        tensors: by name.
        kind: what the file is, as in ``"ddimkit-unet"``.
        schema: version of its layout.
        settings: JSON values.
    """
    content = pack_tensors(tensors, kind=kind, schema=schema, settings=settings)
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
    return hashlib.sha256(content).hexdigest()


def pack_tensors(tensors: Mapping[str, Tensor], *, kind: str, schema: int, settings: Mapping[str, Any]) -> bytes:
    """The content of the file that :func:`write_tensors` writes."""
    metadata = {"format": kind, "schema": str(schema), **{key: json.dumps(value) for key, value in settings.items()}}
    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata)
    return _sorted_header(content)


def _sorted_header(content: bytes) -> bytes:
    """The same safetensors content with its metadata, which the library orders at random, in alphabetical order."""
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def read_tensors(path: str | Path, *, kind: str, schema: int, sha256: str | None = None) -> TensorFile:
    """Read what :func:`write_tensors` wrote, or its pieces.

    Args:
        path: the file; where it is missing, the pieces that :func:`~ddimkit.weights._pieces.write_pieces` made of it.
        kind: what it must be.
        schema: the version of its layout that the caller reads.
        sha256: what its hash must be; None to take any.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: another hash, no safetensors file, or of another kind or schema.
    """
    path = Path(path)
    content = read_content(path)
    found = check_sha256(path, content, sha256)
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata: dict[str, str] = header.get("__metadata__", {})
        if (metadata.get("format"), metadata.get("schema")) != (kind, str(schema)):
            raise WeightsError(
                f"{path} is not of format {kind}, schema {schema}: {metadata.get('format')}, {metadata.get('schema')}"
            )
    except (SafetensorError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path} is no safetensors file ({error}); other formats are never loaded") from error
    try:
        settings = {key: json.loads(value) for key, value in metadata.items() if key not in ("format", "schema")}
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} does not describe a {kind}: its metadata are damaged ({error})") from error
    return TensorFile(tensors, settings, found)


def check_sha256(path: Path, content: bytes, sha256: str | None) -> str:
    """The hash of a file's content; a WeightsError if it is not the one that is wanted."""
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise WeightsError(f"{path} has SHA-256 {found}, not {sha256}: it is damaged or was changed, install it again")
    return found
