"""The page of sectors in a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.videos import moving_texture, write_video
from usucl_fast.pack import find_sources, pack
from usucl_fast.shards import PackSettings

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.system, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

HOSTILE = "<img src=x onerror=console.error(1)>.mp4"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three videos in which something moves, and one in which nothing does."""
    root, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    for seed, name in enumerate(("Heart.mp4", "lung/a.mp4", HOSTILE)):
        write_video(root / name, moving_texture(9, 64, 80, seed), "libx264")
    write_video(root / "lung/still.mp4", np.repeat(moving_texture(1, 64, 80, 9), 5, axis=0), "libx264")
    pack(find_sources([root])[0], out, PackSettings(size=48), workers=1)
    return out / "sectors.html"


@pytest.fixture
def opened(page_file: Path) -> Iterator[tuple[Any, list[str], list[str]]]:
    """The page in a narrow window, what went wrong in it, and what it asked for."""
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 900})
        wrong: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        yield page, wrong, asked
        browser.close()


def visible(page: Any) -> list[str]:
    return sorted(page.locator(".video:visible h2").all_text_contents())


def test_it_opens_without_an_error_and_asks_for_nothing_else(
    opened: tuple[Any, list[str], list[str]], page_file: Path
) -> None:
    page, wrong, asked = opened
    assert visible(page) == sorted([HOSTILE, "Heart.mp4", "lung/a.mp4", "lung/still.mp4"])
    for image in page.locator(".video img").all():
        image.scroll_into_view_if_needed()
        image.evaluate("(image) => image.decode()")
    assert not wrong
    assert [url for url in asked if not url.startswith("data:image/jpeg;base64,")] == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_it_filters(opened: tuple[Any, list[str], list[str]]) -> None:
    page, wrong, _ = opened
    status = page.get_by_role("status")
    assert status.text_content() == "4 of 4 shown"
    page.keyboard.press("Tab")  # the first that has the focus is the field of names
    page.keyboard.type("LUNG")
    assert visible(page) == ["lung/a.mp4", "lung/still.mp4"]
    assert status.text_content() == "2 of 4 shown"
    page.get_by_label("Found by").select_option("moves")
    assert visible(page) == ["lung/a.mp4"]
    page.get_by_label("Name").fill("")
    assert visible(page) == sorted([HOSTILE, "Heart.mp4", "lung/a.mp4"])
    page.get_by_label("Found by").select_option("")
    page.get_by_label("Warnings").select_option("with")
    assert visible(page) == ["lung/still.mp4"]
    page.get_by_label("Warnings").select_option("without")
    assert status.text_content() == "3 of 4 shown"
    page.get_by_label("Name").fill("nowhere")
    assert (visible(page), status.text_content()) == ([], "0 of 4 shown")
    assert not wrong
