"""The sweep: times and quality of a model's samplers at many numbers of calls, beside a baseline, as one study."""

import hashlib
import json
import operator
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ddimkit._modes import module_of
from ddimkit.errors import DDIMKitError
from ddimkit.loop import check_device
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.measure import other_seed_distance, same_seed_distance
from ddimkit.samplers import DDIMSampler
from ddimkit.samplers.named import SamplerMaker
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff._timing import Progress, describe_machine, estimate_pace, longest_slice, measure, versions
from ddimkit.tradeoff.evaluation import Evaluation
from ddimkit.tradeoff.grid import ZERO_STEPS, labelled, model_code, sampler_grid
from ddimkit.tradeoff.rows import Row, sampler_to_dict, shared_settings
from ddimkit.tradeoff.study import Study, distance_covariances
from ddimkit.tradeoff.times import Timing, affordable_rounds, calls_a_round

T = TypeVar("T")

__all__ = ["Progress", "check_folder", "forget", "sweep"]

_STATE = "progress.json"
_SAMPLES = "samples.npz"


def forget(folder: str | Path) -> None:
    """Remove the times that a sweep keeps in a folder to go on from; results, pictures and drawn images stay."""
    for name in (_STATE, _SAMPLES):
        (Path(folder) / name).unlink(missing_ok=True)


def check_folder(folder: str | Path) -> Path:
    """Make the folder, and write and remove a file in it, so that a long run does not end at an unwritable folder.

    Raises:
        OSError: the folder cannot be made or written to, naming it.
    """
    folder = Path(folder)
    probe = folder / ".ddimkit-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(f"the results cannot be written to {folder}: {error.strerror or error}") from error
    return folder


def sweep(
    bundle: ModelBundle,
    *,
    steps: Sequence[int] = (10, 20, 50, 100),
    etas: Sequence[float] = (0.0,),
    samplers: Sequence[SamplerMaker | PlanSampler] = (DDIMSampler,),
    seeds: Sequence[int] = range(16),
    baseline: PlanSampler | None = None,
    rounds: int | None = None,
    eta_max_steps: int | None = None,
    evaluation: Evaluation | None = None,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Study:
    """Measure samplers at many numbers of calls beside a baseline, all from the same noise.

    Args:
        bundle: the model; its module is moved to ``device``.
        steps: step counts of every kind of sampler.
        etas: values of eta, for kinds that take one.
        samplers: kinds of samplers, which are run at every number of steps and eta; or samplers themselves, run as they are.
        seeds: one a sample; the batch is all of them at once.
        baseline: what speed-ups and gaps are relative to; DDPM with all timesteps by default.
        rounds: rounds of the timing; by default as many, up to three, as end within four minutes.
        eta_max_steps: kinds that add noise are run up to this number of steps only; None for no limit.
        evaluation: how quality is measured; None for not at all. DDIM with 10 steps, the zero of the scale, is then run too.
        device: where; CUDA if there is one by default.
        out: folder that keeps finished work; a call with the same arguments goes on there. None keeps nothing.
        progress: called as work goes on with (model calls done, in all, what runs now).

    Returns:
        the study, its ``images`` included.

    Raises:
        ValueError: a step count or eta out of range, no seeds, fewer than one round.
        OSError: ``out`` cannot be written to.
        DDIMKitError: ``out`` holds a sweep of something else, or a damaged one.
    """
    if not isinstance(bundle, ModelBundle):
        raise TypeError(f"bundle must be a ModelBundle, as in sweep(load_pretrained('mnist')), got {type(bundle).__name__}")
    where = check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    counts, values = _listed(steps, "steps", operator.index), _listed(etas, "etas", float)
    keys = _listed(seeds, "seeds", operator.index)
    if not keys or not counts or (rounds is not None and (type(rounds) is not int or rounds < 1)):
        raise ValueError(f"a sweep needs seeds, steps and rounds of at least 1, got {len(keys)} seeds, {counts} and {rounds!r}")
    made = sampler_grid(bundle, counts, values, samplers, eta_max_steps=eta_max_steps, baseline=baseline)
    if evaluation is not None and bundle.schedule.num_timesteps >= ZERO_STEPS:
        made = list(dict.fromkeys([*made, bundle.sampler(DDIMSampler, steps=ZERO_STEPS)]))
    folder = None if out is None else check_folder(out)
    module = module_of(bundle.model)
    if module is not None:
        module.to(where)
    return _study(bundle, labelled(made), keys, rounds, evaluation, where, folder, progress or _silent)


def _study(
    bundle: ModelBundle,
    samplers: Mapping[str, PlanSampler],
    seeds: tuple[int, ...],
    rounds: int | None,
    evaluation: Evaluation | None,
    device: torch.device,
    folder: Path | None,
    progress: Progress,
) -> Study:
    """Time every sampler, evaluate it, and put both together."""
    model = {"name": bundle.name, "weights_sha256": bundle.weights_sha256(), "sample_shape": list(bundle.sample_shape)}
    machine, settings = describe_machine(device), {"batch": len(seeds), "seeds": list(seeds), "dtype": "float32"}
    kept = _Kept(_fingerprint(bundle, samplers, model, machine, settings), folder)
    timing = _timed(bundle, samplers, seeds, rounds, device, kept, progress)
    times = dict(zip(samplers, timing.times(), strict=True))
    images = {label: drawn.numpy() for label, drawn in zip(samplers, timing.samples, strict=True)}
    rows = [Row(sampler, label, source="not evaluated") for label, sampler in samplers.items()]
    if evaluation is not None:
        first = next(iter(samplers))
        pace = times[first].seconds / samplers[first].nfe / len(seeds)
        rows = evaluation.rows(samplers, bundle, pace, device=device, folder=folder, report=progress)
    apart = _same_seed(samplers, images)
    rows = [replace(row, times=times[row.label], same_seed=apart.get(row.label, row.same_seed)) for row in rows]
    settings |= {"rounds": len(timing.rounds), "device": str(device), "noise": next(iter(samplers.values())).record()["noise"]}
    known, evaluator = (None, None) if evaluation is None else (evaluation.study, evaluation.evaluator)
    return Study(
        model,
        bundle.schedule,
        tuple(rows),
        rows[0].label,
        machine,
        versions(),
        settings,
        None if evaluator is None else evaluator.reference.label,
        None if evaluator is None else evaluator.real_vs_real,
        None if evaluator is None else evaluator.noise,
        distance_covariances(rows, known),
        images,
    )


def _timed(
    bundle: ModelBundle,
    samplers: Mapping[str, PlanSampler],
    seeds: tuple[int, ...],
    rounds: int | None,
    device: torch.device,
    kept: "_Kept",
    progress: Progress,
) -> Timing:
    """The times of all samplers, those of an earlier call included."""
    every, before = list(samplers.values()), kept.load()
    if rounds is None:
        finished = 0 if before is None else len(before.rounds)
        pace = 0.0 if finished else estimate_pace(every[0], bundle, seeds, device)
        rounds = finished or affordable_rounds(calls_a_round([s.nfe for s in every], longest_slice(device)), pace)
    return measure(every, bundle, seeds, device, rounds=rounds, kept=before, keep=kept.save, progress=progress)


def _same_seed(samplers: Mapping[str, PlanSampler], images: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
    """Of each sampler the distance from the finest DDIM's images of the same seeds, as a share of that between seeds."""
    plain = [label for label, sampler in samplers.items() if not sampler.coefficients.plan.adds_noise]
    finest = max(plain, key=lambda label: samplers[label].nfe, default=None)
    if finest is None or len(images[finest]) < 2:
        return {}
    others = other_seed_distance(images[finest])
    if not others:
        return {}
    return {label: float(same_seed_distance(drawn, images[finest]).mean() / others) for label, drawn in images.items()}


class _Kept:
    """The finished rounds of a sweep and the images of its first, in a folder."""

    def __init__(self, fingerprint: str, folder: Path | None) -> None:
        self.fingerprint, self.folder = fingerprint, folder

    def save(self, timing: Timing) -> None:
        if self.folder is None:
            return
        state, samples = self.folder / _STATE, self.folder / _SAMPLES
        parts = [(state.with_suffix(".partial"), state), (self.folder / "samples.partial.npz", samples)]
        np.savez_compressed(parts[1][0], *[drawn.numpy() for drawn in timing.samples])
        parts[0][0].write_text(json.dumps({"fingerprint": self.fingerprint, "timing": timing.to_dict()}), encoding="utf-8")
        for partial, whole in reversed(parts):
            partial.replace(whole)

    def load(self) -> Timing | None:
        if self.folder is None or not (self.folder / _STATE).exists():
            return None
        try:
            state = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
            with (self.folder / _SAMPLES).open("rb") as file, np.load(file, allow_pickle=False) as held:
                samples = [torch.from_numpy(held[f"arr_{i}"]) for i in range(len(held.files))]
            timing, fingerprint = Timing.from_dict(state["timing"], samples), state["fingerprint"]
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DDIMKitError(f"{self.folder} holds a damaged sweep ({error}): remove it, or choose another folder") from error
        if fingerprint != self.fingerprint:
            raise DDIMKitError(
                f"{self.folder} holds a sweep of another model, machine or other settings: choose another folder, or remove it"
            )
        return timing


def _fingerprint(
    bundle: ModelBundle,
    samplers: Mapping[str, PlanSampler],
    model: Mapping[str, Any],
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> str:
    """What a sweep must have in common with an earlier one to go on from it; times belong to one machine."""
    shared = shared_settings(next(iter(samplers.values())))
    planned = [(label, sampler_to_dict(sampler)) for label, sampler in samplers.items()]
    parts = [model_code(bundle), model, bundle.schedule.sha256, machine, versions(), settings, shared, planned]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _listed(values: Sequence[T], name: str, kind: Callable[[Any], T]) -> tuple[T, ...]:
    try:
        return tuple(kind(v) for v in values)
    except (TypeError, ValueError):
        wanted = "numbers, as in (0.0, 0.5)" if name == "etas" else "ints, as in (10, 20)"
        raise TypeError(f"{name} must be a sequence of {wanted}, got {values!r}") from None


def _silent(done: int, total: int, what: str) -> None:
    del done, total, what
