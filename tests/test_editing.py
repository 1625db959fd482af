"""Editing: each function against its equations in plain numpy, exact cases, and samples that do not depend on their batch."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddimkit import DDIMSampler, DDPMSampler, DPMSolverPPSampler, NoiseSchedule, NonFiniteError, Plan, PlanSampler
from ddimkit.analytic import GaussianDenoiser
from ddimkit.editing import image_to_image, inpaint, interpolate, latents_of, reconstruct, repaint_rows, spherical
from ddimkit.noise import STREAM_EDIT, STREAM_SAMPLER, STREAM_X_T, keyed_normal
from ddimkit.samplers import HeunSampler
from ddimkit.schedule import FloatArray
from probes import Counting, column, normal, smooth, twice

LINEAR = NoiseSchedule.linear()
DOUBLE = torch.float64
SHAPE = (4, 2, 3)
IMAGES = normal(*SHAPE, dtype=DOUBLE).tanh()
SEEDS = (3, 1, 4, 15)


def keyed(draw: int, stream: int) -> FloatArray:
    drawn = keyed_normal(torch.tensor(SEEDS), torch.tensor([draw]), SHAPE[1:], stream=stream)[0]
    return drawn.double().numpy()


def shifted(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return smooth(x, t) + column(labels, x) / 8


def ddim_step(x: FloatArray, k: int, times: tuple[int, ...], eta: float, noise: Callable[[], FloatArray]) -> FloatArray:
    """The DDIM paper's equation 12 with the x0 prediction ``smooth``."""
    t, last = times[k], k == len(times) - 1
    s, n = LINEAR.signal[t], LINEAR.noise[t]
    s2, n2 = (1.0, 0.0) if last else (LINEAR.signal[times[k + 1]], LINEAR.noise[times[k + 1]])
    sigma = eta * n2 / n * np.sqrt(1 - (s / s2) ** 2)
    x0 = x / (1 + x * x) + t / 8000
    return s2 * x0 + np.sqrt(n2**2 - sigma**2) * (x - s * x0) / n + (sigma * noise() if sigma else 0)


@given(st.integers(1, 12), st.floats(0, 1, exclude_min=True), st.sampled_from([0.0, 0.6]))
def test_image_to_image_adds_noise_and_samples_from_there(steps: int, strength: float, eta: float) -> None:
    sampler, model = DDIMSampler(LINEAR, steps=steps, eta=eta, prediction="x0"), Counting()
    found = image_to_image(sampler, model, IMAGES, strength=strength, seed=SEEDS)
    done = max(1, int(strength * steps + 0.5))
    t = sampler.timesteps[steps - done]
    x = LINEAR.signal[t] * IMAGES.numpy() + LINEAR.noise[t] * keyed(0, STREAM_EDIT)
    for k in range(steps - done, steps):
        x = ddim_step(x, k, tuple(sampler.timesteps), eta, lambda k=k: keyed(k, STREAM_SAMPLER))  # type: ignore[misc]
    assert model.calls == done
    assert np.allclose(found.numpy(), x, rtol=0, atol=1e-12)


def test_image_to_image_with_a_bare_table_begins_at_the_first_row_of_its_timestep() -> None:
    heun, model = HeunSampler(LINEAR, steps=4, prediction="x0"), Counting()
    plan = Plan(t=(900, 900, 500, 200), t_next=(900, 500, 200, None), a=[1, 0.5, 0.5, 0], b=[0, 0.4, 0.4, 1], c=[0, 0, 0, 0])
    table = PlanSampler.from_plan(LINEAR, plan, prediction="x0")
    found = image_to_image(table, model, IMAGES, strength=0.6, seed=SEEDS)
    start = LINEAR.add_noise(IMAGES, torch.from_numpy(keyed(0, STREAM_EDIT)), 500)
    assert model.calls == 2
    assert torch.equal(found, table.sample(smooth, x_T=start, start_at=2, seed=SEEDS))
    bare = PlanSampler.from_plan(LINEAR, heun.plan(), prediction="x0")
    for sampler, strength, t in ((table, 1.0, 900), (bare, 1.0, heun.timesteps[0])):
        whole = LINEAR.add_noise(IMAGES, torch.from_numpy(keyed(0, STREAM_EDIT)), t)
        assert torch.equal(
            image_to_image(sampler, smooth, IMAGES, strength=strength, seed=SEEDS), sampler.sample(smooth, x_T=whole)
        )


def test_a_bare_table_that_reads_the_past_cannot_begin_inside() -> None:
    model, multistep = Counting(), DPMSolverPPSampler(LINEAR, steps=4, prediction="x0")
    with pytest.raises(ValueError, match=r"strength=0\.5 starts at row 2 of the table, but row 2 reads 1 .*: give strength=1"):
        image_to_image(PlanSampler.from_plan(LINEAR, multistep.plan(), prediction="x0"), model, IMAGES)
    assert model.calls == 0


def test_reconstruction_of_a_model_that_ignores_x_is_the_image() -> None:
    sampler = DDIMSampler(LINEAR, steps=20)
    found = reconstruct(sampler, lambda x, t: torch.full_like(x, 0.3), IMAGES)
    assert torch.allclose(found.images, IMAGES, rtol=0, atol=1e-6)
    assert found.errors.shape == (4,)
    assert found.errors.max() < 1e-12


def test_the_error_of_a_reconstruction_is_table_2s_and_falls_with_the_steps() -> None:
    model = GaussianDenoiser(LINEAR, 0.1, 0.25)
    means = []
    for steps in (20, 40, 80, 160):
        sampler = DDIMSampler(LINEAR, steps=steps, prediction="x0")
        found = reconstruct(sampler, model, IMAGES)
        latents = sampler.invert(model, IMAGES)
        assert torch.equal(found.latents, latents)
        assert torch.equal(found.images, sampler.sample(model, x_T=latents))
        scaled = (found.images.numpy() + 1) / 2 - (IMAGES.numpy() + 1) / 2
        assert np.allclose(found.errors.numpy(), (scaled**2).mean(axis=(1, 2)), rtol=1e-12)
        means.append(float(found.errors.mean()))
    assert all(coarse / fine > 2.5 for coarse, fine in itertools.pairwise(means)), means  # of first order: a quarter


@given(st.integers(0, 2**20), st.floats(-0.5, 1.5))
def test_spherical_interpolation_is_shoemakes(seed: int, weight: float) -> None:
    a, b = normal(3, 2, 4, seed=seed, dtype=DOUBLE), normal(3, 2, 4, seed=seed + 1, dtype=DOUBLE)
    found = spherical(a, b, weight).numpy()
    for one, other, result in zip(a.numpy(), b.numpy(), found, strict=True):
        theta = np.arccos((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))
        expected = (np.sin((1 - weight) * theta) * one + np.sin(weight * theta) * other) / np.sin(theta)
        assert np.allclose(result, expected, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 2**20), st.floats(0, 1))
def test_spherical_interpolation_keeps_norms_and_ends(seed: int, weight: float) -> None:
    a = normal(3, 8, seed=seed, dtype=DOUBLE)
    b = normal(3, 8, seed=seed + 1, dtype=DOUBLE)
    b = b / b.norm(dim=1, keepdim=True) * a.norm(dim=1, keepdim=True)
    assert torch.allclose(spherical(a, b, weight).norm(dim=1), a.norm(dim=1))
    assert torch.equal(spherical(a, b, 0.0), a)
    assert torch.equal(spherical(a, b, 1.0), b)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_spherical_interpolation_along_one_line_is_straight(factor: float) -> None:
    a = normal(3, 8)
    assert torch.allclose(spherical(a, factor * a, 0.25), 0.75 * a + 0.25 * factor * a)
    assert torch.equal(spherical(a, factor * a, 1.0), factor * a)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_interpolation_meets_its_ends_and_is_sampled_between(eta: float) -> None:
    a, b = latents_of(SEEDS, SHAPE[1:]), latents_of([7, 8, 9, 10], SHAPE[1:])
    sampler, labels = DDIMSampler(LINEAR, steps=5, prediction="x0", eta=eta), torch.tensor([0, 1, 2, 3])
    given: dict[str, Any] = {"seed": SEEDS, "model_kwargs": {"labels": labels}}
    found = interpolate(sampler, shifted, a, b, (0, 0.3, 1), **given)
    assert found.shape == (3, *SHAPE)
    for image, x_T in zip(found, (a, spherical(a, b, 0.3), b), strict=True):
        assert torch.equal(image, sampler.sample(shifted, x_T=x_T, **given))
    assert torch.equal(interpolate(sampler, shifted, a, b, (0, 0.3, 1), batch_size=5, **given), found)
    assert torch.equal(found[0], sampler.sample(shifted, SHAPE, **given))


def test_interpolation_between_images_meets_their_reconstructions() -> None:
    sampler, other = DDIMSampler(LINEAR, steps=5, prediction="x0"), IMAGES.flip(0)
    found = interpolate(sampler, smooth, IMAGES, other, (0.0, 0.5, 1.0), between="images")
    assert torch.equal(found[0], reconstruct(sampler, smooth, IMAGES).images)
    assert torch.equal(found[2], reconstruct(sampler, smooth, other).images)
    middle = spherical(sampler.invert(smooth, IMAGES), sampler.invert(smooth, other), 0.5)
    assert torch.equal(found[1], sampler.sample(smooth, x_T=middle))


def published_schedule(T: int, length: int, count: int) -> list[int]:
    """RePaint's list of t, T − 1 to 0 with its jumps, as its appendix gives it: each jump begins at a multiple of the length."""
    jumps = dict.fromkeys(range(0, T - length, length), count - 1)
    t, found = T, []
    while t >= 1:
        t -= 1
        found.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            for _ in range(length):
                t += 1
                found.append(t)
    return found


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 12))
def test_the_rows_of_repaint_are_those_of_its_schedule(T: int, resample: int, jump: int) -> None:
    published = published_schedule(T, jump, resample)
    # A model is called at each t that is left downwards; t = −1 follows the last.
    calls = [T - 1 - t for t, after in zip(published, [*published[1:], -1], strict=True) if after < t]
    assert repaint_rows(T, resample=resample, jump=jump) == calls
    assert repaint_rows(T, resample=1, jump=jump) == list(range(T))


MASK = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 1.0]], dtype=DOUBLE)


@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 4), st.sampled_from([0.0, 1.0]))
def test_inpainting_is_repaints_algorithm(steps: int, resample: int, jump: int, eta: float) -> None:
    sampler = DDIMSampler(LINEAR, steps=steps, prediction="x0", eta=eta)
    times, known, mask = tuple(sampler.timesteps), IMAGES.numpy(), MASK.numpy()
    x = keyed(0, STREAM_X_T)
    rows = repaint_rows(steps, resample=resample, jump=jump)
    for visit, k in enumerate(rows):
        x = ddim_step(x, k, times, eta, lambda visit=visit: keyed(3 * visit + 1, STREAM_EDIT))  # type: ignore[misc]
        s2, n2 = (1.0, 0.0) if k == steps - 1 else (LINEAR.signal[times[k + 1]], LINEAR.noise[times[k + 1]])
        x = mask * x + (1 - mask) * (s2 * known + n2 * keyed(3 * visit, STREAM_EDIT))
        if visit + 1 < len(rows) and rows[visit + 1] <= k:
            kept = LINEAR.alpha_bars[times[rows[visit + 1]]] / LINEAR.alpha_bars[times[k + 1]]  # Π (1 − beta)
            x = np.sqrt(kept) * x + np.sqrt(1 - kept) * keyed(3 * visit + 2, STREAM_EDIT)
    model = Counting()
    found = inpaint(sampler, model, IMAGES, MASK, resample=resample, jump=jump, seed=SEEDS)
    assert model.calls == len(rows)
    assert np.allclose(found.numpy(), x, rtol=0, atol=1e-9)
    assert torch.equal(found[:, MASK == 0], IMAGES[:, MASK == 0])


def test_a_whole_mask_without_jumps_is_sampling() -> None:
    sampler, x = DDIMSampler(LINEAR, steps=5, prediction="x0"), IMAGES.float()
    found = inpaint(sampler, smooth, x, torch.ones(1, 1, 1), resample=1, seed=9)
    assert torch.equal(found, sampler.sample(smooth, SHAPE, seed=9))
    assert torch.equal(inpaint(sampler, smooth, x, torch.zeros(SHAPE, dtype=torch.bool), seed=9), x)


def test_resampling_brings_what_is_painted_in_keeping_with_what_is_known() -> None:
    """Of two numbers with correlation 0.9 the first is known: the second's mean is then 0.9 times its value."""
    turn, count = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2), 1000
    model = GaussianDenoiser(LINEAR, 0.0, [1.9, 0.1], turn)
    known = torch.stack((normal(count, seed=3), torch.zeros(count)), dim=1)
    sampler, mask = DDPMSampler(LINEAR, steps=25, prediction="x0"), torch.tensor([0.0, 1.0])

    def slope(resample: int) -> float:
        found = inpaint(sampler, model, known, mask, resample=resample, jump=1, seed=0)
        assert torch.equal(found[:, 0], known[:, 0])
        return float((found[:, 1] * known[:, 0]).mean() / known[:, 0].square().mean())

    replaced, repainted = slope(1), slope(10)
    assert 0.4 < replaced < 0.7
    assert 0.8 < repainted < 0.95


EDITS: dict[str, Callable[[PlanSampler, Tensor, list[int], dict[str, Any]], Tensor]] = {
    "image to image": lambda s, x, seed, given: image_to_image(s, shifted, x, strength=0.7, seed=seed, model_kwargs=given),
    "interpolate": lambda s, x, seed, given: interpolate(s, shifted, x, x.flip(1), (0.3,), seed=seed, model_kwargs=given)[0],
    "inpaint": lambda s, x, seed, given: inpaint(s, shifted, x, MASK, resample=2, jump=2, seed=seed, model_kwargs=given),
}


@pytest.mark.promise(24)
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4), st.sampled_from([torch.float32, torch.float16, DOUBLE]))
def test_an_edited_sample_does_not_depend_on_its_batch(edit: Any, seeds: list[int], dtype: torch.dtype) -> None:
    sampler, labels = DDIMSampler(LINEAR, steps=4, prediction="x0", eta=0.8), torch.tensor([s % 5 for s in seeds])
    x = torch.stack([normal(2, 3, seed=s % 1000) for s in seeds]).to(dtype)
    whole = edit(sampler, x, seeds, {"labels": labels})
    assert whole.dtype is dtype
    for i, seed in enumerate(seeds):
        assert torch.equal(edit(sampler, x[i : i + 1], [seed], {"labels": labels[i : i + 1]})[0], whole[i])


def test_learned_ranges_are_inpainted() -> None:
    sampler = DDPMSampler(LINEAR, steps=4, variance="learned_range", prediction="x0")
    found = inpaint(sampler, twice, IMAGES, MASK, seed=0, resample=2, jump=2)
    assert torch.equal(found[:, MASK == 0], IMAGES[:, MASK == 0])


def test_known_numbers_keep_their_sign_of_zero() -> None:
    images = torch.full(SHAPE, -0.0)
    found = inpaint(DDIMSampler(LINEAR, steps=3, prediction="x0"), smooth, images, MASK, resample=1, seed=SEEDS)
    assert torch.signbit(found)[:, MASK == 0].all()


def test_errors_of_half_precision_are_computed_in_more() -> None:
    images = torch.full((1, 2), 0.5, dtype=torch.float16)
    found = reconstruct(DDIMSampler(LINEAR, steps=1, prediction="x0"), lambda x, t: torch.full_like(x, -0.0001), images)
    exact = ((found.images.double() - images.double()) / 2).square().mean(dim=1)
    assert found.errors.dtype == torch.float32
    assert torch.allclose(found.errors.double(), exact, rtol=1e-6)


def test_what_is_not_finite_is_told() -> None:
    with pytest.raises(NonFiniteError, match="the inpainted images hold NaN"):
        inpaint(DDIMSampler(LINEAR, steps=2), lambda x, t: x / 0, IMAGES, MASK, seed=0)


D, BAD = DDIMSampler(LINEAR, steps=4, prediction="x0"), float("nan")
WRONG: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    "strength 0": (lambda m: image_to_image(D, m, IMAGES, strength=0), ValueError, r"strength must lie in \(0, 1\], got 0"),
    "strength above 1": (lambda m: image_to_image(D, m, IMAGES, strength=1.01), ValueError, r"strength must lie in \(0, 1\]"),
    "strength NaN": (lambda m: image_to_image(D, m, IMAGES, strength=BAD), ValueError, r"strength must lie in \(0, 1\]"),
    "bytes": (lambda m: image_to_image(D, m, torch.zeros(SHAPE, dtype=torch.uint8)), TypeError, "images must be a floating point"),
    "seeds": (lambda m: image_to_image(D, m, IMAGES, seed=[1, 2]), ValueError, "seed holds 2 seeds for a batch of 4"),
    "images NaN": (lambda m: image_to_image(D, m, IMAGES * BAD), ValueError, "images hold NaN or infinity"),
    "mask above 1": (lambda m: inpaint(D, m, IMAGES, 255 * MASK), ValueError, r"mask must lie in \[0, 1\], 1 where"),
    "mask below 0": (lambda m: inpaint(D, m, IMAGES, -MASK), ValueError, r"mask must lie in \[0, 1\]"),
    "mask NaN": (lambda m: inpaint(D, m, IMAGES, MASK * BAD), ValueError, r"mask must lie in \[0, 1\]"),
    "mask shape": (lambda m: inpaint(D, m, IMAGES, MASK[:, :2]), ValueError, r"broadcast to the images' \(4, 2, 3\), got \(2, 2\)"),
    "mask too wide": (lambda m: inpaint(D, m, IMAGES[:1], MASK.expand(4, 2, 3)), ValueError, "mask must broadcast to the images'"),
    "mask of more dimensions": (lambda m: inpaint(D, m, IMAGES, MASK.expand(1, 1, 2, 3)), ValueError, "mask must broadcast"),
    "mask of a kind": (lambda m: inpaint(D, m, IMAGES, MASK.numpy()), TypeError, "mask must be a tensor"),  # type: ignore[arg-type]
    "resample": (lambda m: inpaint(D, m, IMAGES, MASK, resample=0), ValueError, "resample and jump must be at least 1, got 0"),
    "jump": (lambda m: inpaint(D, m, IMAGES, MASK, jump=0), ValueError, "at least 1, got 10 and 0"),
    "history": (
        lambda m: inpaint(DPMSolverPPSampler(LINEAR, steps=4), m, IMAGES, MASK),
        ValueError,
        "inpainting needs a sampler of one step, but DPMSolverPPSampler",
    ),
    "ends apart": (lambda m: interpolate(D, m, IMAGES, IMAGES[:2]), ValueError, "a and b must be alike, got"),
    "weights": (lambda m: interpolate(D, m, IMAGES, IMAGES, (0, BAD)), ValueError, "weights must be finite"),
    "no weights": (lambda m: interpolate(D, m, IMAGES, IMAGES, ()), ValueError, "weights must be finite"),
    "one weight": (
        lambda m: interpolate(D, m, IMAGES, IMAGES, 0.5),  # type: ignore[arg-type]
        TypeError,
        "weights must be a sequence of numbers, .* got float",
    ),
    "a tensor of weights": (
        lambda m: interpolate(D, m, IMAGES, IMAGES, torch.ones(2)),
        TypeError,
        "weights must be a sequence of numbers, as in .*, got Tensor: give weights.tolist",
    ),
    "one seed of latents": (lambda m: latents_of(7, (2,)), TypeError, "seeds must be a sequence of one seed a sample, got 7"),  # type: ignore[arg-type]
    "between": (lambda m: interpolate(D, m, IMAGES, IMAGES, between="x"), ValueError, "between must be"),  # type: ignore[arg-type]
    "noise between images": (
        lambda m: interpolate(DDIMSampler(LINEAR, steps=3, eta=0.5), m, IMAGES, IMAGES, between="images"),
        ValueError,
        "only eta=0 without clip can be inverted, got eta=0.5",
    ),
    "reconstruct": (lambda m: reconstruct(DPMSolverPPSampler(LINEAR, steps=3), m, IMAGES), TypeError, "only a DDIMSampler"),  # type: ignore[arg-type]
    "clip": (lambda m: reconstruct(DDIMSampler(LINEAR, 3, clip=(-1, 1)), m, IMAGES), ValueError, "clip=(-1.0, 1.0)"),
}


@pytest.mark.parametrize(("edit", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_bad_input_is_refused_before_any_call(edit: Callable[[Any], object], error: type[Exception], message: str) -> None:
    model = Counting()
    with pytest.raises(error, match=message.replace("clip=(-1.0, 1.0)", r"clip=\(-1\.0, 1\.0\)")):
        edit(model)
    assert model.calls == 0
