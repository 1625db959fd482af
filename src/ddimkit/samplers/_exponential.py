r"""Exact integrals of the polynomial through earlier x0 predictions, on which the multistep samplers rest.

Between two timesteps the ODE's solution is :math:`x' = \frac{n'}{n} x + s' \int_0^h e^{-(h-u)}\, \hat x_0(\lambda + u)\,du`. With
the polynomial through x0_hat at the nodes :math:`\lambda + r_j h` in place of :math:`\hat x_0` the integral is
:math:`\sum_j w_j\, \hat x_0(\lambda + r_j h)`. The reverse SDE's has :math:`2h` in place of h and the same nodes.
"""

import math
from collections.abc import Sequence

import numpy as np

from ddimkit._numbers import integer
from ddimkit.schedule import FloatArray

__all__ = ["check_order", "past_nodes", "weights"]

_TERMS = 20


def check_order(order: object) -> int:
    """The order as an int, 1, 2 or 3; or a TypeError or ValueError."""
    found = integer(order, "order")
    if found not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {found}")
    return found


def weights(nodes: Sequence[float], h: float) -> FloatArray:
    r"""(K,): :math:`w_j = \int_0^1 h\, e^{-h(1-r)}\, \ell_j(r)\, dr`, :math:`\ell_j` the Lagrange polynomial that is 1 at node j.

    Args:
        nodes: K different numbers, in units of h from where the step begins.
        h: the step in λ, above 0.
    """
    powers = _moments(h, len(nodes))
    found = np.empty(len(nodes))
    for j, node in enumerate(nodes):
        others = [other for i, other in enumerate(nodes) if i != j]
        falling = np.atleast_1d(np.poly(others))  # the coefficients of Π (r − other), the highest power first
        found[j] = falling[::-1] @ powers / math.prod(node - other for other in others)
    return found


def _moments(h: float, count: int) -> FloatArray:
    r"""(count,): :math:`\int_0^1 h\, e^{-h(1-r)}\, r^m\, dr` for m = 0, 1 and on."""
    if h < 1:
        series = [
            [(-1) ** i * h ** (i + 1) * math.factorial(m) / math.factorial(m + 1 + i) for i in range(_TERMS)] for m in range(count)
        ]
        return np.array([math.fsum(terms) for terms in series])
    found = [-math.expm1(-h)]
    for m in range(1, count):
        found.append(1 - m / h * found[-1])  # by parts
    return np.array(found)


def past_nodes(h: FloatArray, k: int, most: int) -> list[float]:
    """Where the x0 predictions of row k and of at most ``most - 1`` rows before it lie, in units of ``h[k]`` from row k.

    What lies at infinite λ is left out, with all that is older.
    """
    nodes = [0.0]
    while len(nodes) < most and k >= len(nodes) and np.isfinite(h[k - len(nodes)]):
        nodes.append(nodes[-1] - float(h[k - len(nodes)] / h[k]))
    return nodes
