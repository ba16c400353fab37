"""The page that shows every video before and after."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.videos import moving_texture, write_video
from usucl_fast.errors import DataError
from usucl_fast.html import read_html_data
from usucl_fast.pack import find_sources, pack, sectors_page
from usucl_fast.pack.contact_sheet import GAP, HEIGHT, WIDTH
from usucl_fast.shards import PackSettings, open_shards, verify

SETTINGS = PackSettings(size=48)


def pack_folder(root: Path, out: Path, workers: int = 1, settings: PackSettings = SETTINGS) -> None:
    pack(find_sources([root])[0], out, settings, workers=workers)


def write_videos(root: Path, names: str, frames: int = 6) -> None:
    for name in names:
        write_video(root / f"{name}.mp4", moving_texture(frames, 64, 80, seed=ord(name)), "libx264")


def shown(page: Path) -> list[dict[str, Any]]:
    videos = read_html_data(page)["videos"]
    assert isinstance(videos, list)
    return videos


def names(page: Path) -> str:
    return "".join(one["name"].removesuffix(".mp4") for one in shown(page))


def picture(url: str) -> Image.Image:
    kind, _, data = url.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def pages(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.html"))}


@pytest.fixture
def pages_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sectors_page, "VIDEOS_A_PAGE", 2)


def test_it_shows_every_video(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    write_videos(root, "ab", frames=9)
    write_videos(root, "c", frames=1)
    still = np.repeat(moving_texture(1, 64, 80, seed=0), 5, axis=0)
    write_video(root / "d.mp4", still, "libx264")
    pack_folder(root, out)
    videos = shown(out / "sectors.html")
    table = open_shards(out).table
    for one, video in zip(videos, table.videos, strict=True):
        assert (one["name"], one["frames"]) == (video.name, video.frames)
        assert (one["height"], one["width"]) == (video.height, video.width)
        assert picture(one["pair"]).size == (2 * WIDTH + GAP, HEIGHT)
    assert [[number for number, _ in one["stored"]] for one in videos] == [[0, 4, 8], [0, 4, 8], [0], [0, 2, 4]]
    assert [one["how"] for one in videos[:2]] == ["moves", "moves"]
    assert videos[3]["how"].startswith("nothing moves")
    assert [bool(one["warning"]) for one in videos] == [False, False, True, True]
    assert not verify(out)


def test_the_stored_frames_are_those_of_the_shards(tmp_path: Path) -> None:
    write_videos(tmp_path / "in", "ab")
    for codec in ("jpeg", "png"):
        out = tmp_path / codec
        pack_folder(tmp_path / "in", out, settings=replace(SETTINGS, codec=codec))
        store = open_shards(out)
        for video, one in enumerate(shown(out / "sectors.html")):
            ids = store.table.first_row[video] + np.array([number for number, _ in one["stored"]])
            for (_, url), data in zip(one["stored"], store.read(ids), strict=True):
                stored = np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("L"), int)
                assert np.abs(np.asarray(picture(url).convert("L"), int) - stored).mean() < 4


def test_large_frames_are_made_small(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "a.mp4", moving_texture(4, 256, 320, seed=0), "libx264")
    pack_folder(tmp_path / "in", tmp_path / "out", settings=PackSettings(size=256))
    (one,) = shown(tmp_path / "out" / "sectors.html")
    assert all(picture(url).height == HEIGHT for _, url in one["stored"])


def test_names_are_texts(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    hostile = ["\"><img src=x onerror=alert(1)>&'.mp4", "</script><script>alert(1)</script>.mp4", "a\u202eb\n.mp4"]
    for name in hostile:
        write_video(tmp_path / "one.mp4", moving_texture(4, 64, 64, seed=0), "libx264")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "one.mp4").rename(root / name)
    pack_folder(root, out)
    text = (out / "sectors.html").read_text()
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    assert text.count("</script>") == 2  # the data's and the code's
    assert sorted(one["name"] for one in shown(out / "sectors.html")) == sorted([*hostile[:2], "a\\u202eb\\n.mp4"])


@pytest.mark.usefixtures("pages_of_two")
def test_added_videos_are_shown_after_the_others(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    write_videos(root, "bcd")
    pack_folder(root, out)
    assert {name: names(out / name) for name in pages(out)} == {"sectors-000.html": "bc", "sectors.html": "d"}
    before, (latest,) = pages(out), shown(out / "sectors.html")
    write_videos(root, "aef")
    pack_folder(root, out)
    assert {name: names(out / name) for name in pages(out)} == {
        "sectors-000.html": "bc",
        "sectors-001.html": "da",
        "sectors.html": "ef",
    }
    assert pages(out)["sectors-000.html"] == before["sectors-000.html"]
    assert shown(out / "sectors-001.html")[0] == latest
    assert not verify(out)
    links = {name: re.findall(r'href="([^"]*)">([^<]*)<', page.decode()) for name, page in pages(out).items()}
    assert links == {
        "sectors-000.html": [("sectors.html", "the latest")],
        "sectors-001.html": [("sectors-000.html", "1 to 2"), ("sectors.html", "the latest")],
        "sectors.html": [("sectors-000.html", "1 to 2"), ("sectors-001.html", "3 to 4")],
    }


def test_videos_packed_before_there_were_pages_are_shown_as_they_are_stored(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    write_videos(root, "bc")
    pack_folder(root, out)
    (out / "sectors.html").unlink()
    write_videos(root, "a")
    pack_folder(root, out)
    assert names(out / "sectors.html") == "bca"
    old, _, new = shown(out / "sectors.html")
    assert (old["pair"], bool(new["pair"])) == ("", True)
    assert old["how"] == "moves"
    assert len(old["stored"]) == 3


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    write_videos(root, "b")
    pack_folder(root, out)
    page = out / "sectors.html"
    content = page.read_bytes()
    write_videos(root, "a")
    for old, new in ((b'"videos":', b'"films":'), (b'"how":', b'"why":'), (b"b.mp4", b"z.mp4"), (b"}</script>", b"")):
        page.write_bytes(content.replace(old, new))
        with pytest.raises(DataError, match=r"sectors\.html (is damaged|shows other videos)"):
            pack_folder(root, out)
    page.write_bytes(content)
    pack_folder(root, out)
    assert names(page) == "ba"


@pytest.mark.usefixtures("pages_of_two")
def test_interrupted_between_pages_the_same_call_gives_the_same_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, whole, out = tmp_path / "in", tmp_path / "whole", tmp_path / "out"
    write_videos(root, "abc")
    pack_folder(root, whole)
    write = sectors_page.write_html

    def stop(path: Path, *more: Any) -> None:
        if path.name == "sectors.html":
            raise KeyboardInterrupt
        write(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(sectors_page, "write_html", stop)
        with pytest.raises(KeyboardInterrupt):
            pack_folder(root, out)
    pack_folder(root, out, workers=2)
    assert pages(out) == pages(whole)


def test_where_no_sector_is_looked_for_there_is_no_page(tmp_path: Path) -> None:
    write_videos(tmp_path / "in", "a")
    pack_folder(tmp_path / "in", tmp_path / "out", settings=replace(SETTINGS, sector="none"))
    assert not pages(tmp_path / "out")
