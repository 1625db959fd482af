"""Which sampler, which timesteps, how many calls? Draws images of every row of a grid and evaluates them: a study without times.

    python benchmarks/study.py ddim|calls|candidates [options]
    python benchmarks/study.py --samplers ddim,unipc-3 --calls 5,10,20 [--spacings trailing,log_snr] [--etas 0,1] [options]

``ddim``: DDIM with 10 to 1000 steps, with eta up to 100, and sigma-hat. ``calls``: every sampler over every named spacing and over
searched lists, at 5 to 50 calls. ``candidates``: many images of what an earlier study (``--since``, else the committed one) chose
of each number of calls up to 20, and of the learned tables. Options change single settings of a named grid.

Where several rows have equal calls, ``--select N`` images of each, of the seeds 0 to N − 1, choose three: the best, the best that
draws DDIM's image of a seed, and the best of the named spacings. ``--images M`` others, of the seeds from N on, measure these and
every row that nothing chose; ``--long`` those of more than 100 calls. All rows have the same seeds, so that differences are paired.

Everything found and drawn is kept in ``--work``, and the same command goes on there; ``--minutes`` ends a sitting. Several
processes can share the work, each with ``--only`` some samplers; a last one without it gathers everything. ``--since FILE`` takes
over the rows of an earlier study of the same weights, and does not draw again what that evaluated by the same seeds.
"""

import argparse
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from _grids import GRIDS, SPACINGS, Grid, candidate_rows, chosen, learned_rows, listed_rows, named_rows, references
from _script import integers, words
from _searched import FIRST_SEED, KINDS, Search
from _subjects import find_evaluator, find_model, pick_device
from ddimkit import DDIMKitError, LearnedSampler, ModelBundle, recommend
from ddimkit._machine import describe_machine, versions
from ddimkit.models.data import load_images
from ddimkit.quality import Evaluator, Quality, Training, same_seed_share
from ddimkit.samplers.named import MAKERS
from ddimkit.tradeoff._drawing import Drawn, draw
from ddimkit.tradeoff.committed import FOLDER, find_study
from ddimkit.tradeoff.evaluation import Evaluation, drawn_path
from ddimkit.tradeoff.gap import is_plain_ddim
from ddimkit.tradeoff.grid import LONG
from ddimkit.tradeoff.rows import Row, family
from ddimkit.tradeoff.study import Study, distance_covariances, known_row

_FEWEST = 5
_PIXELS = 64


@dataclass(frozen=True)
class Bench:
    """Draws the images of rows, as far as the time goes, and evaluates them.

    Args:
        bundle: the model, on ``device``.
        evaluator: what images are evaluated with.
        since: an earlier study, whose metrics by the same seeds are taken over.
        grid: how many images.
        arguments: of the command line.
        device: where.
        finest: the DDIM of the most steps.
    """

    bundle: ModelBundle
    evaluator: Evaluator
    since: Study | None
    grid: Grid
    arguments: argparse.Namespace
    device: torch.device
    finest: Row

    def selected(self, row: Row) -> Row:
        """A row with the metrics that choose."""
        quality, apart = self._evaluated(row, 0, self.grid.select)
        return replace(row, selection=quality, same_seed=apart)

    def measured(self, row: Row) -> Row:
        """A row with the metrics by seeds that chose nothing."""
        first, count = self.grid.select, self.grid.images if row.calls <= LONG else self.grid.long
        known = None if self.since is None else known_row(self.since, row.sampler)
        if known is not None and known.quality is not None and _covers(known.quality, first, count):
            return replace(known, selection=row.selection)
        quality, apart = self._evaluated(row, first, count)
        return replace(row, quality=quality, same_seed=apart if row.same_seed is None else row.same_seed)

    def _evaluated(self, row: Row, first: int, count: int) -> tuple[Quality | None, float | None]:
        """The metrics of so many images, and how far the first ones are from the finest row's of the same seeds."""
        drawn = self._drawn(row, first, count)
        if drawn is None:
            return None, None
        fine = self._drawn(self.finest, first, min(count, _PIXELS))
        apart = None if fine is None else same_seed_share(drawn.images[: len(fine)] / 127.5 - 1, fine.images / 127.5 - 1)
        return self.evaluator.evaluate_features(drawn.features.numpy(), drawn.seeds), apart

    def _drawn(self, row: Row, first: int, count: int) -> Drawn | None:
        """Images of consecutive seeds; None where the time is up, or another process has not drawn them yet."""
        names = self.arguments.only
        mine = not names or family(row.sampler) in {family(self.bundle.sampler(MAKERS[name], steps=1)) for name in names}
        found = draw(
            row.sampler,
            self.bundle,
            count,
            self.evaluator,
            device=self.device,
            first=first,
            batch=self.arguments.batch,
            path=drawn_path(self.arguments.work, row.label, first),
            end=self.arguments.end if mine else -math.inf,
            whole_batches=self.arguments.compile,
        )
        return found if len(found) == count else None


def _covers(quality: Quality, first: int, count: int) -> bool:
    return len(quality.seeds) == 1 and quality.seeds[0][0] == first and quality.seeds[0][1] >= first + count


def evaluated_rows(rows: Sequence[Row], bench: Bench, *, settled: bool) -> list[Row]:
    """The rows with what chose, and what measured those chosen and those that nothing chose among.

    At a number of calls nothing is chosen before all its rows are drawn and, ``settled``, all lists found.
    """
    baseline, *ends = references(bench.bundle)
    # Nothing in the study chooses a learned table, so that every seed may measure it.
    rivals = [row for row in rows if row.sampler != baseline and not isinstance(row.sampler, LearnedSampler)]
    open_rows = [row for row in rivals if bench.grid.select and row.selection is None]
    counts = Counter(row.calls for row in open_rows)
    among = {row.label for row in open_rows if counts[row.calls] > 1}
    found = [bench.selected(row) if row.label in among else row for row in tqdm(rows, unit="row", desc="choosing")]
    waiting = {row.calls for row in found if row.label in among and (row.selection is None or row.same_seed is None)}
    best = {row.label for row in chosen(found) if settled and row.calls not in waiting}
    wanted = {row.label for row in found if row.label not in among or row.sampler in ends} | best
    return [bench.measured(row) if row.label in wanted else row for row in tqdm(found, unit="row", desc="measuring")]


def make_study(bundle: ModelBundle, evaluator: Evaluator, grid: Grid, arguments: argparse.Namespace, device: torch.device) -> Study:
    """Search, draw and evaluate, as far as the time goes; the rows of an earlier study come last."""
    since = earlier(arguments, bundle, evaluator)
    training = partial(find_evaluator, arguments.model, arguments.weights, device, "train")
    search = Search(bundle, evaluator, training, arguments.work / "lists", arguments.evaluations, device, arguments.end)
    rows = named_rows(bundle, grid)
    if arguments.grid == "candidates":
        found = candidate_rows(since, grid)
        found += learned_rows(bundle)
        rows, settled = [*found, *(row for row in rows if row.label not in {other.label for other in found})], True
    else:
        listed, settled = listed_rows(bundle, grid, search, arguments.only)
        rows += listed
    finest = max((row for row in rows if is_plain_ddim(row)), key=lambda row: row.calls)
    rows = evaluated_rows(rows, Bench(bundle, evaluator, since, grid, arguments, device, finest), settled=settled)
    labels, machine = {row.label for row in rows}, describe_machine(device)
    source = f"committed study, {machine.get('gpu') or '{processor}, {cores} cores'.format(**machine)}"
    rows = [replace(row, source=row.source or source, predicted=Evaluation(evaluator).predict(row.sampler)) for row in rows]
    rows += [] if since is None else [row for row in since.rows if row.label not in labels]
    model = bundle.identity()
    settings = {"grid": arguments.grid, **asdict(grid), "noise": rows[0].record["noise"], "compiled": arguments.compile}
    return Study(
        model,
        bundle.schedule,
        tuple(rows),
        next(row.label for row in rows if row.sampler == references(bundle)[0]),
        machine,
        versions(),
        settings,
        evaluator.reference.label,
        evaluator.real_vs_real,
        evaluator.noise,
        distance_covariances(rows, since),
    )


def earlier(arguments: argparse.Namespace, bundle: ModelBundle, evaluator: Evaluator) -> Study | None:
    """The study whose rows are taken over; of candidates the committed one, where none is named.

    Raises:
        DDIMKitError: it is of other weights.
        ValueError: its metrics are relative to something else.
    """
    if arguments.since is None:
        return find_study(bundle) if arguments.grid == "candidates" else None
    since = Study.load(arguments.since)
    if since.model["weights_sha256"] != bundle.weights_sha256() or since.label is None:
        raise DDIMKitError(f"{arguments.since} is of other weights than the model's, or nothing was evaluated in it")
    since.label.check(evaluator.reference.label)
    return since


def summary(study: Study) -> str:
    """What is there, what is not yet, and what to use."""
    waiting = [row for row in study.rows if row.known is None]
    said = [f"{len(study.rows)} rows, {len(study.evaluated)} of them measured, {len(waiting)} not drawn yet."]
    try:
        return "\n".join([*said, str(recommend(study))])
    except DDIMKitError as error:
        return "\n".join([*said, f"No recommendation yet: {error}."])


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Grid]:
    """The options, and the grid that they describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", nargs="?", choices=GRIDS)
    parser.add_argument("--samplers", type=words, help=f"of {', '.join(MAKERS)}")
    parser.add_argument("--calls", type=integers, help="numbers of calls")
    parser.add_argument("--spacings", type=words, help=f"of {', '.join(SPACINGS)}")
    parser.add_argument("--etas", type=lambda text: tuple(float(part) for part in text.split(",")), help="of DDIM")
    parser.add_argument("--objectives", type=words, help=f"of lists to search for, of {', '.join(KINDS)}; '' for none")
    parser.add_argument("--select", type=int, help="images of each row that choose; 0 measures every row")
    parser.add_argument("--images", type=int, help="images that measure a row")
    parser.add_argument("--long", type=int, help=f"the same of a row of more than {LONG} calls")
    parser.add_argument("--evaluations", type=int, default=200, help="of a list by the network; half by quality")
    parser.add_argument("--only", type=words, default=(), help="samplers that this process searches and draws for")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--weights", type=Path, help="folder of your own with model and evaluator, instead of the published ones")
    parser.add_argument("--work", type=Path, default=Path("study"), help="keeps what is drawn and found")
    parser.add_argument("--data", type=Path, help="folder of the original data files, to look for memorised images")
    parser.add_argument("--since", type=Path, help="an earlier study of the same weights")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end the sitting after so long")
    parser.add_argument("--threads", type=int, help="of torch on the CPU; torch's own default if left out")
    parser.add_argument("--batch", type=int, help="images drawn at once; 64 on a CPU and 1000 elsewhere by default")
    parser.add_argument("--compile", action="store_true", help="draw with the model compiled")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, help="also write the study there, all rows")
    parser.add_argument("--install", action="store_true", help="put the measured rows into the package's own data")
    found = parser.parse_args(argv)
    settings = {name: value for name, value in vars(found).items() if name in Grid.__dataclass_fields__ and value is not None}
    grid: Grid = replace(GRIDS.get(found.grid, Grid()), **settings)
    known = ((grid.samplers, MAKERS), (grid.spacings, SPACINGS), (grid.objectives, KINDS), (found.only, MAKERS))
    unknown = [name for names, there in known for name in names if name not in there]
    if unknown:
        parser.error(f"there is no sampler, spacing or objective {', '.join(unknown)}")
    if (grid.select and grid.select < _FEWEST) or min(grid.images, grid.long) < _FEWEST:
        parser.error(f"--images, --long and a --select that is not 0 must be at least {_FEWEST}")
    if grid.objectives and grid.select + max(grid.images, grid.long) > FIRST_SEED:
        parser.error(f"the seeds from {FIRST_SEED} on are those of the searches: ask for fewer images")
    return found, grid


def main(argv: Sequence[str] | None = None) -> None:
    """Go on with a study, say what follows from it, and write it."""
    arguments, grid = parse(argv)
    arguments.end, device = time.monotonic() + 60 * arguments.minutes, pick_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    bundle = find_model(arguments.model, arguments.weights)
    evaluator = find_evaluator(arguments.model, arguments.weights, device)
    if arguments.data:
        real, others = (load_images(arguments.model, arguments.data, split)[0] for split in ("train", "test"))
        evaluator = replace(evaluator, training=Training.of(real, others, evaluator.extractor))
    module = bundle.model
    assert isinstance(module, nn.Module)
    module.to(device)
    if arguments.compile:
        module.compile(dynamic=False)
    study = make_study(bundle, evaluator, grid, arguments, device)
    for path in (arguments.work / "study.json", arguments.out):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            study.save(path)
    if arguments.install:
        study.subset(row.label for row in study.evaluated).save(FOLDER / f"{arguments.model}.json")
    print(summary(study))


if __name__ == "__main__":
    main()
