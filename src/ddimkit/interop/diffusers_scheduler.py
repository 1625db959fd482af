r"""A sampler as a scheduler of diffusers: ``pipe.scheduler = as_scheduler(sampler)``.

A pipeline calls its model itself and hands each output to its scheduler. This scheduler walks the sampler's plan by row, with the
arithmetic of :meth:`PlanSampler.sample <ddimkit.sampling.PlanSampler.sample>`: what a pipeline draws equals
``sampler.sample(model, x_T=the pipeline's first latents)``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from ddimkit._numbers import integer, is_number
from ddimkit.interop._sampler_file import describe, restore
from ddimkit.interop._scheduler_config import config_of, is_straight
from ddimkit.interop._scheduler_walk import Generators, Walk, begin_walk, drawn_noise, keyed_noise, start_of
from ddimkit.loop import NoiseFn
from ddimkit.noise import SeedLike, fresh_seed, sample_seeds, seed_list
from ddimkit.sampling import PlanSampler
from ddimkit.step import Coefficients, check_image

__all__ = ["SamplerScheduler", "as_scheduler"]


def as_scheduler(sampler: PlanSampler, seeds: SeedLike | None = None) -> "SamplerScheduler":
    """A sampler that pipelines of diffusers take as their scheduler.

    Set it by assignment, ``pipe.scheduler = as_scheduler(sampler)``: the constructors of some pipelines, DDIMPipeline's among them,
    make a scheduler of their own of any that they are given.

    Args:
        sampler: made for the pipeline's model, as by ``from_pipeline(pipe).sampler(DDIMSampler, steps=20)``.
        seeds: key the noise of the steps: an int for a whole batch, or one an image. The pipeline draws the first latents itself.
            By default its ``generator`` draws the steps' noise too, and where there is none, a seed from the operating system keys
            it; ``seeds``, an attribute of the scheduler, names that one afterwards.

    Raises:
        TypeError: no :class:`~ddimkit.sampling.PlanSampler`, or seeds that are no integers.
        ValueError: a seed outside [0, 2^63).
    """
    return SamplerScheduler(sampler, seeds)


class SamplerScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # their classes have no types
    """What :func:`as_scheduler` makes: a sampler behind the protocol of diffusers' schedulers.

    Like theirs, and unlike a sampler, it holds the state of one walk: one for each pipeline and thread. ``save_pretrained`` and
    ``from_pretrained`` keep ddimkit's own samplers by their settings, and any other one by its table, which then takes no other
    number of steps.

    Args:
        sampler: a sampler, or its description from a file.
        seeds: as for :func:`as_scheduler`.

    Attributes:
        sampler: the sampler in use, planned anew for ``num_inference_steps``.
        timesteps: (rows,) what the model is given at each row: int64 timesteps, or float32 T·σ on the straight path.
        num_inference_steps: of the last ``set_timesteps``.
        seeds: the seeds of the present walk, one an image; None before its first noise, and where a generator draws it.
        init_noise_sigma: what pipelines multiply their first noise by, 1.
    """

    init_noise_sigma = 1.0

    def __init__(self, sampler: PlanSampler | Mapping[str, Any], seeds: SeedLike | None = None) -> None:
        made = restore(sampler) if isinstance(sampler, Mapping) else sampler
        if not isinstance(made, PlanSampler):
            raise TypeError(f"sampler must be a ddimkit.PlanSampler, got {type(made).__name__}")
        self._asked, self._given_seeds = made, None if seeds is None else seed_list(seeds)
        # Names that begin with an underscore are passed over by the schedulers that are made of this configuration.
        self.register_to_config(_sampler=describe(made), _seeds=self._given_seeds)
        self.set_timesteps()

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | None = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> "SamplerScheduler | tuple[SamplerScheduler, dict[str, Any]]":
        """The scheduler of a configuration that one of this class has saved.

        Args:
            config: the configuration.
            return_unused_kwargs: whether to give ``kwargs`` back too.
            kwargs: not read.

        Raises:
            ValueError: a configuration of another class, or one that this version cannot read.
        """
        if config is None or not isinstance(config.get("_sampler"), Mapping):
            found = None if config is None else config.get("_class_name")
            raise ValueError(f"a configuration that a SamplerScheduler saved is wanted, got that of {found}")
        made = cls(config["_sampler"], config.get("_seeds"))
        return (made, kwargs) if return_unused_kwargs else made

    @property
    def config(self) -> dict[str, Any]:
        """What is saved, and what diffusers' own schedulers take, so that one of them can be made for the same model."""
        sampler = self._asked
        # Constructors of pipelines switch clip_sample off in _internal_dict, which changes nothing here.
        known: dict[str, Any] = FrozenDict({**self._internal_dict, **config_of(sampler.schedule, sampler.prediction, sampler.clip)})
        return known

    @property
    def order(self) -> int:
        """How many rows a timestep has at most, 1 but for samplers that ask the model several times at one."""
        return math.ceil(self.sampler.nfe / len(self.sampler.timesteps))

    @property
    def step_index(self) -> int | None:
        """The number of the next row; None before the first."""
        return None if self._walk is None else self._walk.row

    @property
    def begin_index(self) -> int | None:
        """The row that the walk begins at, where the pipeline has set it."""
        return self._begin_index

    def __len__(self) -> int:
        """T, as diffusers' schedulers have it."""
        return self._asked.schedule.num_timesteps

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        *,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,  # noqa: ARG002  # pipelines give it to every flow scheduler
    ) -> None:
        """Begin a new walk, planned for a number of steps or a list.

        Args:
            num_inference_steps: S; the sampler is planned anew with its other settings. A sampler of a table or a list takes only
                its own number. None is the sampler's own.
            device: where ``timesteps`` are.
            timesteps: instead, a list of the values that ``timesteps`` would hold.
            sigmas: some flow-matching pipelines give them equally spaced from 1, which stands for their number; others are refused.
            mu: the shift of other schedulers; the sampler's schedule has its own.

        Raises:
            ValueError: a number or a list that the sampler cannot take; sigmas that are not equally spaced; two of the three.
        """
        if sum(given is not None for given in (num_inference_steps, timesteps, sigmas)) > 1:
            raise ValueError("num_inference_steps, timesteps and sigmas exclude one another: give at most one")
        if sigmas is not None:
            num_inference_steps = _count_of(sigmas)
        if timesteps is not None:
            self.sampler = self._relisted(timesteps)
        else:
            self.sampler = self._replanned(num_inference_steps)
        self.num_inference_steps = len(self.sampler.timesteps) if num_inference_steps is None else num_inference_steps
        values = self._times[list(self.sampler.coefficients.plan.t)]
        self._values: list[float] = values.tolist()
        self.timesteps = values.to(device) if device is not None else values
        self.set_begin_index(None)

    def set_begin_index(self, begin_index: int | None = 0) -> None:
        """Begin at a row: a pipeline that starts from an image skips the first ones, and the rest is planned anew.

        Args:
            begin_index: the row; None to find it from the first timestep.
        """
        self._begin_index = begin_index
        self._walk: Walk | None = None
        self.seeds: tuple[int, ...] | None = None

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:  # noqa: ARG002
        r"""The sample itself, which the model is given as it is.

        Args:
            sample: (B, \*) x.
            timestep: not read.
        """
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        eta: float | None = None,
        generator: Generators = None,
        return_dict: bool = True,
        use_clipped_model_output: bool | None = None,
    ) -> DDIMSchedulerOutput | tuple[Tensor]:
        r"""One row of the plan, the next one of the walk.

        Args:
            model_output: (B, \*) what the model said.
            timestep: the entry of ``timesteps`` that the model was called with.
            sample: (B, \*) x, before :meth:`scale_model_input`.
            eta: the sampler's own, or 0, which pipelines give where their caller gives none.
            generator: draws the noise where no seeds are given, or one a sample.
            return_dict: whether the result is an object with ``prev_sample`` and ``pred_original_sample``, the clipped x0_hat.
            use_clipped_model_output: whether the noise is worked out anew from the clipped x0_hat, as it always is here.

        Returns:
            (B, \*) the next sample, in an object or a tuple of one.

        Raises:
            TypeError: a sample or an output that is no floating point tensor.
            ValueError: an eta other than the sampler's; ``use_clipped_model_output=False`` with clipping; a timestep that is not
                the next one of the walk; an output of another shape.
        """
        self._check_options(eta, use_clipped_model_output)
        check_image(sample, "sample")
        if self._walk is None:
            self._walk = self._begin(timestep, sample, generator)
        self._check_time(timestep, self._walk)
        following, x0 = self._walk.step(sample, model_output, return_dict)
        if not return_dict:
            return (following,)
        return DDIMSchedulerOutput(prev_sample=following, pred_original_sample=None if x0 is None else x0.to(sample.dtype))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`s\,x_0 + n\,\varepsilon` at entries of ``timesteps``, or of the schedule.

        Args:
            original_samples: (B, \*) x0.
            noise: (B, \*) eps.
            timesteps: () or (B,).

        Raises:
            ValueError: a timestep that the schedule does not have.
        """
        return self._asked.schedule.add_noise(original_samples, noise, self._index(timesteps, original_samples))

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        r""":meth:`add_noise` as flow-matching pipelines call it.

        Args:
            sample: (B, \*) x0.
            timestep: () or (B,).
            noise: (B, \*) eps.
        """
        return self.add_noise(sample, noise, timestep)

    @property
    def _times(self) -> Tensor:
        """(T,) what the model is given at each timestep of the schedule."""
        schedule = self._asked.schedule
        if is_straight(schedule):
            return torch.from_numpy(schedule.num_timesteps * schedule.noise).to(torch.float32)
        return torch.arange(schedule.num_timesteps)

    def _replanned(self, count: int | None) -> PlanSampler:
        """The sampler for a number of steps."""
        sampler = self._asked
        own = len(sampler.timesteps) if sampler.steps is None else sampler.steps
        if count is None or integer(count, "num_inference_steps") == own:
            return sampler
        if sampler.steps is not None:
            return replace(sampler, steps=count, timesteps=())
        if count == sampler.nfe:
            return sampler
        raise ValueError(
            f"the sampler has a list or table of {own} timesteps and takes no other number, got num_inference_steps={count}: give "
            f"num_inference_steps={own}, or a sampler made with steps="
        )

    def _relisted(self, values: Sequence[float] | Tensor) -> PlanSampler:
        """The sampler for a list of what the model is to be given."""
        wanted = torch.as_tensor(values).detach().cpu().reshape(-1)
        if wanted.tolist() == self._times[list(self._asked.coefficients.plan.t)].tolist():
            return self._asked
        return replace(self._asked, steps=None, timesteps=self._index(wanted, wanted).tolist())

    def _index(self, timesteps: Tensor, like: Tensor) -> Tensor:
        """Entries of the schedule, int64 () or (B,) on the device of ``like``, of what the model is given there.

        Raises:
            ValueError: a value that the schedule does not have; on the CPU alone, as nothing is read back from a device.
        """
        times = self._times.to(like.device)
        values = timesteps.to(like.device)
        if values.ndim and len(values) == 1:
            values = values.expand(len(like))
        found = (times.double() - values.double()[..., None]).abs().argmin(dim=-1) if times.is_floating_point() else values.long()
        if like.device.type == "cpu":
            known = (found >= 0) & (found < len(times))
            near = (times[found.clamp(0, len(times) - 1)] - values).abs() <= 1e-3
            if not bool((known & near).all()):
                raise ValueError(
                    f"timesteps must be entries of the scheduler's timesteps or its schedule, got {timesteps.tolist()}"
                )
        return found

    def _begin(self, timestep: float | Tensor, sample: Tensor, generator: Generators) -> Walk:
        """The walk from the row that the pipeline has set, or from the first one at its timestep."""
        first = self._begin_index
        if first is None:
            value = _value(timestep)
            first = self._values.index(value) if value in self._values else -1
        if not 0 <= first < len(self._values):
            raise ValueError(f"the walk must begin at one of the timesteps {_listed(self._values)}, got {_value(timestep)}")
        coefficients = self.sampler.coefficients_from(start_of(self.sampler, first))
        return begin_walk(coefficients, first, self._source(coefficients, first, sample, generator))

    def _source(self, coefficients: Coefficients, first: int, sample: Tensor, generator: Generators) -> NoiseFn:
        if self._given_seeds is None and generator is not None:
            return drawn_noise(generator)
        self.seeds = sample_seeds(fresh_seed() if self._given_seeds is None else self._given_seeds, len(sample))
        return keyed_noise(self.seeds, coefficients, first, sample.device)

    def _check_options(self, eta: float | None, clipped: bool | None) -> None:
        own = getattr(self.sampler, "eta", None)
        if eta is not None and (not is_number(eta) or (eta not in (0, own))):
            told = "has no eta" if own is None else f"has eta={own}"
            raise ValueError(f"the sampler {told}, got eta={eta!r}: make the sampler with the eta that is meant")
        if clipped is False and self.sampler.clip is not None:
            raise ValueError("use_clipped_model_output=False is the eps of an unclipped x0: this scheduler has no equal of it")

    def _check_time(self, timestep: float | Tensor, walk: Walk) -> None:
        """Raise a ValueError where the pipeline is elsewhere than the walk; a timestep on a device is not read back."""
        row = walk.row
        if row == len(self._values):
            raise ValueError("the walk has ended: call set_timesteps before another one")
        if isinstance(timestep, Tensor) and timestep.device.type != "cpu":
            return
        if _value(timestep) != self._values[row]:
            raise ValueError(
                f"the next row of the walk, {row}, is at timestep {self._values[row]}, got {_value(timestep)}: a pipeline must "
                "take the scheduler's timesteps one after another"
            )


def _value(timestep: float | Tensor) -> float:
    """A timestep as a number; of several, all alike, the first."""
    return float(timestep.reshape(-1)[0]) if isinstance(timestep, Tensor) else float(timestep)


def _count_of(sigmas: Sequence[float]) -> int:
    """S of the sigmas 1, (S−1)/S, … 1/S, which pipelines give as a matter of course."""
    count = len(sigmas)
    if any(abs(float(sigma) - (count - i) / count) > 1e-5 for i, sigma in enumerate(sigmas)):
        raise ValueError(
            f"sigmas must be equally spaced from 1 to 1/{count}, which stands for {count} steps, got {_listed(sigmas)}: give the "
            "sampler a list of timesteps instead"
        )
    return count


def _listed(values: Sequence[float]) -> str:
    shown = ", ".join(f"{float(value):g}" for value in values[:6])
    return f"{shown}, …" if len(values) > 6 else shown
