"""Models of diffusers as ``model(x, t)``: by class, what they are given for t, and what a sample's shape is."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ddimkit.errors import DDIMKitError, WeightsError
from ddimkit.interop._scheduler_config import Halves
from ddimkit.models.diffusers_names import listed_shards
from ddimkit.schedule import FloatArray
from ddimkit.weights._json import read_json_object

__all__ = ["DiffusersModel", "check_class", "load_model", "part_of", "shape_of"]

# What a pipeline divides the scheduler's timestep by before the model gets it. Classes that are not here have conventions of their
# own, such as a time that runs the other way.
_DIVISORS: dict[str, float] = {
    "AuraFlowTransformer2DModel": 1000.0,
    "ChromaTransformer2DModel": 1000.0,
    "CogVideoXTransformer3DModel": 1.0,
    "DiTTransformer2DModel": 1.0,
    "FluxTransformer2DModel": 1000.0,
    "PixArtTransformer2DModel": 1.0,
    "QwenImageTransformer2DModel": 1000.0,
    "SD3Transformer2DModel": 1.0,
    "SanaTransformer2DModel": 1.0,
    "Transformer2DModel": 1.0,
    "UNet2DConditionModel": 1.0,
    "UNet2DModel": 1.0,
    "WanTransformer3DModel": 1.0,
}

_PARTS = ("unet", "transformer")
_MORE_PARTS = ("transformer_2", "prior", "decoder")


class DiffusersModel(nn.Module):
    r"""A model of diffusers as ``model(x, t, **model_kwargs)``.

    Args:
        model: the model itself, kept as :attr:`module`.
        times: (T,) what the scheduler gives at each t, for flow-matching schedulers; None where that is t itself.
        halves: which half of an output with twice the channels is returned.
    """

    def __init__(self, model: nn.Module, times: FloatArray | None, halves: Halves) -> None:
        super().__init__()
        self.module = model
        self._times, self._divisor, self._halves = times, time_divisor(model), halves
        self._tables = dict[torch.device, Tensor]()

    def forward(self, x: Tensor, t: Tensor, **model_kwargs: Any) -> Tensor:
        r"""X (B, \*), t int64 (B,), and what else the model takes; the output in the model's own precision."""
        time = self._time(t)
        first: Tensor = self.module(x.to(_dtype(self.module, x)), timestep=time, return_dict=False, **model_kwargs)[0]
        doubled = self._halves == "first" and x.ndim > 1 and first.ndim == x.ndim and first.shape[1] == 2 * x.shape[1]
        return first.chunk(2, dim=1)[0] if doubled else first

    def _time(self, t: Tensor) -> Tensor:
        """What the network is given for t."""
        if self._times is not None:
            if t.device not in self._tables:
                # Kept on the device, and in no buffer: half() must not round it.
                self._tables[t.device] = torch.from_numpy(self._times.astype("float32")).to(t.device)
            t = self._tables[t.device][t]
        return t if self._divisor == 1 else t / self._divisor

    def __getstate__(self) -> dict[str, Any]:
        """The state without what is kept on devices."""
        return {**self.__dict__, "_tables": {}}


def _dtype(module: nn.Module, x: Tensor) -> torch.dtype:
    parameter = next(module.parameters(), None)
    return x.dtype if parameter is None or not parameter.is_floating_point() else parameter.dtype


def config_of(model: nn.Module) -> Mapping[str, Any]:
    """The configuration that diffusers keeps with a model."""
    config = getattr(model, "config", None)
    if not isinstance(config, Mapping):
        raise TypeError(f"a model of diffusers with its config is wanted, got {type(model).__name__}")
    return cast("Mapping[str, Any]", config)


def check_class(model: nn.Module) -> None:
    """Raise a ValueError for a class of model that is not known, or one that reads more channels than it gives."""
    name, config = type(model).__name__, config_of(model)
    if name not in _DIVISORS:
        raise ValueError(
            f"{name} is no model whose conventions are known here (those are {', '.join(sorted(_DIVISORS))}): "
            "wrap it with ddimkit.interop.conventions and make a ModelBundle of it"
        )
    read, given = config.get("in_channels"), config.get("out_channels")
    if read is not None and given is not None and given not in (read, 2 * read):
        raise ValueError(
            f"{name} reads {read} channels and gives {given}: it wants more than the noisy image (a mask or another image beside "
            "it). Make a ModelBundle of a function that adds those channels to x"
        )


def time_divisor(model: nn.Module) -> float:
    """What the scheduler's timestep is divided by before this model gets it."""
    scale = config_of(model).get("timestep_scale", 1.0) if type(model).__name__ == "SanaTransformer2DModel" else 1.0
    return _DIVISORS[type(model).__name__] / float(scale)


def shape_of(model: nn.Module, given: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of one sample: the one that is given, or that of the model's configuration.

    Raises:
        ValueError: none is given, and the configuration has no ``sample_size``.
    """
    if given is not None:
        return tuple(given)
    config = config_of(model)
    channels, size = config.get("in_channels"), config.get("sample_size")
    if channels is None or size is None:
        raise ValueError(
            f"the configuration of {type(model).__name__} does not say how large a sample is: give sample_shape=, as in (4, 64, 64)"
        )
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


def part_of(pipeline: object) -> nn.Module:
    """The model that a pipeline calls at every step.

    Raises:
        ValueError: a pipeline with none or several.
    """
    found = {name: part for name in (*_PARTS, *_MORE_PARTS) if isinstance(part := getattr(pipeline, name, None), nn.Module)}
    if len(found) != 1 or next(iter(found)) not in _PARTS:
        raise ValueError(
            f"{type(pipeline).__name__} must have one model, as its unet or its transformer, got {', '.join(found) or 'none'}: "
            "give the model and the scheduler that go together"
        )
    return next(iter(found.values()))


def load_model(folder: Path, variant: str | None) -> nn.Module:
    """The model of a folder: a model's own, or that of a pipeline; float32, in eval mode, read from safetensors alone.

    Raises:
        FileNotFoundError: a folder without a configuration.
        ValueError: a class of model that is not known, or a pipeline with none or several.
        WeightsError: no weights of this variant as safetensors, or not those of this configuration.
        DDIMKitError: diffusers cannot be imported.
    """
    if (folder / "model_index.json").is_file():
        folder = _part_folder(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{folder} holds neither a model's config.json nor a pipeline's model_index.json")
    name = read_json_object(config, ValueError).get("_class_name")
    if name not in _DIVISORS:
        raise ValueError(f"{config} is of the class {name!r}; those known here are {', '.join(sorted(_DIVISORS))}")
    kind = getattr(_library(), str(name))
    _check_weights(folder, variant)
    # Asked for without accelerate, it would be left out with a warning.
    frugal = find_spec("accelerate") is not None
    settings: dict[str, Any] = {"torch_dtype": torch.float32, "use_safetensors": True, "low_cpu_mem_usage": frugal}
    try:
        model: nn.Module = kind.from_pretrained(str(folder), variant=variant, local_files_only=True, **settings)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder} does not hold the weights of its config.json: {error}") from error
    return model.eval()


def _part_folder(folder: Path) -> Path:
    """The folder of the model of a pipeline's folder."""
    index = read_json_object(folder / "model_index.json", ValueError)
    found = [name for name in (*_PARTS, *_MORE_PARTS) if isinstance(entry := index.get(name), list) and any(entry)]
    if len(found) != 1 or found[0] not in _PARTS:
        kind = index.get("_class_name")
        raise ValueError(
            f"{folder} ({kind}) must have one model, as its unet or its transformer, got {', '.join(found) or 'none'}: "
            "give the folder of one model, and scheduler="
        )
    return folder / found[0]


def _check_weights(folder: Path, variant: str | None) -> None:
    """Raise a WeightsError where a folder has no weights of a variant as safetensors, or an index lists other files."""
    middle = "" if variant is None else f".{variant}"
    name = "diffusion_pytorch_model"
    if not any((folder / file).is_file() for file in (f"{name}{middle}.safetensors", f"{name}.safetensors.index{middle}.json")):
        there = sorted(path.name for path in folder.glob(f"{name}*")) or ["none"]
        raise WeightsError(
            f"{folder} holds no weights {name}{middle}.safetensors, but {', '.join(there)}: name the variant that is there, or "
            "save the model with safe_serialization=True, pickles are not loaded"
        )
    # diffusers reads whatever file an index names, pickles too.
    for index in folder.glob(f"{name}*safetensors*.json"):
        listed_shards(index)


def _library() -> Any:
    try:
        return import_module("diffusers")
    except (ImportError, RuntimeError, OSError) as error:
        raise DDIMKitError(f"models of diffusers need it, `python -m pip install 'ddimkit[diffusers]'`: {error}") from error
