"""Better timesteps and better tables for one model and number of calls: found by search, or learned by gradients."""

from ddimkit.learning.kernel import KernelObjective
from ddimkit.learning.learn import learn_plan
from ddimkit.learning.learned import LearnedSampler, Origin
from ddimkit.learning.objectives import GaussianObjective, NetworkObjective, Objective, QualityObjective
from ddimkit.learning.search import OptimizedTimesteps, optimize_timesteps
from ddimkit.learning.shipped import evaluate_table, load_extractor, load_learned
from ddimkit.learning.teacher import LearningObjective, SumObjective, TeacherObjective

__all__ = [
    "GaussianObjective",
    "KernelObjective",
    "LearnedSampler",
    "LearningObjective",
    "NetworkObjective",
    "Objective",
    "OptimizedTimesteps",
    "Origin",
    "QualityObjective",
    "SumObjective",
    "TeacherObjective",
    "evaluate_table",
    "learn_plan",
    "load_extractor",
    "load_learned",
    "optimize_timesteps",
]
