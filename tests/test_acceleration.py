"""What accelerate chooses, that it says so, and that the model stays the model."""

import shutil
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddimkit import DDIMSampler, ModelBundle, NoiseSchedule, _compilers, accelerate
from ddimkit._compilers import has_compiler
from ddimkit.graphs import capture
from ddimkit.speed import acceleration
from probes import column, normal

SCHEDULE = NoiseSchedule.cosine(50)
SHAPE = (3, 2, 4, 4)
T = torch.tensor([3, 20, 40])


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, scale: float = 1.0) -> Tensor:
        result: Tensor = self.conv(x + column(t, x) / 100) * scale
        return result


def model() -> Convolved:
    torch.manual_seed(0)
    return Convolved().eval()


def test_the_default_on_a_cpu() -> None:
    given = model()
    expected = given(normal(*SHAPE), T)
    fast = accelerate(given, compile=False)
    assert (fast.choices.device.type, fast.choices.precision, fast.choices.channels_last) == ("cpu", "float32", True)
    assert given.conv.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fast(normal(*SHAPE), T), expected, rtol=1e-6, atol=1e-6)
    assert fast.module is given
    assert str(fast.choices) in repr(fast)
    assert "- not compiled, as asked for" in repr(fast)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_computes_in_it_and_gives_xs_dtype(precision: Any) -> None:
    seen: list[torch.dtype] = []
    given = model()
    given.conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    x = normal(*SHAPE)
    result = accelerate(given, precision=precision, compile=False)(x, T, scale=2.0)
    assert seen == [getattr(torch, precision)]
    assert result.dtype is torch.float32
    assert 1e-7 < (result - given(x, T, scale=2.0)).abs().max() < 0.05
    assert not torch.is_autocast_enabled("cpu")


def test_layout_is_left_alone_where_asked_or_of_no_use() -> None:
    assert not accelerate(model(), channels_last=False, compile=False).choices.channels_last
    plain = accelerate(nn.Linear(4, 4), compile=False).choices
    assert not plain.channels_last
    assert "has no two-dimensional convolutions" in str(plain)


def test_compiled_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    monkeypatch.setenv("CXX", "mine")
    monkeypatch.setattr(shutil, "which", lambda name: "here" if name == "mine" else None)
    given = model()
    fast = accelerate(given)
    assert fast.choices.compile
    assert compiled == [given]
    assert "compiled, since there is a C++ compiler" in str(fast.choices)
    monkeypatch.setenv("CXX", "no other")
    assert not accelerate(given).choices.compile
    assert compiled == [given]
    with pytest.raises(ValueError, match=r"compile=True needs a C\+\+ compiler"):
        accelerate(given, compile=True)


@pytest.mark.parametrize(("capability", "precision"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float32")])
def test_precision_on_cuda_is_what_the_gpu_computes_in(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert acceleration._precision(None, torch.device("cuda"))[0] == precision
    assert acceleration._precision("float16", torch.device("cuda"))[0] == "float16"


@pytest.mark.parametrize(
    ("capability", "triton", "compiler", "there"),
    [((7, 0), True, "gcc", True), ((6, 1), True, "gcc", False), ((9, 0), False, "gcc", False), ((9, 0), True, "g++", False)],
)
def test_compiling_for_cuda_needs_triton_a_compiler_and_a_gpu_it_knows(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], triton: bool, compiler: str, there: bool
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(_compilers, "find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr(shutil, "which", lambda name: "here" if name == compiler else None)
    assert has_compiler(torch.device("cuda")) is there
    assert not has_compiler(torch.device("mps"))


def test_a_model_stays_where_it_is_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[object] = []
    monkeypatch.setattr(Convolved, "to", lambda self, *places, **layout: moved.extend(places))
    accelerate(model(), compile=False)
    assert moved == []
    accelerate(model(), compile=False, device="cpu")
    assert moved == [torch.device("cpu")]


def test_bad_arguments_raise() -> None:
    with pytest.raises(TypeError, match="Module, got function"):
        accelerate(lambda x, t: x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, float16, got 'int8'"):
        accelerate(model(), precision="int8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="device 'nowhere' cannot be used here"):
        accelerate(model(), device="nowhere")


def test_it_samples_as_the_model_does_and_in_graphs() -> None:
    given, sampler = model(), DDIMSampler(SCHEDULE, steps=5, eta=0.5)
    fast = accelerate(given, compile=False)
    expected = sampler.sample(given, SHAPE, seed=0)
    assert torch.equal(sampler.sample(fast, SHAPE, seed=0), expected)
    captured = capture(sampler, fast, SHAPE)
    assert torch.equal(captured(seed=0), expected)
    given.load_state_dict({name: value + 1 for name, value in given.state_dict().items()}, assign=True)
    assert torch.equal(captured(seed=0), sampler.sample(given, SHAPE, seed=0))


@pytest.mark.promise(36)
def test_train_mode_is_seen_through_it() -> None:
    fast = accelerate(model().train(), compile=False)
    assert fast.module.training
    with pytest.warns(UserWarning, match="train mode"):
        DDIMSampler(SCHEDULE, steps=2).sample(fast, SHAPE, seed=0)
    fast.module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DDIMSampler(SCHEDULE, steps=2).sample(fast, SHAPE, seed=0)


def test_weights_are_the_same_to_a_bundle_half_precision_is_not() -> None:
    bundle = ModelBundle(model=model(), schedule=SCHEDULE, sample_shape=(2, 4, 4))
    plain, half = (replace(bundle, model=accelerate(model(), precision=p, compile=False)) for p in ("float32", "bfloat16"))
    assert bundle.weights_sha256() == plain.weights_sha256()
    assert half.weights_sha256() not in (None, plain.weights_sha256())


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="no compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_it_gives_the_same_to_rounding() -> None:
    given, x = model(), normal(*SHAPE)
    expected = given(x, T)
    torch.testing.assert_close(accelerate(given, compile=True)(x, T), expected, rtol=1e-5, atol=1e-6)
