r"""For authors of multistep samplers: exact integration weights, and tables whose history is not of x0.

Between two timesteps the ODE's solution is :math:`x' = \frac{n'}{n} x + s' \int_0^h e^{-(h-u)}\, \hat x_0(\lambda + u)\, du`.
"""

from collections.abc import Sequence

import numpy as np

from ddimkit.samplers._exponential import past_nodes, weights
from ddimkit.samplers._outputs import x0_history
from ddimkit.schedule import FloatArray

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
