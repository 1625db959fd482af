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
from ddimkit.analytic import error_of
from ddimkit.learning import GaussianObjective
from ddimkit.quality import Estimate, difference, load_yardstick
from ddimkit.samplers.named import MAKERS, adds_noise
from ddimkit.tradeoff import studies
from ddimkit.tradeoff.budget import BudgetResult, BudgetStudy, SearchedList, finalists
from ddimkit.tradeoff.budget_findings import budget_findings
from ddimkit.tradeoff.studies import find_budget_study, find_study, identity


def study(*results: BudgetResult, **changes) -> BudgetStudy:
    lists = (SearchedList("ddim", 5, "network", (9, 7, 5, 3, 1), True, "0.1 against 0.2", {"evaluations": 7}),)
    about = {"name": "toy", "weights_sha256": "123"}, {"processor": "one"}, {"torch": "2"}
    return replace(BudgetStudy(*about, results, lists, {"samples": 100}), **changes)


def estimate(value: float, errors: NDArray[np.float64]) -> Estimate:
    """A figure whose replicates have these errors."""
    return Estimate(value, tuple((value + errors).tolist()))


REFERENCES = (result("ddim", 50, 1.0), result("ddpm", 1000, 1.5))
STUDY = study(result("ddim", 5, 3.0), result("dpm-2m", 5, 1.0), result("ddim", 10, 2.0), result("ddpm", 10, 2.5), *REFERENCES)


def test_the_best_of_each_budget_is_named_beside_the_references() -> None:
    said = budget_findings(STUDY)
    assert said[0].startswith("At 5 calls the best is dpm-2m-5 trailing: kernel distance 1 (")
    assert "), no different from DDIM-50, better than DDPM-1000; Fréchet distance 1, " in said[0]
    assert "the best is ddim-10 trailing: kernel distance 2" in said[1]
    assert "worse than DDIM-50, worse than DDPM-1000" in said[1]
    assert len(said) == 2  # where there is no choice there is no best
    assert budget_findings(study(*STUDY.results[:2], lists=()))[0].endswith("), by 1,000 images that did not choose it.")


def test_the_best_is_chosen_by_some_images_and_judged_by_others() -> None:
    lucky, other = replace(result("ddim", 5, 1.0), fresh=quality(4.0)), replace(result("dpm-2m", 5, 2.0), fresh=quality(1.5))
    best = budget_findings(study(lucky, other, REFERENCES[0], lists=()))[0]
    assert best.startswith("At 5 calls the best is ddim-5 trailing: kernel distance 4 (")
    assert "worse than DDIM-50" in best
    assert best.endswith(", by 1,000 images that did not choose it.")
    unjudged = budget_findings(study(replace(lucky, fresh=None), other, lists=()))[0]
    assert unjudged == "At 5 calls the best is ddim-5 trailing, which no other images than those that chose it have judged."


def test_the_frechet_distance_is_held_against_as_many_images_alone() -> None:
    best, other = (replace(quality(1.0), frechet=estimate(value, np.zeros(400))) for value in (7.0, 9.0))
    few = replace(REFERENCES[1], fresh=replace(other, seeds=((0, 10),)))
    judged = [replace(result("ddim", 5, 1.0), fresh=best), result("dpm-2m", 5, 3.0), replace(REFERENCES[0], fresh=other), few]
    assert "; Fréchet distance 7, better than DDIM-50 (9), by 1,000" in budget_findings(study(*judged, lists=()))[0]
    assert "Fréchet" not in budget_findings(study(*judged[:2], few, lists=()))[0]


def test_distances_of_another_kind_are_refused() -> None:
    other = replace(REFERENCES[0].quality, label=replace(REFERENCES[0].quality.label, extractor="another"))
    with pytest.raises(ValueError, match="extractor"):
        budget_findings(study(*STUDY.results[:2], replace(REFERENCES[0], fresh=other)))


def test_those_that_may_be_chosen_are_judged_by_fresh_images() -> None:
    """The best of all, of named spacings, of those without noise, and of both."""
    best = [result("ddpm", 5, 1.0, "quality"), result("ddpm", 5, 2.0), result("ddim", 5, 3.0, "network"), result("ddim", 5, 4.0)]
    others = [result("ddim", 5, 5.0, "leading"), replace(result("ddim", 5, 2.5, "log_snr"), apart=0.5)]
    assert {r.label for r in finalists([*others, *best])} == {r.label for r in best}
    more = [result("ddim", 6, 9.0), result("ddim", 6, 8.0, "leading"), result("ddim", 100, 1.0)]
    assert [r.label for r in finalists([*best[3:], *more])] == ["ddim-6 leading"]  # where there is no choice none is judged


def test_how_well_the_prediction_orders_equal_calls_is_said() -> None:
    made = [replace(result("ddim", 5, d, str(d)), predicted=p) for d, p in ((1.0, 4.0), (2.0, 3.0), (3.0, 2.0), (4.0, 1.0))]
    right = [replace(r, sampler="dpm-2m", calls=10, predicted=r.quality.kernel.value) for r in made]
    searched = replace(made[0], spacing="gaussian", predicted=0.0)  # which was chosen by its prediction
    said = budget_findings(study(*made, searched, *right, *[replace(r, calls=20) for r in made[:3]], lists=()))
    assert said[-1].endswith(
        "over named spacings: rank correlation with the measured distances -1.00 at 5 calls, 1.00 at 10 calls; "
        "within one sampler 0.00 in the median, from -1.00 (ddim-5) to 1.00 (dpm-2m-10)."
    )
    assert not any("Predicted" in s for s in budget_findings(STUDY))


def test_searched_lists_are_held_against_the_named_spacings() -> None:
    named = [result("ddim", calls, 2.0, spacing) for calls in (5, 6, 8) for spacing in ("trailing", "log_snr")]
    named += [result("ddim", 8, 1.5, "leading"), replace(result("ddim", 6, 2.0, "leading"), quality=quality(2.5))]
    searched = [result("ddim", calls, d, "network") for calls, d in ((5, 1.0), (6, 2.0), (8, 1.8))]
    said = budget_findings(study(*named, *searched))
    assert said[-1] == (
        "Lists searched by the network objective: better than every named spacing judged for ddim-5; no clear difference for "
        "ddim-6; worse than one of them for ddim-8."
    )


def test_lists_near_by_features_are_seen_in_pixels() -> None:
    results = [replace(result("ddim", 5, 2.0), apart=0.4), replace(result("ddim", 5, 2.0, "log_snr"), apart=0.3)]
    results += [replace(result("ddim", 5, 1.0, "network"), apart=0.2)]
    results += [replace(r, calls=6, apart=0.35 if r.spacing == "network" else r.apart) for r in results]
    assert budget_findings(study(*results))[-1].endswith(
        "; in pixels nearer than every named spacing to the images of the finest run for 1 of 2."
    )


def test_results_are_found() -> None:
    assert STUDY.budgets == [5, 10]
    assert STUDY.references == {"DDIM-50": REFERENCES[0], "DDPM-1000": REFERENCES[1]}
    assert [r.label for r in STUDY.best()] == ["dpm-2m-5 trailing", "ddim-10 trailing"]
    assert STUDY.at(5)[0].sampler == "dpm-2m"
    assert STUDY.find("ddim", 10) == STUDY.results[2]
    assert STUDY.find("ddim", 10, "leading") is None


def test_a_study_survives_its_file(tmp_path: Path) -> None:
    STUDY.save(tmp_path / "toy.budget.json")
    assert BudgetStudy.load(tmp_path / "toy.budget.json") == STUDY
    saved = json.loads((tmp_path / "toy.budget.json").read_text())
    assert saved["schema_version"] == 2
    for damaged in ("{}", "[]", json.dumps({**saved, "schema_version": 1}), json.dumps({**saved, "results": [{}]})):
        (tmp_path / "bad.json").write_text(damaged)
        with pytest.raises(DDIMKitError):
            BudgetStudy.load(tmp_path / "bad.json")


def test_a_search_that_gained_nothing_is_said() -> None:
    lists = (SearchedList("ddim", 5, "network", (9, 7, 5, 3, 1), False, "nothing"),)
    said = budget_findings(study(result("ddim", 5, 2.0), lists=lists))
    assert said[-1] == "Lists searched by the network objective: nothing gained in the search for ddim-5."


def test_committed_studies_are_of_the_bundled_models() -> None:
    for path in studies._FOLDER.glob("*.budget.json"):
        assert find_budget_study(load_pretrained(path.name.split(".")[0])) == BudgetStudy.load(path)


def test_the_committed_study_is_what_the_documentation_says_in_words() -> None:
    """Whoever makes it anew reads `docs/budget.md` again."""
    mnist = load_pretrained("mnist")
    known, curve = find_budget_study(mnist), find_study(mnist)
    assert known is not None
    assert curve is not None
    plain = [c.quality.kernel.value for c in curve.configurations if c.eta == 0 and c.steps >= 250 and c.quality is not None]
    assert len(plain) == 3
    assert plain == pytest.approx([0.003] * 3, abs=3e-4)
    few = known.find("unipc-3", 8)
    assert few is not None
    assert few.fresh is not None
    assert max(few.quality.kernel.value, few.fresh.kernel.value) < min(plain)
    references = [r.fresh for r in known.references.values() if r.sampler == "ddim" and r.fresh is not None]
    assert len(references) == 2
    for best in (r for r in known.best() if r.calls in (8, 10, 15, 20)):
        assert adds_noise(MAKERS[best.sampler])
        assert best.fresh is not None
        assert all(difference(best.fresh, other).interval()[1] < 0 for other in references)


def test_the_search_bins_the_spectrum_finely_enough() -> None:
    """What is searched for finds the weak places of the bins, so the lists it found are the hardest test."""
    mnist = load_pretrained("mnist")
    pixels, known = load_yardstick("mnist").pixels, find_budget_study(mnist)
    assert pixels is not None
    assert known is not None
    objective = GaussianObjective(pixels.mean, pixels.spectrum, pixels.count)
    for found in (x for x in known.lists if x.objective == "gaussian"):
        sampler = mnist.sampler(MAKERS[found.sampler], timesteps=found.timesteps)
        exact = error_of(sampler.plan(), pixels, mnist.schedule).frechet
        assert objective.value(sampler) == pytest.approx(exact, rel=5e-3), found  # 64 bins are 10 % off


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
