"""What a sweep measures: every sampler at every step count and eta, and the baseline."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ddimkit.models.bundle import ModelBundle
from ddimkit.samplers import DDPMSampler
from ddimkit.samplers.named import SamplerMaker
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.results import label

__all__ = ["KEPT", "LONG", "Configuration", "configurations", "model_code"]

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


def configurations(
    bundle: ModelBundle,
    steps: Iterable[int],
    etas: Iterable[float],
    samplers: Iterable[SamplerMaker],
    eta_max_steps: int | None = None,
) -> list[Configuration]:
    """Every sampler at every step count and eta, the baseline first; what adds noise up to ``eta_max_steps`` only.

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
                keywords: dict[str, Any] = {} if eta is None else {"eta": eta}
                sampler = bundle.sampler(make, steps=count, **keywords)
                if eta_max_steps is not None and count > eta_max_steps and sampler.coefficients.plan.adds_noise:
                    continue
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
