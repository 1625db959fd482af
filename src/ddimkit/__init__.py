"""Typed, exact and fast samplers for diffusion models."""

from ddimkit._version import __version__
from ddimkit.errors import DDIMKitError, NonFiniteError, WeightsError
from ddimkit.loop import SamplerState
from ddimkit.models.unet import UNet, UNetConfig
from ddimkit.plan import Plan
from ddimkit.prediction import DynamicThreshold
from ddimkit.samplers import DDIMSampler, DDPMSampler
from ddimkit.sampling import PlanSampler, Sampler
from ddimkit.schedule import NoiseSchedule

__all__ = [
    "DDIMKitError",
    "DDIMSampler",
    "DDPMSampler",
    "DynamicThreshold",
    "NoiseSchedule",
    "NonFiniteError",
    "Plan",
    "PlanSampler",
    "Sampler",
    "SamplerState",
    "UNet",
    "UNetConfig",
    "WeightsError",
    "__version__",
]
