"""Large files in pieces, for places that take small files only: an index beside them names the pieces and the whole's SHA-256.

``NAME.json`` is the index of ``NAME``; pieces carry the beginning of the hash in their names, so that those of two versions never
mix, and the index is written last: whoever is interrupted while writing leaves the former version whole.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ddimkit.errors import WeightsError

__all__ = ["MOST_BYTES", "has_content", "read_content", "write_pieces"]

MOST_BYTES = 15 * 2**20
"""Size of a piece in bytes, below 16 MiB, which is a common limit of places that pass files on."""

_SCHEMA = 1


def write_pieces(content: bytes, path: str | Path, *, most: int = MOST_BYTES) -> list[Path]:
    """Write the content of ``path`` as pieces and an index beside where it would lie; pieces of a former version are removed.

    Args:
        content: the whole.
        path: the file that they stand for; it is not written itself.
        most: size of a piece, in bytes.

    Returns:
        the pieces in order, then the index.
    """
    path, sha256 = Path(path), hashlib.sha256(content).hexdigest()
    count = max(1, -(-len(content) // most))
    pieces = [path.with_name(f"{path.name}.{sha256[:8]}.{i + 1}of{count}") for i in range(count)]
    for i, piece in enumerate(pieces):
        piece.write_bytes(content[i * most : (i + 1) * most])
    index, partial = _index(path), path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"schema_version": _SCHEMA, "sha256": sha256, "pieces": [piece.name for piece in pieces]}) + "\n")
    partial.replace(index)
    former = re.compile(re.escape(path.name) + r"\.[0-9a-f]{8}\.\d+of\d+")
    for found in path.parent.iterdir():
        if former.fullmatch(found.name) and found not in pieces:
            found.unlink()
    return [*pieces, index]


def has_content(path: Path) -> bool:
    """Whether a file is there, whole or in pieces."""
    return path.is_file() or _index(path).is_file()


def read_content(path: Path) -> bytes:
    """The content of a file that is there whole, or in pieces.

    Raises:
        FileNotFoundError: neither the file nor an index of its pieces is there.
        WeightsError: the index is damaged, a piece is missing, or the pieces together have another hash than the index says.
    """
    if path.is_file() or not _index(path).is_file():
        return path.read_bytes()
    names, sha256 = _read_index(_index(path))
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise WeightsError(f"{path} is incomplete, its pieces {', '.join(missing)} are missing: fetch them again")
    content = b"".join((path.parent / name).read_bytes() for name in names)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise WeightsError(f"the pieces of {path} have SHA-256 {found}, not {sha256}: fetch them again")
    return content


def _index(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_index(index: Path) -> tuple[list[str], str]:
    try:
        saved: dict[str, Any] = json.loads(index.read_text())
        names, sha256, schema = [str(name) for name in saved["pieces"]], str(saved["sha256"]), saved["schema_version"]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{index} is no index of pieces: {error}") from error
    if schema != _SCHEMA:
        raise WeightsError(f"{index} is of schema {schema}, this version reads {_SCHEMA}")
    if any(Path(name).name != name for name in names):
        raise WeightsError(f"{index} names pieces outside its own folder: {', '.join(names)}")
    return names, sha256
