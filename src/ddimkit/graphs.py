"""The sampling loop as one CUDA graph; written in :mod:`ddimkit.speed.graphs`."""

from ddimkit.speed.graphs import Captured, Structure, capture

__all__ = ["Captured", "Structure", "capture"]
