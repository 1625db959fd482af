"""The tables and the learning network that are part of the package, and the evaluation of a table by another network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ddimkit.errors import WeightsError
from ddimkit.learning.learned import SEED_SPAN, LearnedSampler
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.evaluator import Evaluator
from ddimkit.quality.features import Extractor
from ddimkit.quality.network import load_network

__all__ = ["evaluate_table", "load_extractor", "load_learned", "shipped_tables"]

_FOLDER = Path(__file__).parent
_TABLES = _FOLDER / "tables"
_NETWORKS = {"mnist": "bf85b55de36f89e1499c3f1dadefdee8f7b746f871f29dd77cf615e6974379b7"}


def load_learned(name: str, *, calls: int, noise: bool = False) -> LearnedSampler:
    """A learned table for one of our models, from the package.

    Args:
        name: the model, ``"mnist"``.
        calls: model calls of a run.
        noise: a table that adds noise on the way.

    Raises:
        ValueError: there is no such table; the message lists those that there are.

    >>> from ddimkit import load_learned, load_pretrained
    >>> mnist = load_pretrained("mnist")
    >>> load_learned("mnist", calls=5).sample(mnist.model, (2, *mnist.sample_shape), seed=0).shape
    torch.Size([2, 1, 28, 28])
    """
    path = _TABLES / f"{name}-{calls}{'-noise' if noise else ''}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in _TABLES.glob("*.json"))) or "none"
        raise ValueError(f"there is no learned table {path.stem}; the tables of this version are: {known}")
    return LearnedSampler.load(path)


def shipped_tables(name: str) -> list[LearnedSampler]:
    """Every learned table of a model that the package has, those without noise first, fewest calls first; none for other models."""
    tables = [LearnedSampler.load(path) for path in _TABLES.glob(f"{name}-*.json")]
    return sorted(tables, key=lambda table: (table.plan().adds_noise, table.nfe))


def load_extractor(name: str, *, device: torch.device | str = "cpu") -> Extractor:
    """The feature network that tables of one of our models are learned with; it never evaluates them.

    Args:
        name: the data set, ``"mnist"``.
        device: where the network runs.

    Raises:
        ValueError: there is no such network.
        WeightsError: the file is missing or damaged.
    """
    if name not in _NETWORKS:
        raise ValueError(f"the learning networks are {', '.join(_NETWORKS)}, got {name!r}")
    path = _FOLDER / "weights" / f"{name}-learning-features.safetensors"
    if not path.is_file():
        raise WeightsError(f"{path} is missing: install ddimkit again")
    return load_network(path, name=f"{name} learning features", sha256=_NETWORKS[name], device=device)


def evaluate_table(
    table: LearnedSampler,
    bundle: ModelBundle,
    evaluator: Evaluator,
    seeds: Sequence[int],
    *,
    batch_size: int = 250,
    device: torch.device | str = "cpu",
) -> LearnedSampler:
    """The table with its metrics by an evaluator that learning never saw, one more entry of ``origin.evaluations``.

    Args:
        table: what to evaluate.
        bundle: the model.
        evaluator: another network than that of the objective, with other real images.
        seeds: one for each image, none of which learning, choosing or confirming used.
        batch_size: images drawn at once.
        device: where the model runs.

    Raises:
        TypeError: seeds that are no sequence.
        ValueError: the evaluator has the network of the objective, or real images of the same name; a seed of learning; a model of
            other weights than the table was learned for.

    Images that two sets of other names share are found by :meth:`KernelObjective.shared_images`.
    """
    objective, label = table.origin.objective, evaluator.reference.label
    if _holds(objective, label.extractor_sha256):
        raise ValueError(f"the extractor {label.extractor!r} is the one that the table was learned with: evaluate with another")
    if _holds(objective, label.reference):
        raise ValueError(f"the images {label.reference!r} are those that the table was learned with: evaluate with others")
    known, found = table.origin.model["sha256"], bundle.weights_sha256()
    if known is not None and known != found:
        raise ValueError(f"the table was learned for the model of hash {known}, but this one's is {found}: give that model")
    if not isinstance(seeds, Sequence):
        raise TypeError(f"seeds must be a sequence of one seed for each image, as in range(2000), got {seeds!r}")
    used = [range(first, first + SEED_SPAN) for first in table.origin.settings["first_seeds"].values()]
    before = next((seed for seed in seeds if any(seed in span for span in used)), None)
    if before is not None:
        raise ValueError(f"seed {before} is one of those of learning: take seeds outside of {', '.join(map(str, used))}")
    images = bundle.draw(table, seeds, batch_size=batch_size, device=device)
    quality = evaluator.evaluate(images, seeds)
    entry = {
        "extractor": label.extractor,
        "sha256": label.extractor_sha256,
        "reference": label.reference,
        "quality": quality.to_dict(),
    }
    return replace(table, origin=replace(table.origin, evaluations=(*table.origin.evaluations, entry)))


def _holds(plain: Any, value: str) -> bool:
    """Whether plain JSON values hold a string."""
    if isinstance(plain, dict):
        return any(_holds(entry, value) for entry in plain.values())
    if isinstance(plain, list | tuple):
        return any(_holds(entry, value) for entry in plain)
    return bool(plain == value)
