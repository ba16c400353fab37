"""Measures how much live image the sectors of packed videos cut away, and how much of the picture they keep.

    python tools/measure_sectors.py SHARDS SOURCE...

reads the videos in SOURCE again, and what SHARDS/sectors.json says was kept of each. A pixel moves where its standard
deviation over time, averaged over 5 x 5 pixels, is over 3 grey levels; its light is its mean over time. For each video:
the share of moving light that lies more than 3 pixels outside the outline, and the share of the picture that is kept.
For pairs of videos of one group and one size: intersection over union of what is kept.
"""

import itertools
import json
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from usucl_fast.files import write_json
from usucl_fast.machine import cores
from usucl_fast.pack import Source, find_sources
from usucl_fast.pack.decode import open_video
from usucl_fast.pack.picture import luma
from usucl_fast.pack.sector import Sector
from usucl_fast.shards import open_shards

AROUND, MOVES = 5, 3.0  # pixels, grey levels
WIDENED = 3  # pixels
LOST, ALIKE = 0.005, 0.8  # more is too much; less is too little


def moving_light(source: Source) -> NDArray[np.float32]:
    """Mean grey level of each pixel that moves, 0 of those that do not, `[height, width]`."""
    total = squares = np.zeros(())
    frames = 0
    for picture, _ in open_video(source).pictures:
        levels = luma(picture).astype(np.uint32)
        if frames and levels.shape != total.shape:
            continue
        total, squares, frames = total + levels, squares + levels**2, frames + 1
    mean = total / frames
    deviation = np.sqrt(np.maximum(squares / frames - mean**2, 0))
    return np.where(ndimage.uniform_filter(deviation, AROUND) > MOVES, mean, 0).astype(np.float32)


def measure(light: NDArray[np.float32], sector: Sector) -> tuple[float, float]:
    """Shares of the moving light that is lost and of the picture that is kept."""
    kept = sector.draw(*light.shape)
    widened = ndimage.maximum_filter(kept, 2 * WIDENED + 1)
    return float(light[~widened].sum() / max(1.0, light.sum())), float(kept.mean())


def _measure(job: tuple[Source, Sector]) -> tuple[float, float]:
    return measure(moving_light(job[0]), job[1])


def pairs(sectors: dict[str, Sector], groups: dict[str, str]) -> Iterator[float]:
    """Intersection over union of what is kept of two videos of one group and size, for all pairs."""
    for a, b in itertools.combinations(sorted(sectors), 2):
        if groups[a] and groups[a] == groups[b] and sectors[a].picture == sectors[b].picture:
            height, width = sectors[a].picture[::-1]
            one, two = (sectors[name].draw(height // 2, width // 2) for name in (a, b))
            yield float((one & two).sum() / (one | two).sum())


@click.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.argument("source", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "output", type=click.Path(path_type=Path), help="Writes the figures of each video.")
def main(shards: Path, source: tuple[Path, ...], output: Path | None) -> None:
    """Measures the sectors in SHARDS, which were packed of SOURCE... under their own names."""
    kept: dict[str, Any] = json.loads((shards / "sectors.json").read_bytes())
    sectors = {
        name: Sector(tuple(entry["picture"]), tuple(tuple(map(tuple, polygon)) for polygon in entry["polygons"]))
        for name, entry in kept.items()
    }
    found = [one for one in find_sources(source)[0] if one.name in sectors]
    with get_context("spawn").Pool(cores()) as pool:
        figures = pool.map(_measure, [(one, sectors[one.name]) for one in found], chunksize=1)
    lost, area = np.array(figures).T
    for number in np.argsort(-lost):
        if lost[number] > LOST:
            click.echo(f"{found[number].name}: {lost[number]:.2%} lost, {area[number]:.1%} kept")
    alike = np.array([*pairs(sectors, {video.name: video.group for video in open_shards(shards).table.videos})])
    click.echo(f"{len(found)} videos; light lost: worst {lost.max():.2%}, median {np.median(lost):.3%}", nl=False)
    click.echo(f", over {LOST:.1%} in {(lost > LOST).sum()}")
    click.echo(f"area kept: median {np.median(area):.1%}, least {area.min():.1%}")
    if len(alike):
        low = (alike < ALIKE).sum()
        click.echo(f"{len(alike)} pairs of a group: overlap under {ALIKE} in {low} ({low / len(alike):.1%})")
    if output:
        rows = [
            {"video": one.name, "lost": float(light), "kept": float(share)}
            for one, light, share in zip(found, lost, area, strict=True)
        ]
        write_json(output, {"videos": rows, "overlaps": alike.tolist()})


if __name__ == "__main__":
    main()
