"""Which sampler and timesteps for a budget of model calls? Samplers, named spacings and searched lists at equal calls and noise.

    python benchmarks/sampler_study.py [--model mnist] [--weights FOLDER] [--work sampler-study] [--samples 1000]
                                       [--long N] [--fresh 2000] [--calls 5,6,8,10,15,20,50] [--objectives gaussian network quality]
                                       [--evaluations 200] [--samplers ddim,…] [--batch 1000] [--minutes M] [--threads N]
                                       [--compile] [--device cpu] [--out results/….json] [--pictures DIR] [--install]

Lists are searched first: by the exact error on the Gaussian of the real images' pixels; by the distance of the network's few-step
images to its own 200-step ones, in features; and by their kernel distance to real images that do not judge them later.
``--samples`` images of each (``--long`` of more than 10 calls) choose the best of every number of calls, and ``--fresh`` others
judge it. Everything drawn and found is kept in ``--work``; a later call goes on there.
Several processes can share the work, each with some of the ``--samplers`` and ``--threads`` of its own; a last one gathers it.
``--weights`` names a folder of one's own with model and yardstick, instead of those that are published.
"""

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from _subjects import find_model, find_yardstick, pick_device
from ddimkit import ModelBundle, PlanSampler, optimize_timesteps
from ddimkit.analytic import error_of
from ddimkit.learning import GaussianObjective, NetworkObjective, Objective, QualityObjective
from ddimkit.quality import Quality, Yardstick, same_seed_share
from ddimkit.samplers.named import MAKERS
from ddimkit.timesteps import Spacing
from ddimkit.tradeoff import studies
from ddimkit.tradeoff.budget import REFERENCES, SEARCHED, BudgetResult, BudgetStudy, SearchedList, finalists
from ddimkit.tradeoff.budget_chart import draw_budget
from ddimkit.tradeoff.budget_findings import budget_findings
from ddimkit.tradeoff.judging import Drawn, draw
from ddimkit.tradeoff.studies import identity
from ddimkit.tradeoff.timing import describe_machine, versions

SAMPLERS = ("ddim", "dpm-2m", "dpm-3m", "unipc-2", "unipc-3")
NOISY = ("ddpm", "dpm-2m-sde", "dpm-3m-sde")
SPACINGS = get_args(Spacing)
FINEST = ("ddim", 100)
FEW = 10  # calls above which fewer images suffice, and of samplers with noise the trailing spacing
NETWORK_SEEDS, FINE = (range(20_000, 20_048), range(21_000, 21_096)), 200
QUALITY_SEEDS = range(22_000, 22_256), range(23_000, 23_512)
MOST = 20_000  # images of one, whose seeds are not those of a search


def make(bundle: ModelBundle, name: str, **settings: object) -> PlanSampler:
    """A sampler by its name."""
    return bundle.sampler(MAKERS[name], **settings)


@dataclass(frozen=True)
class Search:
    """By what lists are searched.

    Args:
        objective: what is made small.
        evaluations: how often it is asked.
        about: whence its figures come, as plain JSON values.
    """

    objective: Objective
    evaluations: int
    about: dict[str, object]


def searches(bundle: ModelBundle, yardstick: Yardstick, arguments: argparse.Namespace, device: torch.device) -> dict[str, Search]:
    """Every objective that was asked for; those that draw images are asked less often."""
    extractor, found = yardstick.extractor, dict[str, Search]()
    if "gaussian" in arguments.objectives and yardstick.pixels is not None:
        pixels = yardstick.pixels
        found["gaussian"] = Search(
            GaussianObjective(pixels.mean, pixels.spectrum, pixels.count), 1000, {"pixels of": "the train split"}
        )
    if "network" in arguments.objectives:
        network = NetworkObjective(bundle, *NETWORK_SEEDS, FINE, extractor, device)
        about = {"fine_steps": FINE, "seeds": _ends(NETWORK_SEEDS), "extractor_sha256": extractor.sha256}
        found["network"] = Search(network, arguments.evaluations, about)
    if "quality" in arguments.objectives:
        real = find_yardstick(arguments.model, arguments.weights, device, "train")
        quality = QualityObjective(bundle, real, *QUALITY_SEEDS, batch=32, device=device)
        about = {"reference": asdict(real.reference.label), "seeds": _ends(QUALITY_SEEDS)}
        found["quality"] = Search(quality, arguments.evaluations // 2, about)
    return found


def _ends(seeds: tuple[range, range]) -> dict[str, tuple[int, int]]:
    return {name: (part.start, part.stop) for name, part in zip(("searched", "unseen"), seeds, strict=True)}


def search(bundle: ModelBundle, yardstick: Yardstick, arguments: argparse.Namespace, device: torch.device) -> list[SearchedList]:
    """The lists of every objective for every sampler it can judge, one file a list; those there is no time for are left out."""
    folder = arguments.work / f"lists-{str(bundle.weights_sha256())[:12]}-{arguments.evaluations}"
    folder.mkdir(exist_ok=True)
    by = searches(bundle, yardstick, arguments, device)
    samplers = [name for name in arguments.samplers if name in (*SAMPLERS, *NOISY)]
    pairs = [(name, kind) for kind in SEARCHED for name in samplers if kind == "quality" or name in SAMPLERS]
    found = []
    for calls, (name, kind) in tqdm([(calls, pair) for calls in arguments.calls for pair in pairs], unit="list"):
        path = folder / f"{name}-{calls}-{kind}.json"
        if not path.exists() and kind in by and time.monotonic() < arguments.end:
            asked, template = by[kind], make(bundle, name, steps=calls)
            times = optimize_timesteps(template, calls, objective=asked.objective, evaluations=asked.evaluations)
            about = {**asked.about, "evaluations": times.evaluations, "of": asked.evaluations, "named": times.named}
            keep(SearchedList(name, calls, kind, tuple(times), times.gained, times.reason, about), path)
        if path.exists():
            found.append(SearchedList.from_dict(json.loads(path.read_text())))
    return found


def keep(found: SearchedList, path: Path) -> None:
    """Write a list, atomically."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(found)))
    partial.replace(path)


@dataclass(frozen=True)
class Walk:
    """A sampler over a list of timesteps.

    Args:
        name: of the sampler.
        calls: model calls.
        spacing: named, or the objective of a searched list.
        sampler: the sampler itself.
    """

    name: str
    calls: int
    spacing: str
    sampler: PlanSampler

    @property
    def is_reference(self) -> bool:
        """Whether others are held against it."""
        return (self.name, self.calls) in REFERENCES and self.spacing == "trailing"

    @property
    def file(self) -> str:
        """Where its images are kept; another search may find another list for the same sampler."""
        listed = hashlib.sha256(json.dumps(list(self.sampler.timesteps)).encode()).hexdigest()[:8]
        return f"{self.name}-{self.calls}-{self.spacing}{f'-{listed}' if self.spacing in SEARCHED else ''}.safetensors"


@dataclass(frozen=True)
class Judging:
    """Draws images and judges them, as long as there is time.

    Args:
        bundle: the model.
        yardstick: what they are judged by.
        arguments: of the command line.
        device: where the model runs.
    """

    bundle: ModelBundle
    yardstick: Yardstick
    arguments: argparse.Namespace
    device: torch.device

    def all_of(self, walks: Sequence[Walk]) -> list[BudgetResult]:
        """Every walk, what was chosen by fresh images too; what is not whole is left out."""
        whole, results, images = list[Walk](), list[BudgetResult](), list[NDArray[np.uint8]]()
        for walk in tqdm(walks, unit="configuration"):
            count = self.arguments.samples if walk.calls <= FEW or walk.is_reference else self.arguments.long
            drawn = self.drawn(walk, count)
            if len(drawn) == count:
                whole.append(walk)
                results.append(self.first(walk, drawn))
                images.append(drawn.images.numpy())
        results = beside(results, images)
        chosen = {r.label for r in finalists(results)}
        pairs = tqdm(list(zip(whole, results, strict=True)), unit="configuration")
        return [replace(r, fresh=self.fresh(walk, r, chosen=r.label in chosen)) for walk, r in pairs]

    def first(self, walk: Walk, drawn: Drawn) -> BudgetResult:
        """What the first images say of a walk, and what was to be expected of it."""
        quality = self.yardstick.judge_features(drawn.features.numpy(), range(len(drawn))).distances_only()
        sampler, pixels = walk.sampler, self.yardstick.pixels
        predicted = None if pixels is None else error_of(sampler.coefficients.plan, pixels, sampler.schedule).frechet
        return BudgetResult(walk.name, walk.calls, walk.spacing, tuple(sampler.timesteps), quality, predicted=predicted)

    def fresh(self, walk: Walk, r: BudgetResult, *, chosen: bool) -> Quality | None:
        """What other images say of what was chosen; of a reference, which nothing chose, any do."""
        first, wanted = r.quality.count if chosen else 0, self.arguments.fresh
        if not wanted or not (chosen or walk.is_reference):
            return None
        drawn = self.drawn(walk, first + wanted)
        if len(drawn) < first + wanted:
            return None
        seeds = range(first, first + wanted)
        return self.yardstick.judge_features(drawn.features[first:].numpy(), seeds).distances_only()

    def drawn(self, walk: Walk, count: int) -> Drawn:
        """So many images of a walk, or what there was time for."""
        return draw(
            walk.sampler,
            self.bundle,
            count,
            self.yardstick,
            device=self.device,
            batch=self.arguments.batch,
            path=self.arguments.work / "drawn" / walk.file,
            end=self.arguments.end,
            whole_batches=self.arguments.compile,
        )


def walks_of(bundle: ModelBundle, lists: Sequence[SearchedList], arguments: argparse.Namespace) -> list[Walk]:
    """The samplers over every spacing that gives so many timesteps, what they are held against, and the lists that gained."""
    wanted = {
        (name, calls, spacing)
        for calls in arguments.calls
        for name in arguments.samplers
        for spacing in (SPACINGS if name in SAMPLERS or calls <= FEW else ("trailing",))
    }
    most = bundle.schedule.num_timesteps
    wanted |= {(name, calls, "trailing") for name, calls in REFERENCES if name in arguments.samplers and calls <= most}
    walks = [Walk(*which, make(bundle, which[0], steps=which[1], spacing=which[2])) for which in sorted(wanted)]
    walks = [walk for walk in walks if walk.sampler.nfe == walk.calls]
    walks += [Walk(x.sampler, x.calls, x.objective, make(bundle, x.sampler, timesteps=x.timesteps)) for x in lists if x.gained]
    return sorted(walks, key=lambda walk: walk.calls)


def beside(results: list[BudgetResult], images: list[NDArray[np.uint8]]) -> list[BudgetResult]:
    """The results with how far their images are from the finest run's; as they are where those were not drawn."""
    finest = [part for r, part in zip(results, images, strict=True) if (r.sampler, r.calls, r.spacing) == (*FINEST, "trailing")]
    if not finest:
        return results
    shares = [same_seed_share(part / 127.5 - 1, finest[0][: len(part)] / 127.5 - 1) for part in images]
    return [replace(r, apart=share) for r, share in zip(results, shares, strict=True)]


def main() -> None:
    """Search, judge, say what follows, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--weights", type=Path, help="folder of your own with model and yardstick, instead of the published ones")
    parser.add_argument("--work", type=Path, default=Path("sampler-study"), help="keeps what is drawn and found")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--long", type=int, help=f"images of more than {FEW} calls; as many as the others by default")
    parser.add_argument("--fresh", type=int, default=2000, help="images that judge what the others have chosen; 0 for none yet")
    parser.add_argument("--calls", type=lambda text: [int(part) for part in text.split(",")], default=[5, 6, 8, 10, 15, 20, 50])
    parser.add_argument("--evaluations", type=int, default=200, help="of a list by the network; half by quality")
    parser.add_argument("--objectives", nargs="*", choices=SEARCHED, default=SEARCHED, help="of the lists to search for")
    parser.add_argument("--samplers", type=lambda text: text.split(","), default=[*SAMPLERS, *NOISY], help="these alone")
    parser.add_argument("--threads", type=int, help="of the processor; torch's own choice by default")
    parser.add_argument("--batch", type=int, help="images drawn at once; 64 on a CPU and 1000 elsewhere by default")
    parser.add_argument("--minutes", type=float, default=1e9, help="end the work after so long")
    parser.add_argument("--compile", action="store_true", help="draw with the model compiled")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, help="also write the result there, as JSON")
    parser.add_argument("--pictures", type=Path, help="also put the chart there, MODEL-budget.png")
    parser.add_argument("--install", action="store_true", help="put the result into the package's own data")
    arguments = parser.parse_args()
    arguments.long = arguments.long or arguments.samples
    if not 5 <= arguments.long <= arguments.samples <= MOST - arguments.fresh:
        parser.error(f"--long and --samples must be at least 5, the first no more than the second, and with --fresh at most {MOST}")
    arguments.end, device = time.monotonic() + 60 * arguments.minutes, pick_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    (arguments.work / "drawn").mkdir(parents=True, exist_ok=True)
    bundle, yardstick = (
        find_model(arguments.model, arguments.weights),
        find_yardstick(arguments.model, arguments.weights, device),
    )
    bundle.model.to(device)
    if arguments.compile:
        bundle.model.compile(dynamic=False)
    lists = search(bundle, yardstick, arguments, device)
    results = Judging(bundle, yardstick, arguments, device).all_of(walks_of(bundle, lists, arguments))
    settings = {
        "samples": arguments.samples,
        "samples of more calls": arguments.long,
        "fresh samples": arguments.fresh,
        "noise": make(bundle, "ddim", steps=1).record()["noise"],
        "compiled": arguments.compile,
    }
    study = BudgetStudy(identity(bundle), describe_machine(device), versions(), tuple(results), tuple(lists), settings)
    result = arguments.work / "results.json"
    study.save(result)
    print("\n".join(budget_findings(study)))
    if study.results:
        picture = draw_budget(study, arguments.work / "budget.png")
        if arguments.pictures:
            shutil.copyfile(picture, arguments.pictures / f"{arguments.model}-budget.png")
    targets = [arguments.out] if arguments.out else []
    targets += [Path(studies.__file__).parent / "data" / f"{arguments.model}.budget.json"] if arguments.install else []
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(result, target)


if __name__ == "__main__":
    main()
