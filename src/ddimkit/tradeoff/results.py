"""What a sweep measured: one result a configuration, and all of them as a curve that can be saved."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddimkit.errors import DDIMKitError
from ddimkit.quality.measure import Quality

__all__ = ["ConfigurationResult", "Spread", "TradeoffCurve"]

_SCHEMA = 2


@dataclass(frozen=True)
class Spread:
    """The quartiles of repeated measurements, and what they are of.

    Attributes:
        low: lower quartile.
        high: upper quartile.
        runs: number of values.
        over: what varies, ``"rounds"`` or ``"tenths of one run"``.
    """

    low: float
    high: float
    runs: int
    over: str

    @classmethod
    def of(cls, values: list[float], over: str) -> "Spread":
        """The spread of measured values."""
        low, high = (float(v) for v in np.quantile(values, [0.25, 0.75]))
        return cls(low, high, len(values), over)


@dataclass(frozen=True)
class ConfigurationResult:
    """One sampler at one number of steps.

    Attributes:
        sampler: the class's name.
        steps: number of timesteps.
        eta: of DDIM; 1 for DDPM, whose noise it is; None for a sampler without one.
        baseline: whether the others' speed-ups are relative to this one.
        timesteps: the timesteps walked.
        seeds: one seed a sample.
        nfe: model calls.
        total_seconds: of one run of all seeds as one batch: the median.
        total_seconds_spread: the quartiles around it.
        per_sample_seconds: ``total_seconds`` a sample.
        speedup: the baseline's time over this one's, both of the same round: the median.
        speedup_spread: the quartiles around it.
        sampler_overhead_seconds: the same run with a model that returns a constant tensor.
        peak_memory_bytes: most memory that three steps held beyond what was there before; None if not measurable.
        peak_memory_note: how that was measured, or why it was not.
        quality: distances to real images; None where they were not judged.
        record: what reproduces the run.
        round_seconds: of the run in each round, the first round first; empty in results that kept none.
        quality_note: where the quality is from, or why there is none.
        same_seed_distance: root mean square difference, on the scale [0, 1] of pixels, from the images that the curve's ``finest``
            configuration draws from the same seeds; None for those images themselves.
        predicted_distance: squared Fréchet distance, in pixels, between normal data with the real images' mean and covariance and
            what the sampler makes of them with the exact denoiser, clipping aside; None where that is not known.
    """

    sampler: str
    steps: int
    eta: float | None
    baseline: bool
    timesteps: tuple[int, ...]
    seeds: tuple[int, ...]
    nfe: int
    total_seconds: float
    total_seconds_spread: Spread
    per_sample_seconds: float
    speedup: float
    speedup_spread: Spread
    sampler_overhead_seconds: float
    peak_memory_bytes: int | None
    peak_memory_note: str
    quality: Quality | None
    record: Mapping[str, Any]
    round_seconds: tuple[float, ...] = ()
    quality_note: str = ""
    same_seed_distance: float | None = None
    predicted_distance: float | None = None

    @property
    def label(self) -> str:
        """A short name, as in ``DDIM-50`` or ``DDIM-50 eta 0.5``."""
        return label(self.sampler, self.steps, self.eta)

    @property
    def key(self) -> tuple[str, int, float | None]:
        """What identifies the configuration across sweeps."""
        return self.sampler, self.steps, self.eta


def label(sampler: str, steps: int, eta: float | None) -> str:
    """A short name of a configuration."""
    name = f"{sampler.removesuffix('Sampler').replace('_', '-')}-{steps}"
    return f"{name} eta {eta:g}" if eta and sampler != "DDPMSampler" else name


@dataclass(frozen=True)
class TradeoffCurve:
    r"""Every result of a sweep, with what it was measured on.

    Attributes:
        model: name, hash of weights, schedule and sample shape of the model.
        machine: processor or GPU, cores, threads.
        versions: of Python, torch, numpy and ddimkit.
        settings: device, data type, batch size and rounds of the sweep.
        configurations: the results.
        floor: quality of other real images: no sampler can be expected below. None where nothing was judged.
        noise: quality of pure noise, the other end of the scale.
        finest: label of the configuration that same-seed distances are from: of those without noise the one of the most steps.
        other_seeds_distance: the mean of the same distance between its images of different seeds; None where it has but one.
        samples: the images of each configuration by its label, (B, \*sample_shape), not saved with the curve.
    """

    model: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    configurations: tuple[ConfigurationResult, ...]
    floor: Quality | None = None
    noise: Quality | None = None
    finest: str | None = None
    other_seeds_distance: float | None = None
    samples: Mapping[str, NDArray[np.float32]] = field(default_factory=dict[str, NDArray[np.float32]], compare=False, repr=False)

    @property
    def baseline(self) -> ConfigurationResult:
        """The configuration that speed-ups are relative to."""
        return next(c for c in self.configurations if c.baseline)

    def select(self, *, sampler: str | None = None, eta: float | None = None) -> list[ConfigurationResult]:
        """The results, baseline excluded, of one sampler and eta (either may be left open), by falling steps."""
        found = [c for c in self.configurations if not c.baseline and sampler in (None, c.sampler) and eta in (None, c.eta)]
        return sorted(found, key=lambda c: -c.steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the schema's version."""
        fields = {name: value for name, value in vars(self).items() if name not in ("samples", "configurations", "floor", "noise")}
        ends = {"floor": _quality_dict(self.floor), "noise": _quality_dict(self.noise)}
        configurations = [{**asdict(c), "quality": _quality_dict(c.quality)} for c in self.configurations]
        return {"schema_version": _SCHEMA, **fields, **ends, "configurations": configurations}

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.to_dict()) + "\n")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "TradeoffCurve":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            DDIMKitError: the file is no JSON of a sweep, or of a schema this version does not know.
        """
        path = Path(path)
        try:
            saved = json.loads(path.read_text())
            if saved["schema_version"] not in (1, _SCHEMA):
                raise DDIMKitError(f"{path} is of schema {saved['schema_version']}; this version reads schema 1 and {_SCHEMA}")
            if saved["schema_version"] == 1:
                saved = _without_quality(saved)
            results = tuple(_result(c) for c in saved["configurations"])
            if sum(c.baseline for c in results) != 1:
                raise ValueError("it has no baseline, or several")
            floor, noise = _quality(saved.get("floor")), _quality(saved.get("noise"))
            apart = saved.get("finest"), saved.get("other_seeds_distance")
            return cls(saved["model"], saved["machine"], saved["versions"], saved["settings"], results, floor, noise, *apart)
        except (AttributeError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
            raise DDIMKitError(f"{path} is not the results.json of a sweep: {type(error).__name__} {error}") from error


def _without_quality(saved: dict[str, Any]) -> dict[str, Any]:
    """Results of schema 1, whose figures of quality had no intervals, as results that were not judged."""
    note = "judged by an earlier version, without intervals: judge it again"
    judged = [{**c, "quality": None, "quality_note": note} if c["quality"] else c for c in saved["configurations"]]
    return {**saved, "configurations": judged, "floor": None, "noise": None}


def _result(saved: dict[str, Any]) -> ConfigurationResult:
    spreads = {name: Spread(**saved[name]) for name in ("total_seconds_spread", "speedup_spread")}
    # Results of before had no round_seconds.
    lists: dict[str, Any] = {name: tuple(saved[name]) for name in ("timesteps", "seeds", "round_seconds") if name in saved}
    fields: dict[str, Any] = {**saved, **spreads, **lists, "quality": _quality(saved["quality"])}
    return ConfigurationResult(**fields)


def _quality(saved: Mapping[str, Any] | None) -> Quality | None:
    return None if saved is None else Quality.from_dict(saved)


def _quality_dict(quality: Quality | None) -> dict[str, Any] | None:
    return None if quality is None else quality.to_dict()
