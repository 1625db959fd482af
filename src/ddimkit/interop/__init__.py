"""Models, weights and pipelines of other libraries."""

from ddimkit.interop.conventions import (
    from_score_model,
    from_sigma_model,
    from_time_model,
    from_velocity_model,
    one_hot_labels,
    precondition,
    sigma_schedule,
    unwrapped,
)

__all__ = [
    "from_score_model",
    "from_sigma_model",
    "from_time_model",
    "from_velocity_model",
    "one_hot_labels",
    "precondition",
    "sigma_schedule",
    "unwrapped",
]
