"""The samplers, one a file: arithmetic only."""

from ddimkit.samplers.consistency import ConsistencySampler
from ddimkit.samplers.ddim import DDIMSampler
from ddimkit.samplers.ddpm import DDPMSampler
from ddimkit.samplers.deis import DEISSampler
from ddimkit.samplers.dpm_solver_pp import DPMSolverPPSampler
from ddimkit.samplers.gradient_estimation import GradientEstimationSampler
from ddimkit.samplers.heun import HeunSampler
from ddimkit.samplers.sa_solver import SASolverSampler
from ddimkit.samplers.unipc import UniPCSampler

__all__ = [
    "ConsistencySampler",
    "DDIMSampler",
    "DDPMSampler",
    "DEISSampler",
    "DPMSolverPPSampler",
    "GradientEstimationSampler",
    "HeunSampler",
    "SASolverSampler",
    "UniPCSampler",
]
