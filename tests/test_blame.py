"""An error names what is likely to be wrong, and the remedy."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddimkit import DDIMSampler, NoiseSchedule, NonFiniteError, Plan, UNet
from ddimkit.errors import WeightsError
from probes import normal, smooth, twice

S = NoiseSchedule.linear()
DDIM = DDIMSampler(S, 3)
SIGMAS = np.geomspace(0.002, 80, 20)


def asked(**settings: Any) -> object:
    return DDIM.sample(smooth, (2, 3), seed=0, **settings)


BLAMED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "alpha_bars for betas": (lambda: NoiseSchedule.from_betas(S.alpha_bars), ValueError, "alpha_bars or alphas given for betas?"),
    "alphas for betas": (lambda: NoiseSchedule.from_betas(1 - S.betas), ValueError, "alpha_bars or alphas given for betas?"),
    "sigmas for noise": (
        lambda: NoiseSchedule(np.ones(20), SIGMAS),  # type: ignore[arg-type, unused-ignore]
        ValueError,
        r"\(a sigma of x0 \+ sigma·eps is the noise sigma/√\(1 \+ sigma²\)\), got",
    ),
    "an alpha_bar of 1": (
        lambda: NoiseSchedule(np.array([1.0, 0.5]), np.array([0.0, 0.5])),
        ValueError,
        r"is alpha_bar exactly 1 somewhere\?, got 0.0 at entry 0",
    ),
    "a dtype in words": (lambda: asked(dtype="float16"), TypeError, "float64, got 'float16': give torch.float16"),
    "a plan of no rows": (lambda: Plan((), (), *(np.zeros(0) for _ in range(3))), ValueError, "at least one row, got none"),
    "another library's v": (lambda: DDIMSampler(S, 3, prediction="v_prediction"), ValueError, "what is 'v' here"),  # type: ignore[arg-type]
    "another library's x0": (lambda: DDIMSampler(S, 3, prediction="sample"), ValueError, "what is 'x0' here"),  # type: ignore[arg-type]
    "a learned range under DDIM": (
        lambda: DDIM.sample(twice, (2, 4, 3), seed=0),
        ValueError,
        r"got \(2, 8, 3\): twice the channels are a learned range, for DDPMSampler\(variance='learned_range'\)",
    ),
}


@pytest.mark.parametrize(("act", "error", "message"), BLAMED.values(), ids=BLAMED)
def test_the_likely_cause_is_named(act: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        act()


def test_nan_that_the_caller_put_in_is_not_only_the_models() -> None:
    walk = DDIM.iterate(smooth, (2, 3), seed=0)
    next(walk).x.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="the caller or a callback changed a state, or the model is not deterministic"):
        list(walk)


def test_alphas_for_alpha_bars_are_not_blamed_on_the_spacing() -> None:
    alphas = NoiseSchedule.from_alpha_bars(1 - S.betas)
    with pytest.warns(UserWarning, match=r"were alphas given for alpha_bars") as caught:
        DDIMSampler(alphas, 3).sample(smooth, (2, 3), seed=0)
    assert "trailing" not in str(caught[0].message)
    with pytest.warns(UserWarning, match="start higher, as spacing='trailing' does"):
        DDIMSampler(S, 501, spacing="leading").sample(smooth, (2, 3), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DDIMSampler(alphas, 3).sample(smooth, x_T=normal(2, 3))


@pytest.mark.parametrize("content", ["{", "", "[1]", '"text"'])
def test_a_broken_configuration_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path / "config.json"))):
        UNet.from_diffusers(tmp_path)


def test_betas_that_float32_bears_are_taken() -> None:
    made = NoiseSchedule.from_betas([0.9] * 60)
    x = DDIMSampler(made, 20).sample(lambda x, t: x * 0, x_T=torch.zeros(1, 2))
    assert torch.isfinite(x).all()
