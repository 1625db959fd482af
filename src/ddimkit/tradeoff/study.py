"""A study: what samplers of one model cost and draw, one row each, as a value that can be saved, compared and recommended from."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ddimkit._repr import short_repr
from ddimkit.errors import DDIMKitError
from ddimkit.quality.estimate import Estimate, covariance
from ddimkit.quality.measure import Distance, Quality, check_comparable
from ddimkit.quality.reference import Label
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import FloatArray, NoiseSchedule
from ddimkit.tradeoff.rows import Row, read_row, read_shared, shared_settings

__all__ = ["Study", "distance_covariances", "known_row"]

_KIND = "ddimkit-study"
_SCHEMA = 1
_DISTANCES: tuple[Distance, ...] = get_args(Distance)
_DIGITS = 4


@dataclass(frozen=True, eq=False)
class Study:
    r"""What was measured of some samplers of one model, all from the same seeds.

    Attributes:
        model: name, hash of the weights and sample shape.
        schedule: the model's.
        rows: one a sampler.
        baseline: label of the row that speed-ups and gaps are relative to.
        machine: processor or GPU, cores, threads.
        versions: of Python, torch, numpy and ddimkit.
        settings: how it was measured, as plain JSON values.
        label: the reference and the extractor of all metrics; None where nothing was evaluated.
        real_vs_real: metrics of other real images; no sampler can be expected to be nearer to the reference.
        noise: metrics of pure noise, the other end of the scale.
        covariances: of the two distances of the :attr:`evaluated` rows, (Q, Q) each, in the order of the rows.
        images: the first images of each row by its label, (B, \*sample_shape); not saved.
    """

    model: Mapping[str, Any]
    schedule: NoiseSchedule
    rows: tuple[Row, ...]
    baseline: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    label: Label | None = None
    real_vs_real: Quality | None = None
    noise: Quality | None = None
    covariances: Mapping[Distance, FloatArray] = field(default_factory=dict[Distance, FloatArray], repr=False)
    images: Mapping[str, NDArray[np.float32]] = field(default_factory=dict[str, NDArray[np.float32]], repr=False)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        labels = [row.label for row in self.rows]
        if len(set(labels)) < len(labels):
            raise ValueError(f"every row needs a label of its own, got {sorted(name for name in labels if labels.count(name) > 1)}")
        if self.baseline not in labels:
            raise ValueError(f"the baseline {self.baseline!r} is none of the rows")
        for matrix in self.covariances.values():
            if matrix.shape != (len(self.evaluated),) * 2:
                raise ValueError(f"a covariance matrix must be {(len(self.evaluated),) * 2}, got {matrix.shape}")

    def row(self, label: str) -> Row:
        """The row of this label.

        Raises:
            KeyError: there is none.
        """
        found = next((row for row in self.rows if row.label == label), None)
        if found is None:
            raise KeyError(f"no row is labelled {label!r}: there are {', '.join(row.label for row in self.rows)}")
        return found

    @property
    def base(self) -> Row:
        """The baseline's row."""
        return self.row(self.baseline)

    @property
    def evaluated(self) -> tuple[Row, ...]:
        """The rows whose quality was measured by seeds that chose nothing."""
        return tuple(row for row in self.rows if row.quality is not None)

    def subset(self, labels: Iterable[str]) -> "Study":
        """The same with some of the rows only; the baseline stays."""
        kept = {*labels, self.baseline}
        places = [i for i, row in enumerate(self.evaluated) if row.label in kept]
        covariances = {metric: matrix[np.ix_(places, places)] for metric, matrix in self.covariances.items()}
        rows = tuple(row for row in self.rows if row.label in kept)
        return replace(self, rows=rows, covariances=covariances)

    def contrast(self, weights: Mapping[str, float], metric: Distance = "kernel") -> Estimate:
        r"""The weighted sum of some rows' distances, :math:`\sum_i w_i D_i`, with its interval.

        Args:
            weights: by the rows' labels.
            metric: ``"kernel"``, or ``"frechet"`` where all rows rest on equally many images.

        Raises:
            ValueError: a row was not evaluated, or the metrics cannot be compared.
        """
        return self.contrasts([weights], metric)[0]

    def contrasts(self, several: Sequence[Mapping[str, float]], metric: Distance = "kernel") -> list[Estimate]:
        """Each weighted sum of distances by itself, as :meth:`contrast`."""
        values, matrix = self.contrast_covariance(several, metric)
        return [Estimate.around(float(value), float(variance)) for value, variance in zip(values, matrix.diagonal(), strict=True)]

    def contrast_covariance(
        self, several: Sequence[Mapping[str, float]], metric: Distance = "kernel"
    ) -> tuple[FloatArray, FloatArray]:
        """The values (C,) of weighted sums of distances, and their covariance matrix (C, C)."""
        rows = self.evaluated
        places = {row.label: i for i, row in enumerate(rows)}
        table = np.zeros((len(several), len(rows)))
        for line, weights in zip(table, several, strict=True):
            named = [label for label, weight in weights.items() if weight]
            missing = [label for label in named if label not in places]
            if missing:
                raise ValueError(f"{', '.join(missing)}: the quality of this row was not measured")
            self._check(named, metric)
            for label in named:
                line[places[label]] = weights[label]
        values = np.array([row.quality.estimate(metric).value for row in rows if row.quality is not None])
        return table @ values, table @ self.covariances[metric] @ table.T

    def _check(self, labels: Sequence[str], metric: Distance) -> None:
        qualities = [row.quality for row in map(self.row, labels) if row.quality is not None]
        for other in qualities[1:]:
            check_comparable(qualities[0], other, metric)

    def difference(self, a: str, b: str, metric: Distance = "kernel") -> Estimate:
        """How much larger the distance of row a is than that of row b, paired by seeds."""
        return self.contrast({a: 1.0, b: -1.0} if a != b else {a: 0.0}, metric)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the kind and schema of the file."""
        arrays = {"signal": self.schedule.signal.tolist(), "noise": self.schedule.noise.tolist()}
        schedule = arrays if self.schedule.spec is None else dict(self.schedule.spec)
        ends = {"real_vs_real": self.real_vs_real, "noise": self.noise}
        return {
            "kind": _KIND,
            "schema_version": _SCHEMA,
            "model": dict(self.model),
            "schedule": schedule,
            "shared": shared_settings(self.base.sampler),
            "baseline": self.baseline,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "settings": dict(self.settings),
            "label": None if self.label is None else asdict(self.label),
            **{name: None if end is None else end.to_dict() for name, end in ends.items()},
            "covariances": {metric: _packed(matrix) for metric, matrix in self.covariances.items()},
            "rows": [row.to_dict() for row in self.rows],
        }

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically; a row a line."""
        plain = self.to_dict()
        rows = ",\n".join(json.dumps(row, allow_nan=False, separators=(",", ":")) for row in plain.pop("rows"))
        head = json.dumps(plain, allow_nan=False, separators=(",", ":"))
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(f'{head[:-1]},"rows":[\n{rows}\n]}}\n', encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Study":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            DDIMKitError: the file is no study, is truncated, holds NaN, or is of a schema this version does not know.
        """
        path = Path(path)
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise DDIMKitError(f"{path} is not a study that this version reads: {_said(error)}") from error

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Study":
        """Read what :meth:`to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: something is missing, of another kind or out of range.
        """
        if not isinstance(saved, dict) or saved.get("kind") != _KIND:
            raise ValueError("it holds no study, but something else")
        if saved["schema_version"] != _SCHEMA:
            raise ValueError(f"it is of schema {saved['schema_version']}, and this version reads schema {_SCHEMA}")
        spec = saved["schedule"]
        schedule = NoiseSchedule.from_spec(spec) if "name" in spec else NoiseSchedule(**spec)
        label = None if saved["label"] is None else Label(**saved["label"])
        shared = read_shared(saved["shared"])
        real, noise = (
            None if saved[end] is None or label is None else Quality.from_dict(saved[end], label)
            for end in ("real_vs_real", "noise")
        )
        rows = tuple(read_row(row, schedule, shared, label) for row in saved["rows"])
        packed = saved["covariances"]
        covariances: dict[Distance, FloatArray] = {name: _unpacked(packed[name]) for name in _DISTANCES if name in packed}
        baseline, machine, versions, settings = (saved[name] for name in ("baseline", "machine", "versions", "settings"))
        return cls(saved["model"], schedule, rows, baseline, machine, versions, settings, label, real, noise, covariances)


def known_row(study: Study, sampler: PlanSampler) -> Row | None:
    """The study's row of an equal sampler on the same schedule."""
    return next((row for row in study.rows if _equal(row.sampler, sampler)), None)


def _equal(a: PlanSampler, b: PlanSampler) -> bool:
    """Whether two samplers are equal up to the last bits of their schedules."""
    return type(a) is type(b) and a.nfe == b.nfe and a.schedule.is_same(b.schedule) and replace(b, schedule=a.schedule) == a


def distance_covariances(rows: Sequence[Row], known: Study | None = None) -> dict[Distance, FloatArray]:
    """The covariance matrices of both distances of the evaluated rows, from their influences or from an earlier study.

    Rows that an earlier study evaluated keep what it knows of them. Between such a row and one that was evaluated now the common
    seeds' part is not known and taken as 0, which makes intervals of their difference rather too wide.

    Args:
        rows: in their order.
        known: the study that rows without influences were taken from.
    """
    evaluated = [row for row in rows if row.quality is not None]
    if not evaluated:
        return {}
    return {metric: _matrix(evaluated, metric, known) for metric in _DISTANCES}


def _matrix(rows: Sequence[Row], metric: Distance, known: Study | None) -> FloatArray:
    found = np.zeros((len(rows), len(rows)))
    influences = [None if row.quality is None else row.quality.estimate(metric).influence for row in rows]
    for i, j in itertools.combinations_with_replacement(range(len(rows)), 2):
        a, b = influences[i], influences[j]
        if a is not None and b is not None:
            found[i, j] = found[j, i] = covariance(a, b)
    if known is not None:
        old = [i for i, influence in enumerate(influences) if influence is None]
        places = [next(k for k, other in enumerate(known.evaluated) if _equal(other.sampler, rows[i].sampler)) for i in old]
        found[np.ix_(old, old)] = known.covariances[metric][np.ix_(places, places)]
    return found


def _packed(matrix: FloatArray) -> dict[str, list[Any]]:
    """Standard errors, and the correlations below the diagonal, a list a row."""
    errors = np.sqrt(matrix.diagonal())
    scaled = matrix / np.maximum(np.outer(errors, errors), 1e-300)
    below = [[round(float(v), _DIGITS) for v in scaled[i, :i]] for i in range(len(matrix))]
    return {"errors": [float(f"{v:.7g}") for v in errors], "correlations": below}


def _unpacked(saved: Mapping[str, Any]) -> FloatArray:
    errors = np.asarray(saved["errors"], dtype=np.float64)
    matrix = np.eye(len(errors))
    if [len(line) for line in saved["correlations"]] != list(range(len(errors))):
        raise ValueError(f"a covariance matrix of {len(errors)} standard errors needs a correlation for each pair")
    for i, line in enumerate(saved["correlations"]):
        matrix[i, :i] = matrix[:i, i] = line
    if not np.isfinite(matrix).all() or (errors < 0).any() or (np.abs(matrix) > 1 + 1e-9).any():
        raise ValueError("standard errors must be at least 0 and correlations lie in [-1, 1]")
    scaled: FloatArray = matrix * np.outer(errors, errors)
    return scaled


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}")


def _said(error: Exception) -> str:
    """An error in one line; a KeyError's bare name becomes a sentence."""
    text = " ".join(str(error).split())
    return f"{text} is missing" if isinstance(error, KeyError) else text
