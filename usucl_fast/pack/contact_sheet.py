"""What was kept of the pictures: as JSON, and as pictures before and after side by side, for a person to look at."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from usucl_fast.errors import DataError, printable
from usucl_fast.files import link_or_copy, read_json, write_json, write_whole
from usucl_fast.pack.sector import NOTHING, Sector
from usucl_fast.pack.task import Spooled, Task

SECTORS, SHEETS = "sectors.json", "sectors-*.png"

WIDTH, HEIGHT, GAP = 160, 120, 4  # of a thumbnail, between two
CELL = 10  # pixels of a mosaic: a twelfth of the height
COLUMNS, ROWS, CAPTION = 5, 12, 14
OUTLINE = (255, 80, 60)


def thumbnail_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a picture scaled to the largest size of a thumbnail."""
    scale = min(WIDTH / width, HEIGHT / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def thumbnail_pair(before: NDArray[np.uint8], after: NDArray[np.uint8], sector: Sector) -> NDArray[np.uint8]:
    """A picture before packing and as it is stored, side by side, uint8 `[HEIGHT, 2 * WIDTH + GAP, 3]`.

    before, after: uint8 `[height, width]`, `[height, width, 1]` or `[height, width, 3]`.

    Outside the `sector`, which is outlined, the first one is pixelated so that no name can be read.
    """
    left = _shrink(before)
    width, height = left.size
    cells = left.resize((max(1, width // CELL), max(1, height // CELL)), Image.Resampling.BOX)
    inside = Image.fromarray(sector.draw(height, width))
    left = Image.composite(left, cells.resize(left.size, Image.Resampling.NEAREST), inside)
    draw = ImageDraw.Draw(left)
    for polygon in sector.polygons:
        corners = [(x * (width - 1) / sector.picture[0], y * (height - 1) / sector.picture[1]) for x, y in polygon]
        draw.line([*corners, corners[0]], fill=OUTLINE)
    right = _shrink(after)
    pair = Image.new("RGB", (2 * WIDTH + GAP, HEIGHT))
    for thumbnail, start in ((left, 0), (right, WIDTH + GAP)):
        pair.paste(thumbnail, (start + (WIDTH - thumbnail.width) // 2, (HEIGHT - thumbnail.height) // 2))
    return np.asarray(pair)


def report_sectors(folder: Path, packed: Sequence[Task], earlier: Path | None) -> None:
    """Writes what was kept of each video's pictures to `folder`, after what `earlier`, a shard folder, says of others.

    Raises:
        DataError: the earlier report is damaged.
    """
    old = read_json(earlier / SECTORS) if earlier and (earlier / SECTORS).exists() else {}
    if earlier and not isinstance(old, dict):
        raise DataError(f"{earlier / SECTORS} is damaged; restore it, or pack the videos again")
    pages = sorted(earlier.glob(SHEETS)) if earlier else []
    for page in pages:
        link_or_copy(page, folder / page.name)
    new = {}

    def pairs() -> Iterator[tuple[str, bool, NDArray[np.uint8]]]:
        for task in packed:
            video = Spooled.load(task.facts)
            new[task.name] = video.sector
            yield f"{task.name}: {video.sector['how']}", video.sector["how"] == NOTHING, video.pair

    write_sheets(folder, pairs(), first=len(pages))
    write_json(folder / SECTORS, old | new)


def write_sheets(folder: Path, pairs: Iterable[tuple[str, bool, NDArray[np.uint8]]], first: int = 0) -> None:
    """Writes pages of captioned pairs, `sectors-000.png`, …, from page `first` on.

    pairs: caption, whether it is printed in red, and what `thumbnail_pair` made."""
    rest = iter(pairs)
    for page in itertools.count(first):
        shown = list(itertools.islice(rest, COLUMNS * ROWS))
        if not shown:
            return
        with write_whole(folder / f"sectors-{page:03d}.png") as file:
            _page(shown).save(file, "png", compress_level=1)  # 2.5 times as fast, 6 % larger


def _page(pairs: list[tuple[str, bool, NDArray[np.uint8]]]) -> Image.Image:
    across, down = 2 * WIDTH + 3 * GAP, HEIGHT + CAPTION + GAP
    page = Image.new("RGB", (COLUMNS * across, -(-len(pairs) // COLUMNS) * down), (40, 40, 40))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default()
    for number, (caption, marked, pair) in enumerate(pairs):
        x, y = number % COLUMNS * across + GAP, number // COLUMNS * down + GAP
        page.paste(Image.fromarray(pair), (x, y))
        text = (
            printable(caption).encode("latin-1", "replace").decode("latin-1")
        )  # all that every build of Pillow can draw
        while font.getlength(text) > across - 2 * GAP:
            text = ".." + text[3:]  # names differ at their ends
        draw.text((x, y + HEIGHT), text, fill=OUTLINE if marked else (220, 220, 220), font=font)
    return page


def _shrink(picture: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(picture.squeeze(-1) if picture.shape[2:] == (1,) else picture).convert("RGB")
    size = thumbnail_size(image.width, image.height)
    return image.resize(size, Image.Resampling.BOX if size < image.size else Image.Resampling.BILINEAR)
