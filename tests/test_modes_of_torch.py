"""torch's own settings change nothing: a default dtype of float64, and inference mode."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ddimkit import (
    DDIMSampler,
    DDPMSampler,
    DPMSolverPPSampler,
    DynamicThreshold,
    NoiseSchedule,
    PlanSampler,
    SamplerState,
    UniPCSampler,
    graphs,
    load_pretrained,
)
from ddimkit.quality import load_evaluator
from ddimkit.testing import NoFloat64
from probes import normal, smooth, twice

S = NoiseSchedule.linear()
SAMPLERS: dict[str, PlanSampler] = {
    "ddim": DDIMSampler(S, 5),
    "eta": DDIMSampler(S, 5, eta=0.5, clip=DynamicThreshold(0.9)),
    "v": DDIMSampler(S, 5, prediction="v", clip=(-1, 1)),
    "ddpm": DDPMSampler(S, 5, variance="fixed_large"),
    "learned": DDPMSampler(S, 5, variance="learned_range"),
    "dpm": DPMSolverPPSampler(S, 5, order=3),
    "unipc": UniPCSampler(S, 5),
}


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def runs(sampler: PlanSampler) -> list[torch.Tensor]:
    """What every way of asking a sampler gives."""
    model, x = twice if sampler.coefficients.learned else smooth, normal(3, 4)
    states = list(sampler.iterate(model, (3, 4), seed=1))
    *_, resumed = sampler.iterate(model, resume=states[1])
    output = model(x, torch.tensor([9, 9, 9]))
    step = sampler.step(x, output, torch.tensor([1, 0, 1]), noise=x, history=[x] * sampler.coefficients.depth)
    drawn = [sampler.sample(model, (3, 4), seed=1, dtype=dtype) for dtype in (torch.bfloat16, None, torch.float64)]
    late = sampler.sample(model, x_T=x, start_at=2, seed=1)
    noise = torch.Generator().manual_seed(0)
    by_generator = sampler.sample(model, (3, 4), generator=noise)
    captured = graphs.capture(sampler, model, (3, 4))(seed=1)
    return [states[-1].x, resumed.x, step, sampler.predict_x0(x, output, 1), *drawn, late, by_generator, captured]


@pytest.mark.promise(52)
@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_default_dtype_of_float64_changes_no_bit(sampler: PlanSampler) -> None:
    found = runs(sampler)
    torch.set_default_dtype(torch.float32)
    for one, other in zip(found, runs(sampler), strict=True):
        assert one.dtype is other.dtype
        assert torch.equal(one, other)


@pytest.mark.promise(52)
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_inference_mode_changes_no_bit(sampler: PlanSampler) -> None:
    with torch.inference_mode():
        found = runs(sampler)
    for one, other in zip(found, runs(sampler), strict=True):
        assert torch.equal(one, other)


@pytest.mark.promise(33, 52)
@pytest.mark.parametrize("saved", [False, True], ids=["in memory", "from a file"])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_walk_goes_from_one_mode_to_another(sampler: PlanSampler, saved: bool, tmp_path: Path) -> None:
    model = twice if sampler.coefficients.learned else smooth
    expected = list(sampler.iterate(model, (3, 4), seed=1))[-1].x
    for first, then in ((True, False), (False, True)):
        with torch.inference_mode(first):
            state = list(sampler.iterate(model, (3, 4), seed=1))[1]
            state.save(tmp_path / "walk")
        with torch.inference_mode(then):
            *_, last = sampler.iterate(model, resume=SamplerState.load(tmp_path / "walk") if saved else state)
        assert torch.equal(last.x, expected)


@pytest.mark.promise(52)
def test_inversion_in_batches_and_by_noise_fn_under_both() -> None:
    def runs() -> list[torch.Tensor]:
        walk, noisy = SAMPLERS["ddim"], SAMPLERS["eta"]
        assert isinstance(walk, DDIMSampler)
        by_function = noisy.sample(smooth, (5, 4), noise_fn=lambda draw, like: normal(5, 4, seed=draw + 1))
        return [walk.invert(smooth, normal(5, 4)), noisy.sample(smooth, (5, 4), seed=1, batch_size=2), by_function]

    with torch.inference_mode():
        found = runs()
    torch.set_default_dtype(torch.float64)
    try:
        found += runs()
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, runs() * 2, strict=True):
        assert one.dtype is other.dtype
        assert torch.equal(one, other)


@pytest.mark.promise(18, 52)
@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_no_float64_reaches_the_device_under_a_default_of_float64(sampler: PlanSampler, device: str | None) -> None:
    model = twice if sampler.coefficients.learned else smooth
    with NoFloat64():
        sampler.sample(model, (3, 4), seed=1, device=device)


@pytest.mark.promise(52)
def test_images_are_judged_alike_in_inference_mode() -> None:
    evaluator, images = load_evaluator("mnist"), normal(8, 1, 28, 28)
    with torch.inference_mode():
        found = evaluator.evaluate(images, range(8))
    assert found.to_dict() == evaluator.evaluate(images, range(8)).to_dict()


@pytest.mark.promise(52)
@pytest.mark.usefixtures("float64_by_default")
def test_the_bundled_model_under_both() -> None:
    bundle = load_pretrained("mnist")
    sampler = bundle.sampler(DDIMSampler, steps=2)
    with torch.inference_mode():
        found = sampler.sample(bundle.model, (1, *bundle.sample_shape), seed=0)
    torch.set_default_dtype(torch.float32)
    assert torch.equal(found, sampler.sample(bundle.model, (1, *bundle.sample_shape), seed=0))


@pytest.mark.promise(52)
@pytest.mark.usefixtures("float64_by_default")
def test_evaluations_under_a_default_dtype_of_float64() -> None:
    images = normal(8, 1, 28, 28)
    found = load_evaluator("mnist").evaluate(images, range(8))
    torch.set_default_dtype(torch.float32)
    assert found.to_dict() == load_evaluator("mnist").evaluate(images, range(8)).to_dict()
