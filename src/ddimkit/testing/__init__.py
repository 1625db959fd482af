"""The conformance kit: what authors of samplers run on their own, with pytest."""

from ddimkit.testing.conformance import NoFloat64, ProbeModel, SamplerConformance, check_plan

__all__ = ["NoFloat64", "ProbeModel", "SamplerConformance", "check_plan"]
