"""What several commands take: their common options, and the numbers, models and samplers that the options' texts mean."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from ddimkit.interop.diffusers import from_pipeline
from ddimkit.learning import LearnedSampler
from ddimkit.loop import check_device
from ddimkit.models.bundle import ModelBundle, load_pretrained
from ddimkit.models.data import DatasetName, load_images
from ddimkit.quality.evaluator import Evaluator, load_evaluator
from ddimkit.samplers.named import MAKERS
from ddimkit.sampling import PlanSampler

__all__ = [
    "DeviceOption",
    "EtaOption",
    "JsonOption",
    "ModelOption",
    "SamplerOption",
    "SpacingOption",
    "StepsOption",
    "TableOption",
    "TimestepsOption",
    "find_baseline",
    "find_evaluator",
    "find_model",
    "find_sampler",
    "make_sampler",
    "numbers",
    "place_model",
    "read_images",
    "read_table",
]

T = TypeVar("T")

# One of them lies in every folder of a pipeline or a model.
_FOLDER_FILES = ("model_index.json", "config.json")

ModelOption = Annotated[
    str, typer.Option("--model", help="A bundled model's name, a folder of diffusers, or package.module:name of a ModelBundle.")
]
SamplerOption = Annotated[str, typer.Option("--sampler", help=f"{', '.join(MAKERS)}, or package.module:name of a sampler class.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Number of steps; 50 if there are no --timesteps either.")]
TimestepsOption = Annotated[str | None, typer.Option("--timesteps", help="The timesteps themselves, as in 999,500,24.")]
SpacingOption = Annotated[str | None, typer.Option("--spacing", help="How --steps are spaced: trailing, leading, linspace, …")]
TableOption = Annotated[Path | None, typer.Option("--table", help="A learned table's file, instead of a sampler.")]
EtaOption = Annotated[float | None, typer.Option("--eta", help="From 0, deterministic, to 1, as noisy as DDPM (DDIM only).")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or cuda; CUDA if there is one by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]


def numbers(text: str, kind: Callable[[str], T], option: str) -> list[T]:
    """The numbers of a text with commas between."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be numbers with commas between, as in 10,20,50, got {text!r}") from None


def find_model(name: str) -> ModelBundle:
    """The model that ``--model`` names: a bundled one, a folder of diffusers, or one of a module of the user's."""
    path = Path(name)
    if any((path / file).is_file() for file in _FOLDER_FILES) or (":" not in name and {"/", os.sep} & set(name)):
        return from_pipeline(path)
    if ":" not in name:
        return load_pretrained(name)
    found = _imported(name, "model")
    if not isinstance(found, ModelBundle):
        raise TypeError(f"model {name!r} must be a ddimkit.ModelBundle, got {type(found).__name__}")
    return found


def place_model(bundle: ModelBundle, device: str | None) -> torch.device:
    """The device that ``--device`` names, else CUDA if there is one, with the model moved there.

    Raises:
        ValueError: this machine has no such device.
    """
    place = check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(bundle.model, torch.nn.Module):
        bundle.model.to(place)
    return place


def find_sampler(name: str) -> Callable[..., PlanSampler]:
    """The sampler class that ``--sampler`` names: one of ddimkit's, or one of a module of the user's."""
    if name in MAKERS:
        return MAKERS[name]
    if ":" not in name:
        raise ValueError(f"sampler must be one of {', '.join(MAKERS)}, or package.module:name, got {name!r}")
    found = _imported(name, "sampler")
    if not callable(found):
        raise TypeError(f"sampler {name!r} must be a sampler class, got {type(found).__name__}")
    return cast("Callable[..., PlanSampler]", found)


def find_evaluator(name: str) -> Evaluator:
    """The evaluator that ``--evaluator`` names: a bundled one, or one of a module of the user's."""
    if ":" not in name:
        return load_evaluator(name)
    found = _imported(name, "evaluator")
    if not isinstance(found, Evaluator):
        raise TypeError(f"evaluator {name!r} must be a ddimkit.quality.Evaluator, got {type(found).__name__}")
    return found


def find_baseline(bundle: ModelBundle, text: str) -> PlanSampler:
    """The sampler that ``--baseline`` names, as in ``ddim:250``; without a number, it has all the model's timesteps."""
    name, _, steps = text.rpartition(":")
    if steps.isdecimal():
        return bundle.sampler(find_sampler(name), steps=int(steps))
    if name in MAKERS or not text:
        raise ValueError(f"--baseline must be a sampler and its number of steps, as in ddim:250, got {text!r}")
    return bundle.sampler(find_sampler(text), steps=bundle.schedule.num_timesteps)


def make_sampler(
    bundle: ModelBundle, name: str, steps: int | None, timesteps: str | None, spacing: str | None, eta: float | None
) -> PlanSampler:
    """The sampler of a model that the options describe; 50 steps where they name neither steps nor timesteps."""
    make = find_sampler(name)
    keywords: dict[str, Any] = {} if spacing is None else {"spacing": spacing}
    if timesteps is not None:
        keywords["timesteps"] = numbers(timesteps, int, "--timesteps")
    if steps is not None or timesteps is None:
        keywords["steps"] = min(50, bundle.schedule.num_timesteps) if steps is None else steps
    if eta is not None:
        if "eta" not in inspect.signature(make).parameters:
            raise ValueError(f"--sampler {name} takes no --eta")
        keywords["eta"] = eta
    return bundle.sampler(make, **keywords)


def read_table(bundle: ModelBundle, path: Path, *options: object) -> PlanSampler:
    """The learned sampler of ``--table``, checked against the model; ``options`` of another sampler must not be given."""
    if any(option is not None for option in options):
        raise ValueError("--table is a whole sampler: leave out --sampler, --steps, --timesteps, --spacing and --eta")
    table = LearnedSampler.load(path, schedule=bundle.schedule)
    if (table.prediction, table.clip) != (bundle.prediction, bundle.clip):
        raise ValueError(
            f"{path} is for a model of prediction {table.prediction!r} and clip {table.clip}, not {bundle.prediction!r} and "
            f"{bundle.clip}: give the model that it was learned for"
        )
    return table


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


def read_images(bundle: ModelBundle, data: Path) -> NDArray[np.uint8]:
    """Real images (N, C, H, W), bytes."""
    if data.suffix == ".npy":
        images: NDArray[Any] = np.load(data, allow_pickle=False)
        if images.dtype != np.uint8 or images.shape[1:] != bundle.sample_shape:
            raise ValueError(f"{data} must hold bytes of shape (N, {', '.join(map(str, bundle.sample_shape))}), got {images.shape}")
    elif bundle.name in get_args(DatasetName):
        images, _ = load_images("cifar10" if bundle.name == "cifar10" else "mnist", data)
    else:
        raise ValueError(f"--data of the model {bundle.name!r} must be a .npy file of bytes (N, C, H, W), got {data}")
    return images
