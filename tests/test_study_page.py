"""The documentation's page of a study."""

import re
from pathlib import Path

import pytest

import study_page
from ddimkit import DDIMSampler, DDPMSampler, Study
from studies import LINEAR, ddim, ddpm, row, study, toy

TIMES = (999, 700, 500, 300, 100)
STUDY = study(
    ddim(10, 3.0),
    ddim(50, 1.5),
    ddim(5, 2.5, selected=2.4),
    row(DDIMSampler(LINEAR, steps=5, spacing="leading"), selected=2.6),
    row(DDPMSampler(LINEAR, steps=5), 2.0, selected=2.2, same_seed=0.9),
    row(
        DDIMSampler(LINEAR, timesteps=TIMES),
        selected=2.5,
        label="DDIM-5 network list",
        search={"objective": "network", "reason": "0.1 against 0.2"},
    ),
    model={"name": "toy", "weights_sha256": "123456789abcdef", "sample_shape": [1, 4, 4]},
)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of which there is a study."""
    monkeypatch.setattr(study_page, "load_pretrained", lambda name: toy(name=name))
    monkeypatch.setattr(study_page, "find_study", lambda bundle: STUDY)


def plain(text: str) -> str:
    """A text with spaces that a line may break at."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.usefixtures("known")
def test_the_answer_comes_first_and_every_measured_row_is_shown() -> None:
    text = study_page.page("toy")
    assert text.startswith("## The answer\n\n**Use ")
    assert re.search(r"\| production \| 95 % \|", text)
    measured = text.split("## Every row that was measured")[1].split("\n## ")[0]
    for label in ("DDPM-1000", "DDIM-10", "DDIM-50", "DDIM-5", "other real images", "noise"):
        assert f"\n| {label} | " in measured
    assert "leading" not in measured  # what only chose
    assert "| DDIM-10 | 3.000 ± 0.039 (2,000) |" in plain(measured)
    assert "weights SHA-256 123456789abc…" in text


@pytest.mark.usefixtures("known")
def test_what_chose_and_what_measured_stand_side_by_side() -> None:
    best = plain(study_page.page("toy")).split("## The best of each number of calls")[1].split("\n## ")[0]
    assert "| 5 | DDPM-5 | no | 2.200 ± 0.039 (2,000) | 2.000 ± 0.039 (2,000) |" in best
    assert "| 5 | DDIM-5 | yes | 2.400 ± 0.039 (2,000) | 2.500 ± 0.039 (2,000) |" in best
    assert "leading" not in best
    assert "| 10 |" not in best  # nothing chose it


@pytest.mark.usefixtures("known")
def test_searched_lists_are_shown_with_what_came_of_the_search() -> None:
    lists = study_page.page("toy").split("## Lists that were searched")[1]
    assert "| DDIM-5 network list | 999, 700, 500, 300, 100 | 0.1 against 0.2 | 2.500" in lists


@pytest.mark.usefixtures("known")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_picture_of_the_page_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(study_page, "PICTURES", tmp_path / "generated")
    shown = study_page._shown(STUDY)
    assert {r.label for r in shown} == {"DDPM-5", "DDIM-5", "DDIM-10", "DDIM-50"}
    monkeypatch.setattr(study_page, "_shown", lambda found: [found.row("DDIM-5")])
    drawn = {path.name for path in study_page.draw("toy")}
    assert drawn == {Path(name).name for name in re.findall(r"\]\(/generated/([^)]+)\)", study_page.page("toy"))}
    assert all((tmp_path / "generated" / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_committed_results_of_the_very_weights_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(study_page, "RESULTS", tmp_path)
    monkeypatch.setattr(study_page, "find_study", lambda bundle: None)
    bundle = toy(name="toy")
    for date, weights in (("2026-01-01", None), ("2026-02-01", "another")):
        model = {"name": date, "weights_sha256": weights, "sample_shape": [1, 4, 4]}
        study(ddim(10, 3.0), baseline=ddpm(1.0), model=model).save(tmp_path / f"{date}-study-toy-machine.json")
    assert bundle.weights_sha256() is None
    found = study_page.find_results(bundle)
    assert isinstance(found, Study)
    assert found.model["name"] == "2026-01-01"
    (tmp_path / "2026-01-01-study-toy-machine.json").unlink()
    assert study_page.find_results(bundle) is None


def test_what_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_page, "load_pretrained", lambda name: toy(name=name))
    monkeypatch.setattr(study_page, "find_study", lambda bundle: None)
    assert study_page.page("toy") == "No study of the bundled toy model's present weights has been made yet.\n"
    assert study_page.draw("toy") == []
    monkeypatch.setattr(study_page, "published_hashes", dict)
    assert study_page.page("cifar10") == "No weights of the cifar10 model have been published yet, and so no study of them.\n"
