"""Random changes of images that keep their class, for the training of feature networks."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ddimkit._features.recipe import FeatureRecipe

__all__ = ["augment", "cover"]


def augment(images: Tensor, recipe: FeatureRecipe, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) in [−1, 1], each turned, scaled, moved, mirrored and covered at random; from outside comes −1."""
    batch, _, _, width = images.shape

    def uniform(most: float) -> Tensor:
        return (torch.rand(batch, generator=generator, device=images.device) * 2 - 1) * most

    angle, size = uniform(math.radians(recipe.degrees)), 1 + uniform(recipe.scale)
    mirror = torch.where(uniform(1) < 0, -1.0, 1.0) if recipe.flip else torch.ones_like(size)
    sine, cosine = angle.sin() / size, angle.cos() / size
    across, down = uniform(recipe.shift), uniform(recipe.shift)
    if not recipe.degrees and not recipe.scale:
        across, down = across.round(), down.round()
    across, down = across * (2 / width), down * (2 / width)
    matrix = torch.stack((torch.stack((cosine * mirror, -sine, across), 1), torch.stack((sine * mirror, cosine, down), 1)), 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved: Tensor = F.grid_sample(images + 1, grid, align_corners=False) - 1
    return cover(moved, recipe.cutout, generator) if recipe.cutout else moved


def cover(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W), each with a square of ``side`` pixels at a random place inside set to 0.

    Source: DeVries and Taylor, *Improved Regularization of Convolutional Neural Networks with Cutout*, 2017.
    """
    inside = torch.ones((), dtype=torch.bool, device=images.device)
    for axis in (2, 3):
        length = images.shape[axis]
        first = torch.randint(length - side + 1, (len(images), 1), generator=generator, device=images.device)
        place = torch.arange(length, device=images.device)
        within = (place >= first) & (place < first + side)
        inside = inside & (within[:, None, :, None] if axis == 2 else within[:, None, None, :])
    return torch.where(inside, 0.0, images)
