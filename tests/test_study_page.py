"""The documentation's pages of studies, and the picture of budgets."""

from pathlib import Path

import pytest

import study_page
from curves import LINE, budgeted, judged, study, toy
from ddimkit.tradeoff import budget_chart, figures, presets
from ddimkit.tradeoff.budget import BudgetStudy, SearchedList
from ddimkit.tradeoff.budget_chart import draw_budget

LISTS = (SearchedList("dpm-2m", 5, "network", (9, 7, 5, 3, 1), True, "0.1 against 0.2"),)
RESULTS = (
    budgeted("ddim", 5, 3.0),
    budgeted("ddim", 5, 2.5, "log_snr"),
    budgeted("ddim", 10, 2.0),
    budgeted("dpm-2m", 5, 2.0),
    budgeted("dpm-2m", 5, 1.5, "network", (9, 7, 5, 3, 1)),
    budgeted("ddpm", 10, 4.0),
    budgeted("ddim", 50, 1.5),
)
BUDGET = BudgetStudy({"name": "toy", "weights_sha256": "123456789abcdef"}, {"processor": "P"}, {"torch": "2"}, RESULTS, LISTS)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A toy model of which there are both studies; where its pictures are looked for."""
    curve = study(*judged(LINE), *judged({10: 4.0, 20: 2.0}, eta=1.0))
    monkeypatch.setattr(study_page, "load_pretrained", lambda name: toy(name=name))
    monkeypatch.setattr(study_page, "find_study", lambda bundle: curve)
    monkeypatch.setattr(presets, "find_study", lambda bundle: curve)
    monkeypatch.setattr(study_page, "find_budget_study", lambda bundle: BUDGET)
    monkeypatch.setattr(study_page, "_STATIC", tmp_path)
    curve.model["weights_sha256"] = "fedcba9876543210"
    return tmp_path


def test_a_study_is_shown_with_its_scale_curve_and_presets(known: Path) -> None:
    (known / "toy-quality.png").touch()
    text = study_page.page("toy")
    assert "Measured on a processor, torch 2.13.0; weights SHA-256 fedcba987654…." in text
    for c in ("DDPM-1000", "DDIM-10", "DDIM-250", "DDIM-10 eta 1"):
        assert f"\n| {c} |" in text
    assert "| realtime | DDIM, 20 steps |" in text
    assert "![Quality against steps](_static/toy-quality.png)" in text
    assert text.count("![") == 1


def test_the_best_of_each_budget_is_shown_with_what_the_search_found(known: Path) -> None:
    text = study_page.budget_page("toy")
    assert "| 5 | dpm-2m | network: 9, 7, 5, 3, 1 | 1.5 (" in text
    assert "| 10 | ddim | trailing | 2 (" in text
    assert "| dpm-2m | 5 | network | 9, 7, 5, 3, 1 | 0.1 against 0.2 |" in text
    assert "- At 10 calls the best is ddim-10 trailing" in text
    for end in ("other real images (floor)", "DDPM-1000", "noise"):
        assert f"\n| {end} |" in text
    assert "worse than DDIM-50" in text
    assert "![" not in text
    (known / "toy-budget.png").touch()
    assert "](_static/toy-budget.png)" in study_page.budget_page("toy")


def test_what_is_not_known_is_said(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_page, "find_study", lambda bundle: None)
    monkeypatch.setattr(study_page, "find_budget_study", lambda bundle: None)
    assert study_page.page("toy") == "No study of the bundled toy model's present weights has been made yet.\n"
    assert study_page.budget_page("toy").startswith("No study of samplers and timestep lists of the toy model")
    monkeypatch.setattr(study_page, "published_hashes", dict)
    assert study_page.page("cifar10") == "No weights of the cifar10 model have been published yet, and so no study of them.\n"
    assert study_page.budget_page("cifar10").startswith("No study")


def test_the_picture_has_a_panel_for_every_sampler_of_several_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    drawn: list[dict[str, list[tuple[int, float]]]] = []
    monkeypatch.setattr(figures, "_DPI", 40)

    def save(figure, path):
        for axes in figure.axes:
            lines = {c.get_label(): list(zip(*(v.tolist() for v in c.lines[0].get_data()), strict=True)) for c in axes.containers}
            drawn.append({"title": axes.get_title(), **lines})
        return figures.save_figure(figure, path)

    monkeypatch.setattr(budget_chart, "save_figure", save)
    path = draw_budget(BUDGET, tmp_path / "budget.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [panel.pop("title") for panel in drawn] == ["every sampler, trailing", "ddim", "dpm-2m"]
    assert [list(panel) for panel in drawn] == [["ddim", "dpm-2m", "ddpm"], ["trailing", "log_snr"], ["trailing", "network"]]
    assert [value for _, value in drawn[1]["trailing"]] == [3.0, 2.0]
    assert drawn[2]["network"][0] == (pytest.approx(5, rel=0.02), 1.5)
