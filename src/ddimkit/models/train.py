"""The training recipe of the bundled models: ``python -m ddimkit.models.train mnist --data DIR``.

The simplified objective of Ho et al. 2020, eq. 14, for any prediction: the mean square of its target minus ``model(x_t, t)`` over
images, noise and timesteps, the timesteps of a batch stratified. AdamW with warm-up, a constant rate and a linear fall to 0 at
the end; gradient clipping; an exponential moving average of the weights, which is what is kept. A step's random numbers depend
on the seed and the step alone, so a run taken up from its checkpoint goes on as if it had not been stopped (on one machine: bit
for bit). On CUDA the network is compiled and runs in bfloat16 autocast; ``--no-fast`` does without, ``--fast`` does so elsewhere.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ddimkit.errors import DDIMKitError, WeightsError
from ddimkit.loop import check_device
from ddimkit.models.bundle import ModelBundle, save_bundle
from ddimkit.models.data import DatasetName, load_images
from ddimkit.models.unet import UNet, UNetConfig, channels_last
from ddimkit.prediction import Prediction, prediction_target
from ddimkit.schedule import NoiseSchedule

__all__ = ["MNIST_RECIPE", "Recipe", "Trainer", "check_gradients", "main", "train"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run, data and device aside.

    Args:
        dataset: which images.
        unet: the network.
        schedule: the noise schedule.
        prediction: what the network learns to predict.
        steps: optimiser steps.
        batch_size: images a step.
        learning_rate: AdamW's rate at its height.
        warmup: steps of linear rise at the start.
        decay: fraction of the steps, at the end, over which the rate falls linearly to 0.
        weight_decay: AdamW's decoupled weight decay.
        grad_clip: largest norm of the gradient.
        ema_decay: decay of the moving average (smaller in the first steps).
        clip: how x0_hat of the finished model is to be clipped; training does not use it.
        flip: whether images are mirrored at random.
        seed: of the initial weights and every step.
    """

    dataset: DatasetName = "mnist"
    unet: UNetConfig = field(default_factory=UNetConfig)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule.linear)
    prediction: Prediction = "epsilon"
    steps: int = 20_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: int = 500
    decay: float = 0.4
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    ema_decay: float = 0.9995
    clip: tuple[float, float] | None = None
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}")
        if self.schedule.spec is None:
            raise ValueError("a recipe needs a schedule made by a named constructor, which its weights can be saved with")
        if self.unet.dropout:
            raise ValueError(f"training is reproducible without dropout only, got {self.unet.dropout}")

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.learning_rate * min(rise, fall)

    def describe(self) -> dict[str, object]:
        """The recipe as plain JSON values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**plain, "unet": asdict(self.unet), "schedule": dict(self.schedule.spec or {})}


MNIST_RECIPE = Recipe(unet=UNetConfig(1, 1, channels=(16, 32, 64), blocks=1, attention_levels=(2,), groups=8), prediction="v")
"""The recipe of the bundled MNIST model."""

_RECIPES = {"mnist": MNIST_RECIPE}


def check_gradients(parameters: Mapping[str, nn.Parameter], loss: Callable[[bool], Tensor]) -> None:
    """Raise where a compiled half-precision backward is not that of the plain one; a compiler's mistake shows nowhere else.

    With torch 2.13 on a CPU the compiled backward of ``interpolate`` in bfloat16 is 0: everything below a UNet's finest level stays
    as it was, the loss still falls, and the samples are poor.

    Args:
        parameters: what is trained; their gradients are left empty.
        loss: the loss of one batch, fast or not.

    Raises:
        DDIMKitError: the gradients differ by more than a quarter, or one of them vanished.
    """
    plain, quick = (
        torch.autograd.grad(loss(fast), list(parameters.values()), allow_unused=True, materialize_grads=True)
        for fast in (False, True)
    )
    total = math.sqrt(sum(float(p.square().sum()) for p in plain))
    apart = math.sqrt(sum(float((p - q).square().sum()) for p, q in zip(plain, quick, strict=True)))
    pairs = zip(parameters, plain, quick, strict=True)
    gone = [name for name, p, q in pairs if float(p.norm()) > 1e-3 * total and not bool(q.any())]
    if gone or apart > 0.25 * total:
        raise DDIMKitError(
            f"the compiled bfloat16 gradients differ by {apart / max(total, 1e-300):.0%} from the plain ones"
            f"{', and vanish for ' + ', '.join(gone[:3]) if gone else ''}: this torch cannot train so here, take --no-fast"
        )


class Trainer:
    """The state of a run: weights, their moving average, the optimiser's moments and the step.

    Args:
        recipe: what to train.
        images: (N, C, H, W) unsigned bytes.
        device: where.
        fast: compile the forward and run it in bfloat16 autocast; on CUDA by default.
    """

    def __init__(self, recipe: Recipe, images: Tensor, device: torch.device, *, fast: bool | None = None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed)
            model = UNet(recipe.unet)
        self.recipe, self.images, self.device, self.step, self.loss = recipe, images.to(device), device, 0, math.nan
        self.model = channels_last(model.to(device)).train()
        self.parameters = dict(self.model.named_parameters())
        self.fast = device.type == "cuda" if fast is None else fast
        self.forward = torch.compile(self.model) if self.fast else self.model
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Clean images in [−1, 1] (B, C, H, W), noise of that shape and stratified timesteps (B,) of the current step."""
        recipe = self.recipe
        generator = torch.Generator(self.device).manual_seed(recipe.seed * 2**32 + self.step)
        size = (recipe.batch_size,)
        picked = torch.randint(len(self.images), size, generator=generator, device=self.device)
        x0 = self.images[picked].to(torch.float32).div_(127.5).sub_(1)
        if recipe.flip:
            mirrored = torch.rand(size, generator=generator, device=self.device) < 0.5
            x0 = torch.where(mirrored[:, None, None, None], x0.flip(3), x0)
        eps = torch.randn(x0.shape, generator=generator, device=self.device)
        strata = torch.rand(size, generator=generator, device=self.device) + torch.arange(size[0], device=self.device)
        t = (strata * (recipe.schedule.num_timesteps / size[0])).long().clamp_(max=recipe.schedule.num_timesteps - 1)
        return x0, eps, t

    def loss_of_batch(self, *, fast: bool) -> Tensor:
        """The loss of the current step's batch, compiled and in bfloat16 or plainly."""
        x0, eps, t = self.batch()
        x = self.recipe.schedule.add_noise(x0, eps, t).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast):
            output = (self.forward if fast else self.model)(x, t)
        return F.mse_loss(output.float(), prediction_target(self.recipe.prediction, self.recipe.schedule, x0, eps, t))

    def advance(self) -> Tensor:
        """One optimiser step; the loss, on the device."""
        loss = self.loss_of_batch(fast=self.fast)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.grad_clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        self.optimiser.step()
        self.step += 1
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, p in self.parameters.items():
                self.ema[name].lerp_(p, 1 - decay)
        return loss.detach()

    def run(self, *, progress: bool = True, report_every: int = 50) -> Iterator[int]:
        """Train to the recipe's last step, yielding the step after every ``report_every`` and after the last."""
        if self.fast:
            check_gradients(self.parameters, lambda fast: self.loss_of_batch(fast=fast))
        bar = tqdm(total=self.recipe.steps, initial=self.step, disable=not progress, unit="step", mininterval=2)
        smooth = None if math.isnan(self.loss) else torch.tensor(self.loss, device=self.device)
        with bar:
            while self.step < self.recipe.steps:
                loss = self.advance()
                smooth = loss if smooth is None else torch.lerp(smooth, loss, 0.005)
                bar.update()
                if self.step % report_every == 0 or self.step == self.recipe.steps:
                    self.loss = float(smooth)
                    if not math.isfinite(self.loss):
                        raise FloatingPointError(f"the loss is {self.loss} at step {self.step}: lower learning_rate")
                    bar.set_postfix(loss=f"{self.loss:.5f}")
                    yield self.step

    def save(self, path: Path) -> None:
        """Write all that a later run needs to go on, atomically, as safetensors."""
        tensors = {f"ema.{name}": value for name, value in self.ema.items()}
        for name, p in self.parameters.items():
            tensors[f"model.{name}"] = p.detach()
            state = self.optimiser.state[p]
            tensors |= {f"{key}.{name}": state[key] for key in ("exp_avg", "exp_avg_sq") if state}
        metadata = {"step": str(self.step), "loss": str(self.loss), "recipe": json.dumps(self._identity())}
        partial = path.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on from what :meth:`save` wrote.

        Raises:
            WeightsError: the file is damaged, or was made by another recipe (another number of steps is allowed).
        """
        try:
            with safe_open(path, "pt", device=str(self.device)) as file:
                metadata: dict[str, str] = file.metadata() or {}
                tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            recipe = json.loads(metadata.get("recipe", "null"))
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(f"{path} is no checkpoint: {error}") from error
        if recipe != json.loads(json.dumps(self._identity())):
            raise WeightsError(f"{path} was made by another recipe: use another --out, or remove it")
        try:
            step, loss = int(metadata["step"]), float(metadata["loss"])
        except (KeyError, ValueError) as error:
            raise WeightsError(f"{path} is a damaged checkpoint, remove it: its step or loss cannot be read ({error})") from error
        parts = ("model", "ema", "exp_avg", "exp_avg_sq") if step else ("model", "ema")
        wanted = {f"{part}.{name}": p.shape for part in parts for name, p in self.parameters.items()}
        for key, shape in wanted.items():
            if key not in tensors or tensors[key].shape != shape:
                raise WeightsError(f"{path} is a damaged checkpoint, remove it: {key} of shape {tuple(shape)} is missing")
        self.step, self.loss = step, loss
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tensors[f"model.{name}"])
                self.ema[name].copy_(tensors[f"ema.{name}"])
                if step:
                    # Of p's memory layout: the fused optimiser walks p and its moments side by side.
                    moments = {key: torch.empty_like(p).copy_(tensors[f"{key}.{name}"]) for key in ("exp_avg", "exp_avg_sq")}
                    self.optimiser.state[p] = {"step": torch.tensor(float(step), device=self.device), **moments}

    def bundle(self) -> ModelBundle:
        """The averaged weights as a model, with the run's figures."""
        with torch.device("meta"):
            model = UNet(self.recipe.unet)
        model.load_state_dict({name: value.clone() for name, value in self.ema.items()}, assign=True)
        run = {"steps": self.step, "loss": self.loss, "images": len(self.images), "fast": self.fast}
        figures = {**run, "recipe": self.recipe.describe()}
        recipe = self.recipe
        return ModelBundle(
            model.eval(),
            recipe.schedule,
            sample_shape=tuple(self.images.shape[1:]),
            prediction=recipe.prediction,
            clip=recipe.clip,
            name=recipe.dataset,
            figures=figures,
        )

    def _identity(self) -> dict[str, object]:
        return {key: value for key, value in self.recipe.describe().items() if key not in ("steps", "clip")}


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    device: str | None = None,
    fast: bool | None = None,
    progress: bool = True,
    save_every: int = 500,
) -> Path:
    """Train a recipe, resuming from ``out/checkpoint.safetensors`` if it is there.

    Args:
        recipe: what to train.
        data: folder of the original data files.
        out: folder for the checkpoint and the finished weights; made if missing.
        device: ``"cpu"`` or ``"cuda"``; CUDA if there is one by default.
        fast: ``torch.compile`` and bfloat16 autocast, which needs a compiler; on CUDA by default.
        progress: whether to show a progress bar.
        save_every: steps between checkpoints.

    Returns:
        the file of finished weights, float16, which :func:`~ddimkit.models.bundle.load_bundle` reads.

    Raises:
        FileNotFoundError, ValueError: the data are missing or damaged.
        WeightsError: the checkpoint is damaged or of another recipe.
        DDIMKitError: ``fast``, and the compiled gradients are wrong.
        FloatingPointError: the loss is no longer finite.
    """
    images, _ = load_images(recipe.dataset, data)
    where = check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    trainer = Trainer(recipe, torch.from_numpy(images.copy()), where, fast=fast)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists():
        trainer.load(checkpoint)
    started, first = time.perf_counter(), trainer.step
    for step in trainer.run(progress=progress, report_every=math.gcd(50, save_every)):
        seconds = (time.perf_counter() - started) / (step - first)
        with (out / "log.jsonl").open("a") as log:
            log.write(json.dumps({"step": step, "loss": trainer.loss, "seconds_per_step": seconds}) + "\n")
        if step % save_every == 0 or step == recipe.steps:
            trainer.save(checkpoint)
    weights = out / f"{recipe.dataset}.safetensors"
    save_bundle(trainer.bundle(), weights)
    return weights


def main() -> None:
    """The command line of the recipe."""
    parser = argparse.ArgumentParser(prog="python -m ddimkit.models.train", description="Train one of the bundled models.")
    parser.add_argument("recipe", choices=sorted(_RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder of the original data files")
    parser.add_argument("--out", type=Path, default=Path("ddimkit-train"), help="folder for checkpoint and weights")
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the recipe's")
    parser.add_argument("--device", help="cpu or cuda; CUDA if there is one by default")
    parser.add_argument(
        "--fast", action=argparse.BooleanOptionalAction, help="compile, and train in bfloat16 autocast; on CUDA by default"
    )
    arguments = parser.parse_args()
    recipe = _RECIPES[arguments.recipe]
    if arguments.steps is not None:
        recipe = replace(recipe, steps=arguments.steps)
    try:
        print(train(recipe, arguments.data, arguments.out, device=arguments.device, fast=arguments.fast))
    except (DDIMKitError, FloatingPointError, OSError, TypeError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
