"""The conformance kit: what authors of samplers run on their own, with pytest.

Beside it: hypothesis strategies in :mod:`ddimkit.testing.strategies`, the measurement of orders, the weights that integrate the
polynomial through earlier predictions, and the converter of tables whose history is of epsilon or velocity.
"""

import pytest

# Before the modules are imported: their asserts then say what was compared.
pytest.register_assert_rewrite(
    *(
        f"ddimkit.testing.{name}"
        for name in ("_arguments", "conformance", "_lists", "_numbers", "orders", "_plans", "_probes", "_runs", "_settings")
    )
)

from ddimkit.testing._plans import check_noise_law, check_plan, check_precision  # noqa: E402
from ddimkit.testing._probes import NoFloat64, ProbeModel  # noqa: E402
from ddimkit.testing.conformance import SamplerConformance, TableConformance  # noqa: E402  # needs the line above
from ddimkit.testing.integration import integration_weights, past_nodes, x0_history  # noqa: E402
from ddimkit.testing.orders import measured_order  # noqa: E402

__all__ = [
    "NoFloat64",
    "ProbeModel",
    "SamplerConformance",
    "TableConformance",
    "check_noise_law",
    "check_plan",
    "check_precision",
    "integration_weights",
    "measured_order",
    "past_nodes",
    "x0_history",
]
