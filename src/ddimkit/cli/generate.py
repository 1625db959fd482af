"""``ddimkit generate``: a set of images, by any number of processes, through any interruption."""

import json
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast, get_args

import torch
import typer

from ddimkit.cli.arguments import (
    DeviceOption,
    EtaOption,
    JsonOption,
    ModelOption,
    SamplerOption,
    SpacingOption,
    StepsOption,
    TableOption,
    TimestepsOption,
    find_evaluator,
    find_model,
    make_sampler,
    place_model,
    read_table,
)
from ddimkit.cli.edits import GuidanceOption, conditioned
from ddimkit.generate import Generated, Manifest, export_adm, export_images, measure, verify
from ddimkit.generate import generate as generate_images
from ddimkit.generate.export import check_target
from ddimkit.models.bundle import ModelBundle
from ddimkit.models.conditions import seed_labels
from ddimkit.quality.evaluator import EVALUATORS, Evaluator
from ddimkit.quality.measure import METRICS
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.presets import PresetName, preset

__all__ = ["STOPPED", "generate"]

STOPPED = 75
"""The exit code where images are still missing and the same command goes on: EX_TEMPFAIL of sysexits.h."""


def generate(
    model: ModelOption = "mnist",
    seeds: Annotated[str | None, typer.Option("--seeds", help="Seeds, one an image, as in 0-49999.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the images.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Samples of a call; another number can change the last bits.")] = 256,
    sampler: SamplerOption = "ddim",
    steps: StepsOption = None,
    timesteps: TimestepsOption = None,
    spacing: SpacingOption = None,
    eta: EtaOption = None,
    table: TableOption = None,
    preset_name: Annotated[
        str | None, typer.Option("--preset", help=f"A preset instead of a sampler: {', '.join(get_args(PresetName))}.")
    ] = None,
    labels: Annotated[
        int | None, typer.Option("--labels", min=1, help="Classes of a conditional model: a seed's label is the seed modulo them.")
    ] = None,
    guidance: GuidanceOption = None,
    device: DeviceOption = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of torch on the CPU; by default the folder's, else torch's.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", min=0.0, help="Begin no block that would end later than so long from now.")
    ] = None,
    mixed_machines: Annotated[
        bool, typer.Option("--mixed-machines", help="Go on where the folder's processor, GPU, threads or versions were others.")
    ] = False,
    quality: Annotated[bool, typer.Option("--quality", help="Keep features of the images, and print their metrics.")] = False,
    evaluator: Annotated[
        str | None, typer.Option("--evaluator", help="For --quality: a bundled evaluator, or package.module:name; the model's own.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write the folder's images as one .npz for the ADM evaluation suite.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--export-images", help="Write the folder's images as PNG pictures, one a seed.")
    ] = None,
    proof: Annotated[
        Path | None, typer.Option("--verify", help="Check a folder: number, checksums, seeds, and three blocks drawn again.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the images of many seeds into a folder of files.

    Images that are there are not drawn again: after any interruption the same command goes on. Any number of processes may work on
    one folder, started by torchrun or by hand, and files are the same to the byte for any number of them. The exit code is 75 where
    images are still missing: after --max-seconds, SIGTERM or Ctrl-C.

    Without --seeds nothing is drawn: --export, --export-images and --quality read the folder --out.

    Examples:

        ddimkit generate --seeds 0-49999 --steps 50 --out images

        torchrun --nproc-per-node=8 -m ddimkit generate --seeds 0-49999 --steps 50 --out images

        ddimkit generate --out images --export adm.npz

        ddimkit generate --verify images
    """
    if proof is not None:
        _verify(proof, _bundle(model, labels, guidance), device, as_json)
        return
    if out is None:
        raise ValueError("give --out DIR, the folder of the images, or --verify DIR")
    if export is not None:
        check_target(export)
    rank, world_size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    judge = _evaluator(model, evaluator) if quality else None
    said: dict[str, Any] = {}
    if seeds is not None:
        bundle = _bundle(model, labels, guidance)
        made = _make(bundle, sampler, steps, timesteps, spacing, eta, table, preset_name)
        with _terminated_as_interrupted():
            try:
                done = generate_images(
                    bundle,
                    made,
                    _seeds(seeds),
                    out,
                    batch=batch,
                    device=place_model(bundle, device or _local_device()),
                    threads=threads,
                    extractor=None if judge is None else judge.extractor,
                    rank=rank,
                    world_size=world_size,
                    max_seconds=max_seconds,
                    mixed_machines=mixed_machines,
                    progress=rank == 0 and not as_json,
                )
            except KeyboardInterrupt:
                _stop(f"stopped; the same command goes on from {out}")
        said = _said(done)
        if not done.whole:
            _stop(f"{done.images} of {done.asked} images are in {out}; the same command goes on")
    if rank == 0:
        _finish(out, judge, export, pictures, said, as_json)


def _finish(
    out: Path, judge: Evaluator | None, export: Path | None, pictures: Path | None, said: dict[str, Any], as_json: bool
) -> None:
    """Make the exports and metrics of a whole folder, and print what was done."""
    if export is not None:
        said["exported"] = {"path": str(export), "images": export_adm(out, export)}
    if pictures is not None:
        said["pictures"] = {"path": str(pictures), "images": export_images(out, pictures)}
    if judge is not None:
        said["quality"] = measure(out, judge).to_dict()
    if not said:
        raise ValueError("nothing to do: give --seeds to draw images, or --export, --export-images, --quality or --verify")
    print(json.dumps(said) if as_json else "\n".join(_lines(said)))


def _lines(said: dict[str, Any]) -> list[str]:
    lines = list[str]()
    if "images" in said:
        lines.append(
            f"{said['images']} images in {said['folder']}, {said['drawn']} drawn by this process in {said['seconds']:.1f} s"
        )
        lines += [f"damaged, set aside and drawn again: {path}" for path in said["set_aside"]]
    lines += [f"{said[key]['path']}: {said[key]['images']} images" for key in ("exported", "pictures") if key in said]
    for name in METRICS:
        found = said.get("quality", {}).get(name)
        if found is not None:
            lines.append(f"{name}: {found['value']:.4g} ({found['low']:.4g} to {found['high']:.4g})")
    return lines


def _said(done: Generated) -> dict[str, Any]:
    return {
        "folder": str(done.folder),
        "images": done.images,
        "drawn": done.drawn,
        "seconds": done.seconds,
        "set_aside": [str(path) for path in done.set_aside],
    }


def _verify(folder: Path, bundle: ModelBundle, device: str | None, as_json: bool) -> None:
    """Check a folder, and end with exit code 1 where it is not good."""
    name = Manifest.load(folder).configuration["model"]["name"]
    if bundle.name != name:
        raise ValueError(f"{folder} was drawn with the model {name!r}, not {bundle.name!r}: give --model")
    found = verify(folder, bundle, device=place_model(bundle, device))
    if as_json:
        plain = {
            "asked": found.asked,
            "images": found.images,
            "missing": found.missing,
            "damaged": found.damaged,
            "good": found.good,
        }
        print(json.dumps({**plain, "redrawn": [vars(one) for one in found.redrawn], "elsewhere": found.elsewhere}))
    else:
        print(found)
    if not found.good:
        raise typer.Exit(1)


def _make(
    bundle: ModelBundle,
    sampler: str,
    steps: int | None,
    timesteps: str | None,
    spacing: str | None,
    eta: float | None,
    table: Path | None,
    preset_name: str | None,
) -> PlanSampler:
    """The sampler that the options describe: a table, a preset, or a sampler with its settings."""
    others = (None if sampler == "ddim" else sampler, steps, timesteps, spacing, eta)
    if preset_name is not None:
        if table is not None or any(option is not None for option in others):
            raise ValueError("--preset is a whole sampler: leave out --table, --sampler, --steps, --timesteps, --spacing and --eta")
        return preset(cast("PresetName", preset_name), model=bundle)
    if table is not None:
        return read_table(bundle, table, *others)
    return make_sampler(bundle, sampler, steps, timesteps, spacing, eta)


def _seeds(text: str) -> range:
    """``"0-49999"`` as a range."""
    first, _, last = text.partition("-")
    if not first.isdecimal() or not last.isdecimal() or int(first) > int(last):
        raise ValueError(f"--seeds must be the first and the last seed, as in 0-49999, got {text!r}")
    return range(int(first), int(last) + 1)


def _local_device() -> str | None:
    """The GPU of this process under torchrun: one a process, in turns where there are fewer."""
    if not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def _bundle(model: str, labels: int | None, guidance: float | None) -> ModelBundle:
    """The model, with labels that follow from the seeds, and with guidance."""
    bundle = find_model(model)
    if labels is not None:
        bundle = replace(bundle, conditions=seed_labels(labels))
    return conditioned(bundle, None, guidance)


def _evaluator(model: str, name: str | None) -> Evaluator:
    """The evaluator that is named, else the bundled one of a bundled model."""
    if name is None and model not in EVALUATORS:
        raise ValueError(f"--quality of the model {model!r} needs --evaluator")
    return find_evaluator(name or model)


@contextmanager
def _terminated_as_interrupted() -> Generator[None]:
    """SIGTERM, once, raises what Ctrl-C raises: the block that is being drawn is dropped, and those that are drawn are written."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, before)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(message: str) -> NoReturn:
    typer.echo(f"ddimkit: {message}", err=True)
    raise typer.Exit(STOPPED)
