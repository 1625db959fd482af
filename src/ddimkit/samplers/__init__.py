"""The samplers, one a file: arithmetic only."""

from ddimkit.samplers.ddim import DDIMSampler
from ddimkit.samplers.ddpm import DDPMSampler
from ddimkit.samplers.dpm_solver_pp import DPMSolverPPSampler
from ddimkit.samplers.unipc import UniPCSampler

__all__ = ["DDIMSampler", "DDPMSampler", "DPMSolverPPSampler", "UniPCSampler"]
