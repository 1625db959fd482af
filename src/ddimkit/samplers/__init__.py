"""The samplers, one a file: arithmetic only."""

from ddimkit.samplers.ddim import DDIMSampler
from ddimkit.samplers.ddpm import DDPMSampler

__all__ = ["DDIMSampler", "DDPMSampler"]
