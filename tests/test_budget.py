"""Studies of samplers at equal numbers of model calls: what is said of them, and how they are kept."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from curves import budgeted as result
from curves import quality, toy
from ddimkit import DDIMKitError, load_pretrained
from ddimkit.quality import Estimate, Extractor
from ddimkit.quality.estimate import bootstrap_weights, estimate_kernel
from ddimkit.quality.reference import Reference
from ddimkit.tradeoff import studies
from ddimkit.tradeoff.budget import BudgetResult, BudgetStudy, SearchedList, best_of, budget_findings, halves
from ddimkit.tradeoff.studies import find_budget_study, identity


def study(*results: BudgetResult, **changes) -> BudgetStudy:
    lists = (SearchedList("ddim", 5, "network", (9, 7, 5, 3, 1), True, "0.1 against 0.2", {"evaluations": 7}),)
    about = {"name": "toy", "weights_sha256": "123"}, {"processor": "one"}, {"torch": "2"}
    return replace(BudgetStudy(*about, results, lists, {"samples": 100}), **changes)


def estimate(value: float, errors: NDArray[np.float64]) -> Estimate:
    """A figure whose replicates have these errors."""
    return Estimate(value, tuple((value + errors).tolist()))


STUDY = study(result("ddim", 5, 3.0), result("dpm-2m", 5, 1.0), result("ddim", 10, 2.0), result("ddim", 50, 1.0))


def test_the_best_of_each_budget_is_named_beside_the_references() -> None:
    references = {"DDIM-50": quality(1.0, width=0.002, count=2000), "DDPM-1000": quality(1.5, count=2000)}
    said = budget_findings(STUDY, references)
    assert said[0].startswith("At 5 calls the best is dpm-2m-5 trailing: kernel distance 1 (")
    assert "by images that did not choose it; " in said[0]
    assert said[0].endswith("no different from DDIM-50, better than DDPM-1000.")
    assert "the best is ddim-10 trailing: kernel distance 2" in said[1]
    assert said[1].endswith("worse than DDIM-50, worse than DDPM-1000.")
    assert len(said) == 3
    assert budget_findings(STUDY, {})[1].endswith("that did not choose it.")


def test_the_frechet_distance_is_held_against_as_many_images_alone() -> None:
    best, other = (replace(quality(1.0), frechet=estimate(value, np.zeros(400))) for value in (7.0, 9.0))
    few = replace(other, seeds=((0, 10),))
    said = budget_findings(study(replace(result("ddim", 5, 1.0), quality=best), lists=()), {"DDIM-50": other, "DDPM-1000": few})
    assert said[0].endswith("; Fréchet distance, by all images, 7, better than DDIM-50 (9).")
    assert "Fréchet" not in budget_findings(STUDY, {"DDPM-1000": few})[0]


def test_how_well_the_prediction_orders_equal_calls_is_said() -> None:
    made = [replace(result("ddim", 5, d, str(d)), predicted=p) for d, p in ((1.0, 4.0), (2.0, 3.0), (3.0, 2.0), (4.0, 1.0))]
    right = [replace(r, calls=10, predicted=r.quality.kernel.value) for r in made]
    said = budget_findings(study(*made, *right, *[replace(r, calls=20) for r in made[:3]], lists=()), {})
    assert said[-1].endswith(
        "rank correlation with the measured distances -1.00 at 5 calls (4 results), 1.00 at 10 calls (4 results)."
    )
    assert not any("Predicted" in s for s in budget_findings(STUDY, {}))


def test_a_choice_among_equals_is_not_flattered() -> None:
    """Twenty samplers of the same true distance, judged on the same images again and again."""
    random, plain, fair, covered, beside = np.random.default_rng(0), list[float](), list[float](), 0, 0
    for _ in range(200):
        common, shared = random.normal(size=2), random.normal(size=(2, 400))
        results = []
        for i in range(20):
            own, errors = random.normal(size=2), shared + random.normal(size=(2, 400))
            both = tuple(estimate(1 + common[half] + own[half], errors[half]) for half in (0, 1))
            whole = replace(quality(1.0), kernel=estimate(1 + (common + own).mean(), errors.mean(axis=0)))
            results.append(replace(result("ddim", 5, 0.0, str(i)), quality=whole, halves=both))
        best, distance = best_of(results)
        plain.append(best.quality.kernel.value)
        fair.append(distance.value)
        low, high = distance.interval()
        covered += low <= 1 <= high
        beside += (distance - estimate(1 + common.mean(), shared.mean(axis=0))).is_zero
    assert np.mean(plain) < 0
    assert np.mean(fair) == pytest.approx(1, abs=0.2)
    # Of 200; 95 % intervals that the choice between the halves makes a little short.
    assert 174 < covered < 198
    assert 174 < beside < 198


def test_what_is_clearly_best_is_left_as_it_is() -> None:
    best, distance = best_of(STUDY.at(5))
    assert best.sampler == "dpm-2m"
    assert distance == best.quality.kernel
    with pytest.raises(ValueError, match="at least one result"):
        best_of([])


def test_halves_are_the_even_and_the_odd_seeds() -> None:
    x = np.random.default_rng(0).normal(size=(40, 4))
    x[1::2] += 5
    reference = Reference.of("toy", np.random.default_rng(1).normal(size=(100, 4)), Extractor(lambda x: x, name="any", sha256="1"))
    even, odd = halves(x, reference)
    assert abs(even.value) < 1 < odd.value
    whole = estimate_kernel(x[1::2], reference.kernel, bootstrap_weights(range(1, 40, 2)))
    assert odd == whole
    with pytest.raises(ValueError, match="at least 5 images each are needed, got 9"):
        halves(x[:9], reference)


def test_searched_lists_are_held_against_the_best_named_spacing() -> None:
    named = [result("ddim", calls, 2.0, spacing) for calls in (5, 6, 8) for spacing in ("trailing", "log_snr")]
    named += [result("ddim", 8, 1.5, "leading"), replace(result("ddim", 6, 2.0, "leading"), quality=quality(2.5))]
    searched = [result("ddim", 5, 1.0, "network"), result("ddim", 6, 2.0, "network"), result("ddim", 8, 1.8, "network")]
    said = budget_findings(study(*named, *searched), {})
    assert said[-1] == (
        "Lists searched by the network objective: better than every named spacing judged for ddim-5; no clear difference for "
        "ddim-6; worse than one for ddim-8."
    )


def test_results_are_found() -> None:
    assert STUDY.budgets == [5, 10, 50]
    assert STUDY.at(5)[0].sampler == "dpm-2m"
    assert STUDY.find("ddim", 10) == STUDY.results[2]
    assert STUDY.find("ddim", 10, "leading") is None


def test_a_study_survives_its_file(tmp_path: Path) -> None:
    STUDY.save(tmp_path / "toy.budget.json")
    assert BudgetStudy.load(tmp_path / "toy.budget.json") == STUDY
    saved = json.loads((tmp_path / "toy.budget.json").read_text())
    assert saved["schema_version"] == 1
    for damaged in ("{}", "[]", json.dumps({**saved, "schema_version": 2}), json.dumps({**saved, "results": [{}]})):
        (tmp_path / "bad.json").write_text(damaged)
        with pytest.raises(DDIMKitError):
            BudgetStudy.load(tmp_path / "bad.json")


def test_a_search_that_gained_nothing_is_said() -> None:
    lists = (SearchedList("ddim", 5, "network", (9, 7, 5, 3, 1), False, "nothing"),)
    said = budget_findings(study(result("ddim", 5, 2.0), lists=lists), {})
    assert said[-1] == "Lists searched by the network objective: nothing gained in the search for ddim-5."


def test_committed_studies_are_of_the_bundled_models() -> None:
    for path in studies._FOLDER.glob("*.budget.json"):
        assert find_budget_study(load_pretrained(path.name.split(".")[0])) == BudgetStudy.load(path)


def test_the_study_of_the_very_model_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights under another clip are another model."""
    monkeypatch.setattr(studies, "_FOLDER", tmp_path)
    monkeypatch.setattr(studies, "_studies", cache(studies._studies.__wrapped__))
    monkeypatch.setattr(studies, "_budget_studies", cache(studies._budget_studies.__wrapped__))
    bundle = toy(torch.nn.Identity().eval())
    known = study(*STUDY.results, model=identity(bundle))
    known.save(tmp_path / "toy.budget.json")
    assert studies._studies() == ()
    assert find_budget_study(bundle) == known
    assert find_budget_study(toy(torch.nn.Identity().eval(), clip=None)) is None
    assert find_budget_study(toy()) is None
