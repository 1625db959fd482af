"""Quality, measured: distances between generated and real images, with intervals, and a monitor for production."""

from ddimkit.quality.distances import (
    KernelSample,
    Neighbours,
    PrecisionRecall,
    class_distance,
    kernel_distance,
    nearest,
    precision_recall,
)
from ddimkit.quality.estimate import Estimate, bootstrap_weights
from ddimkit.quality.features import Extractor
from ddimkit.quality.measure import (
    Quality,
    difference,
    judge,
    judge_images,
    other_seed_distance,
    same_seed_distance,
    same_seed_share,
)
from ddimkit.quality.monitor import QualityMonitor, WindowReport
from ddimkit.quality.reference import Label, Reference, Training
from ddimkit.quality.statistics import FeatureStatistics, KernelStatistics
from ddimkit.quality.yardstick import Yardstick, load_yardstick

__all__ = [
    "Estimate",
    "Extractor",
    "FeatureStatistics",
    "KernelSample",
    "KernelStatistics",
    "Label",
    "Neighbours",
    "PrecisionRecall",
    "Quality",
    "QualityMonitor",
    "Reference",
    "Training",
    "WindowReport",
    "Yardstick",
    "bootstrap_weights",
    "class_distance",
    "difference",
    "judge",
    "judge_images",
    "kernel_distance",
    "load_yardstick",
    "nearest",
    "other_seed_distance",
    "precision_recall",
    "same_seed_distance",
    "same_seed_share",
]
