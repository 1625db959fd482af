"""Presets follow from a study's figures; without one they are stated defaults."""

from dataclasses import replace

import pytest

from curves import LINE, budgeted, judged, quality, study, toy
from ddimkit import DDIMKitError, DDIMSampler, DDPMSampler, DPMSolverPPSampler, ModelBundle, NoiseSchedule, load_pretrained, preset
from ddimkit.quality import load_yardstick
from ddimkit.samplers.named import sigma_hat
from ddimkit.tradeoff import presets
from ddimkit.tradeoff.budget import BudgetResult, BudgetStudy
from ddimkit.tradeoff.presets import choices, from_study
from ddimkit.tradeoff.studies import find_budget_study, find_study

SCHEDULE = NoiseSchedule.cosine(1000)


def bundle() -> ModelBundle:
    return ModelBundle(lambda x, t: x, SCHEDULE, sample_shape=(1, 4, 4), prediction="x0", clip=(-1.0, 1.0))


def budget(*results: BudgetResult) -> BudgetStudy:
    return BudgetStudy({"name": "toy", "weights_sha256": "1"}, {}, {}, results)


def test_without_a_study_the_defaults_are_taken_and_said() -> None:
    assert [c.steps for c in choices(bundle()).values()] == [50, 100, 250, 1000]
    assert all("no study" in c.reason for c in choices(bundle()).values())
    made = preset("realtime", model=bundle())
    assert isinstance(made, DDIMSampler)
    assert (made.steps, made.eta, made.prediction, made.clip) == (50, 0.0, "x0", (-1.0, 1.0))
    assert [c.steps for c in choices(toy()).values()] == [20] * 4  # no more than the model has


@pytest.mark.parametrize(("alias", "name"), [("fast", "realtime"), ("balanced", "interactive"), ("quality", "production")])
def test_aliases_are_the_same_presets(alias, name) -> None:
    assert bundle().preset(alias) == preset(name, model=bundle())


def test_presets_follow_from_the_study() -> None:
    found = from_study(study(*judged(LINE)))
    # Shares kept, floor 0 and ε about 0.04: 100 % at 250, 98 at 100, 95 at 50, 67 at 20, 34 at 10.
    assert [found[name].steps for name in ("realtime", "interactive", "production", "research")] == [20, 50, 120, 250]
    assert "67%" in found["realtime"].reason
    assert "buffer" in found["production"].reason


def test_the_better_sampler_is_taken() -> None:
    both = study(*judged(LINE), *judged({10: 1.0, 20: 1.0, 50: 1.0, 100: 1.0}, eta=1.0))
    found = from_study(both, refinable=False)
    assert (found["realtime"].steps, found["realtime"].eta) == (10, 1.0)
    hat = study(*judged({10: 5.0, 100: 4.0}), *judged({10: 1.0, 100: 1.0}, eta=None, sampler="sigma_hat"))
    assert from_study(hat, refinable=False)["interactive"].sampler == "sigma_hat"


def test_a_sampler_known_to_suffice_beats_the_closest_of_those_that_are_not() -> None:
    """Though it takes more calls."""
    known = study(*judged({10: 9.0, 100: 9.5}))
    assert from_study(known)["interactive"].steps == 10
    found = from_study(known, budget(budgeted("dpm-2m", 15, 1.0)))
    assert [found[name].steps for name in ("realtime", "interactive", "production")] == [15, 15, 18]


def test_ddpm_in_a_study_takes_no_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    known = study(*judged({10: 9.0, 100: 8.0}), *judged({10: 1.0, 100: 1.0}, eta=1.0, sampler="DDPMSampler"))
    assert from_study(known)["realtime"].sampler == "DDIMSampler"
    monkeypatch.setattr(presets, "find_study", lambda model: known)
    monkeypatch.setattr(presets, "find_budget_study", lambda model: None)
    assert preset("realtime", model=bundle(), refinable=False) == bundle().sampler(DDPMSampler, steps=10)
    assert preset("research", model=bundle(), refinable=False) == bundle().sampler(DDPMSampler, steps=1000)
    assert preset("research", model=bundle()) == bundle().sampler(DDIMSampler, steps=100)


def test_the_bundled_models_presets_rest_on_a_study_of_its_very_weights() -> None:
    mnist, yardstick = load_pretrained("mnist"), load_yardstick("mnist")
    known = find_study(mnist)
    assert known is not None
    assert known.baseline.quality is not None
    assert known.baseline.quality.label == yardstick.reference.label
    for refinable in (True, False):
        made = choices(mnist, refinable=refinable)
        assert made == from_study(known, find_budget_study(mnist), refinable=refinable)
        assert [name for name, choice in made.items() if "no study" in choice.reason] == []
    assert find_study(ModelBundle(mnist.model, NoiseSchedule.cosine(), sample_shape=(1, 28, 28))) is None


def test_a_preview_can_be_refined() -> None:
    """However good the samplers with noise: a seed must draw the same image in every preset."""
    noisy = judged({10: 0.9, 100: 0.9}, eta=1.0), judged({10: 0.8, 100: 0.8}, eta=None, sampler="sigma_hat")
    found = from_study(study(*judged(LINE), *noisy[0], *noisy[1]))
    assert {(c.sampler, c.eta) for c in found.values()} == {("DDIMSampler", 0.0)}
    with pytest.raises(DDIMKitError, match="no sampler"):
        from_study(study(*noisy[0]))


def test_samplers_that_need_fewer_calls_take_their_place() -> None:
    known = study(*judged(LINE))
    results = [
        budgeted("dpm-2m", 6, 1.7, timesteps=(9, 8, 7, 6, 5, 4)),  # keeps 0.6
        budgeted("unipc-2", 8, 1.1, "network", (9, 8, 7, 6, 5, 4, 3, 1)),  # keeps 0.9, not within the tolerance
        budgeted("dpm-2m-sde", 5, 1.0, timesteps=(9, 8, 7, 6, 5)),  # keeps all, but adds noise
        budgeted("dpm-3m", 20, 1.0, "log_snr"),
        budgeted("mine", 2, 1.0, timesteps=(9, 4)),
    ]
    found = from_study(known, budget(*results))
    assert [(c.sampler, c.steps) for c in found.values()] == [
        ("dpm_2m", 6),
        ("unipc_2", 8),
        ("dpm_3m", 24),
        ("DDIMSampler", 250),
    ]
    assert found["interactive"].timesteps == (9, 8, 7, 6, 5, 4, 3, 1)
    assert (found["production"].spacing, found["production"].timesteps) == ("log_snr", None)
    assert "with 20% more" in found["production"].reason
    assert from_study(known, budget(*results), refinable=False)["realtime"].sampler == "dpm_2m_sde"
    assert from_study(known, budget(results[-1])) == from_study(known)
    near, other = (replace(results[0], apart=apart) for apart in (0.49, 0.5))
    assert from_study(known, budget(near))["realtime"].sampler == "dpm_2m"
    assert from_study(known, budget(other)) == from_study(known)
    assert from_study(known, budget(other), refinable=False)["realtime"].sampler == "dpm_2m"


def test_what_is_best_by_the_chance_of_its_images_is_no_preset() -> None:
    """One is as good as the baseline by the images that choose it, the other by those that do not."""
    lucky, unlucky = (
        replace(budgeted(name, 5, chosen), fresh=quality(d)) for name, chosen, d in (("dpm-2m", 1.0, 3.0), ("unipc-2", 3.0, 1.0))
    )
    known = study(*judged(LINE))
    assert [c.sampler for c in from_study(known, budget(lucky, unlucky)).values()] == ["DDIMSampler"] * 4
    assert [c.sampler for c in from_study(known, budget(replace(lucky, fresh=None))).values()] == ["DDIMSampler"] * 4
    assert from_study(known, budget(unlucky))["production"].sampler == "unipc_2"


def test_a_searched_list_has_no_more_steps_to_be_safe_with() -> None:
    listed, named = budgeted("dpm-2m", 5, 1.0, "network", (9, 8, 7, 6, 5)), budgeted("dpm-2m", 10, 1.0)
    found = from_study(study(*judged(LINE)), budget(listed, named))
    assert (found["realtime"].timesteps, found["production"].timesteps) == ((9, 8, 7, 6, 5), None)
    assert found["production"].steps == 12


def test_where_a_seed_may_draw_another_image_no_preset_takes_more_steps() -> None:
    """Though noise makes better images than are ever reached without."""
    known = study(*judged({10: 40.0, 20: 15.0, 50: 8.8, 100: 8.0}), *judged({10: 20.0, 20: 9.0, 50: 6.0, 100: 4.0}, eta=1.0))
    results = budget(budgeted("dpm-2m", 5, 14.0), budgeted("dpm-2m", 8, 8.0), budgeted("dpm-2m-sde", 6, 8.0))
    refined, free = (from_study(known, results, refinable=refinable) for refinable in (True, False))
    assert [(c.sampler, c.steps) for c in refined.values()] == [("dpm_2m", 5), ("dpm_2m", 8), ("dpm_2m", 10), ("DDIMSampler", 100)]
    assert [(c.sampler, c.steps) for c in free.values()] == [
        ("dpm_2m", 5),
        ("dpm_2m_sde", 6),
        ("dpm_2m_sde", 8),
        ("DDPMSampler", 1000),
    ]
    assert [(c.sampler, c.eta, c.steps) for c in from_study(known, refinable=False).values()][:3] == [
        ("DDIMSampler", 1.0, 20),
        ("DDIMSampler", 1.0, 20),
        ("DDIMSampler", 1.0, 60),
    ]


def test_where_nothing_reaches_the_baseline_cheaper_samplers_are_held_against_the_same_best() -> None:
    """DDIM-100 is as good as DDIM becomes, and 2M is as good in 8 calls."""
    known, results = (
        study(*judged({10: 40.0, 20: 15.0, 50: 8.8, 100: 8.0})),
        [budgeted("dpm-2m", 8, 8.0), budgeted("dpm-2m", 5, 15.0)],
    )
    found = from_study(known, budget(*results))
    assert [(c.sampler, c.steps) for c in found.values()] == [("dpm_2m", 5), ("dpm_2m", 8), ("dpm_2m", 10), ("DDIMSampler", 100)]
    assert "50% of the quality of DDIM-100 (" in found["realtime"].reason
    assert found["production"].reason.startswith("dpm-2m-8 trailing is within 5% of DDIM-100")
    assert [c.sampler for c in from_study(known, budget(budgeted("dpm-2m", 60, 8.8))).values()] == ["DDIMSampler"] * 4


def test_no_preset_takes_more_steps_than_the_model_has() -> None:
    known = study(*judged({10: 40.0, 100: 30.0, 1000: 8.0}))
    assert [c.steps for c in from_study(known).values()] == [1000] * 4
    found = from_study(known, budget(budgeted("dpm-2m", 900, 8.0), budgeted("ddpm", 1000, 1.0)))
    assert [(c.sampler, c.steps) for c in found.values()][:3] == [("dpm_2m", 900), ("dpm_2m", 900), ("DDIMSampler", 1000)]


def test_all_presets_are_held_against_the_same() -> None:
    """2M reaches the baseline in 60 calls: then what DDIM itself reaches is no measure, though it takes fewer steps."""
    known = study(*judged({10: 40.0, 50: 8.8, 100: 8.0}))
    found = from_study(known, budget(budgeted("dpm-2m", 60, 1.0), budgeted("dpm-2m", 30, 1.9)))
    assert [(c.sampler, c.steps) for c in found.values()] == [("dpm_2m", 30), ("dpm_2m", 60), ("dpm_2m", 72), ("DDIMSampler", 100)]
    assert [name for name, c in found.items() if "best known" in c.reason] == []
    near = from_study(known, budget(budgeted("dpm-2m", 60, 1.9)))  # half of the baseline's quality, which is not within 5 %
    assert [(c.sampler, c.steps) for c in near.values()] == [
        ("DDIMSampler", 50),
        ("DDIMSampler", 50),
        ("dpm_2m", 72),
        ("DDIMSampler", 100),
    ]


@pytest.mark.parametrize("spacing", ["log_snr", "network"])
def test_presets_of_searched_lists_and_other_spacings_are_made(spacing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "find_study", lambda model: study(*judged(LINE)))
    times = DDIMSampler(SCHEDULE, steps=6, spacing="log_snr").timesteps
    known = budget(budgeted("dpm-2m", 6, 1.0, spacing, times))
    monkeypatch.setattr(presets, "find_budget_study", lambda model: known)
    made = preset("interactive", model=bundle())
    assert isinstance(made, DPMSolverPPSampler)
    assert made.timesteps == times


def test_where_nothing_reaches_the_baseline_counts_are_held_against_the_samplers_own_best() -> None:
    """20 steps keep 0.53 of what 100 reach, 50 keep 0.91; only 100 are within 5 % of it, and 250 are no better."""
    found = from_study(study(*judged({10: 40.0, 20: 15.0, 50: 8.8, 100: 8.0, 250: 8.1})))
    assert [found[name].steps for name in ("realtime", "interactive", "production", "research")] == [20, 50, 120, 250]
    assert found["realtime"].reason == (
        "the fewest steps known to keep 50% of the quality of DDIM-100 (53%). DDIM-100 is the best known of DDIM with eta 0; "
        "nothing without noise is known to be within 5% of the baseline"
    )
    assert found["production"].reason.startswith("fewer steps are not known to be within 5% of DDIM-100")
    near = from_study(study(*judged({20: 9.0, 50: 8.1, 100: 8.0})))
    assert near["production"].reason.startswith("DDIM-50 is within 5% of DDIM-100")


def test_the_best_is_one_of_those_that_the_most_images_are_known_of() -> None:
    few = judged({50: 4.0}, count=100, common=0.5)
    found = from_study(study(*judged({10: 9.0, 100: 8.0}), *few))
    assert "DDIM-100" in found["interactive"].reason


def test_all_presets_but_the_last_rise() -> None:
    found = from_study(study(*judged({10: 9.0, 100: 8.0})))
    assert [found[name].steps for name in ("realtime", "interactive", "production", "research")] == [10, 10, 120, 100]


def test_samplers_nobody_can_build_again_make_no_presets() -> None:
    with pytest.raises(DDIMKitError, match="no sampler"):
        from_study(study(*judged(LINE, sampler="MineSampler")))


def test_a_better_sampler_that_nobody_can_build_is_passed_over() -> None:
    both = study(*judged(LINE), *judged({10: 1.0, 100: 1.0}, eta=None, sampler="MineSampler"))
    assert {c.sampler for c in from_study(both).values()} == {"DDIMSampler"}


def test_a_study_of_the_very_weights_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    known = study(*judged(LINE))
    monkeypatch.setattr(presets, "find_study", lambda model: known)
    assert preset("interactive", model=bundle()).timesteps == DDIMSampler(SCHEDULE, steps=50).timesteps


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="realtime, interactive, production, research, fast, balanced, quality"):
        preset("best", model=bundle())  # type: ignore[arg-type]


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="ModelBundle"):
        preset("fast", model="mnist")  # type: ignore[arg-type]


def test_sigma_hat_is_ddpm_with_the_larger_variance() -> None:
    assert sigma_hat(SCHEDULE, steps=10) == DDPMSampler(SCHEDULE, steps=10, variance="fixed_large")
    assert replace(sigma_hat(SCHEDULE, steps=10), variance="fixed_small") == DDPMSampler(SCHEDULE, steps=10)
