"""Which sampler and timesteps for a budget of model calls? Samplers, named spacings and searched lists at equal calls and noise.

    python benchmarks/sampler_study.py [--model mnist] [--weights FOLDER] [--work sampler-study] [--samples 1000]
                                       [--calls 5,6,8,10,15,20,50,100] [--objectives gaussian network quality]
                                       [--evaluations 200] [--samplers ddim,…] [--batch 1000] [--minutes M] [--threads N]
                                       [--compile] [--device cpu] [--out results/….json] [--pictures DIR] [--install]

Lists are searched first: by the exact error on the Gaussian of the real images' pixels; by the distance of the network's few-step
images to its own 200-step ones, in features; and by their kernel distance to real images that do not judge them later. Everything
drawn and found is kept in ``--work``; a later call goes on there.
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
from ddimkit.optimize import GaussianObjective, NetworkObjective, Objective, QualityObjective
from ddimkit.quality import Yardstick, same_seed_share
from ddimkit.samplers.named import MAKERS
from ddimkit.timesteps import Spacing
from ddimkit.tradeoff import studies
from ddimkit.tradeoff.budget import SEARCHED, BudgetResult, BudgetStudy, SearchedList, budget_findings, halves
from ddimkit.tradeoff.budget_chart import draw_budget
from ddimkit.tradeoff.judging import draw
from ddimkit.tradeoff.studies import budget_references, identity
from ddimkit.tradeoff.timing import describe_machine, versions

SAMPLERS = ("ddim", "dpm-2m", "dpm-3m", "unipc-2", "unipc-3")
NOISY = ("ddpm", "dpm-2m-sde", "dpm-3m-sde")
SPACINGS = get_args(Spacing)
FEW = 50  # calls up to which lists are searched
SOME, NOISY_SOME = 50, 10  # calls up to which all spacings are judged, and where there is noise
NETWORK_SEEDS, FINE = (range(20_000, 20_048), range(21_000, 21_096)), 200
QUALITY_SEEDS = range(22_000, 22_256), range(23_000, 23_512)


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
    few = [calls for calls in arguments.calls if calls <= FEW]
    samplers = [name for name in arguments.samplers if name in (*SAMPLERS, *NOISY)]
    pairs = [(name, kind) for kind in SEARCHED for name in samplers if kind == "quality" or name in SAMPLERS]
    found = []
    for calls, (name, kind) in tqdm([(calls, pair) for calls in few for pair in pairs], unit="list"):
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


def judge(
    bundle: ModelBundle, yardstick: Yardstick, lists: list[SearchedList], arguments: argparse.Namespace, device: torch.device
) -> list[BudgetResult]:
    """Every sampler over every list, as long as there is time; what is not whole is left out."""
    walks = [
        (name, calls, spacing, make(bundle, name, steps=calls, spacing=spacing))
        for calls in arguments.calls
        for name in arguments.samplers
        for spacing in (SPACINGS if calls <= (SOME if name in SAMPLERS else NOISY_SOME) else ("trailing",))
    ]
    walks += [(x.sampler, x.calls, x.objective, make(bundle, x.sampler, timesteps=x.timesteps)) for x in lists if x.gained]
    walks.sort(key=lambda walk: walk[1])
    results, images = list[BudgetResult](), list[NDArray[np.uint8]]()
    for name, calls, spacing, sampler in tqdm(walks, unit="configuration"):
        searched = f"-{hash_of(sampler.timesteps)}" if spacing in SEARCHED else ""
        path = arguments.work / "drawn" / f"{name}-{calls}-{spacing}{searched}.safetensors"
        drawn = draw(
            sampler,
            bundle,
            arguments.samples,
            yardstick,
            device=device,
            batch=arguments.batch,
            path=path,
            end=arguments.end,
            whole_batches=arguments.compile,
        )
        if len(drawn) == arguments.samples:
            results.append(judged(name, calls, spacing, sampler, drawn.features.numpy(), yardstick))
            images.append(drawn.images.numpy())
    return beside(results, images, max(arguments.calls))


def hash_of(timesteps: Sequence[int]) -> str:
    """Names a list: another search may find another one for the same sampler."""
    return hashlib.sha256(json.dumps(list(timesteps)).encode()).hexdigest()[:8]


def beside(results: list[BudgetResult], images: list[NDArray[np.uint8]], most: int) -> list[BudgetResult]:
    """The results with how far their images are from DDIM's at the most calls; as they are where those were not drawn."""
    finest = [
        part for r, part in zip(results, images, strict=True) if (r.sampler, r.calls, r.spacing) == ("ddim", most, "trailing")
    ]
    if not finest:
        return results
    shares = [same_seed_share(part / 127.5 - 1, finest[0] / 127.5 - 1) for part in images]
    return [replace(r, apart=share) for r, share in zip(results, shares, strict=True)]


def judged(
    name: str, calls: int, spacing: str, sampler: PlanSampler, features: NDArray[np.float32], yardstick: Yardstick
) -> BudgetResult:
    """What the features of the images of seeds 0, 1, 2 and so on say of a sampler, and what was to be expected of it."""
    quality = yardstick.judge_features(features, range(len(features))).distances_only()
    both, pixels = halves(features, yardstick.reference), yardstick.pixels
    predicted = None if pixels is None else error_of(sampler.plan(), pixels, sampler.schedule).frechet
    return BudgetResult(name, calls, spacing, tuple(sampler.timesteps), quality, both, predicted=predicted)


def main() -> None:
    """Search, judge, say what follows, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--weights", type=Path, help="folder of your own with model and yardstick, instead of the published ones")
    parser.add_argument("--work", type=Path, default=Path("sampler-study"), help="keeps what is drawn and found")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument(
        "--calls", type=lambda text: [int(part) for part in text.split(",")], default=[5, 6, 8, 10, 15, 20, 50, 100]
    )
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
    results = judge(bundle, yardstick, lists, arguments, device)
    settings = {
        "samples": arguments.samples,
        "noise": make(bundle, "ddim", steps=1).record()["noise"],
        "compiled": arguments.compile,
    }
    study = BudgetStudy(identity(bundle), describe_machine(device), versions(), tuple(results), tuple(lists), settings)
    result = arguments.work / "results.json"
    study.save(result)
    references = budget_references(study, bundle)
    print("\n".join(budget_findings(study, references)))
    if study.results:
        picture = draw_budget(study, arguments.work / "budget.png", references)
        if arguments.pictures:
            shutil.copyfile(picture, arguments.pictures / f"{arguments.model}-budget.png")
    targets = [arguments.out] if arguments.out else []
    targets += [Path(studies.__file__).parent / "data" / f"{arguments.model}.budget.json"] if arguments.install else []
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(result, target)


if __name__ == "__main__":
    main()
