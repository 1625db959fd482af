"""The sweep: times and quality of a model's samplers at many numbers of calls, beside a baseline, as one study."""

import hashlib
import json
import operator
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ddimkit._machine import describe_machine, versions
from ddimkit._modes import module_of
from ddimkit.errors import DDIMKitError
from ddimkit.loop import check_device
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.measure import other_seed_distance, same_seed_distance
from ddimkit.samplers import DDIMSampler
from ddimkit.samplers.named import SamplerMaker
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff._timing import Progress, estimate_pace, longest_slice, measure, silent
from ddimkit.tradeoff.evaluation import Evaluation
from ddimkit.tradeoff.grid import ZERO_STEPS, labelled, model_code, sampler_grid
from ddimkit.tradeoff.rows import Row, sampler_to_dict, shared_settings
from ddimkit.tradeoff.study import Study, distance_covariances
from ddimkit.tradeoff.times import Timing, affordable_rounds, calls_a_round

T = TypeVar("T")

__all__ = ["Progress", "check_folder", "forget", "sweep"]

_STATE = "progress.npz"


def forget(folder: str | Path) -> None:
    """Remove the times that a sweep keeps in a folder to go on from; results, pictures and drawn images stay."""
    (Path(folder) / _STATE).unlink(missing_ok=True)


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
    return _Job(bundle, labelled(made), keys, rounds, evaluation, where, folder, progress or silent).study()


@dataclass(frozen=True, eq=False)
class _Job:
    """What a sweep measures, and where."""

    bundle: ModelBundle
    samplers: Mapping[str, PlanSampler]
    seeds: tuple[int, ...]
    rounds: int | None
    evaluation: Evaluation | None
    device: torch.device
    folder: Path | None
    progress: Progress

    def study(self) -> Study:
        """Time every sampler, evaluate it, and put both together."""
        timing, bundle, evaluation = self._timing(), self.bundle, self.evaluation
        times = dict(zip(self.samplers, timing.times(), strict=True))
        images = {label: drawn.numpy() for label, drawn in zip(self.samplers, timing.samples, strict=True)}
        rows = [Row(sampler, label, source="not evaluated") for label, sampler in self.samplers.items()]
        first = rows[0].sampler
        if evaluation is not None:
            pace = times[rows[0].label].seconds / first.nfe / len(self.seeds)
            rows = evaluation.rows(self.samplers, bundle, pace, device=self.device, folder=self.folder, report=self.progress)
        apart = _same_seed(self.samplers, images)
        rows = [replace(row, times=times[row.label], same_seed=apart.get(row.label, row.same_seed)) for row in rows]
        evaluator = None if evaluation is None else evaluation.evaluator
        return Study(
            self.bundle.identity(),
            bundle.schedule,
            tuple(rows),
            rows[0].label,
            describe_machine(self.device),
            versions(),
            {**self._settings(), "rounds": len(timing.rounds), "device": str(self.device), "noise": first.record()["noise"]},
            None if evaluator is None else evaluator.reference.label,
            None if evaluator is None else evaluator.real_vs_real,
            None if evaluator is None else evaluator.noise,
            distance_covariances(rows, None if evaluation is None else evaluation.study),
            images,
        )

    def _timing(self) -> Timing:
        """The times of all samplers, those of an earlier call included."""
        kept, every, on = _Kept(self._fingerprint(), self.folder), list(self.samplers.values()), (self.seeds, self.device)
        before, rounds = kept.load(), self.rounds
        if rounds is None:
            finished = 0 if before is None else len(before.rounds)
            pace = 0.0 if finished else estimate_pace(every[0], self.bundle, *on)
            rounds = finished or affordable_rounds(calls_a_round([s.nfe for s in every], longest_slice(self.device)), pace)
        return measure(every, self.bundle, *on, rounds=rounds, kept=before, keep=kept.save, progress=self.progress)

    def _settings(self) -> dict[str, Any]:
        return {"batch": len(self.seeds), "seeds": list(self.seeds), "dtype": "float32"}

    def _fingerprint(self) -> str:
        """What a sweep must have in common with an earlier one to go on from it; times belong to one machine."""
        shared = shared_settings(next(iter(self.samplers.values())))
        planned = [(label, sampler_to_dict(sampler)) for label, sampler in self.samplers.items()]
        measured = [model_code(self.bundle), self.bundle.identity(), self.bundle.schedule.sha256]
        parts = [*measured, describe_machine(self.device), versions(), self._settings(), shared, planned]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


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


@dataclass(frozen=True)
class _Kept:
    """The finished rounds of a sweep and the images of its first, in a folder."""

    fingerprint: str
    folder: Path | None

    def save(self, timing: Timing) -> None:
        if self.folder is None:
            return
        state = json.dumps({"fingerprint": self.fingerprint, "timing": timing.to_dict()})
        partial = self.folder / "progress.partial.npz"
        np.savez_compressed(partial, *[drawn.numpy() for drawn in timing.samples], state=np.array(state))
        partial.replace(self.folder / _STATE)

    def load(self) -> Timing | None:
        if self.folder is None or not (self.folder / _STATE).exists():
            return None
        try:
            with (self.folder / _STATE).open("rb") as file, np.load(file, allow_pickle=False) as held:
                state = json.loads(held["state"].item())
                samples = [torch.from_numpy(held[f"arr_{i}"]) for i in range(len(held.files) - 1)]
            timing, fingerprint = Timing.from_dict(state["timing"], samples), state["fingerprint"]
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DDIMKitError(f"{self.folder} holds a damaged sweep ({error}): remove it, or choose another folder") from error
        if fingerprint != self.fingerprint:
            raise DDIMKitError(
                f"{self.folder} holds a sweep of another model, machine or other settings: choose another folder, or remove it"
            )
        return timing


def _listed(values: Sequence[T], name: str, kind: Callable[[Any], T]) -> tuple[T, ...]:
    try:
        return tuple(kind(v) for v in values)
    except (TypeError, ValueError):
        wanted = "numbers, as in (0.0, 0.5)" if name == "etas" else "ints, as in (10, 20)"
        raise TypeError(f"{name} must be a sequence of {wanted}, got {values!r}") from None
