r"""Noise keyed by (seed, draw, stream): the same numbers for any batch size, order, split or device.

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, *Parallel Random Numbers: As Easy as 1, 2, 3*, 2011) is a function of a 128-bit
counter and a 64-bit key. The key is a sample's seed; the counter is (block of four elements, draw, stream, 0). Its four 32-bit
words k become four normals by Box and Muller's transform in float32, two words for two:

.. math:: u = (k + \tfrac12) 2^{-32}, \qquad z = \sqrt{-2\ln u_0}\,(\cos 2\pi u_1, \sin 2\pi u_1).

The integers are equal on every device; the floats agree to rounding. The scheme is named by :data:`NORMAL_SCHEME` and pinned by
golden values: it never changes under one name.

One int stands for the seeds of a whole batch: sample i gets :math:`k_0 + 2^{32} \lfloor k_1 / 2 \rfloor` of the words of counter
(i, 0, 4, 0), with the int as the key. :data:`NOISE_SCHEME` names this rule too.
"""

import math
import operator
import secrets
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddimkit._compilers import COMPILER, has_compiler

__all__ = [
    "NOISE_SCHEME",
    "NORMAL_SCHEME",
    "STREAM_BROWNIAN",
    "STREAM_EDIT",
    "STREAM_SAMPLER",
    "STREAM_SEEDS",
    "STREAM_X_T",
    "SeedLike",
    "batch_seeds",
    "compile_noise",
    "fresh_seed",
    "keyed_normal",
    "philox4x32",
]

NORMAL_SCHEME = "philox4x32-10 box-muller-f32 v1"
"""Name and version of the noise that a sample's own seed gives."""

NOISE_SCHEME = f"{NORMAL_SCHEME}, batch seeds v2"
"""Name and version of the noise and of the rule by which one int becomes the seeds of a batch, as saved in records.

Version 1 of that rule, which no release had, gave sample i the seed ``seed + i``.
"""

SeedLike = SupportsIndex | Sequence[SupportsIndex] | Tensor | NDArray[np.integer[Any]]
"""One integer for a whole batch; or a list, tuple, range or one-dimensional integer tensor or array of one seed a sample."""

STREAM_X_T = 0
"""The stream of a run's first x."""
STREAM_SAMPLER = 1
"""The stream of a sampler's own noise; the draw is the row's number."""
STREAM_EDIT = 2
"""The stream of editing functions."""
STREAM_BROWNIAN = 5
"""The stream of Brownian paths; the draw is the place of a point of the path."""
STREAM_SEEDS = 4
"""The stream of the seeds of a batch."""

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def philox4x32(counter: Sequence[Tensor], key: Sequence[Tensor], rounds: int = 10) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32: four words of counter and two of key, int64 tensors in [0, 2^32) that broadcast, to four such words.

    A product of two 32-bit words wraps around in int64 without losing a bit; its high word is the shift by 32, masked. Words that
    only enter an exclusive or are masked after it, once.

    Args:
        counter: four tensors.
        key: two tensors.
        rounds: number of rounds; 10 is the published generator.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for i in range(rounds):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        # From the third round on every word has the full shape, and the old c0 and c2 are ours to write to.
        c0, c2 = _mix(p1, c1, k0, c0 if i > 2 else None), _mix(p0, c3, k1, c2 if i > 2 else None)
        c1, c3 = p1, p0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1 & _MASK, c2, c3 & _MASK


def _mix(product: Tensor, word: Tensor, key: Tensor, out: Tensor | None) -> Tensor:
    """The high word of a product, exclusive or a word and a key."""
    if out is None or out.shape != product.shape:
        return ((product >> 32) ^ word ^ key) & _MASK
    return torch.bitwise_right_shift(product, 32, out=out).bitwise_xor_(word).bitwise_xor_(key).bitwise_and_(_MASK)


_words = philox4x32


def compile_noise(compiled: bool = True) -> None:
    """Let compiled code make the integers of all noise from now on, or no longer: the same noise, bit for bit, in less time.

    Compiling needs a compiler and takes some seconds at the first noise, and again at the first of a single sample or row. It pays
    where noise is a good part of the time: small models, many samples. Of shapes that differ again and again only the first few are
    compiled for.

    Args:
        compiled: whether.

    Raises:
        ValueError: there is no compiler for this machine's processor.
    """
    if compiled and not has_compiler(torch.device("cpu")):
        raise ValueError(f"compiled noise needs {COMPILER['cpu']}, which is not here")
    global _words  # not a setting of results: both give the same bits
    _words = torch.compile(philox4x32, dynamic=True) if compiled else philox4x32


def keyed_normal(seeds: Tensor, draws: Tensor, sample_shape: Sequence[int], *, stream: int) -> Tensor:
    r"""Standard normal noise of some samples and draws: float32 of shape (D, B, \*).

    Element e of entry [d, b] is a function of ``seeds[b]``, ``draws[d]``, ``stream`` and e alone.

    Args:
        seeds: (B,) int64, each in [0, 2^63).
        draws: (D,) int64, each in [0, 2^32); a sampler's row numbers. On the device of ``seeds``, where the noise is made.
        sample_shape: shape of one sample.
        stream: one of the ``STREAM_`` numbers.
    """
    count, device = math.prod(sample_shape), seeds.device
    seed, draw = seeds[None, :, None], draws[:, None, None]
    block = torch.arange(-(-count // 4), dtype=torch.int64, device=device)
    zero = torch.zeros((), dtype=torch.int64, device=device)
    with torch.no_grad():  # in either mode the same: code is compiled for each
        words = _words((block, draw, zero + stream, zero), (seed & _MASK, seed >> 32))
    # The type is named: the caller's default must not change the noise.
    uniforms = torch.empty(4, len(draws), len(seeds), len(block), dtype=torch.float32, device=device)
    for uniform, word in zip(uniforms, words, strict=True):
        uniform.copy_(word)
    uniforms.add_(0.5).mul_(2.0**-32)
    radius, angle = uniforms[0::2].log().mul_(-2).sqrt_(), uniforms[1::2].mul(2 * math.pi)
    normals = torch.empty(len(draws), len(seeds), len(block), 2, 2, dtype=torch.float32, device=device)
    pairs = normals.movedim((3, 4), (0, 1))
    torch.mul(radius, angle.cos(), out=pairs[:, 0])
    torch.mul(radius, angle.sin_(), out=pairs[:, 1])
    return normals.flatten(2)[..., :count].contiguous().reshape(len(draws), len(seeds), *sample_shape)


def fresh_seed() -> int:
    """A seed from the operating system's own source of randomness."""
    return secrets.randbits(63)


def batch_seeds(seed: int, count: int) -> tuple[int, ...]:
    """The seeds that one int gives the first ``count`` samples of a batch; more samples leave the first ones as they are.

    Batches of two different ints share a seed with probability at most ``count² / 2⁶³``.

    Args:
        seed: in [0, 2^63).
        count: in [0, 2^32].
    """
    sample, zero = torch.arange(count, dtype=torch.int64, device="cpu"), torch.zeros((), dtype=torch.int64, device="cpu")
    low, high, _, _ = philox4x32((sample, zero, zero + STREAM_SEEDS, zero), (zero + (seed & _MASK), zero + (seed >> 32)))
    seeds: list[int] = (low + ((high >> 1) << 32)).tolist()
    return tuple(seeds)


def sample_seeds(seed: SeedLike, batch: int) -> tuple[int, ...]:
    """One seed a sample: :func:`batch_seeds` of an int, or the sequence itself.

    Raises:
        TypeError: an entry is no integer.
        ValueError: an entry is outside [0, 2^63), their number is not the batch's, or a tensor or array of two or more dimensions.
    """
    given = seed_list(seed)
    if isinstance(given, int):
        return batch_seeds(given, batch)
    if len(given) != batch:
        raise ValueError(f"seed holds {len(given)} seeds for a batch of {batch}: give one int, or one a sample")
    return tuple(given)


def seed_list(seed: SeedLike) -> int | list[int]:
    """The seed as one int, or as a list where it was given as one seed a sample."""
    if isinstance(seed, Tensor | np.ndarray):
        if seed.ndim > 1:
            raise ValueError(f"seed must be one int, or one-dimensional with one int per sample, got shape {tuple(seed.shape)}")
        return [_seed(s) for s in seed.tolist()] if seed.ndim else _seed(seed.item())
    return [_seed(s) for s in seed] if isinstance(seed, Sequence) and not isinstance(seed, str) else _seed(seed)


def _seed(value: object) -> int:
    if isinstance(value, bool | np.bool_):  # older NumPys take theirs as an index
        raise ValueError(f"a seed must be an int in [0, 2^63), got {value!r}")
    try:
        seed = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"seed must be an int, or one int per sample, got {value!r}") from None
    if not 0 <= seed < 2**63:
        raise ValueError(f"a seed must be an int in [0, 2^63), got {value!r}")
    return seed
