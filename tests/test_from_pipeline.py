"""Schedules and models of diffusers as ours: the same numbers, and clear words for what has no equal."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddimkit import DDIMKitError, DDIMSampler, DDPMSampler, DynamicThreshold, NoiseSchedule, WeightsError
from ddimkit.interop import _scheduler_config
from ddimkit.interop.diffusers import from_pipeline, load_schedule
from ddimkit.prediction import Clip
from pipelines import autoencoder, conditional_unet, diffusers, embeddings, flow_transformer, seeded, stable_diffusion_3, unet
from probes import normal

# diffusers passes tensors to numpy's older protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DDIM = "DDIMScheduler"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (DDIM, {}),
        ("DDPMScheduler", {"num_train_timesteps": 50, "beta_schedule": "squaredcos_cap_v2"}),
        ("DDPMScheduler", {"beta_schedule": "sigmoid"}),
        ("DDPMScheduler", {"num_train_timesteps": 100, "beta_schedule": "laplace"}),
        ("HeunDiscreteScheduler", {"num_train_timesteps": 100, "beta_schedule": "exp"}),
        ("HeunDiscreteScheduler", {}),
        ("PNDMScheduler", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        ("LCMScheduler", {}),
        ("UniPCMultistepScheduler", {"trained_betas": [0.01, 0.02, 0.4], "num_train_timesteps": 3}),
        (DDIM, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    ],
)
def test_schedules_of_betas_are_theirs(name: str, settings: dict[str, Any]) -> None:
    theirs = getattr(diffusers, name)(**settings)
    ours = load_schedule(theirs)
    wanted = theirs.alphas_cumprod.double().numpy()
    # Theirs are products of float32 numbers.
    np.testing.assert_allclose(ours.alpha_bars, wanted, rtol=2e-5, atol=1e-7)
    assert (ours.alpha_bars[-1] == 0) == bool(settings.get("rescale_betas_zero_snr"))


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_schedules_are_theirs(name: str, shift: float) -> None:
    theirs = getattr(diffusers, name)(num_train_timesteps=20, shift=shift)
    ours = load_schedule(theirs)
    np.testing.assert_allclose(ours.noise, theirs.sigmas.numpy()[::-1], rtol=1e-6)
    np.testing.assert_allclose(ours.signal + ours.noise, 1, rtol=1e-15)
    other = load_schedule(
        {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "flow_shift": shift, "num_train_timesteps": 20}
    )
    assert other.is_same(ours)
    assert ours == NoiseSchedule.rectified_flow(20) or shift != 1


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_shift_by_the_images_size_is_given_as_mu(kind: str) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(10, use_dynamic_shifting=True, time_shift_type=kind)
    theirs.set_timesteps(sigmas=np.arange(10, 0, -1) / 10, mu=1.15)
    np.testing.assert_allclose(load_schedule(theirs, mu=1.15).noise[::-1], theirs.sigmas[:-1].numpy(), rtol=1e-6)
    with pytest.raises(ValueError, match="give mu="):
        load_schedule(theirs)
    for config in (diffusers.DDIMScheduler(), diffusers.FlowMatchEulerDiscreteScheduler()):
        with pytest.raises(ValueError, match=r"mu=1\.15"):
            load_schedule(config, mu=1.15)


def test_every_kind_of_source_gives_the_same(tmp_path: Path) -> None:
    scheduler = diffusers.PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    scheduler.save_pretrained(tmp_path / "pipeline" / "scheduler")
    sources = [scheduler, scheduler.config, dict(scheduler.config), tmp_path / "pipeline", str(tmp_path / "pipeline" / "scheduler")]
    assert {load_schedule(source) for source in sources} == {NoiseSchedule.scaled_linear()}
    assert load_schedule(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0).config).signal[-1] == 0


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"_class_name": "EDMEulerScheduler"}, r"EDMEulerScheduler has no equal.*from_sigma_model"),
        ({"_class_name": "VQDiffusionScheduler"}, "VQDiffusionScheduler"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type='continuous'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "invert_sigmas=True"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 0.1}, r"shift_terminal=0\.1"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": -1.0}, r"above 0, got -1\.0"),
        ({"beta_schedule": "warped"}, "beta_schedule='warped'"),
        ({"beta_end": 2}, "betas must lie in"),
    ],
)
def test_schedulers_without_equal_are_named(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load_schedule(config)


def test_options_left_over_from_another_class_are_passed_over() -> None:
    left_over = {
        "thresholding": True,
        "rescale_betas_zero_snr": True,
        "use_flow_sigmas": True,
        "use_dynamic_shifting": True,
        "invert_sigmas": True,
        "shift_terminal": 0.1,
        "snr_shift_scale": 3.0,
        "timestep_type": "continuous",
    }
    for name, kind in vars(diffusers).items():
        if not name.endswith("Scheduler") or name not in _scheduler_config._BETAS | _scheduler_config._FLOW:
            continue
        read = set(inspect.signature(kind.__init__).parameters)
        assert {option for option, readers in _scheduler_config._READERS.items() if name in readers} == read & set(
            _scheduler_config._READERS
        )
        config = {"_class_name": name}
        passed_over = {option: value for option, value in left_over.items() if option not in read}
        assert load_schedule({**config, **passed_over}).is_same(load_schedule(config))
        assert _scheduler_config.clip_of({**config, **passed_over}) == _scheduler_config.clip_of(config)


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ({"_class_name": 5}, TypeError, "_class_name must be the name"),
        ({"_class_name": ["DDIMScheduler"]}, TypeError, "_class_name must be the name"),
        ({"_class_name": "SamplerScheduler", "_sampler": 3}, ValueError, "must be a mapping, got int"),
        ({"_class_name": "SamplerScheduler"}, ValueError, "must be a mapping, got NoneType"),
        ({"num_train_timesteps": 10**12}, ValueError, "num_train_timesteps=1000000000000"),
        ({"num_train_timesteps": "1000"}, TypeError, "must be an integer"),
        ({"prediction_type": ["epsilon"]}, ValueError, "prediction_type="),
    ],
)
def test_values_of_wrong_types_are_named(config: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        load_schedule(config)


def test_wrong_sources_of_a_schedule(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"scheduler_config\.json"):
        load_schedule(tmp_path)
    with pytest.raises(TypeError, match="got int"):
        load_schedule(3)
    for text in ("no JSON", "[]", "[" * 100_000):
        (tmp_path / "scheduler_config.json").write_text(text)
        with pytest.raises(ValueError, match=r"scheduler_config\.json"):
            load_schedule(tmp_path)


@pytest.mark.parametrize(
    ("scheduler", "prediction", "clip"),
    [
        (diffusers.DDIMScheduler(), "epsilon", (-1, 1)),
        (diffusers.DDPMScheduler(prediction_type="sample", clip_sample_range=2.0), "x0", (-2, 2)),
        (diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False), "v", None),
        (diffusers.PNDMScheduler(), "epsilon", None),
        (diffusers.LCMScheduler(), "epsilon", None),
        (diffusers.LCMScheduler(clip_sample=True), "epsilon", (-1, 1)),
        (diffusers.DDPMScheduler(thresholding=True, sample_max_value=1.5), "epsilon", DynamicThreshold(0.995, 1.5)),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "flow", None),
    ],
)
def test_prediction_and_clip_are_the_schedulers(scheduler: Any, prediction: str, clip: Clip) -> None:
    bundle = from_pipeline(unet(), scheduler)
    assert (bundle.prediction, bundle.clip) == (prediction, clip)


def test_settings_of_a_scheduler_without_equal_are_named() -> None:
    for config, says in (
        ({"_class_name": DDIM, "prediction_type": "trigflow"}, "prediction_type='trigflow'"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, "variance_type='learned'"),
    ):
        with pytest.raises(ValueError, match=says):
            from_pipeline(unet(), config)


def test_a_unet_of_diffusers_defaults_is_asked_as_it_is() -> None:
    """Attention heads of 8 and flip_sin_to_cos, which our UNet has no equal of."""
    theirs = unet()
    assert theirs.config.attention_head_dim == 8
    assert theirs.config.flip_sin_to_cos
    bundle = from_pipeline(diffusers.DDPMPipeline(theirs, diffusers.DDPMScheduler()))
    x, t = normal(3, 3, 8, 8), torch.tensor([0, 500, 999])
    with torch.no_grad():
        assert torch.equal(bundle.model(x, t), theirs(x, t).sample)
    assert bundle.sample_shape == (3, 8, 8)
    drawn = bundle.sampler(DDIMSampler, steps=2).sample(bundle.model, (2, 3, 8, 8), seed=0)
    assert float(drawn.abs().max()) <= 1


def test_conditions_go_through() -> None:
    theirs = conditional_unet()
    bundle = from_pipeline(theirs, diffusers.PNDMScheduler(beta_schedule="scaled_linear"))
    conditions = normal(3, 5, 16, seed=1)
    sampler = bundle.sampler(DDIMSampler, steps=3)

    def unpacked(x: Tensor, t: Tensor, states: Tensor) -> Tensor:
        sample: Tensor = theirs(x, t, encoder_hidden_states=states).sample
        return sample

    wanted = sampler.sample(unpacked, (3, 4, 8, 8), seed=0, model_kwargs={"states": conditions})
    found = sampler.sample(bundle.model, (3, 4, 8, 8), seed=0, model_kwargs={"encoder_hidden_states": conditions}, batch_size=3)
    assert torch.equal(found, wanted)
    labelled = from_pipeline(unet(num_class_embeds=4), diffusers.DDPMScheduler())
    x, t = normal(2, 3, 8, 8), torch.tensor([10, 10])
    with torch.no_grad():
        one, two = (labelled.model(x, t, class_labels=torch.tensor(labels)) for labels in ([0, 1], [1, 1]))
    assert not torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


class Times:
    """What a model is given for its timestep."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.seen = list[Tensor]()
        model.register_forward_pre_hook(lambda _, args, keywords: self.seen.append(keywords["timestep"]), with_kwargs=True)


def test_a_flow_transformer_is_given_1000_sigma() -> None:
    pipeline = stable_diffusion_3()
    bundle = from_pipeline(pipeline)
    times = Times(pipeline.transformer)
    bundle.sampler(DDIMSampler, steps=4).sample(bundle.model, (2, 4, 8, 8), seed=0, model_kwargs=embeddings(2))
    pipeline.scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    for seen, wanted in zip(times.seen, pipeline.scheduler.timesteps, strict=True):
        assert seen.dtype is torch.float32
        torch.testing.assert_close(seen, wanted.expand(2), rtol=1e-6, atol=0)


def test_a_flow_transformer_that_wants_sigma_is_given_sigma() -> None:
    small = {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
    wide = {"joint_attention_dim": 16, "pooled_projection_dim": 16, "axes_dims_rope": (2, 2, 4), "patch_size": 1}
    model = seeded(diffusers.FluxTransformer2DModel, **small, **wide)
    with pytest.raises(ValueError, match="sample_shape="):
        from_pipeline(model, diffusers.FlowMatchEulerDiscreteScheduler())
    bundle = from_pipeline(model, diffusers.FlowMatchEulerDiscreteScheduler(), sample_shape=(6, 4))
    times = Times(model)
    places = {"img_ids": torch.zeros(6, 3), "txt_ids": torch.zeros(3, 3)}
    sampler = bundle.sampler(DDIMSampler, steps=2)
    x = sampler.sample(bundle.model, (2, 6, 4), seed=0, model_kwargs={**embeddings(2), **places})
    assert x.shape == (2, 6, 4)
    assert [seen.tolist() for seen in times.seen] == [[1.0, 1.0], [0.5, 0.5]]


def test_twice_the_channels_are_cut_unless_the_range_is_learned() -> None:
    model = seeded(
        diffusers.DiTTransformer2DModel, sample_size=8, num_layers=1, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, num_embeds_ada_norm=4, norm_num_groups=4,
    )  # fmt: skip
    plain, learned = (
        from_pipeline(model, diffusers.DDPMScheduler(variance_type=kind)) for kind in ("fixed_small", "learned_range")
    )
    labels = {"class_labels": torch.tensor([0, 1])}
    x, t = normal(2, 4, 8, 8), torch.tensor([3, 4])
    with torch.no_grad():
        whole = learned.model(x, t, **labels)
        assert whole.shape == (2, 8, 8, 8)
        assert torch.equal(plain.model(x, t, **labels), whole[:, :4])
    sampler = learned.sampler(DDPMSampler, steps=2, variance="learned_range")
    assert sampler.sample(learned.model, (2, 4, 8, 8), seed=0, model_kwargs=labels).shape == (2, 4, 8, 8)


def test_a_model_in_half_precision_gets_its_own() -> None:
    bundle = from_pipeline(unet().to(torch.bfloat16), diffusers.DDIMScheduler())
    drawn = bundle.sampler(DDIMSampler, steps=2).sample(bundle.model, (1, 3, 8, 8), seed=0)
    assert drawn.dtype is torch.float32


@pytest.mark.parametrize(("variant", "shards"), [(None, "1GB"), ("fp16", "1GB"), ("fp16", "60KB"), (None, "100KB")])
def test_folders_variants_and_shards(variant: str | None, shards: str, tmp_path: Path) -> None:
    theirs = unet().half()
    theirs.save_pretrained(tmp_path / "unet", variant=variant, max_shard_size=shards)
    assert (len(list((tmp_path / "unet").glob("*.safetensors"))) > 1) == (shards != "1GB")
    diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path / "scheduler")
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    whole = from_pipeline(tmp_path, variant=variant)
    assert (whole.name, whole.schedule, whole.clip) == (tmp_path.name, NoiseSchedule.cosine(), (-1, 1))
    alone = from_pipeline(tmp_path / "unet", tmp_path / "scheduler", variant=variant)
    assert alone.weights_sha256() == whole.weights_sha256() is not None
    x, t = normal(2, 3, 8, 8), torch.tensor([3, 900])
    with torch.no_grad():
        assert torch.equal(whole.model(x, t), theirs.float()(x, t).sample)


@pytest.mark.promise(46)
def test_wrong_folders_are_refused_before_weights_are_read(tmp_path: Path) -> None:
    scheduler = diffusers.DDPMScheduler()
    with pytest.raises(FileNotFoundError, match="neither a model's"):
        from_pipeline(tmp_path, scheduler)
    unet().save_pretrained(tmp_path / "unet")
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(WeightsError, match=r"model\.fp16\.safetensors, but diffusion_pytorch_model\.safetensors"):
        from_pipeline(tmp_path / "unet", scheduler, variant="fp16")
    weights.write_bytes(b"{}")
    with pytest.raises(WeightsError, match="does not hold the weights"):
        from_pipeline(tmp_path / "unet", scheduler)
    weights.rename(weights.with_name("diffusion_pytorch_model.bin")).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(WeightsError, match="pickles are not loaded"):
        from_pipeline(tmp_path / "unet", scheduler)
    for text, says in (('{"_class_name": "VQModel"}', "VQModel"), ("[]", "JSON object"), ("no", "JSON")):
        (tmp_path / "unet" / "config.json").write_text(text)
        with pytest.raises(ValueError, match=says):
            from_pipeline(tmp_path / "unet", scheduler)
    (tmp_path / "model_index.json").write_text('{"transformer": ["diffusers", "A"], "transformer_2": ["diffusers", "A"]}')
    with pytest.raises(ValueError, match="got transformer, transformer_2"):
        from_pipeline(tmp_path, scheduler)


@pytest.mark.promise(46)
@pytest.mark.parametrize("named", ["evil.bin", "../x.safetensors", "sub/x.safetensors"])
def test_an_index_of_other_files_is_refused_before_any_is_read(named: str, tmp_path: Path) -> None:
    theirs = unet()
    theirs.save_config(tmp_path)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(theirs.state_dict(), named)}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "sub").mkdir()
    for file in {"evil.bin", named}:
        torch.save(theirs.state_dict(), tmp_path / file)
    with pytest.raises(WeightsError, match="must list safetensors files beside it"):
        from_pipeline(tmp_path, diffusers.DDPMScheduler())


def test_models_and_pipelines_without_equal_are_named() -> None:
    scheduler = diffusers.DDIMScheduler()
    with pytest.raises(TypeError, match=r"from_pipeline\(model, scheduler\)"):
        from_pipeline(unet())
    with pytest.raises(TypeError, match="got int"):
        from_pipeline(3)
    with pytest.raises(ValueError, match="AutoencoderKL is no model"):
        from_pipeline(autoencoder(), scheduler)
    with pytest.raises(TypeError, match="with its config"):
        from_pipeline(torch.nn.Identity(), scheduler)
    with pytest.raises(ValueError, match="reads 9 channels and gives 4"):
        from_pipeline(conditional_unet(in_channels=9), scheduler)
    with pytest.raises(ValueError, match="variant='fp16'"):
        from_pipeline(unet(), scheduler, variant="fp16")

    class Two:
        scheduler = diffusers.DDIMScheduler()
        unet = unet()
        transformer = flow_transformer()

    with pytest.raises(ValueError, match=r"Two must have one model.*got unet, transformer"):
        from_pipeline(Two())


def test_without_diffusers_its_absence_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unet().save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(DDIMKitError, match=r"ddimkit\[diffusers\]"):
        from_pipeline(tmp_path, {"beta_schedule": "linear"})


def test_nothing_of_diffusers_is_imported_before_it_is_used() -> None:
    program = (
        "import sys\nfrom ddimkit.interop.diffusers import from_pipeline, load_schedule\n"
        "load_schedule({'beta_schedule': 'linear'})\nassert not {'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
