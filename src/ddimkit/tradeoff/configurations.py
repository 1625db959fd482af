"""What a sweep measures: every sampler at every step count and eta, and the baseline."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ddimkit.models.bundle import ModelBundle
from ddimkit.samplers import DDPMSampler
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule
from ddimkit.tradeoff.results import label

__all__ = ["KEPT", "LONG", "Configuration", "SamplerMaker", "configurations", "model_code", "sigma_hat"]

SamplerMaker = Callable[..., PlanSampler]
"""A sampler class, or any function of its schedule and keywords."""

LONG = 100
"""Configurations of more steps are run once; the baseline's first so many rows are run in every round."""

KEPT = "kept from before"
"""How progress begins its word on what an earlier call had already measured."""


@dataclass(frozen=True)
class Configuration:
    """A sampler to be measured."""

    sampler: PlanSampler
    name: str
    steps: int
    eta: float | None
    baseline: bool = False

    @property
    def label(self) -> str:
        """Its name in results and files."""
        return label(self.name, self.steps, self.eta)

    @property
    def long(self) -> bool:
        """Whether it is run once only."""
        return self.baseline or self.steps > LONG


def sigma_hat(schedule: NoiseSchedule, **settings: Any) -> DDPMSampler:
    """DDPM with the larger of its two variances, ``variance="fixed_large"``: the DDIM paper's sigma-hat."""
    return DDPMSampler(schedule, variance="fixed_large", **settings)


def configurations(
    bundle: ModelBundle,
    steps: Iterable[int],
    etas: Iterable[float],
    samplers: Iterable[SamplerMaker],
    eta_max_steps: int | None = None,
) -> list[Configuration]:
    """Every sampler at every step count and eta, the baseline first; eta above 0 and sigma-hat up to ``eta_max_steps`` only.

    Raises:
        ValueError: a setting a sampler does not take, or the same configuration twice.
    """
    total = bundle.schedule.num_timesteps
    made = [Configuration(bundle.sampler(DDPMSampler, steps=total), "DDPMSampler", total, 1.0, baseline=True)]
    for make in samplers:
        name = getattr(make, "__name__", type(make).__name__)
        takes_eta = "eta" in inspect.signature(make).parameters
        for eta in etas if takes_eta else (None,):
            for count in steps:
                if (eta or make is sigma_hat) and eta_max_steps is not None and count > eta_max_steps:
                    continue
                keywords: dict[str, Any] = {} if eta is None else {"eta": eta}
                sampler = bundle.sampler(make, steps=count, **keywords)
                made.append(Configuration(sampler, name, count, 1.0 if make is DDPMSampler else eta))
    labels = [c.label for c in made[1:]]
    if len(set(labels)) < len(labels):
        raise ValueError(f"a configuration is asked for twice: {sorted(labels)}")
    return made[:1] + [c for c in made[1:] if c.label != made[0].label]


def model_code(bundle: ModelBundle) -> str:
    """What tells one function from another, as far as Python can: its name and source."""
    if isinstance(bundle.model, torch.nn.Module):
        return type(bundle.model).__qualname__
    kind = bundle.model if inspect.isroutine(bundle.model) else type(bundle.model)
    try:
        return f"{kind.__qualname__}: {inspect.getsource(kind)}"
    except (OSError, TypeError):
        return kind.__qualname__
