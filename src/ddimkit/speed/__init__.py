"""Faster forward passes and sampling loops: :func:`~ddimkit.speed.acceleration.accelerate` and CUDA graphs."""
