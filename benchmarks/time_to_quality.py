"""How many seconds until the images are as good as those of DDPM with all timesteps? diffusers' schedulers against our samplers.

    python benchmarks/time_to_quality.py [--calls 5,10,20,50] [--images 2000] [--work time-to-quality] [--out results/….json]

All contenders run one network, the bundled MNIST model. diffusers' DDIM and DDPM run in their own pipelines, the other schedulers
in the loop of those pipelines. Several settings of each scheduler are tried, and every one is a row. The metrics are by the
evaluating network and the test images, on as many images of every row. Seconds are of one batch, from the first noise to the
finished images, the contenders in turns. A row is kept in ``--work`` once its images are evaluated: interrupted, the same command
goes on.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from _contest import Contender, Contest, contest
from _script import chosen, integers, options, start, write
from ddimkit import DDIMSampler, DDPMSampler, DPMSolverPPSampler, PlanSampler, load_pretrained
from ddimkit.learning.shipped import shipped_tables
from ddimkit.models.bundle import ModelBundle
from ddimkit.quality import Evaluator, load_evaluator
from ddimkit.tradeoff.rows import label_of

BASELINE = "ours: DDPM-1000"
REHEARSED = ("diffusers: DDIM-5", "diffusers: UniPCa-5", "diffusers: Euler-a-5", "ours: learned-5")
FIRST_SEED = 700_000_000
SINGLE = {"timestep_spacing": "trailing"}
KARRAS = {"timestep_spacing": "trailing", "use_karras_sigmas": True}
MULTI = {**SINGLE, "final_sigmas_type": "zero"}
THEIRS: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "DDIM": ("DDIMScheduler", ({**SINGLE, "clip_sample": False},)),
    "DDPM": ("DDPMScheduler", ({**SINGLE, "clip_sample": False},)),
    "DPM++2M": ("DPMSolverMultistepScheduler", (MULTI, {**MULTI, "use_karras_sigmas": True}, {**MULTI, "solver_order": 3})),
    "DPM++2M-SDE": ("DPMSolverMultistepScheduler", ({**MULTI, "algorithm_type": "sde-dpmsolver++"},)),
    "UniPC": ("UniPCMultistepScheduler", (MULTI, {**MULTI, "solver_order": 3})),
    "DEIS": ("DEISMultistepScheduler", (SINGLE, {**SINGLE, "solver_order": 3})),
    "Heun": ("HeunDiscreteScheduler", (SINGLE, KARRAS)),
    "Euler-a": ("EulerAncestralDiscreteScheduler", (SINGLE,)),
}
"""Name in the tables, class, and settings that are tried beside linear betas and the prediction type."""
TAKE_NOISE = ("DPM++2M-SDE", "Euler-a")


@dataclass(frozen=True)
class Row:
    """One contender: its model calls, and how it draws images (N, 1, 28, 28) of the N seeds from a first one."""

    calls: int
    draw: Callable[[int, int], Tensor]


class TheirUNet(nn.Module):
    """Our network as diffusers' pipelines call theirs."""

    dtype = torch.float32

    def __init__(self, bundle: ModelBundle, device: torch.device) -> None:
        super().__init__()
        channels, side, _ = bundle.sample_shape
        self.network, self.device = bundle.model, device
        self.config = SimpleNamespace(sample_size=side, in_channels=channels)

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        """The output, wrapped as theirs is."""
        return SimpleNamespace(sample=self.network(x, t.to(x.device, torch.int64).expand(len(x))))


def their_row(unet: TheirUNet, name: str, settings: dict[str, Any], calls: int) -> Row:
    """A scheduler of diffusers in its pipeline; Heun's has an odd number of calls, one more than an even one that is wanted."""
    import diffusers

    kinds: Any = diffusers
    scheduler = getattr(kinds, THEIRS[name][0])(beta_start=1e-4, beta_end=0.02, prediction_type="v_prediction", **settings)
    steps = calls // 2 + 1 if name == "Heun" else calls
    if name in ("DDIM", "DDPM"):
        pipe = getattr(kinds, f"{name}Pipeline")(unet=unet, scheduler=scheduler)
        pipe.scheduler = scheduler
        pipe.set_progress_bar_config(disable=True)

        def draw(first: int, count: int) -> Tensor:
            generator = torch.Generator(unet.device).manual_seed(first)
            images: Tensor = pipe(count, generator, num_inference_steps=steps, output_type="pt").images
            return images * 2 - 1
    else:

        def draw(first: int, count: int) -> Tensor:
            return loop(unet, scheduler, steps, first, count, noisy=name in TAKE_NOISE)

    return Row(2 * steps - 1 if name == "Heun" else steps, draw)


@torch.no_grad()
def loop(unet: TheirUNet, scheduler: Any, steps: int, first: int, count: int, *, noisy: bool) -> Tensor:
    """The loop of diffusers' unconditional pipelines, with what schedulers in terms of σ need."""
    generator = torch.Generator(unet.device).manual_seed(first)
    scheduler.set_timesteps(steps)
    shape = count, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size
    image: Tensor = torch.randn(shape, generator=generator, device=unet.device) * scheduler.init_noise_sigma
    extra = {"generator": generator} if noisy else {}
    for t in scheduler.timesteps:
        output = unet(scheduler.scale_model_input(image, t), t).sample
        image = scheduler.step(output, t, image, **extra).prev_sample
    return image.clamp(-1, 1)


def our_row(bundle: ModelBundle, sampler: PlanSampler, device: torch.device) -> Row:
    """One of our samplers."""

    def draw(first: int, count: int) -> Tensor:
        return sampler.sample(bundle.model, (count, *bundle.sample_shape), seed=range(first, first + count), device=device)

    return Row(sampler.nfe, draw)


def contenders(bundle: ModelBundle, calls: Sequence[int], device: torch.device) -> dict[str, Row]:
    """Every row by its name."""
    unet, found = TheirUNet(bundle, device), dict[str, Row]()
    for name, (_, tried) in THEIRS.items():
        for number, settings in enumerate(tried):
            for count in calls:
                row = their_row(unet, name, settings, count)
                found[f"diffusers: {name}{'abc'[number] if len(tried) > 1 else ''}-{row.calls}"] = row
    samplers: list[PlanSampler] = [*shipped_tables(bundle.name)]
    for count in calls:
        samplers += [
            bundle.sampler(DDIMSampler, steps=count),
            bundle.sampler(DPMSolverPPSampler, steps=count, order=2),
            bundle.sampler(DPMSolverPPSampler, steps=count, order=2, eta=1.0),
        ]
    samplers.append(bundle.sampler(DDPMSampler, steps=bundle.schedule.num_timesteps))
    return found | {f"ours: {label_of(sampler)}": our_row(bundle, sampler, device) for sampler in samplers}


def evaluated(row: Row, evaluator: Evaluator, images: int, batch: int, path: Path) -> dict[str, Any]:
    """The metrics of a row, or what an earlier call found."""
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    seeds = range(FIRST_SEED, FIRST_SEED + images)
    drawn = torch.cat([row.draw(first, min(batch, seeds.stop - first)) for first in range(seeds.start, seeds.stop, batch)])
    found = evaluator.evaluate(drawn, seeds).to_dict()
    path.write_text(json.dumps(found))
    return found


def summary(rows: dict[str, Row], quality: dict[str, Any], times: Contest) -> dict[str, Any]:
    """The fastest of either side whose kernel distance is below the upper end of the baseline's, and the ratios of times."""
    bar = quality[BASELINE]["kernel"]["high"]
    reached: dict[str, str | None] = {}
    for side in ("diffusers", "ours"):
        good = [name for name in rows if name.startswith(side) and quality[name]["kernel"]["value"] <= bar and name != BASELINE]
        reached[side] = times.fastest(good) if good else None
    ours, theirs = reached["ours"], reached["diffusers"]
    return {
        "bar": bar,
        **reached,
        "over_theirs": times.ratio(theirs, ours).ratio if ours and theirs else None,
        "over_baseline": times.ratio(BASELINE, ours).ratio if ours else None,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate, time, print and write."""
    arguments = _options().parse_args(argv)
    device = start(arguments)
    calls = chosen(arguments.calls, arguments, quick=(5,), cpu=(5, 10, 20, 50), cuda=(5, 10, 20, 50, 100))
    images = chosen(arguments.images, arguments, quick=64, cpu=2000, cuda=10_000)
    rounds = chosen(arguments.rounds, arguments, quick=1, cpu=7, cuda=7)
    bundle, evaluator = load_pretrained("mnist"), load_evaluator("mnist", device=device)
    if isinstance(bundle.model, nn.Module):
        bundle.model.to(device)
    rows = contenders(bundle, calls, device)
    if arguments.quick:
        rows = {name: rows[name] for name in REHEARSED}
        rows[BASELINE] = our_row(bundle, bundle.sampler(DDPMSampler, steps=5), device)
    arguments.work.mkdir(parents=True, exist_ok=True)
    kept = {name: arguments.work / f"{name.replace(': ', '-').replace(' ', '-')}-{images}.json" for name in rows}
    quality = {name: evaluated(row, evaluator, images, arguments.batch, kept[name]) for name, row in rows.items()}
    times = contest({name: Contender(partial(row.draw, 0, arguments.timed)) for name, row in rows.items()}, rounds)
    found = summary(rows, quality, times)
    print("| contender | calls | seconds | kernel distance | Fréchet distance |\n|---|---|---|---|---|")
    for name in sorted(rows, key=lambda name: quality[name]["kernel"]["value"]):
        kernel, frechet = quality[name]["kernel"], quality[name]["frechet"]
        interval = f"{kernel['value']:.4f} ({kernel['low']:.4f} to {kernel['high']:.4f})"
        print(f"| {name} | {rows[name].calls} | {times.median(name):.3f} | {interval} | {frechet['value']:.3f} |")
    print(json.dumps(found, indent=1))
    settings = {"calls": list(calls), "images": images, "timed": arguments.timed, "settings of diffusers": THEIRS}
    results = {"times": times.figures(), "quality": quality, "summary": found}
    write(arguments, settings, results, peers=("diffusers",))


def _options() -> argparse.ArgumentParser:
    parser = options(__doc__)
    parser.add_argument("--calls", type=integers, help="model calls of those that any number fits")
    parser.add_argument("--images", type=int, help="images of each row that are evaluated")
    parser.add_argument("--batch", type=int, default=250, help="images that are drawn at once for it")
    parser.add_argument("--timed", type=int, default=16, help="images of the batch that is timed")
    parser.add_argument("--work", type=Path, default=Path("time-to-quality"), help="folder of finished rows")
    return parser


if __name__ == "__main__":
    main()
