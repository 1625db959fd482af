"""Made-up sweeps: a toy bundle that takes no time, and curves whose numbers a test chooses."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddimkit import ModelBundle, NoiseSchedule, TradeoffCurve
from ddimkit.quality import Estimate, Extractor, Label, Quality, Reference, Yardstick
from ddimkit.tradeoff.budget import BudgetResult
from ddimkit.tradeoff.results import ConfigurationResult, Spread
from probes import Counting, smooth

TOTAL = 20
SCHEDULE = NoiseSchedule.cosine(TOTAL)
SHAPE = (1, 4, 4)


def toy(model: Any = None, **changes: Any) -> ModelBundle:
    """An elementwise model of x0 whose calls are counted."""
    settings: dict[str, Any] = {"sample_shape": SHAPE, "prediction": "x0", "clip": (-1.0, 1.0), "name": "toy", **changes}
    return ModelBundle(Counting(smooth) if model is None else model, SCHEDULE, **settings)


REAL = torch.empty(400, *SHAPE).uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(0))


def toy_yardstick(sha256: str = "quarters", **settings: Any) -> Yardstick:
    """Judges the toy's images by the means of their quarters."""
    extractor = Extractor(lambda x: torch.nn.functional.avg_pool2d(x, 2).flatten(1), name="quarters", sha256=sha256, **settings)
    return Yardstick.of(extractor, Reference.of("toys test", extractor(REAL[:200]), extractor), REAL[200:], noise_images=200)


def blue(x: Tensor, t: Tensor) -> Tensor:
    return smooth(x, t) - 1


def result(
    sampler: str = "DDIMSampler",
    steps: int = 10,
    eta: float | None = 0.0,
    *,
    seconds: float | None = None,
    speedup: float | None = None,
    spread: float = 0.01,
    overhead: float = 0.001,
    memory: int | None = 2**20,
    baseline: bool = False,
    runs: int = 3,
    rounds: Sequence[float] = (),
) -> ConfigurationResult:
    """One result; by default time is 10 ms a model call, a thousandth of it overhead, and a quartile 1 % of it away.

    ``rounds`` are the seconds of each round, as multiples of the time.
    """
    total = steps / 100 if seconds is None else seconds
    gain = 1000 / steps if speedup is None else speedup
    return ConfigurationResult(
        sampler=sampler,
        steps=steps,
        eta=eta,
        baseline=baseline,
        timesteps=tuple(range(steps - 1, -1, -1)),
        seeds=(0, 1),
        nfe=steps,
        total_seconds=total,
        total_seconds_spread=Spread(total * (1 - spread), total * (1 + spread), runs, "rounds"),
        per_sample_seconds=total / 2,
        speedup=gain,
        speedup_spread=Spread(gain * (1 - spread), gain * (1 + spread), runs, "rounds"),
        sampler_overhead_seconds=total * overhead,
        peak_memory_bytes=memory,
        peak_memory_note="torch profiler" if memory is not None else "no profiler here",
        quality=None,
        record={"sampler": sampler, "nfe": steps},
        round_seconds=tuple(total * factor for factor in rounds),
    )


BASELINE = result("DDPMSampler", 1000, 1.0, baseline=True)


def curve(
    *results: ConfigurationResult, baseline: ConfigurationResult = BASELINE, images: bool = False, **changes: Any
) -> TradeoffCurve:
    """The baseline and some results; ``images`` adds two random ones to each."""
    every = (baseline, *results)
    numbers = np.random.default_rng(0)
    samples = {c.label: numbers.uniform(-1, 1, (2, *SHAPE)).astype(np.float32) for c in every} if images else {}
    made = TradeoffCurve(
        model={"name": "toy", "weights_sha256": None, "schedule_sha256": SCHEDULE.sha256, "sample_shape": list(SHAPE)},
        machine={"processor": "a processor", "cores": 2, "threads": 1, "system": "Linux", "device": "cpu"},
        versions={"python": "3.11.7", "torch": "2.13.0", "numpy": "2.3.0", "ddimkit": "0.1.0"},
        settings={"device": "cpu", "batch": 2, "dtype": "float32", "rounds": 3},
        configurations=every,
        samples=samples,
    )
    return replace(made, **changes)


LABEL = Label("toy test", 1000, "123", "toy features", "abc", "uint8")
COMMON = np.random.default_rng(0).normal(size=400)


def quality(distance: float, *, width: float = 0.001, common: float = 0.02, count: int = 1000) -> Quality:
    """A figure whose interval is ±1.96 ``common`` wide, nearly all of it shared with the others, and ``width`` its own."""
    own = np.random.default_rng([int(abs(distance) * 1e6), count]).normal(size=400)
    replicates = distance + common * COMMON + width * own
    estimate = Estimate(distance, tuple(float(r) for r in replicates))
    return Quality(
        LABEL, ((0, count),), estimate, estimate, Estimate(0.9, (0.9,) * 400), Estimate(0.8, (0.8,) * 400), count, (), None
    )


def budgeted(sampler: str, calls: int, distance: float, spacing: str = "trailing", timesteps: Sequence[int] = ()) -> BudgetResult:
    """A sampler at a number of calls, whose fresh images are like the others."""
    whole, times = quality(distance), tuple(timesteps) or tuple(range(calls, 0, -1))
    return BudgetResult(sampler, calls, spacing, times, whole, whole)


def judged(distances: dict[int, float], *, eta: float = 0.0, sampler: str = "DDIMSampler", **settings) -> list[ConfigurationResult]:
    return [replace(result(sampler, steps, eta), quality=quality(d, **settings)) for steps, d in distances.items()]


def study(*results: ConfigurationResult, baseline: float = 1.0, floor: float = 0.0) -> TradeoffCurve:
    base = replace(BASELINE, quality=quality(baseline))
    return curve(*results, baseline=base, floor=quality(floor), noise=quality(100.0))


# The baseline is 1 above the floor, and the floor's interval 0.04 wide on either side: 10 % allows 0.104.
LINE = {10: 3.0, 20: 1.5, 50: 1.05, 100: 1.02, 250: 1.0}
