"""A look at the gradients of a compiled network, before it is trained on them."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ddimkit.errors import DDIMKitError

__all__ = ["check_gradients"]


def check_gradients(parameters: Mapping[str, nn.Parameter], loss: Callable[[bool], Tensor]) -> None:
    """Raise where a compiled half-precision backward is not that of the plain one; a compiler's mistake shows nowhere else.

    With torch 2.13 on a CPU the compiled backward of ``interpolate`` in bfloat16 is 0: everything below a UNet's finest level stays
    as it was, the loss still falls, and the samples are poor.

    Args:
        parameters: what is trained; their gradients are left empty.
        loss: the loss of one batch, fast or not.

    Raises:
        DDIMKitError: the gradients differ by more than a quarter, or one of them vanished.
    """
    plain, quick = (
        torch.autograd.grad(loss(fast), list(parameters.values()), allow_unused=True, materialize_grads=True)
        for fast in (False, True)
    )
    total = math.sqrt(sum(float(p.square().sum()) for p in plain))
    apart = math.sqrt(sum(float((p - q).square().sum()) for p, q in zip(plain, quick, strict=True)))
    pairs = zip(parameters, plain, quick, strict=True)
    gone = [name for name, p, q in pairs if float(p.norm()) > 1e-3 * total and not bool(q.any())]
    if gone or apart > 0.25 * total:
        raise DDIMKitError(
            f"the compiled bfloat16 gradients differ by {apart / max(total, 1e-300):.0%} from the plain ones"
            f"{', and vanish for ' + ', '.join(gone[:3]) if gone else ''}: this torch cannot train so here, take --no-fast"
        )
