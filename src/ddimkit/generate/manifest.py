"""What a folder of generated images was made with: the whole configuration, which must be equal, and the machine."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from ddimkit._machine import describe_machine, versions
from ddimkit.errors import WeightsError
from ddimkit.generate.blocks import Blocks
from ddimkit.generate.drawing import Drawing
from ddimkit.generate.shards import write_durably
from ddimkit.plan import Plan
from ddimkit.prediction import DynamicThreshold, Prediction, check_clip
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule
from ddimkit.tradeoff.grid import model_code

__all__ = ["ROUNDING", "Manifest", "describe_arithmetic"]

ROUNDING = "round(127.5 * (x + 1)), halves to even, clamped to 0..255"
"""The rule by which images in [−1, 1] become bytes."""

_FORMAT, _SCHEMA = "ddimkit-generate", 1
_FILE = "manifest.json"
_CLOSE = 1e-9
_LONGEST = 100


@dataclass(frozen=True, eq=False)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        configuration: all that decides the images, as plain JSON values.
        machine: all that decides their last bits: processor, GPU, threads, flags and versions.
        sha256: hash of the configuration, which each shard names.
    """

    configuration: Mapping[str, Any]
    machine: Mapping[str, Any]
    sha256: str

    @classmethod
    def of(cls, drawing: Drawing, blocks: Blocks, threads: int) -> "Manifest":
        """The manifest of a run that is about to begin."""
        bundle, sampler, extractor = drawing.bundle, drawing.sampler, drawing.extractor
        record, clip = sampler.record(), sampler.clip
        configuration = {
            "model": {
                "name": bundle.name,
                "sha256": bundle.weights_sha256(),
                "code_sha256": hashlib.sha256(model_code(bundle).encode()).hexdigest(),
                "sample_shape": bundle.sample_shape,
            },
            "sampler": {"name": record["sampler"], "settings": record["settings"]},
            "plan": sampler.plan().to_dict(),
            "prediction": sampler.prediction,
            "clip": asdict(clip) if isinstance(clip, DynamicThreshold) else clip,
            "conditions_sha256": bundle.conditions_sha256([*blocks.padded(0), *blocks.padded(len(blocks) - 1)]),
            "features": None if extractor is None else {"name": extractor.name, "sha256": extractor.sha256},
            "seeds": [blocks.seeds[0], blocks.seeds[-1]],
            "images": len(blocks.seeds),
            "batch": blocks.batch,
            "noise": record["noise"],
            "rounding": ROUNDING,
        }
        plain: dict[str, Any] = json.loads(json.dumps(configuration))
        sha256 = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
        return cls(plain, describe_arithmetic(drawing.device, threads), sha256)

    @classmethod
    def load(cls, folder: str | Path) -> "Manifest":
        """Read the manifest of a folder.

        Raises:
            FileNotFoundError: the folder has none.
            WeightsError: it is damaged, or of another schema.
        """
        path = Path(folder) / _FILE
        try:
            saved = json.loads(path.read_bytes())
            if (saved["format"], saved["schema"]) != (_FORMAT, _SCHEMA):
                raise ValueError(f"it is not of format {_FORMAT}, schema {_SCHEMA}")
            configuration, machine, sha256 = dict(saved["configuration"]), dict(saved["machine"]), str(saved["sha256"])
            if hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest() != sha256:
                raise ValueError("its hash is not that of its configuration")
            found = cls(configuration, machine, sha256)
            found._check()
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise WeightsError(f"{path} is no manifest that this version can read: {error}") from error
        return found

    def _check(self) -> None:
        """Raise a ValueError, TypeError or KeyError where a value that this version reads is missing or of another kind."""
        saved = self.configuration
        if len(self.blocks.seeds) != saved["images"] or type(self.machine["threads"]) is not int or self.machine["threads"] < 1:
            raise ValueError("its numbers do not fit one another")
        if saved["prediction"] not in get_args(Prediction) or type(saved["model"]["name"]) is not str:
            raise ValueError("its model is not described")
        Plan.from_dict(saved["plan"])
        check_clip(self._clip)

    @property
    def blocks(self) -> Blocks:
        """The seeds and their blocks."""
        first, last = self.configuration["seeds"]
        return Blocks(range(first, last + 1), self.configuration["batch"])

    @property
    def _clip(self) -> Any:
        clip = self.configuration["clip"]
        return DynamicThreshold(**clip) if isinstance(clip, dict) else None if clip is None else tuple(clip)

    def sampler(self, schedule: NoiseSchedule) -> PlanSampler:
        """A sampler of the saved table.

        Raises:
            ValueError: the table is of another schedule.
        """
        plan = Plan.from_dict(self.configuration["plan"])
        return PlanSampler.from_plan(schedule, plan, prediction=self.configuration["prediction"], clip=self._clip)

    def settle(self, folder: Path, *, mixed_machines: bool = False) -> "Manifest":
        """Give a folder this manifest, or take the one it has, which must be of the same configuration and machine.

        Args:
            folder: the folder, which is there.
            mixed_machines: whether the machine may be another one. Its manifest is then kept beside, by a name of its own.

        Returns:
            the manifest in the folder.

        Raises:
            ValueError: the folder holds images of another configuration, or of another machine, saying what differs; or shards
                without a manifest.
        """
        path = folder / _FILE
        shards = (folder / "shards").exists()  # first: another process that begins now writes its manifest before its shards
        if not path.exists():
            if shards:
                raise ValueError(f"{folder} holds shards but no {_FILE}: take another folder")
            write_durably(path, self._content(), replace=False)
        found = Manifest.load(folder)
        apart = differences(found.configuration, self.configuration)
        if apart:
            raise ValueError(f"{folder} holds images of another configuration: {'; '.join(apart)}. Take another folder")
        apart = differences(found.machine, self.machine)
        if apart and not mixed_machines:
            raise ValueError(
                f"{folder} holds images of another machine or other versions: {'; '.join(apart)}. Images drawn here would "
                "be the same to rounding only. Go on there, or allow mixed machines"
            )
        if apart:
            digest = hashlib.sha256(json.dumps(self.machine, sort_keys=True).encode()).hexdigest()
            write_durably(folder / f"manifest-{digest[:16]}.json", self._content(), replace=False)
        return found

    def _content(self) -> bytes:
        saved = {"format": _FORMAT, "schema": _SCHEMA, "sha256": self.sha256}
        return (json.dumps({**saved, "configuration": self.configuration, "machine": self.machine}, indent=1) + "\n").encode()


def describe_arithmetic(device: torch.device, threads: int) -> dict[str, Any]:
    """What the last bits of an image depend on beside the configuration, as plain JSON values."""
    machine = describe_machine(device)
    found: dict[str, Any] = {name: machine.get(name) for name in ("processor", "system", "cpu_capability", "gpu", "cuda")}
    flags = {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }
    return {**found, "device": device.type, "threads": threads, "flags": flags, "versions": versions()}


def differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """What differs between two plain JSON values, a line each; floats may differ by 1e-9 of them, as they do between processors."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        keys = sorted({*theirs, *ours})
        return [line for key in keys for line in differences(theirs.get(key), ours.get(key), f"{name}.{key}".lstrip("."))]
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        lines = [line for a, b in zip(theirs, ours, strict=True) for line in differences(a, b, name)]
        return lines[:1]
    if isinstance(theirs, float) and isinstance(ours, int | float) and math.isclose(theirs, ours, rel_tol=_CLOSE, abs_tol=1e-12):
        return []
    return [] if theirs == ours else [f"{name} is {_short(theirs)} there and {_short(ours)} here"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
