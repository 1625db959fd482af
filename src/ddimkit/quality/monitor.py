r"""Watching quality in production: do the images drawn today look like those that were approved?

Features of generated images are summed in windows of fixed size. At the end of a window two statistics are compared with what
windows of approved images give: the Mahalanobis distance of the window's mean, which sees a shift, and the mean Mahalanobis square
of its images, which sees variety shrink or grow. Their limits are quantiles over windows drawn from the approved images, so that a
window of unchanged images raises an alarm with a stated probability, whatever the features' distribution.
"""

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddimkit.errors import DDIMKitError
from ddimkit.quality.features import Extractor
from ddimkit.quality.statistics import FeatureStatistics, FloatArray, as_features

__all__ = ["Limits", "QualityMonitor", "WindowReport"]

_SCHEMA = 1
_DRAWN_WINDOWS = 4000
_DRAWN_AT_ONCE = 250
_KEPT_VARIANCE = 0.99


@dataclass(frozen=True)
class WindowReport:
    """What one finished window showed.

    Attributes:
        number: windows before it.
        shift: its mean's Mahalanobis square, times the number of images: large where images have changed.
        spread: the mean Mahalanobis square of its images, 1 on average for approved images: small where variety is lost.
        drifted: whether either is outside its limits.
    """

    number: int
    shift: float
    spread: float
    drifted: bool


@dataclass(frozen=True, eq=False)
class Limits:
    """What windows of approved images look like.

    Attributes:
        window: images a window.
        false_alarm: probability that a window of unchanged images raises an alarm.
        approved: number of approved images.
        mean: (d,) of their features.
        whiten: (p, d): features less the mean, times this, have mean 0 and covariance the identity.
        shift: largest allowed shift.
        spread: smallest and largest allowed spread.
    """

    window: int
    false_alarm: float
    approved: int
    mean: FloatArray
    whiten: FloatArray
    shift: float
    spread: tuple[float, float]

    @classmethod
    def of(cls, features: FloatArray, *, window: int, false_alarm: float, seed: int = 0) -> "Limits":
        """The limits that approved images' features (N, d) set.

        Half of the probability of a false alarm goes to the shift, a quarter to either end of the spread.

        Raises:
            ValueError: false_alarm outside (0.001, 0.5), a window below 20, or fewer approved images than four windows.
        """
        x = as_features(features)
        if not 0.001 <= false_alarm <= 0.5:
            raise ValueError(f"false_alarm must lie in [0.001, 0.5], which drawn windows can tell, got {false_alarm}")
        if window < 20 or len(x) < 4 * window:
            raise ValueError(
                f"a window needs at least 20 images and 4 windows of approved ones, got {window} and {len(x)} approved"
            )
        statistics = FeatureStatistics.of(x)
        whiten = _whitening(statistics.covariance)
        z = (x - statistics.mean) @ whiten.T
        shifts, spreads = _drawn_windows(z, window, seed)
        low, high = (float(v) for v in np.quantile(spreads, [false_alarm / 4, 1 - false_alarm / 4]))
        # Both means are uncertain in use, the window's alone among windows drawn from the approved images; so for the spread.
        wider = float(np.sqrt(1 + window / len(x)))
        limit = float(np.quantile(shifts, 1 - false_alarm / 2)) * wider**2
        return cls(window, false_alarm, len(x), statistics.mean, whiten, limit, (1 - (1 - low) * wider, 1 + (high - 1) * wider))


def _whitening(covariance: FloatArray) -> FloatArray:
    """(p, d): onto the leading principal components that hold 99 % of the variance, each of variance 1."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    if values[0] <= 0:
        raise ValueError("the approved images all have the same features: there is nothing to compare with")
    kept = int(np.searchsorted(np.cumsum(values) / values.sum(), _KEPT_VARIANCE)) + 1
    found: FloatArray = (vectors[:, :kept] / np.sqrt(values[:kept])).T
    return found


def _drawn_windows(z: FloatArray, window: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Shift and spread of windows drawn from whitened features (N, p) with replacement."""
    generator, squares = np.random.default_rng(seed), (z**2).mean(axis=1)
    shifts, spreads = [], []
    for _ in range(_DRAWN_WINDOWS // _DRAWN_AT_ONCE):
        counts = generator.multinomial(window, np.full(len(z), 1 / len(z)), size=_DRAWN_AT_ONCE) / window
        shifts.append(window * ((counts @ z) ** 2).sum(axis=1))
        spreads.append(counts @ squares)
    return np.concatenate(shifts), np.concatenate(spreads)


class QualityMonitor:
    """Running statistics of generated images, and an alarm where they drift from approved ones.

    Memory does not grow with the number of images. Threads may share a monitor.

    Args:
        extractor: images to features.
        limits: what approved images look like; :meth:`approve` makes both from the images.

    >>> import torch
    >>> from ddimkit.quality import Extractor, QualityMonitor
    >>> means = Extractor(lambda x: x.mean(dim=(2, 3)), name="colour means", sha256="none", rounding="none")
    >>> draw = torch.Generator().manual_seed(0)
    >>> monitor = QualityMonitor.approve(means, torch.randn(800, 3, 4, 4, generator=draw), window=100)
    >>> monitor.update(torch.randn(100, 3, 4, 4, generator=draw))[0].drifted
    False
    >>> monitor.update(torch.randn(100, 3, 4, 4, generator=draw) + 1)[0].drifted
    True
    """

    def __init__(self, extractor: Extractor, limits: Limits) -> None:
        self.extractor, self.limits = extractor, limits
        self._lock = threading.Lock()
        self._total = FeatureStatistics.empty(len(limits.mean))
        self._sum, self._squares, self._filled = np.zeros(len(limits.whiten)), 0.0, 0
        self._windows, self._alarms = 0, 0
        self._last: WindowReport | None = None

    @classmethod
    def approve(
        cls, extractor: Extractor, images: Tensor | NDArray[np.uint8], *, window: int = 500, false_alarm: float = 0.01
    ) -> "QualityMonitor":
        """A monitor whose limits are those of approved images (N, C, H, W).

        Args:
            extractor: images to features.
            images: generated images of the quality that is wanted, at least four windows of them.
            window: images a window: more see smaller changes, later.
            false_alarm: probability that a window of unchanged images raises an alarm.

        Raises:
            ValueError: too few images, or settings out of range.
        """
        return cls(extractor, Limits.of(extractor(images), window=window, false_alarm=false_alarm))

    def update(self, images: Tensor | NDArray[np.uint8]) -> list[WindowReport]:
        """Take in a batch of images (B, C, H, W); the reports of the windows that it finished."""
        features = self.extractor(images)
        with self._lock:
            self._total = self._total.merge(FeatureStatistics.of(features))
            rest, reports = (features - self.limits.mean) @ self.limits.whiten.T, list[WindowReport]()
            while len(rest):
                taken, rest = np.split(rest, [self.limits.window - self._filled])
                self._sum = self._sum + taken.sum(axis=0)
                self._squares += float((taken**2).mean(axis=1).sum())
                self._filled += len(taken)
                if self._filled == self.limits.window:
                    reports.append(self._finish())
            return reports

    def _finish(self) -> WindowReport:
        """Judge the full window and begin the next."""
        n, (low, high) = self._filled, self.limits.spread
        shift, spread = float(self._sum @ self._sum) / n, self._squares / n
        report = WindowReport(self._windows, shift, spread, shift > self.limits.shift or not low <= spread <= high)
        self._sum, self._squares, self._filled = np.zeros_like(self._sum), 0.0, 0
        self._windows, self._alarms, self._last = self._windows + 1, self._alarms + report.drifted, report
        return report

    @property
    def statistics(self) -> FeatureStatistics:
        """Count, mean and scatter of the features of every image so far."""
        return self._total

    def figures(self) -> dict[str, float | int | bool | None]:
        """Where the monitor stands, as plain numbers."""
        with self._lock:
            last = self._last
            return {
                "images": int(self._total.count),
                "windows": self._windows,
                "alarms": self._alarms,
                "expected_false_alarms": self._windows * self.limits.false_alarm,
                "drifted": None if last is None else last.drifted,
                "shift": None if last is None else last.shift,
                "shift_limit": self.limits.shift,
                "spread": None if last is None else last.spread,
                "spread_low": self.limits.spread[0],
                "spread_high": self.limits.spread[1],
            }

    def state(self) -> dict[str, Any]:
        """Everything but the extractor, as plain JSON values."""
        with self._lock:
            limits = asdict(self.limits) | {"mean": self.limits.mean.tolist(), "whiten": self.limits.whiten.tolist()}
            total = {"count": self._total.count, "mean": self._total.mean.tolist(), "scatter": self._total.scatter.tolist()}
            return {
                "schema_version": _SCHEMA,
                "extractor_sha256": self.extractor.sha256,
                "rounding": self.extractor.rounding,
                "limits": limits,
                "total": total,
                "window": {"sum": self._sum.tolist(), "squares": self._squares, "filled": self._filled},
                "windows": self._windows,
                "alarms": self._alarms,
                "last": None if self._last is None else asdict(self._last),
            }

    @classmethod
    def restore(cls, extractor: Extractor, state: Mapping[str, Any]) -> "QualityMonitor":
        """The monitor that :meth:`state` describes, going on where it was.

        Raises:
            DDIMKitError: no state of a monitor, of another schema, or of another extractor or rounding.
        """
        try:
            if state["schema_version"] != _SCHEMA:
                raise DDIMKitError(f"a monitor's state of schema {state['schema_version']}; this version reads schema {_SCHEMA}")
            if (state["extractor_sha256"], state["rounding"]) != (extractor.sha256, extractor.rounding):
                raise DDIMKitError(
                    f"the state was made with another extractor than {extractor.name!r}: {state['extractor_sha256']}"
                )
            limits: dict[str, Any] = dict(state["limits"])
            total, window = state["total"], state["window"]
            limits |= {key: np.asarray(limits[key], dtype=np.float64) for key in ("mean", "whiten")}
            limits["spread"] = tuple(limits["spread"])
            monitor = cls(extractor, Limits(**limits))
            monitor._total = FeatureStatistics(total["count"], np.asarray(total["mean"]), np.asarray(total["scatter"]))
            monitor._sum, monitor._squares, monitor._filled = np.asarray(window["sum"]), window["squares"], window["filled"]
            monitor._windows, monitor._alarms = state["windows"], state["alarms"]
            monitor._last = None if state["last"] is None else WindowReport(**state["last"])
        except (KeyError, TypeError, ValueError) as error:
            raise DDIMKitError(f"this is no state of a monitor: {type(error).__name__} {error}") from error
        return monitor
