"""The captured step: the loop's bits, one capture a structure. Without CUDA the same steps run uncaptured."""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ddimkit import (
    DDIMSampler,
    DDPMSampler,
    DPMSolverPPSampler,
    DynamicThreshold,
    GraphError,
    NoiseSchedule,
    NonFiniteError,
    PlanSampler,
    UniPCSampler,
)
from ddimkit._arguments import Arguments
from ddimkit.graphs import Captured, Structure, capture
from ddimkit.loop import prepare
from probes import Counting, HostReads, column, normal, smooth, twice

SCHEDULE = NoiseSchedule.cosine(60)
SHAPE = (3, 2, 4, 4)


def ddim(**settings: Any) -> DDIMSampler:
    return DDIMSampler(SCHEDULE, **{"steps": 7, **settings})


class Scaled(nn.Module):
    """A model with a weight and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5]))
        self.register_buffer("offset", torch.tensor([0.25]))

    def forward(self, x: Tensor, t: Tensor, shift: Tensor | None = None, sign: int = 1) -> Tensor:
        return smooth(x, t) * self.weight * sign + self.offset + (0 if shift is None else shift)


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32)


def agrees(captured: Captured, sampler: PlanSampler, model: Any, **arguments: Any) -> bool:
    """The captured steps against the loop, bit for bit."""
    if "x_T" not in arguments:
        arguments = {"shape": SHAPE, **arguments}
    found = captured.using(sampler)(**arguments)
    return torch.equal(bits(found), bits(sampler.sample(model, **arguments)))


@pytest.mark.promise(21)
@given(
    steps=st.integers(2, 60),
    eta=st.sampled_from((0.3, 1.0)),
    spacing=st.sampled_from(("trailing", "leading", "quadratic")),
    seed=st.integers(0, 2**40),
)
@pytest.mark.filterwarnings("ignore:sampling starts from pure noise")
def test_one_capture_serves_every_number_of_steps_list_and_eta(steps: int, eta: float, spacing: Any, seed: int) -> None:
    assert agrees(SHARED, DDIMSampler(SCHEDULE, steps=steps, eta=eta, spacing=spacing), smooth, seed=seed)
    assert SHARED.captures == 1


SHARED = capture(ddim(eta=0.7), smooth, SHAPE)


@pytest.mark.promise(22)
@pytest.mark.parametrize("clip", [None, (-0.5, 0.5), DynamicThreshold()], ids=["free", "range", "threshold"])
@pytest.mark.parametrize(
    ("make", "settings", "model"),
    [
        (DDIMSampler, {"eta": 0.0}, smooth),
        (DDIMSampler, {"eta": 0.4}, smooth),
        (DDPMSampler, {"variance": "fixed_large"}, smooth),
        (DDPMSampler, {"variance": "learned_range"}, twice),
        (DPMSolverPPSampler, {"order": 3}, smooth),
        (DPMSolverPPSampler, {"order": 2, "eta": 1}, smooth),
        (UniPCSampler, {"order": 3}, smooth),
    ],
)
def test_the_loops_bits(make: Callable[..., PlanSampler], settings: dict[str, Any], model: Any, clip: Any) -> None:
    sampler = make(SCHEDULE, steps=9, clip=clip, **settings)
    captured = capture(sampler, model, SHAPE)
    assert agrees(captured, sampler, model, seed=1)
    assert agrees(captured, sampler, model, x_T=normal(*SHAPE, seed=5), start_at=4, seed=2)
    assert agrees(captured, sampler, model, seed=3)


@pytest.mark.parametrize(
    "sampler", [DPMSolverPPSampler(SCHEDULE, steps=1, order=3, prediction="x0"), ddim(eta=1.0, prediction="x0")], ids=["b", "c"]
)
def test_zeros_keep_their_sign(sampler: PlanSampler) -> None:
    """Missing history, and rows without noise, leave even a negative zero as it is."""

    def zero(x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, -0.0)

    arguments: dict[str, Any] = {"x_T": torch.full(SHAPE, -1e30), "noise_fn": lambda _, like: torch.full_like(like, 0.1)}
    expected = sampler.sample(zero, **arguments)
    assert torch.equal(bits(expected), bits(torch.full(SHAPE, -0.0)))
    assert torch.equal(bits(capture(sampler, zero, SHAPE)(**arguments)), bits(expected))


def test_every_source_of_noise() -> None:
    sampler = ddim(eta=1.0)
    captured = capture(sampler, smooth, SHAPE)

    def generated() -> dict[str, Any]:
        return {"generator": torch.Generator().manual_seed(4)}

    assert torch.equal(captured(**generated()), sampler.sample(smooth, SHAPE, **generated()))
    draws: list[int] = []

    def noise_fn(draw: int, like: Tensor) -> Tensor:
        draws.append(draw)
        return normal(*like.shape, seed=draw + 1)

    found = captured(noise_fn=noise_fn)
    assert draws == [-1, *range(6)]
    assert torch.equal(found, sampler.sample(smooth, SHAPE, noise_fn=noise_fn))
    assert not torch.equal(captured(), captured())


@pytest.mark.promise(24)
@given(st.integers(0, 5), st.integers(1, 6))
def test_a_batch_in_parts_is_the_whole_batch(count: int, size: int) -> None:
    sampler, shape = ddim(eta=0.7), (count, *SHAPE[1:])
    shift = normal(count, 1, 1, 1)
    captured = capture(sampler, Scaled().eval(), shape, model_kwargs={"shift": shift})
    expected = sampler.sample(captured.model, shape, seed=3, model_kwargs={"shift": shift})
    assert torch.equal(bits(captured(seed=3, batch_size=size)), bits(expected))
    sizes = {min(size, count), count % size or min(size, count)}
    assert captured.captures == len(sizes | {count})
    seen = list[int]()
    found = captured(seed=3, batch_size=size, callback=lambda state: seen.append(len(state.x)))
    assert torch.equal(bits(found), bits(expected))
    assert set(seen) == sizes
    with pytest.raises(ValueError, match="batch_size needs noise keyed by seeds"):
        captured(generator=torch.Generator(), batch_size=size)


@pytest.mark.promise(3)
def test_model_calls_and_times() -> None:
    model = Counting()
    captured = capture(ddim(), model, SHAPE)
    assert model.calls == 0
    captured(seed=0)
    assert [t.tolist() for t in model.times] == [[t] * 3 for t in ddim().timesteps]


@pytest.mark.promise(20)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_nothing_is_read_back_between_steps(eta: float) -> None:
    captured = capture(ddim(eta=eta), smooth, SHAPE)
    run = prepare(ddim(eta=eta).coefficients, smooth, Arguments(SHAPE, seed=0))
    recording = captured._recordings.of(run, smooth, {})
    recording.load(run, {})
    with torch.no_grad(), HostReads() as reads:
        for _ in recording.walk(run):
            pass
    assert reads.names == []


def test_weights_may_change_in_place_or_be_replaced() -> None:
    model = Scaled().eval()
    captured = capture(ddim(), model, SHAPE)
    with torch.no_grad():
        model.weight.mul_(0.5)
    assert agrees(captured, ddim(), model, seed=0)
    assert captured.captures == 1
    model.load_state_dict({"weight": torch.tensor([0.9]), "offset": torch.tensor([0.1])}, assign=True)
    assert agrees(captured, ddim(), model, seed=0)
    assert captured.captures == 2


def test_what_differs_in_structure_is_captured_anew_and_kept() -> None:
    captured = capture(ddim(), smooth, SHAPE)
    for _ in range(2):
        for sampler in (ddim(), ddim(eta=1.0), ddim(clip=(-1, 1)), UniPCSampler(SCHEDULE, steps=5)):
            assert agrees(captured, sampler, smooth, seed=0)
    assert captured.captures == 4
    assert captured((2, 2, 4, 4), seed=0).shape == (2, 2, 4, 4)
    assert captured(seed=0, dtype=torch.float64).dtype == torch.float64
    assert captured.captures == 6


def test_a_long_plan_has_room() -> None:
    sampler = DDIMSampler(NoiseSchedule.cosine(1500), steps=1500)
    assert torch.equal(capture(ddim(), smooth, (1, 2)).using(sampler)(seed=0), sampler.sample(smooth, (1, 2), seed=0))


def test_only_so_many_graphs_are_kept() -> None:
    captured = capture(ddim(), smooth, (1, 4), most=2)
    for batch in (1, 2, 1, 3, 1):
        captured((batch, 4), seed=0)
    assert captured.captures == 3
    assert [structure.shape for structure in captured._recordings.kept] == [(3, 4), (1, 4)]
    captured((2, 4), seed=0)
    assert captured.captures == 4


def test_model_arguments_change_without_a_new_capture() -> None:
    model, first, second = Scaled().eval(), {"shift": torch.ones(3, 1, 1, 1)}, {"shift": torch.full((3, 1, 1, 1), 2.0)}
    captured = capture(ddim(), model, SHAPE, model_kwargs=first)
    for kwargs in (first, second, first):
        assert agrees(captured, ddim(), model, seed=0, model_kwargs=kwargs)
    assert captured.captures == 1
    assert second["shift"].eq(2).all()
    assert agrees(captured, ddim(), model, seed=0, model_kwargs={**first, "sign": -1})
    assert captured.captures == 2
    with pytest.raises(TypeError, match="hashable, got sign=list"):
        captured(seed=0, model_kwargs={"sign": [1]})


def test_train_mode_and_autocast_are_of_the_structure() -> None:
    model = Scaled()
    run = prepare(ddim().coefficients, smooth, Arguments(SHAPE, seed=0))
    plain = Structure.of(run, model.eval(), {})
    assert plain == Structure.of(run, model, {})
    assert plain != Structure.of(run, model.train(), {})
    with torch.autocast("cpu", torch.bfloat16):
        assert Structure.of(run, model.eval(), {}).autocast is torch.bfloat16
    assert plain.autocast is None


@pytest.mark.promise(28)
def test_threads_wait_for_one_another() -> None:
    captured, barrier = capture(ddim(eta=1.0), smooth, SHAPE), threading.Barrier(4)

    def run(seed: int) -> Tensor:
        barrier.wait()
        return captured(seed=seed)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(4)))
    assert all(torch.equal(x, ddim(eta=1.0).sample(smooth, SHAPE, seed=seed)) for seed, x in enumerate(found))


@pytest.mark.promise(22)
def test_the_layout_of_x_is_kept() -> None:
    """Kernels round by layout: a graph's x lies as the loop's does."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1))
    seen: list[tuple[int, ...]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x.stride())
        result: Tensor = layers(x)
        return result

    x_T = normal(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    captured = capture(ddim(), model, (2, 8, 6, 6))
    for start in (x_T, x_T.contiguous(), x_T):
        seen.clear()
        found = captured(x_T=start)
        assert set(seen) == {start.stride()}
        expected = ddim().sample(model, x_T=start)
        assert torch.equal(bits(found), bits(expected))
        assert found.stride() == expected.stride()
    assert captured.captures == 2


def test_weights_that_a_function_names_are_seen_to_move() -> None:
    inner = Scaled().eval()
    callers = (lambda x, t: inner(x, t) * 1.0, functools.partial(inner, sign=-1), inner.forward)
    for model in callers:
        captured = capture(ddim(), model, SHAPE)
        inner.load_state_dict({"weight": torch.rand(1), "offset": torch.rand(1)}, assign=True)
        assert agrees(captured, ddim(), model, seed=0)
        assert captured.captures == 2


def test_arguments_of_the_capture_are_those_of_calls_without_any() -> None:
    model, shift = Scaled().eval(), {"shift": torch.ones(3, 1, 1, 1)}
    captured = capture(ddim(), model, SHAPE, model_kwargs=shift)
    expected = ddim().sample(model, SHAPE, seed=0, model_kwargs=shift)
    assert torch.equal(captured(seed=0), expected)
    assert captured.captures == 1
    assert torch.equal(captured(seed=0, model_kwargs={}), ddim().sample(model, SHAPE, seed=0))
    assert captured.captures == 2
    captured(seed=0, model_kwargs={"sign": 1})
    captured(seed=0, model_kwargs={"sign": True})
    assert captured.captures == 4


@pytest.mark.promise(29)
def test_inference_mode_leaves_nothing_behind() -> None:
    with torch.inference_mode():
        captured = capture(ddim(eta=1.0), smooth, SHAPE)
        inside = captured(seed=0)
    assert torch.equal(captured(seed=0), inside)
    assert not captured(seed=0).is_inference()


def test_a_call_within_a_call_raises() -> None:
    captured = capture(ddim(eta=1.0), smooth, SHAPE)
    with pytest.raises(RuntimeError, match="within its own call"):
        captured(noise_fn=lambda draw, like: captured(seed=0) if draw >= 0 else normal(*like.shape))
    assert agrees(captured, ddim(eta=1.0), smooth, seed=0)


def test_a_callback_and_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    captured, seen = capture(ddim(), smooth, SHAPE), list[int]()
    expected = captured(seed=0)
    assert torch.equal(captured(seed=0, callback=lambda state: seen.append(state.t)), expected)
    assert tuple(seen) == ddim().timesteps
    assert capsys.readouterr().err == ""
    assert torch.equal(captured(seed=0, progress=True), expected)
    assert "7/7" in capsys.readouterr().err


def test_results_are_ones_own() -> None:
    captured = capture(ddim(), smooth, SHAPE)
    first = captured(seed=0)
    kept = first.clone()
    captured(seed=1)
    assert torch.equal(first, kept)
    first.zero_()
    assert torch.equal(captured(seed=0), kept)


def test_not_a_number_names_its_step() -> None:
    def bad(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(column(t, x) < 20, torch.nan, smooth(x, t))

    timesteps = ddim().timesteps
    k = next(i for i, t in enumerate(timesteps) if t < 20)
    with pytest.raises(NonFiniteError, match=rf"step {k} \(t={timesteps[k]}\)"):
        capture(ddim(), bad, SHAPE)(seed=0)


def test_bad_arguments_raise_as_they_do_in_sample() -> None:
    captured = capture(ddim(), smooth, SHAPE)
    with pytest.raises(TypeError, match="sampler must be a PlanSampler, got str"):
        captured.using("ddim")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sampler must be a PlanSampler"):
        capture(None, smooth, SHAPE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="most must be an int of at least 1, got 0"):
        capture(ddim(), smooth, SHAPE, most=0)
    with pytest.raises(ValueError, match="start_at=2 needs x_T"):
        captured(start_at=2)
    with pytest.raises(ValueError, match="exclude one another"):
        captured(seed=0, generator=torch.Generator())
    with pytest.raises(ValueError, match="the model must return a tensor of shape"):
        capture(ddim(), lambda x, t: x[:1], SHAPE)(seed=0)


@pytest.mark.cuda
@pytest.mark.promise(20, 22)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_on_cuda_the_graphs_bits_are_the_loops(eta: float) -> None:
    model = nn.Conv2d(2, 2, 3, padding=1, device="cuda")

    def asked(x: Tensor, t: Tensor) -> Tensor:
        result: Tensor = model(x) + column(t, x) / 100
        return result

    for sampler in (ddim(eta=eta), DPMSolverPPSampler(SCHEDULE, steps=9, order=3, eta=eta), ddim(eta=eta, clip=(-1, 1))):
        captured = capture(sampler, asked, SHAPE, device="cuda")
        assert torch.equal(captured(seed=0), sampler.sample(asked, SHAPE, seed=0, device="cuda"))
        other = ddim(steps=30, eta=eta)
        assert torch.equal(captured.using(other)(seed=1), other.sample(asked, SHAPE, seed=1, device="cuda"))


@pytest.mark.cuda
def test_on_cuda_a_model_that_reads_back_cannot_be_captured() -> None:
    def reads(x: Tensor, t: Tensor) -> Tensor:
        return x * float(x.mean())

    captured = capture(ddim(), smooth, SHAPE, device="cuda")
    stream = torch.cuda.current_stream()
    with pytest.raises(GraphError, match="cannot be captured"):
        capture(ddim(), reads, SHAPE, device="cuda")
    assert torch.cuda.current_stream() == stream
    assert torch.cuda.get_sync_debug_mode() == 0
    assert torch.randn(3, device="cuda").isfinite().all()
    assert torch.equal(captured(seed=0), ddim().sample(smooth, SHAPE, seed=0, device="cuda"))
    assert torch.equal(captured((2, 4), seed=0), ddim().sample(smooth, (2, 4), seed=0, device="cuda"))


@pytest.mark.cuda
@pytest.mark.promise(20)
def test_on_cuda_nothing_waits_between_the_first_and_the_last_step() -> None:
    captured = capture(ddim(eta=1.0), smooth, SHAPE, device="cuda")
    run = prepare(ddim(eta=1.0).coefficients, smooth, Arguments(SHAPE, seed=0, device="cuda"))
    with captured._recordings.alone(run.x.device):
        recording = captured._recordings.of(run, smooth, {})
        recording.load(run, {})
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in recording.walk(run):
                pass
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.promise(22)
def test_on_cuda_weights_and_arguments_change_between_calls() -> None:
    model, host = Scaled().eval().cuda(), torch.tensor(2.0)
    captured = capture(ddim(), model, SHAPE, model_kwargs={"shift": host})
    for value in (3.0, 4.0):
        kwargs = {"shift": torch.tensor(value)}
        assert agrees(captured, ddim(), model, seed=0, model_kwargs=kwargs)
    with torch.no_grad():
        model.weight.mul_(0.5)
    assert agrees(captured, ddim(), model, seed=0, model_kwargs={"shift": host})
    model.load_state_dict({"weight": torch.rand(1).cuda(), "offset": torch.rand(1).cuda()}, assign=True)
    assert agrees(captured, ddim(), model, seed=0, model_kwargs={"shift": host})
