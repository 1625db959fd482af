"""``ddimkit sample``: samples as a picture or an array."""

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

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
    find_model,
    make_sampler,
    place_model,
    read_table,
)
from ddimkit.cli.display import progress_bar
from ddimkit.cli.edits import (
    Edit,
    FromImageOption,
    GuidanceOption,
    LabelOption,
    MaskOption,
    StrengthOption,
    conditioned,
    read_edit,
)
from ddimkit.models.bundle import ModelBundle
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.report.samples import save_grid
from ddimkit.tradeoff.sweep import check_folder

__all__ = ["sample"]

_MOST_SAMPLES = 256
_MOST_NUMBERS = 2**20


def sample(
    model: ModelOption = "mnist",
    sampler: SamplerOption = "ddim",
    steps: StepsOption = None,
    timesteps: TimestepsOption = None,
    spacing: SpacingOption = None,
    eta: EtaOption = None,
    table: TableOption = None,
    num: Annotated[int, typer.Option("--num", min=1, help="How many samples.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the whole batch; --json lists each sample's own.")] = 0,
    label: LabelOption = None,
    guidance: GuidanceOption = None,
    from_image: FromImageOption = None,
    strength: StrengthOption = None,
    mask: MaskOption = None,
    grid: Annotated[Path | None, typer.Option("--grid", help="Write the samples as one PNG picture.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the samples as a NumPy .npy array (N, C, H, W) in [−1, 1].")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", min=1, help="Samples drawn at once; by default 256, fewer where one has more than 4,096 numbers."
        ),
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw samples and write them as a picture or an array.

    More samples than --batch-size are drawn in batches, one after another: only the finished samples take more memory then. The
    batch size changes neither seeds nor noise.

    Examples:

        ddimkit sample --steps 50 --seed 7 --grid out.png

        ddimkit sample --timesteps 999,700,400,100 --eta 0.5 --num 64 --out samples.npy

        ddimkit sample --steps 10 --num 10000 --out many.npy

        ddimkit sample --table five.json --grid out.png

        ddimkit sample --model mypackage.models:bundle --label 3 --guidance 2 --grid threes.png

        ddimkit sample --from-image digit.png --strength 0.6 --grid out.png

        ddimkit sample --from-image digit.png --mask white.png --grid out.png
    """
    _check_targets(grid, out)
    bundle = conditioned(find_model(model), label, guidance)
    edit = read_edit(bundle, from_image, mask, strength, num)
    if table is None:
        made = make_sampler(bundle, sampler, steps, timesteps, spacing, eta)
    else:
        made = read_table(bundle, table, None if sampler == "ddim" else sampler, steps, timesteps, spacing, eta)
    if grid is not None and bundle.decode is None:
        _check_drawable(bundle.sample_shape)
    shape = (num, *bundle.sample_shape)
    size = batch_size or _batch_size(bundle.sample_shape)
    drawn = _draw(made, bundle, shape, seed, device, size) if edit is None else _edited(edit, made, bundle, num, seed, device, size)
    written = _write(drawn, grid, out)
    if as_json:
        if edit is not None and edit.mask is None:
            strength = edit.strength
        options = {"label": label, "guidance": guidance, "from_image": from_image, "strength": strength, "mask": mask}
        given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items() if value is not None}
        record = made.record(shape, seed=seed) if edit is None else edit.record(made, shape, seed)
        print(json.dumps({"written": written, "record": record, **({"options": given} if given else {})}))
    else:
        said = f"{made.nfe} model calls" if edit is None else f"drawn from {from_image}"
        print(f"{num} samples, {said}, seed {seed}: {', '.join(written)}")


def _check_targets(grid: Path | None, out: Path | None) -> None:
    if grid is None and out is None:
        raise ValueError("nowhere to write to: give --grid out.png, --out samples.npy, or both")
    for path, suffix in ((grid, ".png"), (out, ".npy")):
        if path is not None and (path.suffix != suffix or not path.parent.is_dir()):
            raise ValueError(f"{path} must end in {suffix} and lie in a folder that exists")
        if path is not None:
            check_folder(path.parent)


def _check_drawable(shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"--grid draws samples of shape (1 or 3, H, W), not {shape}: use --out")


def _batch_size(sample_shape: tuple[int, ...]) -> int:
    """How many samples are drawn at once where the user names no number."""
    return max(1, min(_MOST_SAMPLES, _MOST_NUMBERS // max(1, math.prod(sample_shape))))


def _draw(
    sampler: PlanSampler, bundle: ModelBundle, shape: tuple[int, ...], seed: int, device: str | None, batch_size: int
) -> NDArray[Any]:
    """Samples (N, *), float32, made under one progress bar."""
    where = place_model(bundle, device)
    with progress_bar(passing=True) as bar:
        task = bar.add_task("sampling", total=sampler.nfe * math.ceil(shape[0] / batch_size))
        seeds = sampler.seeds(seed, shape[0])
        images = bundle.draw(sampler, seeds, device=where, callback=lambda _: bar.advance(task), batch_size=batch_size)
    return images.float().cpu().numpy()


def _edited(
    edit: Edit, sampler: PlanSampler, bundle: ModelBundle, count: int, seed: int, device: str | None, batch_size: int
) -> NDArray[Any]:
    """Edited images (N, *), float32."""
    where, seeds = place_model(bundle, device), sampler.seeds(seed, count)
    return edit.draw(sampler, bundle, seeds, where, batch_size, sys.stderr.isatty()).float().cpu().numpy()


def _write(images: NDArray[Any], grid: Path | None, out: Path | None) -> list[str]:
    """The names of the files written."""
    if out is not None:
        np.save(out, images)
    if grid is not None:
        save_grid(images, grid)
    return [str(path) for path in (grid, out) if path is not None]
