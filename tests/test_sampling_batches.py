"""`sample` with batch_size: the same samples, in parts."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ddimkit import DDIMSampler, DDPMSampler, DynamicThreshold, NoiseSchedule, PlanSampler, SamplerState
from plugins import AdamsBashforth2
from probes import Counting, PeakBytes, column, normal, smooth
from strategies import SEEDS

SCHEDULE = NoiseSchedule.linear()
TIMES = (999, 760, 400, 130, 9)

SAMPLERS: dict[str, PlanSampler] = {
    "ddim": DDIMSampler(SCHEDULE, timesteps=TIMES),
    "ddim-eta": DDIMSampler(SCHEDULE, timesteps=TIMES, eta=0.4, clip=DynamicThreshold()),
    "ddpm": DDPMSampler(SCHEDULE, timesteps=TIMES),
    "multistep": AdamsBashforth2(SCHEDULE, timesteps=TIMES),
}
ETA = SAMPLERS["ddim-eta"]


def shifted(x: Tensor, t: Tensor, *, each: Tensor, shared: Tensor, scale: float) -> Tensor:
    """A model with an argument a sample, one that all samples share, and a number."""
    return smooth(x, t) + scale * column(each, x) + shared


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of a call: any batch and sample shape, seeds as an int or one a sample, from noise or from an image part-way."""
    count = draw(st.integers(0, 7))
    shape = (count, *draw(st.lists(st.integers(0, 3), max_size=2)))
    each = st.lists(SEEDS, min_size=count, max_size=count)
    arguments: dict[str, Any] = {"seed": draw(st.one_of(st.integers(0, 2**40), each, each.map(tuple)))}
    arguments["dtype"] = draw(st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
    if draw(st.booleans()):
        return {**arguments, "x_T": normal(*shape), "start_at": draw(st.integers(0, len(TIMES) - 1))}
    return {**arguments, "shape": shape}


@pytest.mark.promise(24)
@given(st.sampled_from(list(SAMPLERS.values())), calls(), st.integers(1, 9), st.booleans())
def test_the_parts_are_the_whole_batch(sampler: PlanSampler, arguments: dict[str, Any], size: int, look: bool) -> None:
    shape = arguments["shape"] if "shape" in arguments else arguments["x_T"].shape
    keywords = {"each": normal(shape[0], seed=3), "shared": torch.tensor(0.25), "scale": 0.5}
    before = {name: value.clone() for name, value in {**arguments, **keywords}.items() if isinstance(value, Tensor)}
    whole = sampler.sample(shifted, model_kwargs=keywords, **arguments)
    callback = (lambda state: None) if look else None
    parts = sampler.sample(shifted, model_kwargs=keywords, batch_size=size, callback=callback, **arguments)
    assert (parts.shape, parts.dtype) == (whole.shape, whole.dtype)
    assert torch.equal(parts, whole)
    assert all(torch.equal({**arguments, **keywords}[name], value) for name, value in before.items())


@given(st.integers(0, 9), st.integers(1, 12))
def test_the_model_is_called_with_parts(count: int, size: int) -> None:
    model = Counting()
    ETA.sample(model, (count, 3), seed=0, batch_size=size)
    sizes = [min(size, count - first) for first in range(0, count, size)] or [0]
    assert [t.tolist() for t in model.times] == [[t] * part for part in sizes for t in TIMES]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_of_the_models_arguments_tensors_of_the_batch_are_split(size: int) -> None:
    arguments: dict[str, Any] = {
        "labels": torch.arange(5),
        "text": normal(5, 7, 2),
        "longer": normal(10),
        "across": normal(1, 5),
        "number": torch.tensor(5),
        "names": ["a", "b", "c", "d", "e"],
        "nothing": None,
    }
    seen = list[dict[str, Any]]()

    def model(x: Tensor, t: Tensor, **given_here: Any) -> Tensor:
        seen.append(given_here)
        return smooth(x, t)

    ETA.sample(model, (5, 3), seed=0, batch_size=size, model_kwargs=arguments)
    firsts = [first for first in range(0, 5, size) for _ in TIMES]
    for first, found in zip(firsts, seen, strict=True):
        for name in ("labels", "text"):
            assert torch.equal(found.pop(name), arguments[name][first : first + size])
        assert all(value is arguments[name] for name, value in found.items())
        assert len(found) == 5


@pytest.mark.parametrize("seed", [7, (3, 2**63 - 1, 4, 1, 5), None])
def test_a_callback_sees_part_after_part(seed: Any) -> None:
    states = list[SamplerState]()
    result = ETA.sample(smooth, (5, 3), seed=seed, batch_size=2, callback=states.append)
    assert [(s.index, s.t, s.nfe) for s in states] == [(k, t, k + 1) for k, t in enumerate(TIMES)] * 3
    lasts = states[len(TIMES) - 1 :: len(TIMES)]
    assert torch.equal(torch.cat([s.x for s in lasts]), result)
    assert all(s.seeds is not None and len(s.seeds) == len(s.x) for s in states)
    seeds = [seed for s in lasts for seed in s.seeds or ()]
    assert len(set(seeds)) == 5
    assert torch.equal(result, ETA.sample(smooth, (5, 3), seed=seeds))
    if seed is not None:
        assert torch.equal(result, ETA.sample(smooth, (5, 3), seed=seed))


def test_one_bar_shows_all_parts(capfd: pytest.CaptureFixture[str]) -> None:
    ETA.sample(smooth, (5, 3), seed=0, batch_size=2, progress=True)
    shown = capfd.readouterr().err
    assert "15/15" in shown
    assert shown.count("100%") == 1


def test_peak_memory_grows_by_the_result_alone() -> None:
    numbers, peaks = 2**14, list[int]()
    for count in (4, 32):
        with PeakBytes() as mode:
            ETA.sample(smooth, (count, numbers), seed=0, batch_size=2)
        peaks.append(mode.peak)
    assert peaks[1] - peaks[0] == pytest.approx(28 * 4 * numbers, rel=0.01)
    with PeakBytes() as mode:
        ETA.sample(smooth, (32, numbers), seed=0)
    assert mode.peak > 2 * peaks[1]


def test_what_is_wrong_in_a_late_part_is_refused_before_the_model_is_asked() -> None:
    x = normal(5, 3)
    x[4] = float("nan")
    model = Counting()
    with pytest.raises(ValueError, match="x_T holds NaN or infinity"):
        ETA.sample(model, x_T=x, seed=0, batch_size=2)
    with pytest.raises(ValueError, match=r"2\^63"):
        ETA.sample(model, (5, 3), seed=2**63, batch_size=2)
    with pytest.raises(ValueError, match="4 seeds for a batch of 5"):
        ETA.sample(model, (5, 3), seed=range(4), batch_size=4)
    assert model.calls == 0


class Net(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return smooth(x, t)


@pytest.mark.promise(36)
@pytest.mark.filterwarnings("always")
def test_train_mode_warns_once_for_all_parts() -> None:
    with pytest.warns(UserWarning, match=r"model\.eval\(\)") as caught:
        ETA.sample(Net(), (5, 3), seed=0, batch_size=1)
    assert [w.filename for w in caught] == [__file__]


@pytest.mark.promise(36)
def test_a_warning_names_the_callers_line_from_any_depth() -> None:
    sampler = DDIMSampler(SCHEDULE, timesteps=TIMES)
    with pytest.warns(UserWarning, match=r"model\.eval\(\)") as caught:
        sampler.invert(Net(), normal(2, 3))
    assert [w.filename for w in caught] == [__file__]
