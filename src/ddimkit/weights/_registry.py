"""Weights that lie beside the package, not in its wheel: where they are looked for, and by which hash they are known.

They are looked for in the folder that the caller names, else in the one that the variable ``DDIMKIT_WEIGHTS`` of the environment
names, else in ``benchmarks/weights`` of a checkout. Only files whose SHA-256 this version knows are loaded.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ddimkit.errors import WeightsError
from ddimkit.weights._pieces import has_content

__all__ = ["CHECKOUT", "HASHES", "VARIABLE", "find_published", "published_hashes", "weights_folder"]

VARIABLE = "DDIMKIT_WEIGHTS"
"""Name of the environment's variable that names a folder of weights."""

CHECKOUT = Path(__file__).parents[3] / "benchmarks" / "weights"
"""Where they lie in a checkout."""

HASHES = Path(__file__).parent / "_registry.json"
"""The SHA-256 of each file that has been published; ``benchmarks/publish_weights.py`` writes it."""


def published_hashes() -> Mapping[str, str]:
    """The SHA-256 of each published file, by its name."""
    hashes: dict[str, str] = json.loads(HASHES.read_text())
    return hashes


def find_published(names: tuple[str, ...], *, folder: str | Path | None, recipe: str, reader: str) -> dict[str, str]:
    """The hash of each file; a WeightsError if one is not known, or not there.

    Args:
        names: the files.
        folder: where they must lie; see :func:`weights_folder`.
        recipe: the command that makes them, for the message.
        reader: the function that reads files of one's own, for the message.
    """
    hashes, place = published_hashes(), weights_folder(folder)
    train = f"train it, `{recipe}`, and read the result with `{reader}`"
    unknown = [name for name in names if name not in hashes]
    if unknown:
        raise WeightsError(f"no {', '.join(unknown)} has been published with this version, so none can be checked: {train}")
    missing = [name for name in names if not has_content(place / name)]
    if missing:
        raise WeightsError(
            f"{', '.join(missing)} is not in {place}: it is not part of the wheel. Take it from benchmarks/weights of ddimkit's "
            f"repository, and name its folder by folder= or the variable {VARIABLE}; or {train}"
        )
    return {name: hashes[name] for name in names}


def weights_folder(folder: str | Path | None = None) -> Path:
    """The folder given, else the one that the environment names, else the checkout's."""
    named = os.environ.get(VARIABLE)
    return Path(folder) if folder is not None else Path(named) if named else CHECKOUT
