"""Tables, plans and loaders."""

import dataclasses
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from usucl_fast.curriculum import Curriculum
from usucl_fast.feed import Augmentation, BatchPlan, Delivery, Loader, Planner, make_loader
from usucl_fast.shards import ROW, FrameTable, ShardStore, VideoRecord, VideoTable

VIDEO = VideoRecord(
    id="id",
    name="name",
    group="",
    label="",
    split="",
    frames=1,
    height=60,
    width=80,
    color="grey",
    frame_rate=25.0,
    checksum="",
    source="",
)
ANYWHERE = Augmentation(area=(0.3, 1.0), flip=0.5)


def table_of(lengths: list[int]) -> FrameTable:
    """A table of videos of so many frames, without frames behind it."""
    videos = [
        replace(VIDEO, id=f"v{number}", name=f"v{number}", frames=length) for number, length in enumerate(lengths)
    ]
    return FrameTable(np.zeros(sum(lengths), ROW), VideoTable.of(videos))


def planner_of(table: FrameTable, **changes: object) -> Planner:
    made = Planner(
        table,
        seed=3,
        epochs=60,
        batch_size=4,
        curriculum=Curriculum("cosine"),
        augmentation=Augmentation(area=(0.5, 1.0), flip=0.5),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def plans_of(store: ShardStore, augmentation: Augmentation = ANYWHERE, epochs: int = 6) -> list[BatchPlan]:
    return list(planner_of(store.table, seed=1, epochs=epochs, augmentation=augmentation).plans())


def delivery(size: int = 48, channels: int = 1, threads: int = 2) -> Delivery:
    return Delivery(size=size, channels=channels, device=torch.device("cpu"), threads=threads, most_frames=20)


def loader_of(name: str, store: ShardStore, how: Delivery) -> Loader:
    """The loader, for ffcv with what it reads exported first."""
    if name != "ffcv":
        return make_loader(name, store, how)
    from usucl_fast.feed.beton import export_beton

    with tempfile.TemporaryDirectory() as folder:  # it is mapped by then
        beton = Path(folder, "frames.beton")
        export_beton(store, beton)
        return make_loader(name, store, dataclasses.replace(how, beton=beton))
