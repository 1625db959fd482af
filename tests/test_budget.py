"""Studies of samplers at equal numbers of model calls: what is said of them, and how they are kept."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from curves import quality, toy
from ddimkit import DDIMKitError
from ddimkit.tradeoff import studies
from ddimkit.tradeoff.budget import BudgetResult, BudgetStudy, SearchedList, budget_findings
from ddimkit.tradeoff.studies import find_budget_study, identity


def result(sampler: str, calls: int, distance: float, spacing: str = "trailing") -> BudgetResult:
    return BudgetResult(sampler, calls, spacing, tuple(range(calls)[::-1]), quality(distance))


def study(*results: BudgetResult, **changes) -> BudgetStudy:
    lists = (SearchedList("ddim", 5, "network", (9, 7, 5, 3, 1), True, "0.1 against 0.2"),)
    return replace(
        BudgetStudy({"name": "toy", "weights_sha256": "123"}, {"processor": "one"}, {"torch": "2"}, results, lists), **changes
    )


STUDY = study(result("ddim", 5, 3.0), result("dpm-2m", 5, 1.0), result("ddim", 10, 2.0), result("ddim", 50, 1.0))


def test_the_best_of_each_budget_is_named_beside_the_references() -> None:
    said = budget_findings(STUDY, {"DDIM-50": quality(1.0, common=0.02, width=0.002), "DDPM-1000": quality(1.5)})
    assert said.pop(0).startswith("The best of a budget is chosen and judged on the same images")
    assert said[0].startswith("At 5 calls the best is dpm-2m-5 trailing: kernel distance 1 (")
    assert said[0].endswith("no different from DDIM-50, better than DDPM-1000.")
    assert "the best is ddim-10 trailing: kernel distance 2" in said[1]
    assert said[1].endswith("worse than DDIM-50, worse than DDPM-1000.")
    assert len(said) == 3
    assert budget_findings(STUDY, {})[1].endswith(").")


def test_searched_lists_are_held_against_the_best_named_spacing() -> None:
    named = [result("ddim", calls, 2.0, spacing) for calls in (5, 6, 8) for spacing in ("trailing", "log_snr")]
    named += [result("ddim", 8, 1.5, "leading"), replace(result("ddim", 6, 2.0, "leading"), quality=quality(2.5))]
    searched = [result("ddim", 5, 1.0, "network"), result("ddim", 6, 2.0, "network"), result("ddim", 8, 1.8, "network")]
    said = budget_findings(study(*named, *searched), {})
    assert said[-1] == (
        "Lists searched by the network objective: better than every named spacing for ddim-5; no clear difference for ddim-6; "
        "worse than one for ddim-8."
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
