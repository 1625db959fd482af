"""Samplers that lack a method: both type checkers must refuse the last two lines of this file, and nothing else in it."""

from typing import Literal

from client import model_calls
from ddimkit import NoiseSchedule, PlanSampler


class SamplerWithoutPlan:
    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.timesteps = (999, 499)
        self.prediction: Literal["epsilon"] = "epsilon"
        self.clip = None


class InheritsButHasNoPlan(PlanSampler):
    pass


InheritsButHasNoPlan(NoiseSchedule.linear(), steps=3)
model_calls(SamplerWithoutPlan(NoiseSchedule.linear()))
