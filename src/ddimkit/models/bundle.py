"""A model with everything a sampler must know of it, and the file format it is kept in.

A file of weights is safetensors, float16, with its network, schedule, prediction, clip, sample shape and training figures as JSON
in the metadata. Nothing is ever unpickled.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from ddimkit._arguments import model_device
from ddimkit._modes import module_of
from ddimkit._numbers import sizes
from ddimkit._repr import short_repr
from ddimkit.errors import WeightsError
from ddimkit.guidance import Guided, classifier_free
from ddimkit.loop import Model, check_device
from ddimkit.models.conditions import Conditions, Decode, check_conditions, check_images, describe_labels, seed_labels
from ddimkit.models.unet import UNet, channels_last
from ddimkit.models.unet_config import UNetConfig
from ddimkit.prediction import Clip, DynamicThreshold, Prediction, check_clip, check_prediction
from ddimkit.sampling import Callback, PlanSampler
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
_HASHED_SEEDS = range(16)


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
        conditions: the model's further arguments for samples of some seeds, as
            :func:`~ddimkit.models.conditions.seed_labels` gives them: each tensor has one entry a sample, and the entry follows
            from the sample's seed alone. What is no tensor is shared by all samples. None for a model of x and t only.
        unconditional: what a model without conditions is given in their place, by their names, as in ``{"labels": 10}``: what
            :meth:`guided` guides away from. None where the model has no such input.
        decode: images of the latents that the model draws, as :func:`~ddimkit.models.conditions.latent_decoder` gives them; None
            for a model that draws images. ``sample_shape`` is that of the latents.

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
    conditions: Conditions | None = None
    unconditional: Mapping[str, Any] | None = None
    decode: Decode | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise TypeError(f"model must be callable as model(x, t), got {type(self.model).__name__}")
        if not isinstance(self.schedule, NoiseSchedule):
            raise TypeError(f"schedule must be a NoiseSchedule, got {type(self.schedule).__name__}")
        for name, call in (("conditions", "conditions(seeds)"), ("decode", "decode(latents)")):
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise TypeError(f"{name} must be callable as {call}, or None, got {type(given).__name__}")
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

    def guided(
        self, scale: float, *, interval: tuple[int, int] | None = None, rescale: float = 0.0, stacked: bool = True
    ) -> "ModelBundle":
        """The same with :func:`~ddimkit.guidance.classifier_free` guidance away from ``unconditional``.

        Args:
            scale: w; 1 is the model itself.
            interval: as for :func:`~ddimkit.guidance.classifier_free`.
            rescale: as for :func:`~ddimkit.guidance.classifier_free`.
            stacked: as for :func:`~ddimkit.guidance.classifier_free`.

        Raises:
            ValueError: the bundle has no ``unconditional``, or a number is out of range.
        """
        if not self.unconditional:
            raise ValueError(
                f"the model {self.name!r} cannot be guided: its bundle has no unconditional=, as {{'labels': 10}} where "
                "label 10 stands for none"
            )
        guided = classifier_free(self.model, scale, self.unconditional, interval=interval, rescale=rescale, stacked=stacked)
        return replace(self, model=guided)

    def model_kwargs(self, seeds: Sequence[int], device: torch.device | str | None = None) -> dict[str, Any]:
        """The model's further arguments for samples of some seeds; empty where the bundle has no ``conditions``.

        Args:
            seeds: one a sample.
            device: where tensors are moved; None leaves them where they are.

        Raises:
            TypeError: ``conditions`` gives no mapping, or seeds are no sequence.
            ValueError: a tensor whose first dimension is not the number of seeds, naming it.
        """
        if not isinstance(seeds, Sequence):
            raise TypeError(f"seeds must be a sequence of one seed a sample, got {seeds!r}: sampler.seeds(seed, count) lists them")
        given = {} if self.conditions is None else check_conditions(self.conditions(tuple(seeds)), len(seeds))
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in given.items()}

    def decoded(self, x: Tensor, batch_size: int | None = None) -> Tensor:
        r"""Images of what the model draws: ``decode(x)``, or x itself where the bundle has no ``decode``. Differentiable.

        Args:
            x: (B, \*) what a sampler drew.
            batch_size: how many are decoded at once; None decodes all B.

        Raises:
            TypeError: ``decode`` gives no floating point tensor.
            ValueError: it gives another number of images.
        """
        if self.decode is None:
            return x
        return torch.cat([check_images(self.decode(part), part) for part in torch.split(x, batch_size or max(1, len(x)))])

    def draw(
        self,
        sampler: PlanSampler,
        seeds: Sequence[int],
        *,
        device: torch.device | str | None = None,
        batch_size: int | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        r"""The images that a sampler draws of some seeds, one each, with the conditions that follow from them, decoded.

        Args:
            sampler: a sampler of this model.
            seeds: one a sample; ``sampler.seeds(7, 16)`` lists those of one int.
            device: where; default: that of the model's first parameter, else the CPU.
            batch_size: how many are drawn, and decoded, at once; None for all.
            callback: called after each row with the :class:`~ddimkit.SamplerState`, whose x is not decoded.

        Returns:
            (B, \*) images.

        Raises:
            TypeError, ValueError: as for :meth:`model_kwargs`, before the model is called, and for :meth:`decoded`; what
                :meth:`PlanSampler.sample <ddimkit.PlanSampler.sample>` raises.

        >>> from ddimkit import DDIMSampler, load_pretrained
        >>> mnist = load_pretrained("mnist")
        >>> mnist.draw(mnist.sampler(DDIMSampler, steps=2), range(3)).shape
        torch.Size([3, 1, 28, 28])
        """
        where = model_device(self.model) if device is None else check_device(device)
        given = self.model_kwargs(seeds, where)
        shape = len(seeds), *self.sample_shape
        settings = {"device": where, "batch_size": batch_size, "callback": callback}
        x = sampler.sample(self.model, shape, seed=seeds, model_kwargs=given, **settings)  # type: ignore[arg-type]
        with torch.no_grad():
            return self.decoded(x, batch_size)

    def conditions_sha256(self, seeds: Sequence[int] = _HASHED_SEEDS) -> str | None:
        """Hash of the conditions of some seeds, by which results of other conditions are told; None where there are none.

        Args:
            seeds: whose conditions; the first sixteen by default.
        """
        if self.conditions is None:
            return None
        digest = hashlib.sha256()
        for name, value in sorted(self.model_kwargs(seeds).items()):
            said = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            digest.update(f"{name} {said}".encode())
            digest.update(_bytes_of(value) if isinstance(value, Tensor) else b"")
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """What results keep of the model, as plain JSON values: name, weights, sample shape, and conditions if it has any."""
        conditions = self.conditions_sha256()
        found = {"name": self.name, "weights_sha256": self.weights_sha256(), "sample_shape": list(self.sample_shape)}
        return found if conditions is None else {**found, "conditions_sha256": conditions}

    def weights_sha256(self) -> str | None:
        """Hash of the model's parameters and buffers, names and bytes; None for a model that neither is nor holds a module.

        Half precision, where :func:`~ddimkit.speed.acceleration.accelerate` chose it, and guidance are part of it: they make other
        images. A guided function has no hash.
        """
        module = module_of(self.model)
        if module is None:
            return None
        guided = [part for part in module.modules() if isinstance(part, Guided)]
        if any(part.has_functions for part in guided):
            return None
        digest = hashlib.sha256("".join(part.settings for part in guided).encode())
        accelerated = [self.model.choices.precision] if isinstance(self.model, Accelerated) else []
        for precision in (*accelerated, *(precision for part in guided for precision in part.precisions)):
            digest.update(precision.encode() if precision != "float32" else b"")
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(_bytes_of(value))
        return digest.hexdigest()


def _bytes_of(value: Tensor) -> bytes:
    """The bytes of a tensor, whatever its layout, in the order of its entries."""
    flat = value.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def save_bundle(bundle: ModelBundle, path: str | Path) -> str:
    """Write a bundle whose model is a :class:`UNet`, in float16; returns the file's SHA-256.

    Raises:
        TypeError: the model is no UNet, or the schedule was not made by a named constructor; conditions that
            :func:`~ddimkit.models.conditions.seed_labels` did not give, or a decoder.
        ValueError: a weight that float16 cannot keep, naming it; nothing is written.
    """
    if not isinstance(bundle.model, UNet) or bundle.schedule.spec is None:
        raise TypeError("only a UNet with a named schedule can be saved")
    if bundle.decode is not None:
        raise TypeError("a bundle that decodes latents cannot be saved: save the one without decode")
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
    labels = describe_labels(bundle.conditions)
    if labels is not None or bundle.unconditional is not None:  # files of models without conditions stay the same bytes
        settings |= {"conditions": labels, "unconditional": None if bundle.unconditional is None else dict(bundle.unconditional)}
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
        labels = saved.get("conditions")
        settings |= {"conditions": labels and seed_labels(**labels), "unconditional": saved.get("unconditional")}
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
