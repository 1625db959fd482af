r"""Watching quality in production: do the images drawn today look like those that were approved?

Features of generated images are summed in windows of fixed size. At the end of a window three statistics are compared with what
windows of approved images give: the Mahalanobis distance of the window's mean, which sees a shift; the mean Mahalanobis square of
its images, which sees variety shrink or grow; and what lies outside the approved images' leading components, which sees features
that never moved before. Half of the approved images set the measure, windows drawn from the other half the limits, so that a window
of unchanged images raises an alarm about as often as stated, whatever the features' distribution.

The approved images' own averages have an error: that of N images for the mean, of N/2 for the other two. A window of n images is
compared with them, so drawn windows are spread about their average by the factors :math:`\sqrt{1 + n/N}` and
:math:`\sqrt{1 + 2n/N}`. With that, at a stated rate of 1 % and skewed features of width 8, windows of 200 beside 1,200 approved
images raised an alarm in 1.0 %, of 50 beside 1,000 in 1.1 % and of 200 beside 4,000 in 0.9 % of cases (each ± 0.15 %). That is
the mean over sets of approved images: with 1,200 of them the rate of one set has a standard deviation of 1.3 %.
"""

import math
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddimkit._repr import short_repr
from ddimkit.errors import DDIMKitError
from ddimkit.quality.features import Extractor
from ddimkit.quality.statistics import FeatureStatistics, FloatArray, as_features

__all__ = ["Limits", "QualityMonitor", "WindowReport"]

_SCHEMA = 2
_DRAWN_WINDOWS = 4000
_DRAWN_AT_ONCE = 250
_KEPT_VARIANCE = 0.99
_IMAGES_A_COMPONENT = 10


@dataclass(frozen=True)
class WindowReport:
    """What one finished window showed.

    Attributes:
        number: windows before it.
        shift: its mean's Mahalanobis square, times the number of images: large where images have changed.
        spread: the mean Mahalanobis square of its images, near 1 for approved images: small where variety is lost.
        outside: the mean square of its images' features outside the approved images' leading components.
        drifted: whether any is outside its limits.
    """

    number: int
    shift: float
    spread: float
    outside: float
    drifted: bool


@dataclass(frozen=True, eq=False)
class Limits:
    """What windows of approved images look like.

    Attributes:
        window: images a window.
        false_alarm: probability that a window of unchanged images raises an alarm.
        approved: number of approved images.
        mean: (d,) of their features.
        basis: (p, d) orthonormal, the leading principal components of half of them.
        variances: (p,) along these.
        shift: largest allowed shift.
        spread: smallest and largest allowed spread.
        outside: largest allowed mean square outside the components.
    """

    window: int
    false_alarm: float
    approved: int
    mean: FloatArray
    basis: FloatArray
    variances: FloatArray
    shift: float
    spread: tuple[float, float]
    outside: float

    __repr__ = short_repr

    @classmethod
    def of(cls, features: FloatArray, *, window: int, false_alarm: float, seed: int = 0) -> "Limits":
        """The limits that approved images' features (N, d) set, each as likely to raise a false alarm as the others.

        Raises:
            ValueError: false_alarm outside [0.005, 0.5], a window below 20, fewer approved images than four windows, or too few for
                the features' leading components.
        """
        x = as_features(features)
        if not 0.005 <= false_alarm <= 0.5:
            raise ValueError(f"false_alarm must lie in [0.005, 0.5], which drawn windows can tell, got {false_alarm}")
        if window < 20 or len(x) < 4 * window:
            raise ValueError(
                f"a window needs at least 20 images and 4 windows of approved ones, got {window} and {len(x)} approved"
            )
        measure = FeatureStatistics.of(x[::2])
        basis, variances = _components(measure.covariance)
        if len(x) < 2 * _IMAGES_A_COMPONENT * len(basis):
            needed = 2 * _IMAGES_A_COMPONENT * len(basis)
            raise ValueError(f"features of {len(basis)} leading components need at least {needed} approved images, got {len(x)}")
        mean = x.mean(axis=0)
        drawn = _drawn_windows(_measured(x[1::2] - mean, basis, variances), window, len(x), seed)
        shifts, spreads, outsides = _statistics(drawn, window)
        part = _tail(np.stack((-shifts, -spreads, spreads, -outsides)), false_alarm)
        low, high = (float(v) for v in np.quantile(spreads, [part, 1 - part]))
        tiny = 1e-9 * float(np.trace(measure.covariance))  # where the components hold everything, what is left is rounding
        limits = float(np.quantile(shifts, 1 - part)), (low, high), float(np.quantile(outsides, 1 - part)) + tiny
        return cls(window, false_alarm, len(x), mean, basis, variances, *limits)


def _components(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The leading principal components (p, d) that hold 99 % of the variance, and the variances (p,) along them."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    if values[0] <= 0:
        raise ValueError("the approved images all have the same features: there is nothing to compare with")
    kept = int(np.searchsorted(np.cumsum(values) / values.sum(), _KEPT_VARIANCE)) + 1
    return np.ascontiguousarray(vectors[:, :kept].T), values[:kept].copy()


def _measured(centred: FloatArray, basis: FloatArray, variances: FloatArray) -> FloatArray:
    """(N, p + 2) of centred features (N, d): whitened components, their mean square, and the square of what lies outside them."""
    inside = centred @ basis.T
    outside, z = centred - inside @ basis, inside / np.sqrt(variances)
    return np.column_stack((z, (z**2).mean(axis=1), (outside**2).sum(axis=1)))


def _statistics(means: FloatArray, window: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Shift, spread and what is outside of windows, from the means (W, p + 2) of what was measured of their images."""
    return window * (means[:, :-2] ** 2).sum(axis=1), means[:, -2], means[:, -1]


def _drawn_windows(measured: FloatArray, window: int, approved: int, seed: int) -> FloatArray:
    """The means (W, p + 2) of windows drawn with replacement from measured images (N, p + 2), as wide as new windows scatter."""
    generator, even = np.random.default_rng(seed), np.full(len(measured), 1 / len(measured))
    counts = (generator.multinomial(window, even, size=_DRAWN_AT_ONCE) for _ in range(_DRAWN_WINDOWS // _DRAWN_AT_ONCE))
    middle = measured.mean(axis=0)
    means: FloatArray = np.concatenate([count / window @ measured for count in counts]) - middle
    means[:, :-2] *= math.sqrt(1 + window / approved)
    means[:, -2:] = middle[-2:] + math.sqrt(1 + window / len(measured)) * means[:, -2:]
    return means


def _tail(statistics: FloatArray, share: float) -> float:
    """The tail of each statistic (K, W) such that ``share`` of the windows have at least one of them in its lowest tail."""
    ranks = statistics.argsort(axis=1).argsort(axis=1).min(axis=0)
    lowest = float(np.quantile(ranks, share))
    return lowest / len(ranks)


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
        self._sum, self._filled = np.zeros(len(limits.basis) + 2), 0
        self._windows, self._alarms = 0, 0
        self._last: WindowReport | None = None

    @classmethod
    def approve(
        cls, extractor: Extractor, images: Tensor | NDArray[np.uint8], *, window: int = 500, false_alarm: float = 0.01
    ) -> "QualityMonitor":
        """A monitor whose limits are those of approved images (N, C, H, W).

        Args:
            extractor: images to features.
            images: generated images of the quality that is wanted, at least four windows of them, and twenty for each leading
                component of their features.
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
            limits, reports = self.limits, list[WindowReport]()
            rest = _measured(features - limits.mean, limits.basis, limits.variances)
            while len(rest):
                taken, rest = np.split(rest, [limits.window - self._filled])
                self._sum, self._filled = self._sum + taken.sum(axis=0), self._filled + len(taken)
                if self._filled == limits.window:
                    reports.append(self._finish())
            return reports

    def _finish(self) -> WindowReport:
        """Report the full window and begin the next."""
        limits = self.limits
        shift, spread, outside = (float(value[0]) for value in _statistics(self._sum[None] / self._filled, self._filled))
        inside = shift <= limits.shift and limits.spread[0] <= spread <= limits.spread[1] and outside <= limits.outside
        report = WindowReport(self._windows, shift, spread, outside, not inside)
        self._sum, self._filled = np.zeros_like(self._sum), 0
        self._windows, self._alarms, self._last = self._windows + 1, self._alarms + report.drifted, report
        return report

    @property
    def statistics(self) -> FeatureStatistics:
        """Count, mean and scatter of the features of every image so far."""
        return self._total

    def figures(self) -> dict[str, float | int | bool | None]:
        """Where the monitor stands, as plain numbers."""
        with self._lock:
            last = {name: getattr(self._last, name, None) for name in ("drifted", "shift", "spread", "outside")}
            return {
                "images": int(self._total.count),
                "windows": self._windows,
                "alarms": self._alarms,
                "expected_false_alarms": self._windows * self.limits.false_alarm,
                **last,
                "shift_limit": self.limits.shift,
                "spread_low": self.limits.spread[0],
                "spread_high": self.limits.spread[1],
                "outside_limit": self.limits.outside,
            }

    def state(self) -> dict[str, Any]:
        """Everything but the extractor, as plain JSON values."""
        with self._lock:
            return {
                "schema_version": _SCHEMA,
                "extractor_sha256": self.extractor.sha256,
                "rounding": self.extractor.rounding,
                "limits": _listed(asdict(self.limits)),
                "total": _listed(asdict(self._total)),
                "window": {"sum": self._sum.tolist(), "filled": self._filled},
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
            saved = _arrays(state["limits"])
            saved["spread"] = tuple(saved["spread"])
            limits = Limits(**saved)
            monitor = cls(extractor, limits)
            monitor._total, monitor._sum = FeatureStatistics(**_arrays(state["total"])), np.asarray(state["window"]["sum"])
            monitor._filled, monitor._windows, monitor._alarms = state["window"]["filled"], state["windows"], state["alarms"]
            monitor._last = None if state["last"] is None else WindowReport(**state["last"])
            components, width = limits.basis.shape
            sizes = len(monitor._sum), len(monitor._total.mean)
            if sizes != (components + 2, width) or not 0 <= monitor._filled < limits.window:
                raise ValueError("its parts do not fit one another")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DDIMKitError(f"this is no state of a monitor: {type(error).__name__} {error}") from error
        return monitor


def _listed(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()}


def _arrays(saved: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value, dtype=np.float64) if isinstance(value, list) else value for name, value in saved.items()}
