"""Which videos of a dataset a run trains on: those of one split."""

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import UsageError
from usucl_fast.learn.config import TrainConfig
from usucl_fast.shards import FrameTable

if TYPE_CHECKING:
    from usucl_fast.shards import ShardStore

Config = TypeVar("Config", bound=TrainConfig)

AUTO, ALL, TRAIN = "auto", "all", "train"
"""Words for `--split`: train where there are splits and else all; every video; the usual name."""


def with_split(config: Config, store: "ShardStore") -> Config:
    """The settings with the split, or `ALL`, that `auto` stands for in these shards.

    Raises:
        UsageError: no video has the split that they name.
    """
    return dataclasses.replace(config, split=find_split(config.split, store.table, store.name))


def find_split(split: str, table: FrameTable, name: str) -> str:
    """The split, or `ALL`, that a word stands for in a dataset, called `name` in messages.

    Raises:
        UsageError: no video has that split.
    """
    there = [other for other in table.videos.split.different if other]
    if split == ALL or (split == AUTO and not there):
        return ALL
    wanted = TRAIN if split == AUTO else split
    if wanted in there:
        return wanted
    if not there:
        raise UsageError(f"--split {wanted}: the videos of {name} have no splits; remove it, or pack with --split")
    raise UsageError(
        f"--split {wanted}: no video of {name} is of it; there are {', '.join(there)}, and {ALL} for every video"
    )


def videos_of_split(split: str, table: FrameTable) -> NDArray[np.int64]:
    """Numbers of the videos of a split that `find_split` returned; all for `AUTO`, which a run from before there were
    splits to choose has."""
    if split in (ALL, AUTO):
        return np.arange(len(table.videos))
    column = table.videos.split
    return np.flatnonzero(column.codes == column.different.index(split))


def describe_split(split: str, table: FrameTable) -> str:
    """How many videos are trained on, and why; a line for the terminal."""
    videos = len(table.videos)
    others = Counter(name for name in table.videos.split if name not in ("", TRAIN))
    if split != ALL:
        return f"trains on {len(videos_of_split(split, table))} of {videos} videos: --split {split}"
    if not others:
        return f"trains on all {videos} videos"
    among = ", ".join(f"{count} of {name}" for name, count in others.items())
    return f"trains on all {videos} videos, {among} among them: --split {ALL}"
