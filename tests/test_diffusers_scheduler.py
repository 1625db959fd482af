"""Samplers in pipelines of diffusers: what a pipeline draws is what the sampler draws from the pipeline's first latents."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddimkit import (
    DDIMSampler,
    DDPMSampler,
    DPMSolverPPSampler,
    DynamicThreshold,
    ModelBundle,
    NoiseSchedule,
    Plan,
    PlanSampler,
    UniPCSampler,
    load_pretrained,
)
from ddimkit.interop.diffusers import from_pipeline, load_schedule
from pipelines import diffusers, embeddings, stable_diffusion, stable_diffusion_3, unet
from probes import gaussian_x0, normal

scheduling = pytest.importorskip("ddimkit.interop.diffusers_scheduler")
as_scheduler = scheduling.as_scheduler

LATENT = NoiseSchedule.scaled_linear()
LIST = (999, 850, 500, 130, 7)
SAMPLERS: dict[str, PlanSampler] = {
    "ddim": DDIMSampler(LATENT, 5),
    "eta": DDIMSampler(LATENT, 5, eta=0.7, spacing="linspace"),
    "clipped": DDIMSampler(LATENT, 5, clip=(-1, 1)),
    "thresholded": DDIMSampler(LATENT, 5, clip=DynamicThreshold(0.9, 2.0)),
    "ddpm": DDPMSampler(LATENT, 5, variance="fixed_large"),
    "multistep": DPMSolverPPSampler(LATENT, 5, order=3),
    "multistep sde": DPMSolverPPSampler(LATENT, timesteps=LIST, eta=1.0),
    "unipc": UniPCSampler(LATENT, timesteps=LIST, order=3),
    "table": PlanSampler.from_plan(LATENT, UniPCSampler(LATENT, timesteps=LIST).plan()),
}
# Five rows, two of them at one timestep.
ROWS = DDIMSampler(LATENT, timesteps=LIST).plan()
STAGES = PlanSampler.from_plan(LATENT, Plan((999, 850, 850, 500, 7), (850, 850, 500, 7, None), ROWS.a, ROWS.b, ROWS.c))
SEEDS = (3, 2**40)
PROMPT = "a cat on the moon"
# Theirs differ from ours by the rounding of float32 alone.
CLOSE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pipelines")
    made = stable_diffusion(folder)
    kind = diffusers.StableDiffusionImg2ImgPipeline
    again = kind(**made.components, requires_safety_checker=False)
    again.set_progress_bar_config(disable=True)
    return {"text": made, "image": again}


def guided(pipe: Any, scale: float, count: int) -> tuple[ModelBundle, dict[str, Any], Callable[..., Tensor]]:
    """The bundle of a pipeline, the conditions of its prompt, and its guidance as one function."""
    bundle = from_pipeline(pipe)
    conditional, empty = pipe.encode_prompt(PROMPT, "cpu", count, scale > 1)

    def model(x: Tensor, t: Tensor, states: Tensor) -> Tensor:
        if scale <= 1:
            return bundle.model(x, t, encoder_hidden_states=states)
        both = bundle.model(torch.cat([x, x]), torch.cat([t, t]), encoder_hidden_states=torch.cat([empty, states]))
        without, with_prompt = both.chunk(2)
        return without + scale * (with_prompt - without)

    return bundle, {"states": conditional}, model


@pytest.mark.promise(58)
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_stable_diffusion_draws_what_the_sampler_draws(name: str, scale: float, pipelines: dict[str, Any]) -> None:
    pipe, sampler, x = pipelines["text"], SAMPLERS[name], normal(2, 4, 8, 8)
    _, conditions, model = guided(pipe, scale, 2)
    pipe.scheduler = as_scheduler(sampler, seeds=SEEDS)
    found = pipe(
        PROMPT, num_images_per_prompt=2, num_inference_steps=5, guidance_scale=scale, latents=x.clone(), output_type="latent"
    ).images
    wanted = sampler.sample(model, x_T=x, seed=SEEDS, model_kwargs=conditions)
    torch.testing.assert_close(found, wanted, **CLOSE)
    assert not torch.equal(found[0], found[1])


@pytest.mark.promise(58)
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("strength", "start_at"), [(1.0, 0), (0.8, 1), (0.4, 3)])
def test_an_image_to_image_pipeline_begins_part_way(name: str, strength: float, start_at: int, pipelines: dict[str, Any]) -> None:
    pipe, sampler, images = pipelines["image"], SAMPLERS[name], normal(2, 4, 8, 8, seed=4)
    if name == "table" and start_at:
        pytest.skip("a bare table's later rows read history")
    _, conditions, model = guided(pipe, 3.0, 2)
    pipe.scheduler = as_scheduler(sampler, seeds=SEEDS)
    draw = torch.Generator().manual_seed(11)
    found = pipe(
        [PROMPT, PROMPT], images, strength=strength, num_inference_steps=5, guidance_scale=3.0, generator=draw, output_type="latent"
    ).images
    noise = normal(2, 4, 8, 8, seed=11)
    noised = sampler.schedule.add_noise(images, noise, sampler.timesteps[start_at])
    wanted = sampler.sample(model, x_T=noised, start_at=start_at, seed=SEEDS, model_kwargs=conditions)
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.promise(58)
@pytest.mark.parametrize("make", [DDIMSampler, DPMSolverPPSampler, UniPCSampler])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_pipeline_draws_what_the_sampler_draws(make: Any, shift: float) -> None:
    pipe = stable_diffusion_3(diffusers.FlowMatchEulerDiscreteScheduler(shift=shift))
    bundle, x, conditions = from_pipeline(pipe), normal(1, 4, 8, 8), embeddings()
    sampler = bundle.sampler(make, steps=4)
    pipe.scheduler = as_scheduler(sampler)
    states, pooled = conditions.values()
    given = {"prompt_embeds": states, "pooled_prompt_embeds": pooled, "guidance_scale": 1.0, "output_type": "latent"}
    for count in (4, 6):
        found = pipe(**given, num_inference_steps=count, latents=x.clone()).images
        wanted = replace(sampler, steps=count).sample(bundle.model, x_T=x, model_kwargs=conditions)
        torch.testing.assert_close(found, wanted, **CLOSE)
        sigmas = bundle.schedule.noise[list(replace(sampler, steps=count).timesteps)]
        assert pipe.scheduler.timesteps.dtype is torch.float32
        torch.testing.assert_close(pipe.scheduler.timesteps.double(), torch.from_numpy(1000 * sigmas), rtol=1e-6, atol=0)


@pytest.mark.promise(58)
def test_an_image_to_image_flow_pipeline_begins_part_way() -> None:
    made = stable_diffusion_3()
    pipe = diffusers.StableDiffusion3Img2ImgPipeline(**made.components)
    pipe.set_progress_bar_config(disable=True)
    bundle, conditions, images = from_pipeline(made), embeddings(), normal(1, 4, 8, 8, seed=4)
    sampler = bundle.sampler(DPMSolverPPSampler, steps=5)
    pipe.scheduler = as_scheduler(sampler)
    states, pooled = conditions.values()
    given = {"prompt_embeds": states, "pooled_prompt_embeds": pooled, "guidance_scale": 1.0, "output_type": "latent"}
    draw = torch.Generator().manual_seed(11)
    found = pipe(**given, image=images, strength=0.6, num_inference_steps=5, generator=draw).images
    noised = bundle.schedule.add_noise(images, normal(1, 4, 8, 8, seed=11), sampler.timesteps[2])
    wanted = sampler.sample(bundle.model, x_T=noised, start_at=2, model_kwargs=conditions)
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.promise(58)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_ddim_pipeline_takes_it_by_assignment(eta: float) -> None:
    pipe = diffusers.DDIMPipeline(unet(), diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    bundle = from_pipeline(pipe)
    sampler = bundle.sampler(DDIMSampler, steps=4, eta=eta)
    assert type(diffusers.DDIMPipeline(pipe.unet, as_scheduler(sampler)).scheduler) is diffusers.DDIMScheduler
    pipe.scheduler = as_scheduler(sampler)
    draw = torch.Generator().manual_seed(5)
    found = pipe(2, generator=draw, num_inference_steps=4, eta=eta, output_type="pt", return_dict=False)[0]
    # The pipeline draws x_T, and the noise of the steps goes on after it.
    draw.manual_seed(5)
    x = torch.randn(2, 3, 8, 8, generator=draw)
    wanted = sampler.sample(bundle.model, x_T=x, generator=draw)
    torch.testing.assert_close(torch.as_tensor(found), (wanted / 2 + 0.5).clamp(0, 1), **CLOSE)


def test_a_pipelines_constructor_does_not_change_what_is_told_of_clipping(pipelines: dict[str, Any]) -> None:
    scheduler = as_scheduler(SAMPLERS["clipped"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, of clip_sample
        pipe = diffusers.StableDiffusionPipeline(
            **{**pipelines["text"].components, "scheduler": scheduler}, requires_safety_checker=False
        )
    assert (pipe.scheduler.config["clip_sample"], pipe.scheduler.config["clip_sample_range"]) == (True, 1.0)
    assert from_pipeline(pipe).clip == (-1, 1)


def test_keyed_noise_does_not_depend_on_the_batch(pipelines: dict[str, Any]) -> None:
    pipe, x = pipelines["text"], normal(2, 4, 8, 8)

    def draw(seeds: Sequence[int], latents: Tensor) -> Tensor:
        pipe.scheduler = as_scheduler(SAMPLERS["eta"], seeds=seeds)
        given = {"guidance_scale": 1.0, "num_inference_steps": 5, "output_type": "latent"}
        images: Tensor = pipe(PROMPT, num_images_per_prompt=len(seeds), latents=latents.clone(), **given).images
        return images

    both = draw(SEEDS, x)
    # A network rounds differently in another batch.
    torch.testing.assert_close(draw(SEEDS[1:], x[1:]), both[1:], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="1 seeds for a batch of 2"):
        walk(as_scheduler(SAMPLERS["eta"], seeds=SEEDS[:1]), x)


def walk(scheduler: Any, x: Tensor, **options: Any) -> Tensor:
    """What a pipeline does with its scheduler, of a model that costs nothing."""
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, scheduler.scale_model_input(x, t) * scheduler.init_noise_sigma, **options).prev_sample
    return x


def model(x: Tensor, t: Tensor) -> Tensor:
    return x / (1 + x * x) + t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1)) / 8000


def test_generators_draw_the_noise_as_theirs_do() -> None:
    x, sampler = normal(2, 4, 3), SAMPLERS["ddpm"]
    found = walk(as_scheduler(sampler), x, generator=torch.Generator().manual_seed(7))
    wanted = sampler.sample(model, x_T=x, generator=torch.Generator().manual_seed(7))
    assert torch.equal(found, wanted)
    each = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    alone = walk(as_scheduler(sampler), x[1:], generator=[torch.Generator().manual_seed(8)])
    assert torch.equal(walk(as_scheduler(sampler), x, generator=each)[1:], alone)
    with pytest.raises(ValueError, match="each of the 2 samples, got 1"):
        walk(as_scheduler(sampler), x, generator=each[:1])


def test_without_seeds_and_generator_the_seeds_are_told() -> None:
    x, sampler = normal(2, 4, 3), SAMPLERS["ddpm"]
    scheduler = as_scheduler(sampler)
    assert scheduler.seeds is None
    found = walk(scheduler, x)
    assert torch.equal(found, sampler.sample(model, x_T=x, seed=scheduler.seeds))
    before = scheduler.seeds
    scheduler.set_timesteps(5)
    assert scheduler.seeds is None
    walk(scheduler, x)
    assert scheduler.seeds != before
    keyed = as_scheduler(sampler, seeds=7)
    walk(keyed, x)
    assert keyed.seeds == sampler.seeds(7, 2)


@pytest.mark.parametrize("name", [*SAMPLERS, "stages"])
def test_a_saved_scheduler_draws_the_same(name: str, tmp_path: Path) -> None:
    sampler, x = {**SAMPLERS, "stages": STAGES}[name], normal(2, 4, 3)
    saved = as_scheduler(sampler, seeds=SEEDS)
    saved.save_pretrained(tmp_path)
    loaded = scheduling.SamplerScheduler.from_pretrained(tmp_path)
    assert loaded.sampler == sampler
    assert torch.equal(walk(loaded, x), walk(saved, x))
    again = scheduling.SamplerScheduler.from_config(saved.config)
    assert again.sampler == sampler


def test_a_pipeline_is_saved_and_loaded_with_it(pipelines: dict[str, Any], tmp_path: Path) -> None:
    pipe, x = pipelines["text"], normal(1, 4, 8, 8)
    pipe.scheduler = as_scheduler(SAMPLERS["unipc"], seeds=4)
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.scheduler.sampler == SAMPLERS["unipc"]
    given = {"guidance_scale": 3.0, "num_inference_steps": 5, "output_type": "pt"}
    first, second = (made(PROMPT, latents=x.clone(), **given).images for made in (pipe, loaded))
    torch.testing.assert_close(second, first, **CLOSE)
    assert from_pipeline(tmp_path).schedule == LATENT


@pytest.mark.parametrize(
    "schedule",
    [
        LATENT,
        NoiseSchedule.linear(50).zero_terminal_snr(),
        NoiseSchedule.cosine(30),
        NoiseSchedule.rectified_flow(30),
        load_schedule({"shift": 3.0}),
    ],
)
def test_their_schedulers_are_made_of_its_config(schedule: NoiseSchedule) -> None:
    """``OtherScheduler.from_config(pipe.scheduler.config)`` is how pipelines are given another scheduler."""
    config = as_scheduler(DDIMSampler(schedule, 3, prediction="v", clip=(-2, 2))).config
    other = diffusers.UniPCMultistepScheduler.from_config(config)
    assert load_schedule(other).is_same(schedule)
    assert config["prediction_type"] == other.config.prediction_type == "v_prediction"
    assert diffusers.DDPMScheduler.from_config(config).config.clip_sample_range == 2


@pytest.mark.parametrize(("count", "spacing"), [(4, "trailing"), (7, "linspace"), (1000, "trailing")])
def test_a_number_of_steps_plans_anew(count: int, spacing: Any) -> None:
    sampler = DDIMSampler(LATENT, 5, spacing=spacing)
    scheduler = as_scheduler(sampler)
    scheduler.set_timesteps(count)
    assert scheduler.sampler == replace(sampler, steps=count)
    assert scheduler.timesteps.tolist() == list(scheduler.sampler.timesteps)
    assert scheduler.num_inference_steps == len(scheduler.timesteps) == count
    scheduler.set_timesteps(5)
    assert scheduler.sampler is sampler


def test_a_list_of_timesteps_plans_anew() -> None:
    scheduler = as_scheduler(SAMPLERS["ddim"])
    scheduler.set_timesteps(timesteps=[900, 10])
    assert scheduler.sampler == DDIMSampler(LATENT, timesteps=[900, 10])
    flow = as_scheduler(DDIMSampler(NoiseSchedule.rectified_flow(), 2, prediction="flow"))
    flow.set_timesteps(timesteps=[1000.0, 250.0])
    assert flow.sampler.timesteps == (999, 249)
    assert flow.timesteps.tolist() == [1000, 250]
    flow.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25], mu=1.15)
    assert flow.sampler.timesteps == (999, 749, 499, 249)
    table = as_scheduler(SAMPLERS["table"])
    table.set_timesteps(timesteps=list(LIST))
    assert table.sampler is SAMPLERS["table"]


@pytest.mark.parametrize("name", ["table", "multistep sde"])
def test_a_list_or_table_takes_no_other_number(name: str) -> None:
    scheduler = as_scheduler(SAMPLERS[name])
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="num_inference_steps=50: give num_inference_steps=5"):
        scheduler.set_timesteps(50)
    with pytest.raises(ValueError, match="entries of the scheduler"):
        scheduler.set_timesteps(timesteps=[1000, 3])


def test_a_table_takes_no_other_list() -> None:
    with pytest.raises(ValueError, match="timesteps of a bare table"):
        as_scheduler(SAMPLERS["table"]).set_timesteps(timesteps=[999, 3])


def test_rows_of_one_timestep_are_walked_one_by_one() -> None:
    x = normal(2, 3)
    scheduler = as_scheduler(STAGES)
    assert scheduler.timesteps.tolist() == [999, 850, 850, 500, 7]
    assert scheduler.order == 2
    assert torch.equal(walk(scheduler, x), STAGES.sample(model, x_T=x))
    scheduler.set_timesteps(5)
    scheduler.set_begin_index(3)
    for t in scheduler.timesteps[3:]:
        x = scheduler.step(model(x, t), t, x, return_dict=False)[0]
    assert torch.equal(x, STAGES.sample(model, x_T=normal(2, 3), start_at=3))


def test_a_walk_begins_where_its_first_timestep_is() -> None:
    """For pipelines that do not call set_begin_index."""
    x = y = normal(2, 3)
    scheduler = as_scheduler(SAMPLERS["multistep"])
    for t in scheduler.timesteps[2:]:
        result = scheduler.step(model(x, t), t, x)
        x = result.prev_sample
    assert torch.equal(x, SAMPLERS["multistep"].sample(model, x_T=y, start_at=2))
    assert torch.equal(result.pred_original_sample, x)
    assert (scheduler.step_index, scheduler.begin_index) == (5, None)


def test_a_pipeline_that_leaves_the_walk_is_told() -> None:
    x, scheduler = normal(2, 3), as_scheduler(SAMPLERS["ddim"])
    first, second, third = scheduler.timesteps[:3]
    with pytest.raises(ValueError, match="must begin at one of the timesteps 999, 799, 599, 399, 199, got 3"):
        scheduler.step(x, 3, x)
    scheduler.step(x, first, x)
    with pytest.raises(ValueError, match=r"next row of the walk, 1, is at timestep 799, got 599"):
        scheduler.step(x, third, x)
    scheduler.step(x, second.expand(2), x)  # an error leaves the walk where it was
    walk_to_the_end(scheduler, x)
    with pytest.raises(ValueError, match="the walk has ended"):
        scheduler.step(x, scheduler.timesteps[-1], x)


def walk_to_the_end(scheduler: Any, x: Tensor) -> None:
    for t in scheduler.timesteps[scheduler.step_index :]:
        scheduler.step(x, t, x)


def test_another_eta_is_refused(pipelines: dict[str, Any]) -> None:
    pipe = pipelines["text"]
    pipe.scheduler = as_scheduler(SAMPLERS["eta"])
    given = {"guidance_scale": 1.0, "num_inference_steps": 5, "output_type": "latent"}
    assert pipe(PROMPT, eta=0.7, **given).images.shape == (1, 4, 8, 8)
    for eta in (0.5, 1, True):
        with pytest.raises(ValueError, match=rf"has eta=0\.7, got eta={eta}"):
            pipe(PROMPT, eta=eta, **given)
    pipe.scheduler = as_scheduler(SAMPLERS["unipc"])
    with pytest.raises(ValueError, match=r"has no eta, got eta=0\.5"):
        pipe(PROMPT, eta=0.5, **given)


def test_wrong_arguments_are_refused() -> None:
    x, scheduler = normal(2, 3), as_scheduler(SAMPLERS["clipped"])
    with pytest.raises(TypeError, match="PlanSampler, got str"):
        as_scheduler("ddim")
    with pytest.raises(ValueError, match="in \\[0, 2\\^63\\)"):
        as_scheduler(SAMPLERS["ddim"], seeds=-1)
    with pytest.raises(ValueError, match="sampler of format ddimkit-sampler"):
        scheduling.SamplerScheduler({"format": "other"})
    with pytest.raises(ValueError, match="got that of DDIMScheduler"):
        scheduling.SamplerScheduler.from_config({"_class_name": "DDIMScheduler"})
    with pytest.raises(ValueError, match="cannot be read: 'kind'"):
        scheduling.SamplerScheduler({"format": "ddimkit-sampler", "schema": 1})
    with pytest.raises(ValueError, match="use_clipped_model_output=False"):
        scheduler.step(x, 999, x, use_clipped_model_output=False)
    with pytest.raises(ValueError, match="equally spaced from 1 to 1/2"):
        scheduler.set_timesteps(sigmas=[1.0, 0.4])
    with pytest.raises(ValueError, match="exclude one another"):
        scheduler.set_timesteps(5, timesteps=[3])
    with pytest.raises(TypeError, match="num_inference_steps must be an integer"):
        scheduler.set_timesteps(2.5)
    with pytest.raises(ValueError, match="steps must lie in"):
        scheduler.set_timesteps(1001)
    with pytest.raises(TypeError, match="sample must be a floating point tensor"):
        scheduler.step(x, 999, x.long())
    for wrong in (torch.tensor([1000]), torch.tensor([-1, 4])):
        with pytest.raises(ValueError, match="entries of the scheduler's timesteps"):
            scheduler.add_noise(x, x, wrong)
    stages = as_scheduler(STAGES)
    stages.set_begin_index(5)
    with pytest.raises(ValueError, match="must begin at one of"):
        stages.step(x, 7, x)


def test_noise_is_added_as_the_schedule_has_it() -> None:
    x0, eps = normal(3, 2, 2), normal(3, 2, 2, seed=1)
    found = as_scheduler(SAMPLERS["ddim"]).add_noise(x0, eps, torch.tensor([0, 999, 500]))
    assert torch.equal(found, LATENT.add_noise(x0, eps, torch.tensor([0, 999, 500])))
    flow = as_scheduler(DDIMSampler(load_schedule({"shift": 3.0}), 4, prediction="flow"))
    found = flow.scale_noise(x0, flow.timesteps[2:3], eps)
    sigma = flow.timesteps[2] / 1000
    torch.testing.assert_close(found, (1 - sigma) * x0 + sigma * eps)
    assert len(flow) == 1000
    halves = as_scheduler(SAMPLERS["ddim"]).add_noise(x0.half(), eps.half(), torch.tensor(500))
    assert halves.dtype is torch.float16


# Where diffusers' DDIM and ours agree by right, and where they do not.

MODEL_SCHEDULE = NoiseSchedule.linear()
DENOISER = gaussian_x0(MODEL_SCHEDULE, 0.3, 0.2)


def eps_of(x: Tensor, t: Tensor) -> Tensor:
    """The noise that the exact denoiser of a Gaussian sees."""
    t = t.expand(len(x))
    s, n = (torch.from_numpy(v.copy())[t, None] for v in (MODEL_SCHEDULE.signal, MODEL_SCHEDULE.noise))
    return (x - s * DENOISER(x, t)) / n


def theirs(count: int, clipped_output: bool = True, **settings: Any) -> Tensor:
    """What diffusers' DDIM draws; its own settings are the scheduler's defaults."""
    scheduler = diffusers.DDIMScheduler(**settings)
    scheduler.set_timesteps(count)
    x = normal(64, 8, dtype=torch.float64)
    for t in scheduler.timesteps:
        x = scheduler.step(eps_of(x, t), t, x, use_clipped_model_output=clipped_output).prev_sample
    return x


def ours(count: int, spacing: Any, clip: Any = None) -> Tensor:
    return DDIMSampler(MODEL_SCHEDULE, count, spacing=spacing, clip=clip).sample(eps_of, x_T=normal(64, 8, dtype=torch.float64))


@pytest.mark.parametrize("count", [5, 10, 50, 100])
@pytest.mark.parametrize("clip", [None, (-1.0, 1.0)])
def test_theirs_and_ours_agree_by_right(count: int, clip: Any) -> None:
    """Steps that divide T, equally spaced, eps of the clipped image, the last step to the clean image."""
    for spacing in ("leading", "trailing"):
        found = theirs(count, clip_sample=clip is not None, timestep_spacing=spacing)
        torch.testing.assert_close(found, ours(count, spacing, clip), rtol=0, atol=2e-4)


@cache
def digits(count: int, clipped_output: bool = True, **settings: Any) -> Tensor:
    """Four digits of the bundled model by diffusers' DDIM."""
    mnist = load_pretrained("mnist")
    config = {"prediction_type": "v_prediction", **settings}
    scheduler = diffusers.DDIMScheduler(**config)
    scheduler.set_timesteps(count)
    x = normal(4, 1, 28, 28)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(mnist.model(x, t.expand(4)), t, x, use_clipped_model_output=clipped_output).prev_sample
    return x


@cache
def our_digits(count: int, spacing: Any) -> Tensor:
    mnist = load_pretrained("mnist")
    return mnist.sampler(DDIMSampler, count, spacing=spacing, clip=(-1, 1)).sample(mnist.model, x_T=normal(4, 1, 28, 28))


GUIDE = Path(__file__).parent.parent / "docs" / "diffusers.md"
# What it says of the mean absolute difference of these digits.
FIGURES: dict[str, tuple[float, Callable[[], tuple[Tensor, Tensor]]]] = {
    "none": (0.0, lambda: (our_digits(50, "leading"), digits(50))),
    "use_clipped_model_output=False": (6.3e-3, lambda: (our_digits(50, "leading"), digits(50, clipped_output=False))),
    "set_alpha_to_one=False": (5.9e-3, lambda: (our_digits(50, "leading"), digits(50, set_alpha_to_one=False))),
    "timestep_spacing='leading'": (4.1e-3, lambda: (our_digits(50, "trailing"), our_digits(50, "leading"))),
    "60 steps, trailing": (3.0e-2, lambda: (our_digits(60, "trailing"), digits(60, timestep_spacing="trailing"))),
}


@pytest.mark.parametrize("what", FIGURES)
def test_what_differs_by_their_defaults_is_what_the_guide_says(what: str) -> None:
    figure, draw = FIGURES[what]
    if figure:
        assert f"| {figure:.1e} |".replace("e-0", "e-") in GUIDE.read_text(encoding="utf-8")
    one, other = draw()
    assert float((one - other).abs().mean()) == pytest.approx(figure, rel=0.05, abs=3e-6)
