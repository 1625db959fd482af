"""States in files: every bit comes back, a walk goes on from them, and what is no state is refused with one error."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddimkit import (
    DDIMSampler,
    DDPMSampler,
    DPMSolverPPSampler,
    DynamicThreshold,
    NoiseSchedule,
    PlanSampler,
    SamplerState,
    UniPCSampler,
    WeightsError,
)
from plugins import AdamsBashforth2
from probes import Malicious, normal, smooth, twice

GOLDEN = Path(__file__).parent / "golden" / "state_v1.safetensors"

S = NoiseSchedule.linear()
TIMES = (999, 760, 400, 130, 9)
SAMPLERS: dict[str, PlanSampler] = {
    "ddim": DDIMSampler(S, timesteps=TIMES),
    "eta": DDIMSampler(S, timesteps=TIMES, eta=0.4, clip=DynamicThreshold()),
    "learned": DDPMSampler(S, timesteps=TIMES, variance="learned_range"),
    "adams": AdamsBashforth2(S, timesteps=TIMES),
    "sde": DPMSolverPPSampler(S, timesteps=TIMES, order=3, eta=1.0),
    "unipc": UniPCSampler(S, timesteps=TIMES, order=3, prediction="v", clip=(-2, 2)),
    "bare": PlanSampler.from_plan(S, AdamsBashforth2(S, timesteps=TIMES).plan()),
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def model_for(sampler: PlanSampler) -> Callable[[Tensor, Tensor], Tensor]:
    return twice if sampler.plan().c_max is not None else smooth


def assert_equal_states(found: SamplerState, expected: SamplerState) -> None:
    """The same in every field: bits, dtypes and memory layout of tensors, types of the rest."""
    for name in (f.name for f in fields(SamplerState)):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if name in ("x", "x0", "history"):
            ours, theirs = ((v,) if isinstance(v, Tensor) else v for v in (ours, theirs))
            for one, other in zip(ours, theirs, strict=True):
                assert one.dtype is other.dtype
                assert one.stride() == other.stride()
                assert one.reshape(-1).view(torch.uint8).equal(other.reshape(-1).view(torch.uint8))
        else:
            assert (type(ours), ours) == (type(theirs), theirs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states")


@given(data=st.data(), dtype=st.sampled_from(DTYPES), keyed=st.booleans(), batch=st.integers(0, 3), as_text=st.booleans())
def test_a_walk_from_a_file_is_the_uninterrupted_one(
    folder: Path, data: st.DataObject, dtype: torch.dtype, keyed: bool, batch: int, as_text: bool
) -> None:
    sampler = data.draw(st.sampled_from(list(SAMPLERS.values())))
    model, noise = model_for(sampler), {draw: normal(batch, 4, seed=draw + 1) for draw in range(-1, sampler.nfe)}
    again: dict[str, Any] = {} if keyed else {"noise_fn": lambda draw, _: noise[draw]}
    start = data.draw(st.integers(0, 0 if sampler is SAMPLERS["bare"] else sampler.nfe - 1))
    first: dict[str, Any] = {"seed": 2**63 - 1 - start} if keyed else again
    states = list(sampler.iterate(model, x_T=normal(batch, 4).to(dtype), start_at=start, **first))
    state = data.draw(st.sampled_from(states))
    path = folder / "walk.safetensors"
    state.save(str(path) if as_text else path)
    loaded = SamplerState.load(str(path) if as_text else path)
    assert_equal_states(loaded, state)
    rest = list(sampler.iterate(model, resume=loaded, **again))
    for found, expected in zip(rest, states[state.index - start + 1 :], strict=True):
        assert_equal_states(found, expected)


def test_another_process_goes_on(tmp_path: Path) -> None:
    sampler, path, last = SAMPLERS["sde"], tmp_path / "walk.safetensors", tmp_path / "last.safetensors"
    states = list(sampler.iterate(smooth, (2, 4), seed=3, dtype=torch.float16))
    states[2].save(path)
    code = (
        "from ddimkit import SamplerState; from test_state_files import SAMPLERS, smooth\n"
        f"*_, last = SAMPLERS['sde'].iterate(smooth, resume=SamplerState.load({str(path)!r})); last.save({str(last)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert_equal_states(SamplerState.load(last), states[-1])


@pytest.mark.parametrize(
    "x",
    [
        normal(2, 3, 4, 5).to(memory_format=torch.channels_last),
        normal(2, 1, 4, 5).to(memory_format=torch.channels_last),
        normal(5, 3).T,
        normal(2, 3, 4, 4, 4).to(memory_format=torch.channels_last_3d),
    ],
    ids=["channels last", "one channel last", "transposed", "channels last, 3-D"],
)
def test_the_memory_layout_is_kept(tmp_path: Path, x: Tensor) -> None:
    state = list(SAMPLERS["adams"].iterate(smooth, x_T=x, seed=0))[2]
    assert x.shape[1] == 1 or state.x.stride() == x.stride() != x.contiguous().stride()
    state.save(tmp_path / "walk")
    assert_equal_states(SamplerState.load(tmp_path / "walk"), state)


def test_tensors_with_gaps_or_in_one_memory_are_saved_too(tmp_path: Path) -> None:
    both = normal(2, 3, 8)
    state = replace(GOLDEN_STATE, x=both[0], x0=both[0], history=(both[1], normal(3, 16)[:, ::2]), seeds=(1, 2, 3))
    state.save(tmp_path / "walk")
    loaded = SamplerState.load(tmp_path / "walk")
    for one, other in zip((loaded.x, loaded.x0, *loaded.history), (state.x, state.x0, *state.history), strict=True):
        assert one.equal(other)


def test_a_state_that_needs_gradients_is_saved_without(tmp_path: Path) -> None:
    state = replace(GOLDEN_STATE, x=GOLDEN_STATE.x.clone().requires_grad_())
    state.save(tmp_path / "walk")
    assert_equal_states(SamplerState.load(tmp_path / "walk"), GOLDEN_STATE)


# The format


GOLDEN_STATE = SamplerState(
    index=3,
    t=400,
    t_next=130,
    x=torch.tensor([[[1.5, -2.0], [0.0, 3.0]], [[-0.0, 2.0**-100], [7.0, 1.0]]], dtype=torch.bfloat16).transpose(1, 2),
    x0=torch.tensor([[[0.5, 1.0], [0.25, -1.0]], [[1.0, 0.0], [-0.5, 0.125]]], dtype=torch.bfloat16),
    nfe=3,
    history=(torch.tensor([[[0.1, 1.0], [0.25, -1.0]], [[1.0, 0.0], [-0.5, 0.3]]]), torch.full((2, 2, 2), -0.7)),
    seeds=(0, 2**63 - 1),
    start_at=1,
    levels=(0.1, 0.9949874371066199),
)


def test_golden_file_of_schema_1(tmp_path: Path) -> None:
    assert_equal_states(SamplerState.load(GOLDEN), GOLDEN_STATE)
    sha256 = GOLDEN_STATE.save(tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == GOLDEN.read_bytes()
    assert sha256 == "3902d87f3a4fcb9d2049cd64640f7065b344402bb2cb9d39affba6dfd02f4d12"
    with safe_open(GOLDEN, "pt") as file:
        assert (file.metadata()["format"], file.metadata()["schema"]) == ("ddimkit-state", "1")


def test_saving_again_replaces_the_file_or_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "walk"
    GOLDEN_STATE.save(path)
    later = replace(GOLDEN_STATE, index=4, nfe=4)

    def cut_off(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", cut_off)
        with pytest.raises(OSError, match="disk full"):
            later.save(path)
    assert_equal_states(SamplerState.load(path), GOLDEN_STATE)
    later.save(path)
    assert_equal_states(SamplerState.load(path), later)
    assert [found.name for found in tmp_path.iterdir()] == ["walk"]


def test_a_state_of_several_batches_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be those of the same samples"):
        replace(GOLDEN_STATE, x=GOLDEN_STATE.x[:1]).save(tmp_path / "walk")
    assert not [*tmp_path.iterdir()]


# What is refused


@pytest.mark.promise(50)
def test_a_sampler_that_did_not_make_it_is_refused(tmp_path: Path) -> None:
    sampler, path = SAMPLERS["ddim"], tmp_path / "walk"
    list(sampler.iterate(smooth, (2, 3), seed=0))[1].save(path)
    state = SamplerState.load(path)
    for times in ((999, 300, 9), (999,), (999, 760, 401)):
        with pytest.raises(ValueError, match="not made by this sampler"):
            DDIMSampler(S, timesteps=times).iterate(smooth, resume=state)
    for schedule in (NoiseSchedule.cosine(), NoiseSchedule.scaled_linear(), NoiseSchedule.linear(beta_end=0.02001)):
        with pytest.raises(ValueError, match="made with another schedule: its signal and noise at t=760"):
            DDIMSampler(schedule, timesteps=TIMES).iterate(smooth, resume=state)


@pytest.mark.promise(50)
def test_a_schedule_that_differs_in_the_last_bits_goes_on() -> None:
    state = next(SAMPLERS["ddim"].iterate(smooth, (2, 3), seed=0))
    assert state.levels == (S.signal[999], S.noise[999])
    signal, noise = state.levels
    *_, last = SAMPLERS["ddim"].iterate(smooth, resume=replace(state, levels=(signal * (1 + 1e-15), noise)))
    *_, expected = SAMPLERS["ddim"].iterate(smooth, resume=replace(state, levels=None))
    assert last.x.equal(expected.x)


def test_a_walk_that_was_not_keyed_needs_its_noise_again(tmp_path: Path) -> None:
    drawn = next(SAMPLERS["eta"].iterate(smooth, (2, 3), generator=torch.Generator().manual_seed(0)))
    drawn.save(tmp_path / "walk")
    with pytest.raises(ValueError, match="give the generator or noise_fn again"):
        SAMPLERS["eta"].iterate(smooth, resume=SamplerState.load(tmp_path / "walk"))


@pytest.mark.promise(46)
@pytest.mark.parametrize("write", [lambda v, p: p.write_bytes(pickle.dumps(v)), torch.save], ids=["pickle", "torch.save"])
def test_nothing_is_ever_unpickled(tmp_path: Path, write: Callable[[object, Path], object]) -> None:
    path, target = tmp_path / "walk", tmp_path / "it ran"
    write(Malicious(target), path)
    with pytest.raises(WeightsError, match=r"walk is no safetensors file .* never loaded"):
        SamplerState.load(path)
    assert not target.exists()


def test_a_missing_file_and_a_missing_device_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        SamplerState.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="device 'abacus' cannot be used"):
        SamplerState.load(GOLDEN, device="abacus")


@given(st.integers(0, GOLDEN.stat().st_size - 1), st.booleans())
def test_a_file_cut_off_anywhere_is_refused(folder: Path, size: int, padded: bool) -> None:
    path, content = folder / "cut", GOLDEN.read_bytes()
    path.write_bytes(content[:size] + (b"\0" * (len(content) - size - 1) if padded else b""))
    with pytest.raises(WeightsError, match=r"cut (is no safetensors file|is not of format|does not describe|holds no state)"):
        SamplerState.load(path)


@given(st.data())
def test_a_changed_header_gives_a_state_or_the_one_error(folder: Path, data: st.DataObject) -> None:
    path, content = folder / "changed", bytearray(GOLDEN.read_bytes())
    size = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, size - 1))] = data.draw(
            st.integers(0, 255) | st.sampled_from(list(b'0123456789[]{},:"-e'))
        )
    path.write_bytes(bytes(content))
    try:
        state = SamplerState.load(path)
    except WeightsError:
        return
    assert state.x.shape == state.x0.shape == (2, 2, 2)


def rewritten(changes: Mapping[str, object] = {}, **tensors: Tensor | None) -> Callable[[Path], None]:
    """The golden file with JSON values of its metadata and tensors changed; None drops a tensor, ``...`` an entry."""

    def rewrite(path: Path) -> None:
        kept = load_file(GOLDEN)
        with safe_open(GOLDEN, "pt") as file:
            metadata = dict(file.metadata())
        for name, value in changes.items():
            metadata.pop(name)
            if value is not ...:
                metadata[name] = value if isinstance(value, str) else json.dumps(value)
        for name, tensor in tensors.items():
            kept[name.replace("_", ".")] = torch.zeros(()) if tensor is None else tensor
            if tensor is None:
                del kept[name.replace("_", ".")]
        save_file(kept, path, metadata)

    return rewrite


def strides(**changes: object) -> Callable[[Path], None]:
    usual: dict[str, object] = {"x": [4, 1, 2], "x0": [4, 2, 1], "history.0": [4, 2, 1], "history.1": [4, 2, 1]}
    return rewritten({"strides": {**usual, **changes}})


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "no safetensors file"),
    "text": (lambda path: path.write_text("<html>not found</html>"), "no safetensors file"),
    "a header of 2^60 bytes": (lambda path: path.write_bytes((2**60).to_bytes(8, "little") + b"{}"), "no safetensors file"),
    "no metadata": (lambda path: save_file(load_file(GOLDEN), path), "not of format ddimkit-state, schema 1: None"),
    "another kind": (rewritten({"format": "ddimkit-unet"}), "schema 1: ddimkit-unet"),
    "another schema": (rewritten({"schema": "2"}), "ddimkit-state, 2"),
    "no JSON": (rewritten({"index": "{"}), "does not describe a ddimkit-state"),
    "JSON as deep as a well": (rewritten({"index": "[" * 100_000 + "]" * 100_000}), "does not describe a ddimkit-state"),
    "an int of a million digits": (rewritten({"index": "1" * 10**6}), "does not describe a ddimkit-state"),
    "an entry missing": (rewritten({"seeds": ..., "t": ...}), "holds no state of a sampler: it lacks seeds, t"),
    "a count that is a bool": (rewritten({"index": True}), "index must be an integer, got True"),
    "a count below 0": (rewritten({"start_at": -1}), "start_at must be at least 0, got -1"),
    "a count that is no integer": (rewritten({"t": 400.0}), "t must be an integer, got 400.0"),
    "a t_next that is a list": (rewritten({"t_next": [1]}), "t_next must be an integer"),
    "calls that do not fit": (rewritten({"nfe": 4}), "after row 3 of a walk from row 1 the model was called 3 times, not 4"),
    "a seed too many": (rewritten({"seeds": [1, 2, 3]}), "3 seeds for a batch of 2"),
    "one int as seeds": (rewritten({"seeds": 7}), "seeds must be a list of one seed a sample, got 7"),
    "a seed out of range": (rewritten({"seeds": [1, 2**63]}), "a seed must be an int"),
    "a seed that is text": (rewritten({"seeds": [1, "2"]}), "seed must be an int"),
    "another noise": (rewritten({"noise": json.dumps("mt19937 v1")}), "its noise is of the scheme 'mt19937 v1', and this version"),
    "levels of one": (rewritten({"levels": [1.0]}), "levels must be signal and noise, got"),
    "levels that are NaN": (rewritten({"levels": "[NaN, 1.0]"}), "levels must be finite"),
    "levels that are text": (rewritten({"levels": ["a", "b"]}), "levels must be real numbers"),
    "levels that are lists": (rewritten({"levels": [[1.0], [1.0, 2.0]]}), "holds no state"),
    "no x": (rewritten(x=None), r"its tensors must be x, x0 and history\.0"),
    "a gap in the history": (rewritten(history_0=None), r"its tensors must be x, x0 and history\.0"),
    "a tensor too many": (rewritten(y=torch.zeros(2)), r"its tensors must be x, x0 and history\.0"),
    "integers": (rewritten(x=torch.zeros(2, 2, 2, dtype=torch.int64)), "x must be a floating point tensor"),
    "no batch": (rewritten(x=torch.zeros((), dtype=torch.bfloat16)), "x must be a floating point tensor"),
    "an x0 of another type": (rewritten(x0=torch.zeros(2, 2, 2)), "x is torch.bfloat16, but x0 is torch.float32"),
    "a history of another batch": (
        rewritten({"strides": {"x": [4, 1, 2], "x0": [4, 2, 1], "history.0": [4, 2, 1], "history.1": [4, 2, 1]}},
                  history_1=torch.zeros(1, 2, 2)),
        "must be those of the same samples",
    ),
    "strides that are a number": (strides(x=4), "strides of x must lay out"),
    "strides that are text": (strides(x="412"), "strides of x must lay out"),
    "strides of another shape": (strides(x=[2, 1]), "strides of x must lay out"),
    "strides that overlap": (strides(x=[0, 2, 1]), "strides of x must lay out"),
    "strides that want all memory": (strides(x0=[2**60, 2, 1]), "strides of x0 must lay out"),
    "strides below 0": (strides(x=[4, -2, 1]), "strides of x must lay out"),
    "strides beyond int64": (strides(x=[2**70, 2, 1]), "strides of x must lay out"),
    "strides beyond int64 of one entry": (
        rewritten(
            {"strides": {"x": [2, 2**70, 1], "x0": [2, 2, 1], "history.0": [2, 2, 1], "history.1": [2, 2, 1]}},
            x=torch.zeros(2, 1, 2), x0=torch.zeros(2, 1, 2), history_0=torch.zeros(2, 1, 2), history_1=torch.zeros(2, 1, 2),
        ),
        "strides of x must lay out",
    ),
    "no strides": (rewritten({"strides": {}}), "its tensors must be"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_no_state_is_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "walk"
    damage(path)
    with pytest.raises(WeightsError, match=message) as caught:
        SamplerState.load(path)
    assert str(path) in str(caught.value)
