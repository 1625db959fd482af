"""Guidance: the papers' equations in plain numpy, exact answers on Gaussians, and what guided models must leave as it is."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ddimkit import (
    DDIMSampler,
    DDPMSampler,
    DPMSolverPPSampler,
    ModelBundle,
    NoiseSchedule,
    Plan,
    PlanSampler,
    UNet,
    UNetConfig,
    accelerate,
    graphs,
    load_pretrained,
)
from ddimkit._arguments import model_device
from ddimkit.analytic import GaussianDenoiser, MixtureDenoiser
from ddimkit.editing import interpolate, reconstruct
from ddimkit.guidance import autoguidance, cfg_plus_plus, classifier_free, classifier_guidance
from ddimkit.models.conditions import seed_labels
from ddimkit.prediction import Prediction
from ddimkit.schedule import FloatArray
from ddimkit.tradeoff.committed import find_study
from plugins import Heun
from probes import Counting, HostReads, column, normal, smooth
from studies import toy

LINEAR = NoiseSchedule.linear()
FLOW = NoiseSchedule.rectified_flow(200)
MEANS = np.array([[0.8, -0.5], [-0.6, 0.9], [0.1, 0.2]])
VARIANCES = np.array([[0.3, 0.1], [0.05, 0.4], [0.2, 0.2]])
WEIGHTS = (0.5, 0.3, 0.2)
NONE = 3
"""The label that stands for none: the mixture of all three."""
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


class ByLabel:
    """The exact model of a mixture: the component of each sample's label, or for label 3 the whole mixture."""

    def __init__(self, schedule: NoiseSchedule = LINEAR, prediction: Prediction = "x0", variances: FloatArray = VARIANCES) -> None:
        parts: list[Callable[[Tensor, Tensor], Tensor]] = [
            GaussianDenoiser(schedule, m, v, prediction=prediction) for m, v in zip(MEANS, variances, strict=True)
        ]
        self.parts = [*parts, MixtureDenoiser(schedule, WEIGHTS, MEANS, variances, prediction=prediction)]
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        self.batches.append(len(x))
        every = torch.stack([part(x, t) for part in self.parts])
        return every[labels, torch.arange(len(x))]


# The oracle: everything in noise predictions, as the papers write it, in plain numpy.


def conditional_eps(schedule: NoiseSchedule, x: FloatArray, t: int, label: int) -> FloatArray:
    s, n = schedule.signal[t], schedule.noise[t]
    return n * (x - s * MEANS[label]) / (s * s * VARIANCES[label] + n * n)


def log_posterior(schedule: NoiseSchedule, x: FloatArray, t: int) -> FloatArray:
    """(B, C): log p(c | x_t)."""
    s, n = schedule.signal[t], schedule.noise[t]
    total = s * s * VARIANCES + n * n
    joint = np.log(WEIGHTS) - ((x[:, None] - s * MEANS) ** 2 / total + np.log(total)).sum(axis=2) / 2
    return np.asarray(
        joint
        - np.log(np.exp(joint - joint.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
        - joint.max(axis=1, keepdims=True)
    )


def marginal_eps(schedule: NoiseSchedule, x: FloatArray, t: int) -> FloatArray:
    each = np.stack([conditional_eps(schedule, x, t, c) for c in range(3)], axis=1)
    return np.asarray((np.exp(log_posterior(schedule, x, t))[:, :, None] * each).sum(axis=1))


def ddim(
    schedule: NoiseSchedule, times: tuple[int, ...], eta: float, x: FloatArray, noise: Callable[[int], FloatArray], eps_of: Any
) -> FloatArray:
    """DDIM with ``eps_of(x, t) = (the noise of x0_hat, the noise that is added again)``: the paper's equation 12."""
    for k, t in enumerate(times):
        s, n = schedule.signal[t], schedule.noise[t]
        last = k == len(times) - 1
        s2, n2 = (1.0, 0.0) if last else (schedule.signal[times[k + 1]], schedule.noise[times[k + 1]])
        sigma = eta * n2 * np.sqrt(1 - (s * n2 / (n * s2)) ** 2)
        for_x0, again = eps_of(x, t)
        x = s2 * (x - n * for_x0) / s + np.sqrt(n2**2 - sigma**2) * again + (0 if sigma == 0 else sigma * noise(k))
    return x


def noise_of(draw: int, like: Tensor) -> Tensor:
    return normal(*like.shape, seed=draw + 5, dtype=torch.float64)


X = normal(6, 2, seed=1, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
TIMES = (999, 700, 400, 150, 30)


def sampled(sampler: PlanSampler, model: Any, **conditions: Any) -> FloatArray:
    keywords = {"labels": LABELS, **conditions}
    return sampler.sample(model, x_T=X, noise_fn=noise_of, model_kwargs=keywords).numpy()


def oracle(eta: float, eps_of: Callable[[FloatArray, int, int], Any]) -> FloatArray:
    """The oracle's samples, each with its own label."""
    rows = [
        ddim(
            LINEAR,
            TIMES,
            eta,
            X[i : i + 1].numpy(),
            lambda k, i=i: noise_of(k, X)[i : i + 1].numpy(),
            lambda x, t, c=c: eps_of(x, t, c),
        )  # type: ignore[misc]
        for i, c in enumerate(LABELS.tolist())
    ]
    return np.concatenate(rows)


@given(st.floats(-1, 6), st.floats(0, 1), st.sampled_from(PREDICTIONS), st.booleans())
def test_classifier_free_guidance_is_the_papers(scale: float, eta: float, prediction: Prediction, stacked: bool) -> None:
    def eps_of(x: FloatArray, t: int, c: int) -> tuple[FloatArray, FloatArray]:
        w = scale - 1  # Ho and Salimans' own
        eps = (1 + w) * conditional_eps(LINEAR, x, t, c) - w * marginal_eps(LINEAR, x, t)
        return eps, eps

    model = classifier_free(ByLabel(prediction=prediction), scale, {"labels": NONE}, stacked=stacked)
    sampler = DDIMSampler(LINEAR, timesteps=TIMES, eta=eta, prediction=prediction)
    assert np.allclose(sampled(sampler, model), oracle(eta, eps_of), rtol=1e-9, atol=1e-9)


@given(st.floats(-1, 6), st.sampled_from([LINEAR, NoiseSchedule.cosine(100), NoiseSchedule.linear(50).zero_terminal_snr(), FLOW]))
def test_guidance_of_every_prediction_type_is_one(scale: float, schedule: NoiseSchedule) -> None:
    def drawn(prediction: Prediction) -> Tensor:
        model = classifier_free(ByLabel(schedule, prediction), scale, {"labels": NONE}, interval=(5, 40))
        sampler = DDIMSampler(schedule, steps=6, prediction=prediction, eta=0.3)
        return sampler.sample(model, x_T=X, seed=3, model_kwargs={"labels": LABELS})

    expected = drawn("x0")
    for prediction in PREDICTIONS:
        if prediction != "epsilon" or schedule.signal[-1] > 0:
            assert torch.allclose(drawn(prediction), expected, rtol=1e-9, atol=1e-9)


@given(st.floats(-1, 6), st.integers(0, 2))
def test_guidance_between_gaussians_of_one_variance_draws_the_gaussian_beyond(scale: float, label: int) -> None:
    """x0_hat is then linear in the mean, so the guided model is the exact one of mean ``m₋ + w(m₊ − m₋)``."""
    v = np.array([0.3, 0.1])
    labels = torch.full((6,), label)
    far = GaussianDenoiser(LINEAR, MEANS[2] + scale * (MEANS[label] - MEANS[2]), v)
    guided = classifier_free(ByLabel(variances=np.tile(v, (3, 1))), scale, {"labels": 2})
    sampler = DDIMSampler(LINEAR, steps=30)
    drawn = sampler.sample(guided, x_T=X, model_kwargs={"labels": labels})
    assert torch.allclose(drawn, sampler.sample(far, x_T=X), rtol=0, atol=1e-10)


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(PREDICTIONS))
def test_cfg_plus_plus_is_the_papers_algorithm(scale: float, eta: float, prediction: Prediction) -> None:
    def eps_of(x: FloatArray, t: int, c: int) -> tuple[FloatArray, FloatArray]:
        without = marginal_eps(LINEAR, x, t)
        return without + scale * (conditional_eps(LINEAR, x, t, c) - without), without

    sampler = DDIMSampler(LINEAR, timesteps=TIMES, eta=eta, prediction=prediction)
    model = cfg_plus_plus(ByLabel(prediction=prediction), sampler, scale, {"labels": NONE})
    assert np.allclose(sampled(sampler, model), oracle(eta, eps_of), rtol=1e-9, atol=1e-9)


def test_cfg_plus_plus_holds_from_a_late_start_and_for_a_flow() -> None:
    sampler = DDIMSampler(FLOW, steps=8, prediction="flow")
    model = cfg_plus_plus(ByLabel(FLOW, "flow"), sampler, 0.7, {"labels": NONE})
    s, n = (torch.from_numpy(v.copy()) for v in (FLOW.signal, FLOW.noise))
    x = X
    for k in range(3, 8):
        t = torch.full((6,), sampler.timesteps[k])
        x0 = x - n[t[0]] * ByLabel(FLOW, "flow")(x, t, torch.full((6,), NONE)), x - n[t[0]] * ByLabel(FLOW, "flow")(x, t, LABELS)
        eps = (x - s[t[0]] * x0[0]) / n[t[0]]
        s2, n2 = (1.0, 0.0) if k == 7 else (s[sampler.timesteps[k + 1]], n[sampler.timesteps[k + 1]])
        x = s2 * (x0[0] + 0.7 * (x0[1] - x0[0])) + n2 * eps
    drawn = sampler.sample(model, x_T=X, start_at=3, model_kwargs={"labels": LABELS})
    assert torch.allclose(drawn, x, rtol=0, atol=1e-10)


class Shortened(PlanSampler):
    """Rows that lose signal."""

    def plan(self) -> Plan:
        plan = DDIMSampler(self.schedule, timesteps=self.timesteps).plan()
        return Plan(plan.t, plan.t_next, 0.9 * plan.a, plan.b, plan.c)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (DDIMSampler(LINEAR, steps=4, clip=(-1, 1)), r"not exact with clipping, got clip=\(-1.0, 1.0\)"),
        (DPMSolverPPSampler(LINEAR, steps=4), "DPMSolverPPSampler reads earlier predictions"),
        (Heun(LINEAR, steps=4), "Heun"),
        (Shortened(LINEAR, steps=4), "needs rows that keep the signal"),
    ],
    ids=["clip", "history", "repeated", "signal"],
)
def test_cfg_plus_plus_refuses_what_it_is_not_exact_for(sampler: PlanSampler, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cfg_plus_plus(ByLabel(), sampler, 0.5, {"labels": NONE})


def test_cfg_plus_plus_refuses_a_repeated_timestep_without_history() -> None:
    plan = Plan((9, 9), (9, None), [1.0, 0.0], [0.0, 1.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="asks the model twice at one"):
        cfg_plus_plus(ByLabel(), PlanSampler.from_plan(LINEAR, plan), 0.5, {"labels": NONE})


def test_cfg_plus_plus_refuses_every_walk_but_its_own_samplers() -> None:
    sampler, model = DDIMSampler(LINEAR, steps=4, prediction="x0"), ByLabel()
    guided: Any = cfg_plus_plus(model, sampler, 0.5, {"labels": NONE})
    given: dict[str, Any] = {"model_kwargs": {"labels": LABELS}}
    walks: tuple[Callable[[Any], object], ...] = (
        lambda m: replace(sampler, eta=0.5).sample(m, x_T=X, seed=0, **given),
        lambda m: DDIMSampler(LINEAR, steps=5, prediction="x0").sample(m, x_T=X, **given),
        lambda m: replace(sampler, clip=(-1, 1)).sample(m, x_T=X, **given),
        lambda m: DPMSolverPPSampler(LINEAR, steps=4, prediction="x0").sample(m, x_T=X, **given),
        lambda m: next(replace(sampler, eta=0.5).iterate(m, x_T=X, seed=0, **given)),
        lambda m: sampler.invert(m, X, **given),
        lambda m: reconstruct(sampler, m, X, **given),
        lambda m: interpolate(sampler, m, X, X, between="images", **given),
        lambda m: reconstruct(sampler, lambda x, t, **more: m(x, t, **more), X, **given),
    )
    for walk in walks:
        with pytest.raises(ValueError, match="CFG\\+\\+ scales the rows of the sampler that cfg_plus_plus was given"):
            walk(guided)
    assert not model.batches
    sampler.sample(guided, x_T=X, start_at=2, **given)


def test_the_scales_are_looked_up_in_float32() -> None:
    sampler = DDPMSampler(LINEAR, steps=1000, prediction="x0")
    model = cfg_plus_plus(ByLabel(), sampler, 0.5, {"labels": NONE})
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        model(X.to(dtype), torch.full((6,), 3), labels=LABELS)
    assert {dtype for _, _, dtype in model._placed} == {torch.float32}
    assert not [name for name in model.state_dict() if "ratio" in name]


@given(st.floats(0, 4), st.floats(0, 1))
def test_rescale_is_lin_and_others(scale: float, share: float) -> None:
    x, t = normal(4, 3, 2, seed=2, dtype=torch.float64).reshape(4, 3, 2), torch.full((4,), 500)

    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x * x * (1 + column(labels, x)) + x

    found = classifier_free(model, scale, {"labels": 0}, rescale=share)(x, t, labels=torch.tensor([1, 2, 3, 1])).numpy()
    for i, label in enumerate((1, 2, 3, 1)):
        one = x[i].numpy()
        positive, negative = one * one * (1 + label) + one, one * one + one
        cfg = negative + scale * (positive - negative)
        rescaled = cfg * np.std(positive) / np.std(cfg)
        expected = positive if scale == 1 else share * rescaled + (1 - share) * cfg
        assert np.allclose(found[i], expected, rtol=1e-12)


@given(st.integers(0, 99), st.integers(0, 99), st.lists(st.integers(0, 99), min_size=1, max_size=5))
def test_outside_of_its_interval_guidance_is_the_conditional_model(a: int, b: int, times: list[int]) -> None:
    low, high = min(a, b), max(a, b)
    model = ByLabel(NoiseSchedule.cosine(100))
    x, t, labels = X[: len(times)], torch.tensor(times), LABELS[: len(times)]
    plain = model(x, t, labels)
    whole = classifier_free(model, 3.0, {"labels": NONE})(x, t, labels=labels)
    found = classifier_free(model, 3.0, {"labels": NONE}, interval=(low, high))(x, t, labels=labels)
    inside = ((t >= low) & (t <= high))[:, None]
    assert torch.equal(found, torch.where(inside, whole, plain))


def test_calls_that_change_nothing_are_saved() -> None:
    model = ByLabel()
    classifier_free(model, 3.0, {"labels": NONE}, interval=(10, 20))(X, torch.full((6,), 21), labels=LABELS)
    classifier_free(model, 1.0, {"labels": NONE})(X, torch.full((6,), 15), labels=LABELS)
    assert model.batches == [6, 6]
    classifier_free(model, 3.0, {"labels": NONE}, interval=(10, 20))(X, torch.full((6,), 20), labels=LABELS)
    classifier_free(model, 3.0, {"labels": NONE}, stacked=False)(X, torch.full((6,), 20), labels=LABELS)
    assert model.batches == [6, 6, 12, 6, 6]


@pytest.mark.promise(24)
@given(st.integers(1, 6), st.lists(st.floats(0, 5), min_size=6, max_size=6))
def test_scales_and_negative_conditions_of_each_sample(batch_size: int, scales: list[float]) -> None:
    negative = torch.tensor([3, 3, 0, 1, 2, 3])
    given = {"labels": LABELS, "negative_labels": negative, "guidance_scale": torch.tensor(scales, dtype=torch.float64)}
    sampler = DDIMSampler(LINEAR, steps=4, prediction="x0", eta=0.5)
    guided = classifier_free(ByLabel())
    drawn = sampler.sample(guided, x_T=X, seed=range(6), model_kwargs=given, batch_size=batch_size)
    for i, scale in enumerate(scales):
        alone = classifier_free(ByLabel(), scale, {"labels": int(negative[i])}, stacked=False)
        one = sampler.sample(alone, x_T=X[i : i + 1], seed=[i], model_kwargs={"labels": LABELS[i : i + 1]})
        assert torch.allclose(drawn[i], one[0], rtol=1e-12, atol=1e-12)


def test_two_calls_share_every_other_condition() -> None:
    def model(x: Tensor, t: Tensor, labels: Tensor, shift: Tensor) -> Tensor:
        return smooth(x, t) + column(labels, x) / 8 + shift[0]

    sampler, shift = DDIMSampler(LINEAR, steps=3, prediction="x0"), normal(3, 1)
    given = {"labels": LABELS, "shift": shift}
    drawn = sampler.sample(classifier_free(model, 2.0, {"labels": 0}, stacked=False), x_T=X, model_kwargs=given, batch_size=3)
    bound = classifier_free(partial(model, shift=shift), 2.0, {"labels": 0})
    assert torch.equal(drawn, sampler.sample(bound, x_T=X, model_kwargs={"labels": LABELS}, batch_size=3))
    bundle = ModelBundle(model, LINEAR, sample_shape=(2,), prediction="x0", unconditional={"labels": 0})
    assert torch.equal(drawn, sampler.sample(bundle.guided(2.0, stacked=False).model, x_T=X, model_kwargs=given, batch_size=3))


def test_an_int_stands_for_a_floating_point_condition_and_ratios_is_a_name() -> None:
    def model(x: Tensor, t: Tensor, ratios: Tensor) -> Tensor:
        return smooth(x, t) + column(ratios, x)

    sampler, ones = DDIMSampler(LINEAR, steps=3, prediction="x0"), torch.ones(6)
    drawn = [
        sampler.sample(cfg_plus_plus(model, sampler, 0.5, {"ratios": none}), x_T=X.float(), model_kwargs={"ratios": ones})
        for none in (2, 2.0, torch.tensor(2.0))
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_rescale_refuses_samples_of_one_number() -> None:
    model = ByLabel()
    with pytest.raises(ValueError, match=r"rescale needs samples of several numbers, got x of shape \(6,\)"):
        classifier_free(model, 2.0, {"labels": 0}, rescale=0.5)(X[:, 0], torch.full((6,), 3), labels=LABELS)
    assert not model.batches


def by_embedding(x: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
    return smooth(x, t) + embedding.mean(dim=1)[:, None]


@pytest.mark.parametrize("shape", [(3,), (1, 3), (5, 3)])
def test_a_negative_embedding_may_be_one_for_all_or_one_a_sample(shape: tuple[int, ...]) -> None:
    x, t, embedding, negative = normal(5, 2), torch.full((5,), 3), normal(5, 3, seed=1), normal(*shape, seed=2)
    guided = classifier_free(by_embedding, 2.0, {"embedding": negative})(x, t, embedding=embedding)
    away = by_embedding(x, t, negative.expand(5, 3))
    assert torch.allclose(guided, away + 2 * (by_embedding(x, t, embedding) - away))


@given(st.floats(-1, 4), st.sampled_from(PREDICTIONS))
def test_autoguidance_is_karras_and_others(scale: float, prediction: Prediction) -> None:
    strong, weak = (MixtureDenoiser(LINEAR, WEIGHTS, m, VARIANCES, prediction=prediction) for m in (MEANS, 0.7 * MEANS))
    t = torch.full((6,), 321)
    found = autoguidance(strong, weak, scale)(X, t)
    assert torch.allclose(found, scale * strong(X, t) + (1 - scale) * weak(X, t), rtol=1e-12, atol=1e-12)
    assert torch.equal(autoguidance(strong, weak, 1.0)(X, t), strong(X, t))


def log_p(schedule: NoiseSchedule) -> Callable[..., Tensor]:
    """The exact classifier of the mixture: log p(label | x_t)."""
    s, n = (torch.from_numpy(v.copy()) for v in (schedule.signal, schedule.noise))
    means, variances, weights = torch.from_numpy(MEANS), torch.from_numpy(VARIANCES), torch.tensor(WEIGHTS, dtype=torch.float64)

    def classifier(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        a, b = s[t][:, None, None], n[t][:, None, None]
        total = a * a * variances + b * b
        joint = weights.log() - ((x[:, None] - a * means) ** 2 / total + total.log()).sum(dim=2) / 2
        return joint.log_softmax(dim=1)[torch.arange(len(x)), labels]

    return classifier


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [LINEAR, NoiseSchedule.cosine(300)], ids=["linear", "cosine"])
def test_an_exact_classifier_at_scale_1_makes_the_conditional_model(prediction: Prediction, schedule: NoiseSchedule) -> None:
    whole = MixtureDenoiser(schedule, WEIGHTS, MEANS, VARIANCES, prediction=prediction)
    guided = classifier_guidance(whole, log_p(schedule), schedule, prediction=prediction, classifier_only=("labels",))
    for t in (0, 10, 150, 299):
        times = torch.full((6,), t)
        expected = ByLabel(schedule, prediction)(X, times, LABELS)
        assert torch.allclose(guided(X, times, labels=LABELS), expected, rtol=1e-7, atol=1e-9)


@given(st.floats(-1, 4))
def test_classifier_guidance_is_dhariwal_and_nichols(scale: float) -> None:
    def eps_of(x: FloatArray, t: int, c: int) -> tuple[FloatArray, FloatArray]:
        gradient, h = np.zeros_like(x), 1e-5
        for d in range(2):
            step = h * np.eye(2)[d]
            gradient[:, d] = (log_posterior(LINEAR, x + step, t) - log_posterior(LINEAR, x - step, t))[:, c] / (2 * h)
        eps = marginal_eps(LINEAR, x, t) - scale * LINEAR.noise[t] * gradient
        return eps, eps

    whole = MixtureDenoiser(LINEAR, WEIGHTS, MEANS, VARIANCES, prediction="epsilon")
    guided = classifier_guidance(whole, log_p(LINEAR), LINEAR, scale, classifier_only=["labels"])
    sampler = DDIMSampler(LINEAR, timesteps=TIMES)
    assert np.allclose(sampled(sampler, guided), oracle(0.0, eps_of), rtol=1e-6, atol=1e-6)


def test_classifier_guidance_of_any_prediction_draws_the_same_in_inference_mode() -> None:
    drawn = []
    for prediction in PREDICTIONS:
        whole = MixtureDenoiser(LINEAR, WEIGHTS, MEANS, VARIANCES, prediction=prediction)
        guided = classifier_guidance(whole, log_p(LINEAR), LINEAR, 2.0, prediction=prediction, classifier_only=["labels"])
        sampler = DDIMSampler(LINEAR, steps=5, prediction=prediction)
        with torch.inference_mode(prediction in ("x0", "v")):
            drawn.append(sampler.sample(guided, x_T=X.clone(), model_kwargs={"labels": LABELS}))
    for other in drawn[1:]:
        assert torch.allclose(other, drawn[0], rtol=1e-8, atol=1e-8)


def test_a_classifier_may_save_conditions_made_in_inference_mode() -> None:
    guided = classifier_guidance(smooth, lambda x, t, w: (x * w["each"][0]).sum(dim=1), LINEAR, classifier_only=["w"])
    t, w = torch.full((6,), 3), normal(6, 2, seed=4)
    expected = guided(X, t, w={"each": [w]})
    with torch.inference_mode():
        assert torch.equal(guided(X.clone(), t.clone(), w={"each": [w.clone()]}), expected)


def twice(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """A learned range: the prediction, then its variance's fraction."""
    return torch.cat((smooth(x, t) + column(labels, x), torch.tanh(x) * column(labels, x) / 10), dim=1)


def test_a_learned_range_is_the_conditional_models() -> None:
    x, t, labels = normal(3, 2, 2), torch.full((3,), 4), torch.tensor([1, 2, 3])
    for guided in (
        classifier_free(twice, 3.0, {"labels": 0}, rescale=0.5, interval=(0, 9)),
        classifier_free(twice, 3.0, {"labels": 0}, stacked=False),
        classifier_guidance(twice, lambda x, t, labels: x.flatten(1).sum(dim=1), LINEAR),
    ):
        found = guided(x, t, labels=labels)
        assert torch.equal(found[:, 2:], twice(x, t, labels)[:, 2:])
        assert not torch.equal(found[:, :2], twice(x, t, labels)[:, :2])
    DDPMSampler(LINEAR, steps=3, variance="learned_range").sample(guided, (3, 2, 2), seed=0, model_kwargs={"labels": labels})


@pytest.mark.parametrize("make", ["free", "plus", "auto", "classifier"])
def test_guided_models_run_in_captured_steps(make: str) -> None:
    sampler = DDIMSampler(LINEAR, steps=5, eta=0.6, prediction="x0")

    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return smooth(x, t) + column(labels, x) / 8

    guided = {
        "free": classifier_free(model, 2.0, {"labels": 0}, interval=(300, 700)),
        "plus": cfg_plus_plus(model, sampler, 0.5, {"labels": 0}),
        "auto": autoguidance(model, lambda x, t, labels: model(x, t, labels) * 0.9, 2.0),
        "classifier": classifier_guidance(model, lambda x, t, labels: (x * labels[:, None]).sum(dim=1), LINEAR, prediction="x0"),
    }[make]
    given = {
        "labels": torch.tensor([1, 2, 3]),
        **({"guidance_scale": torch.tensor([1.0, 2.0, 3.0])} if make != "classifier" else {}),
    }
    captured = graphs.capture(sampler, guided, (3, 2), model_kwargs=given)
    assert torch.equal(captured(seed=4), sampler.sample(guided, (3, 2), seed=4, model_kwargs=given))


@pytest.mark.promise(20)
def test_nothing_is_read_back_from_a_device() -> None:
    sampler = DDIMSampler(LINEAR, steps=5, prediction="x0")

    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return smooth(x, t) + column(labels, x)

    x, t, labels = (
        torch.zeros(3, *rest, dtype=dtype, device="meta")
        for rest, dtype in (((2,), torch.float32), ((), torch.int64), ((), torch.int64))
    )
    with HostReads() as reads:
        classifier_free(model, 2.0, {"labels": 0}, interval=(300, 700), rescale=0.5)(x, t, labels=labels)
        cfg_plus_plus(model, sampler, 0.5, {"labels": 0})(x, t, labels=labels)
    assert reads.names == []


CALLS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no conditions": (
        lambda m: classifier_free(m, 2.0, {"labels": 0}),
        {},
        "the call brings no labels: guidance needs the conditions",
    ),
    "nothing to guide away from": (
        lambda m: classifier_free(m, 2.0),
        {"labels": LABELS},
        "nothing says what the worse half is given",
    ),
    "scales of another batch": (
        lambda m: classifier_free(m, 2.0, {"labels": 0}),
        {"labels": LABELS, "guidance_scale": torch.ones(5)},
        r"guidance_scale must be floating point, \(\) or \(6,\), got torch.float32 \(5,\)",
    ),
    "negative of another batch": (
        lambda m: classifier_free(m, 2.0),
        {"labels": LABELS, "negative_labels": torch.zeros(5, dtype=torch.int64)},
        r"unconditional labels must be one sample's entry, \(1, ...\) or \(6, ...\)",
    ),
    "None beside labels": (
        lambda m: classifier_free(m, 2.0, {"labels": None}),
        {"labels": LABELS},
        "labels of both halves cannot be one batch, .* and None: give stacked=False",
    ),
    "a tensor that the worse half does not name": (
        lambda m: classifier_free(m, 2.0, {"labels": 0}),
        {"labels": LABELS, "text": torch.ones(6)},
        "both halves get text, of which one call cannot tell whether it has one entry a sample: .* or give stacked=False",
    ),
    "a tensor that all samples share": (
        lambda m: classifier_free(m, 2.0, {"labels": 0}),
        {"labels": LABELS, "text": torch.ones(3, 4)},
        "both halves get text, .*bind it to the model if all samples share it",
    ),
    "a part of a label": (
        lambda m: classifier_free(m, 2.0, {"labels": 0.5}),
        {"labels": LABELS},
        "unconditional labels must be of an integer type like the condition's, got floating point",
    ),
    "a floating point tensor beside labels": (
        lambda m: classifier_free(m, 2.0),
        {"labels": LABELS, "negative_labels": torch.zeros(6)},
        "unconditional labels must be of an integer type like the condition's, got floating point",
    ),
    "an integer tensor beside numbers": (
        lambda m: classifier_free(m, 2.0, {"labels": torch.tensor(0)}),
        {"labels": torch.ones(6)},
        "unconditional labels must be of a floating point type like the condition's, got integer",
    ),
    "a truth beside labels": (
        lambda m: classifier_free(m, 2.0, {"labels": True}),
        {"labels": LABELS},
        "unconditional labels must be of an integer type like the condition's, got bool",
    ),
    "nested conditions": (
        lambda m: classifier_free(m, 2.0, {"labels": 0}),
        {"labels": LABELS, "text": {"pooled": [torch.ones(6)]}},
        "both halves get text, .* give stacked=False",
    ),
    "no tensor": (
        lambda m: classifier_free(m, 2.0, {"labels": "none"}),
        {"labels": "some"},
        "labels is no tensor of one entry a sample",
    ),
}


@pytest.mark.parametrize(("make", "given", "message"), CALLS.values(), ids=CALLS.keys())
def test_conditions_that_do_not_fit_are_refused_before_any_call(make: Any, given: dict[str, Any], message: str) -> None:
    model = Counting(lambda x, t, labels=None, text=None: x)
    with pytest.raises(ValueError, match=message):
        DDIMSampler(LINEAR, steps=3).sample(make(model), (6, 2), seed=0, model_kwargs=given)
    assert model.calls == 0


WRONG: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "scale": (lambda: classifier_free(smooth, float("nan")), ValueError, "scale must be finite, got nan"),
    "scale of a kind": (lambda: classifier_free(smooth, "3"), TypeError, "scale must be a number"),  # type: ignore[arg-type]
    "model": (lambda: classifier_free(3), TypeError, r"model must be callable as model\(x, t\), got int"),  # type: ignore[arg-type]
    "weak": (lambda: autoguidance(smooth, "tiny"), TypeError, "weak must be callable"),  # type: ignore[arg-type]
    "unconditional": (lambda: classifier_free(smooth, 2.0, 10), TypeError, "unconditional must map conditions"),  # type: ignore[arg-type]
    "interval": (lambda: classifier_free(smooth, interval=(5, 2)), ValueError, "t_low <= t_high, got"),
    "interval of one": (lambda: classifier_free(smooth, interval=5), TypeError, "interval must be a pair"),  # type: ignore[arg-type]
    "rescale": (lambda: classifier_free(smooth, rescale=1.5), ValueError, r"rescale must lie in \[0, 1\], got 1.5"),
    "zero SNR": (lambda: classifier_guidance(smooth, smooth, FLOW, prediction="v"), ValueError, "needs signal at every t"),
    "classifier's names": (
        lambda: classifier_guidance(smooth, smooth, LINEAR, classifier_only="y"),
        TypeError,
        "names of conditions",
    ),
    "sampler": (lambda: cfg_plus_plus(smooth, LINEAR), TypeError, "sampler must be the sampler"),  # type: ignore[arg-type]
    "classifier that ignores x": (
        lambda: classifier_guidance(smooth, lambda x, t: torch.ones(3, requires_grad=True) * t, LINEAR)(
            normal(3, 2), torch.zeros(3, dtype=torch.int64)
        ),
        ValueError,
        r"log_probability must give \(3,\), differentiable by torch in x, got a value that does not depend on x",
    ),
    "classifier of images": (
        lambda: classifier_guidance(smooth, smooth, LINEAR)(normal(3, 2), torch.zeros(3, dtype=torch.int64)),
        ValueError,
        r"log_probability must give \(3,\), differentiable by torch in x, got \(3, 2\)",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_bad_settings_are_refused(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


CONFIG = UNetConfig(1, 1, channels=(4, 8), blocks=1, attention_levels=(), groups=2, num_classes=4)


def network() -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(CONFIG).eval()


def test_a_guided_network_is_a_module_and_does_not_warn() -> None:
    guided = classifier_free(network(), 2.0, {"labels": 3})
    assert isinstance(guided, nn.Module)
    given = {"labels": torch.tensor([0, 1])}
    sampler = DDIMSampler(LINEAR, steps=3)
    drawn = sampler.sample(guided, (2, 1, 4, 4), seed=0, model_kwargs=given)  # a warning of a model in train mode would raise
    fast = accelerate(guided, compile=False, channels_last=False)
    assert torch.allclose(sampler.sample(fast, (2, 1, 4, 4), seed=0, model_kwargs=given), drawn)
    with pytest.warns(UserWarning, match="train mode"):
        sampler.sample(classifier_free(network().train(), 2.0, {"labels": 3}), (2, 1, 4, 4), seed=0, model_kwargs=given)


@pytest.mark.parametrize("wrap", [lambda m: accelerate(m, compile=False), lambda m: lambda *a, **k: m(*a, **k), partial])
def test_modules_inside_of_what_is_guided_are_found(wrap: Callable[[nn.Module], Any]) -> None:
    unet, given = network(), {"labels": torch.tensor([0, 1])}
    guided = classifier_free(wrap(unet), 2.0, {"labels": 3})
    assert {id(p) for p in guided.parameters()} == {id(p) for p in unet.parameters()}
    sampler = DDIMSampler(LINEAR, steps=1)
    sampler.sample(guided, (2, 1, 4, 4), seed=0, model_kwargs=given)  # a warning would raise
    unet.train()
    with pytest.warns(UserWarning, match="train mode"):
        sampler.sample(guided, (2, 1, 4, 4), seed=0, model_kwargs=given)
    assert model_device(guided.to("meta")).type == "meta"


def test_guided_models_that_are_accelerated_are_known_by_weights_and_precision() -> None:
    bundle = ModelBundle(network(), LINEAR, sample_shape=(1, 4, 4), unconditional={"labels": 3})
    fast = [accelerate(network(), compile=False, channels_last=False, precision=p) for p in ("float32", "bfloat16")]
    hashes = {replace(bundle, model=model).guided(2.0).weights_sha256() for model in fast}
    assert len(hashes) == 2
    assert None not in hashes
    assert replace(bundle, model=partial(bundle.model)).guided(2.0).weights_sha256() is None


def test_a_bundle_is_guided_and_known_by_its_guidance() -> None:
    bundle = ModelBundle(
        network(), LINEAR, sample_shape=(1, 4, 4), conditions=seed_labels(3), unconditional={"labels": 3}, name="tiny"
    )
    sampler = bundle.sampler(DDIMSampler, steps=3)
    expected = sampler.sample(
        classifier_free(bundle.model, 2.5, {"labels": 3}),
        (4, 1, 4, 4),
        seed=range(4),
        model_kwargs={"labels": torch.tensor([0, 1, 2, 0])},
    )
    assert torch.equal(bundle.guided(2.5).draw(sampler, range(4)), expected)
    variants = [
        bundle,
        bundle.guided(1.5),
        bundle.guided(2.5),
        bundle.guided(2.5, rescale=0.5),
        bundle.guided(2.5, interval=(0, 9)),
    ]
    variants += [replace(bundle, unconditional={"labels": torch.tensor(3)}).guided(2.5)]
    assert len({variant.weights_sha256() for variant in variants}) == len(variants)
    assert bundle.guided(2.5).weights_sha256() == bundle.guided(2.5).weights_sha256()
    assert toy(unconditional={"labels": 0}).guided(2.0).weights_sha256() is None
    with pytest.raises(ValueError, match="the model 'toy' cannot be guided: its bundle has no unconditional="):
        toy().guided(2.0)
    mnist = load_pretrained("mnist")
    assert find_study(replace(mnist, model=autoguidance(mnist.model, mnist.model, 2.0))) is None
