"""The pictures of the pages on guidance and editing: digits of the bundled model, and a plane whose exact models are known.

What do guidance and editing look like? ``--out`` gets one PNG for each picture. No data set is needed: digits that are edited are
drawn by the bundled model first, from fixed seeds.

    python benchmarks/guide_pictures.py --out docs/_static
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddimkit import DDIMSampler, DDPMSampler, ModelBundle, NoiseSchedule, load_pretrained
from ddimkit.analytic import GaussianDenoiser, MixtureDenoiser
from ddimkit.editing import image_to_image, inpaint, interpolate, reconstruct
from ddimkit.guidance import Guided, cfg_plus_plus, classifier_free, classifier_guidance
from ddimkit.learning import load_extractor
from ddimkit.tradeoff.report.samples import tile

GOOD = (0, 1, 4, 9, 11, 13, 15, 18)
"""Seeds whose digits are edited."""

MEANS = np.array([[0.9, 0.0], [-0.45, 0.78], [-0.45, -0.78]])
SPREADS = np.array([[0.04, 0.04], [0.04, 0.04], [0.04, 0.04]])


def judged(bundle: ModelBundle) -> Callable[..., Tensor]:
    """The classifier of noisy digits: the learning network's log-probability of a label at the predicted clean image."""
    network = load_extractor("mnist")
    assert network.classify is not None
    s, n = (torch.tensor(level, dtype=torch.float32) for level in (bundle.schedule.signal, bundle.schedule.noise))

    def log_probability(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        x0 = s[t][:, None, None, None] * x - n[t][:, None, None, None] * bundle.model(x, t)
        scores = network.classify(network.extract(x0.clamp(-1, 1)))  # type: ignore[misc]
        return scores.log_softmax(dim=1)[torch.arange(len(x)), labels]

    return log_probability


def guided_digits(bundle: ModelBundle) -> dict[str, Tensor]:
    """Digits 0 to 9 of ten seeds by classifier guidance, a row a scale."""
    found, labels = dict[str, Tensor](), torch.arange(10)
    for scale in (0.0, 2.0, 10.0):
        guided = classifier_guidance(
            bundle.model, judged(bundle), bundle.schedule, scale, prediction=bundle.prediction, classifier_only=("labels",)
        )
        sampler = bundle.sampler(DDPMSampler, steps=100)
        found[f"scale {scale:g}"] = sampler.sample(guided, (10, 1, 28, 28), seed=range(10), model_kwargs={"labels": labels})
    return found


@dataclass(frozen=True)
class Plane:
    """The exact conditional model of three round clouds in a plane: label 3 stands for none."""

    schedule: NoiseSchedule

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """X (B, 2), t (B,), labels (B,)."""
        one = [GaussianDenoiser(self.schedule, m, v) for m, v in zip(MEANS, SPREADS, strict=True)]
        every = torch.stack([*(model(x, t) for model in one), MixtureDenoiser(self.schedule, (1, 1, 1), MEANS, SPREADS)(x, t)])
        return every[labels, torch.arange(len(x))]


def clouds() -> dict[str, NDArray[np.float32]]:
    """Samples (N, 2) of label 0 by scale; with CFG++ beside them."""
    schedule, count = NoiseSchedule.linear(), 600
    sampler, model = DDIMSampler(schedule, steps=50, prediction="x0"), Plane(schedule)
    models: dict[str, Guided] = {f"classifier-free, {w:g}": classifier_free(model, w, {"labels": 3}) for w in (1.0, 2.0, 5.0)}
    models |= {f"CFG++, {scale:g}": cfg_plus_plus(model, sampler, scale, {"labels": 3}) for scale in (0.1, 0.6)}
    given = {"labels": torch.zeros(count, dtype=torch.int64)}
    return {name: sampler.sample(guided, (count, 2), seed=0, model_kwargs=given).numpy() for name, guided in models.items()}


def started(bundle: ModelBundle, digits: Tensor) -> dict[str, Tensor]:
    """Digits, and what becomes of them from three strengths on."""
    sampler = bundle.sampler(DDIMSampler, steps=50)
    rows = {
        f"strength {s:g}": image_to_image(sampler, bundle.model, digits, strength=s, seed=range(100, 108)) for s in (0.4, 0.6, 0.8)
    }
    return {"given": digits, **rows}


def reconstructed(bundle: ModelBundle, digits: Tensor) -> dict[str, Tensor]:
    """Digits, and their reconstructions at three numbers of steps."""
    rows = {"given": digits}
    for steps in (10, 50, 200):
        found = reconstruct(bundle.sampler(DDIMSampler, steps=steps), bundle.model, digits)
        rows[f"{steps} steps, error {float(found.errors.mean()):.4f}"] = found.images
    return rows


def between(bundle: ModelBundle, digits: Tensor) -> dict[str, Tensor]:
    """Four pairs of digits, and the images between, a row a pair."""
    weights = [i / 8 for i in range(9)]
    sampler = bundle.sampler(DDIMSampler, steps=100)
    found = interpolate(sampler, bundle.model, digits[:4], digits[4:], weights, between="images")
    return {f"pair {i + 1}": found[:, i] for i in range(4)}


def painted(bundle: ModelBundle, digits: Tensor) -> dict[str, Tensor]:
    """Digits whose lower half is painted anew, by replacement and by RePaint."""
    sampler, mask = bundle.sampler(DDPMSampler, steps=100), torch.zeros(1, 28, 28)
    mask[:, 14:] = 1
    rows = {"given": digits, "hole": digits * (1 - mask)}
    for name, resample in (("replacement", 1), ("RePaint", 10)):
        rows[name] = inpaint(sampler, bundle.model, digits, mask, resample=resample, jump=10, seed=range(200, 208))
    return rows


def save_rows(rows: Mapping[str, Tensor], path: Path) -> None:
    """One row of images a name, as one picture."""
    import matplotlib.pyplot as plt

    count, left = len(next(iter(rows.values()))), 0.09 * max(map(len, rows)) + 0.1
    figure, axes = plt.subplots(len(rows), 1, figsize=(0.62 * count + left, 0.66 * len(rows)))
    for axis, (name, images) in zip(np.atleast_1d(axes), rows.items(), strict=True):
        axis.imshow(tile(images.numpy(), count), interpolation="nearest")
        axis.set_axis_off()
        axis.text(-0.01, 0.5, name, transform=axis.transAxes, ha="right", va="center", fontsize=10)
    figure.subplots_adjust(left=left / (0.62 * count + left), right=1, top=1, bottom=0, hspace=0.04)
    figure.savefig(path, dpi=110)


def save_clouds(found: Mapping[str, NDArray[np.float32]], path: Path) -> None:
    """A scatter plot for each model, over the three clouds' means and twice their spread."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(2.3 * len(found), 2.5), layout="constrained")
    for axis, (name, points) in zip(axes, found.items(), strict=True):
        for mean, spread in zip(MEANS, SPREADS, strict=True):
            axis.add_patch(plt.Circle(tuple(mean), 2 * float(np.sqrt(spread[0])), fill=False, color="0.6"))
        axis.scatter(*points.T, s=3, alpha=0.4, linewidths=0)
        axis.set(title=name, aspect="equal", xlim=(-1.1, 2.1), ylim=(-1.5, 1.5), xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def main() -> None:
    """Draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/_static"), help="folder of the pictures")
    parser.add_argument("--only", nargs="*", help="names of pictures; all by default")
    arguments = parser.parse_args()
    bundle = load_pretrained("mnist")
    digits = bundle.draw(bundle.sampler(DDIMSampler, steps=50), GOOD).clamp(-1, 1)
    pictures: dict[str, Callable[[], None]] = {
        "guidance-digits": lambda: save_rows(guided_digits(bundle), arguments.out / "guidance-digits.png"),
        "guidance-plane": lambda: save_clouds(clouds(), arguments.out / "guidance-plane.png"),
        "editing-start": lambda: save_rows(started(bundle, digits), arguments.out / "editing-start.png"),
        "editing-reconstruct": lambda: save_rows(reconstructed(bundle, digits), arguments.out / "editing-reconstruct.png"),
        "editing-between": lambda: save_rows(between(bundle, digits), arguments.out / "editing-between.png"),
        "editing-inpaint": lambda: save_rows(painted(bundle, digits), arguments.out / "editing-inpaint.png"),
    }
    for name in arguments.only or pictures:
        pictures[name]()
        print(arguments.out / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
