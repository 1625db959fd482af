"""Typed, exact and fast samplers for diffusion models."""

from ddimkit._version import __version__
from ddimkit.errors import DDIMKitError, GraphError, NonFiniteError, WeightsError
from ddimkit.learning import LearnedSampler, learn_plan, load_learned, optimize_timesteps
from ddimkit.loop import SamplerState
from ddimkit.models.bundle import ModelBundle, load_pretrained
from ddimkit.models.check import check_model
from ddimkit.models.unet import UNet, UNetConfig
from ddimkit.plan import Plan
from ddimkit.prediction import DynamicThreshold
from ddimkit.samplers import DDIMSampler, DDPMSampler, DPMSolverPPSampler, UniPCSampler
from ddimkit.sampling import PlanSampler, Sampler
from ddimkit.schedule import NoiseSchedule
from ddimkit.speed.acceleration import accelerate
from ddimkit.tradeoff.presets import preset
from ddimkit.tradeoff.recommend import recommend
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.sweep import sweep

__all__ = [
    "DDIMKitError",
    "DDIMSampler",
    "DDPMSampler",
    "DPMSolverPPSampler",
    "DynamicThreshold",
    "GraphError",
    "LearnedSampler",
    "ModelBundle",
    "NoiseSchedule",
    "NonFiniteError",
    "Plan",
    "PlanSampler",
    "Sampler",
    "SamplerState",
    "Study",
    "UNet",
    "UNetConfig",
    "UniPCSampler",
    "WeightsError",
    "__version__",
    "accelerate",
    "check_model",
    "learn_plan",
    "load_learned",
    "load_pretrained",
    "optimize_timesteps",
    "preset",
    "recommend",
    "sweep",
]
