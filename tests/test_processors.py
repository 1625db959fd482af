"""One schedule on every processor: what a process without numpy's vector instructions saves is taken here, and is the same."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from ddimkit import NoiseSchedule, Plan, PlanSampler
from probes import smooth

# What a process prints: schedules of every kind, and the plans of every sampler over them.
WRITER = """
import json, sys
import numpy as np
from ddimkit import DDIMSampler, DDPMSampler, DPMSolverPPSampler, NoiseSchedule, UniPCSampler

T = 1000
made = [getattr(NoiseSchedule, name)(T) for name in ("linear", "scaled_linear", "cosine", "sigmoid", "rectified_flow")]
made += [schedule.zero_terminal_snr() for schedule in made[:4]]
made += [NoiseSchedule.from_betas(np.linspace(1e-4, 0.03, T)), NoiseSchedule.from_alpha_bars(np.geomspace(0.9999, 1e-5, T))]

def samplers(schedule):
    times = dict(timesteps=(999, 700, 350, 120, 10), prediction="v")
    yield DDIMSampler(schedule, eta=0.5, **times)
    yield DDPMSampler(schedule, **times)
    yield DPMSolverPPSampler(schedule, order=3, **times)
    yield UniPCSampler(schedule, order=3, **times)

json.dump([{"signal": s.signal.tolist(), "noise": s.noise.tolist(), "sha256": s.sha256,
            "plans": [sampler.plan().to_dict() for sampler in samplers(s)]} for s in made], sys.stdout)
"""

FEWER = {
    "as it is": "",
    "without AVX-512": "X86_V4,AVX512_ICL,AVX512F,AVX512CD,AVX512_SKX,AVX512_CLX,AVX512_CNL",
    "without AVX2": "X86_V3,AVX2,FMA3,X86_V4,AVX512_ICL,AVX512F,AVX512CD,AVX512_SKX,AVX512_CLX,AVX512_CNL",
}
"""Names of numpy 2.0 and of later ones; a name that is unknown or not of this processor is passed over."""


def written(disabled: str) -> list[dict[str, Any]]:
    """What a process whose numpy does without some of the processor's features makes of the same calls."""
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled}
    done = subprocess.run([sys.executable, "-c", WRITER], env=environment, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def ours() -> list[dict[str, Any]]:
    return written(FEWER["as it is"])


@pytest.mark.promise(61)
@pytest.mark.parametrize("disabled", [name for name in FEWER if FEWER[name]])
def test_schedules_and_plans_of_another_processor_are_the_same(disabled: str, ours: list[dict[str, Any]]) -> None:
    theirs = written(FEWER[disabled])
    # Printed and never asserted: where the processor has no such instructions no hash differs.
    print(sum(a["sha256"] != b["sha256"] for a, b in zip(ours, theirs, strict=True)), "of 11 hashes differ")
    assert len(theirs) == 11
    for mine, other in zip(ours, theirs, strict=True):
        schedule, foreign = (NoiseSchedule(np.array(v["signal"]), np.array(v["noise"])) for v in (mine, other))
        assert schedule.is_same(foreign)
        assert foreign.is_same(schedule)
        for saved, known in zip(other["plans"], mine["plans"], strict=True):
            plan, here = Plan.from_dict(saved), Plan.from_dict(known)
            sampler = PlanSampler.from_plan(schedule, plan, prediction="v")
            expected = PlanSampler.from_plan(schedule, here, prediction="v").sample(smooth, (2, 3), seed=0, dtype=torch.float64)
            drawn = sampler.sample(smooth, (2, 3), seed=0, dtype=torch.float64)
            torch.testing.assert_close(drawn, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.promise(61)
def test_a_plan_of_each_schedule_is_refused_by_every_other(ours: list[dict[str, Any]]) -> None:
    for i, mine in enumerate(ours):
        for j, other in enumerate(ours):
            schedule, plan = NoiseSchedule(np.array(mine["signal"]), np.array(mine["noise"])), Plan.from_dict(other["plans"][0])
            assert schedule.is_same(NoiseSchedule(np.array(other["signal"]), np.array(other["noise"]))) == (i == j)
            if i == j:
                assert PlanSampler.from_plan(schedule, plan, prediction="v").nfe == 5
                continue
            with pytest.raises(ValueError, match="made for another schedule"):
                PlanSampler.from_plan(schedule, plan, prediction="v")
