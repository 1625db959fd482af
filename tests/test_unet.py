"""The reference UNet: its size, its published names, its arithmetic, and what it refuses."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from ddimkit import DDPMSampler, NoiseSchedule, UNet, UNetConfig
from ddimkit.interop.diffusers import rename_unet_weights
from ddimkit.models.unet import CIFAR10_CONFIG, DownLevel, channels_last, time_embedding
from probes import normal

SMALL = UNetConfig(1, 1, channels=(8, 16, 16), blocks=1, attention_levels=(1,), groups=4)

# Attention's parts under diffusers' names, before and after it renamed them: group norm, query, key, value, output.
OLD = ("group_norm", "query", "key", "value", "proj_attn")
NEW = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
Shapes = dict[str, tuple[int, ...]]


def linear(name: str, wide_in: int, wide_out: int) -> Shapes:
    return {f"{name}.weight": (wide_out, wide_in), f"{name}.bias": (wide_out,)}


def convolution(name: str, wide_in: int, wide_out: int, size: int = 3) -> Shapes:
    return {f"{name}.weight": (wide_out, wide_in, size, size), f"{name}.bias": (wide_out,)}


def norm(name: str, wide: int) -> Shapes:
    return {f"{name}.weight": (wide,), f"{name}.bias": (wide,)}


def resnet(name: str, wide_in: int, wide_out: int, embedding: int) -> Shapes:
    shapes = norm(f"{name}.norm1", wide_in) | convolution(f"{name}.conv1", wide_in, wide_out)
    shapes |= linear(f"{name}.time_emb_proj", embedding, wide_out)
    shapes |= norm(f"{name}.norm2", wide_out) | convolution(f"{name}.conv2", wide_out, wide_out)
    return shapes if wide_in == wide_out else shapes | convolution(f"{name}.conv_shortcut", wide_in, wide_out, 1)


def attention(name: str, wide: int, parts: tuple[str, ...]) -> Shapes:
    first, *others = parts
    shapes = norm(f"{name}.{first}", wide)
    for part in others:
        shapes |= linear(f"{name}.{part}", wide, wide)
    return shapes


def published(channels: tuple[int, ...], blocks: int, attends: tuple[int, ...], parts: tuple[str, ...], images: int = 3) -> Shapes:
    """Every name and shape of diffusers' `UNet2DModel` of this layout."""
    base, top, last = channels[0], channels[-1], len(channels) - 1
    shapes = convolution("conv_in", images, base)
    shapes |= linear("time_embedding.linear_1", base, 4 * base) | linear("time_embedding.linear_2", 4 * base, 4 * base)
    skips = [base]
    for level, wide in enumerate(channels):
        for i in range(blocks):
            shapes |= resnet(f"down_blocks.{level}.resnets.{i}", skips[-1], wide, 4 * base)
            shapes |= attention(f"down_blocks.{level}.attentions.{i}", wide, parts) if level in attends else {}
            skips.append(wide)
        if level < last:
            shapes |= convolution(f"down_blocks.{level}.downsamplers.0.conv", wide, wide)
            skips.append(wide)
    for i in range(2):
        shapes |= resnet(f"mid_block.resnets.{i}", top, top, 4 * base)
    shapes |= attention("mid_block.attentions.0", top, parts)
    below = top
    for block, level in enumerate(range(last, -1, -1)):
        wide = channels[level]
        for i in range(blocks + 1):
            shapes |= resnet(f"up_blocks.{block}.resnets.{i}", below + skips.pop(), wide, 4 * base)
            shapes |= attention(f"up_blocks.{block}.attentions.{i}", wide, parts) if level in attends else {}
            below = wide
        if level:
            shapes |= convolution(f"up_blocks.{block}.upsamplers.0.conv", wide, wide)
    return shapes | norm("conv_norm_out", base) | convolution("conv_out", base, images)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A second thread only costs a network this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(config).eval()


def test_the_cifar10_model_has_the_published_size() -> None:
    with torch.device("meta"):
        model = UNet(CIFAR10_CONFIG)
    assert sum(p.numel() for p in model.parameters()) == 35_746_307


@pytest.mark.parametrize("parts", [OLD, NEW], ids=["old names", "new names"])
def test_the_published_weights_load_by_the_name_map_alone(parts: tuple[str, ...]) -> None:
    shapes = published((128, 256, 256, 256), 2, (1,), parts)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 35_746_307
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    renamed = rename_unet_weights(weights)
    assert len(renamed) == len(weights)
    assert {id(tensor) for tensor in renamed.values()} == {id(tensor) for tensor in weights.values()}
    with torch.device("meta"):
        UNet(CIFAR10_CONFIG).load_state_dict(renamed, assign=True)


def test_old_and_new_names_lead_to_the_same_places() -> None:
    layouts = [published((8, 16, 16), 1, (1,), parts) for parts in (OLD, NEW)]
    numbers = [torch.tensor(float(i)) for i in range(len(layouts[0]))]
    first, second = (rename_unet_weights(dict(zip(layout, numbers, strict=True))) for layout in layouts)
    assert first == second


@pytest.mark.parametrize("size", [(8, 16)])
def test_outputs_agree_with_diffusers(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        channels = (16, 32, 32, 32)
        down = ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            theirs: Any = diffusers.UNet2DModel(
                in_channels=3,
                out_channels=3,
                block_out_channels=channels,
                layers_per_block=2,
                norm_num_groups=8,
                norm_eps=1e-6,
                flip_sin_to_cos=False,
                freq_shift=1,
                downsample_padding=0,
                attention_head_dim=None,
                down_block_types=down,
                up_block_types=[name.replace("Down", "Up") for name in reversed(down)],
            ).eval()
    ours = UNet(UNetConfig(channels=channels, groups=8)).eval()
    ours.load_state_dict(rename_unet_weights(theirs.state_dict()))
    x, t = normal(3, 3, *size), torch.tensor([0, 400, 999])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t), theirs(x, t).sample, rtol=0, atol=1e-5)


@given(st.integers(2, 40).map(lambda half: 2 * half), st.lists(st.integers(0, 999), min_size=1, max_size=5))
def test_the_time_embedding_is_sin_then_cos_with_divisor_half_minus_one(width: int, times: list[int]) -> None:
    half = width // 2
    expected = np.empty((len(times), width))
    for row, t in enumerate(times):
        for i in range(half):
            angle = t * 10000.0 ** (-i / (half - 1))
            expected[row, i], expected[row, half + i] = np.sin(angle), np.cos(angle)
    found = time_embedding(torch.tensor(times), width)
    assert found.dtype is torch.float32
    # The angle itself, up to 999, is rounded in float32.
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=3e-4)


def test_the_cifar10_model_has_the_papers_settings() -> None:
    assert UNetConfig(3, 3, (128, 256, 256, 256), 2, (1,), groups=32, eps=1e-6, dropout=0.0, num_classes=0) == CIFAR10_CONFIG


def test_a_stride_2_convolution_is_padded_below_and_at_the_right() -> None:
    level, h, skips = DownLevel(SMALL, 0, [], stride=2), normal(1, 8, 4, 6), list[Tensor]()
    found = level(h, torch.empty(0), skips)
    assert level.resample is not None
    weight, bias = level.resample.weight, level.resample.bias
    padded = torch.zeros(1, 8, 5, 7)
    padded[:, :, :4, :6] = h
    for y in range(2):
        for x in range(3):
            window = padded[0, :, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
            torch.testing.assert_close(found[0, :, y, x], (weight * window).sum(dim=(1, 2, 3)) + bias)
    assert skips == [found]


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (28, 4)])
def test_resolutions_that_divide_keep_their_shape(size: tuple[int, int]) -> None:
    assert small()(normal(2, 1, *size), torch.tensor([0, 9])).shape == (2, 1, *size)


@pytest.mark.parametrize("size", [(4, 6), (5, 4), (2, 4), (27, 28)])
def test_other_resolutions_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"divisible by 4, got {size[0]}x{size[1]}: pad the images"):
        small()(normal(2, 1, *size), torch.tensor([0, 9]))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 8, 8)])
def test_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\), got"):
        small()(normal(*shape), torch.tensor([0, 9]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": ()}, "at least 1"),
        ({"blocks": 0}, "at least 1"),
        ({"channels": (8, 12), "groups": 8}, "groups=8 must divide every width, but channels has 12"),
        ({"attention_levels": (3,)}, r"attention level 3 is outside 0\.\.2"),
        ({"attention_levels": (-1,)}, r"attention level -1 is outside 0\.\.2"),
        ({"channels": (2, 4), "groups": 2}, "even and at least 4"),
        ({"channels": (9, 9), "groups": 3}, "even and at least 4"),
        ({"dropout": 1.0}, r"\[0, 1\), got 1\.0"),
        ({"num_classes": -1}, "at least 0, got -1"),
    ],
)
def test_a_wrong_configuration_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNetConfig(**{"channels": (8, 16, 16), "groups": 4, "attention_levels": (), **settings})


def test_lists_in_a_configuration_become_tuples() -> None:
    config = UNetConfig(channels=[8, 16], attention_levels=[1], groups=4)  # type: ignore[arg-type]  # as read from JSON
    assert (config.channels, config.attention_levels) == ((8, 16), (1,))
    assert hash(config) == hash(UNetConfig(channels=(8, 16), attention_levels=(1,), groups=4))


def test_class_conditioning() -> None:
    model = small(UNetConfig(1, 1, channels=(8, 16), blocks=1, attention_levels=(), groups=4, num_classes=3))
    x, t = normal(2, 1, 8, 8), torch.tensor([5, 5])
    first, other = (model(x, t, torch.tensor(labels)) for labels in ([0, 1], [0, 2]))
    assert torch.equal(first[0], other[0])
    assert not torch.allclose(first[1], other[1])
    with pytest.raises(ValueError, match="num_classes=3, so labels must be given"):
        model(x, t)
    with pytest.raises(ValueError, match="num_classes=0, so labels must not be given"):
        small()(x, t, torch.tensor([0, 1]))


def test_dropout_acts_in_train_mode_only() -> None:
    model, x, t = small(UNetConfig(1, 1, (8, 16), 1, (), 4, dropout=0.5)), normal(2, 1, 8, 8), torch.tensor([1, 2])
    assert torch.equal(model(x, t), model(x, t))
    model.train()
    with torch.random.fork_rng(devices=[]):
        assert not torch.allclose(model(x, t), model(x, t))


def test_eval_is_deterministic_and_samples_do_not_mix() -> None:
    model, x, t = small(), normal(3, 1, 8, 8), torch.tensor([3, 500, 999])
    with torch.no_grad():
        whole = model(x, t)
        assert torch.equal(whole, model(x, t))
        for i in range(3):
            torch.testing.assert_close(model(x[i : i + 1], t[i : i + 1]), whole[i : i + 1], rtol=1e-4, atol=1e-5)
            assert not torch.allclose(model(x[i : i + 1], t[i : i + 1] // 2), whole[i : i + 1], rtol=1e-4, atol=1e-5)


def test_a_learned_range_has_twice_the_channels() -> None:
    model = small(UNetConfig(1, 2, (8, 16), 1, (), 4))
    sampler = DDPMSampler(NoiseSchedule.cosine(20), steps=3, prediction="v", clip=(-1, 1), variance="learned_range")
    x = sampler.sample(model, (2, 1, 8, 8), seed=0)
    assert model(x, torch.tensor([0, 1])).shape == (2, 2, 8, 8)
    assert bool(torch.isfinite(x).all())


def test_gradients_reach_every_parameter() -> None:
    model = small(UNetConfig(1, 1, (8, 16, 16), 1, (1,), 4, num_classes=2))
    model(normal(2, 1, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 1])).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        # A key's bias adds the same to every logit of a query, which softmax does not see.
        assert name.endswith("key.bias") or bool((p.grad != 0).any()), name


def test_channels_last_changes_nothing_but_rounding() -> None:
    model, x, t = small(), normal(2, 1, 8, 8), torch.tensor([3, 700])
    with torch.no_grad():
        expected: Tensor = model(x, t)
        moved = channels_last(model)
        assert moved.down[0].blocks[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr, index]
        torch.testing.assert_close(moved(x, t), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moved(x.contiguous(memory_format=torch.channels_last), t), expected, rtol=1e-4, atol=1e-5)


def test_the_compiled_way_up_is_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its up-sampling is written in another way, which must not show."""
    torch.manual_seed(0)
    model = UNet(UNetConfig(1, 1, channels=(8, 8, 8), blocks=1, attention_levels=(2,), groups=4)).eval()
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    with torch.no_grad():
        eager = model(x, t)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(model(x, t), eager, rtol=0, atol=1e-6)


def test_projections_that_others_adapted_or_watch_are_called() -> None:
    """Query, key and value are one product only as long as nothing would notice."""
    model = UNet(UNetConfig(1, 1, channels=(8,), blocks=1, attention_levels=(0,), groups=4)).eval()
    x, t, seen = torch.ones(1, 1, 4, 4), torch.tensor([3]), list[object]()
    plain = model(x, t)
    attention = model.middle_attention
    hook = attention.query.register_forward_hook(lambda *_: seen.append(1))
    assert torch.allclose(model(x, t), plain, atol=1e-6)
    assert seen == [1]
    hook.remove()

    class Doubled(torch.nn.Linear):
        def forward(self, h: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(h)

    attention.value.__class__ = Doubled
    assert not torch.allclose(model(x, t), plain, atol=1e-4)


def test_patches_are_the_same_network_on_rearranged_pixels() -> None:
    patched, plain = (UNet(replace(SMALL, in_channels=c, out_channels=c, patch=p)) for c, p in ((1, 2), (4, 1)))
    plain.load_state_dict(patched.state_dict())
    x, t = normal(2, 1, 16, 8, seed=0), torch.tensor([3, 7])
    expected = torch.nn.functional.pixel_shuffle(plain(torch.nn.functional.pixel_unshuffle(x, 2), t), 2)
    assert torch.equal(patched(x, t), expected)
    with pytest.raises(ValueError, match="divisible by 8"):
        patched(normal(2, 1, 12, 8, seed=0), t)


@pytest.mark.parametrize("patch", [0, 3, 2.0, True])
def test_other_patches_are_refused(patch: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"patch must be (1 or 2|an integer)"):
        replace(SMALL, patch=patch)


HOOKS: dict[str, Callable[[nn.Module, list[object]], Any]] = {
    "forward": lambda module, seen: module.register_forward_hook(lambda m, *_: seen.append(m)),
    "forward pre": lambda module, seen: module.register_forward_pre_hook(lambda m, *_: seen.append(m)),
    "backward": lambda module, seen: module.register_full_backward_hook(lambda m, *_: seen.append(m)),
    "backward pre": lambda module, seen: module.register_full_backward_pre_hook(lambda m, *_: seen.append(m)),
    "global forward": lambda _, seen: hooks.register_module_forward_hook(lambda m, *_: seen.append(m)),
    "global forward pre": lambda _, seen: hooks.register_module_forward_pre_hook(lambda m, *_: seen.append(m)),
    "global backward": lambda _, seen: hooks.register_module_full_backward_hook(lambda m, *_: seen.append(m)),
    "global backward pre": lambda _, seen: hooks.register_module_full_backward_pre_hook(lambda m, *_: seen.append(m)),
}


# torch warns of the first layers, whose inputs need no gradient.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("part", ["query", "key", "value"])
@pytest.mark.parametrize("register", HOOKS.values(), ids=HOOKS)
def test_every_kind_of_hook_on_the_fused_layers_fires(register: Callable[..., Any], part: str) -> None:
    model, seen = UNet(SMALL).eval(), list[object]()
    layer = getattr(model.middle_attention, part)
    x, t = normal(2, 1, 8, 8), torch.tensor([3, 7])
    plain = model(x, t)
    handle = register(layer, seen)
    try:
        watched = model(x, t)
        watched.sum().backward()
    finally:
        handle.remove()
    assert layer in seen
    torch.testing.assert_close(watched, plain)
    seen.clear()
    assert torch.equal(model(x, t), plain)
    assert not seen


def test_layers_that_were_changed_are_called() -> None:
    model, x, t = UNet(SMALL).eval(), normal(2, 1, 8, 8), torch.tensor([3, 7])
    attention = model.middle_attention
    plain, original = model(x, t), attention.query.forward
    attention.query.forward = lambda h: original(h) * 2
    changed = model(x, t)
    assert not torch.allclose(changed, plain)
    del attention.query.forward
    attention.key = nn.Linear(16, 16, bias=False)
    assert model(x, t).shape == x.shape


def test_a_hook_on_a_norm_keeps_what_the_norm_gave() -> None:
    model, seen = UNet(SMALL).eval(), list[Tensor]()
    block = model.middle[0]
    block.norm1.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0].clone(), output)))
    model(normal(2, 1, 8, 8), torch.tensor([3, 7]))
    given, output = seen
    assert torch.equal(output, nn.functional.group_norm(given, 4, block.norm1.weight, block.norm1.bias, SMALL.eps))
