"""Conditional and latent models: a sample's conditions follow from its seed, and latents become images, wherever they are drawn."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddimkit import (
    DDIMKitError,
    DDIMSampler,
    DPMSolverPPSampler,
    ModelBundle,
    PlanSampler,
    learn_plan,
    load_pretrained,
    optimize_timesteps,
    preset,
    sweep,
)
from ddimkit._arguments import Arguments
from ddimkit.learning import KernelObjective, NetworkObjective, QualityObjective, TeacherObjective, evaluate_table
from ddimkit.learning._learner import Drawing
from ddimkit.learning._memory import activation_bytes
from ddimkit.learning._table import Corrections
from ddimkit.loop import prepare
from ddimkit.models.conditions import latent_decoder, seed_labels
from ddimkit.quality import Extractor
from ddimkit.tradeoff.committed import find_study
from ddimkit.tradeoff.evaluation import Evaluation
from probes import Counting, column, smooth
from studies import REAL, SHAPE, toy, toy_evaluator

CPU = torch.device("cpu")


def labelled(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """Another clean image for each label; every call must bring one label a sample."""
    assert labels.shape == x.shape[:1]
    assert labels.dtype == torch.int64
    return smooth(x, t) / 2 + column(labels, x) / 16 - 0.25


def conditional(conditions: Any = None, **changes: Any) -> ModelBundle:
    return toy(Counting(labelled), **{"conditions": conditions or seed_labels(10), **changes})


def calls(bundle: ModelBundle) -> int:
    assert isinstance(bundle.model, Counting)
    return bundle.model.calls


def halves(x: Tensor) -> Tensor:
    """A decoder: (B, 1, 4, 4) latents to (B, 1, 8, 8) images."""
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 2


def sampler(**settings: Any) -> DDIMSampler:
    return conditional().sampler(DDIMSampler, **{"steps": 4, "eta": 0.5, **settings})


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5), st.integers(1, 3))
def test_a_sample_follows_from_its_seed_alone(seeds: list[int], batch_size: int) -> None:
    bundle = conditional()
    drawn = bundle.draw(sampler(), seeds)
    assert torch.equal(bundle.draw(sampler(), seeds, batch_size=batch_size), drawn)
    alone = torch.cat([bundle.draw(sampler(), [seed]) for seed in seeds])
    assert torch.equal(drawn, alone)
    labels = torch.tensor([seed % 10 for seed in seeds])
    expected = sampler().sample(labelled, (len(seeds), *SHAPE), seed=seeds, model_kwargs={"labels": labels})
    assert torch.equal(drawn, expected)


def test_labels_matter() -> None:
    a, b = conditional().draw(sampler(), [3]), conditional(seed_labels(2)).draw(sampler(), [3])
    assert not torch.equal(a, b)


def of_wrong_batch(seeds: Sequence[int]) -> Mapping[str, Tensor]:
    return {"labels": torch.zeros(len(seeds) + 1, dtype=torch.int64)}


def learned(bundle: ModelBundle, objective: Any = None, **settings: Any) -> Any:
    template = bundle.sampler(DPMSolverPPSampler, steps=2)
    teacher = TeacherObjective(bundle, bundle.sampler(DDIMSampler, steps=4))
    numbers: dict[str, Any] = {"batches": 2, "batch_size": 4, "choose_images": 8, "confirm_images": 8, **settings}
    return learn_plan(template, bundle, objective=objective or teacher, **numbers)


def table_of(bundle: ModelBundle) -> Any:
    return learned(conditional(), moves=0)


USES: dict[str, Callable[[ModelBundle], object]] = {
    "draw": lambda b: b.draw(sampler(), range(3)),
    "sweep": lambda b: sweep(b, steps=(2,), seeds=range(2), rounds=1, device="cpu"),
    "learn_plan": learned,
    "evaluate_table": lambda b: evaluate_table(table_of(b), b, toy_evaluator(), range(8)),
    "network objective": lambda b: optimize_timesteps(
        b.sampler(DDIMSampler, steps=2), 2, objective=NetworkObjective(b, range(2), range(5, 8), fine_steps=4), evaluations=9
    ),
    "quality objective": lambda b: QualityObjective(b, toy_evaluator(), range(4), range(9, 12)).value(sampler(steps=2)),
    "teacher": lambda b: TeacherObjective(b, b.sampler(DDIMSampler, steps=3)).loss(torch.zeros(3, *SHAPE), range(3)),
    "evaluation": lambda b: Evaluation(toy_evaluator(), images=5).rows(
        {"a": sampler()}, b, 1.0, device=CPU, folder=None, report=lambda *_: None
    ),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_every_use_of_a_bundle_gives_the_model_its_conditions(use: Callable[[ModelBundle], object]) -> None:
    use(conditional())  # the model raises where labels are missing or of another batch


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_conditions_of_a_wrong_batch_are_refused_before_any_call(use: Callable[[ModelBundle], object]) -> None:
    bundle = conditional(of_wrong_batch)
    with pytest.raises(ValueError, match=r"must give one entry a sample: for \d+ seeds labels has the shape"):
        use(bundle)
    assert calls(bundle) == 0


@pytest.mark.parametrize(
    ("conditions", "error", "message"),
    [
        (lambda seeds: {"labels": torch.tensor(3)}, ValueError, r"labels has the shape \(\), not \(2, ...\)"),
        (lambda seeds: torch.zeros(2), TypeError, "must give a mapping of names to arguments, got Tensor"),
        (lambda seeds: None, TypeError, "must give a mapping of names to arguments, got NoneType"),
    ],
)
def test_conditions_of_a_wrong_kind_are_refused_before_any_call(conditions: Any, error: type[Exception], message: str) -> None:
    bundle = conditional(conditions)
    with pytest.raises(error, match=message):
        bundle.draw(sampler(), range(2))
    assert calls(bundle) == 0


def test_what_is_no_tensor_is_shared_and_one_seed_is_no_sequence() -> None:
    bundle = conditional(lambda seeds: {**seed_labels(10)(seeds), "scale": 2.0})
    assert bundle.model_kwargs([12, 5])["scale"] == 2.0
    with pytest.raises(TypeError, match=r"seeds must be a sequence of one seed a sample, got 7: sampler\.seeds"):
        bundle.draw(sampler(), 7)  # type: ignore[arg-type]
    for name in ("conditions", "decode"):
        wrong: Any = {name: 3}
        with pytest.raises(TypeError, match=rf"{name} must be callable as {name}\("):
            toy(**wrong)


def test_images_of_a_sweep_are_those_of_the_seeds_conditions(tmp_path: Path) -> None:
    bundle = conditional()
    evaluation = Evaluation(toy_evaluator(), images=5)
    settings: dict[str, Any] = {"steps": (2,), "seeds": [4, 13], "rounds": 1, "device": "cpu", "out": tmp_path}
    study = sweep(bundle, evaluation=evaluation, **settings)
    for row in study.rows:
        assert np.array_equal(study.images[row.label], bundle.draw(row.sampler, [4, 13]).numpy())
        drawn = bundle.draw(row.sampler, range(5))
        assert row.quality is not None
        assert row.quality.kernel.value == pytest.approx(toy_evaluator().evaluate(drawn, range(5)).kernel.value)
    assert study.model["conditions_sha256"] == bundle.conditions_sha256()
    with pytest.raises(DDIMKitError, match="holds a sweep of another model"):
        sweep(conditional(seed_labels(9)), **settings)


def test_a_study_and_presets_hold_for_its_own_conditions_only() -> None:
    mnist = load_pretrained("mnist")
    assert find_study(mnist) is not None
    other = ModelBundle(mnist.model, mnist.schedule, sample_shape=(1, 28, 28), prediction="v", conditions=seed_labels(10))
    assert find_study(other) is None
    assert preset("realtime", model=other).nfe == 20


@pytest.mark.parametrize("decode", [None, halves], ids=["pixels", "latents"])
def test_learning_sees_the_images_that_a_table_draws(decode: Any) -> None:
    bundle = conditional(decode=decode)
    template = bundle.sampler(DPMSolverPPSampler, steps=3)
    drawing, corrections = Drawing(bundle, CPU, 7, 4, 1, False), Corrections(template)
    seeds = drawing.seeds(0)
    wide = PlanSampler.from_plan(template.schedule, corrections.plan, prediction=template.prediction, clip=template.clip)
    run = drawing.run(wide.coefficients, seeds)
    with torch.no_grad():
        images = drawing.images(corrections.rows(corrections.zeros(), run.x), run, recompute=False)
    assert torch.equal(images, bundle.draw(template, seeds))


def test_learning_goes_through_the_decoder() -> None:
    bundle = conditional(decode=halves)
    real = halves(REAL)
    pooled = Extractor(lambda x: torch.nn.functional.avg_pool2d(x, 4).flatten(1), name="quarters", sha256="eighths")
    many = real.repeat(2, 1, 1, 1) + torch.linspace(0, 0.01, 800)[:, None, None, None]
    found = learned(bundle, KernelObjective(many, pooled))
    assert found.nfe == 2
    assert activation_bytes(bundle, CPU) > 0


def test_latents_are_decoded_wherever_images_are_seen() -> None:
    bundle = conditional(decode=latent_decoder(halves, scaling_factor=0.5, shift_factor=0.25))
    latents = conditional().draw(sampler(), range(3))
    expected = halves(latents / 0.5 + 0.25)
    assert torch.equal(bundle.draw(sampler(), range(3)), expected)
    assert torch.equal(bundle.draw(sampler(), range(3), batch_size=2), expected)
    study = sweep(bundle, steps=(2,), seeds=range(2), rounds=1, device="cpu")
    assert all(images.shape == (2, 1, 8, 8) for images in study.images.values())
    pooled = Extractor(lambda x: torch.nn.functional.avg_pool2d(x, 4).flatten(1), name="quarters", sha256="quarters")
    network = NetworkObjective(bundle, range(2), range(5, 8), fine_steps=4, extractor=pooled)
    assert network.value(sampler(steps=2, eta=0.0)) > 0


def test_pixels_are_not_predicted_for_latents() -> None:
    def predicted(bundle: ModelBundle) -> float | None:
        rows = Evaluation(toy_evaluator(), images=0).rows(
            {"a": sampler()}, bundle, 1.0, device=CPU, folder=None, report=lambda *_: None
        )
        return rows[0].predicted

    assert predicted(conditional()) is not None
    assert predicted(conditional(decode=halves)) is None


@pytest.mark.parametrize(
    ("decode", "error", "message"),
    [
        (lambda x: x[:1], ValueError, "one image a sample, 3 of them, got shape"),
        (lambda x: (x,), TypeError, "floating point tensor, got tuple: if it wraps"),
        (lambda x: x.to(torch.int64), TypeError, r"floating point tensor, got torch\.int64"),
    ],
)
def test_a_decoder_that_gives_something_else_is_named(decode: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        conditional(decode=decode).draw(sampler(), range(3))


def test_helpers_check_their_numbers() -> None:
    for wrong in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scaling_factor must be finite and not 0"):
            latent_decoder(halves, scaling_factor=wrong)
    with pytest.raises(ValueError, match="classes must be at least 1"):
        seed_labels(0)
    assert pickle.loads(pickle.dumps(seed_labels(10, "y"))) == seed_labels(10, "y")
    assert seed_labels(10, "y")([3, 2**62 + 1])["y"].tolist() == [3, (2**62 + 1) % 10]


def test_the_hash_of_conditions_tells_them_apart() -> None:
    hashes = {
        conditional(conditions).conditions_sha256()
        for conditions in (
            seed_labels(10),
            seed_labels(9),
            seed_labels(10, "y"),
            lambda seeds: {**seed_labels(10)(seeds), "scale": 2.0},
            lambda seeds: {"labels": seed_labels(10)(seeds)["labels"].to(torch.int32)},
        )
    }
    assert len(hashes) == 5
    assert toy().conditions_sha256() is None
    assert conditional().conditions_sha256() == conditional().conditions_sha256()


def test_runs_of_the_loop_take_them_as_model_kwargs() -> None:
    bundle = conditional()
    run = prepare(sampler().coefficients, bundle.model, Arguments((2, *SHAPE), (1, 2), model_kwargs=bundle.model_kwargs([1, 2])))
    assert run.model(run.x, torch.zeros(2, dtype=torch.int64)).shape == (2, *SHAPE)
