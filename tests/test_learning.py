"""Learned tables: gradients, optimum, recovery, files, and the rule that only a known gain is returned."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddimkit import (
    DDIMSampler,
    DDPMSampler,
    DPMSolverPPSampler,
    LearnedSampler,
    ModelBundle,
    NoiseSchedule,
    Plan,
    PlanSampler,
    UniPCSampler,
    learn_plan,
    load_learned,
    load_pretrained,
)
from ddimkit._arguments import Arguments
from ddimkit._features.recipe import MNIST_LEARNING_FEATURES
from ddimkit.analytic import GaussianDenoiser
from ddimkit.errors import NonFiniteError, WeightsError
from ddimkit.learning import (
    KernelObjective,
    LearningObjective,
    SumObjective,
    TeacherObjective,
    evaluate_table,
    load_extractor,
    shipped,
)
from ddimkit.learning._learner import Drawing, Learner
from ddimkit.learning._memory import activation_bytes
from ddimkit.learning._metric import whitening
from ddimkit.learning._run import LearningRun, rungs
from ddimkit.learning._table import Corrections, walk_rows
from ddimkit.learning.kernel import Part
from ddimkit.loop import Run, prepare
from ddimkit.quality import Estimate, Extractor, kernel_distance, load_evaluator
from ddimkit.quality.estimate import estimate_mean
from ddimkit.quality.network import FeatureNetwork
from ddimkit.tradeoff.rows import label_of, sampler_from_dict, sampler_to_dict
from ddimkit.weights._tensorfile import read_tensors
from plugins import Heun
from studies import SHAPE, toy_evaluator

LINEAR = NoiseSchedule.linear()
MEAN, SPECTRUM = np.array([0.5, -1.0, 0.2]), np.array([4.0, 0.5, 0.01])
BUNDLE = ModelBundle(
    GaussianDenoiser(LINEAR, MEAN, SPECTRUM, prediction="v"), LINEAR, sample_shape=(3,), prediction="v", name="gauss"
)
TEACHER = TeacherObjective(BUNDLE, BUNDLE.sampler(DDIMSampler, steps=20))
QUICK: dict[str, Any] = {"batches": 12, "batch_size": 64, "choose_images": 64, "confirm_images": 128}


def ddim(steps: int | None = 2, **settings: Any) -> DDIMSampler:
    return BUNDLE.sampler(DDIMSampler, steps=steps, **settings)


def run_of(sampler: PlanSampler, corrections: Corrections, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Run:
    """A run of a sampler's template, widened as corrections are."""
    wide = PlanSampler.from_plan(sampler.schedule, corrections.plan, prediction=sampler.prediction, clip=sampler.clip)
    return prepare(wide.coefficients, BUNDLE.model, Arguments((len(seeds), 3), tuple(seeds), dtype=dtype))


TEMPLATES = [
    ddim(5),
    ddim(4, eta=0.7),
    ddim(4, clip=(-1.0, 1.0)),
    BUNDLE.sampler(DPMSolverPPSampler, steps=6, order=3),
    BUNDLE.sampler(DPMSolverPPSampler, steps=5, order=2, eta=1.0),
    BUNDLE.sampler(UniPCSampler, steps=5, order=2),
    BUNDLE.sampler(DDPMSampler, steps=4),
    BUNDLE.sampler(Heun, steps=3),
]


@pytest.mark.parametrize("sampler", TEMPLATES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("recompute", [False, True])
def test_no_corrections_are_the_template_bit_for_bit(sampler: PlanSampler, recompute: bool) -> None:
    corrections = Corrections(sampler)
    run = run_of(sampler, corrections, range(7))
    with torch.no_grad():
        drawn = walk_rows(corrections.rows(corrections.zeros(), run.x), run, recompute=recompute)
    assert torch.equal(drawn, sampler.sample(BUNDLE.model, (7, 3), seed=range(7)))
    assert corrections.corrected(corrections.zeros()) == sampler.plan()


@given(st.sampled_from(TEMPLATES), st.integers(0, 2**30))
@settings(max_examples=25)
def test_the_plan_of_corrections_draws_what_learning_drew(sampler: PlanSampler, seed: int) -> None:
    corrections = Corrections(sampler)
    theta = 0.1 * torch.randn(corrections.zeros().shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    run = run_of(sampler, corrections, range(5))
    with torch.no_grad():
        drawn = walk_rows(corrections.rows(theta, run.x), run, recompute=False)
    table = PlanSampler.from_plan(LINEAR, corrections.corrected(theta), prediction="v", clip=sampler.clip)
    assert torch.equal(drawn, table.sample(BUNDLE.model, (5, 3), seed=range(5)))


@pytest.mark.parametrize("sampler", TEMPLATES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_finite_differences(sampler: PlanSampler, recompute: bool) -> None:
    corrections = Corrections(sampler)
    free = corrections.zeros().shape
    start = 0.05 * torch.randn(free, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    run = run_of(sampler, corrections, range(6), torch.float64)
    wanted = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)

    def loss(theta: Tensor) -> Tensor:
        return (walk_rows(corrections.rows(theta, run.x), run, recompute=recompute) - wanted).square().mean()

    theta = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta)
    numeric, step = torch.zeros(free, dtype=torch.float64), 1e-5
    with torch.no_grad():
        for i in range(start.numel()):
            move = torch.zeros(start.numel(), dtype=torch.float64)
            move[i] = step
            numeric.view(-1)[i] = (loss(start + move.view(free)) - loss(start - move.view(free))) / (2 * step)
    assert torch.allclose(gradient, numeric, rtol=1e-6, atol=1e-8)
    assert gradient.abs().max() > 1e-3


def affine_maps(a: np.ndarray, b: np.ndarray, times: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset (3,) by which a two-call table turns x_T into the last x, written out from the posterior mean."""
    gain, offset, predicted = np.ones(3), np.zeros(3), list[tuple[np.ndarray, np.ndarray]]()
    for k, t in enumerate(times):
        s, n = LINEAR.signal[t], LINEAR.noise[t]
        weight = s * SPECTRUM / (s * s * SPECTRUM + n * n)
        predicted.insert(0, (weight * gain, MEAN + weight * (offset - s * MEAN)))
        known = list(zip(b[k], predicted, strict=False))
        gain = a[k] * gain + sum(weight * g for weight, (g, _) in known)
        offset = a[k] * offset + sum(weight * o for weight, (_, o) in known)
    return gain, offset


def optimum(wanted: tuple[np.ndarray, np.ndarray], times: Sequence[int]) -> float:
    """The least mean squared error of a two-call table: Gauss–Newton with damping from 20 starts, in float64."""

    def residuals(free: np.ndarray) -> np.ndarray:
        a, b = free[:2], np.array([[free[2], 0.0], [free[3], free[4]]])
        gain, offset = affine_maps(a, b, times)
        return np.concatenate((gain - wanted[0], offset - wanted[1])) / np.sqrt(3)

    generator, least = np.random.default_rng(0), np.inf
    for _ in range(20):
        free, damping = generator.normal(size=5), 1e-2
        value = float((residuals(free) ** 2).sum())
        for _ in range(300):
            r = residuals(free)
            jacobian = np.stack([(residuals(free + 1e-6 * e) - r) / 1e-6 for e in np.eye(5)], axis=1)
            tried = free - np.linalg.solve(jacobian.T @ jacobian + damping * np.eye(5), jacobian.T @ r)
            found = float((residuals(tried) ** 2).sum())
            free, value, damping = (tried, found, damping / 3) if found < value else (free, value, min(damping * 4, 1e6))
        least = min(least, value)
    return least


def expected_error(sampler: PlanSampler, wanted: tuple[np.ndarray, np.ndarray]) -> float:
    plan = sampler.plan()
    b = np.pad(plan.b, ((0, 0), (0, 2 - plan.b.shape[1])))
    gain, offset = affine_maps(plan.a, b, plan.t)
    return float(((gain - wanted[0]) ** 2 + (offset - wanted[1]) ** 2).sum() / 3)


def test_two_calls_reach_the_optimum_of_the_pixel_teacher() -> None:
    teacher = TEACHER.teacher.plan()
    wanted = affine_maps(teacher.a, teacher.b, teacher.t)
    template = ddim(None, timesteps=(999, 400))
    least = optimum(wanted, template.timesteps)
    learned = learn_plan(
        template, BUNDLE, objective=TEACHER, batches=250, batch_size=512, rates=(0.05,), moves=0, choose_images=2048
    )
    assert learned.gained
    found, before = expected_error(learned, wanted), expected_error(template, wanted)
    assert least * 0.9999 < found < 1.01 * least < 0.5 * before


def test_a_broken_start_recovers() -> None:
    plan = ddim(5).plan()
    broken = PlanSampler.from_plan(LINEAR, Plan(plan.t, plan.t_next, plan.a * 0.8, plan.b * 1.2, plan.c), prediction="v")
    learned = learn_plan(broken, BUNDLE, objective=TEACHER, batches=150, batch_size=128, rates=(0.05,))

    def error(sampler: PlanSampler) -> float:
        return TEACHER.estimate(sampler.sample(BUNDLE.model, (500, 3), seed=range(500)), range(500), "confirm").value

    assert learned.gained
    assert error(learned) < error(ddim(5)) < error(broken) / 3


@dataclass
class Watched:
    """An objective that notes the seeds it is given and can fail at a batch."""

    inner: LearningObjective = TEACHER
    fail_at: int = -1
    learned: list[int] = field(default_factory=list)
    others: dict[str, set[int]] = field(default_factory=dict)
    batches: int = 0

    def loss(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        if self.batches == self.fail_at:
            raise KeyboardInterrupt
        self.batches += images.requires_grad
        self.learned += list(seeds)
        return self.inner.loss(images, seeds)

    def estimate(self, images: Tensor, seeds: Sequence[int], part: Part) -> Estimate:
        self.others.setdefault(part, set()).update(seeds)
        return self.inner.estimate(images, seeds, part)

    def to_dict(self) -> dict[str, Any]:
        return self.inner.to_dict()


def test_learning_choosing_and_confirming_share_no_seed() -> None:
    watched = Watched()
    first = learn_plan(ddim(), BUNDLE, objective=watched, **QUICK)
    kinds = [set(watched.learned), watched.others["choose"], watched.others["confirm"]]
    again = Watched()
    learn_plan(ddim(), BUNDLE, objective=again, seed=1, **QUICK)
    kinds += [set(again.learned), again.others["choose"], again.others["confirm"]]
    assert sum(map(len, kinds)) == len(set().union(*kinds))
    assert len(watched.others["choose"]) == 64
    assert len(watched.others["confirm"]) == 128
    assert min(watched.learned) == first.origin.settings["first_seeds"]["learn"]


@pytest.mark.promise(57)
def test_a_table_that_is_not_known_to_be_better_is_not_returned() -> None:
    still = learn_plan(ddim(3), BUNDLE, objective=TEACHER, rates=(0.0,), moves=0, **QUICK)
    assert not still.gained
    assert still.plan() == ddim(3).plan()
    assert "nothing was gained" in still.reason
    assert still.origin.gain == (0.0, 0.0)
    moved = learn_plan(ddim(3), BUNDLE, objective=TEACHER, rates=(0.03,), **QUICK)
    assert moved.gained
    assert moved.origin.gain[0] > 0
    assert moved.plan() != ddim(3).plan()


@dataclass
class Flattering:
    """An objective whose learning data like what its confirming data do not."""

    def loss(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        return images.square().mean()

    def estimate(self, images: Tensor, seeds: Sequence[int], part: Part) -> Estimate:
        values = images.square().mean(dim=1).double().numpy()
        return estimate_mean(values if part == "choose" else -values, seeds)

    def to_dict(self) -> dict[str, Any]:
        return {"objective": "flattering"}


@pytest.mark.promise(57)
def test_what_choosing_liked_and_confirming_did_not_is_not_returned() -> None:
    learned = learn_plan(ddim(3), BUNDLE, objective=Flattering(), **QUICK)
    assert not learned.gained
    assert learned.origin.gain[1] < 0
    assert learned.plan() == ddim(3).plan()


@dataclass
class Interrupted:
    """An objective that is interrupted at one of its calls, of any kind."""

    stop_at: int
    calls: int = 0

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt

    def loss(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        self._count()
        return TEACHER.loss(images, seeds)

    def estimate(self, images: Tensor, seeds: Sequence[int], part: Part) -> Estimate:
        self._count()
        return TEACHER.estimate(images, seeds, part)

    def to_dict(self) -> dict[str, Any]:
        return TEACHER.to_dict()


@pytest.mark.parametrize("rates", [(0.03,), (0.02, 0.05, 0.01)], ids=str)
def test_a_run_interrupted_anywhere_goes_on_bit_for_bit(tmp_path: Path, rates: tuple[float, ...]) -> None:
    """In a batch, an evaluation, a move of the timesteps, and while confirming."""
    keywords = {**QUICK, "batches": 6, "batch_size": 8, "choose_images": 8, "confirm_images": 8, "rates": rates}
    whole, counted = learn_plan(ddim(3), BUNDLE, objective=TEACHER, **keywords), Interrupted(-1)
    learn_plan(ddim(3), BUNDLE, objective=counted, **keywords)
    assert counted.calls > 30
    for stop_at in range(1, counted.calls + 1, 1 if len(rates) == 1 else 5):
        path = tmp_path / f"{stop_at}"
        with pytest.raises(KeyboardInterrupt):
            learn_plan(ddim(3), BUNDLE, objective=Interrupted(stop_at), path=path, **keywords)
        resumed = learn_plan(ddim(3), BUNDLE, objective=TEACHER, path=path, **keywords)
        assert resumed.plan() == whole.plan(), stop_at
        assert resumed.origin.curve == whole.origin.curve, stop_at


@pytest.mark.parametrize(
    ("learners", "batches", "expected"),
    [
        (1, 12, [(1, 12)]),
        (2, 12, [(2, 6), (1, 12)]),
        (3, 12, [(3, 3), (2, 6), (1, 12)]),
        (5, 80, [(5, 10), (3, 20), (2, 40), (1, 80)]),
        (9, 160, [(9, 10), (5, 20), (3, 40), (2, 80), (1, 160)]),
    ],
)
def test_the_worse_half_is_left_out(learners: int, batches: int, expected: list[tuple[int, int]]) -> None:
    assert rungs(learners, batches) == expected


def test_of_nine_rates_the_best_is_found() -> None:
    rates = (0.0,) * 8 + (0.03,)
    learned = learn_plan(ddim(3), BUNDLE, objective=TEACHER, moves=0, **{**QUICK, "batches": 32, "rates": rates})
    assert learned.origin.settings["rate"] == 0.03
    assert learned.origin.curve[-1][0] == 32


def test_a_rate_whose_loss_is_not_finite_is_left_out() -> None:
    @dataclass
    class Brittle(Flattering):
        def loss(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
            return TEACHER.loss(images, seeds) * (float("nan") if images.detach().abs().max() > 1e4 else 1.0)

        def estimate(self, images: Tensor, seeds: Sequence[int], part: Part) -> Estimate:
            return TEACHER.estimate(images.clamp(-1e3, 1e3), seeds, part)

    learned = learn_plan(ddim(3), BUNDLE, objective=Brittle(), **{**QUICK, "rates": (1e6, 0.02)})
    assert learned.origin.settings["rate"] == 0.02
    with pytest.raises(NonFiniteError, match="smaller learning rate"):
        learn_plan(ddim(3), BUNDLE, objective=Brittle(), **{**QUICK, "rates": (1e6,)})


def test_time_that_is_over_loses_no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(10**6))
    monkeypatch.setattr(LearningRun, "_seconds", lambda _: float(next(seconds)))
    learned = learn_plan(ddim(3), BUNDLE, objective=TEACHER, minutes=0.5, **{**QUICK, "batches": 100})
    done = learned.origin.curve[-1][0]
    assert 0 < done < 100
    assert done % 12


def test_the_origin_tells_what_was_learned_from_and_what_compared_with() -> None:
    """The first template begins nearer, the second one ends nearer."""
    begins, ends = (ddim(None, timesteps=times) for times in ((999, 400), (999, 300)))
    learned = learn_plan(
        [begins, ends], BUNDLE, objective=TEACHER, moves=0, **{**QUICK, "batches": 60, "choose_images": 400, "rates": (0.05,)}
    )
    assert learned.gained
    assert learned.timesteps == ends.timesteps
    assert learned.origin.template == ends.record()
    assert learned.origin.compared_with == begins.record()


@pytest.mark.parametrize("fail_at", [5])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, fail_at: int) -> None:
    templates, keywords = [ddim(3), BUNDLE.sampler(DPMSolverPPSampler, steps=3)], {**QUICK, "rates": (0.02, 0.05)}
    whole = learn_plan(templates, BUNDLE, objective=TEACHER, **keywords)
    with pytest.raises(KeyboardInterrupt):
        learn_plan(templates, BUNDLE, objective=Watched(fail_at=fail_at), path=tmp_path / "run", **keywords)
    rest = Watched()
    resumed = learn_plan(templates, BUNDLE, objective=rest, path=tmp_path / "run", **keywords)
    assert resumed.plan() == whole.plan()
    assert resumed.origin.curve == whole.origin.curve
    assert rest.batches > 0
    assert rest.batches + fail_at == pytest.approx(4 * 3 + 2 * 3 + 6, abs=1)


def test_a_file_of_another_run_is_refused(tmp_path: Path) -> None:
    learn_plan(ddim(), BUNDLE, objective=TEACHER, path=tmp_path / "run", **QUICK)
    with pytest.raises(ValueError, match="another run"):
        learn_plan(ddim(), BUNDLE, objective=TEACHER, path=tmp_path / "run", seed=3, **QUICK)
    with pytest.raises(OSError, match="nowhere"):
        learn_plan(ddim(), BUNDLE, objective=Watched(fail_at=0), path=tmp_path / "nowhere" / "run", **QUICK)


def test_halving_leaves_the_worse_half_out() -> None:
    good, bad = ddim(4), BUNDLE.sampler(DDIMSampler, timesteps=(999, 3, 2, 1))
    watched = Watched()
    learned = learn_plan([bad, good, bad, bad], BUNDLE, objective=watched, moves=0, **{**QUICK, "batches": 16})
    assert learned.origin.template["settings"]["timesteps"] == list(good.timesteps)
    assert learned.timesteps == good.timesteps
    assert watched.batches == 4 * 4 + 2 * 4 + 8
    assert learned.origin.curve[-1][0] == 16


def test_timesteps_move_where_that_helps() -> None:
    start = BUNDLE.sampler(DDIMSampler, timesteps=(999, 60, 50))
    drawing = Drawing(BUNDLE, torch.device("cpu"), 10**6, 64, 1, recompute=False)
    learner = Learner(start, 0.0, 10)
    seeds = range(256)
    moved = learner.move_timesteps(TEACHER, drawing, seeds)
    times = moved.corrections.template.timesteps
    assert tuple(times) != start.timesteps
    assert times[0] > times[1] > times[2]
    assert moved.loss_of(TEACHER, drawing, seeds) < learner.loss_of(TEACHER, drawing, seeds)
    table = Learner(PlanSampler.from_plan(LINEAR, start.plan(), prediction="v"), 0.0, 10)
    assert table.move_timesteps(TEACHER, drawing, seeds).corrections.plan.t == start.timesteps


def test_time_that_is_over_ends_with_the_best_so_far() -> None:
    watched = Watched()
    learned = learn_plan(ddim(), BUNDLE, objective=watched, minutes=0.0, **QUICK)
    assert watched.batches == 0
    assert learned.plan() == ddim().plan()


def test_a_step_along_any_column_of_the_basis_moves_the_images_as_far() -> None:
    """Images of fresh seeds; the metric is measured by 32 of others."""
    drawing, learner = Drawing(BUNDLE, torch.device("cpu"), 0, 32, 1, recompute=False), Learner(ddim(2), 0.05, 10)
    learner.learn(TEACHER, drawing)
    corrections, run = learner.corrections, run_of(ddim(2), learner.corrections, range(5000, 9000), torch.float64)

    def draw(values: Tensor) -> Tensor:
        return walk_rows(corrections.rows(corrections.spread(values), run.x), run, recompute=False)

    start = draw(torch.zeros(5, dtype=torch.float64))
    moved = torch.stack([(draw(1e-4 * column) - start).flatten() for column in learner.basis.T]) / 1e-4
    gram = (moved @ moved.T / start.numel() / start.var()).numpy()
    assert gram.diagonal()[1:] == pytest.approx(1, abs=0.35)  # the first combination changes nothing
    assert gram[0, 0] < 1e-3
    assert np.abs(gram - np.diag(gram.diagonal())).max() < 0.3


@pytest.mark.parametrize("steps", [2, 5])
def test_a_step_is_as_long_whatever_the_number_of_coefficients(steps: int) -> None:
    """In the basis a first step of Adam has nearly the learning rate's length, and the averaged numbers are those of it."""
    rate, learner = 0.05, Learner(ddim(steps), 0.05, 1000)
    learner.learn(TEACHER, Drawing(BUNDLE, torch.device("cpu"), 0, 64, 1, recompute=False))
    step = torch.linalg.solve(learner.basis, learner.theta[learner.corrections.free])
    assert 0.4 * rate < float(step.norm()) <= rate
    assert torch.equal(learner.average, learner.theta)


def test_averaged_numbers_weight_step_k_by_about_its_cube() -> None:
    learner, drawing = Learner(ddim(2), 0.05, 50), Drawing(BUNDLE, torch.device("cpu"), 0, 32, 1, recompute=False)
    seen = list[Tensor]()
    for _ in range(20):
        learner.learn(TEACHER, drawing)
        seen.append(learner.theta.clone())
    weights = torch.tensor([float(k * (k + 1) * (k + 2)) for k in range(1, 21)], dtype=torch.float64)
    mean = torch.einsum("k,kij->ij", weights / weights.sum(), torch.stack(seen))
    torch.testing.assert_close(learner.average, mean, rtol=1e-9, atol=1e-12)


def test_numbers_of_a_table_of_the_bundled_model_compensate_one_another() -> None:
    """What the documentation says of it: some combinations change an image a thousand times as much as others."""
    mnist = load_pretrained("mnist")
    corrections = Corrections(mnist.sampler(DPMSolverPPSampler, steps=5, order=3))
    run = prepare(
        PlanSampler.from_plan(mnist.schedule, corrections.plan, prediction="v").coefficients,
        mnist.model,
        Arguments((4, *mnist.sample_shape), (0, 1, 2, 3)),
    )

    def draw(values: Tensor) -> Tensor:
        with torch.no_grad():
            return walk_rows(corrections.rows(corrections.spread(values), run.x), run, recompute=False)

    basis = whitening(draw, torch.zeros(20, dtype=torch.float64))
    lengths = (1 / basis.norm(dim=0).square() - 0.01).clamp_min(0).sqrt()  # the columns are 1 over the root of w + 0.01
    assert float(lengths.max()) > 1000 * float(lengths.min())


def test_images_that_do_not_follow_the_numbers_are_refused() -> None:
    """A model that overflows has no metric."""
    learner = Learner(ddim(2), 0.05, 10)
    model = ModelBundle(lambda x, t: x * float("inf"), LINEAR, sample_shape=(3,), prediction="v", name="inf")
    with pytest.raises(FloatingPointError, match="not finite"):
        learner.learn(TEACHER, Drawing(model, torch.device("cpu"), 0, 32, 1, recompute=False))


def test_accumulated_batches_are_one_step_of_their_mean() -> None:
    one = Learner(ddim(3), 0.05, 10)
    two = Learner(ddim(3), 0.05, 10)
    one.learn(TEACHER, Drawing(BUNDLE, torch.device("cpu"), 0, 128, 1, recompute=False))
    two.learn(TEACHER, Drawing(BUNDLE, torch.device("cpu"), 0, 64, 2, recompute=False))
    assert torch.allclose(one.first, two.first, rtol=1e-4, atol=1e-6)
    assert one.done == two.done == 1


@pytest.fixture(scope="module")
def learned() -> LearnedSampler:
    return learn_plan(BUNDLE.sampler(DPMSolverPPSampler, steps=3, eta=1.0), BUNDLE, objective=Flattering(), **QUICK)


def test_files_keep_everything(learned: LearnedSampler, tmp_path: Path) -> None:
    learned.save(tmp_path / "table.json")
    again = LearnedSampler.load(str(tmp_path / "table.json"))
    assert again == learned
    assert again.origin == learned.origin
    assert hash(again) == hash(learned)
    x = learned.sample(BUNDLE.model, (4, 3), seed=3)
    assert torch.equal(x, again.sample(BUNDLE.model, (4, 3), seed=3))
    json.dumps(learned.record((4, 3), seed=3))
    assert learned.origin.model["name"] == "gauss"
    assert set(learned.origin.versions) == {"ddimkit", "torch", "numpy"}


def test_another_schedule_is_refused(learned: LearnedSampler, tmp_path: Path) -> None:
    learned.save(tmp_path / "table.json")
    near = NoiseSchedule.from_alpha_bars(LINEAR.alpha_bars * (1 - 1e-12))
    assert LearnedSampler.load(tmp_path / "table.json", schedule=near).table == learned.table
    with pytest.raises(ValueError, match="another schedule"):
        LearnedSampler.load(tmp_path / "table.json", schedule=NoiseSchedule.cosine(1000))


@pytest.mark.parametrize(
    ("name", "value"), [("plan", []), ("plan", None), ("clip", [2.0, 1.0]), ("clip", "on"), ("prediction", "noise"), ("origin", 3)]
)
def test_files_with_a_wrong_value_are_refused(learned: LearnedSampler, tmp_path: Path, name: str, value: object) -> None:
    (tmp_path / "table.json").write_text(json.dumps({**learned.to_dict(), name: value}))
    with pytest.raises(WeightsError, match="no learned table"):
        LearnedSampler.load(tmp_path / "table.json")


def test_a_schedule_without_a_name_must_be_given(tmp_path: Path) -> None:
    schedule = NoiseSchedule.from_alpha_bars(LINEAR.alpha_bars)
    bundle = ModelBundle(GaussianDenoiser(schedule, MEAN, SPECTRUM), schedule, sample_shape=(3,), prediction="x0")
    table = learn_plan(bundle.sampler(DDIMSampler, steps=2), bundle, objective=Flattering(), **QUICK)
    table.save(tmp_path / "table.json")
    assert LearnedSampler.load(tmp_path / "table.json", schedule=schedule) == table
    with pytest.raises(ValueError, match="names no schedule"):
        LearnedSampler.load(tmp_path / "table.json")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "ddimkit-table", "schema": 99}', '{"format": "ddimkit-table", "schema": 1}']
)
def test_files_that_are_no_tables_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(WeightsError, match="no learned table"):
        LearnedSampler.load(tmp_path / "table.json")


def no_gradient(x: Tensor, t: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = BUNDLE.model(x, t)
    return output


def not_finite(x: Tensor, t: Tensor) -> Tensor:
    output: Tensor = BUNDLE.model(x, t)
    return output * float("nan") if int(t[0]) == 499 else output


LINE = torch.nn.Linear(3, 3)


def cut_off(x: Tensor, t: Tensor) -> Tensor:
    """Depends on parameters through autograd, but not on x."""
    found: Tensor = LINE(x.detach())
    return found


class Unnamed(Flattering):
    def to_dict(self) -> dict[str, Any]:
        return {"objective": object()}


class Uncertain(Flattering):
    def estimate(self, images: Tensor, seeds: Sequence[int], part: Part) -> Estimate:
        return Estimate(1.0, 0.5, 1.5)


class Many(Flattering):
    def loss(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        return images.square().mean(dim=1)


REFUSALS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: learn_plan([], BUNDLE, objective=TEACHER), ValueError, "needs a template"),
    (lambda: learn_plan([ddim(2), ddim(3)], BUNDLE, objective=TEACHER), ValueError, "equal calls"),
    (lambda: learn_plan([ddim(2), ddim(2, clip=(-1, 1))], BUNDLE, objective=TEACHER), ValueError, "one clip"),
    (lambda: learn_plan(["ddim"], BUNDLE, objective=TEACHER), TypeError, "PlanSampler"),  # type: ignore[list-item]
    (lambda: learn_plan(DDIMSampler, BUNDLE, objective=TEACHER), TypeError, "must be a PlanSampler"),  # type: ignore[arg-type]
    (lambda: learn_plan(DDIMSampler(LINEAR, steps=3), BUNDLE, objective=TEACHER), ValueError, "schedule and prediction"),
    (
        lambda: learn_plan(DDIMSampler(NoiseSchedule.cosine(1000), steps=3, prediction="v"), BUNDLE, objective=TEACHER),
        ValueError,
        "must have the model's schedule",
    ),
    (lambda: learn_plan(ddim(), BUNDLE, objective=TEACHER, rates=0.02), TypeError, "rates must be a sequence"),  # type: ignore[arg-type]
    (lambda: learn_plan(ddim(), BUNDLE, objective=TEACHER, rates=(float("nan"),)), ValueError, "finite learning rates"),
    (lambda: learn_plan(ddim(), BUNDLE, objective=TEACHER, minutes=-1.0), ValueError, "minutes must be"),
    (lambda: learn_plan(ddim(), BUNDLE, objective=TEACHER, minutes=float("nan")), ValueError, "got nan"),
    (lambda: learn_plan(ddim(), BUNDLE, objective=TEACHER, checkpoint="never"), ValueError, "checkpoint must"),  # type: ignore[arg-type]
    (lambda: learn_plan(ddim(), BUNDLE, objective=abs), TypeError, "has no loss, estimate, to_dict"),  # type: ignore[arg-type]
    (lambda: learn_plan(ddim(), BUNDLE, objective=Unnamed()), TypeError, "plain JSON values"),
    (lambda: learn_plan(ddim(), BUNDLE, objective=Uncertain(), **QUICK), ValueError, "no influences"),
    (lambda: learn_plan(ddim(), BUNDLE, objective=Many(), **QUICK), ValueError, "one number of shape"),
    (
        lambda: learn_plan(ddim(), ModelBundle(cut_off, LINEAR, sample_shape=(3,), prediction="v"), objective=TEACHER),
        ValueError,
        "does not depend on x",
    ),
    (
        lambda: learn_plan(
            ddim(), ModelBundle(torch.nn.Dropout(0.5).train(), LINEAR, sample_shape=(3,), prediction="v"), objective=TEACHER
        ),
        ValueError,
        "train mode",
    ),
    (
        lambda: learn_plan(BUNDLE.sampler(DDPMSampler, steps=3, variance="learned_range"), BUNDLE, objective=TEACHER),
        ValueError,
        "learned variance range",
    ),
    (lambda: learn_plan(ddim(), BUNDLE, objective=TEACHER, batches=0), ValueError, "batches"),
    (lambda: learn_plan(ddim(), BUNDLE, objective=TEACHER, batches=True), TypeError, "batches"),
    (lambda: learn_plan(ddim(), BUNDLE, objective=TEACHER, batch_size=1), ValueError, "batch_size"),
    (lambda: learn_plan(ddim(), BUNDLE, objective=TEACHER, rates=()), ValueError, "rates"),
    (lambda: learn_plan(ddim(), BUNDLE, objective=TEACHER, moves=-1), ValueError, "moves"),
    (lambda: learn_plan(ddim(), BUNDLE, objective=TEACHER, seed=-1), ValueError, "seed"),
    (
        lambda: learn_plan(ddim(), ModelBundle(no_gradient, LINEAR, sample_shape=(3,), prediction="v"), objective=TEACHER),
        ValueError,
        "cannot differentiate the model",
    ),
    (
        lambda: learn_plan(ddim(), ModelBundle(not_finite, LINEAR, sample_shape=(3,), prediction="v"), objective=TEACHER, **QUICK),
        NonFiniteError,
        "NaN",
    ),
    (lambda: TeacherObjective(BUNDLE, ddim(5, eta=1.0)), ValueError, "must not add noise"),
    (lambda: TeacherObjective(BUNDLE, ddim(5), batch=0), ValueError, "batch"),
    (lambda: SumObjective(()), ValueError, "needs objectives"),
    (lambda: SumObjective((TEACHER,), (1.0, 2.0)), ValueError, "a weight for each"),
    (
        lambda: SumObjective((KernelObjective(REAL, SMOOTH), KernelObjective(REAL[:600], SMOOTH))),
        ValueError,
        "must have the same real images",
    ),
    (lambda: learn_plan(ddim(), BUNDLE, objective=SumObjective((TEACHER, Uncertain())), **QUICK), ValueError, "with influences"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSALS, ids=[message for _, _, message in REFUSALS])
def test_what_cannot_be_learned_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_an_objective_without_gradient_is_refused() -> None:
    @dataclass
    class Detached(Flattering):
        def loss(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
            return images.detach().square().mean()

    with pytest.raises(ValueError, match="torch can differentiate"):
        learn_plan(ddim(), BUNDLE, objective=Detached(), **QUICK)


def features_of(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return torch.cat((flat, flat.square()), dim=1)


SMOOTH = Extractor(features_of, "smooth", "abc", rounding="none")
REAL = (0.4 * torch.randn(800, 1, 2, 2, generator=torch.Generator().manual_seed(5))).clamp(-1, 1)


def test_no_image_is_in_two_parts_and_their_order_does_not_matter_much() -> None:
    with pytest.raises(ValueError, match="400 different real images, got 200"):
        KernelObjective(REAL[:200].repeat(4, 1, 1, 1), SMOOTH)
    twice = KernelObjective(torch.cat((REAL, REAL[:100])), SMOOTH)
    assert sum(twice.to_dict()["images"][part] for part in ("learn", "choose", "confirm")) == len(REAL)
    ordered = KernelObjective(REAL[REAL.mean(dim=(1, 2, 3)).argsort()], SMOOTH)
    images = REAL[:100]
    loss, chosen = float(ordered.loss(images, range(100))), ordered.estimate(images, range(100), "choose")
    assert abs(loss - chosen.value) < 2 * chosen.margin
    assert ordered.shared_images(REAL[:300]) == 300
    assert ordered.shared_images(REAL[:300].neg() * 0.37) < 5
    assert ordered.to_dict()["images"]["sha256"] != twice.to_dict()["images"]["sha256"]


def test_features_that_are_nearly_constant_count_nothing() -> None:
    nearly = Extractor(lambda x: torch.cat((features_of(x), 1 + 1e-7 * x.flatten(1)), dim=1), "nearly", "abc", rounding="none")
    objective, images, real = (
        KernelObjective(REAL, nearly),
        (REAL[:64] + 0.3).clamp(-1, 1),
        SMOOTH(REAL)[np.random.default_rng(0).permutation(800)],
    )
    mean, spread = real[:400].mean(axis=0), real[:400].std(axis=0)
    ours, theirs = (np.pad((features - mean) / spread, ((0, 0), (0, 4))) for features in (SMOOTH(images), real[:400]))
    assert float(objective.loss(images, range(64))) == pytest.approx(kernel_distance(ours, theirs), rel=1e-4)


@pytest.mark.parametrize("rounding", ["none", "uint8"])
def test_the_kernel_loss_is_the_unbiased_distance_of_standardised_features(rounding: Any) -> None:
    extractor = Extractor(features_of, "smooth", "abc", rounding=rounding)
    objective = KernelObjective(REAL, extractor)
    real = extractor(REAL)[np.random.default_rng(0).permutation(800)]
    mean, spread = real[:400].mean(axis=0), real[:400].std(axis=0)

    def distance(images: Tensor, part: slice) -> float:
        return kernel_distance((extractor(images) - mean) / spread, (real[part] - mean) / spread)

    images = (0.7 * torch.randn(60, 1, 2, 2, generator=torch.Generator().manual_seed(6)) + 0.2).clamp(-1, 1).requires_grad_()
    loss = objective.loss(images, range(60))
    assert float(loss.detach()) == pytest.approx(distance(images, slice(0, 400)), rel=1e-4, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, images)
    assert gradient.abs().max() > 0
    chosen = objective.estimate(images.detach(), range(60), "choose")
    assert chosen.value == pytest.approx(distance(images, slice(400, 600)), rel=1e-4, abs=1e-6)
    confirmed = objective.estimate(images.detach(), range(60), "confirm")
    assert confirmed.value == pytest.approx(distance(images, slice(600, 800)), rel=1e-4, abs=1e-6)
    counts = {"name": "real images", "learn": 400, "choose": 200, "confirm": 200}
    assert counts.items() <= objective.to_dict()["images"].items()


def test_the_gradient_of_rounded_pixels_is_that_of_the_pixels_themselves() -> None:
    rounded = KernelObjective(REAL, Extractor(features_of, "smooth", "abc", rounding="uint8"))
    whole = KernelObjective(rounded.images, SMOOTH)
    images = (0.5 * torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(7))).clamp(-0.95, 0.95).requires_grad_()
    ours, theirs = (torch.autograd.grad(each.loss(images, range(64)), images)[0] for each in (rounded, whole))
    assert torch.allclose(ours, theirs, atol=0.03 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("images", "extractor", "message"),
    [
        (REAL[:399], SMOOTH, "at least 400"),
        (REAL, Extractor(lambda x: torch.ones(len(x), 4), "flat", "abc"), "same features"),
    ],
)
def test_real_images_that_cannot_be_learned_with_are_refused(images: Tensor, extractor: Extractor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KernelObjective(images, extractor).loss(images[:4], range(4))


def test_sums_add_values_and_influences() -> None:
    images = ddim(3).sample(BUNDLE.model, (40, 3), seed=range(40))
    both = SumObjective((TEACHER, Flattering()), (2.0, 3.0))
    first, second = TEACHER.estimate(images, range(40), "choose"), Flattering().estimate(images, range(40), "choose")
    total = both.estimate(images, range(40), "choose")
    assert total.value == pytest.approx(2 * first.value + 3 * second.value)
    assert (total - total).interval == (0.0, 0.0)
    doubled = SumObjective((TEACHER, TEACHER)).estimate(images, range(40), "choose")
    assert doubled.margin == pytest.approx(2 * first.margin)
    loss = both.loss(images, range(40))
    assert float(loss) == pytest.approx(2 * float(TEACHER.loss(images, range(40))) + 3 * float(images.square().mean()), rel=1e-5)
    assert [part["weight"] for part in both.to_dict()["parts"]] == [2.0, 3.0]
    plain = SumObjective((KernelObjective(REAL, SMOOTH), KernelObjective(REAL, SMOOTH)))
    assert plain.estimate(REAL[:50], range(50), "choose").margin == pytest.approx(
        2 * KernelObjective(REAL, SMOOTH).estimate(REAL[:50], range(50), "choose").margin
    )


def test_activations_are_counted() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 100), torch.nn.Tanh(), torch.nn.Linear(100, 3)).eval()
    bundle = ModelBundle(lambda x, t: model(x), LINEAR, sample_shape=(3,))
    assert activation_bytes(bundle, torch.device("cpu")) == 4 * (3 + 100)


def test_the_learning_network_is_another_than_the_evaluating_one() -> None:
    learning, evaluating = load_extractor("mnist"), load_evaluator("mnist").extractor
    assert learning.sha256 != evaluating.sha256
    ours, theirs = (cast("FeatureNetwork", each.extract).config for each in (learning, evaluating))
    assert ours.family != theirs.family
    assert (Path(shipped.__file__).parent / "weights" / "mnist-learning-features.safetensors").stat().st_size <= 150_000
    figures = read_tensors(
        Path(shipped.__file__).parent / "weights" / "mnist-learning-features.safetensors", kind="ddimkit-features", schema=1
    ).settings["figures"]
    assert figures["test_accuracy"] >= 0.993
    assert figures["recipe"] == json.loads(json.dumps(asdict(MNIST_LEARNING_FEATURES)))


def test_a_table_is_evaluated_by_others_only(learned: LearnedSampler) -> None:
    evaluator = toy_evaluator()
    toys = ModelBundle(lambda x, t: 0.5 * x, LINEAR, sample_shape=SHAPE, prediction="v")
    once = evaluate_table(learned, toys, evaluator, range(40))
    twice = evaluate_table(once, toys, evaluator, range(100, 140))
    assert [len(each.origin.evaluations) for each in (learned, once, twice)] == [0, 1, 2]
    assert twice.origin.evaluations[0]["extractor"] == "quarters"
    assert once == learned
    for seeds in (range(10**9 + 5, 10**9 + 45), [*range(20), *range(10**9, 10**9 + 19), 10**12]):
        with pytest.raises(ValueError, match="one of those of learning"):
            evaluate_table(learned, toys, evaluator, seeds)
    evaluate_table(learned, toys, evaluator, range(8_500_000_000, 8_500_000_040))
    with pytest.raises(TypeError, match="sequence of one seed"):
        evaluate_table(learned, toys, evaluator, 7)  # type: ignore[arg-type]
    other = replace(learned, origin=replace(learned.origin, model={"name": "gauss", "sha256": "abc"}))
    with pytest.raises(ValueError, match="give that model"):
        evaluate_table(other, toys, evaluator, range(40))
    objective = {"extractor": {"sha256": evaluator.extractor.sha256}, "images": {"name": "other"}}
    with pytest.raises(ValueError, match="learned with: evaluate with another"):
        evaluate_table(replace(learned, origin=replace(learned.origin, objective=objective)), toys, evaluator, range(40))
    objective = {"extractor": {"sha256": "another"}, "images": {"name": "toys test"}}
    with pytest.raises(ValueError, match="learned with: evaluate with others"):
        evaluate_table(replace(learned, origin=replace(learned.origin, objective=objective)), toys, evaluator, range(40))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_learned("mnist", calls=7), "there is no learned table mnist-7; the tables of this version are"),
        (lambda: load_learned("celeba", calls=5), "there is no learned table celeba-5"),
        (lambda: load_extractor("celeba"), "the learning networks are mnist"),
    ],
)
def test_what_is_not_shipped_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_row_of_a_study_keeps_a_learned_table(learned: LearnedSampler) -> None:
    shared = {"prediction": learned.prediction, "clip": learned.clip}
    again = sampler_from_dict(json.loads(json.dumps(sampler_to_dict(learned))), learned.schedule, shared)
    assert isinstance(again, LearnedSampler)
    assert again == learned
    assert again.origin == learned.origin
    assert label_of(learned) == ("learned-SDE-3" if learned.plan().adds_noise else "learned-3")
    plain = LearnedSampler.of(LINEAR, ddim(4).plan(), prediction="v", clip=None, origin=learned.origin)
    assert label_of(plain) == "learned-4"


SHIPPED = sorted((Path(shipped.__file__).parent / "tables").glob("*.json"))


@pytest.mark.promise(57, 61)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_tables_gained_and_say_what_with(path: Path) -> None:
    _, calls, *noise = path.stem.split("-")
    table = load_learned("mnist", calls=int(calls), noise=bool(noise))
    mnist = load_pretrained("mnist")
    assert table.gained
    assert table.nfe == int(calls)
    assert table.plan().adds_noise is bool(noise)
    assert table.origin.model["sha256"] == mnist.weights_sha256()
    assert table.schedule.is_same(mnist.schedule)
    assert (table.prediction, table.clip) == (mnist.prediction, mnist.clip)
    assert table.origin.objective["extractor"]["sha256"] == load_extractor("mnist").sha256
    assert table.origin.evaluations[-1]["sha256"] == load_evaluator("mnist").extractor.sha256
    assert path.stat().st_size < 10_000


def test_tables_are_shipped() -> None:
    assert SHIPPED
