"""Do torchmetrics' Fréchet distance and ours agree, and how do both bear features far from 0? Needs torchmetrics.

    python benchmarks/frechet_side_by_side.py

Both are given the same features in float32, with so few binary digits that moving all of them by a constant is exact. The true
figure does not change by that, so what changes is error.
"""

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from ddimkit.quality import FeatureStatistics

WIDTH = 64


class Features(nn.Module):
    """Features that are given as images."""

    num_features = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anything", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """X (N, 1, 1, d) to (N, d)."""
        return x.flatten(1).to(torch.float32)


def theirs(a: Tensor, b: Tensor) -> float:
    """Torchmetrics' figure, in float64."""
    metric = FrechetInceptionDistance(feature=Features(), normalize=True, input_img_size=(1, 1, WIDTH))
    metric.set_dtype(torch.float64)
    metric.update(a.view(-1, 1, 1, WIDTH), real=True)
    metric.update(b.view(-1, 1, 1, WIDTH), real=False)
    return float(metric.compute())


def ours(a: Tensor, b: Tensor) -> float:
    """Our figure."""
    return FeatureStatistics.of(a.numpy()).frechet(FeatureStatistics.of(b.numpy()))


def main() -> None:
    """Print a line a case."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(500, WIDTH, generator=generator).mul(64).round().div(64) for _ in range(2))
    b = (b * 1.25 + 0.25).mul(64).round().div(64)
    exact = ours(a, b)
    print(f"{'features moved by':>18} {'torchmetrics':>16} {'ours':>16} {'their error':>12} {'our error':>12}")
    for offset in (0.0, 16.0, 256.0, 4096.0, 65536.0):  # with six binary digits behind the point, exact in float32
        peer, own = theirs(a + offset, b + offset), ours(a + offset, b + offset)
        print(f"{offset:18g} {peer:16.10f} {own:16.10f} {abs(peer - exact):12.1e} {abs(own - exact):12.1e}")


if __name__ == "__main__":
    main()
