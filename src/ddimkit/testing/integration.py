r"""For authors of multistep samplers: exact integration weights, and tables whose history is not of x0.

Between two timesteps the ODE's solution is :math:`x' = \frac{n'}{n} x + s' \int_0^h e^{-(h-u)}\, \hat x_0(\lambda + u)\, du`.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ddimkit.plan import Plan
from ddimkit.prediction import x0_coefficients
from ddimkit.samplers._exponential import past_nodes, weights
from ddimkit.schedule import FloatArray, NoiseSchedule

__all__ = ["integration_weights", "past_nodes", "x0_history"]


def integration_weights(nodes: Sequence[float], h: float) -> FloatArray:
    r"""(K,) weights :math:`w_j = \int_0^1 h\, e^{-h(1-r)}\, \ell_j(r)\, dr`, :math:`\ell_j` the Lagrange polynomial of node j.

    A row of a multistep sampler then has :math:`a = n'/n` and :math:`b_j = s' w_j`.

    Args:
        nodes: K different places in λ of x0 predictions, in units of h from where the step begins; :func:`past_nodes` gives them.
        h: the step in λ, finite and above 0.

    Raises:
        ValueError: nodes that are equal, or h out of range.

    >>> import numpy as np
    >>> from ddimkit.testing import integration_weights
    >>> integration_weights([0.0, -1.0], 0.1).sum().round(6), (1 - np.exp(-0.1)).round(6)
    (np.float64(0.095163), np.float64(0.095163))
    """
    if not nodes or len(set(nodes)) != len(nodes):
        raise ValueError(f"nodes must be at least one, all different, got {list(nodes)}")
    if not 0 < h < np.inf:
        raise ValueError(f"h must be finite and above 0, got {h}")
    return weights(nodes, h)


def x0_history(
    plan: Plan, schedule: NoiseSchedule, outputs: FloatArray, prediction: Literal["epsilon", "v", "flow"] = "epsilon"
) -> Plan:
    r"""The table over x0 predictions that does what a table over earlier model outputs does.

    Row k of the given table makes :math:`x' = a_k x + \sum_j e_{kj}\, out(\text{j calls ago})`. With :math:`\hat x_0 = A x +
    B\,out` each output is :math:`(\hat x_0 - A x)/B`, and each earlier x follows from the present one: :math:`x = (x' - \sum_j
    b_j \hat x_0)/a`. So a row of the result may read every earlier prediction.

    Args:
        plan: gives t, t_next and a; its b is not read, and its c must be 0.
        schedule: the one it was made for.
        outputs: (S, K) e, the weights of the model's outputs now, one call ago, … K−1 ago.
        prediction: what the outputs are.

    Returns:
        a plan of b (S, S).

    Raises:
        ValueError: noise in the table, outputs of another number of rows, or a = 0 in a row before one that reads history.
    """
    S = len(plan)
    given = np.asarray(outputs, dtype=np.float64)
    if plan.adds_noise or given.ndim != 2 or len(given) != S:
        raise ValueError(f"a table without noise and outputs ({S}, K) are wanted, got c = {plan.c} and outputs {given.shape}")
    A, B = x0_coefficients(prediction, schedule.signal[list(plan.t)], schedule.noise[list(plan.t)])
    a, b = np.zeros(S), np.zeros((S, S))
    for k in range(S):
        # The x of call i is slope · x + back · (x0 predictions, newest first), first of the present call.
        slope, back = 1.0, np.zeros(S)
        a[k] = plan.a[k]
        for j in range(min(given.shape[1], k + 1)):
            i = k - j
            if j and given[k, j:].any():
                if a[i] == 0:
                    raise ValueError(
                        f"row {i} has a = 0: the x before it, which row {k} reads, does not follow from the x after it"
                    )
                slope, back = slope / a[i], back / a[i]
                back[j:] -= b[i, : S - j] / a[i]
            weight = given[k, j] / B[i]
            a[k] -= weight * A[i] * slope
            b[k] -= weight * A[i] * back
            b[k, j] += weight
    return Plan(plan.t, plan.t_next, a, b, np.zeros(S))
