r"""What is read from the configuration of a diffusers scheduler: noise schedule, prediction type, clipping.

How many steps a scheduler takes, where, and with how much noise is not read: that is a sampler's own.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ddimkit._numbers import check_count, number
from ddimkit.prediction import Clip, DynamicThreshold, Prediction
from ddimkit.schedule import FloatArray, NoiseSchedule
from ddimkit.weights._json import read_json_object

__all__ = [
    "Halves",
    "clip_of",
    "config_of",
    "is_flow",
    "is_straight",
    "output_halves",
    "prediction_of",
    "read_config",
    "schedule_of",
]

Halves = Literal["all", "first"]
"""Of an output with twice the channels: all of it, prediction and learned range, or the first half."""

_FILE = "scheduler_config.json"

_DDPM = frozenset({"DDPMScheduler", "DDPMParallelScheduler"})
_CLIPS_BY_DEFAULT = frozenset({*_DDPM, "DDIMScheduler", "DDIMParallelScheduler", "DDIMInverseScheduler", "RePaintScheduler"})
_MAY_CLIP = frozenset({"HeunDiscreteScheduler", "LCMScheduler", "TCDScheduler"})
_BETAS = frozenset(
    {
        *_CLIPS_BY_DEFAULT,
        *_MAY_CLIP,
        "DEISMultistepScheduler",
        "DPMSolverMultistepInverseScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSDEScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "SASolverScheduler",
        "UniPCMultistepScheduler",
    }
)
_FLOW = frozenset({"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"})

# Where a class's own default of betas is not from 0.0001 to 0.02.
_LATENT_BETAS = frozenset(
    {
        "DPMSolverSDEScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LCMScheduler",
        "TCDScheduler",
    }
)
_SCALED_LINEAR = frozenset({"LCMScheduler", "TCDScheduler"})

# Options that change what the network is given or means, with the values that change nothing.
_WITHOUT_EQUAL: dict[str, tuple[object, ...]] = {
    "invert_sigmas": (None, False),
    "shift_terminal": (None, 0, False),
    "timestep_type": (None, "discrete"),
}

_MULTISTEP = frozenset(
    {
        "DEISMultistepScheduler",
        "DPMSolverMultistepInverseScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "SASolverScheduler",
        "UniPCMultistepScheduler",
    }
)
_DDIM_AND_LIKE = frozenset({*_DDPM, "DDIMScheduler", "DDIMParallelScheduler", "LCMScheduler", "TCDScheduler"})
_SHIFTED_FLOW = frozenset({"FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler"})
_EULER = frozenset({"EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"})

# The classes that read an option. In the configuration of another class it is left over, and that class passes it over.
_READERS: dict[str, frozenset[str]] = {
    "invert_sigmas": _SHIFTED_FLOW,
    "rescale_betas_zero_snr": _DDIM_AND_LIKE
    | _EULER
    | {"DDIMInverseScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"},
    "shift_terminal": _SHIFTED_FLOW | {"UniPCMultistepScheduler"},
    "thresholding": _DDIM_AND_LIKE | _MULTISTEP,
    "timestep_type": frozenset({"EulerDiscreteScheduler"}),
    "use_dynamic_shifting": _SHIFTED_FLOW | _MULTISTEP - {"DPMSolverMultistepInverseScheduler", "SASolverScheduler"},
    "use_flow_sigmas": _MULTISTEP,
}

_MOST_TIMESTEPS = 1_000_000

_PREDICTIONS: dict[object, Prediction] = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}


def read_config(source: object) -> Mapping[str, Any]:
    """The configuration of a scheduler, a mapping, or a folder that holds one; ``_class_name`` is always there.

    Raises:
        FileNotFoundError: a folder without ``scheduler_config.json``.
        TypeError: something else than a mapping, a scheduler or a folder.
        ValueError: a file that holds no configuration.
    """
    if isinstance(source, str | Path):
        return _named(_read_file(Path(source)))
    if isinstance(source, Mapping):
        return _named(source)
    config = getattr(source, "config", None)
    if not isinstance(config, Mapping):
        raise TypeError(f"a scheduler's configuration, a scheduler or a folder is wanted, got {type(source).__name__}")
    return {**config, "_class_name": type(source).__name__}


def _read_file(path: Path) -> Mapping[str, Any]:
    places = (path, path / _FILE, path / "scheduler" / _FILE)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{path} holds no {_FILE}, and neither does its folder scheduler")
    return read_json_object(file, ValueError)


def _named(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with a class's name; schedulers made in Python keep none in theirs."""
    flow = "DPMSolverMultistepScheduler" if config.get("use_flow_sigmas") else "DDIMScheduler"
    found = {"_class_name": "FlowMatchEulerDiscreteScheduler" if "shift" in config else flow, **config}
    if not isinstance(found["_class_name"], str):
        raise TypeError(f"_class_name must be the name of a scheduler's class, got {found['_class_name']!r:.80}")
    return found


def _option(config: Mapping[str, Any], name: str) -> Any:
    """An option; None where the class does not read it."""
    return config.get(name) if config["_class_name"] in _READERS[name] else None


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether the path is the straight one, and the network is given 1000·σ."""
    return config["_class_name"] in _FLOW or bool(_option(config, "use_flow_sigmas"))


def schedule_of(config: Mapping[str, Any], mu: float | None = None) -> NoiseSchedule:
    """The noise schedule; ``mu`` is the shift of a scheduler that leaves it to the size of the image.

    Raises:
        ValueError: a class or an option that has no equal, naming it; a schedule that ddimkit refuses.
    """
    name = config["_class_name"]
    if name not in _BETAS | _FLOW:
        hint = ": ddimkit.interop.conventions.from_sigma_model takes models of that kind" if name.startswith("EDM") else ""
        raise ValueError(f"the scheduler {name} has no equal here{hint}")
    for option, harmless in _WITHOUT_EQUAL.items():
        if _option(config, option) not in harmless:
            raise ValueError(f"{name} has {option}={config[option]!r}, which has no equal here")
    total = check_count(config.get("num_train_timesteps", 1000))
    if total > _MOST_TIMESTEPS:
        raise ValueError(f"{name} has num_train_timesteps={total}, and at most {_MOST_TIMESTEPS} are read")
    if is_flow(config):
        return _straight_path(config, total, mu)
    if mu is not None:
        raise ValueError(f"mu is the shift of flow-matching schedulers with use_dynamic_shifting, got mu={mu} for {name}")
    schedule = _schedule_of_betas(config, total)
    return schedule.zero_terminal_snr() if _option(config, "rescale_betas_zero_snr") else schedule


def _straight_path(config: Mapping[str, Any], total: int, mu: float | None) -> NoiseSchedule:
    r""":math:`\sigma = \frac{k u}{1 + (k - 1) u}` at :math:`u = (t+1)/T`, k the shift."""
    shift = _shift(config, mu)
    if shift == 1:
        return NoiseSchedule.rectified_flow(total)
    u = np.arange(1, total + 1) / total
    divisor = 1 + (shift - 1) * u
    return NoiseSchedule((1 - u) / divisor, shift * u / divisor)


def _shift(config: Mapping[str, Any], mu: float | None) -> float:
    """The factor k of the path; from mu where the scheduler shifts by the size of the image."""
    if not _option(config, "use_dynamic_shifting"):
        if mu is not None:
            raise ValueError(f"mu is for schedulers with use_dynamic_shifting=True, got mu={mu}")
        name = "shift" if config["_class_name"] in _FLOW else "flow_shift"
        shift = number(config.get(name, 1.0), name)
    elif mu is None:
        raise ValueError(
            "the scheduler has use_dynamic_shifting=True, a shift by the size of the image: give mu=, as the pipeline works it out"
        )
    else:
        shift = number(mu, "mu")
        shift = math.exp(shift) if config.get("time_shift_type", "exponential") == "exponential" else shift
    if not 0 < shift < math.inf:
        raise ValueError(f"the shift of a flow schedule must be finite and above 0, got {shift}")
    return shift


def _schedule_of_betas(config: Mapping[str, Any], total: int) -> NoiseSchedule:
    name = config["_class_name"]
    trained = config.get("trained_betas")
    if trained is not None:
        return NoiseSchedule.from_betas(trained)
    latent = name in _LATENT_BETAS
    start = number(config.get("beta_start", 0.00085 if latent else 1e-4), "beta_start")
    end = number(config.get("beta_end", 0.012 if latent else 0.02), "beta_end")
    match config.get("beta_schedule", "scaled_linear" if name in _SCALED_LINEAR else "linear"):
        case "linear":
            return NoiseSchedule.linear(total, start, end)
        case "scaled_linear":
            return NoiseSchedule.scaled_linear(total, start, end)
        case "squaredcos_cap_v2":
            return NoiseSchedule.cosine(total)
        case "sigmoid":
            return NoiseSchedule.from_betas(start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, total))))
        case "exp":
            return NoiseSchedule.from_betas(_betas_of(lambda u: -12.0 * u, total))
        case "laplace":
            return NoiseSchedule.from_betas(_betas_of(_log_laplace, total))
        case other:
            raise ValueError(f"{name} has beta_schedule={other!r}, which has no equal here: give its betas as trained_betas")


def _betas_of(log_alpha_bar: Callable[[float], float], total: int) -> FloatArray:
    """(T,) betas, at most 0.999, of the logarithm of alpha_bar as a function of time in [0, 1]."""
    logs = np.array([log_alpha_bar(k / total) for k in range(total + 1)])
    return np.minimum(-np.expm1(np.diff(logs)), 0.999)


def _log_laplace(u: float) -> float:
    """The log of alpha_bar = sqrt(SNR/(1 + SNR)), log SNR of Laplace's distribution at u."""
    log_snr = -0.5 * math.copysign(1, 0.5 - u) * math.log(1 - 2 * abs(0.5 - u) + 1e-6)
    return -0.5 * math.log1p(math.exp(-log_snr))


def prediction_of(config: Mapping[str, Any]) -> Prediction:
    """What the model predicts.

    Raises:
        ValueError: a prediction type that has no equal, naming it.
    """
    if config["_class_name"] in _FLOW:
        return "flow"
    kind = config.get("prediction_type", "epsilon")
    if not isinstance(kind, str) or kind not in _PREDICTIONS:
        raise ValueError(f"{config['_class_name']} has prediction_type={kind!r}, which has no equal here")
    return _PREDICTIONS[kind]


def clip_of(config: Mapping[str, Any]) -> Clip:
    """How x0_hat is clipped, by the options that the scheduler's class reads."""
    name = config["_class_name"]
    if _option(config, "thresholding"):
        quantile, most = config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0)
        return DynamicThreshold(number(quantile, "dynamic_thresholding_ratio"), number(most, "sample_max_value"))
    if name not in _CLIPS_BY_DEFAULT | _MAY_CLIP or not config.get("clip_sample", name in _CLIPS_BY_DEFAULT):
        return None
    bound = number(config.get("clip_sample_range", 1.0), "clip_sample_range")
    return -bound, bound


def output_halves(config: Mapping[str, Any]) -> Halves:
    """Which half of an output with twice the channels a sampler is to be given.

    Raises:
        ValueError: a learned variance that is no range between the two fixed ones.
    """
    name, kind = config["_class_name"], config.get("variance_type")
    if name in _DDPM and kind == "learned":
        raise ValueError(f"{name} has variance_type='learned', which has no equal here: only 'learned_range' has")
    return "all" if name in _DDPM and kind == "learned_range" else "first"


def config_of(schedule: NoiseSchedule, prediction: Prediction, clip: Clip) -> dict[str, Any]:
    """What diffusers' own schedulers are to be made of for the same model; ``schedule_of`` reads it back."""
    kinds = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    found: dict[str, Any] = {"num_train_timesteps": schedule.num_timesteps, "prediction_type": kinds[prediction]}
    if is_straight(schedule):
        t = schedule.num_timesteps // 2
        u = (t + 1) / schedule.num_timesteps
        ratio = schedule.noise[t] / schedule.signal[t] if schedule.signal[t] else 1.0
        found |= {"use_flow_sigmas": True, "flow_shift": float(ratio * (1 - u) / u) if u < 1 else 1.0}
    elif np.allclose(schedule.signal**2 + schedule.noise**2, 1, rtol=0, atol=1e-9):
        found |= _config_of_betas(schedule)
    if isinstance(clip, DynamicThreshold):
        most = math.inf if clip.max is None else clip.max
        return {**found, "thresholding": True, "dynamic_thresholding_ratio": clip.quantile, "sample_max_value": most}
    return {**found, "clip_sample": clip is not None, **({} if clip is None else {"clip_sample_range": clip[1]})}


def _config_of_betas(schedule: NoiseSchedule) -> dict[str, Any]:
    spec = dict(schedule.spec or {})
    zero = bool(spec.pop("zero_terminal_snr", False))
    if spec.get("name") in ("linear", "scaled_linear"):
        betas = {"beta_schedule": spec["name"], "beta_start": spec["beta_start"], "beta_end": spec["beta_end"]}
        return {**betas, "rescale_betas_zero_snr": zero}
    return {"trained_betas": schedule.betas.tolist()}


def is_straight(schedule: NoiseSchedule) -> bool:
    """Whether the path is the straight one, s + n = 1, on which diffusers' models are given T·n for their time."""
    return bool(np.allclose(schedule.signal + schedule.noise, 1, rtol=0, atol=1e-9))
