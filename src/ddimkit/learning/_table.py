r"""A table whose numbers torch can differentiate: the template's plan plus corrections, and the walk down its rows.

Row k of a corrected table is

.. math:: a_k + u_k \theta_{k0},\qquad b_{kj} + u_k \theta_{k,1+j} \ (j \le k),\qquad c_k\, e^{\theta_{k,K+1}} \ (c_k > 0),

with the unit :math:`u_k = \max(n'_k, n_{S-1})`, the noise that is left after the row, and all :math:`\theta` 0 for the template.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ddimkit.loop import Run, ask
from ddimkit.plan import Plan
from ddimkit.prediction import x0_coefficients
from ddimkit.sampling import PlanSampler
from ddimkit.schedule import FloatArray
from ddimkit.step import Row, advance, check_output, device_row, work_dtype

__all__ = ["Corrections", "walk_rows"]


@dataclass(frozen=True, eq=False)
class Corrections:
    """The template that corrections are added to, with what each of its rows may be corrected in.

    Args:
        template: the sampler whose plan is corrected.
    """

    template: PlanSampler

    @cached_property
    def plan(self) -> Plan:
        """The template's own plan, b widened to every earlier prediction: (S, S)."""
        plan = self.template.coefficients.plan
        wide = max(len(plan), plan.b.shape[1])
        b = np.pad(plan.b, ((0, 0), (0, wide - plan.b.shape[1])))
        return Plan(plan.t, plan.t_next, plan.a, b, plan.c, None, plan.signal, plan.noise)

    @cached_property
    def _units(self) -> FloatArray:
        """(S, K + 2): what a correction of 1 changes each number by, 0 where a number stays as it is."""
        assert self.plan.noise is not None
        count, wide = self.plan.b.shape
        unit = np.maximum(np.append(self.plan.noise[1:], 0.0), self.plan.noise[-1])[:, None]
        history = np.arange(wide)[None, :] <= np.arange(count)[:, None]
        noisy = (self.plan.c > 0).astype(np.float64)[:, None]
        units: FloatArray = np.concatenate((unit, unit * history, noisy), axis=1)
        return units

    def zeros(self) -> Tensor:
        """(S, K + 2) float64: the corrections of the template itself."""
        return torch.zeros(self._units.shape, dtype=torch.float64)

    @cached_property
    def free(self) -> Tensor:
        """(S, K + 2) bool: the P numbers that a correction changes."""
        return torch.from_numpy(self._units != 0)

    def spread(self, values: Tensor) -> Tensor:
        """(S, K + 2) float64: values (P,) in the places of the free numbers, 0 elsewhere."""
        return self.zeros().masked_scatter(self.free, values)

    def numbers(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The columns a (S,), b (S, K) and c (S,) of corrections (S, K + 2)."""
        moved = theta * torch.from_numpy(self._units)
        a, b, c = (torch.from_numpy(v.copy()) for v in (self.plan.a, self.plan.b, self.plan.c))
        return a + moved[:, 0], b + moved[:, 1:-1], c * moved[:, -1].exp()

    def corrected(self, theta: Tensor) -> Plan:
        """The plan of corrections, for :meth:`PlanSampler.from_plan`; columns of b that no row reads are left out."""
        a, b, c = (v.numpy() for v in self.numbers(theta.detach().cpu()))
        wide = max(self.template.coefficients.plan.b.shape[1], int(np.flatnonzero(b.any(axis=0)).max(initial=0)) + 1)
        return Plan(self.plan.t, self.plan.t_next, a, b[:, :wide], c, None, self.plan.signal, self.plan.noise)

    def rows(self, theta: Tensor, like: Tensor) -> list[Row]:
        """Every row as tensors of shape () in the working dtype of ``like`` on its device."""
        plan, template = self.plan, self.template
        assert plan.signal is not None
        assert plan.noise is not None
        a, b, c = self.numbers(theta)
        x0_x, x0_out = (torch.from_numpy(v) for v in x0_coefficients(template.prediction, plan.signal, plan.noise))
        none = torch.zeros_like(c)  # the columns of a learned variance range
        columns = [x0_x, x0_out, a + b[:, 0] * x0_x, b[:, 0] * x0_out, a, *b.unbind(dim=1), c, none, none]
        table = torch.stack(columns, dim=1).to(work_dtype(like)).to(like.device)
        return [device_row(row) for row in table.unbind()]


def walk_rows(rows: Sequence[Row], run: Run, *, recompute: bool) -> Tensor:
    """The last x of a run whose rows are differentiable; ``recompute`` keeps no activations and calls the model again instead."""
    plan, x, history = run.coefficients.plan, run.x, tuple[Tensor, ...]()

    def call(y: Tensor, times: Tensor) -> Tensor:
        return check_output(ask(run.model, y, times), y, False)

    for k, row in enumerate(rows):
        times = torch.full((len(x),), plan.t[k], dtype=torch.int64, device=x.device)
        with torch.set_grad_enabled(x.requires_grad):  # the first x depends on no number of the table
            output = checkpoint(call, x, times, use_reentrant=False, preserve_rng_state=False) if recompute else call(x, times)
        noise = run.source(k, x) if plan.c[k] else None
        x, x0 = advance(row, x, output, noise, history, run.coefficients, True)
        assert x0 is not None
        history = (x0, *history)
    return x
