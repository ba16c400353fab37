"""Seconds and memory to open shards of a million videos, and to plan from them.

python bench/many_videos.py
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from usucl_fast.curriculum import Curriculum
from usucl_fast.feed import AUGMENTATIONS, Planner
from usucl_fast.shards import (
    FRAMES,
    ROW,
    VIDEOS,
    FileRecord,
    Manifest,
    PackSettings,
    ShardRecord,
    Texts,
    VideoTable,
    open_shards,
)

FRAME_BYTES = 1024
SHARD_FRAMES = 1 << 20


def make_shards(folder: Path, videos: int, frames: int) -> None:
    """Writes tables of so many videos of `frames` frames each, three of a patient, over tars that hold nothing."""
    numbers, total = np.arange(videos), videos * frames
    names = [f"hospital/patient-{number // 3:07d}/sweep-{number:08d}.mp4" for number in range(videos)]
    constant = {name: Texts.coded(np.zeros(videos, np.uint32), [text]) for name, text in _CONSTANT.items()}
    table = VideoTable(
        id=Texts.coded(numbers.astype(np.uint32), [f"v{number:08d}" for number in range(videos)]),
        name=Texts.coded(numbers.astype(np.uint32), names),
        group=Texts.coded((numbers // 3).astype(np.uint32), [f"p{n:07d}" for n in range(-(-videos // 3))]),
        frames=np.full(videos, frames, np.uint32),
        height=np.full(videos, 224, np.uint32),
        width=np.full(videos, 224, np.uint32),
        frame_rate=np.full(videos, 25.0),
        checksum=Texts.coded(numbers.astype(np.uint32), [f"{number:064x}" for number in range(videos)]),
        source=Texts.coded(numbers.astype(np.uint32), [f"{number:016x}" for number in range(videos)]),
        **constant,
    )
    table.save(folder / VIDEOS)
    rows = np.lib.format.open_memmap(folder / FRAMES, "w+", ROW, (total,))
    frame_ids = np.arange(total)
    rows["shard"], rows["offset"] = frame_ids // SHARD_FRAMES, frame_ids % SHARD_FRAMES * FRAME_BYTES
    rows["length"], rows["video"], rows["frame"] = FRAME_BYTES, frame_ids // frames, frame_ids % frames
    rows["time"] = rows["frame"] / 25
    rows.flush()
    shards = []
    for number, first in enumerate(range(0, total, SHARD_FRAMES)):
        count = min(SHARD_FRAMES, total - first)
        path = folder / f"usucl-{number:06d}.tar"
        with path.open("wb") as file:
            file.truncate(count * FRAME_BYTES)  # takes no room on the disk
        digest = "0" * 64
        shards.append(
            ShardRecord(name=path.name, bytes=count * FRAME_BYTES, frames=count, sha256=digest, index_sha256=digest)
        )
    Manifest(
        settings=PackSettings(),
        totals={"videos": videos, "frames": total, "bytes": total * FRAME_BYTES},
        files={name: FileRecord.of(folder / name) for name in (VIDEOS, FRAMES)},
        shards=tuple(shards),
    ).write(folder, table)


_CONSTANT = {"label": "", "split": "", "color": "grey"}


def measure(folder: Path) -> dict[str, float]:
    """Seconds, and megabytes that the process has taken at most, in this process."""
    clock = [time.perf_counter()]
    store = open_shards(folder)
    clock.append(time.perf_counter())
    opened = _megabytes()
    planner = Planner(
        store.table,
        seed=0,
        epochs=10,
        batch_size=64,
        curriculum=Curriculum("cosine"),
        augmentation=AUGMENTATIONS["geometric"],
        tuples="pair",
    )
    planner.plan(0, 0)
    clock.append(time.perf_counter())
    planner.plan(8, planner.steps_per_epoch // 2)  # as a run does that is resumed there
    clock.append(time.perf_counter())
    for step in range(100):
        planner.plan(8, step % planner.steps_per_epoch)
    clock.append(time.perf_counter())
    opening, first, resumed, plans = np.diff(clock)
    return {
        "open": round(float(opening), 3),
        "first_plan": round(float(first), 3),
        "plan_of_epoch_8": round(float(resumed), 3),
        "plan_ms": round(float(plans) * 10, 3),
        "megabytes_opened": opened,
        "megabytes": _megabytes(),
    }


def _megabytes() -> float:
    """The most that this process has taken, mapped files included; getrusage would count its parent's share."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (most,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(most) * 1024 / 1e6, 1)


@click.command()
@click.option("--videos", default=1_000_000, show_default=True)
@click.option("--frames", default=10, show_default=True, help="Of each.")
@click.option("--runs", default=5, show_default=True)
@click.option("--at", type=click.Path(path_type=Path), hidden=True)
def main(videos: int, frames: int, runs: int, at: Path | None) -> None:
    """Prints a line of JSON a run, each of a process of its own."""
    if at is not None:
        print(json.dumps(measure(at)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_shards(Path(folder), videos, frames)
        for _ in range(runs):
            subprocess.run([sys.executable, __file__, "--at", folder], check=True)


if __name__ == "__main__":
    main()
