"""The page of a run in a browser: Chromium, where it is installed."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import SAMPLE
from tests.helpers.training import EXECUTION, TINY
from usucl_fast.learn import train
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.shards import open_shards

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("browser") / "run"
    length = {"epochs": 0, "steps": 20, "tuples_per_video": 4, "batch_size": 8, "cross_topk": (6, 6)}
    config = make_config("default", {**TINY, **length})
    train(config, open_shards(SAMPLE), out, dataclasses.replace(EXECUTION, page_every=0))
    return RunFolder(out).page


@pytest.fixture(params=[400, 1400])
def page(run_page: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, opened at this width; at the end, nothing was complained of and nothing fetched."""
    complaints: list[str] = []
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": request.param, "height": 900})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{run_page}")
        yield page
        browser.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:")] == [f"file://{run_page}"]


def test_the_slider_changes_the_pictures(page: Any) -> None:
    def shown() -> list[str]:
        frames: list[str] = page.eval_on_selector_all(
            "#negatives .negative [data-frame]", "all => all.map(e => e.dataset.frame)"
        )
        return frames

    last = shown()
    assert last
    page.locator("#negatives input[type=range]").fill("0")
    assert "After step 2" in page.inner_text("#negatives")
    first = shown()
    assert first != last
    page.locator("#negatives input[type=range]").press("End")
    assert shown() == last


def test_a_negative_opens_beside_its_anchor(page: Any) -> None:
    negative = page.locator("#negatives .negative").first
    frame = negative.locator("[data-frame]").get_attribute("data-frame")
    negative.focus()
    page.keyboard.press("Enter")
    shown = page.locator("dialog [data-frame]")
    anchor = page.evaluate("DATA.negatives.anchors[0]")
    assert [shown.nth(place).get_attribute("data-frame") for place in (0, 1)] == [str(anchor), frame]
    assert shown.nth(1).evaluate("e => e.naturalWidth") == page.evaluate(f"videoOf({frame}).width")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_pointing_at_a_dot_shows_its_frame(page: Any) -> None:
    canvas = page.locator("#map canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = page.evaluate("[DATA.map.x[3], DATA.map.y[3]]")
    scale = box["width"] / 640
    page.mouse.move(box["x"] + (10 + 620 * x) * scale, box["y"] + (10 + 620 * (1 - y)) * scale)
    frame = page.locator("#map .shown [data-frame]").get_attribute("data-frame")
    assert int(frame) == page.evaluate("DATA.map.frames[3]")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    assert int(page.locator("#map .shown [data-frame]").get_attribute("data-frame")) == page.evaluate(
        "DATA.map.frames[4]"
    )
    before = canvas.evaluate("e => e.toDataURL()")
    page.select_option("#map select", "age")
    assert canvas.evaluate("e => e.toDataURL()") != before


def test_curves_share_their_axis(page: Any) -> None:
    chart = page.locator("#curves svg").first
    chart.focus()
    page.keyboard.press("ArrowLeft")
    values = page.locator("#curves .chart .note").all_inner_texts()
    assert sum(text.startswith("step 18:") for text in values) > len(values) / 2


def test_nothing_is_wider_than_the_screen(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
