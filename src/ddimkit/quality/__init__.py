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
from ddimkit.quality.estimate import Estimate, Influence, covariance
from ddimkit.quality.evaluator import Evaluator, load_evaluator
from ddimkit.quality.features import Extractor
from ddimkit.quality.measure import (
    Quality,
    difference,
    evaluate,
    evaluate_images,
    other_seed_distance,
    same_seed_distance,
    same_seed_share,
)
from ddimkit.quality.monitor import QualityMonitor, WindowReport
from ddimkit.quality.reference import Label, Reference, Training
from ddimkit.quality.statistics import FeatureStatistics, KernelStatistics

__all__ = [
    "Estimate",
    "Evaluator",
    "Extractor",
    "FeatureStatistics",
    "Influence",
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
    "class_distance",
    "covariance",
    "difference",
    "evaluate",
    "evaluate_images",
    "kernel_distance",
    "load_evaluator",
    "nearest",
    "other_seed_distance",
    "precision_recall",
    "same_seed_distance",
    "same_seed_share",
]
