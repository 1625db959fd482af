"""A walk down a sampler's plan whose model is called from outside: a row at a time, with history and noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddimkit._arguments import check_history
from ddimkit.loop import KeyedNoise, NoiseFn
from ddimkit.sampling import PlanSampler
from ddimkit.step import Coefficients, advance, check_output, needed_noise, work_dtype

__all__ = ["Generators", "Walk", "begin_walk", "drawn_noise", "keyed_noise"]

Generators = torch.Generator | Sequence[torch.Generator] | None
"""A pipeline's ``generator``: one for a whole batch, or one an image."""


@dataclass(eq=False)
class Walk:
    """A walk under way.

    Attributes:
        coefficients: the rows from ``first`` on.
        first: the number of its first row in the whole plan.
        source: the noise of a row.
        done: how many rows are done.
        history: x0 predictions, newest first.
    """

    coefficients: Coefficients
    first: int
    source: NoiseFn
    done: int = 0
    history: tuple[Tensor, ...] = ()

    @property
    def row(self) -> int:
        """The number of the next row in the whole plan."""
        return self.first + self.done

    def step(self, x: Tensor, output: Tensor, observe: bool) -> tuple[Tensor, Tensor | None]:
        r"""The (B, \*) after the next row, and x0_hat where it is wanted or later rows read it."""
        coefficients, k = self.coefficients, self.done
        output = check_output(output, x, coefficients.learned)
        row = coefficients.row(k, x)
        noise = self.source(self.row, x) if coefficients.rows[k].c else None
        noise = needed_noise(coefficients, row, k, x, noise, self.history)
        following, x0 = advance(row, x, output, noise, self.history, coefficients, observe or coefficients.depth > 0)
        if coefficients.depth and x0 is not None:
            self.history = (x0, *self.history[: coefficients.depth - 1])
        self.done += 1
        return following, x0


def begin_walk(coefficients: Coefficients, first: int, source: NoiseFn) -> Walk:
    """A new walk from a row of the whole plan.

    Raises:
        ValueError: a row reads more x0 predictions than there will be.
    """
    check_history(coefficients, 0, 0, first)
    return Walk(coefficients, first, source)


def start_of(sampler: PlanSampler, row: int) -> int:
    """The ``start_at`` of a sampler whose walk begins at a row.

    Raises:
        ValueError: no walk begins there.
    """
    if row == 0:
        return 0
    # A bare table counts rows, any other sampler timesteps.
    for start_at in (row, sampler.timesteps.index(sampler.coefficients.plan.t[row])):
        try:
            if sampler.row_at(start_at) == row:
                return start_at
        except ValueError:
            continue
    raise ValueError(
        f"no walk of this sampler begins at row {row}, which is not the first of its timestep: choose another strength"
    )


def keyed_noise(seeds: Sequence[int], coefficients: Coefficients, first: int, device: torch.device) -> NoiseFn:
    """The noise of a walk's rows, keyed by one seed a sample."""
    return KeyedNoise(seeds, [first + k for k, row in enumerate(coefficients.rows) if row.c], device)


def drawn_noise(generator: Generators) -> NoiseFn:
    """Noise from a generator for the whole batch, or from one a sample."""

    def draw(_: int, like: Tensor) -> Tensor:
        if isinstance(generator, torch.Generator):
            return _drawn(generator, like)
        given = list(generator or ())
        if len(given) != len(like):
            raise ValueError(f"generator must be one generator, or one for each of the {len(like)} samples, got {len(given)}")
        return torch.cat([_drawn(one, part) for one, part in zip(given, torch.split(like, 1), strict=True)])

    return draw


def _drawn(generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device, dtype=work_dtype(like)).to(like.device)
