"""Samplers by short names: functions of a schedule and keywords, for sweeps, presets and the command line."""

from collections.abc import Callable
from functools import cache
from typing import Any

from ddimkit.samplers.ddim import DDIMSampler
from ddimkit.samplers.ddpm import DDPMSampler
from ddimkit.samplers.deis import DEISSampler
from ddimkit.samplers.dpm_solver_pp import DPMSolverPPSampler
from ddimkit.samplers.gradient_estimation import GradientEstimationSampler
from ddimkit.samplers.heun import HeunSampler
from ddimkit.samplers.sa_solver import SASolverSampler
from ddimkit.samplers.unipc import UniPCSampler
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule

__all__ = [
    "MAKERS",
    "SamplerMaker",
    "adds_noise",
    "dpm_2m",
    "dpm_2m_sde",
    "dpm_3m",
    "dpm_3m_sde",
    "sigma_hat",
    "unipc_2",
    "unipc_3",
]

SamplerMaker = Callable[..., PlanSampler]
"""A sampler class, or any function of its schedule and keywords."""


def sigma_hat(schedule: NoiseSchedule, **settings: Any) -> DDPMSampler:
    """DDPM with the larger of its two variances, ``variance="fixed_large"``: the DDIM paper's sigma-hat."""
    return DDPMSampler(schedule, variance="fixed_large", **settings)


def dpm_2m(schedule: NoiseSchedule, **settings: Any) -> DPMSolverPPSampler:
    """DPM-Solver++ of order 2, without noise."""
    return DPMSolverPPSampler(schedule, order=2, **settings)


def dpm_3m(schedule: NoiseSchedule, **settings: Any) -> DPMSolverPPSampler:
    """DPM-Solver++ of order 3, without noise."""
    return DPMSolverPPSampler(schedule, order=3, **settings)


def dpm_2m_sde(schedule: NoiseSchedule, **settings: Any) -> DPMSolverPPSampler:
    """DPM-Solver++ of order 2 for the reverse SDE."""
    return DPMSolverPPSampler(schedule, order=2, eta=1.0, **settings)


def dpm_3m_sde(schedule: NoiseSchedule, **settings: Any) -> DPMSolverPPSampler:
    """DPM-Solver++ of order 3 for the reverse SDE."""
    return DPMSolverPPSampler(schedule, order=3, eta=1.0, **settings)


def unipc_2(schedule: NoiseSchedule, **settings: Any) -> UniPCSampler:
    """UniPC of order 2."""
    return UniPCSampler(schedule, order=2, **settings)


def unipc_3(schedule: NoiseSchedule, **settings: Any) -> UniPCSampler:
    """UniPC of order 3."""
    return UniPCSampler(schedule, order=3, **settings)


@cache
def adds_noise(make: SamplerMaker, **settings: Any) -> bool:
    """Whether such samplers add noise on the way."""
    return make(NoiseSchedule.linear(), steps=2, **settings).plan().adds_noise


MAKERS: dict[str, SamplerMaker] = {
    "ddim": DDIMSampler,
    "ddpm": DDPMSampler,
    "sigma-hat": sigma_hat,
    "dpm-2m": dpm_2m,
    "dpm-3m": dpm_3m,
    "dpm-2m-sde": dpm_2m_sde,
    "dpm-3m-sde": dpm_3m_sde,
    "unipc-2": unipc_2,
    "unipc-3": unipc_3,
    "heun": HeunSampler,
    "deis": DEISSampler,
    "sa-solver": SASolverSampler,
    "gradient-estimation": GradientEstimationSampler,
}
"""The samplers that ``--sampler`` knows."""
