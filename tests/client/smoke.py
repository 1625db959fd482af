"""A run in an environment that holds the wheel and its declared dependencies, no more; `nox -s wheel` starts it from elsewhere."""

from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

import ddimkit
from ddimkit.quality import load_evaluator


def identity(x: Tensor, _: Tensor) -> Tensor:
    return x


def main() -> None:
    surplus = [name for name in ("matplotlib", "rich", "typer", "diffusers", "pytest") if find_spec(name) is not None]
    assert not surplus, f"the environment must hold declared dependencies only, found {surplus}"
    assert version("ddimkit") == ddimkit.__version__
    package = files("ddimkit")
    assert "site-packages" in Path(str(package)).parts, f"imported from {package}, not from the wheel"
    for name in (
        "py.typed",
        "models/weights/mnist.safetensors",
        "quality/weights/mnist-features.safetensors",
        "tradeoff/data/mnist.json",
    ):
        assert (package / name).is_file(), f"the wheel lacks {name}"

    schedule = ddimkit.NoiseSchedule.cosine(num_timesteps=100)
    for sampler in (ddimkit.DDIMSampler(schedule, steps=5), ddimkit.DDPMSampler(schedule, steps=5)):
        x = sampler.sample(identity, (3, 2), seed=0)
        assert x.shape == (3, 2)
        assert torch.equal(x, sampler.sample(identity, (3, 2), seed=0))

    mnist = ddimkit.load_pretrained("mnist")
    images = mnist.sampler(ddimkit.DDIMSampler, steps=2).sample(mnist.model, (5, *mnist.sample_shape), seed=0)
    assert load_evaluator("mnist").evaluate(images, seeds=range(5)).count == 5
    assert ddimkit.preset("fast", model=mnist).nfe < 50  # which is what it is without a study
    print(f"ddimkit {ddimkit.__version__}: sampled {tuple(images.shape)} from the installed wheel")


if __name__ == "__main__":
    main()
