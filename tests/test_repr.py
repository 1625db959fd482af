"""Representations are short and on one line, whatever an object holds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ddimkit import DDIMSampler, ModelBundle, NoiseSchedule, Plan, PlanSampler, UNet, UNetConfig, load_pretrained, recommend
from ddimkit.analytic import Gaussian
from ddimkit.quality import load_evaluator
from ddimkit.quality.estimate import estimate_mean
from ddimkit.tradeoff.committed import find_study
from plugins import AdamsBashforth2
from probes import smooth

LINEAR = NoiseSchedule.linear()


@dataclass(frozen=True)
class Own(AdamsBashforth2):
    """A class of others whose @dataclass would write a representation of its own."""

    scale: float = field(default=1.0, kw_only=True)


def last_state() -> Any:
    *_, state = AdamsBashforth2(LINEAR, 100).iterate(smooth, (200, 3), seed=0)
    return state


MADE: dict[str, tuple[Callable[[], Any], str]] = {
    "sampler": (lambda: DDIMSampler(LINEAR, 1000, eta=0.5), "timesteps=(999, 998, 997, …, 0; 1000 in all)"),
    "list": (lambda: DDIMSampler(LINEAR, timesteps=[999, 5]), "timesteps=(999, 5)"),
    "one timestep": (lambda: DDIMSampler(LINEAR, 1), "timesteps=(999,)"),
    "plug-in": (lambda: Own(LINEAR, 1000, scale=2.0), "scale=2.0"),
    "table": (lambda: PlanSampler.from_plan(LINEAR, DDIMSampler(LINEAR, 1000).plan()), "table=Plan("),
    "plan": (lambda: DDIMSampler(LINEAR, 1000).plan(), "b=array(shape=(1000, 1), dtype=float64)"),
    "coefficients": (lambda: DDIMSampler(LINEAR, 1000).coefficients, "learned=False"),
    "state": (last_state, "x=Tensor(shape=(200, 3), dtype=float32, device=cpu)"),
    "bundle": (lambda: load_pretrained("mnist"), "model=<UNet of "),
    "network": (lambda: ModelBundle(UNet(UNetConfig()), LINEAR, sample_shape=(3, 32, 32)), "UNet of 35,746,307 parameters>"),
    "function": (lambda: ModelBundle(smooth, LINEAR, sample_shape=(3,)), "model=<function smooth"),
    "evaluator": (lambda: load_evaluator("mnist"), "real_vs_real=Quality("),
    "quality": (lambda: load_evaluator("mnist").noise, "frechet=Estimate("),
    "estimate": (lambda: estimate_mean(np.arange(5000.0), range(5000)), "value=2499.5"),
    "study": (lambda: find_study(load_pretrained("mnist")), "baseline='DDPM-1000'"),
    "recommendation": (lambda: recommend(find_study(load_pretrained("mnist"))), "sampler="),  # type: ignore[arg-type]
    "gaussian": (lambda: Gaussian(np.zeros(5000), np.ones(5000)), "mean=array(shape=(5000,), dtype=float64)"),
}


@pytest.mark.parametrize(("make", "holds"), MADE.values(), ids=MADE)
def test_representations_are_one_short_line(make: Callable[[], Any], holds: str) -> None:
    made = make()
    shown = repr(made)
    assert shown.startswith(f"{type(made).__qualname__}(")
    assert holds in shown
    assert "\n" not in shown
    assert len(shown) < 1200
    assert len(repr([made])) == len(shown) + 2


def test_a_plan_is_still_printed_as_a_table() -> None:
    plan = DDIMSampler(LINEAR, 5).plan()
    assert len(str(plan).splitlines()) == 6
    assert len(repr(Plan((9,), (None,), [0], [1], [0]))) < 200


def test_a_representation_of_a_class_s_own_stays() -> None:
    class Named(DDIMSampler):
        def __repr__(self) -> str:
            return "named"

    class Child(Named):
        pass

    assert repr(Named(LINEAR, 5)) == repr(Child(LINEAR, 5)) == "named"
