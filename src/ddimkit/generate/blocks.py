"""The unit of work: a fixed block of consecutive seeds, drawn in one call of exactly that many samples."""

from dataclasses import dataclass

from ddimkit._numbers import integer

__all__ = ["Blocks"]

_MOST_SEEDS = 2**63
_MOST_IMAGES = 10**12


@dataclass(frozen=True)
class Blocks:
    """Seeds, cut into blocks of ``batch``; the last block may hold fewer.

    Args:
        seeds: consecutive seeds, one an image.
        batch: samples of a call.

    Raises:
        TypeError: seeds that are no range, or a batch that is no integer.
        ValueError: no seeds, a step other than 1, seeds outside [0, 2^63), more than 10^12 of them, or a batch below 1.
    """

    seeds: range
    batch: int

    def __post_init__(self) -> None:
        if not isinstance(self.seeds, range):
            raise TypeError(f"seeds must be a range of consecutive seeds, as in range(50_000), got {self.seeds!r}")
        if self.seeds.step != 1 or not self.seeds or self.seeds[0] < 0 or self.seeds[-1] >= _MOST_SEEDS:
            raise ValueError(f"seeds must be consecutive and in [0, 2^63), one at least, as in range(50_000), got {self.seeds!r}")
        if self.seeds.stop - self.seeds.start > _MOST_IMAGES:
            raise ValueError(f"a folder holds at most {_MOST_IMAGES} images, got seeds {self.seeds!r}: cut them into several")
        object.__setattr__(self, "batch", integer(self.batch, "batch"))
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")

    def __len__(self) -> int:
        return -(-len(self.seeds) // self.batch)

    def seeds_of(self, block: int) -> range:
        """The seeds of a block."""
        return self.seeds[block * self.batch : (block + 1) * self.batch]

    def padded(self, block: int) -> tuple[int, ...]:
        """Exactly ``batch`` seeds: those of a block, the last one repeated where the block holds fewer."""
        own = self.seeds_of(block)
        return (*own, *[own[-1]] * (self.batch - len(own)))

    def share(self, rank: int, world_size: int) -> range:
        """The blocks that a process takes first: an equal part of all, without gaps."""
        return range(rank * len(self) // world_size, (rank + 1) * len(self) // world_size)
