"""The sampling loop as one CUDA graph: :func:`~ddimkit.speed.graphs.capture`."""

from ddimkit.speed.graphs import Captured, Structure, capture

__all__ = ["Captured", "Structure", "capture"]
