"""Reading a JSON file that must hold an object."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ddimkit.errors import WeightsError

__all__ = ["read_json_object"]


def read_json_object(path: Path, error: type[Exception] = WeightsError) -> Mapping[str, Any]:
    """The JSON object of a file.

    Args:
        path: the file.
        error: what is raised where it holds something else.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as cause:
        raise error(f"{path} cannot be read as JSON: {cause}") from cause
    if not isinstance(saved, Mapping):
        raise error(f"{path} must hold a JSON object, got {type(saved).__name__}")
    return cast("Mapping[str, Any]", saved)
