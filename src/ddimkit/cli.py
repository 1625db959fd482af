"""The command line, a thin face over the library: ``ddimkit sample | sweep | plan``.

It needs the ``study`` extra: ``pip install 'ddimkit[study]'``.
"""

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from ddimkit.errors import DDIMKitError
from ddimkit.models.bundle import ModelBundle, load_pretrained
from ddimkit.samplers import DDIMSampler, DDPMSampler
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.results import TradeoffCurve

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Table
except ModuleNotFoundError as missing:
    sys.exit(f"ddimkit's command line needs {missing.name}: pip install 'ddimkit[study]'")

if TYPE_CHECKING:
    from ddimkit.tradeoff.compare import Comparison

__all__ = ["app", "main"]

app = typer.Typer(
    name="ddimkit",
    help="Samplers for diffusion models: draw samples, measure what fewer steps cost, print a sampler's table.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

_SAMPLERS: dict[str, Callable[..., PlanSampler]] = {"ddim": DDIMSampler, "ddpm": DDPMSampler}
_INTERRUPTED = 130
_STUDY_STEPS = "10,20,50,100,250,500,1000"

ModelOption = Annotated[str, typer.Option("--model", help="A bundled model's name, or package.module:name of a ModelBundle.")]
SamplerOption = Annotated[str, typer.Option("--sampler", help="ddim, ddpm, or package.module:name of a sampler class.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Number of steps; 50 if there are no --timesteps either.")]
TimestepsOption = Annotated[str | None, typer.Option("--timesteps", help="The timesteps themselves, as in 999,500,24.")]
SpacingOption = Annotated[str | None, typer.Option("--spacing", help="How --steps are spaced: trailing, leading, linspace, …")]
EtaOption = Annotated[float | None, typer.Option("--eta", help="From 0, deterministic, to 1, as noisy as DDPM (DDIM only).")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or cuda; CUDA if there is one by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]


@app.command()
def sample(
    model: ModelOption = "mnist",
    sampler: SamplerOption = "ddim",
    steps: StepsOption = None,
    timesteps: TimestepsOption = None,
    spacing: SpacingOption = None,
    eta: EtaOption = None,
    num: Annotated[int, typer.Option("--num", min=1, help="How many samples.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Sample i gets seed + i.")] = 0,
    grid: Annotated[Path | None, typer.Option("--grid", help="Write the samples as one PNG picture.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the samples as a NumPy .npy array (N, C, H, W) in [−1, 1].")
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw samples and write them as a picture or an array.

    Examples:

        ddimkit sample --steps 50 --seed 7 --grid out.png

        ddimkit sample --timesteps 999,700,400,100 --eta 0.5 --num 64 --out samples.npy
    """
    import numpy as np
    import torch

    from ddimkit.loop import check_device
    from ddimkit.tradeoff.charts import save_grid

    if grid is None and out is None:
        raise ValueError("nowhere to write to: give --grid out.png, --out samples.npy, or both")
    for path, suffix in ((grid, ".png"), (out, ".npy")):
        if path is not None and (path.suffix != suffix or not path.parent.is_dir()):
            raise ValueError(f"{path} must end in {suffix} and lie in a folder that exists")
    bundle = _model(model)
    made = _make_sampler(bundle, sampler, steps, timesteps, spacing, eta)
    if grid is not None and (len(bundle.sample_shape) != 3 or bundle.sample_shape[0] not in (1, 3)):
        raise ValueError(f"--grid draws samples of shape (1 or 3, H, W), not {bundle.sample_shape}: use --out")
    where = check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(bundle.model, torch.nn.Module):
        bundle.model.to(where)
    shape = (num, *bundle.sample_shape)
    images = _sample_with_bar(made, bundle, shape, seed, where).float().cpu().numpy()
    if out is not None:
        np.save(out, images)
    if grid is not None:
        save_grid(images, grid)
    written = [str(path) for path in (grid, out) if path is not None]
    if as_json:
        print(json.dumps({"written": written, "record": made.record(shape, seed=seed)}))
    else:
        print(f"{num} samples, {made.nfe} model calls, seeds {seed}..{seed + num - 1}: {', '.join(written)}")


@app.command()
def plan(
    model: ModelOption = "mnist",
    sampler: SamplerOption = "ddim",
    steps: StepsOption = None,
    timesteps: TimestepsOption = None,
    spacing: SpacingOption = None,
    eta: EtaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a sampler's table: one row of coefficients a step.

    Examples:

        ddimkit plan --steps 10

        ddimkit plan --sampler ddpm --timesteps 999,500,24 --json
    """
    made = _make_sampler(_model(model), sampler, steps, timesteps, spacing, eta)
    print(json.dumps(made.plan().to_dict()) if as_json else str(made.plan()))


@app.command()
def sweep(
    model: ModelOption = "mnist",
    sampler: Annotated[
        list[str] | None, typer.Option("--sampler", help="ddim, ddpm or package.module:name; may be repeated.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option("--steps", help=f"Step counts; {_STUDY_STEPS} by default, as far as the model has them.")
    ] = None,
    eta: Annotated[str, typer.Option("--eta", help="Values of eta.")] = "0,0.2,0.5,1",
    eta_max_steps: Annotated[int, typer.Option("--eta-max-steps", help="Etas above 0 are run up to this many steps.")] = 50,
    num: Annotated[int, typer.Option("--num", min=1, help="Samples in a batch; their seeds are 0 … num − 1.")] = 16,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Repetitions of configurations of up to 100 steps.")] = 3,
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

        ddimkit sweep --compare laptop/results.json server/results.json
    """
    from ddimkit.tradeoff.charts import draw_charts
    from ddimkit.tradeoff.report import write_report
    from ddimkit.tradeoff.sweep import KEPT, forget
    from ddimkit.tradeoff.sweep import sweep as measure

    if compare is not None:
        _print_comparison(*compare, as_json=as_json)
        return
    bundle = _model(model)
    available = bundle.schedule.num_timesteps
    counts = _numbers(steps, int, "--steps") if steps else [s for s in _numbers(_STUDY_STEPS, int, "--steps") if s <= available]
    if restart:
        forget(out)
    console, fresh = Console(stderr=True), list[str]()

    def progress(done: int, total: int, what: str) -> None:
        bar.update(task, completed=done, total=total, description=what)
        if done < total and not what.startswith(KEPT):
            fresh.append(what)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console, speed_estimate_period=120) as bar:
            task = bar.add_task("preparing")
            curve = measure(
                bundle,
                steps=counts,
                etas=_numbers(eta, float, "--eta"),
                samplers=[_sampler(name) for name in sampler or ["ddim"]],
                seeds=range(num),
                rounds=rounds,
                eta_max_steps=eta_max_steps,
                device=device,
                out=out,
                progress=progress,
            )
    except KeyboardInterrupt:
        console.print(f"Stopped. What is finished is kept in {out}; the same command goes on from there.")
        raise SystemExit(_INTERRUPTED) from None
    if not fresh:
        console.print(f"Everything was already measured in {out}; --restart measures it anew.")
    curve.save(out / "results.json")
    draw_charts(curve, out)
    report = write_report(curve, out)
    if as_json:
        print(json.dumps(curve.to_dict()))
    else:
        _print_results(curve, report)


def main() -> None:
    """Run the command line; what the user can mend is said in one line, without a traceback."""
    code: object = 0
    try:
        code = app(standalone_mode=False)  # the exit code where a command was left early, else None
    except typer.Exit as done:
        code = done.exit_code
    except typer.Abort:
        code = _INTERRUPTED
    except (DDIMKitError, ValueError, TypeError, OSError) as error:
        sys.exit(f"ddimkit: {error}")
    except Exception as error:
        # click's own usage errors know how to show themselves.
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or code is None:
            raise
        show()
    if code == _INTERRUPTED:
        print("ddimkit: stopped", file=sys.stderr)
    if code:
        raise SystemExit(code)


def _numbers(text: str, kind: Callable[[str], Any], option: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be numbers with commas between, as in 10,20,50, got {text!r}") from None


def _imported(name: str, what: str) -> object:
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # the console script's own folder stands there instead
    try:
        found: object = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{what} {name!r} cannot be imported ({error}): write package.module:name") from error
    return found


def _model(name: str) -> ModelBundle:
    if ":" not in name:
        return load_pretrained(name)
    found = _imported(name, "model")
    if not isinstance(found, ModelBundle):
        raise TypeError(f"model {name!r} must be a ddimkit.ModelBundle, got {type(found).__name__}")
    return found


def _sampler(name: str) -> Callable[..., PlanSampler]:
    if name in _SAMPLERS:
        return _SAMPLERS[name]
    if ":" not in name:
        raise ValueError(f"sampler must be one of {', '.join(_SAMPLERS)}, or package.module:name, got {name!r}")
    found = _imported(name, "sampler")
    if not callable(found):
        raise TypeError(f"sampler {name!r} must be a sampler class, got {type(found).__name__}")
    return cast("Callable[..., PlanSampler]", found)


def _make_sampler(
    bundle: ModelBundle, name: str, steps: int | None, timesteps: str | None, spacing: str | None, eta: float | None
) -> PlanSampler:
    make = _sampler(name)
    keywords: dict[str, Any] = {} if spacing is None else {"spacing": spacing}
    if timesteps is not None:
        keywords["timesteps"] = _numbers(timesteps, int, "--timesteps")
    if steps is not None or timesteps is None:
        keywords["steps"] = min(50, bundle.schedule.num_timesteps) if steps is None else steps
    if eta is not None:
        if "eta" not in inspect.signature(make).parameters:
            raise ValueError(f"--sampler {name} takes no --eta")
        keywords["eta"] = eta
    return bundle.sampler(make, **keywords)


def _sample_with_bar(made: PlanSampler, bundle: ModelBundle, shape: tuple[int, ...], seed: int, where: Any) -> Any:
    columns = (TextColumn("sampling"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sampling", total=made.nfe)
        return made.sample(
            bundle.model, shape, seed=seed, device=where, callback=lambda state: bar.update(task, completed=state.nfe)
        )


def _print_results(curve: TradeoffCurve, report: Path) -> None:
    from ddimkit.tradeoff.findings import findings

    console = Console()
    table = Table(title=f"{curve.model['name']}, {len(curve.baseline.seeds)} samples a run")
    for head in ("configuration", "calls", "seconds", "ms a sample", "speed-up", "overhead"):
        table.add_column(head, justify="left" if head == "configuration" else "right", no_wrap=True)
    for c in curve.configurations:
        overhead = f"{c.sampler_overhead_seconds / c.total_seconds:.2%}"
        gain = "baseline" if c.baseline else f"{c.speedup:.1f}×"
        table.add_row(c.label, str(c.nfe), f"{c.total_seconds:.3g}", f"{1e3 * c.per_sample_seconds:.1f}", gain, overhead)
    console.print(table)
    for sentence in findings(curve):
        console.print(f"- {sentence}", highlight=False)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)


def _print_comparison(a: Path, b: Path, *, as_json: bool) -> None:
    from ddimkit.tradeoff.compare import compare

    found: Comparison = compare(TradeoffCurve.load(a), TradeoffCurve.load(b))
    if as_json:
        print(
            json.dumps(
                {"finding": found.finding, "maintained": found.maintained, "differences": found.differences, "rows": found.rows()}
            )
        )
        return
    console = Console()
    table = Table("configuration", "seconds A", "seconds B", "A/B", "speed-up A", "speed-up B", "B/A", title=f"A: {a}, B: {b}")
    for row in found.rows():
        table.add_row(*row)
    console.print(table)
    for difference in found.differences:
        console.print(f"- differs in {difference}", highlight=False)
    console.print(found.finding, highlight=False)
