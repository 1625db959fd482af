"""What `sample` refuses, and what it says."""

from typing import Any

import pytest
import torch

from ddimkit import DDIMSampler, DDPMSampler, NoiseSchedule
from probes import Counting, normal, smooth, twice

SCHEDULE = NoiseSchedule.linear()
TIMES = (999, 760, 400, 130, 9)

SAMPLER = DDIMSampler(SCHEDULE, timesteps=TIMES)


def wrong_models() -> list[tuple[str, Any, type[Exception], str]]:
    return [
        ("no callable", 3, TypeError, "callable"),
        ("no tensor", lambda x, t: (x, t), TypeError, "tuple"),
        ("another shape", lambda x, t: x[:, :2], ValueError, r"\(2, 3\), got \(2, 2\)"),
        ("integers", lambda x, t: x.long(), TypeError, "int64"),
        ("booleans", lambda x, t: x > 0, TypeError, "bool"),
        ("complex numbers", lambda x, t: x + 1j, TypeError, "complex"),
        ("another device", lambda x, t: x.to("meta"), ValueError, "meta"),
    ]


@pytest.mark.parametrize(("_", "model", "error", "message"), wrong_models(), ids=[case[0] for case in wrong_models()])
def test_a_wrong_model_is_refused(_: str, model: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SAMPLER.sample(model, (2, 3), seed=0)


def wrong_calls() -> list[tuple[dict[str, Any], type[Exception], str]]:
    x = normal(2, 3)
    return [
        ({}, ValueError, "shape"),
        ({"shape": 3}, TypeError, "sequence of integers"),
        ({"shape": (2, 3.0)}, TypeError, "sequence of integers"),
        ({"shape": ()}, ValueError, r"\(B, ...\)"),
        ({"shape": (2, -1)}, ValueError, "at least 0"),
        ({"shape": (2, 4), "x_T": x}, ValueError, "differ"),
        ({"x_T": x.long()}, TypeError, "floating point"),
        ({"x_T": [[1.0]]}, TypeError, "floating point"),
        ({"x_T": x / 0}, ValueError, "NaN or infinity"),
        ({"shape": (2, 3), "dtype": torch.int64}, TypeError, "float16"),
        ({"shape": (2, 3), "start_at": 1}, ValueError, "needs x_T"),
        ({"x_T": x, "start_at": 5}, ValueError, r"0\.\.4, got 5"),
        ({"x_T": x, "start_at": -1}, ValueError, r"0\.\.4, got -1"),
        ({"x_T": x, "start_at": 1.5}, TypeError, "start_at must be an integer, got 1.5"),
        ({"shape": (2, 3), "seed": -1}, ValueError, r"2\^63"),
        ({"shape": (2, 3), "seed": 2**63}, ValueError, r"2\^63"),
        ({"shape": (2, 3), "seed": [1]}, ValueError, "1 seeds for a batch of 2"),
        ({"shape": (2, 3), "seed": 0.5}, TypeError, "seed must be"),
        ({"shape": (2, 3), "noise_fn": lambda draw, like: torch.zeros(3)}, ValueError, r"\(2, 3\), got \(3,\)"),
        ({"shape": (2, 3), "noise_fn": lambda draw, like: None}, ValueError, "NoneType"),
    ]


@pytest.mark.parametrize(("arguments", "error", "message"), wrong_calls())
def test_a_wrong_call_is_refused_before_the_model_is_asked(arguments: Any, error: type[Exception], message: str) -> None:
    model = Counting()
    with pytest.raises(error, match=message):
        SAMPLER.sample(model, **arguments)
    assert model.calls == 0


def test_a_learned_range_needs_channels() -> None:
    sampler = DDPMSampler(SCHEDULE, timesteps=TIMES, variance="learned_range")
    with pytest.raises(ValueError, match="channels"):
        sampler.sample(twice, (3,), seed=0)
    with pytest.raises(ValueError, match="prediction and v"):
        sampler.sample(smooth, (2, 3), seed=0)
