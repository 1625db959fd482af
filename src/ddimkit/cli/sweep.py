"""``ddimkit sweep``: what fewer steps cost and gain, measured or compared."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ddimkit.cli.arguments import DeviceOption, JsonOption, ModelOption, find_model, find_sampler, find_yardstick, numbers
from ddimkit.cli.display import INTERRUPTED, progress_bar, show_comparison, show_results
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality.yardstick import YARDSTICKS
from ddimkit.tradeoff.charts import draw_charts
from ddimkit.tradeoff.compare import compare as compare_curves
from ddimkit.tradeoff.configurations import KEPT
from ddimkit.tradeoff.judging import Judging, SampleCounts
from ddimkit.tradeoff.report import write_report
from ddimkit.tradeoff.results import TradeoffCurve
from ddimkit.tradeoff.studies import find_study
from ddimkit.tradeoff.sweep import forget
from ddimkit.tradeoff.sweep import sweep as measure_curve

__all__ = ["sweep"]

_FEWEST = 5
_FULL_SAMPLES = 2000
_STUDY_STEPS = "10,20,50,100,250,500,1000"


def sweep(
    model: ModelOption = "mnist",
    sampler: Annotated[
        list[str] | None,
        typer.Option("--sampler", help="As `ddimkit sample` takes it; may be repeated. By default ddim and sigma-hat."),
    ] = None,
    steps: Annotated[
        str | None, typer.Option("--steps", help=f"Step counts; {_STUDY_STEPS} by default, as far as the model has them.")
    ] = None,
    eta: Annotated[str, typer.Option("--eta", help="Values of eta.")] = "0,0.2,0.5,1",
    eta_max_steps: Annotated[int, typer.Option("--eta-max-steps", help="Etas above 0 are run up to this many steps.")] = 50,
    num: Annotated[int, typer.Option("--num", min=1, help="Samples in a batch; their seeds are 0 … num − 1.")] = 16,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Repetitions of configurations of up to 100 steps.")] = 3,
    quality_samples: Annotated[
        int | None,
        typer.Option("--quality-samples", min=0, help="Images judged of each; 0 for none. By default what three minutes allow."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Judge configurations of more than 100 steps too, instead of taking the study's figures.")
    ] = False,
    yardstick: Annotated[
        str | None,
        typer.Option("--yardstick", help="A bundled yardstick, or package.module:name of one. By default the bundled model's."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for results, report and pictures.")] = Path("ddimkit-study"),
    device: DeviceOption = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what an earlier run left in the folder.")] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", help="Compare two results.json files instead of measuring.", metavar="A.json B.json"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every step count against 1000-step DDPM, and write report, charts and a grid of samples.

    Interrupted, it keeps what is finished; the same command goes on from there.

    Examples:

        ddimkit sweep

        ddimkit sweep --steps 10,50 --eta 0 --num 4 --out quick

        ddimkit sweep --model mypackage.models:bundle --sampler mypackage.samplers:MySampler

        ddimkit sweep --quality-samples 2000 --full --out thorough

        ddimkit sweep --compare laptop/results.json server/results.json
    """
    if compare is not None:
        _compare(*compare, as_json=as_json)
        return
    bundle = find_model(model)
    measure = partial(
        measure_curve,
        bundle,
        steps=_step_counts(steps, bundle.schedule.num_timesteps),
        etas=numbers(eta, float, "--eta"),
        samplers=[find_sampler(name) for name in sampler or ["ddim", "sigma-hat"]],
        seeds=range(num),
        rounds=rounds,
        eta_max_steps=eta_max_steps,
        judging=_judging(bundle, yardstick, quality_samples, full=full),
        device=device,
        out=out,
    )
    if restart:
        forget(out)
    _write(_measure(measure, out), out, as_json=as_json)


def _step_counts(steps: str | None, available: int) -> list[int]:
    """The step counts asked for, or the study's as far as the model has them."""
    return numbers(steps, int, "--steps") if steps else [s for s in numbers(_STUDY_STEPS, int, "--steps") if s <= available]


def _judging(bundle: ModelBundle, yardstick: str | None, samples: int | None, *, full: bool) -> Judging | None:
    """How quality is to be judged; None where it was not asked for and nothing bundled can judge the model."""
    name = yardstick or (bundle.name if bundle.name in YARDSTICKS else None)
    if samples is not None and 0 < samples < _FEWEST:
        raise ValueError(f"--quality-samples must be 0 or at least {_FEWEST}, got {samples}")
    if samples == 0:
        return None
    if name is None:
        if samples or full:
            raise ValueError(f"nothing can judge the model {bundle.name!r}: give --yardstick package.module:name")
        return None
    if samples is None and not full:
        return Judging(find_yardstick(name), study=find_study(bundle))
    counts = SampleCounts(samples or _FULL_SAMPLES, (samples or _FULL_SAMPLES) if full else 0)
    return Judging(find_yardstick(name), counts, find_study(bundle))


def _measure(measure: Callable[..., TradeoffCurve], out: Path) -> TradeoffCurve:
    """The curve, measured under a progress bar; stopped, it says how to go on."""
    fresh: list[str] = []
    bar = progress_bar()

    def progress(done: int, total: int, what: str) -> None:
        bar.update(task, completed=done, total=total, description=what)
        if done < total and not what.startswith(KEPT):
            fresh.append(what)

    try:
        with bar:
            task = bar.add_task("preparing")
            curve = measure(progress=progress)
    except KeyboardInterrupt:
        bar.console.print(f"Stopped. What is finished is kept in {out}; the same command goes on from there.")
        raise SystemExit(INTERRUPTED) from None
    if not fresh:
        bar.console.print(f"Everything was already measured in {out}; --restart measures it anew.")
    return curve


def _write(curve: TradeoffCurve, out: Path, *, as_json: bool) -> None:
    """Write results, pictures and report, and show them."""
    curve.save(out / "results.json")
    draw_charts(curve, out)
    report = write_report(curve, out)
    if as_json:
        print(json.dumps(curve.to_dict()))
    else:
        show_results(curve, report)


def _compare(a: Path, b: Path, *, as_json: bool) -> None:
    """Show two sweeps side by side."""
    found = compare_curves(TradeoffCurve.load(a), TradeoffCurve.load(b))
    if as_json:
        named = {"finding": found.finding, "maintained": found.maintained, "differences": found.differences}
        print(json.dumps({**named, "rows": found.rows()}))
    else:
        show_comparison(found, a, b)
