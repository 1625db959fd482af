"""Made-up studies: rows whose distances, covariances and times a test chooses, and a toy bundle whose calls take no time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddimkit import DDIMSampler, DDPMSampler, ModelBundle, NoiseSchedule
from ddimkit.quality import Estimate, Evaluator, Extractor, Label, Quality, Reference
from ddimkit.quality.estimate import Z95
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.rows import Row, label_of
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.times import PARTS, Times
from probes import Counting, smooth

TOTAL = 20
SCHEDULE = NoiseSchedule.cosine(TOTAL)
SHAPE = (1, 4, 4)
LINEAR = NoiseSchedule.linear()
"""The schedule of the made-up rows, 1000 timesteps."""


def toy(model: Any = None, **changes: Any) -> ModelBundle:
    """An elementwise model of x0 whose calls are counted."""
    settings: dict[str, Any] = {"sample_shape": SHAPE, "prediction": "x0", "clip": (-1.0, 1.0), "name": "toy", **changes}
    return ModelBundle(Counting(smooth) if model is None else model, SCHEDULE, **settings)


REAL = torch.empty(400, *SHAPE).uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(0))


def toy_evaluator(sha256: str = "quarters", **settings: Any) -> Evaluator:
    """Evaluates the toy's images by the means of their quarters."""
    extractor = Extractor(lambda x: torch.nn.functional.avg_pool2d(x, 2).flatten(1), name="quarters", sha256=sha256, **settings)
    return Evaluator.of(extractor, Reference.of("toys test", extractor(REAL[:200]), extractor), REAL[200:], noise_images=200)


def blue(x: Tensor, t: Tensor) -> Tensor:
    return smooth(x, t) - 1


LABEL = Label("toy test", 1000, 123.0, "toy features", "abc", "uint8")


def quality(distance: float, error: float = 0.02, *, count: int = 2000, first: int = 0) -> Quality:
    """Metrics whose two distances are ``distance`` with a standard error of ``error``, of ``count`` seeds from ``first``."""
    both = Estimate.around(distance, error**2)
    shares = Estimate(0.9, 0.88, 0.92), Estimate(0.8, 0.78, 0.82)
    return Quality(LABEL, ((first, first + count),), both, both, *shares, manifold=min(count, 1000))


def times(
    seconds: float, *, pace: Sequence[float] = (1.0,) * PARTS, batch: int = 16, overhead: float = 0.001, memory: int | None = 2**20
) -> Times:
    """Times of a run; ``pace`` are the tenths of the measurement as multiples of the mean, ``overhead`` a share of the time."""
    parts = np.asarray(pace) / np.mean(pace) * seconds
    note = "torch profiler" if memory is not None else "no profiler here"
    return Times(seconds, batch, tuple(float(v) for v in parts), seconds * overhead, memory, note)


def row(
    sampler: PlanSampler,
    distance: float | None = None,
    *,
    error: float = 0.02,
    count: int = 2000,
    selected: float | None = None,
    seconds: float | None = None,
    timed: bool = True,
    pace: Sequence[float] = (1.0,) * PARTS,
    overhead: float = 0.001,
    **changes: Any,
) -> Row:
    """A row: by default 10 ms a model call, and the same image of a seed as DDIM's where the sampler adds no noise.

    Args:
        sampler: the sampler.
        distance: both distances; None where the quality was not measured.
        error: their standard error.
        count: number of images.
        selected: both distances by the seeds that chose; None where none chose.
        seconds: the time of a run.
        timed: whether the row was timed.
        pace: as ``times`` takes it.
        overhead: as ``times`` takes it.
        changes: further fields of the row.
    """
    noisy = sampler.coefficients.plan.adds_noise
    settings: dict[str, Any] = {
        "label": label_of(sampler),
        "quality": None if distance is None else quality(distance, error, count=count),
        "selection": None if selected is None else quality(selected, error, count=count, first=10**6),
        "source": "not evaluated" if distance is None else "this run",
        "times": times(sampler.nfe / 100 if seconds is None else seconds, pace=pace, overhead=overhead) if timed else None,
        "same_seed": 0.9 if noisy else 0.1,
        **changes,
    }
    return Row(sampler, **settings)


def ddim(steps: int, distance: float | None = None, *, eta: float = 0.0, **settings: Any) -> Row:
    """A row of DDIM."""
    return row(DDIMSampler(LINEAR, steps=steps, eta=eta), distance, **settings)


def ddpm(distance: float | None = None, *, steps: int = 1000, **settings: Any) -> Row:
    """A row of DDPM; with all steps, the baseline by default."""
    return row(DDPMSampler(LINEAR, steps=steps), distance, **settings)


def line(distances: Mapping[int, float | None], **settings: Any) -> list[Row]:
    """Rows of DDIM by their number of steps."""
    return [ddim(steps, distance, **settings) for steps, distance in distances.items()]


def study(
    *rows: Row,
    baseline: Row | None = None,
    correlation: float = 0.9,
    covariance: np.ndarray[Any, np.dtype[np.float64]] | None = None,
    images: bool = False,
    **changes: Any,
) -> Study:
    """The baseline, by default DDPM-1000 at a distance of 1, and some rows.

    Args:
        rows: the others.
        baseline: the baseline's row.
        correlation: of the distances of any two rows; their standard errors are those of the rows.
        covariance: of the evaluated rows in their order, instead.
        images: whether each row has two random images.
        changes: further fields of the study.
    """
    every = (ddpm(1.0) if baseline is None else baseline, *rows)
    errors = np.array([r.quality.kernel.margin / Z95 for r in every if r.quality is not None])
    shared = np.full((len(errors), len(errors)), correlation)
    np.fill_diagonal(shared, 1.0)
    matrix = shared * np.outer(errors, errors) if covariance is None else covariance
    numbers = np.random.default_rng(0)
    drawn = {r.label: numbers.uniform(-1, 1, (2, *SHAPE)).astype(np.float32) for r in every} if images else {}
    evaluated = len(errors) > 0
    made = Study(
        model={"name": "toy", "weights_sha256": None, "sample_shape": list(SHAPE)},
        schedule=LINEAR,
        rows=every,
        baseline=every[0].label,
        machine={"processor": "a processor", "cores": 2, "threads": 1, "system": "Linux", "device": "cpu"},
        versions={"python": "3.11.7", "torch": "2.13.0", "numpy": "2.3.0", "ddimkit": "0.1.0"},
        settings={"device": "cpu", "batch": 16, "seeds": list(range(16)), "dtype": "float32", "rounds": 3},
        label=LABEL if evaluated else None,
        real_vs_real=quality(0.0) if evaluated else None,
        noise=quality(100.0) if evaluated else None,
        covariances={"kernel": matrix, "frechet": matrix} if evaluated else {},
        images=drawn,
    )
    return replace(made, **changes)


# The gap is 2: from 3 at DDIM's 10 steps to the baseline's 1.
LINE: dict[int, float | None] = {10: 3.0, 20: 1.5, 50: 1.05, 100: 1.02, 250: 1.0}
