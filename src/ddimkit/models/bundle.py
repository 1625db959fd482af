"""A model with everything a sampler must know of it, and the file format it is kept in.

A file of weights is safetensors, float16, with its network, schedule, prediction, clip, sample shape and training figures as JSON
in the metadata. Nothing is ever unpickled.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from ddimkit._modes import module_of
from ddimkit._numbers import sizes
from ddimkit._repr import short_repr
from ddimkit.errors import WeightsError
from ddimkit.loop import Model
from ddimkit.models.unet import UNet, channels_last
from ddimkit.models.unet_config import UNetConfig
from ddimkit.prediction import Clip, DynamicThreshold, Prediction, check_clip, check_prediction
from ddimkit.schedule import NoiseSchedule
from ddimkit.speed.acceleration import Accelerated
from ddimkit.weights._registry import find_published, weights_folder
from ddimkit.weights._tensorfile import read_tensors, write_tensors

__all__ = ["ModelBundle", "load_bundle", "load_pretrained", "save_bundle"]

P = ParamSpec("P")
S = TypeVar("S")

_KIND = "ddimkit-unet"
_SCHEMA = 1
_WEIGHTS = Path(__file__).parent / "weights"
_PRETRAINED = {"mnist": "9de84233e447979705c35f8f44f6fb946eeded7effbf9c7f3c63130d2df8adaa"}
_BESIDE = ("cifar10",)


@dataclass(frozen=True, eq=False)
class ModelBundle:
    r"""A model together with the settings every sampler of it needs, given by name.

    Args:
        model: ``model(x, t)``, x (B, \*sample_shape) and t int64 (B,).
        schedule: the noise schedule it was trained with.
        sample_shape: shape of one sample, as in (1, 28, 28).
        prediction: what it predicts.
        clip: how its x0_hat is to be clipped; None for not at all.
        name: a short name for reports.
        figures: whatever is known of its training, as plain JSON values.

    Raises:
        TypeError: a field of the wrong kind.
        ValueError: an unknown prediction, a clip or a shape out of range.
    """

    model: Model
    schedule: NoiseSchedule
    _: KW_ONLY
    sample_shape: tuple[int, ...]
    prediction: Prediction = "epsilon"
    clip: Clip = None
    name: str = "model"
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise TypeError(f"model must be callable as model(x, t), got {type(self.model).__name__}")
        if not isinstance(self.schedule, NoiseSchedule):
            raise TypeError(f"schedule must be a NoiseSchedule, got {type(self.schedule).__name__}")
        shape = sizes(self.sample_shape, "sample_shape", "above 0, as in (1, 28, 28)")
        if any(n < 1 for n in shape):
            raise ValueError(f"sample_shape must be integers above 0, as in (1, 28, 28), got {self.sample_shape!r}")
        object.__setattr__(self, "sample_shape", shape)
        object.__setattr__(self, "clip", check_clip(self.clip))
        check_prediction(self.prediction, self.schedule, [0] if self.schedule.num_timesteps > 1 else [])

    def sampler(self, make: Callable[Concatenate[NoiseSchedule, P], S], *args: P.args, **kwargs: P.kwargs) -> S:
        """A sampler for this model: ``bundle.sampler(DDIMSampler, steps=50)`` fills schedule, prediction and clip.

        Args:
            make: a sampler class.
            args: its further positional arguments.
            kwargs: its keywords; ``prediction`` and ``clip`` given here win.
        """
        settings: dict[str, Any] = {"prediction": self.prediction, "clip": self.clip, **kwargs}
        return make(self.schedule, *args, **settings)

    def weights_sha256(self) -> str | None:
        """Hash of the model's parameters and buffers, names and bytes; None for a model that neither is nor holds a module.

        Half precision, where :func:`~ddimkit.speed.acceleration.accelerate` chose it, is part of it: it makes other images.
        """
        module = module_of(self.model)
        if module is None:
            return None
        digest = hashlib.sha256()
        if isinstance(self.model, Accelerated) and self.model.choices.precision != "float32":
            digest.update(self.model.choices.precision.encode())
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(
                value.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()


def save_bundle(bundle: ModelBundle, path: str | Path) -> str:
    """Write a bundle whose model is a :class:`UNet`, in float16; returns the file's SHA-256.

    Raises:
        TypeError: the model is no UNet, or the schedule was not made by a named constructor.
        ValueError: a weight that float16 cannot keep, naming it; nothing is written.
    """
    if not isinstance(bundle.model, UNet) or bundle.schedule.spec is None:
        raise TypeError("only a UNet with a named schedule can be saved")
    clip = asdict(bundle.clip) if isinstance(bundle.clip, DynamicThreshold) else bundle.clip
    settings = {
        "config": asdict(bundle.model.config),
        "schedule": dict(bundle.schedule.spec),
        "prediction": bundle.prediction,
        "clip": clip,
        "sample_shape": bundle.sample_shape,
        "name": bundle.name,
        "figures": bundle.figures,
    }
    weights = {name: value.to(torch.float16) for name, value in bundle.model.state_dict().items()}
    lost = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
    if lost:
        most = torch.finfo(torch.float16).max
        raise ValueError(f"{', '.join(lost)} holds NaN or numbers above {most:g}, which float16 cannot keep")
    return write_tensors(path, weights, kind=_KIND, schema=_SCHEMA, settings=settings)


def load_bundle(path: str | Path, *, sha256: str | None = None) -> ModelBundle:
    """Read what :func:`save_bundle` wrote: a UNet in eval mode, float32, on the CPU.

    Args:
        path: the file.
        sha256: what the file's hash must be; None to take any.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: another hash, no safetensors file, another format or schema, or weights that do not fit the network.
    """
    file = read_tensors(path, kind=_KIND, schema=_SCHEMA, sha256=sha256)
    saved = file.settings
    try:
        with torch.device("meta"):  # draws no initial weights, and so leaves the random state alone
            model = UNet(UNetConfig(**saved["config"]))
        model.load_state_dict({name: value.to(torch.float32) for name, value in file.tensors.items()}, assign=True)
        clip = DynamicThreshold(**saved["clip"]) if isinstance(saved["clip"], dict) else saved["clip"]
        settings = {key: saved[key] for key in ("sample_shape", "prediction", "name", "figures")}
        return ModelBundle(channels_last(model).eval(), NoiseSchedule.from_spec(saved["schedule"]), clip=clip, **settings)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} does not describe a model that this version can build: {error}") from error


def load_pretrained(name: str, *, folder: str | Path | None = None) -> ModelBundle:
    """A model of ours; its hash is checked. MNIST's is part of the package, CIFAR-10's lies beside it.

    Args:
        name: ``"mnist"`` or ``"cifar10"``.
        folder: where the file of a model that is not part of the package lies, whole or in pieces. By default the folder that the
            variable ``DDIMKIT_WEIGHTS`` of the environment names, else ``benchmarks/weights`` of a checkout.

    Returns:
        the model in eval mode, float32, on the CPU, with its settings.

    Raises:
        ValueError: no model has this name, or a folder is named for one that is part of the package.
        WeightsError: the file is missing, damaged, or not one that this version knows; the message says how to come by it.

    >>> from ddimkit import DDIMSampler, load_pretrained
    >>> mnist = load_pretrained("mnist")
    >>> mnist.sampler(DDIMSampler, steps=10).sample(mnist.model, (2, *mnist.sample_shape), seed=0).shape
    torch.Size([2, 1, 28, 28])
    """
    if not isinstance(name, str) or name not in (*_PRETRAINED, *_BESIDE):
        raise ValueError(f"the pretrained models are {', '.join((*_PRETRAINED, *_BESIDE))}, got {name!r}")
    file = f"{name}.safetensors"
    if name in _BESIDE:
        recipe = f"python -m ddimkit.models.train {name} --data DIR"
        hashes = find_published((file,), folder=folder, recipe=recipe, reader="ddimkit.models.bundle.load_bundle(path)")
        return load_bundle(weights_folder(folder) / file, sha256=hashes[file])
    if folder is not None:
        raise ValueError(f"{name} is part of the package: read a file of your own with load_bundle, got folder={folder}")
    if not (_WEIGHTS / file).is_file():
        raise WeightsError(f"{_WEIGHTS / file} is missing: install ddimkit again")
    return load_bundle(_WEIGHTS / file, sha256=_PRETRAINED[name])
