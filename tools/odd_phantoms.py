"""Makes phantom videos in which the live picture is hard to find, to measure sectors by.

    python tools/odd_phantoms.py FOLDER
    usucl-shard FOLDER SHARDS --size 120
    python tools/measure_sectors.py SHARDS FOLDER

dark: the deeper half is nearly black, as behind the lung's surface. side: the probe touches with one side alone.
freeze: the picture stands from the middle of the video on. zoom, depth: from the middle on, the picture is magnified,
or reaches deeper. What is written beside the picture stays as it is.
"""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.make_phantoms import Look, draw_machine, make_video, write_mp4
from usucl_fast.machine import cores

HEIGHT, WIDTH, FRAMES = 240, 320, 64
FAINT = 0.06
Pictures = NDArray[np.uint8]


def dark(pictures: Pictures) -> Pictures:
    """The deeper half is nearly black."""
    fading = np.where(np.arange(HEIGHT) < HEIGHT // 2, 1, FAINT)[:, None]
    return np.round(pictures * fading).astype(np.uint8)


def side(pictures: Pictures) -> Pictures:
    """The left two fifths are nearly black."""
    fading = np.where(np.arange(WIDTH) < WIDTH * 2 // 5, FAINT, 1)
    return np.round(pictures * fading).astype(np.uint8)


def freeze(pictures: Pictures) -> Pictures:
    """The picture stands from the middle of the video on."""
    return np.concatenate([pictures[: FRAMES // 2], np.repeat(pictures[FRAMES // 2][None], FRAMES // 2, axis=0)])


def _scaled(pictures: Pictures, scale: float) -> Pictures:
    """The second half magnified around the middle of the upper edge, and cut to the picture."""
    middle = WIDTH / 2
    turned = [
        Image.fromarray(picture).transform(
            (WIDTH, HEIGHT),
            Image.Transform.AFFINE,
            (1 / scale, 0, middle - middle / scale, 0, 1 / scale, 0),
            Image.Resampling.BILINEAR,
        )
        for picture in pictures[FRAMES // 2 :]
    ]
    return np.concatenate([pictures[: FRAMES // 2], np.stack(list(map(np.asarray, turned)))])


KINDS: dict[str, Callable[[Pictures], Pictures]] = {
    "dark": dark,
    "side": side,
    "freeze": freeze,
    "zoom": lambda pictures: _scaled(pictures, 1.4),
    "depth": lambda pictures: _scaled(pictures, 0.7),
}


def _make(job: tuple[Path, int, str, int]) -> None:
    folder, seed, kind, number = job
    machine = draw_machine(seed, number)
    phantom = make_video(seed, number, FRAMES, HEIGHT, WIDTH, machine)
    inside = Look(HEIGHT, WIDTH, machine).inside.numpy()
    text = np.where(inside, 0, phantom.pictures[0])
    live = KINDS[kind](np.where(inside, phantom.pictures, 0).astype(np.uint8))
    write_mp4(folder / f"{kind}-{number:02d}.mp4", np.maximum(live, text).astype(np.uint8), phantom.rate)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--each", default=4, show_default=True, help="Videos of each kind.")
@click.option("--seed", default=0, show_default=True)
def main(folder: Path, each: int, seed: int) -> None:
    """Writes the videos, one machine each."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder, seed, kind, number) for number in range(each) for kind in KINDS]
    with multiprocessing.get_context("spawn").Pool(cores()) as pool:
        pool.map(_make, jobs)


if __name__ == "__main__":
    main()
