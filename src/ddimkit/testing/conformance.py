"""The conformance kit: what every sampler promises, as a class of tests to inherit.

The author of a sampler writes in a test module, which pytest then collects::

    class TestMySampler(SamplerConformance):
        def make(self, schedule, *, steps=None, timesteps=()):
            return MySampler(schedule, steps=steps, timesteps=timesteps)

This package needs pytest and nothing else of ddimkit imports it.
"""

import pytest

from ddimkit.plan import Plan
from ddimkit.sampling import PlanSampler
from ddimkit.testing._arguments import ArgumentChecks
from ddimkit.testing._numbers import NumberChecks
from ddimkit.testing._plans import check_joints
from ddimkit.testing._probes import ProbeModel, require_same
from ddimkit.testing._runs import SHAPE
from ddimkit.testing._settings import SettingChecks

__all__ = ["SamplerConformance", "TableConformance"]


class SamplerConformance(NumberChecks, SettingChecks, ArgumentChecks):
    """Inherit this, write :meth:`make`, and pytest runs every check on your sampler.

    Attributes:
        schedule: the schedule that most checks sample with; any number of timesteps.
        keeps_variance: False for samplers whose noise is larger than the noise law allows, by design.
        consistency: True for samplers of consistency models.
        device: where the checks sample, as in ``"cuda"``.
        dtype: of most samples.
        dtypes: every dtype that is tried; leave out what the device lacks.
    """


class TableConformance(ArgumentChecks):
    """The checks of a bare table, fixed or learned, whose rows need keep neither signal nor noise.

    The table may end at timestep 0 as well as at the clean image, and its last row may read x, history and noise.
    Inherit this and write :meth:`make`.
    """

    def make(self) -> PlanSampler:
        """The sampler under test, as :meth:`PlanSampler.from_plan` makes one."""
        raise NotImplementedError(f"{type(self).__name__} must define make()")

    def uneven(self) -> PlanSampler:
        """The sampler under test."""
        return self.make()

    def test_table_joins(self) -> None:
        """Each row begins where the one before ended, reads only predictions that exist, and the table ends at the image."""
        check_joints(self.make().plan())

    def test_table_is_saved(self) -> None:
        """The table written as plain values and read again is the same table."""
        plan = self.make().plan()
        again = Plan.from_dict(plan.to_dict())
        assert again == plan, f"the table changes when it is saved and read:\n{plan}\n{again}"

    def test_calls(self) -> None:
        """The model is called once a row, which ``nfe`` and the record say."""
        sampler = self.make()
        model = ProbeModel(sampler)
        self.run(sampler, model)
        calls, rows, nfe, recorded = len(model.times), len(sampler.plan()), sampler.nfe, sampler.record()["nfe"]
        assert calls == rows == nfe == recorded, (
            f"the model is called {calls} times, the table has {rows} rows, nfe is {nfe}, recorded {recorded}"
        )

    def test_start_at(self) -> None:
        """From a row on which no later row reads a prediction before it, a walk can start; from any other it is refused."""
        sampler, noise = self.make(), self.noises()
        model, reach = ProbeModel(sampler), sampler.coefficients.reach
        states = list(sampler.iterate(model, SHAPE, noise_fn=noise, device=self.device, dtype=self.dtype))
        for start in range(1, sampler.nfe):
            x = states[start - 1].x
            if any(reach[k] > k - start for k in range(start, sampler.nfe)):
                with pytest.raises(ValueError, match="earlier x0 predictions"):
                    sampler.sample(model, x_T=x, start_at=start, noise_fn=noise)
                continue
            late = sampler.sample(model, x_T=x, start_at=start, noise_fn=noise)
            require_same(late, states[-1].x, f"start_at={start} from the walk's own x ends elsewhere")
