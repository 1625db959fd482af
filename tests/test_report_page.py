"""The page of a report in a browser: everything that can be clicked is clicked, on a desktop and a phone, light and dark."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddimkit.tradeoff.report import write_page
from ddimkit.tradeoff.report.tables import columns
from reports import HOSTILE, made

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium with its driver (Debian: chromium chromium-driver)"
)

WHOLE, BARE = "whole", "bare"
DESKTOP, PHONE = 1280, 390

# Of every text that is shown: its contrast to the nearest opaque background behind it, and what WCAG AA wants of its size.
CONTRAST = """
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const light = colour => {
  const [r, g, b] = numbers(colour).slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
const behind = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if ((numbers(colour)[3] ?? 1) === 1) return colour;
  }
  throw new Error("no background");
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, style = getComputedStyle(element), text = walker.currentNode.data.trim();
  if (!text || !element.getClientRects().length || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
  const colour = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
  const [a, b] = [light(colour), light(behind(element))].sort((x, y) => y - x);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  found.push([text, (a + .05) / (b + .05), large ? 3 : 4.5]);
}
return found;
"""

# Of every text of a chart that is shown: its height in points as it is shown, and whether it lies within the chart.
CHARTS = """
return [...document.querySelectorAll("svg")].filter(svg => svg.getClientRects().length).flatMap(svg => {
  const frame = svg.getBoundingClientRect(), scale = frame.width / svg.viewBox.baseVal.width * 3 / 4;
  return [...svg.querySelectorAll("text")].map(text => {
    const box = text.getBoundingClientRect();
    const inside = box.left >= frame.left - 1 && box.right <= frame.right + 1
      && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
    return [text.textContent, parseFloat(getComputedStyle(text).fontSize) * scale, inside];
  });
});
"""


OVERHANG = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page with everything in it, hostile labels too, and one of a study that was only timed."""
    folders = {name: tmp_path_factory.mktemp(name) for name in (WHOLE, BARE)}
    return {
        WHOLE: write_page(made(hostile=HOSTILE), folders[WHOLE], ["A finding.", HOSTILE]),
        BARE: write_page(made(quality=False, images=False), folders[BARE], []),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def show(browser: Any, page: Path, width: int = DESKTOP, scheme: str = "light") -> None:
    """Open a page anew, at a width in pixels, in a colour scheme."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get(page.as_uri())


def column(browser: Any, place: int) -> list[tuple[str | None, str]]:
    """Keys and texts of a column of the results, from top to bottom."""
    found = browser.execute_script(
        "return [...document.querySelectorAll('table.results tbody tr')]"
        f".map(row => row.cells[{place}]).map(cell => [cell.dataset.key ?? null, cell.textContent])"
    )
    return [(key, text) for key, text in found]


def strip(browser: Any) -> str:
    """The name of the one strip of samples that is shown."""
    names = [figure.find_element(By.TAG_NAME, "figcaption").text for figure in shown(browser, "figure.choice")]
    assert len(names) == 1
    return names[0]


def shown(browser: Any, selector: str) -> list[Any]:
    return [element for element in browser.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a line on the browser's console."""
    yield
    if "browser" in request.fixturenames:
        assert request.getfixturevalue("browser").get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", [WHOLE, BARE])
def test_a_page_fits_and_can_be_read(browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    show(browser, pages[name], width, scheme)
    assert browser.execute_script(OVERHANG) <= 0
    browser.execute_script("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert browser.execute_script(OVERHANG) <= 0
    contrasts = browser.execute_script(CONTRAST)
    assert len(contrasts) > 50
    assert [found for found in contrasts if found[1] < found[2]] == []
    texts = browser.execute_script(CHARTS)
    assert len(texts) > 30
    assert [text for text in texts if text[1] < 9 or not text[2]] == []


def test_light_and_dark_differ(browser: Any, pages: dict[str, Path]) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor + getComputedStyle(document.querySelector('svg text')).fill"
    found = set()
    for scheme in ("light", "dark"):
        show(browser, pages[WHOLE], scheme=scheme)
        found.add(browser.execute_script(paper))
    assert len(found) == 2


@pytest.mark.parametrize("by_key", [False, True], ids=["mouse", "keyboard"])
def test_every_head_sorts_its_column_both_ways(browser: Any, pages: dict[str, Path], by_key: bool) -> None:
    show(browser, pages[WHOLE])
    heads = browser.find_elements(By.CSS_SELECTOR, "table.results thead th")
    assert len(heads) == len(columns(made()))
    every = sorted(text for _, text in column(browser, 0))
    for place, head in enumerate(heads):
        button = head.find_element(By.TAG_NAME, "button")
        for direction in ("ascending", "descending"):
            if by_key:
                button.send_keys(Keys.ENTER if direction == "ascending" else Keys.SPACE)
            else:
                button.click()
            assert [h.get_attribute("aria-sort") for h in heads] == [direction if h == head else None for h in heads]
            found = column(browser, place)
            keys = [key for key, _ in found if key is not None]
            assert all(key is None for key, _ in found[len(keys) :])
            if place not in (0, len(heads) - 1):
                numbers = [float(key) for key in keys]
                assert numbers == sorted(numbers, reverse=direction == "descending")
                assert len(set(numbers)) > 1
            assert sorted(text for _, text in column(browser, 0)) == every


def test_labels_are_sorted_as_people_count(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages[WHOLE])
    browser.find_element(By.CSS_SELECTOR, "table.results thead button").click()
    plain = [text for _, text in column(browser, 0) if text.startswith("DDIM") and "eta" not in text]
    assert plain == ["DDIM-10", "DDIM-20", "DDIM-50", "DDIM-100", "DDIM-250"]


def test_samples_follow_mouse_and_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages[WHOLE])
    labels, chosen = [r.label for r in made(hostile=HOSTILE).rows], browser.find_element(By.CSS_SELECTOR, "tr.chosen th").text
    assert strip(browser) == chosen
    control = browser.find_element(By.CSS_SELECTOR, ".control input")
    before, after = browser.find_elements(By.CSS_SELECTOR, ".control button")
    control.send_keys(Keys.HOME)
    assert strip(browser) == labels[0] == control.get_attribute("aria-valuetext")
    for label in labels[1:]:
        control.send_keys(Keys.ARROW_RIGHT)
        assert control.get_attribute("aria-valuetext") == strip(browser)
        assert " ".join(strip(browser).split()) == " ".join(label.split())
    control.send_keys(Keys.ARROW_LEFT)
    assert strip(browser) == labels[-2]
    before.click()
    assert strip(browser) == labels[-3]
    for _ in range(3):
        after.send_keys(Keys.ENTER)
    assert strip(browser) == labels[0]
    assert [figure.text for figure in shown(browser, "figure.beside")] == [f"{labels[0]} (baseline)"]
    images = shown(browser, ".samples img")
    assert len(images) == 2
    assert all(image.get_property("naturalWidth") > 0 and image.get_attribute("alt") for image in images)


@pytest.mark.parametrize("by_key", [False, True], ids=["mouse", "keyboard"])
def test_what_reproduces_it_opens_and_closes(browser: Any, pages: dict[str, Path], by_key: bool) -> None:
    show(browser, pages[WHOLE])
    summary = browser.find_element(By.TAG_NAME, "summary")
    for is_open in (True, False):
        if by_key:
            summary.send_keys(Keys.ENTER)
        else:
            summary.click()
        assert bool(shown(browser, "details pre")) == is_open


def test_every_control_can_be_reached_by_tab(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages[WHOLE], PHONE)
    wanted = browser.execute_script("return document.querySelectorAll('button, input, summary, .scroll, header pre').length")
    body, reached = browser.find_element(By.TAG_NAME, "body"), set()
    for _ in range(wanted + 1):
        body.send_keys(Keys.TAB) if not reached else browser.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.switch_to.active_element
        if focused.tag_name != "body":
            reached.add(focused.id)
            assert focused.is_displayed()
    assert len(reached) == wanted


def test_without_scripts_every_strip_of_samples_is_shown(browser: Any, pages: dict[str, Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, pages[WHOLE])
        assert len(shown(browser, "figure.choice")) == len(made().rows)
        assert not shown(browser, ".control")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
