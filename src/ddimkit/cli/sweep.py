"""``ddimkit sweep``: what fewer steps cost and gain, measured or compared."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from ddimkit._modes import module_of
from ddimkit.cli.arguments import (
    DeviceOption,
    JsonOption,
    ModelOption,
    find_baseline,
    find_evaluator,
    find_model,
    find_sampler,
    numbers,
)
from ddimkit.cli.display import INTERRUPTED, Stages, comparison_rows, progress_bar, show_comparison, show_study
from ddimkit.cli.edits import GuidanceOption, conditioned
from ddimkit.cli.results import write_results
from ddimkit.loop import check_device
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.evaluator import EVALUATORS
from ddimkit.samplers.named import SamplerMaker
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff._timing import KEPT, estimate_pace, longest_slice
from ddimkit.tradeoff.committed import find_study
from ddimkit.tradeoff.compare import compare as compare_studies
from ddimkit.tradeoff.evaluation import Evaluation
from ddimkit.tradeoff.grid import labelled, newcomers, sampler_grid
from ddimkit.tradeoff.presets import presets
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.sweep import check_folder, forget
from ddimkit.tradeoff.sweep import sweep as measure_study
from ddimkit.tradeoff.times import affordable_rounds, calls_a_round
from ddimkit.tradeoff.wording import duration, plural

__all__ = ["sweep"]

_FEWEST = 5
_FULL_SAMPLES = 2000
_SECONDS = 40.0
_STUDY_STEPS = "10,20,50,100,250,500,1000"


SamplersOption = Annotated[
    list[str] | None,
    typer.Option("--sampler", help="As `ddimkit sample` takes it; may be repeated. By default ddim and sigma-hat."),
]
StepsOption = Annotated[
    str | None,
    typer.Option(
        "--steps",
        help=f"Step counts; {_STUDY_STEPS} by default, as far as the model has them. Without --steps and --sampler, "
        "DPM-Solver++ with few calls and the model's presets are run too.",
    ),
]
EtaOption = Annotated[str, typer.Option("--eta", help="Values of eta.")]
EtaMaxStepsOption = Annotated[int, typer.Option("--eta-max-steps", help="Samplers that add noise are run up to this many steps.")]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        help="What speed-ups and quality are relative to: a sampler and its number of steps, as in ddim:250 or "
        "package.module:name:250. By default DDPM with all the model's timesteps.",
    ),
]
NumOption = Annotated[int, typer.Option("--num", min=1, help="Samples in a batch; their seeds are 0 … num − 1.")]
RoundsOption = Annotated[
    int | None,
    typer.Option("--rounds", min=1, help="Rounds of the timing. By default as many, up to 3, as end within 4 minutes."),
]
QualitySamplesOption = Annotated[
    int | None,
    typer.Option(
        "--quality-samples", min=0, help="Images of each sampler up to 100 calls; 0 for no quality. By default what 40 s allow."
    ),
]
FullOption = Annotated[
    bool,
    typer.Option("--full", help="Draw images of samplers of more than 100 calls too, instead of taking the study's metrics."),
]
EvaluatorOption = Annotated[
    str | None,
    typer.Option("--evaluator", help="A bundled evaluator, or package.module:name of one. By default the bundled model's."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for results, report and pictures.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Forget what an earlier run left in the folder.")]
CompareOption = Annotated[
    tuple[Path, Path] | None,
    typer.Option("--compare", help="Compare two results.json files instead of measuring.", metavar="A.json B.json"),
]


def sweep(
    model: ModelOption = "mnist",
    sampler: SamplersOption = None,
    steps: StepsOption = None,
    eta: EtaOption = "0,0.2,0.5,1",
    eta_max_steps: EtaMaxStepsOption = 50,
    baseline: BaselineOption = None,
    guidance: GuidanceOption = None,
    num: NumOption = 16,
    rounds: RoundsOption = None,
    quality_samples: QualitySamplesOption = None,
    full: FullOption = False,
    evaluator: EvaluatorOption = None,
    out: OutOption = Path("ddimkit-study"),
    device: DeviceOption = None,
    restart: RestartOption = False,
    compare: CompareOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every step count against 1000-step DDPM, and write results, report and charts.

    Interrupted, it keeps what is finished; the same command goes on from there.

    Examples:

        ddimkit sweep

        ddimkit sweep --steps 10,50 --eta 0 --num 4 --out quick

        ddimkit sweep --model mypackage.models:bundle --sampler mypackage.samplers:MySampler --baseline ddim:250

        ddimkit sweep --model mypackage.models:bundle --guidance 2 --out guidance-2

        ddimkit sweep --quality-samples 2000 --full --out thorough

        ddimkit sweep --compare laptop/results.json server/results.json
    """
    if compare is not None:
        _compare(*compare, as_json=as_json)
        return
    bundle = conditioned(find_model(model), None, guidance)
    base = None if baseline is None else find_baseline(bundle, baseline)
    counts, etas = _step_counts(steps, bundle.schedule.num_timesteps), numbers(eta, float, "--eta")
    kinds = _kinds(bundle, sampler, newcomer=sampler is None and steps is None)
    made = sampler_grid(bundle, counts, etas, kinds, eta_max_steps=eta_max_steps, baseline=base)
    where = check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    request = _Request(bundle, made, range(num), rounds, _evaluation(bundle, evaluator, quality_samples, full=full), where, out)
    check_folder(out)
    if restart:
        forget(out)
    study = _measure(request)
    if not Console(stderr=True).is_terminal:
        print("Now: charts and report", file=sys.stderr)
    report = write_results(study, out)
    if as_json:
        print(json.dumps(study.to_dict()))
    else:
        show_study(study, report)


@dataclass(frozen=True, eq=False)
class _Request:
    """What a sweep is to measure: the samplers, the baseline first."""

    bundle: ModelBundle
    samplers: Sequence[PlanSampler]
    seeds: range
    rounds: int | None
    evaluation: Evaluation | None
    device: torch.device
    out: Path

    def run(self, progress: Callable[[int, int, str], None]) -> Study:
        """Measure."""
        base, *others = self.samplers
        return measure_study(
            self.bundle,
            samplers=others or [base],
            baseline=base,
            seeds=self.seeds,
            rounds=self.rounds,
            evaluation=self.evaluation,
            device=self.device,
            out=self.out,
            progress=progress,
        )

    def estimate(self) -> str:
        """How long it will take, in words, from the time of a few model calls."""
        module = module_of(self.bundle.model)
        if module is not None:
            module.to(self.device)
        pace = estimate_pace(self.samplers[0], self.bundle, self.seeds, self.device)
        calls = calls_a_round([sampler.nfe for sampler in self.samplers], longest_slice(self.device))
        timing = calls * pace * (self.rounds or affordable_rounds(calls, pace))
        said = f"{plural(len(self.samplers), 'sampler')}, timed for about {duration(timing)}"
        if self.evaluation is None:
            return f"{said}."
        each = pace / len(self.seeds)
        images = self.evaluation.counts(labelled(self.samplers), each)
        drawing = each * sum(images[label] * sampler.nfe for label, sampler in labelled(self.samplers).items())
        return f"{said}, then images for the quality for about {duration(drawing)}: in all {duration(timing + drawing)}."


def _step_counts(steps: str | None, available: int) -> list[int]:
    """The step counts asked for, or the study's as far as the model has them."""
    if steps is not None:
        return numbers(steps, int, "--steps")
    return [s for s in numbers(_STUDY_STEPS, int, "--steps") if s <= available] or [available]


def _kinds(bundle: ModelBundle, names: list[str] | None, *, newcomer: bool) -> list[SamplerMaker | PlanSampler]:
    """The kinds of samplers to run, and for the whole study those that a newcomer wants to see: few calls, and the presets."""
    kinds: list[SamplerMaker | PlanSampler] = [find_sampler(name) for name in names or ["ddim", "sigma-hat"]]
    if not newcomer:
        return kinds
    found = [choice.sampler for refinable in (True, False) for choice in presets(bundle, refinable=refinable).values()]
    return [*kinds, *newcomers(bundle), *found]


def _evaluation(bundle: ModelBundle, evaluator: str | None, samples: int | None, *, full: bool) -> Evaluation | None:
    """How quality is measured; None where it was not asked for and nothing bundled can evaluate the model."""
    name = evaluator or (bundle.name if bundle.name in EVALUATORS else None)
    if samples is not None and 0 < samples < _FEWEST:
        raise ValueError(f"--quality-samples must be 0 or at least {_FEWEST}, got {samples}")
    if samples == 0:
        return None
    if name is None:
        if samples or full:
            raise ValueError(f"nothing bundled can evaluate the model {bundle.name!r}: give --evaluator package.module:name")
        return None
    found = Evaluation(find_evaluator(name), study=find_study(bundle), seconds=_SECONDS)
    if samples is None and not full:
        return found
    count = samples or _FULL_SAMPLES
    return replace(found, images=count, long_images=count if full else 0)


def _measure(request: _Request) -> Study:
    """The study, measured under a progress bar or with a line a stage; stopped, it says how to go on."""
    fresh, console = list[str](), Console(stderr=True)
    console.print(request.estimate(), highlight=False, soft_wrap=True)
    bar = progress_bar()
    stages = Stages(console)

    def progress(done: int, total: int, what: str) -> None:
        if console.is_terminal:
            bar.update(task, completed=done, total=total, description=what)
        else:
            stages(done, total, what)
        if done < total and not what.startswith(KEPT):
            fresh.append(what)

    task = bar.add_task("preparing")
    try:
        if console.is_terminal:
            with bar:
                study = request.run(progress)
        else:
            study = request.run(progress)
    except KeyboardInterrupt:
        console.print(f"Stopped. What is finished is kept in {request.out}; the same command goes on from there.", soft_wrap=True)
        raise SystemExit(INTERRUPTED) from None
    if not fresh:
        console.print(f"Everything was already measured in {request.out}; --restart measures it anew.", soft_wrap=True)
    return study


def _compare(a: Path, b: Path, *, as_json: bool) -> None:
    """Show two sweeps side by side."""
    found = compare_studies(Study.load(a), Study.load(b))
    if as_json:
        named = {"finding": found.finding, "maintained": found.maintained, "differences": found.differences}
        print(json.dumps({**named, "rows": comparison_rows(found)}))
    else:
        show_comparison(found, a, b)
