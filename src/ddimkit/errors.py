"""The library's one exception base, for what is neither a ``ValueError`` nor a ``TypeError``."""

__all__ = ["DDIMKitError", "GraphError", "NonFiniteError", "WeightsError"]


class DDIMKitError(Exception):
    """Base of every error of ddimkit that is neither a ``ValueError`` nor a ``TypeError``."""


class NonFiniteError(DDIMKitError):
    """A sampling run produced NaN or infinity; the message names the step where it began, if known."""


class GraphError(DDIMKitError):
    """A model does something that a CUDA graph cannot hold."""


class WeightsError(DDIMKitError):
    """A file of weights, or another file of tensors, is missing, damaged, of an unknown schema, or not what its hash says."""
