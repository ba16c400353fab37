"""`sectors.html`, a page with every video before and after packing, for a person to look at and to filter.

Up to `VIDEOS_A_PAGE` videos are in `sectors.html`. Once there are more, the first ones are in `sectors-000.html`, the
next in `sectors-001.html`, …, which never change again, and `sectors.html` has the latest. So a page can link to those
before it and to the last, and adding videos writes no page but the last anew.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from usucl_fast.errors import DataError, printable
from usucl_fast.files import link_or_copy, read_json
from usucl_fast.html import jpeg_url, paragraph, read_html_data, write_html
from usucl_fast.pack.contact_sheet import HEIGHT, SECTORS, SHEETS, WIDTH
from usucl_fast.pack.sector import NOTHING
from usucl_fast.pack.task import Spooled, Task
from usucl_fast.shards import ShardRecord, VideoRecord, read_members

SECTORS_PAGE, NUMBERED_PAGES = "sectors.html", "sectors-*.html"
VIDEOS_A_PAGE = 500

INTRODUCTION = (
    "Above, left: a frame before packing, with the outline of what is kept; outside it, the frame is pixelated here."
    " Above, right: the same frame as it is stored. Below: the first, the middle and the last stored frame, numbered."
)


class Shown(TypedDict):
    """What the page shows of a video.

    how: what was found of its sector.
    warning: what a person should look at, or nothing.
    frames, height, width: as stored.
    pair: URL of the thumbnails before and after; empty where the video was packed before there were pages.
    stored: for its first, middle and last frame, its number and the URL of its thumbnail.
    """

    name: str
    how: str
    warning: str
    frames: int
    height: int
    width: int
    pair: str
    stored: list[tuple[int, str]]


@dataclass(frozen=True)
class _Videos:
    """The videos of all shards, and what is known of them.

    folder: with the shards and `sectors.json`.
    rows: of the frame table.
    first_row: of each video.
    spooled: by name, what is kept of those that were packed now, beside their frames.
    sectors: content of `sectors.json`.
    """

    folder: Path
    videos: Sequence[VideoRecord]
    rows: NDArray[np.void]
    first_row: NDArray[np.int64]
    spooled: dict[str, Path]
    sectors: dict[str, Any]

    def load(self, number: int) -> Spooled | None:
        """What is kept of a video beside its frames; None where it was packed before."""
        name = self.videos[number].name
        return Spooled.load(self.spooled[name]) if name in self.spooled else None

    def show(self, number: int, spooled: Spooled | None) -> Shown:
        video = self.videos[number]
        kept, pair, warning = self.sectors.get(video.name), "", ""
        if spooled:
            pair, warning = jpeg_url(Image.fromarray(spooled.pair)), spooled.warning
        return {
            "name": printable(video.name),
            "how": printable(str(kept["how"])) if isinstance(kept, dict) and "how" in kept else "unknown",
            "warning": printable(warning),
            "frames": video.frames,
            "height": video.height,
            "width": video.width,
            "pair": pair,
            "stored": spooled.stored if spooled else self._stored(number),
        }

    def _stored(self, number: int) -> list[tuple[int, str]]:
        rows = self.rows[self.first_row[number] : self.first_row[number + 1]]
        return thumbnails(self.folder / ShardRecord.name_of(int(rows["shard"][0])), rows)


def thumbnails(file: Path, rows: NDArray[np.void]) -> list[tuple[int, str]]:
    """The first, the middle and the last frame of a video: number and URL of a thumbnail.

    file: its shard or spool file; rows: its frames in it.
    """
    chosen = rows[sorted({0, len(rows) // 2, len(rows) - 1})]
    found = []
    for row, encoded in zip(chosen, read_members(file, chosen), strict=True):
        image = Image.open(io.BytesIO(encoded))
        image.thumbnail((WIDTH, HEIGHT), Image.Resampling.BOX)
        found.append((int(row["frame"]), jpeg_url(image)))
    return found


def write_pages(
    folder: Path,
    videos: Sequence[VideoRecord],
    rows: NDArray[np.void],
    packed: Sequence[Task],
    earlier: Path | None,
    threads: int,
) -> None:
    """Writes the pages of all videos in the shards in `folder`, once its `sectors.json` is there.

    Args:
        folder: with the shards.
        videos, rows: of the shards.
        packed: those that were packed now.
        earlier: a shard folder whose videos are the first of these; what its pages show is shown again.
        threads: how many make thumbnails.

    Raises:
        DataError: an earlier page is damaged.
    """
    numbered = sorted(earlier.glob(NUMBERED_PAGES)) if earlier else []
    for path in numbered:
        link_or_copy(path, folder / path.name)
    first_row = np.cumsum([0] + [video.frames for video in videos])
    spooled = {task.name: task.facts for task in packed}
    known = _Videos(folder, videos, rows, first_row, spooled, read_json(folder / SECTORS))
    shown = _read_page(earlier / SECTORS_PAGE, videos[len(numbered) * VIDEOS_A_PAGE :]) if earlier else []
    pages = -(-len(videos) // VIDEOS_A_PAGE)
    with ThreadPoolExecutor(threads) as pool:
        for page in range(len(numbered), pages):
            start, end = page * VIDEOS_A_PAGE, min((page + 1) * VIDEOS_A_PAGE, len(videos))
            numbers = range(start + len(shown), end)
            # Loaded in this thread alone: Python before 3.11.9 may fail where several parse headers of NumPy's files.
            shown += pool.map(known.show, numbers, list(map(known.load, numbers)))
            name = SECTORS_PAGE if page + 1 == pages else _name(page)
            parts = [_links(page, end, name), paragraph(INTRODUCTION), '<div id="videos"></div>']
            data = {"marked": NOTHING, "sheets": SHEETS, "videos": shown}
            write_html(folder / name, "What was kept of each video", parts, "sectors.js", data)
            shown = []


def _read_page(path: Path, videos: Sequence[VideoRecord]) -> list[Shown]:
    """What an earlier page shows of the first of these videos; nothing where it is not there."""
    if not path.exists():
        return []
    data = read_html_data(path)
    shown = data.get("videos") if isinstance(data, dict) else None
    if not isinstance(shown, list) or not all(
        isinstance(one, dict) and one.keys() == Shown.__annotations__.keys() for one in shown
    ):
        raise DataError(f"{path} is damaged; restore it, or remove it")
    if [one["name"] for one in shown] != [printable(video.name) for video in videos[: len(shown)]]:
        raise DataError(f"{path} shows other videos than are in the shards; restore it, or remove it")
    return shown


def _name(page: int) -> str:
    return f"sectors-{page:03d}.html"


def _links(page: int, end: int, name: str) -> str:
    """Which videos these are, and links to the pages before this one and to the last; nothing for the only one."""
    links = [
        f'<a href="{_name(other)}">{other * VIDEOS_A_PAGE + 1} to {(other + 1) * VIDEOS_A_PAGE}</a>'
        for other in range(page)
    ]
    if name != SECTORS_PAGE:
        links.append(f'<a href="{SECTORS_PAGE}">the latest</a>')
    if not links:
        return ""
    return f"<nav>Videos {page * VIDEOS_A_PAGE + 1} to {end}. Other pages: {', '.join(links)}</nav>"
