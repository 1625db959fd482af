r"""How far a change of a table's numbers moves its images: the metric in which a table is learned.

The numbers of a table compensate one another: some combinations of them change an image a thousand times as much as others do.
With the images :math:`x_i(\theta)` of n seeds, D values each, and their standard deviation :math:`\sigma` the metric is

.. math:: G_{pq} = \frac{1}{n D \sigma^2} \sum_i \frac{\partial x_i}{\partial \theta_p} \cdot
    \frac{\partial x_i}{\partial \theta_q}, \qquad G = V\,\mathrm{diag}(w)\,V^T, \qquad W = V\,\mathrm{diag}(w + \lambda)^{-1/2}.

A step of length r along a column of W changes the images by :math:`r \sqrt{w / (w + \lambda)}` standard deviations, root mean
square: by nearly r where :math:`w \gg \lambda`, and by less where w is small. Of a latent model the images are the latents that it
draws, not what is decoded from them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["whitening"]

_DELTA = 0.01
"""Change of a number by which its derivative is measured."""
_DAMPING = 1e-2
"""λ: combinations that move the images less than its root count as if they moved them so far."""


def whitening(draw: Callable[[Tensor], Tensor], zeros: Tensor) -> Tensor:
    """W (P, P) in float64 at corrections of 0.

    Args:
        draw: corrections (P,) to images (n, …) of fixed seeds; of a latent model to latents.
        zeros: (P,) float64.

    Raises:
        FloatingPointError: images that are not finite.
    """
    start = draw(zeros).double().flatten()
    moved = [draw(zeros + _DELTA * unit).double().flatten() - start for unit in torch.eye(len(zeros), dtype=torch.float64)]
    changes = torch.stack(moved) / _DELTA
    metric = changes @ changes.T / (len(start) * start.var())
    if not bool(torch.isfinite(metric).all()):
        raise FloatingPointError(
            "the template's images, or their change with its numbers, are not finite: look at the model's images"
        )
    values, vectors = torch.linalg.eigh(metric.cpu())
    found: Tensor = vectors / (values.clamp_min(0) + _DAMPING).sqrt()
    return found.contiguous()  # a file keeps no strides, on which rounding depends
