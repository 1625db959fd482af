"""Lists of timesteps found by search for a study, one file a list, so that several processes can share the search."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ddimkit import DDIMKitError, ModelBundle, optimize_timesteps
from ddimkit.learning import GaussianObjective, NetworkObjective, Objective, QualityObjective
from ddimkit.quality import Evaluator
from ddimkit.samplers.named import MAKERS, adds_noise

Kind = Literal["gaussian", "network", "quality"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NETWORK_SEEDS, FINE_STEPS = (range(20_000, 20_048), range(21_000, 21_096)), 200
QUALITY_SEEDS = range(22_000, 22_256), range(23_000, 23_512)
FIRST_SEED = 20_000
"""The seeds of searches begin here; those of a study's images end before."""

_GAUSSIAN_EVALUATIONS = 1000


@dataclass(frozen=True)
class Found:
    """A list that a search found.

    Args:
        sampler: name of the sampler.
        kind: of the objective.
        timesteps: descending.
        gained: whether it is better than the best named spacing on data that the search did not use.
        about: how it was found, as plain JSON values.
    """

    sampler: str
    kind: Kind
    timesteps: tuple[int, ...]
    gained: bool
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Search:
    """The search for lists of one model.

    Args:
        bundle: the model, on ``device``.
        evaluator: what the study's images are evaluated with.
        training: makes the evaluator of the training images, which the objective ``"quality"`` compares with.
        folder: keeps the lists.
        evaluations: of a list by the network; half as many by quality.
        device: where.
        end: no search is begun after this time of ``time.monotonic``.
    """

    bundle: ModelBundle
    evaluator: Evaluator
    training: Callable[[], Evaluator]
    folder: Path
    evaluations: int
    device: torch.device
    end: float

    def all_of(
        self, samplers: Sequence[str], calls: Sequence[int], kinds: Sequence[Kind], *, only: Sequence[str]
    ) -> list[Found | None]:
        """The lists of every sampler, number of calls and objective; None for those that are not found yet.

        Args:
            samplers: by name.
            calls: numbers of calls.
            kinds: of objectives; those of images without noise are left out for samplers that add noise.
            only: the samplers whose lists may be searched now.
        """
        asked = {kind: self._objective(kind) for kind in kinds if kind != "gaussian" or self.evaluator.pixels is not None}
        wanted = [(n, name, kind) for n in calls for kind in asked for name in samplers if _fits(name, kind)]
        return [self._one(name, n, kind, *asked[kind], search=name in only) for n, name, kind in wanted]

    def _objective(self, kind: Kind) -> tuple[Objective, dict[str, Any]]:
        """An objective, and what tells its results from those of another."""
        extractor = self.evaluator.extractor
        weights = {"weights_sha256": self.bundle.weights_sha256()}
        if kind == "gaussian":
            pixels = self.evaluator.pixels
            assert pixels is not None
            gaussian = GaussianObjective(pixels.mean, pixels.spectrum, pixels.count)
            return gaussian, weights | {"pixels of": "the train split", "of": _GAUSSIAN_EVALUATIONS}
        if kind == "network":
            network = NetworkObjective(self.bundle, *NETWORK_SEEDS, FINE_STEPS, extractor, self.device)
            about = {"fine_steps": FINE_STEPS, "extractor_sha256": extractor.sha256, "seeds": _ends(NETWORK_SEEDS)}
            return network, weights | about | {"of": self.evaluations}
        real = self.training()
        quality = QualityObjective(self.bundle, real, *QUALITY_SEEDS, batch=32, device=self.device)
        about = {"reference": asdict(real.reference.label), "seeds": _ends(QUALITY_SEEDS)}
        return quality, weights | about | {"of": self.evaluations // 2}

    def _one(self, name: str, calls: int, kind: Kind, objective: Objective, about: dict[str, Any], *, search: bool) -> Found | None:
        path = self.folder / f"{name}-{calls}-{kind}.json"
        if not path.exists():
            if not search or time.monotonic() >= self.end:
                return None
            template = self.bundle.sampler(MAKERS[name], steps=calls)
            times = optimize_timesteps(template, calls, objective=objective, evaluations=about["of"])
            result = {"reason": times.reason, "evaluations": times.evaluations, "named": times.named}
            _keep({"timesteps": times, "gained": times.gained, "about": {**about, **result}}, path)
        saved = json.loads(path.read_text(encoding="utf-8"))
        if any(saved["about"].get(key) != value for key, value in about.items()):
            raise DDIMKitError(f"{path} holds a list of another model or search: choose another folder, or remove it")
        return Found(name, kind, tuple(saved["timesteps"]), saved["gained"], saved["about"])


def _fits(name: str, kind: Kind) -> bool:
    """Whether an objective can be asked about a sampler: the images of one that adds noise have nothing to come near to."""
    return kind == "quality" or not adds_noise(MAKERS[name])


def _ends(seeds: tuple[range, range]) -> dict[str, list[int]]:
    return {name: [part.start, part.stop] for name, part in zip(("searched", "unseen"), seeds, strict=True)}


def _keep(values: Mapping[str, Any], path: Path) -> None:
    """Write JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values), encoding="utf-8")
    partial.replace(path)
