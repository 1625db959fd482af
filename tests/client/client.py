"""What a user of the package writes; checked strictly, and run as well."""

from dataclasses import dataclass, field, replace
from typing import assert_type

import numpy as np
import torch
from torch import Tensor

from ddimkit import DDIMSampler, DDPMSampler, ModelBundle, NoiseSchedule, Plan, PlanSampler, Sampler, SamplerState


def model(x: Tensor, t: Tensor) -> Tensor:
    return x - 0.1 * (t[:, None] > 500)


@dataclass(frozen=True)
class RenoisingSampler(PlanSampler):
    """Goes to the predicted image and noises it anew at every step: a sampler that writes its plan only."""

    strength: float = field(default=1.0, kw_only=True)

    def plan(self) -> Plan:
        times = tuple(self.timesteps)
        signal, noise = self.schedule.signal[list(times)], self.schedule.noise[list(times)]
        b, c = np.append(signal[1:], 1.0), self.strength * np.append(noise[1:], 0.0)
        return Plan(t=times, t_next=(*times[1:], None), a=np.zeros_like(b), b=b, c=c)


def model_calls(sampler: Sampler) -> int:
    return len(sampler.plan())


def main() -> None:
    schedule = NoiseSchedule.linear(num_timesteps=1000)
    samplers = [
        DDIMSampler(schedule, steps=4),
        DDIMSampler(schedule, timesteps=[999, 850, 400, 24], eta=0.5),
        DDIMSampler(schedule, timesteps=range(999, 0, -250), clip=(-1, 1)),
        DDIMSampler(schedule, timesteps=(999, 749, 499, 249), prediction="v"),
        DDIMSampler(schedule, timesteps=np.array([999, 749, 499, 249])),
        DDIMSampler(schedule, timesteps=torch.tensor([999, 749, 499, 249])),
    ]
    for sampler in samplers:
        assert_type(sampler.sample(model, (2, 3), seed=0), Tensor)
        assert model_calls(sampler) == sampler.nfe == 4

    first: int = samplers[0].timesteps[0]
    assert first == 999
    table = Plan(t=(9, 4), t_next=(4, None), a=[0.5, 0], b=[0.4, 1], c=torch.zeros(2))
    assert table.b.shape == (2, 1)

    fewer = replace(samplers[0], steps=2)
    assert_type(fewer, DDIMSampler)
    assert fewer.timesteps == (999, 499)
    assert replace(fewer, steps=None, timesteps=[999, 5]).timesteps == (999, 5)

    for state in fewer.iterate(model, (2, 3), seed=0):
        assert_type(state, SamplerState)
        assert_type(state.t_next, int | None)
        print(state.index, state.t, state.t_next, tuple(state.x.shape))
    x = fewer.sample(model, (2, 3), seed=0)
    assert_type(fewer.step(x, model(x, x.new_tensor([999, 999])), 0), Tensor)

    own = RenoisingSampler(schedule, steps=4, strength=0.5)
    assert_type(own.sample(model, (2, 3), seed=[3, 4]), Tensor)
    assert_type(PlanSampler.from_plan(schedule, own.plan(), clip=(-1, 1)), PlanSampler)
    assert model_calls(own) == model_calls(DDPMSampler(schedule, steps=4, variance="fixed_large"))

    bundle = ModelBundle(model=model, schedule=schedule, sample_shape=(3,))
    assert_type(bundle.sampler(DDIMSampler, steps=4), DDIMSampler)


if __name__ == "__main__":
    main()
