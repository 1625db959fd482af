"""The step-count sweep: time a model's samplers at many step counts against 1000-step DDPM.

The work is a list of small units, one configuration in one round. Configurations are interleaved, in an order rotated from round
to round; those of more than :data:`~ddimkit.tradeoff.configurations.LONG` steps run in the first round only. The baseline is walked
whole once, and its first rows again in every round: each speed-up compares times of the same round, so that a machine that slows
down for a while slows both. Long runs are compared by the median pace of their tenths.
Every finished unit is kept in the output folder, and a later call goes on from there.
"""

import hashlib
import json
import operator
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ddimkit._arguments import module_of
from ddimkit.errors import DDIMKitError
from ddimkit.loop import check_device
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.measure import other_seed_distance, same_seed_distance
from ddimkit.samplers import DDIMSampler
from ddimkit.samplers.named import SamplerMaker
from ddimkit.tradeoff.configurations import KEPT, LONG, Configuration, configurations, model_code
from ddimkit.tradeoff.judging import Judged, Judging
from ddimkit.tradeoff.results import ConfigurationResult, Spread, TradeoffCurve
from ddimkit.tradeoff.timing import (
    TimedRun,
    describe_machine,
    first_rows,
    measure_overhead,
    measure_peak_memory,
    time_run,
    versions,
)

T = TypeVar("T")

__all__ = ["KEPT", "LONG", "Progress", "forget", "sweep"]

Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, what)``, both counted in model calls."""

_STATE = "progress.json"
_SAMPLES = "samples.npz"


@dataclass
class _Measured:
    """What the units done so far have found, by the configuration's label; kept as JSON and images in a folder."""

    fingerprint: str
    folder: Path | None
    seconds: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    tenths: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    reference: dict[str, float] = field(default_factory=dict[str, float])
    extras: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    samples: dict[str, NDArray[np.float32]] = field(default_factory=dict[str, NDArray[np.float32]])

    def keep(self, c: Configuration, run: TimedRun) -> None:
        """Note what a run drew, and the pace of its tenths if it will be the only one."""
        self.samples.setdefault(c.label, run.samples.numpy())
        if c.long:
            self.tenths[c.label] = list(run.tenths)

    def save(self) -> None:
        if self.folder is None:
            return
        state = {key: value for key, value in vars(self).items() if key not in ("folder", "samples")}
        partial = self.folder / (_STATE + ".partial")
        partial.write_text(json.dumps(state))
        np.savez_compressed(self.folder / "samples.partial.npz", **self.samples)  # type: ignore[arg-type]
        (self.folder / "samples.partial.npz").replace(self.folder / _SAMPLES)
        partial.replace(self.folder / _STATE)

    @classmethod
    def load(cls, fingerprint: str, folder: Path | None) -> "_Measured":
        fresh = cls(fingerprint, folder)
        if folder is None:
            return fresh
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _STATE).exists():
            return fresh
        try:
            state = json.loads((folder / _STATE).read_text())
            with (folder / _SAMPLES).open("rb") as file, np.load(file, allow_pickle=False) as images:
                samples = {key: images[key] for key in images.files}
            found = cls(folder=folder, samples=samples, **state)
        except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DDIMKitError(f"{folder} holds a damaged sweep ({error}): remove it, or choose another folder") from error
        if found.fingerprint != fingerprint:
            raise DDIMKitError(
                f"{folder} holds a sweep of another model, machine or other settings: choose another folder, or remove it"
            )
        return found


def forget(folder: Path) -> None:
    """Remove the times a sweep keeps in a folder to go on from; results, pictures and the images drawn to be judged stay."""
    for name in (_STATE, _SAMPLES):
        (folder / name).unlink(missing_ok=True)


def sweep(
    bundle: ModelBundle,
    *,
    steps: Sequence[int] = (10, 20, 50, 100),
    etas: Sequence[float] = (0.0,),
    samplers: Sequence[SamplerMaker] = (DDIMSampler,),
    seeds: Sequence[int] = range(16),
    rounds: int = 3,
    eta_max_steps: int | None = None,
    judging: Judging | None = None,
    device: torch.device | str | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> TradeoffCurve:
    """Measure samplers at many step counts against DDPM over all timesteps, all from the same noise.

    Args:
        bundle: the model; its module is moved to ``device``.
        steps: step counts of every sampler.
        etas: values of eta, for samplers that take one.
        samplers: sampler classes, or functions of a schedule and keywords that return a sampler.
        seeds: one a sample; the batch is all of them at once.
        rounds: how often configurations of up to 100 steps are run; longer ones run once.
        eta_max_steps: samplers that add noise are run up to this number of steps only; None for no limit.
        judging: how the quality of what is drawn is judged; None for not at all.
        device: where; CUDA if there is one by default.
        out: folder that keeps finished work; a call with the same arguments goes on there. None keeps nothing.
        progress: called as work goes on with (model calls done, in all, what runs now).

    Returns:
        the curve, its ``samples`` included.

    Raises:
        ValueError: a step count or eta out of range, no seeds, fewer than one round.
        DDIMKitError: ``out`` holds a sweep of something else, or a damaged one.
    """
    if not isinstance(bundle, ModelBundle):
        raise TypeError(f"bundle must be a ModelBundle, as in sweep(load_pretrained('mnist')), got {type(bundle).__name__}")
    device = check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    seeds, steps, etas = (
        _listed(seeds, "seeds", operator.index),
        _listed(steps, "steps", operator.index),
        _listed(etas, "etas", float),
    )
    if not isinstance(rounds, int):
        raise TypeError(f"rounds must be an int, got {rounds!r}")
    if not seeds or rounds < 1 or not steps:
        raise ValueError(f"a sweep needs seeds, steps and rounds, got {len(seeds)} seeds, steps {steps} and {rounds} rounds")
    made = configurations(bundle, steps, etas, samplers, eta_max_steps)
    module = module_of(bundle.model)
    if module is not None:
        module.to(device)
    machine, settings = describe_machine(device), {"device": str(device), "batch": len(seeds), "dtype": "float32", "rounds": rounds}
    model = {
        "name": bundle.name,
        "weights_sha256": bundle.weights_sha256(),
        "schedule_sha256": bundle.schedule.sha256,
        "sample_shape": list(bundle.sample_shape),
    }
    planned = [(c.label, c.sampler.record(), c.sampler.plan().to_dict()) for c in made]
    identity = [model_code(bundle), model, machine, versions(), settings, seeds, planned]
    measured = _Measured.load(hashlib.sha256(json.dumps(identity).encode()).hexdigest(), out)
    _measure(measured, made, bundle, seeds, rounds, device, progress or _silent)
    found: dict[str, Judged] = {}
    if judging is not None:
        pace = median(measured.tenths[made[0].label]) / made[0].sampler.nfe / len(seeds)
        found = judging.run(made, bundle, pace, device=device, folder=out, progress=progress or _silent)
    unjudged, finest = Judged(None, "not judged in this run"), _finest(made).label
    results = tuple(
        replace(
            _result(c, measured, seeds, made, found.get(c.label, unjudged)),
            predicted_distance=None if judging is None else judging.predict(c),
        )
        for c in made
    )
    floor, noise = (None, None) if judging is None else (judging.yardstick.floor, judging.yardstick.noise)
    apart = other_seed_distance(measured.samples[finest]) if len(measured.samples[finest]) > 1 else None
    return TradeoffCurve(model, machine, versions(), settings, results, floor, noise, finest, apart, measured.samples)


def _listed(values: Sequence[T], name: str, kind: Callable[[Any], T]) -> tuple[T, ...]:
    try:
        return tuple(kind(v) for v in values)
    except (TypeError, ValueError):
        wanted = "numbers, as in (0.0, 0.5)" if name == "etas" else "ints, as in (10, 20)"
        raise TypeError(f"{name} must be a sequence of {wanted}, got {values!r}") from None


def _silent(done: int, total: int, what: str) -> None:
    del done, total, what


def _units(made: list[Configuration], rounds: int) -> list[tuple[int, Configuration, bool]]:
    """The work in order: (round, configuration, whether it is only the opening rows of the baseline)."""
    base, others = made[0], made[1:]
    opening = Configuration(first_rows(base.sampler, LONG), base.name, LONG, None)
    units = [(0, base, False)]
    for r in range(rounds):
        turn = others[r * len(others) // rounds :] + others[: r * len(others) // rounds]
        units += [(r, opening, True), *((r, c, False) for c in turn if r == 0 or c.steps <= LONG)]
    return units


def _measure(
    measured: _Measured,
    made: list[Configuration],
    bundle: ModelBundle,
    seeds: tuple[int, ...],
    rounds: int,
    device: torch.device,
    progress: Progress,
) -> None:
    """Do every unit that is not done yet."""
    units = _units(made, rounds)
    total, done, warm = sum(c.sampler.nfe for _, c, _ in units), 0, False
    for r, c, is_opening in units:
        book = measured.reference if is_opening else measured.seconds.setdefault(c.label, {})
        what = f"first {c.sampler.nfe} rows of {made[0].label}" if is_opening else c.label
        if str(r) in book:
            progress(done, total, f"{KEPT}: {what}")
        else:
            progress(done, total, f"round {r + 1}/{rounds}: {what}")
            if not warm:
                time_run(first_rows(made[0].sampler, 3), bundle, seeds, device)
                warm = True
            run = time_run(c.sampler, bundle, seeds, device)
            book[str(r)] = run.seconds
            if not is_opening:
                measured.keep(c, run)
                if c.label not in measured.extras:
                    measured.extras[c.label] = _extras(c, bundle, seeds, device)
            measured.save()
        done += c.sampler.nfe
    progress(total, total, "done")


def _extras(c: Configuration, bundle: ModelBundle, seeds: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    peak, note = measure_peak_memory(c.sampler, bundle, seeds, device)
    overhead = measure_overhead(c.sampler, bundle, seeds, device)
    return {"sampler_overhead_seconds": overhead, "peak_memory_bytes": peak, "peak_memory_note": note}


def _finest(made: list[Configuration]) -> Configuration:
    """Of the configurations without noise the first of the most steps: what the others come closer to as their steps grow."""
    return max(made, key=lambda c: (not c.sampler.coefficients.plan.adds_noise, c.steps))


def _speed(c: Configuration, measured: _Measured, base: Configuration) -> tuple[Spread, float, Spread]:
    """The spread of the seconds, the speed-up over the baseline, and its spread."""
    times, tenths = measured.seconds[c.label], measured.tenths.get(c.label)
    if tenths is not None:
        # One run each: their usual paces are compared, so that one slow spell of the machine in either does not decide.
        spread, whole = Spread.of(tenths, "tenths of one run"), median(measured.tenths[base.label])
        return spread, whole / median(tenths), Spread(whole / spread.high, whole / spread.low, spread.runs, spread.over)
    pace = base.sampler.nfe / min(LONG, base.sampler.nfe)
    speedups = [measured.reference[r] * pace / seconds for r, seconds in times.items()]
    return Spread.of(list(times.values()), "rounds"), median(speedups), Spread.of(speedups, "rounds")


def _result(
    c: Configuration, measured: _Measured, seeds: tuple[int, ...], made: list[Configuration], judged: Judged
) -> ConfigurationResult:
    times, images, finest = tuple(measured.seconds[c.label].values()), measured.samples[c.label], _finest(made).label
    spread, speedup, speedup_spread = _speed(c, measured, made[0])
    return ConfigurationResult(
        sampler=c.name,
        steps=c.steps,
        eta=c.eta,
        baseline=c.baseline,
        timesteps=tuple(c.sampler.timesteps),
        seeds=seeds,
        nfe=c.sampler.nfe,
        total_seconds=median(times),
        total_seconds_spread=spread,
        per_sample_seconds=median(times) / len(seeds),
        speedup=speedup,
        speedup_spread=speedup_spread,
        quality=judged.quality,
        quality_note=judged.note,
        same_seed_distance=None if c.label == finest else float(same_seed_distance(images, measured.samples[finest]).mean()),
        record=c.sampler.record((len(seeds), *images.shape[1:]), seed=seeds),
        round_seconds=times,
        **measured.extras[c.label],
    )
