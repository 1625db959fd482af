"""What a sampler's author states: how it is made, which lists it takes, and which laws it leaves aside."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ddimkit.sampling import PlanSampler
from ddimkit.schedule import NoiseSchedule
from ddimkit.testing._runs import RunChecks

__all__ = ["ListChecks"]


class ListChecks(RunChecks):
    """How the sampler under test is made.

    Attributes:
        schedule: the schedule that most checks sample with; any number of timesteps.
        keeps_variance: whether rows that read no history keep the noise, :math:`(a n)^2 + c^2 = n'^2`. False for samplers whose
            noise is larger by design, as DDPM's ``fixed_large``.
        consistency: whether the model is a consistency function. The kit then runs the table with a Gaussian's own.
    """

    schedule: ClassVar[NoiseSchedule] = NoiseSchedule.linear()
    keeps_variance: ClassVar[bool] = True
    consistency: ClassVar[bool] = False

    def make(self, schedule: NoiseSchedule, *, steps: int | None = None, timesteps: Sequence[int] = ()) -> PlanSampler:
        """The sampler under test.

        Args:
            schedule: for this schedule.
            steps: of this many timesteps; None where ``timesteps`` are given.
            timesteps: of these timesteps, a strictly descending list.
        """
        raise NotImplementedError(f"{type(self).__name__} must define make()")

    def other_settings(self) -> Mapping[str, Any]:
        """Another value of each field that the sampler adds to :class:`PlanSampler`'s, by name; it must change the plan."""
        return {}

    def accepts(self, count: int) -> bool:
        """Whether the sampler can run this many timesteps; override for one of certain step counts only."""
        return count >= 1

    def nearest(self, count: int) -> int:
        """The accepted number of timesteps nearest below ``count``, else above."""
        below = [n for n in range(count, 0, -1) if self.accepts(n)]
        return below[0] if below else next(n for n in range(count, 10_000) if self.accepts(n))

    def shortened(self, times: Sequence[int]) -> tuple[int, ...]:
        """The first timesteps of a list, as many as are accepted."""
        return tuple(times[: self.nearest(len(times))])

    def uneven(self) -> PlanSampler:
        """The sampler under test on a list of no regular stride."""
        total = self.schedule.num_timesteps
        times = {total - 1, *(int(total * part) for part in (0.7, 0.65, 0.3, 0.02))}
        return self.make(self.schedule, timesteps=self.shortened(sorted(times, reverse=True)))

    def schedules(self) -> dict[str, NoiseSchedule]:
        """Schedules of one number of timesteps, by kind; the last two hold no signal at their last timestep."""
        return {
            "linear": NoiseSchedule.linear(100),
            "steeper linear": NoiseSchedule.linear(100, beta_end=0.03),
            "cosine": NoiseSchedule.cosine(100),
            "zero SNR": NoiseSchedule.cosine(100).zero_terminal_snr(),
            "rectified flow": NoiseSchedule.rectified_flow(100),
        }
