"""What a sampler is, and everything that follows once it has a plan."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ddimkit._arguments import Arguments, Batch, check_arguments
from ddimkit._numbers import integer
from ddimkit._plugin import adopt, then_plan
from ddimkit._record import make_record
from ddimkit._repr import short_repr
from ddimkit._state import SamplerState, check_state
from ddimkit.loop import Model, NoiseFn, begin, draw, finish, prepare, states, step_bar
from ddimkit.loop import resume as resumed
from ddimkit.noise import SeedLike, sample_seeds
from ddimkit.plan import Plan
from ddimkit.prediction import Clip, Prediction, check_clip, check_prediction
from ddimkit.schedule import NoiseSchedule
from ddimkit.step import Coefficients, advance, check_image, check_output, needed_noise, predict
from ddimkit.timesteps import Spacing, TimestepsField, chosen

__all__ = ["Callback", "PlanSampler", "Sampler", "walk_plan"]

Callback = Callable[[SamplerState], None]
"""Called with the state after each row."""


class Sampler(Protocol):
    """What the loop reads of a sampler; :class:`PlanSampler` gives all but ``plan``."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule the model was trained with."""
        ...

    @property
    def timesteps(self) -> Sequence[int]:
        """The timesteps, descending."""
        ...

    @property
    def prediction(self) -> Prediction:
        """What the model predicts."""
        ...

    @property
    def clip(self) -> Clip:
        """How x0_hat is clipped."""
        ...

    def plan(self) -> Plan:
        """The table of coefficients."""
        ...


@dataclass(frozen=True)
class PlanSampler(ABC):
    r"""A sampler that is its plan: inherit, write :meth:`plan`, and the rest is here.

    Samplers are frozen dataclasses holding settings only: hashable, picklable, shareable between threads.

    Args:
        schedule: the noise schedule the model was trained with.
        steps: number of timesteps, chosen by ``spacing``; exactly one of ``steps`` and ``timesteps``.
        timesteps: the timesteps themselves, strictly descending; read back as a tuple.
        spacing: how ``steps`` timesteps are chosen.
        prediction: what the model predicts.
        clip: None, a pair (low, high) or a :class:`DynamicThreshold`, applied to x0_hat.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting out of range or NaN; both or neither of ``steps`` and ``timesteps``; epsilon prediction at zero SNR;
            what :meth:`plan` raises, which is called once the class's own ``__post_init__`` is done.
    """

    schedule: NoiseSchedule
    steps: int | None = None
    _: KW_ONLY
    timesteps: TimestepsField = ()
    spacing: Spacing = "trailing"
    prediction: Prediction = "epsilon"
    clip: Clip = None

    __repr__ = short_repr

    @then_plan
    def __post_init__(self) -> None:
        if not isinstance(self.schedule, NoiseSchedule):
            raise TypeError(f"schedule must be a NoiseSchedule, got {type(self.schedule).__name__}")
        if self.steps is not None:
            object.__setattr__(self, "steps", integer(self.steps, "steps"))
        object.__setattr__(self, "timesteps", chosen(self.schedule, self.steps, self.timesteps, self.spacing))
        object.__setattr__(self, "clip", check_clip(self.clip))
        check_prediction(self.prediction, self.schedule, self.timesteps)

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Make the class's plan once its settings are checked, and refuse a table of another schedule."""
        super().__init_subclass__(**keywords)
        adopt(cls)

    def __getstate__(self) -> dict[str, Any]:
        """The settings, without what is made of them."""
        return {name: value for name, value in self.__dict__.items() if name != "coefficients"}

    @abstractmethod
    def plan(self) -> Plan:
        """The table of coefficients, what a sampler has to write."""

    @classmethod
    def from_plan(
        cls, schedule: NoiseSchedule, plan: Plan, *, prediction: Prediction = "epsilon", clip: Clip = None
    ) -> "PlanSampler":
        """A sampler that runs a bare table.

        Args:
            schedule: the noise schedule the model was trained with, which converts its output to x0_hat.
            plan: the table; ``plan.t`` may repeat.
            prediction: what the model predicts.
            clip: how x0_hat is clipped.

        Raises:
            ValueError: a timestep of the plan is outside the schedule, or the plan was made for another schedule; t rises, or a row
                begins elsewhere than the row before it ends.
        """
        if not isinstance(plan, Plan):
            raise TypeError(f"plan must be a Plan, got {type(plan).__name__}")
        return BarePlanSampler(schedule, timesteps=tuple(dict.fromkeys(plan.t)), prediction=prediction, clip=clip, table=plan)

    @property
    def nfe(self) -> int:
        """Model calls of a run, one for each row of the plan."""
        return len(self.coefficients.plan)

    @cached_property
    def coefficients(self) -> Coefficients:
        """The plan made ready for this sampler's prediction type and clip."""
        return Coefficients(self.plan(), self.schedule, self.prediction, self.clip)

    def coefficients_from(self, start_at: int) -> Coefficients:
        """The rows from ``timesteps[start_at]`` on, planned anew: a multistep sampler warms up again."""
        start_at = integer(start_at, "start_at")
        if start_at == 0:
            return self.coefficients
        if not 0 <= start_at < len(self.timesteps):
            raise ValueError(f"start_at must lie in 0..{len(self.timesteps) - 1}, got {start_at!r}")
        rest, whole = replace(self, steps=None, timesteps=tuple(self.timesteps[start_at:])).coefficients, self.coefficients.plan
        if rest.plan.t != whole.t[-len(rest.plan) :]:
            raise ValueError(
                f"start_at={start_at} needs a plan that visits the same timesteps from timesteps[{start_at}] on as the whole plan "
                f"does, got {rest.plan.t} beside {whole.t}"
            )
        return rest

    def row_at(self, start_at: int) -> int:
        """The number of the row at which a walk from ``timesteps[start_at]`` begins: a timestep may have several rows."""
        return self._first_row(self.coefficients_from(start_at))

    def _first_row(self, rest: Coefficients) -> int:
        """The number, in the whole plan, of the first of its last rows."""
        return len(self.coefficients.plan) - len(rest.plan)

    def _start_of(self, row: int) -> int:
        """The ``start_at`` whose walk begins at a row.

        Raises:
            ValueError: no walk begins there.
        """
        t = self.coefficients.plan.t
        start_at = self.timesteps.index(t[row]) if 0 <= row < len(t) and t[row] in self.timesteps else -1
        if start_at < 0 or self.row_at(start_at) != row:
            raise ValueError(
                f"the state's walk began at row {row}, where no walk of this sampler begins: it was made by another one"
            )
        return start_at

    def sample(
        self,
        model: Model,
        shape: Sequence[int] | None = None,
        *,
        seed: SeedLike | None = None,
        x_T: Tensor | None = None,
        start_at: int = 0,
        generator: torch.Generator | None = None,
        noise_fn: NoiseFn | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        r"""Draw samples: walk the plan from noise to images, without autograd.

        Where B samples need too much memory, ``batch_size`` draws them in parts, one after another. Each sample keeps its seed, so
        an elementwise model gives the same bits; a network may round differently in another batch size. x_T is split too, and of
        ``model_kwargs`` each tensor whose first dimension is B. A tensor of that size that all samples share must be bound to the
        model, as by :func:`functools.partial`. ``callback`` is called after each row of each part: a state holds the samples of one
        part, named by ``state.seeds``, and ``index`` and ``nfe`` start again with each part. ``progress`` shows one bar.

        Args:
            model: ``model(x, t)``, x (B, \*) and t int64 (B,), giving a tensor of x's shape (learned range: twice the channels).
                It must not write to x. That is checked, but for inference mode, ``x.data`` and kernels outside torch.
            shape: (B, \*); may be left out where ``x_T`` is given.
            seed: keys all noise: one int for the whole batch, whose samples get the seeds that :meth:`seeds` lists, or a sequence
                of one seed a sample; None takes one from the operating system. ``seed``, ``generator`` and ``noise_fn`` exclude
                one another.
            x_T: (B, \*) where to begin; standard normal noise by default.
            start_at: where in ``timesteps`` to begin; x_T is then the image at ``timesteps[start_at]``, and required. Rows keep
                the numbers of the whole plan, of which a timestep may have several. Of a bare table the number of a row.
            generator: draws the noise instead, x_T first, then a tensor for each noisy row.
            noise_fn: ``noise_fn(draw, like)`` makes the noise instead: draw −1 for x_T, then the number of each noisy row.
            device: default: x_T's, else that of the model's first parameter, else the CPU.
            dtype: of x: default x_T's, else float32.
            progress: whether to show a progress bar.
            callback: called after each row with the :class:`SamplerState`.
            model_kwargs: further arguments of the model.
            batch_size: how many samples are drawn at once; None draws all B at once.

        Returns:
            (B, \*) samples.

        Raises:
            TypeError, ValueError: an argument of the wrong kind or out of range, a model output of the wrong shape or kind,
                ``batch_size`` together with ``generator`` or ``noise_fn``.
            NonFiniteError: the result holds NaN or infinity; names the step where it began, if the noise is keyed.
        """
        coefficients = self.coefficients_from(start_at)
        row = self._first_row(coefficients)
        arguments = Arguments(shape, seed, x_T, start_at, generator, noise_fn, device, dtype, model_kwargs, row)
        batch = check_arguments(coefficients, model, arguments)

        def draw_part(part: Batch, tick: Callable[[], object]) -> Tensor:
            return finish(begin(coefficients, model, part), callback, tick)

        return draw(batch, batch_size, len(coefficients.plan), progress, draw_part)

    def iterate(
        self,
        model: Model,
        shape: Sequence[int] | None = None,
        *,
        seed: SeedLike | None = None,
        x_T: Tensor | None = None,
        start_at: int = 0,
        generator: torch.Generator | None = None,
        noise_fn: NoiseFn | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        resume: SamplerState | None = None,
    ) -> Iterator[SamplerState]:
        r"""Walk the plan row by row, yielding a :class:`SamplerState` of fresh tensors after each.

        The last x is what :meth:`sample` returns, bit for bit. Stop whenever you like: the caller's grad mode is never held.

        Args:
            model: as for :meth:`sample`, and so are all arguments but the last. A walk holds its whole batch.
            shape: (B, \*).
            seed: keys all noise.
            x_T: (B, \*) where to begin.
            start_at: where in ``timesteps`` to begin.
            generator: draws the noise instead.
            noise_fn: makes the noise instead.
            device: where.
            dtype: of x.
            model_kwargs: further arguments of the model.
            resume: a state of an earlier walk, to go on after it; it brings x, history and seeds. A walk whose noise was not
                keyed needs its ``generator`` or ``noise_fn`` again.

        Raises:
            TypeError, ValueError, NonFiniteError: as for :meth:`sample`; a state of another sampler.
        """
        coefficients = self.coefficients_from(start_at)
        row = self._first_row(coefficients)
        arguments = Arguments(shape, seed, x_T, start_at, generator, noise_fn, device, dtype, model_kwargs, row)
        if resume is None:
            run = prepare(coefficients, model, arguments)
        else:
            state = check_state(resume, arguments)
            run = resumed(self.coefficients_from(self._start_of(state.start_at)), model, state, arguments)
        return states(run)

    def step(
        self, x_t: Tensor, model_output: Tensor, index: int | Tensor, *, noise: Tensor | None = None, history: Sequence[Tensor] = ()
    ) -> Tensor:
        r"""One row of the plan: a pure, differentiable function of its tensors.

        Args:
            x_t: (B, \*) the image at the row's timestep.
            model_output: (B, \*) what the model said of it.
            index: the row's number, or an int64 tensor of shape () or (B,), whose range is then the caller's duty.
            noise: (B, \*) standard normal; needed where the row's c is not 0, ignored where it is.
            history: earlier x0 predictions, newest first; needed where the row reads them.

        Returns:
            (B, \*) the image at the row's next timestep, of x_t's dtype.

        Raises:
            TypeError, ValueError: a model output of the wrong shape or kind, an index out of range, noise or history missing.
        """
        coefficients = self.coefficients
        check_image(x_t, "x_t")
        output = check_output(model_output, x_t, coefficients.learned)
        row = coefficients.row(index, x_t)
        noise = needed_noise(coefficients, row, index, x_t, noise, history)
        return advance(row, x_t, output, noise, history, coefficients, False)[0]

    def predict_x0(self, x_t: Tensor, model_output: Tensor, index: int | Tensor) -> Tensor:
        r"""The clean image that the model's output means at a row's timestep, clipped as the sampler asks.

        Args:
            x_t: (B, \*) the image at the row's timestep.
            model_output: (B, \*) what the model said of it.
            index: as for :meth:`step`.

        Returns:
            (B, \*) x0_hat, of x_t's dtype.

        Raises:
            TypeError, ValueError: as for :meth:`step`.
        """
        coefficients = self.coefficients
        check_image(x_t, "x_t")
        output = check_output(model_output, x_t, coefficients.learned)
        if coefficients.learned:
            output = output.chunk(2, dim=1)[0]
        return predict(coefficients.row(index, x_t), x_t, output, self.clip).to(x_t.dtype)

    def seeds(self, seed: SeedLike, count: int) -> tuple[int, ...]:
        """The seeds of the samples of a batch: what ``seed`` gives each.

        Sample i of ``seed=7`` has the same seed for every batch size; ``sample(..., seed=sampler.seeds(7, 16)[3:5])`` draws two of
        its samples alone.

        Args:
            seed: as for :meth:`sample`; of a sequence the seeds are its own entries.
            count: B, how many samples.

        Raises:
            TypeError, ValueError: a seed that is no int in [0, 2^63), or a sequence of another length.
        """
        return sample_seeds(seed, integer(count, "count"))

    def record(
        self,
        shape: Sequence[int] | None = None,
        *,
        seed: SeedLike | None = None,
        start_at: int = 0,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Any]:
        r"""Everything that reproduces a call of :meth:`sample`, as plain JSON values.

        ``batch_size`` is not part of it: it changes neither seeds nor noise.

        Args:
            shape: (B, \*) of the call.
            seed: of the call.
            start_at: of the call.
            dtype: of the call; float32 by default.

        Returns:
            a dict with ``schema``, ``sampler``, ``settings``, ``schedule``, ``nfe``, ``noise``, ``call`` and ``versions``.
        """
        nfe = len(self.coefficients_from(start_at).plan)
        return make_record(self, self.schedule, nfe, shape, seed, start_at, dtype)


@dataclass(frozen=True)
class BarePlanSampler(PlanSampler):
    """A sampler that was given its table; made by :meth:`PlanSampler.from_plan`."""

    table: Plan = field(kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, NoiseSchedule):
            raise TypeError(f"schedule must be a NoiseSchedule, got {type(self.schedule).__name__}")
        times = tuple(dict.fromkeys(self.table.t))
        if self.steps is not None or tuple(self.timesteps) != times or self.spacing != "trailing":
            raise ValueError(
                f"the timesteps of a bare table are its own and cannot be chosen, got steps={self.steps}, timesteps of length "
                f"{len(self.timesteps)} and spacing={self.spacing!r}: change the table, or replace the sampler that made it"
            )
        _check_walk(self.table)
        object.__setattr__(self, "table", self.table.with_levels(self.schedule))
        object.__setattr__(self, "timesteps", times)
        object.__setattr__(self, "clip", check_clip(self.clip))
        check_prediction(self.prediction, self.schedule, (max(times),))

    def plan(self) -> Plan:
        """The table it was given."""
        return self.table

    def coefficients_from(self, start_at: int) -> Coefficients:
        """The table's own rows from ``start_at`` on."""
        start_at = integer(start_at, "start_at")
        if not 0 <= start_at < len(self.table):
            raise ValueError(f"start_at must be a row number in 0..{len(self.table) - 1}, got {start_at!r}")
        return Coefficients(self.table[start_at:], self.schedule, self.prediction, self.clip)

    def _start_of(self, row: int) -> int:
        """The row itself: a bare table starts at any that reads no history."""
        return row


def _check_walk(plan: Plan) -> None:
    """Raise a ValueError unless the rows of a table go down one after another, each from where the last one ended."""
    for k, (landed, t) in enumerate(zip(plan.t_next, plan.t[1:], strict=False), start=1):
        if t > plan.t[k - 1]:
            raise ValueError(f"the t of a table must not rise, but row {k} is at t={t} after {plan.t[k - 1]}")
        if landed != t:
            raise ValueError(f"row {k - 1} lands on {landed}, but row {k} begins at t={t}: rows must join")


def walk_plan(
    sampler: Sampler, plan: Plan, model: Model, x: Tensor, *, progress: bool, model_kwargs: Mapping[str, Any] | None
) -> Tensor:
    """Walk a deterministic plan of one's own from x, with the sampler's schedule, prediction and clip."""
    coefficients = Coefficients(plan, sampler.schedule, sampler.prediction, sampler.clip)
    run = prepare(coefficients, model, Arguments(x_T=x, model_kwargs=model_kwargs))
    with step_bar(len(plan), progress) as tick:
        return finish(run, None, tick)
