"""A trainer for any network and loss: AdamW, gradient clipping, a moving average of the weights, bfloat16 and compilation.

What is learnt is a :class:`Task`'s. A step's random numbers depend on the task's seed and the step alone, so a run taken up from
its checkpoint goes on as if it had not been stopped (on one machine: bit for bit).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddimkit._training.gradients import check_gradients

__all__ = ["Forward", "Moment", "Settings", "Task", "Trainer"]

N_co = TypeVar("N_co", bound=nn.Module, covariant=True)

Forward = Callable[..., Tensor]
"""The network as a loss calls it, compiled and in bfloat16 or plain; its output is float32."""

_REBUILDING = 500


@dataclass(frozen=True)
class Moment:
    """The optimiser's settings of one step.

    Attributes:
        rate: AdamW's learning rate.
        beta1: decay of its mean of the gradients.
    """

    rate: float
    beta1: float = 0.9


class Settings(Protocol):
    """What a :class:`Trainer` reads of a recipe."""

    @property
    def seed(self) -> int:
        """Of the initial weights and every step."""
        ...

    @property
    def batch_size(self) -> int:
        """Images a step."""
        ...

    @property
    def weight_decay(self) -> float:
        """AdamW's decoupled weight decay."""
        ...

    @property
    def grad_clip(self) -> float | None:
        """Largest norm of the gradient; None for any."""
        ...

    @property
    def ema_decay(self) -> float:
        """Decay of the moving average (smaller in the first steps)."""
        ...

    @property
    def long_ema_decay(self) -> float | None:
        """Decay of a second, longer moving average; None for none."""
        ...

    @property
    def bfloat16(self) -> bool:
        """Whether an uncompiled forward pass runs in bfloat16 autocast."""
        ...


class Task(Protocol[N_co]):
    """What a :class:`Trainer` asks of what it trains."""

    @property
    def recipe(self) -> Settings:
        """The settings."""
        ...

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        ...

    def network(self) -> N_co:
        """A new network, with initial weights from torch's global random state."""
        ...

    def loss(self, forward: Forward, step: int) -> Tensor:
        """The loss of a step's batch, a function of the step and ``forward`` alone."""
        ...

    def moment(self, step: int) -> Moment:
        """The optimiser's settings of a step."""
        ...

    def identity(self) -> dict[str, object]:
        """As JSON values, what a checkpoint must have in common with the task to be taken up."""
        ...


class Trainer(Generic[N_co]):
    """The state of a run: weights, their moving average, the optimiser's moments and the step.

    Args:
        task: what to train.
        device: where.
        fast: compile the forward and run it in bfloat16 autocast; on CUDA by default.

    Attributes:
        parameters: what is trained, by name.
        weights: the same and the floating buffers, which are averaged too.
        averages: the moving averages of the weights, by name: ``"ema"``, and ``"long"`` where the recipe has a second one.
        step: optimiser steps done.
        taken_up: the step at which the optimiser's moments began anew: the rate rises from there over 500 steps.
        loss: the smoothed loss at the last report.
    """

    def __init__(self, task: Task[N_co], device: torch.device, *, fast: bool | None = None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(task.recipe.seed)
            network = task.network()
        self.task, self.device, self.step, self.taken_up, self.loss = task, device, 0, 0, math.nan
        self.network: N_co = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.parameters = dict(self.network.named_parameters())
        buffers = {name: b for name, b in self.network.named_buffers() if b.is_floating_point()}
        self.weights: dict[str, Tensor] = {**{name: p.detach() for name, p in self.parameters.items()}, **buffers}
        self.fast = device.type == "cuda" if fast is None else fast
        self.forward: Forward = torch.compile(self.network) if self.fast else self.network
        self.decays = {"ema": task.recipe.ema_decay}
        if task.recipe.long_ema_decay is not None:
            self.decays["long"] = task.recipe.long_ema_decay
        self.averages = {kind: {name: value.clone() for name, value in self.weights.items()} for kind in self.decays}
        self.optimiser = torch.optim.AdamW(self.parameters.values(), weight_decay=task.recipe.weight_decay, fused=True)

    def loss_of_batch(self, *, fast: bool) -> Tensor:
        """The loss of the current step's batch, compiled and in bfloat16 or plainly."""
        half = self.task.recipe.bfloat16 and not self.fast

        def forward(*inputs: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=fast or half):
                return (self.forward if fast else self.network)(*inputs).float()

        return self.task.loss(forward, self.step)

    def moment(self) -> Moment:
        """The optimiser's settings of the current step, the rise after a new beginning included."""
        found = self.task.moment(self.step)
        if not self.taken_up:
            return found
        return Moment(found.rate * min(1.0, (self.step - self.taken_up + 1) / _REBUILDING), found.beta1)

    def advance(self) -> Tensor:
        """One optimiser step; the loss, on the device."""
        loss = self.loss_of_batch(fast=self.fast)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.task.recipe.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.task.recipe.grad_clip)
        now = self.moment()
        for group in self.optimiser.param_groups:
            group["lr"], group["betas"] = now.rate, (now.beta1, group["betas"][1])
        self.optimiser.step()
        self.step += 1
        for kind, longest in self.decays.items():
            decay = min(longest, (1 + self.step) / (10 + self.step))
            average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            average(list(self.averages[kind].values()), list(self.weights.values()), None)
        return loss.detach()

    def run(self, *, progress: bool = True, report_every: int = 50, stopped: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """Train to the task's last step, yielding the step after every ``report_every`` and after the last.

        Args:
            progress: whether to show a progress bar.
            report_every: steps between yields.
            stopped: called after each step; once it returns True, that step is yielded and training ends.

        Raises:
            DDIMKitError: the compiled gradients are wrong.
            FloatingPointError: the loss is no longer finite.
        """
        if self.step >= self.task.steps:
            return
        if self.fast:
            self._check()
        bar = tqdm(total=self.task.steps, initial=self.step, disable=not progress, unit="step", mininterval=2)
        smooth = None if math.isnan(self.loss) else torch.tensor(self.loss, device=self.device)
        with bar:
            while self.step < self.task.steps:
                loss = self.advance()
                smooth = loss if smooth is None else torch.lerp(smooth, loss, 0.005)
                bar.update()
                stop = stopped()
                if stop or self.step % report_every == 0 or self.step == self.task.steps:
                    self.loss = float(smooth)
                    if not math.isfinite(self.loss):
                        raise FloatingPointError(f"the loss is {self.loss} at step {self.step}: lower learning_rate")
                    bar.set_postfix(loss=f"{self.loss:.5f}")
                    yield self.step
                if stop:
                    return

    def averaged(self, kind: str = "ema") -> N_co:
        """A network of one kind of averaged weights, in eval mode, on the trainer's device; the random state is left alone."""
        with torch.device("meta"):
            network = self.task.network()
        # What is not averaged, as batch normalisation's counters, decides nothing.
        rest = {name: b for name, b in self.network.state_dict().items() if name not in self.weights}
        network.load_state_dict({name: value.clone() for name, value in (self.averages[kind] | rest).items()}, assign=True)
        return network.eval()

    def _check(self) -> None:
        """Look at the compiled gradients, and put back the buffers that a forward changes."""
        buffers = {name: b.clone() for name, b in self.network.named_buffers()}
        check_gradients(self.parameters, lambda fast: self.loss_of_batch(fast=fast))
        for name, b in self.network.named_buffers():
            b.copy_(buffers[name])
