"""Better lists of timesteps for one model and number of steps, found by search."""

from ddimkit.learning.objectives import GaussianObjective, NetworkObjective, Objective, QualityObjective
from ddimkit.learning.search import OptimizedTimesteps, optimize_timesteps

__all__ = ["GaussianObjective", "NetworkObjective", "Objective", "OptimizedTimesteps", "QualityObjective", "optimize_timesteps"]
