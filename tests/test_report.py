"""The report of a study: what the page and the Markdown text hold, whatever was measured, and how charts look."""

import base64
import io
import itertools
import json
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimkit.tradeoff.findings import findings
from ddimkit.tradeoff.fit import time_fit
from ddimkit.tradeoff.presets import presets_of
from ddimkit.tradeoff.recommend import recommend
from ddimkit.tradeoff.report import draw_charts, save_grid, write_markdown, write_page
from ddimkit.tradeoff.report.charts import charts_of, front, kinds
from ddimkit.tradeoff.report.content import answer_of, missing, record
from ddimkit.tradeoff.report.samples import data_uri, drawable, tile
from ddimkit.tradeoff.report.style import palette, svg
from ddimkit.tradeoff.report.tables import cells, columns, eta_table, facts
from ddimkit.tradeoff.rows import Row, sampler_from_dict
from ddimkit.tradeoff.study import Study
from ddimkit.tradeoff.wording import duration, share, with_margin
from reports import HOSTILE, Page, made
from studies import LINE, LINEAR, ddim, ddpm, line, row, study

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

SAID = ["The first finding.", HOSTILE]
MEASURED = [dict(zip(("quality", "times", "images"), there, strict=True)) for there in itertools.product((True, False), repeat=3)]
CHARTS = {"quality-time": {"quality", "times"}, "quality-calls": {"quality"}, "time": {"times"}, "speedup": {"times"}}


@cache
def page_of(*, quality: bool = True, times: bool = True, images: bool = True) -> str:
    with TemporaryDirectory() as folder:
        return write_page(made(quality=quality, times=times, images=images), folder, SAID).read_text(encoding="utf-8")


def name_of(there: dict[str, bool]) -> str:
    return "with " + (", ".join(name for name, held in there.items() if held) or "nothing")


def names_of(there: dict[str, bool]) -> list[str]:
    """The charts that there are data for, in the order of the page."""
    held = {name for name, is_there in there.items() if is_there}
    return [name for name, needs in CHARTS.items() if needs <= held]


@pytest.mark.parametrize("there", MEASURED, ids=name_of)
def test_a_page_is_whole_and_needs_nothing_outside(there: dict[str, bool]) -> None:
    text = page_of(**there)
    page = Page(text)
    assert not page.faults
    assert not page.open
    assert "http" not in text
    assert "@import" not in text
    assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
    assert all(re.fullmatch(r"#[\w-]+", link) for link in (*page.values("href"), *page.values("xlink:href")))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [*page.values("xlink:href"), *page.values("href"), *re.findall(r"url\((#[^)]*)\)", text)]
    targets += [f"#{place}" for place in page.values("aria-describedby")]
    assert {target[1:] for target in targets} <= set(ids)


@pytest.mark.parametrize("there", MEASURED, ids=name_of)
def test_a_page_says_once_what_was_not_measured_and_shows_the_rest(there: dict[str, bool]) -> None:
    measured = made(**there)
    page = Page(page_of(**there))
    shown, absent = page.shown(), [name for name, held in there.items() if not held]
    assert shown.count("This study holds no") == bool(absent)
    said = missing(measured)
    assert [name for name in there if f"no {name}" in said] == absent
    assert page.count("svg") == 2 * len(names_of(there))
    assert [chart.name for chart in charts_of(measured)] == names_of(there)
    assert page.count("img") == (len(measured.rows) + 1) * there["images"]
    heads = columns(measured)
    assert ("kernel distance (images)" in heads, "speed-up" in heads) == (there["quality"], there["times"])
    assert page.count("button") == len(heads) + 2 * there["images"]
    assert ("Presets" in shown) == there["quality"]
    assert all(sentence in shown for sentence in ("The first finding.", measured.baseline))


@pytest.mark.parametrize("there", MEASURED, ids=name_of)
def test_headings_step_down_one_level_at_a_time(there: dict[str, bool]) -> None:
    page = Page(page_of(**there))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_answer_stands_first_with_what_it_rests_on() -> None:
    measured = made()
    page = Page(page_of())
    found, answer = recommend(measured), answer_of(measured)
    assert next(data for tag, data in page.texts if tag == "h1") == found.answer == answer.headline
    assert found.closed is not None
    texts = [data for tag, data in page.texts if tag == "dd"]
    assert texts == [text for _, text in answer.facts]
    assert share(found.closed) in texts
    chosen = [attributes for tag, attributes in page.elements if tag == "tr" and attributes.get("class") == "chosen"]
    assert len(chosen) == 1
    assert answer.row == (found.row and found.row.label)
    for refinable in (True, False):
        for key, one in presets_of(measured, refinable=refinable).items():
            cell = facts(one, measured)
            assert any((key, cell["calls"], cell["known"]) == (r[0], r[3], r[-1]) for _, rows in answer.presets for r in rows)


def test_the_code_makes_the_recommended_sampler() -> None:
    found = recommend(made()).sampler
    names = {type(found).__name__: type(found), "schedule": LINEAR}
    assert eval(answer_of(made()).code, names) == found


def test_labels_cannot_be_markup(tmp_path: Path) -> None:
    plain = Page(page_of())
    hostile = made(hostile=HOSTILE)
    model = {**hostile.model, "name": HOSTILE}
    page = Page(write_page(replace(hostile, model=model), tmp_path, SAID).read_text(encoding="utf-8"))
    assert page.count("script") == plain.count("script") == 1
    assert not page.faults
    assert [tag for tag, _ in page.elements].count("th") == [tag for tag, _ in plain.elements].count("th")
    assert page.shown().count("<script>alert(1)</script>") > 4
    table = [text for text in write_markdown(hostile, tmp_path, SAID).read_text(encoding="utf-8").splitlines() if text[:1] == "|"]
    assert any("script" in text for text in table)
    etas = eta_table(hostile)
    assert etas is not None
    heads = columns(hostile), answer_of(hostile).heads, etas.heads
    assert {len(re.findall(r"(?<!\\)\|", text)) for text in table} == {len(found) + 1 for found in heads}
    assert all("\\<script\\>" in text for text in table if "script" in text)


@pytest.mark.parametrize("there", MEASURED, ids=name_of)
def test_the_markdown_text_has_every_row_finding_and_chart(tmp_path: Path, there: dict[str, bool]) -> None:
    measured = made(**there)
    drawn = {path.name for path in draw_charts(measured, tmp_path)}
    text = write_markdown(measured, tmp_path, SAID).read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(([\w-]+\.png)\)", text)) == drawn == {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {f"{name}.png" for name in (*names_of(there), *(["samples"] if there["images"] else []))}
    assert all(f"| {r.label} |" in text for r in measured.rows)
    assert "- The first finding.\n" in text
    block = re.search(r"```json\n(.*)\n```", text, re.DOTALL)
    assert block is not None
    assert block[1] == record(measured)


@pytest.mark.parametrize("there", MEASURED, ids=name_of)
def test_eta_is_shown_by_steps_where_some_were_measured_with_several(there: dict[str, bool]) -> None:
    measured = made(**there)
    table = eta_table(measured)
    assert (table is not None) == (there["quality"] or there["times"])
    assert ("Eta" in Page(page_of(**there)).shown()) == (table is not None)
    if table is None:
        return
    assert table.heads == ("steps", "eta 0", "eta 0.5", "eta 1")
    assert [line[0] for line in table.rows] == ["10", "20"]
    for steps, *shown in table.rows:
        for eta, text in zip((0.0, 0.5, 1.0), shown, strict=True):
            found = measured.row(ddim(int(steps), eta=eta).label)
            assert (found.quality is not None and with_margin(found.quality.kernel) in text) == there["quality"]
            assert (found.times is not None and duration(found.times.per_sample_seconds) in text) == there["times"]
    assert eta_table(study(*line(LINE))) is None


def test_what_reproduces_a_study_gives_its_samplers_back() -> None:
    measured = made(hostile=HOSTILE)
    saved = json.loads(record(measured))
    shared = {"prediction": measured.base.sampler.prediction, "clip": measured.base.sampler.clip}
    assert {label: sampler_from_dict(plain, LINEAR, shared) for label, plain in saved["samplers"].items()} == {
        r.label: r.sampler for r in measured.rows
    }
    assert saved["settings"] == measured.settings
    assert saved["schedule_sha256"] == LINEAR.sha256


def test_pictures_of_an_earlier_study_do_not_stay(tmp_path: Path) -> None:
    draw_charts(made(), tmp_path)
    draw_charts(made(quality=False, images=False), tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"time", "speedup"}


def test_one_fit_is_quoted_by_chart_caption_and_findings() -> None:
    measured = study(*(ddim(s, seconds=0.1 * (s / 10) ** 0.9) for s in (10, 20, 50, 100)), baseline=ddpm())
    fit = time_fit(measured)
    assert fit is not None
    slope = f"{fit.slope:.3f}"
    chart = next(chart for chart in charts_of(measured) if chart.name == "speedup")
    assert slope == "0.900"
    for text in (chart.caption, chart.alt, svg(lambda: chart.draw(False), "a", "b", "wide"), " ".join(findings(measured))):
        assert slope in text


@pytest.mark.parametrize("narrow", [False, True])
def test_a_chart_is_text_in_the_colours_of_the_page_and_always_the_same(narrow: bool) -> None:
    known = {f"var(--{name})" for name, _, _ in palette()} | {"none"}
    before = dict(matplotlib.rcParams)
    for chart in charts_of(made()):
        text = svg(lambda chart=chart: chart.draw(narrow), chart.name, chart.alt, "kind")
        assert text == svg(lambda chart=chart: chart.draw(narrow), chart.name, chart.alt, "kind")
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", text)) <= known
        assert "<text" in text
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", text)]
        assert sizes
        assert min(sizes) >= 9
        assert all(name.startswith(f"{chart.name}-kind-") for name in re.findall(r'\bid="([^"]*)"', text))
        width = float(re.search(r'width="([\d.]+)pt"', text)[1])  # type: ignore[index]
        assert width <= 72 * (358 if narrow else 736) / 96
        assert chart.caption
        assert chart.alt
    assert dict(matplotlib.rcParams) == before


@given(distances=st.lists(st.tuples(st.integers(2, 60), st.floats(-1, 50), st.floats(1e-4, 2)), min_size=1, max_size=12))
def test_the_front_holds_what_nothing_cheaper_is_known_to_reach(distances: list[tuple[int, float, float]]) -> None:
    rows = [ddim(steps, value, error=error) for steps, value, error in distances]
    best = front(rows, lambda r: float(r.calls))
    highs = [high(r) for r in best]
    assert [r.calls for r in best] == sorted({r.calls for r in best})
    assert highs == sorted(set(highs), reverse=True)
    for r in rows:
        assert any(b.calls <= r.calls and high(b) <= high(r) for b in best)


def high(measured: Row) -> float:
    assert measured.quality is not None
    return measured.quality.kernel.high


@given(steps=st.lists(st.integers(2, 900), min_size=1, max_size=8), etas=st.sets(st.sampled_from([0.0, 0.3, 1.0]), min_size=1))
def test_lines_of_a_chart_hold_every_row_once_and_one_eta_each(steps: list[int], etas: set[float]) -> None:
    rows = [ddim(s, eta=eta) for s in steps for eta in etas]
    lines = kinds(rows)
    assert sorted(map(id, rows)) == sorted(id(r) for found in lines.values() for r in found)
    assert len(lines) == len(etas)
    for found in lines.values():
        assert len({getattr(r.sampler, "eta", None) for r in found}) == 1
        assert [r.calls for r in found] == sorted(r.calls for r in found)


@pytest.mark.parametrize("distances", [(-0.3, -0.2), (0.0, 0.0), (1e-7, 5.0), (3.0, 4.0), (-2.0, 1e4)])
def test_a_distance_below_zero_can_be_drawn(distances: tuple[float, float]) -> None:
    measured = study(*(ddim(s, d, error=0.1) for s, d in zip((10, 20), distances, strict=True)))
    for chart in charts_of(measured):
        for narrow in (False, True):
            assert svg(lambda chart=chart, narrow=narrow: chart.draw(narrow), chart.name, "", "kind").endswith("</svg>\n")


@given(
    quality=st.booleans(),
    times=st.booleans(),
    distances=st.lists(st.one_of(st.none(), st.floats(-1, 50)), min_size=1, max_size=5),
    seconds=st.floats(1e-5, 1e4),
)
def test_cells_fit_the_columns(quality: bool, times: bool, distances: list[float | None], seconds: float) -> None:
    counts = (10, 20, 50, 100, 250)
    rows = [ddim(s, d if quality else None, timed=times, seconds=seconds * s) for s, d in zip(counts, distances, strict=False)]
    measured = study(*rows, baseline=ddpm(1.0 if quality else None, timed=times))
    heads = columns(measured)
    for r in measured.rows:
        texts = dict(zip(heads, (cell.text for cell in cells(r, measured)), strict=True))
        assert texts["configuration"] == r.label
        assert all(texts.values())
        assert ("seconds" in texts) == times
        if r.times is not None and r.label != measured.baseline:
            shown = texts["speed-up"].split("×")[0]
            assert float(shown.replace(",", "")) == pytest.approx(10 / r.times.seconds, rel=6e-3)


def test_time_of_calls_that_were_not_run_is_in_proportion_and_said_to_be_about() -> None:
    measured = study(*line(LINE))
    found = recommend(measured, close=0.9)
    assert found.row is not None
    assert found.calls > found.row.calls
    assert found.calls not in LINE
    said = facts(found, measured)
    assert said["time a sample"] == f"about {1000 * found.calls / 100 / 16:.3g} ms".replace("37.5", "38")
    assert said["speed-up"].startswith(f"about {1000 / found.calls:.3g}")


def picture(path: Path | io.BytesIO) -> np.ndarray[Any, Any]:
    from matplotlib import image

    return np.rint(image.imread(path, format="png")[..., :3] * 255).astype(np.uint8)


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


def with_images(images: np.ndarray[Any, Any]) -> Study:
    measured = study(row(ddim(10).sampler))
    return replace(measured, images={r.label: images for r in measured.rows})


def test_a_page_holds_the_very_pixels() -> None:
    _, images = shades(5, 3, 6, 4)
    shown = drawable(with_images(images))["DDIM-10"]
    file = io.BytesIO(base64.b64decode(data_uri(shown).removeprefix("data:image/png;base64,")))
    assert np.array_equal(picture(file), tile(images, 5))


def test_large_images_are_made_small_by_means_and_few_are_kept() -> None:
    _, images = shades(20, 3, 130, 200)
    shown = drawable(with_images(images))["DDIM-10"]
    assert shown.shape == (16, 3, 32, 50)
    assert shown[3, 1, 2, 5] == pytest.approx(images[3, 1, 8:12, 20:24].mean(), abs=1e-6)


def test_samples_that_are_no_images_are_not_drawn() -> None:
    measured = with_images(np.zeros((2, 3), np.float32))
    assert not drawable(measured)
    assert "images" in missing(measured)
