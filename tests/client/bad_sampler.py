"""A sampler that lacks a method: both type checkers must refuse the last line of this file, and nothing else in it."""

from typing import Literal

from client import model_calls
from ddimkit import NoiseSchedule


class SamplerWithoutPlan:
    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.timesteps = (999, 499)
        self.prediction: Literal["epsilon"] = "epsilon"
        self.clip = None


model_calls(SamplerWithoutPlan(NoiseSchedule.linear()))
