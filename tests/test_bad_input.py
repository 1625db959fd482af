"""What cannot work is refused at once, by ddimkit and not by what it stands on: with the value, the bound and the remedy."""

import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ddimkit
from ddimkit import (
    DDIMKitError,
    DDIMSampler,
    DDPMSampler,
    DynamicThreshold,
    ModelBundle,
    NoiseSchedule,
    Plan,
    PlanSampler,
    Study,
    UNet,
    UNetConfig,
    load_pretrained,
    sweep,
)
from ddimkit.models.bundle import load_bundle
from ddimkit.models.data import load_images, read_idx
from ddimkit.models.train import Recipe
from probes import normal, smooth, twice
from studies import toy

PACKAGE = Path(ddimkit.__file__).parent
S = NoiseSchedule.linear()
TIMES = (999, 500, 9)
DDIM = DDIMSampler(S, timesteps=TIMES)
NOISY = DDIMSampler(S, timesteps=TIMES, eta=0.5)
X = normal(2, 3)
NAN = float("nan")


def any_(value: object) -> Any:
    """The value, whose type is not looked at: much of what follows the types forbid."""
    return value


def draw(model: object = smooth, shape: object = (2, 3), sampler: PlanSampler = DDIM, **settings: Any) -> Tensor:
    return sampler.sample(any_(model), any_(shape), **{"seed": 0, **settings})


def unseeded(**settings: Any) -> Tensor:
    return DDIM.sample(smooth, (2, 3), **settings)


def late(x: Tensor, t: Tensor) -> Tensor:
    return x * NAN if int(t[0]) == 500 else x


def plan(**changes: Any) -> Plan:
    return Plan(**{"t": (9, 4), "t_next": (4, None), "a": [0.5, 0], "b": [0.4, 1], "c": [0, 0], **changes})


def command(*arguments: str) -> None:
    from ddimkit import cli

    sys.argv = ["ddimkit", *arguments]
    cli.main()


class Grows(nn.Module):
    """Doubles its channels, as a learned range does."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return twice(x, t)


def tiny(**changes: Any) -> UNet:
    return UNet(UNetConfig(1, 1, (4, 4), 1, (), 2, **changes)).eval()


Case = tuple[Callable[[], object], type[BaseException] | tuple[type[BaseException], ...], str]

CASES: dict[str, Case] = {
    # schedules
    "no timesteps": (lambda: NoiseSchedule.linear(0), ValueError, "num_timesteps must be at least 1, got 0"),
    "half a timestep": (lambda: NoiseSchedule.cosine(any_(10.5)), TypeError, "num_timesteps must be an integer, got 10.5"),
    "a beta of 2": (lambda: NoiseSchedule.linear(10, 1e-4, 2), ValueError, r"\(0, 1\), got .* beta_end=2"),
    "a beta of NaN": (lambda: NoiseSchedule.linear(10, NAN), ValueError, r"\(0, 1\), got beta_start=nan"),
    "a beta in words": (
        lambda: NoiseSchedule.scaled_linear(10, any_("small")),
        TypeError,
        "beta_start must be a number, got 'small'",
    ),
    "a beta of truth": (lambda: NoiseSchedule.linear(10, 1e-4, any_(True)), TypeError, "beta_end must be a number, got True"),
    "a beta of two": (
        lambda: NoiseSchedule.linear(10, any_([0.1, 0.2])),
        TypeError,
        r"beta_start must be a number, got \[0.1, 0.2\]",
    ),
    "an offset in words": (lambda: NoiseSchedule.cosine(s=any_("a")), TypeError, "s must be a number, got 'a'"),
    "an offset of nothing": (lambda: NoiseSchedule.cosine(s=any_(None)), TypeError, "s must be a number, got None"),
    "a complex largest beta": (lambda: NoiseSchedule.cosine(max_beta=any_(1j)), TypeError, "max_beta must be a number, got 1j"),
    "a start in words": (lambda: NoiseSchedule.sigmoid(start=any_("-3")), TypeError, "start must be a number, got '-3'"),
    "an end in words": (lambda: NoiseSchedule.sigmoid(end=any_("3")), TypeError, "end must be a number, got '3'"),
    "a temperature of nothing": (lambda: NoiseSchedule.sigmoid(tau=any_(None)), TypeError, "tau must be a number, got None"),
    "a largest beta in words": (lambda: NoiseSchedule.sigmoid(max_beta=any_("1")), TypeError, "max_beta must be a number, got '1'"),
    "a saved offset in words": (
        lambda: NoiseSchedule.from_spec({"name": "cosine", "s": "a"}),
        ValueError,
        r"schedule 'cosine' does not take these arguments: \{'s': 'a'\} \(s must be a number, got 'a'\)",
    ),
    "a beta of 1 in the middle": (lambda: NoiseSchedule.from_betas([0.1, 1.0, 0.1]), ValueError, r"\(0, 1\), got 1.0 at entry 1"),
    "betas that are no numbers": (
        lambda: NoiseSchedule.from_betas(any_(None)),
        TypeError,
        "betas must be real numbers, got object",
    ),
    "betas in a square": (
        lambda: NoiseSchedule.from_betas([[0.1], [0.2]]),
        ValueError,
        r"betas must be \(T,\) .* got shape \(2, 1\)",
    ),
    "alpha_bars that rise": (
        lambda: NoiseSchedule.from_alpha_bars([0.5, 0.9]),
        ValueError,
        "fall strictly with t, got 0.9 at entry 1",
    ),
    "an alpha_bar of 1": (lambda: NoiseSchedule.from_alpha_bars([1.0, 0.5]), ValueError, r"\(0, 1\).* got 1.0 at entry 0"),
    "an alpha_bar of NaN": (lambda: NoiseSchedule.from_alpha_bars([0.9, NAN]), ValueError, "finite, got nan at entry 1"),
    "a sigmoid upside down": (lambda: NoiseSchedule.sigmoid(10, 3, -3), ValueError, "start < end .* got 3, -3"),
    "an unknown schedule": (lambda: NoiseSchedule.from_spec({"name": "square"}), ValueError, "one of linear, .* got 'square'"),
    "noise of another shape": (lambda: S.add_noise(X, X[:1], 5), ValueError, r"one shape, got \(2, 3\) and \(1, 3\)"),
    "noise that is none": (
        lambda: S.add_noise(X, any_(None), 5),
        TypeError,
        "must be tensors of one shape, got Tensor and NoneType",
    ),
    "integer images": (lambda: S.add_noise(X.long(), X, 5), TypeError, r"int64: scale integer images to \[-1, 1\] first"),
    "t beyond the end": (lambda: S.add_noise(X, X, 1000), ValueError, r"\[0, 999\], got 1000"),
    "a tensor t beyond the end": (lambda: S.add_noise(X, X, torch.tensor([3, 1000])), ValueError, r"\[0, 999\], got 3 to 1000"),
    # timesteps
    "too many steps": (lambda: DDIMSampler(S, steps=1001), ValueError, r"1\.\.1000 .*, got 1001"),
    "no steps": (lambda: DDIMSampler(S, steps=0), ValueError, r"1\.\.1000 .*, got 0"),
    "steps that are no int": (lambda: DDIMSampler(S, steps=any_(50.0)), TypeError, "steps must be an integer, got 50.0"),
    "steps and timesteps": (lambda: DDIMSampler(S, steps=5, timesteps=TIMES), ValueError, "exactly one of steps and timesteps"),
    "neither": (lambda: DDIMSampler(S), ValueError, "exactly one of steps and timesteps"),
    "an empty list": (lambda: DDIMSampler(S, timesteps=[]), ValueError, "at least one timestep, got none"),
    "rising timesteps": (
        lambda: DDIMSampler(S, timesteps=[5, 9]),
        ValueError,
        r"descend strictly, but timesteps\[1\] = 9 follows 5",
    ),
    "a timestep twice": (lambda: DDIMSampler(S, timesteps=[9, 5, 5]), ValueError, r"timesteps\[2\] = 5 follows 5"),
    "a timestep too high": (
        lambda: DDIMSampler(S, timesteps=[1000, 5]),
        ValueError,
        r"timesteps\[0\] must lie in 0\.\.999, got 1000",
    ),
    "a timestep below 0": (lambda: DDIMSampler(S, timesteps=[5, -1]), ValueError, r"timesteps\[1\] must lie in 0\.\.999, got -1"),
    "a timestep of NaN": (lambda: DDIMSampler(S, timesteps=any_([NAN])), TypeError, r"timesteps\[0\] must be an integer, got nan"),
    "timesteps in a square": (lambda: DDIMSampler(S, timesteps=any_(torch.ones(2, 2).long())), ValueError, r"got shape \(2, 2\)"),
    "a set of timesteps": (
        lambda: DDIMSampler(S, timesteps=any_({5, 3})),
        TypeError,
        "list, tuple, range or 1-D integer tensor, got {",
    ),
    "an unknown spacing": (lambda: DDIMSampler(S, steps=5, spacing=any_("cubic")), ValueError, "one of trailing, .* got 'cubic'"),
    # settings of samplers
    "no schedule": (lambda: DDIMSampler(any_(None), steps=5), TypeError, "must be a NoiseSchedule, got NoneType"),
    "eta of 1.5": (lambda: DDIMSampler(S, steps=5, eta=1.5), ValueError, r"eta must lie in \[0, 1\] .*, got 1.5"),
    "eta of NaN": (lambda: DDIMSampler(S, steps=5, eta=NAN), ValueError, r"\[0, 1\] .*, got nan"),
    "eta in words": (lambda: DDIMSampler(S, steps=5, eta=any_("0.5")), TypeError, "eta must be a number, got '0.5'"),
    "an unknown prediction": (
        lambda: DDIMSampler(S, steps=5, prediction=any_("noise")),
        ValueError,
        "one of epsilon, .* got 'noise'",
    ),
    "an unknown variance": (
        lambda: DDPMSampler(S, steps=5, variance=any_("learned")),
        ValueError,
        "one of fixed_small, .* got 'learned'",
    ),
    "a clip upside down": (lambda: DDIMSampler(S, steps=5, clip=(1, -1)), ValueError, r"low < high, got \(1, -1\)"),
    "a clip of one number": (lambda: DDIMSampler(S, steps=5, clip=any_(1.0)), TypeError, r"a pair \(low, high\) .* got 1.0"),
    "a quantile of 2": (lambda: DynamicThreshold(2), ValueError, r"\(0, 1\], got 2"),
    "a bound below 1": (lambda: DynamicThreshold(max=0.5), ValueError, "at least 1, got 0.5"),
    "epsilon at zero SNR": (
        lambda: DDIMSampler(S.zero_terminal_snr(), steps=5),
        ValueError,
        "t=999, where the schedule's signal is 0: use a model of prediction='v'",
    ),
    # what the model gives
    "no model": (lambda: draw(None), TypeError, r"callable as model\(x, t\), got NoneType"),
    "a model that returns None": (lambda: draw(lambda x, t: None), TypeError, r"shape \(2, 3\), got NoneType"),
    "a model that returns a tuple": (
        lambda: draw(lambda x, t: (x,)),
        TypeError,
        "got tuple: if it wraps its tensor, pass a function",
    ),
    "a model that returns an array": (lambda: draw(lambda x, t: x.numpy()), TypeError, "got ndarray"),
    "an output of another shape": (lambda: draw(lambda x, t: x[:, :1]), ValueError, r"shape \(2, 3\), got \(2, 1\)"),
    "an output that broadcasts": (lambda: draw(lambda x, t: x[:1]), ValueError, r"shape \(2, 3\), got \(1, 3\)"),
    "an output of ints": (lambda: draw(lambda x, t: x.long()), TypeError, "floating point numbers, got torch.int64"),
    "an output of complex numbers": (lambda: draw(lambda x, t: x + 1j), TypeError, "floating point numbers, got torch.complex64"),
    "an output elsewhere": (lambda: draw(lambda x, t: x.to("meta")), ValueError, "on meta but x is on cpu: move one"),
    "an output of NaN": (lambda: draw(lambda x, t: x * NAN), DDIMKitError, r"NaN or infinity; it began at step 0 \(t=999\)"),
    "NaN half-way": (lambda: draw(late), DDIMKitError, r"it began at step 1 \(t=500\)"),
    "infinity without a seed": (
        lambda: unseeded(generator=torch.Generator()) + draw(lambda x, t: x / 0),
        DDIMKitError,
        "NaN or infinity",
    ),
    "half precision that overflows": (lambda: draw(lambda x, t: -60000 * x, dtype=torch.float16), DDIMKitError, "began at step 0"),
    "two outputs too many": (lambda: draw(Grows().eval(), (2, 4)), ValueError, r"shape \(2, 4\), got \(2, 8\)"),
    "one output of a learned range": (
        lambda: draw(sampler=DDPMSampler(S, timesteps=TIMES, variance="learned_range")),
        ValueError,
        r"shape \(2, 6\), got \(2, 3\) .*stacked along the channels",
    ),
    # seeds, shapes, starts
    "a seed below 0": (lambda: draw(seed=-1), ValueError, r"\[0, 2\^63\), got -1"),
    "a seed too large": (lambda: draw(seed=2**63), ValueError, r"\[0, 2\^63\), got 9223372036854775808"),
    "a seed of another kind": (lambda: draw(seed=0.5), TypeError, "an int, or one int per sample, got 0.5"),
    "too few seeds": (lambda: draw(seed=[1]), ValueError, "1 seeds for a batch of 2: give one int, or one a sample"),
    "a seed and a generator": (lambda: draw(generator=torch.Generator()), ValueError, "exclude one another: give at most one"),
    "a generator that is a number": (lambda: unseeded(generator=3), TypeError, "torch.Generator, got 3: an int goes to seed="),
    "noise of the wrong shape": (lambda: unseeded(noise_fn=lambda n, like: like[:1]), ValueError, r"\(2, 3\), got \(1, 3\)"),
    "noise that is no function": (lambda: unseeded(noise_fn=X), TypeError, r"callable as noise_fn\(draw, like\), got Tensor"),
    "a shape that is a number": (lambda: draw(shape=3), TypeError, r"sequence of integers \(B, ...\), got 3"),
    "a shape below 0": (lambda: draw(shape=(2, -3)), ValueError, r"sizes at least 0, got \(2, -3\)"),
    "a shape of truths": (lambda: draw(shape=(True, 3)), TypeError, r"sequence of integers \(B, ...\), got \(True, 3\)"),
    "no shape": (lambda: draw(shape=None), ValueError, r"give the shape of the batch, as in \(16, 1, 28, 28\)"),
    "two shapes": (lambda: draw(shape=(2, 4), x_T=X), ValueError, r"\(2, 4\) and x_T's shape \(2, 3\) differ"),
    "an x_T of ints": (lambda: draw(shape=None, x_T=X.long()), TypeError, "floating point tensor, got torch.int64"),
    "an x_T of NaN": (lambda: draw(shape=None, x_T=X * NAN), ValueError, "x_T holds NaN or infinity"),
    "an x_T of numpy": (lambda: draw(shape=None, x_T=np.zeros((2, 3))), TypeError, "x_T must be a floating point tensor"),
    "another dtype": (lambda: draw(dtype=torch.int32), TypeError, "torch.float16, bfloat16, float32 or float64, got torch.int32"),
    "a device that is none": (lambda: draw(device="gpu"), ValueError, "device 'gpu' cannot be used here: give 'cpu'"),
    "a device that is not here": (lambda: draw(device="cuda:77"), ValueError, "device 'cuda:77' cannot be used here: give 'cpu'"),
    "arguments that are no mapping": (lambda: draw(model_kwargs=[1]), TypeError, "mapping of names to arguments, got list"),
    "a batch size of 0": (lambda: draw(batch_size=0), ValueError, "batch_size must be an int of at least 1, got 0"),
    "a batch size of truth": (lambda: draw(batch_size=True), TypeError, "batch_size must be an integer, got True"),
    "a batch size of a half": (lambda: draw(batch_size=1.5), TypeError, "batch_size must be an integer, got 1.5"),
    "parts of a generator's noise": (
        lambda: unseeded(generator=torch.Generator(), batch_size=1),
        ValueError,
        "batch_size needs noise keyed by seeds: generator and noise_fn make the noise of a whole batch; give seed= instead",
    ),
    "parts of a function's noise": (
        lambda: unseeded(noise_fn=lambda _, like: like, batch_size=1),
        ValueError,
        "batch_size needs noise keyed by seeds",
    ),
    "NaN in a part": (
        lambda: draw(
            lambda x, t, bad: late(x, t) if bad.any() else x, batch_size=1, model_kwargs={"bad": torch.tensor([False, True])}
        ),
        DDIMKitError,
        r"it began at step 1 \(t=500\)",
    ),
    "a callback that is none": (lambda: draw(callback=3), TypeError, r"callable as callback\(state\), got int"),
    "a late start from nothing": (lambda: draw(start_at=1), ValueError, "start_at=1 needs x_T"),
    "a start after the end": (lambda: draw(shape=None, x_T=X, start_at=3), ValueError, r"0\.\.2, got 3"),
    "a start of another kind": (lambda: draw(shape=None, x_T=X, start_at=1.0), TypeError, "start_at must be an integer, got 1.0"),
    "a state that is none": (
        lambda: list(DDIM.iterate(smooth, resume=any_(3))),
        TypeError,
        "SamplerState that iterate yielded, got int",
    ),
    # one step at a time
    "an image that is a list": (lambda: DDIM.step(any_([1.0]), X, 0), TypeError, "x_t must be a floating point tensor, got list"),
    "an image of ints": (lambda: DDIM.predict_x0(X.long(), X, 0), TypeError, "floating point tensor, got torch.int64"),
    "a row after the end": (lambda: DDIM.step(X, X, 3), ValueError, r"0\.\.2, got 3"),
    "a row before the first": (lambda: DDIM.predict_x0(X, X, -1), ValueError, r"0\.\.2, got -1"),
    "a row of another kind": (
        lambda: DDIM.step(X, X, torch.tensor(1.0)),
        TypeError,
        r"int64 of shape \(\) or \(2,\), got torch.float32",
    ),
    "a row without its noise": (lambda: NOISY.step(X, X, 0), ValueError, "give noise=, standard normal"),
    "a row with other noise": (lambda: NOISY.step(X, X, 0, noise=X[:1]), ValueError, r"x_t's shape \(2, 3\), got \(1, 3\)"),
    "a row with a list of noise": (
        lambda: NOISY.step(X, X, 0, noise=any_([0.0])),
        TypeError,
        "noise must be a floating point tensor, got list",
    ),
    "an output for another image": (lambda: DDIM.predict_x0(X, X[:1], 0), ValueError, r"shape \(2, 3\), got \(1, 3\)"),
    "noise turned back": (lambda: NOISY.invert(smooth, X), ValueError, "only eta=0 without clip can be inverted, got eta=0.5"),
    "nothing turned back": (lambda: DDIM.invert(smooth, any_(None)), TypeError, "x0 must be a floating point tensor, got NoneType"),
    "integers turned back": (
        lambda: DDIM.invert(smooth, X.long()),
        TypeError,
        "x0 must be a floating point tensor, got torch.int64",
    ),
    # plans
    "a plan of NaN": (lambda: plan(a=[NAN, 0]), ValueError, "a must be finite, got nan at entry 0"),
    "a plan too short": (lambda: plan(b=[1]), ValueError, r"2 rows needs b of shape \(2, K\), got \(1, 1\)"),
    "a plan of negative noise": (lambda: plan(c=[-0.1, 0]), ValueError, "at least 0, got -0.1 in row 0"),
    "a plan of half timesteps": (lambda: plan(t=(9.5, 4)), TypeError, "timestep must be an integer, got 9.5"),
    "a plan of a later schema": (lambda: Plan.from_dict({"schema": 3}), ValueError, "schema 2 is wanted, got schema 3"),
    "a plan of another schedule": (
        lambda: PlanSampler.from_plan(NoiseSchedule.cosine(10), DDIMSampler(NoiseSchedule.linear(10), 2).plan()),
        ValueError,
        "another schedule: its signal at t=9 is .* give the schedule that the plan was made for",
    ),
    "a plan that is none": (lambda: PlanSampler.from_plan(S, any_([1])), TypeError, "plan must be a Plan, got list"),
    "a plan of a longer schedule": (lambda: PlanSampler.from_plan(NoiseSchedule.linear(5), plan()), ValueError, r"0\.\.4, got 9"),
    "a plan without a schedule": (lambda: PlanSampler.from_plan(any_(None), plan()), TypeError, "NoiseSchedule, got NoneType"),
    # networks, bundles, recipes
    "a width that does not divide": (lambda: UNetConfig(channels=(8, 12), groups=8), ValueError, "groups=8 must divide .* has 12"),
    "a picture that does not divide": (
        lambda: tiny()(normal(1, 1, 5, 4), torch.tensor([1])),
        ValueError,
        "by 2, got 5x4: pad the images",
    ),
    "a picture of other channels": (
        lambda: tiny()(normal(1, 3, 4, 4), torch.tensor([1])),
        ValueError,
        r"\(B, 1, H, W\), got \(1, 3, 4, 4\)",
    ),
    "t of another batch": (lambda: tiny()(normal(2, 1, 4, 4), torch.tensor([1, 2, 3])), ValueError, r"shape \(2,\), .* got \(3,\)"),
    "t that is none": (lambda: tiny()(normal(2, 1, 4, 4), any_(7)), ValueError, r"a tensor of shape \(2,\), .* got 7"),
    "labels for an unconditional model": (
        lambda: tiny()(normal(1, 1, 4, 4), torch.tensor([1]), torch.tensor([1])),
        ValueError,
        "num_classes=0, so labels must not be given",
    ),
    "a bundle without a model": (lambda: ModelBundle(any_(None), S, sample_shape=(1,)), TypeError, "callable as model"),
    "a bundle of a flat shape": (lambda: ModelBundle(smooth, S, sample_shape=any_(28)), TypeError, r"as in \(1, 28, 28\), got 28"),
    "an unknown model": (lambda: load_pretrained("celeba"), ValueError, "pretrained models are mnist, cifar10, got 'celeba'"),
    "no name of a model": (
        lambda: load_pretrained(any_(["mnist"])),
        ValueError,
        r"mnist, cifar10, got \['mnist'\]",
    ),
    "a recipe of no steps": (lambda: Recipe(steps=0), ValueError, "at least 1, got 0"),
    "another data set": (lambda: load_images(any_("svhn"), Path()), ValueError, "'mnist' or 'cifar10', got 'svhn'"),
    # sweeps
    "a sweep of nothing": (lambda: sweep(any_(3)), TypeError, r"ModelBundle, as in sweep\(load_pretrained\('mnist'\)\), got int"),
    "a sweep of no seeds": (lambda: sweep(toy(), steps=(2,), seeds=()), ValueError, "got 0 seeds"),
    "a sweep of one number": (lambda: sweep(toy(), steps=any_(10)), TypeError, r"ints, as in \(10, 20\), got 10"),
    "a sweep of half a round": (lambda: sweep(toy(), steps=(2,), rounds=any_(0.5)), ValueError, "rounds of at least 1, .* and 0.5"),
    "a sweep of too many steps": (lambda: sweep(toy(), steps=(21,)), ValueError, r"1\.\.20 .*, got 21"),
    "a sweep elsewhere": (
        lambda: sweep(toy(), steps=(2,), device="gpu"),
        ValueError,
        "device 'gpu' cannot be used here: give 'cpu'",
    ),
    # the command line
    "a command that is none": (lambda: command("frobnicate"), SystemExit, "^2$"),
    "an option that is none": (lambda: command("plan", "--nope"), SystemExit, "^2$"),
    "a model that cannot be imported": (
        lambda: command("plan", "--model", "a.b:c"),
        SystemExit,
        "'a.b:c' cannot be imported .* write package",
    ),
    "a sampler that is none": (lambda: command("plan", "--sampler", "euler"), SystemExit, "one of ddim, ddpm, .* got 'euler'"),
    "an eta for ddpm": (lambda: command("plan", "--sampler", "ddpm", "--eta", "1"), SystemExit, "--sampler ddpm takes no --eta"),
    "steps in words": (lambda: command("sweep", "--steps", "ten"), SystemExit, "as in 10,20,50, got 'ten'"),
    "nowhere to write": (lambda: command("sample"), SystemExit, "give --grid out.png, --out samples.npy, or both"),
    "nothing to compare": (lambda: command("sweep", "--compare", "a.json", "b.json"), SystemExit, "No such file .*'a.json'"),
}

# A reader of files, a file's content (None for no file), and what it is to say.
FILES: dict[str, tuple[Callable[[Path], object], bytes | None, type[Exception], str]] = {
    "no weights": (load_bundle, None, FileNotFoundError, "No such file"),
    "weights of another kind": (
        load_bundle,
        b"PK\x03\x04 a pickle in a zip",
        DDIMKitError,
        "is no safetensors file .* never loaded",
    ),
    "empty weights": (load_bundle, b"", DDIMKitError, "is no safetensors file"),
    "no results": (Study.load, None, FileNotFoundError, "No such file"),
    "results of something else": (Study.load, b"[]", DDIMKitError, "it holds no study"),
    "results of a later schema": (
        Study.load,
        b'{"kind": "ddimkit-study", "schema_version": 9}',
        DDIMKitError,
        "schema 9, and this version reads schema 1",
    ),
    "no images": (read_idx, None, FileNotFoundError, "No such file"),
    "images cut off": (read_idx, bytes([0, 0, 8, 1, 0, 0, 0, 9, 1]), ValueError, r"\(9,\), 9 bytes, but 1 bytes follow"),
    "images of another kind": (read_idx, b"GIF89a", ValueError, "not an IDX file of unsigned bytes .* 47494638"),
}


def refused_by_ddimkit(caught: BaseException) -> bool:
    return Path(traceback.extract_tb(caught.__traceback__)[-1].filename).is_relative_to(PACKAGE)


@pytest.mark.parametrize(("ask", "error", "message"), CASES.values(), ids=CASES)
def test_bad_input_is_refused(
    ask: Callable[[], object],
    error: type[BaseException],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(error) as caught:
        ask()
    assert re.search(message, str(caught.value)), str(caught.value)
    assert refused_by_ddimkit(caught.value), traceback.format_tb(caught.tb)[-1]
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("read", "content", "error", "message"), FILES.values(), ids=FILES)
def test_a_bad_file_is_refused(
    read: Callable[[Path], object], content: bytes | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_the_table_is_long_enough() -> None:
    assert len(CASES) + len(FILES) >= 45
