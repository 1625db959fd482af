"""Keyed noise: published answers, golden values, independence of how it is asked for, and that it is normal."""

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle
from ddimkit import DDIMSampler, DDPMSampler, NoiseSchedule, noise
from ddimkit._compilers import has_compiler
from ddimkit.noise import (
    NOISE_SCHEME,
    NORMAL_SCHEME,
    STREAM_EDIT,
    STREAM_SAMPLER,
    STREAM_SEEDS,
    STREAM_X_T,
    batch_seeds,
    compile_noise,
    fresh_seed,
    keyed_normal,
    philox4x32,
    sample_seeds,
)
from strategies import SEEDS

WORDS = st.integers(0, 2**32 - 1)
STREAMS = (STREAM_X_T, STREAM_SAMPLER, STREAM_EDIT)
# The smallest and largest keys, one word at a time, and numbers with a sign bit in either word.
EDGE_SEEDS = (0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**62, 2**63 - 1)


def normals(seeds: Sequence[int], draws: Sequence[int], shape: Sequence[int], stream: int = STREAM_SAMPLER) -> Tensor:
    return keyed_normal(torch.tensor(seeds, dtype=torch.int64), torch.tensor(draws, dtype=torch.int64), shape, stream=stream)


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, ...]:
    counters, keys = ([torch.tensor(word, dtype=torch.int64) for word in words] for words in (counter, key))
    return tuple(int(word) for word in philox4x32(counters, keys))


@pytest.mark.promise(24)
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_answers(counter: str, key: str, words: str) -> None:
    # Random123's own test vectors for philox4x32 with ten rounds.
    found = philox([int(word, 16) for word in counter.split()], [int(word, 16) for word in key.split()])
    assert " ".join(f"{word:08x}" for word in found) == words


@settings(max_examples=150)
@given(counter=st.tuples(WORDS, WORDS, WORDS, WORDS), key=st.tuples(WORDS, WORDS))
def test_philox_equals_plain_integers(counter: tuple[int, int, int, int], key: tuple[int, int]) -> None:
    assert philox(counter, key) == oracle.philox4x32_10(counter, key)


def test_philox_broadcasts() -> None:
    block, draw = torch.arange(5)[None, :], torch.arange(3)[:, None]
    zero = torch.zeros((), dtype=torch.int64)
    words = torch.stack(philox4x32((block, draw, zero, zero), (zero + 7, zero + 9)))
    for i, j in itertools.product(range(3), range(5)):
        assert tuple(words[:, i, j].tolist()) == oracle.philox4x32_10((j, i, 0, 0), (7, 9))


def assert_equal_to_the_oracle(seed: int, draw: int, stream: int, count: int) -> None:
    found = normals([seed], [draw], (count,), stream)[0, 0].numpy().astype(np.float64)
    expected = oracle.keyed_normals(seed, draw, stream, count + count % 2)
    radius = np.repeat(np.hypot(expected[0::2], expected[1::2]), 2)[:count]
    # float32 knows u to 6e-8: near u = 1, where the radius is small, that is an error of 6e-8 / radius.
    assert np.all(np.abs(found - expected[:count]) <= 3e-6 + 2e-7 / radius)


@pytest.mark.promise(24)
@settings(max_examples=80)
@given(seed=SEEDS, draw=WORDS, stream=st.sampled_from(STREAMS), count=st.integers(1, 40))
def test_keyed_normal_equals_the_scheme_in_float64(seed: int, draw: int, stream: int, count: int) -> None:
    assert_equal_to_the_oracle(seed, draw, stream, count)


@pytest.mark.promise(24)
@pytest.mark.parametrize("seed", EDGE_SEEDS)
@pytest.mark.parametrize("draw", [0, 1, 999, 2**32 - 1])
def test_keyed_normal_of_the_edges_equals_the_scheme_in_float64(seed: int, draw: int) -> None:
    for stream in STREAMS:
        assert_equal_to_the_oracle(seed, draw, stream, 37)


GOLDEN: list[tuple[int, int, int, list[float]]] = [
    # seed, draw, stream, the first five numbers
    (0, 0, 0, [0.99113768, -0.92466259, -0.61760896, -0.48206859, -0.15363823]),
    (7, 0, 0, [0.00029157, -0.30484699, 1.78875735, 1.06787247, 0.37640351]),
    (7, 3, 1, [0.09644767, 0.74204677, -1.23361448, 0.57237153, 0.86634429]),
    (1099511627781, 999, 1, [-1.03763288, -0.70253282, 0.91826739, 0.01191291, -0.35502834]),
    (9223372036854775807, 1, 2, [0.33332046, 0.69126495, -1.18070763, 0.96025402, -0.20496673]),
]


GOLDEN_SEEDS = {
    0: (5155803828513373961, 2848535647740785338, 4446144766088035887),
    7: (6404820333342818265, 1735520930437989727, 616326983136952489),
    2**63 - 1: (3762775511261647503, 4151141057086324306, 4992087398896848190),
}


@pytest.mark.promise(24)
def test_the_schemes_name() -> None:
    # A change of any number below is a new scheme, and wants a new name.
    assert NORMAL_SCHEME == "philox4x32-10 box-muller-f32 v1"
    assert NOISE_SCHEME == "philox4x32-10 box-muller-f32 v1, batch seeds v2"
    assert (*STREAMS, STREAM_SEEDS) == (0, 1, 2, 4)


@pytest.mark.promise(24)
@pytest.mark.parametrize(("seed", "draw", "stream", "numbers"), GOLDEN)
def test_golden_numbers(seed: int, draw: int, stream: int, numbers: list[float]) -> None:
    np.testing.assert_allclose(normals([seed], [draw], (5,), stream)[0, 0].numpy(), numbers, rtol=0, atol=1e-6)


@pytest.mark.promise(24)
@given(
    seeds=st.lists(SEEDS, max_size=5),
    draws=st.lists(st.integers(0, 2**32 - 1), max_size=4),
    shape=st.lists(st.integers(0, 7), max_size=4),
    stream=st.sampled_from(STREAMS),
)
def test_each_entry_is_that_of_its_own_seed_and_draw(seeds: list[int], draws: list[int], shape: list[int], stream: int) -> None:
    together = normals(seeds, draws, shape, stream)
    assert together.shape == (len(draws), len(seeds), *shape)
    assert together.dtype == torch.float32
    for (d, draw), (b, seed) in itertools.product(enumerate(draws), enumerate(seeds)):
        assert torch.equal(together[d, b], normals([seed], [draw], shape, stream)[0, 0])


@pytest.mark.promise(24)
@settings(max_examples=15)
@given(seed=SEEDS, count=st.integers(1, 3000), fewer=st.integers(1, 3000))
def test_each_element_depends_on_its_own_position_alone(seed: int, count: int, fewer: int) -> None:
    # Lengths of every remainder: a kernel's vector part and its tail must agree to the bit.
    one, other = normals([seed], [3], (count,))[0, 0], normals([seed], [3], (fewer,))[0, 0]
    shared = min(count, fewer)
    assert torch.equal(one[:shared], other[:shared])


@pytest.mark.promise(24)
@given(seeds=st.lists(SEEDS, min_size=2, max_size=6), data=st.data())
def test_order_and_split_do_not_matter(seeds: list[int], data: st.DataObject) -> None:
    whole = normals(seeds, [0, 1], (3, 5))
    order = data.draw(st.permutations(range(len(seeds))))
    cut = data.draw(st.integers(0, len(seeds)))
    assert torch.equal(normals([seeds[i] for i in order], [0, 1], (3, 5)), whole[:, list(order)])
    assert torch.equal(torch.cat([normals(part, [0, 1], (3, 5)) for part in (seeds[:cut], seeds[cut:])], dim=1), whole)
    assert torch.equal(normals(seeds, [1, 0], (3, 5)), whole[[1, 0]])


def elementwise(x: Tensor, t: Tensor) -> Tensor:
    """A model of each element alone, in operations that round the same in every batch."""
    return x * 0.75 + t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1)) * 2.0**-12


SAMPLERS: list[Callable[[NoiseSchedule], DDIMSampler | DDPMSampler]] = [
    lambda schedule: DDIMSampler(schedule, 6),
    lambda schedule: DDIMSampler(schedule, 6, eta=0.5),
    lambda schedule: DDPMSampler(schedule, 6, variance="fixed_large"),
]


@pytest.mark.promise(24)
@pytest.mark.parametrize("make", SAMPLERS, ids=["ddim", "ddim eta 0.5", "ddpm fixed_large"])
@settings(max_examples=8)
@given(first=st.integers(0, 2**62), batch=st.integers(1, 6), cut=st.integers(0, 6), shape=st.lists(st.integers(1, 6), max_size=3))
def test_samples_are_independent_of_the_batch(
    make: Callable[[NoiseSchedule], DDIMSampler], first: int, batch: int, cut: int, shape: list[int]
) -> None:
    sampler, cut = make(NoiseSchedule.linear(1000)), min(cut, batch)
    whole, seeds = sampler.sample(elementwise, (batch, *shape), seed=first), sampler.seeds(first, batch)
    for i in range(batch):
        assert torch.equal(sampler.sample(elementwise, (1, *shape), seed=seeds[i : i + 1])[0], whole[i])
    parts = [sampler.sample(elementwise, (len(part), *shape), seed=part) for part in (seeds[:cut], seeds[cut:])]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(sampler.sample(elementwise, (batch, *shape), seed=seeds[::-1]), whole.flip(0))
    assert torch.equal(sampler.sample(elementwise, (cut, *shape), seed=first), whole[:cut])


@pytest.mark.cuda
@pytest.mark.promise(25)
def test_another_device_makes_the_same_noise() -> None:
    seeds, draws = torch.tensor([*range(20), *EDGE_SEEDS]), torch.tensor([0, 1, 2**32 - 1])
    for stream in STREAMS:
        here, there = (keyed_normal(seeds.to(d), draws.to(d), (3, 11), stream=stream).cpu() for d in ("cpu", "cuda"))
        torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)
    sampler = DDIMSampler(NoiseSchedule.linear(1000), 5)
    x_T = [next(sampler.iterate(lambda x, t: x, (4, 3, 5), seed=7, device=d)).x.cpu() for d in ("cpu", "cuda")]
    torch.testing.assert_close(*x_T, rtol=1e-4, atol=1e-5)


@pytest.mark.promise(24)
def test_blocks_of_rows_hold_the_same_noise() -> None:
    # Large enough that the loop makes the noise of its rows in several blocks, small enough alone for one.
    sampler = DDPMSampler(NoiseSchedule.linear(1000), 20)
    taken = [state.x for state in sampler.iterate(elementwise, (8, 2000), seed=5)]
    alone = [state.x for state in sampler.iterate(elementwise, (1, 2000), seed=sampler.seeds(5, 8)[3:4])]
    for many, one in zip(taken, alone, strict=True):
        assert torch.equal(many[3], one[0])


@pytest.mark.promise(24)
def test_the_loop_reads_the_streams_and_draws_it_says() -> None:
    sampler, seed = DDPMSampler(NoiseSchedule.linear(100), 4), 2**40 + 3
    asked: list[int] = []

    def noise_fn(draw: int, like: Tensor) -> Tensor:
        asked.append(draw)
        stream = STREAM_X_T if draw < 0 else STREAM_SAMPLER
        return normals(sampler.seeds(seed, 2), [max(draw, 0)], like.shape[1:], stream)[0]

    with pytest.warns(UserWarning, match="starts from pure noise at t=99"):
        keyed = sampler.sample(elementwise, (2, 9), seed=seed)
    with pytest.warns(UserWarning, match="starts from pure noise at t=99"):
        handed = sampler.sample(elementwise, (2, 9), noise_fn=noise_fn)
    assert torch.equal(keyed, handed)
    assert asked == [-1, 0, 1, 2]


COUNT = 40_000
LARGE = {
    "seeds": lambda: normals(range(8), [0], (COUNT,))[0],
    "distant seeds": lambda: normals([2**i for i in range(20, 60, 5)], [0], (COUNT,))[0],
    "draws": lambda: normals([1], range(8), (COUNT,))[:, 0],
    "streams": lambda: torch.cat([normals([1], [0], (COUNT,), stream)[0] for stream in STREAMS]),
    "elements": lambda: normals([3], [0], (8 * COUNT,))[0, 0].reshape(COUNT, 8).T,
}


@pytest.mark.parametrize("name", LARGE)
def test_moments_and_correlations(name: str) -> None:
    rows = LARGE[name]().to(torch.float64).numpy()
    sigma = 1 / math.sqrt(COUNT)
    assert np.all(np.abs(rows.mean(axis=1)) < 4.5 * sigma)
    assert np.all(np.abs(rows.var(axis=1) - 1) < 4.5 * math.sqrt(2) * sigma)
    assert np.all(np.abs((rows**3).mean(axis=1)) < 4.5 * math.sqrt(15) * sigma)
    assert np.all(np.abs((rows**4).mean(axis=1) - 3) < 4.5 * math.sqrt(96) * sigma)
    # Of the squares too: Box and Muller's pairs share a radius.
    squares, apart = (rows**2 - 1) / math.sqrt(2), ~np.eye(len(rows), dtype=bool)
    for values in (rows, squares):
        assert np.all(np.abs(values @ values.T / COUNT)[apart] < 5 * sigma)
        assert np.all(np.abs(values @ np.roll(values, 1, axis=1).T / COUNT) < 5 * sigma)
    assert np.all(np.abs(rows @ squares.T / COUNT) < 5 * math.sqrt(5) * sigma)


@pytest.mark.parametrize("name", LARGE)
def test_distribution_is_normal(name: str) -> None:
    values = np.sort(LARGE[name]().to(torch.float64).numpy().reshape(-1))
    cdf = torch.special.ndtr(torch.from_numpy(values)).numpy()
    size = len(values)
    gap = max(np.max(np.arange(1, size + 1) / size - cdf), np.max(cdf - np.arange(size) / size))
    assert gap * math.sqrt(size) < 1.95  # Kolmogorov: exceeded once in a thousand
    assert np.all(np.isfinite(values))
    assert abs(values).max() < 6.8  # sqrt(-2 log(2**-33)) is the scheme's largest


def test_distinct_keys_give_distinct_noise() -> None:
    keys = list(itertools.product([0, 1, 2**32, 2**63 - 1], [0, 1, 2**31], STREAMS))
    found = {tuple(normals([seed], [draw], (4,), stream).flatten().tolist()) for seed, draw, stream in keys}
    assert len(found) == len(keys)


@pytest.mark.promise(47)
@given(seed=SEEDS, batch=st.integers(0, 40))
def test_an_int_stands_for_a_batch(seed: int, batch: int) -> None:
    expected = []
    for i in range(batch):
        low, high, _, _ = oracle.philox4x32_10((i, 0, 4, 0), (seed & 0xFFFFFFFF, seed >> 32))
        expected.append(low + 2**32 * (high >> 1))
    assert sample_seeds(seed, batch) == batch_seeds(seed, batch) == tuple(expected)
    assert all(type(one) is int and 0 <= one < 2**63 for one in batch_seeds(seed, batch))
    for same in (np.int64(seed), np.uint64(seed), torch.tensor(seed), np.array(seed)):
        assert sample_seeds(same, batch) == tuple(expected)


@pytest.mark.promise(47)
def test_golden_seeds_of_a_batch() -> None:
    # A change of any number here is a new rule, and needs a new name.
    assert batch_seeds(0, 3) == GOLDEN_SEEDS[0]
    assert batch_seeds(7, 3) == GOLDEN_SEEDS[7]
    assert batch_seeds(2**63 - 1, 3) == GOLDEN_SEEDS[2**63 - 1]


@pytest.mark.promise(47)
def test_batches_of_different_ints_share_no_sample() -> None:
    ints = [*range(300), *EDGE_SEEDS[2:]]
    seeds = [seed for first in ints for seed in batch_seeds(first, 500)]
    assert len(set(seeds)) == len(seeds) == 500 * len(ints)
    assert not set(seeds) & set(ints)  # so seed=7 with one sample is not seed=[7]
    sampler = DDIMSampler(NoiseSchedule.linear(1000), 2)
    images = torch.cat([sampler.sample(elementwise, (4, 3), seed=seed) for seed in (0, 1, [0, 1, 2, 3])])
    assert len({tuple(image.tolist()) for image in images}) == 12


@pytest.mark.promise(47)
@given(seeds=st.lists(SEEDS, max_size=8))
def test_a_sequence_is_taken_as_it_is(seeds: list[int]) -> None:
    as_tensor = torch.tensor(seeds, dtype=torch.int64)
    for given_as in (seeds, tuple(seeds), [np.int64(seed) for seed in seeds], as_tensor, as_tensor.numpy(), list(as_tensor)):
        found = sample_seeds(given_as, len(seeds))
        assert found == tuple(seeds)
        assert all(type(seed) is int for seed in found)
    record = DDIMSampler(NoiseSchedule.linear(1000), 2).record(seed=as_tensor)
    assert json.loads(json.dumps(record))["call"]["seeds"] == seeds


@pytest.mark.promise(47)
def test_a_sampler_lists_its_seeds() -> None:
    sampler = DDIMSampler(NoiseSchedule.linear(1000), 2)
    *_, last = sampler.iterate(elementwise, (5, 3), seed=7)
    assert sampler.seeds(7, 5) == last.seeds == tuple(sampler.record((5, 3), seed=7)["call"]["seeds"]) == batch_seeds(7, 5)
    assert sampler.seeds(7, 3) == sampler.seeds(7, 5)[:3]
    assert sampler.seeds([3, 1], 2) == (3, 1)
    assert sampler.record((5, 3), seed=7)["noise"] == NOISE_SCHEME


@pytest.mark.parametrize(
    ("seed", "batch", "error", "match"),
    [
        (-1, 1, ValueError, r"\[0, 2\^63\), got -1"),
        (2**63, 1, ValueError, rf"\[0, 2\^63\), got {2**63}"),
        (-1, 0, ValueError, "got -1"),
        ([0, -5], 2, ValueError, "got -5"),
        ([0, 2**63], 2, ValueError, f"got {2**63}"),
        ([0, 1], 3, ValueError, "2 seeds for a batch of 3"),
        ([], 1, ValueError, "0 seeds for a batch of 1"),
        (True, 1, ValueError, "got True"),
        (torch.tensor([7]), 2, ValueError, "1 seeds for a batch of 2"),
        (torch.tensor([[7]]), 1, ValueError, r"one-dimensional with one int per sample, got shape \(1, 1\)"),
        (torch.tensor([7.0]), 1, TypeError, "got 7.0"),
        (torch.tensor(True), 1, ValueError, "got True"),
        (1.0, 1, TypeError, "got 1.0"),
        (float("nan"), 1, TypeError, "got nan"),
        ("7", 1, TypeError, "got '7'"),
        ([0, 1.5], 2, TypeError, "got 1.5"),
        ([0, None], 2, TypeError, "got None"),
    ],
)
def test_invalid_seeds_raise(seed: Any, batch: int, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sample_seeds(seed, batch)
    sampler = DDIMSampler(NoiseSchedule.linear(1000), 2)
    with pytest.raises(error, match=match):
        sampler.sample(elementwise, (batch, 3), seed=seed)


def test_the_largest_seeds_work() -> None:
    assert sample_seeds([2**63 - 1], 1) == (2**63 - 1,)
    sampler = DDIMSampler(NoiseSchedule.linear(1000), 2, eta=1.0)
    for seed in (2**63 - 1, [2**63 - 3, 2**63 - 2, 2**63 - 1]):
        assert torch.isfinite(sampler.sample(elementwise, (3, 3), seed=seed)).all()


def test_fresh_seeds_are_in_range_and_differ() -> None:
    seeds = [fresh_seed() for _ in range(200)]
    assert len(set(seeds)) == 200
    assert all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**55  # all of the range is used: this fails once in 2**1400
    assert sample_seeds(max(seeds), 1000)


@pytest.mark.promise(26)
def test_the_callers_random_state_is_untouched() -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state(legacy=False))  # noqa: NPY002
    fresh_seed()
    normals([1, 2], [0], (10,))
    sampler = DDPMSampler(NoiseSchedule.linear(1000), 5)
    sampler.sample(elementwise, (2, 3), seed=0)
    sampler.sample(elementwise, (2, 3))
    sampler.sample(elementwise, (2, 3), generator=torch.Generator().manual_seed(0))
    for _ in sampler.iterate(elementwise, (2, 3), seed=[5, 3]):
        pass
    after = torch.get_rng_state(), random.getstate(), str(np.random.get_state(legacy=False))  # noqa: NPY002
    assert torch.equal(after[0], before[0])
    assert after[1:] == before[1:]


@pytest.mark.promise(26)
def test_the_callers_random_state_does_not_matter() -> None:
    sampler, results = DDPMSampler(NoiseSchedule.linear(1000), 5), []
    for state in (0, 1):
        torch.manual_seed(state)
        results.append(sampler.sample(elementwise, (2, 3), seed=7))
    assert torch.equal(*results)


@pytest.fixture
def plain_noise_after() -> Iterator[None]:
    yield
    compile_noise(False)


@pytest.mark.usefixtures("plain_noise_after")
def test_compiled_noise_is_used_and_left_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def compile(function: Callable[..., object], *, dynamic: bool) -> Callable[..., object]:  # noqa: A001  # torch's name
        return lambda *arguments: calls.append(dynamic) or function(*arguments)

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(noise, "has_compiler", lambda device: False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, which is not here"):
        compile_noise()
    monkeypatch.setattr(noise, "has_compiler", lambda device: True)
    expected = normals([1, 2], [0, 5], (3, 4))
    compile_noise()
    assert torch.equal(normals([1, 2], [0, 5], (3, 4)), expected)
    assert calls == [True]
    compile_noise(False)
    normals([1, 2], [0, 5], (3, 4))
    assert calls == [True]


@pytest.mark.slow
@pytest.mark.promise(24)
@pytest.mark.usefixtures("plain_noise_after")
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_noise_has_the_same_bits() -> None:
    sizes = [([1, 2**62], [0, 5, 2**31], (3, 5)), ([7] * 5, [1, 2], (1, 28, 28)), ([3], [4], (2,)), ([9, 8, 7], [6], (11,))]
    expected = [normals(*size) for size in sizes]
    compile_noise()
    assert all(torch.equal(normals(*size), one) for size, one in zip(sizes, expected, strict=True))
