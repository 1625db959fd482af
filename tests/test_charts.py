"""The pictures and the report of a sweep."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curves import curve, result
from ddimkit.tradeoff import figures
from ddimkit.tradeoff.charts import draw_charts, draw_eta, eta_grid, save_grid, tile
from ddimkit.tradeoff.findings import findings
from ddimkit.tradeoff.report import COLUMNS, cells, write_report
from ddimkit.tradeoff.results import ConfigurationResult

matplotlib = pytest.importorskip("matplotlib")

STEPS, ETAS = (5, 10), (0.0, 0.5)
GRID = [result(steps=s, eta=e) for e in ETAS for s in STEPS]
PLUGGED = [result("MySampler", s, None) for s in STEPS]
DDPM = [result("DDPMSampler", s, 1.0) for s in STEPS]


def picture(path: Path) -> np.ndarray[Any, Any]:
    from matplotlib import image

    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return np.rint(image.imread(path)[..., :3] * 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_DPI", 40)


CASES: dict[str, tuple[list[ConfigurationResult], set[str]]] = {
    "eta": (GRID, {"timing", "speedup", "samples", "eta"}),
    "the baseline alone": ([], {"timing", "speedup", "samples"}),
    "ddim and ddpm": ([*GRID[:2], *DDPM], {"timing", "speedup", "samples"}),
}


@pytest.mark.parametrize(("results", "names"), CASES.values(), ids=CASES)
def test_charts_are_drawn(tmp_path: Path, results: list[ConfigurationResult], names: set[str]) -> None:
    drawn = draw_charts(curve(*results, images=True), tmp_path)
    assert {path.stem for path in drawn} == names == {path.stem for path in tmp_path.iterdir()}
    for path in drawn:
        pixels = picture(path)
        assert min(pixels.shape[:2]) > 40, path
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20, path


@pytest.mark.parametrize(
    ("results", "shown"),
    [
        (GRID, GRID),
        (GRID[:2], []),
        ([*DDPM, *GRID], GRID),
        ([*GRID[:2], *DDPM], []),
        ([*PLUGGED, *GRID], GRID),
        ([GRID[0], GRID[3]], []),
        ([*GRID, result(steps=100)], GRID),
        ([*GRID, result(steps=7, eta=0.5)], GRID),
    ],
    ids=[
        "a grid",
        "one eta",
        "ddpm first",
        "one eta and ddpm",
        "a plug-in first",
        "no steps in common",
        "eta 0 alone",
        "eta 0.5 alone",
    ],
)
def test_the_eta_chart_shows_steps_that_ran_with_every_eta(
    results: list[ConfigurationResult], shown: list[ConfigurationResult]
) -> None:
    assert eta_grid(curve(*results)) == shown


def test_without_images_no_samples_are_drawn(tmp_path: Path) -> None:
    assert {path.name for path in draw_charts(curve(*GRID[:2]), tmp_path)} == {"timing.png", "speedup.png"}


def test_the_picture_of_an_earlier_sweep_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "eta.png").touch()
    made = curve(*GRID[:2])
    draw_charts(made, tmp_path)
    assert "eta.png" not in write_report(made, tmp_path).read_text()


def test_samples_that_are_no_images_are_said_to_be_none(tmp_path: Path) -> None:
    made = curve(*GRID)
    vectors = {c.label: np.zeros((2, 3), np.float32) for c in made.configurations}
    drawn = draw_charts(replace(made, samples=vectors), tmp_path)
    assert {path.stem for path in drawn} == {"timing", "speedup", "samples", "eta"}


def test_eta_needs_several() -> None:
    with pytest.raises(ValueError, match="several etas"):
        draw_eta(curve(*GRID[:2]), Path("eta.png"))


def shades(count: int, channels: int, height: int, width: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Bytes (N, C, H, W), none of them white, and the images in [−1, 1] that stand for them."""
    pixels = np.random.default_rng(count).integers(0, 255, (count, channels, height, width), dtype=np.uint8)
    return pixels, (pixels / 127.5 - 1).astype(np.float32)


@given(
    count=st.integers(1, 7),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    columns=st.integers(1, 8),
)
def test_tiles_lie_where_they_should(count: int, channels: int, height: int, width: int, columns: int) -> None:
    pixels, images = shades(count, channels, height, width)
    found = tile(images, columns)
    rows = math.ceil(count / columns)
    assert found.shape == (rows * (height + 2), columns * (width + 2), 3)
    expected = np.full(found.shape, 255, np.uint8)
    for i in range(count):
        for y in range(height):
            for x in range(width):
                place = i // columns * (height + 2) + y, i % columns * (width + 2) + x
                expected[place] = pixels[i, :, y, x] if channels == 3 else pixels[i, 0, y, x]
    assert np.array_equal(found, expected)


def test_values_out_of_range_are_clipped_and_nan_is_grey() -> None:
    images = np.array([-7, -1, 0, 1, 7, np.nan], np.float32).reshape(1, 1, 1, 6)
    assert tile(images, 1)[0, :6, 0].tolist() == [0, 0, 128, 255, 255, 128]


@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (2, 4, 4), (0, 1, 4, 4), (2, 3)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(N, 1 or 3, H, W\) can be drawn, got \("):
        tile(np.zeros(shape, np.float32), 2)


@pytest.mark.parametrize(("count", "columns", "wide"), [(5, None, 3), (5, 2, 2), (1, None, 1)])
def test_a_grid_is_four_pixels_to_one(tmp_path: Path, count: int, columns: int | None, wide: int) -> None:
    _, images = shades(count, 1, 3, 4)
    path = save_grid(images, tmp_path / "grid.png", columns)
    expected = np.kron(tile(images, wide), np.ones((4, 4, 1), np.uint8))
    assert np.array_equal(picture(path), expected)


def test_the_report_mentions_every_configuration(tmp_path: Path) -> None:
    made = curve(*GRID, *PLUGGED, result("MySampler", 3, None, memory=None))
    for name in ("samples", "timing", "speedup", "eta"):
        (tmp_path / f"{name}.png").touch()
    text = write_report(made, tmp_path).read_text()
    for c in made.configurations:
        assert "| " + " | ".join(cells(c)) + " |" in text
        assert len(cells(c)) == len(COLUMNS)
    assert all(f"- {sentence}\n" in text for sentence in findings(made))
    assert re.findall(r"!\[.*\]\((.*)\)", text) == ["samples.png", "timing.png", "speedup.png", "eta.png"]
    block = re.search(r"```json\n(.*)\n```", text, re.DOTALL)
    assert block is not None
    expected = {"model": made.model, "machine": made.machine, "versions": made.versions, "settings": made.settings}
    assert json.loads(block[1]) == expected
    assert "not measured" in cells(made.configurations[-1])


def test_the_report_shows_only_pictures_that_exist(tmp_path: Path) -> None:
    made = curve(*GRID)
    assert "](" not in write_report(made, tmp_path).read_text()
    (tmp_path / "timing.png").touch()
    assert re.findall(r"\]\((.*)\)", write_report(made, tmp_path).read_text()) == ["timing.png"]


def test_whiskers_reach_to_the_quartiles_and_never_backwards() -> None:
    low, high = figures.whiskers([(5.0, 4.0, 7.0), (8.0, 4.0, 7.0)])
    assert (low, high) == ([1.0, 4.0], [2.0, 0.0])
    assert figures.whiskers([(3.0, 4.0, 7.0)]) == ([0.0], [4.0])
