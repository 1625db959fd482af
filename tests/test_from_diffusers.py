"""diffusers' UNet2DModel folders as our UNet: equal outputs, and clear words for what has no equal."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ddimkit import DDIMSampler, NoiseSchedule, UNet, UNetConfig, WeightsError
from ddimkit.interop.diffusers import load_unet, rename_unet_weights, unet_config
from ddimkit.models.unet import CIFAR10_CONFIG
from probes import normal

# google/ddpm-cifar10-32's own config.json, sizes aside.
PUBLISHED: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
SMALL = {**PUBLISHED, "block_out_channels": [16, 32, 32, 32], "norm_num_groups": 8}


def test_the_published_configuration_is_ours() -> None:
    assert unet_config(PUBLISHED) == CIFAR10_CONFIG


@pytest.mark.parametrize("changes", [{}, {"num_class_embeds": 5, "in_channels": 1, "out_channels": 2, "layers_per_block": 1}])
def test_a_saved_model_gives_the_same_output(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = {key: value for key, value in (SMALL | changes).items() if not key.startswith("_")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            theirs: Any = diffusers.UNet2DModel(**settings).eval()
        theirs.save_pretrained(tmp_path)
    ours = UNet.from_diffusers(tmp_path)
    assert not ours.training
    x, t = normal(3, ours.config.in_channels, 8, 16), torch.tensor([0, 400, 999])
    labels = torch.tensor([0, 3, 4]) if changes else None
    with torch.no_grad():
        wanted = theirs(x, t, class_labels=labels).sample if changes else theirs(x, t).sample
        torch.testing.assert_close(ours(x, t, labels) if changes else ours(x, t), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
        ({"attention_head_dim": 8}, "attention_head_dim=8"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"time_embedding_type": "fourier"}, "fourier"),
        ({"down_block_types": ["DownBlock2D", "ResnetDownsampleBlock2D"]}, "ResnetDownsampleBlock2D"),
        ({"up_block_types": ["UpBlock2D"] * 4}, "mirror image"),
    ],
)
def test_what_has_no_equal_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        unet_config(PUBLISHED | changes)


def test_settings_left_out_have_diffusers_defaults() -> None:
    """Which ours are not."""
    with pytest.raises(ValueError, match="flip_sin_to_cos=True"):
        unet_config({key: value for key, value in PUBLISHED.items() if key != "flip_sin_to_cos"})


def folder(path: Path, weights: dict[str, torch.Tensor] | None) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(SMALL))
    if weights is not None:
        save_file(weights, path / "diffusion_pytorch_model.safetensors")
    return path


@pytest.mark.promise(46)
def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_unet(tmp_path / "none")
    bare = folder(tmp_path / "bare", None)
    (bare / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(WeightsError, match="pickles are not loaded"):
        load_unet(bare)
    with pytest.raises(WeightsError, match="does not hold the weights"):
        load_unet(folder(tmp_path / "other", {"x": torch.zeros(3)}))
    damaged = folder(tmp_path / "damaged", None)
    (damaged / "diffusion_pytorch_model.safetensors").write_bytes(b"{}")
    with pytest.raises(WeightsError, match="does not hold the weights"):
        load_unet(damaged)


def test_a_pipelines_folder_will_do(tmp_path: Path) -> None:
    names = UNet(UNetConfig(channels=(16, 32, 32, 32), groups=8)).state_dict()
    assert rename_unet_weights(names).keys() == names.keys()  # our own names go through as they are
    folder(tmp_path / "unet", names)
    assert load_unet(tmp_path).config == unet_config(SMALL)


WHOLE, INDEX = "diffusion_pytorch_model{}.safetensors", "diffusion_pytorch_model.safetensors.index{}.json"


def saved(path: Path, weights: dict[str, torch.Tensor], variant: str | None, *, shards: int = 1) -> Path:
    """A folder as diffusers writes it, in one file or in shards."""
    made, middle = folder(path, None), "" if variant is None else f".{variant}"
    if shards == 1:
        save_file(weights, made / WHOLE.format(middle))
        return made
    named = {name: WHOLE.format(f"{middle}-{1 + i % shards:05}-of-{shards:05}") for i, name in enumerate(weights)}
    for file in set(named.values()):
        save_file({name: weights[name] for name in named if named[name] == file}, made / file)
    (made / INDEX.format(middle)).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": named}))
    return made


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_variants_and_shards_are_read_as_float32(variant: str | None, shards: int, tmp_path: Path) -> None:
    weights = {name: tensor.half() for name, tensor in UNet(unet_config(SMALL)).state_dict().items()}
    model = UNet.from_diffusers(saved(tmp_path / "a", weights, variant, shards=shards), variant=variant)
    assert model.state_dict().keys() == weights.keys()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype is torch.float32
        assert torch.equal(tensor, weights[name].float())
    drawn = DDIMSampler(NoiseSchedule.linear(), 1).sample(model, (1, 3, 8, 8), seed=0)
    assert drawn.dtype is torch.float32


def test_a_variant_is_read_only_where_it_is_named(tmp_path: Path) -> None:
    weights = UNet(unet_config(SMALL)).state_dict()
    half = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for shards in (1, 2):
        made = saved(tmp_path / f"alone {shards}", weights, "fp16", shards=shards)
        with pytest.raises(WeightsError, match="give variant='fp16'"):
            load_unet(made)
        with pytest.raises(WeightsError, match="give variant='fp16'"):
            load_unet(made, variant="bf16")
    both = saved(tmp_path / "both", weights, None)
    save_file(half, both / WHOLE.format(".fp16"))
    assert load_unet(both).conv_in.weight.any()
    assert not load_unet(both, variant="fp16").conv_in.weight.any()
    with pytest.raises(WeightsError, match="safe_serialization=True"):
        load_unet(folder(tmp_path / "none", None), variant="fp16")


@pytest.mark.promise(46)
@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("no JSON", "cannot be read as JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "weight_map, got None"),
        ('{"weight_map": {}}', "weight_map"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "beside it"),
        ('{"weight_map": {"a": "shard.bin"}}', "must list safetensors"),
        ('{"weight_map": {"a": "missing.safetensors"}}', "missing.safetensors does not hold"),
    ],
)
def test_wrong_indices_are_refused(index: str, says: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "secret.safetensors")
    made = folder(tmp_path / "unet", None)
    (made / INDEX.format("")).write_text(index)
    with pytest.raises(WeightsError, match=says):
        load_unet(made)
