"""The strategies of the tests, which are the kit's."""

from ddimkit.testing.strategies import BUILT_IN, SEEDS, SPACINGS, alpha_bar_lists, built_in_schedules, schedules, timesteps, walks

__all__ = ["BUILT_IN", "SEEDS", "SPACINGS", "alpha_bar_lists", "built_in_schedules", "schedules", "timesteps", "walks"]
