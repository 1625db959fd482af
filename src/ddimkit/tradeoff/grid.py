"""Which samplers a sweep runs: every kind at every number of steps and eta, samplers named one by one, and the baseline."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ddimkit.guidance import Guided
from ddimkit.models.bundle import ModelBundle
from ddimkit.samplers import DDIMSampler, DDPMSampler
from ddimkit.samplers.named import SamplerMaker, dpm_2m, dpm_2m_sde
from ddimkit.sampling import PlanSampler
from ddimkit.tradeoff.rows import label_of

__all__ = ["LONG", "ZERO_STEPS", "labelled", "model_code", "newcomers", "sampler_grid"]

LONG = 100
"""Samplers of more calls are long: few images of them can be drawn."""

ZERO_STEPS = 10
"""Steps of the DDIM that stands at 0 % of the gap."""


def sampler_grid(
    bundle: ModelBundle,
    steps: Iterable[int],
    etas: Iterable[float],
    samplers: Iterable[SamplerMaker | PlanSampler],
    *,
    eta_max_steps: int | None = None,
    baseline: PlanSampler | None = None,
) -> list[PlanSampler]:
    """Every sampler, the baseline first, none twice.

    Args:
        bundle: the model.
        steps: step counts of every kind of sampler.
        etas: values of eta, for kinds that take one.
        samplers: kinds, a class or a function of a schedule and keywords; or samplers themselves, which stand as they are.
        eta_max_steps: kinds that add noise are run up to this number of steps only; None for no limit.
        baseline: the baseline; DDPM with all timesteps by default.

    Raises:
        ValueError: a setting that a sampler does not take.
    """
    first = bundle.sampler(DDPMSampler, steps=bundle.schedule.num_timesteps) if baseline is None else baseline
    made, counts, values = [first], list(steps), list(etas)
    for kind in samplers:
        if isinstance(kind, PlanSampler):
            made.append(kind)
            continue
        takes_eta = "eta" in inspect.signature(kind).parameters
        for eta in values if takes_eta else [None]:
            keywords: dict[str, Any] = {} if eta is None else {"eta": eta}
            for count in counts:
                sampler = bundle.sampler(kind, steps=count, **keywords)
                if eta_max_steps is None or len(sampler.timesteps) <= eta_max_steps or not sampler.coefficients.plan.adds_noise:
                    made.append(sampler)
    return list(dict.fromkeys(made))


def newcomers(bundle: ModelBundle) -> list[PlanSampler]:
    """What a sweep runs beside step counts of DDIM: the zero of the scale, and DPM-Solver++ with few calls."""
    most = bundle.schedule.num_timesteps
    wanted: list[tuple[SamplerMaker, int]] = [(DDIMSampler, ZERO_STEPS), (dpm_2m, 10), (dpm_2m, 20), (dpm_2m_sde, 10)]
    return [bundle.sampler(kind, steps=steps) for kind, steps in wanted if steps <= most]


def labelled(samplers: Sequence[PlanSampler]) -> dict[str, PlanSampler]:
    """The samplers by labels of their own: where two have one label, the later is numbered."""
    found = dict[str, PlanSampler]()
    for sampler in samplers:
        label, number = label_of(sampler), 2
        while label in found:
            label, number = f"{label_of(sampler)} ({number})", number + 1
        found[label] = sampler
    return found


def model_code(bundle: ModelBundle) -> str:
    """What tells a model's functions from others, as far as Python can: names and sources, and the conditions of some seeds."""
    parts = [_code(bundle.model), *([] if bundle.decode is None else [f"decode: {_code(bundle.decode)}"])]
    conditions = bundle.conditions_sha256()
    return "; ".join(parts if conditions is None else [*parts, f"conditions: {conditions}"])


def _code(function: object) -> str:
    if isinstance(function, Guided):
        return f"{function.settings} of {_code(function.model)}"
    if isinstance(function, torch.nn.Module):
        return type(function).__qualname__
    kind = function if inspect.isroutine(function) else type(function)
    try:
        return f"{kind.__qualname__}: {inspect.getsource(kind)}"
    except (OSError, TypeError):
        return kind.__qualname__
