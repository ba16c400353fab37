"""What a packing did, for a person or a program to read: `summary.json`."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict, get_origin

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError
from usucl_fast.files import read_json
from usucl_fast.pack.duplicates import Duplicate
from usucl_fast.pack.splits import torn_groups
from usucl_fast.pack.task import Task
from usucl_fast.shards import LeftOut, Manifest, VideoRecord

SUMMARY = "summary.json"


class PackSummary(TypedDict):
    """The totals of all shards, and what the latest packing did.

    quarantined, left_out, warnings: `source` and `reason`, of videos that could not be packed, are too short, are odd.
    torn_groups: groups with videos in more than one split.
    packed_videos, packed_frames, seconds, stages: of the latest packing alone, as are the rates.
    notes: how lists and labels were read.
    """

    videos: int
    frames: int
    megabytes: float
    groups: int
    splits: dict[str, int]
    quarantined: list[dict[str, str]]
    left_out: list[dict[str, str]]
    warnings: list[dict[str, str]]
    torn_groups: list[str]
    packed_videos: int
    packed_frames: int
    seconds: float
    frames_per_second: float
    source_megabytes_per_second: float
    stages: dict[str, float]
    duplicates: list[Duplicate]
    notes: NotRequired[list[str]]


@dataclass
class Outcome:
    """What became of the videos of one packing.

    packed: those that are in the shards now.
    frames: how many were encoded in this run, not taken over from an interrupted one.
    not_packed: the others, by what the manifest calls them.
    stages: seconds spent in each stage, of all workers together.
    looks: of each packed video, by which `find_duplicates` finds those that are there twice.
    """

    packed: list[Task] = field(default_factory=list)
    frames: int = 0
    not_packed: dict[str, list[LeftOut]] = field(default_factory=lambda: {"quarantined": [], "left_out": []})
    warnings: list[dict[str, str]] = field(default_factory=list)
    stages: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    duplicates: list[Duplicate] = field(default_factory=list)
    looks: list[NDArray[np.float32]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def summarise(
    manifest: Manifest, videos: Sequence[VideoRecord], outcome: Outcome, megabytes: float, seconds: float
) -> PackSummary:
    """Makes the summary of a packing that read `megabytes` of sources in `seconds`."""
    return {
        "videos": len(videos),
        "frames": manifest.totals["frames"],
        "megabytes": round(manifest.totals["bytes"] / 1e6, 3),
        "groups": len({video.group or video.id for video in videos}),
        "splits": dict(Counter(video.split for video in videos if video.split)),
        "quarantined": [{"source": entry.source, "reason": entry.reason} for entry in manifest.quarantined],
        "left_out": [{"source": entry.source, "reason": entry.reason} for entry in manifest.left_out],
        "warnings": outcome.warnings,
        "torn_groups": torn_groups(videos),
        "packed_videos": len(outcome.packed),
        "packed_frames": outcome.frames,
        "seconds": round(seconds, 3),
        "frames_per_second": round(outcome.frames / seconds, 1),
        "source_megabytes_per_second": round(megabytes / seconds, 3),
        "stages": {stage: round(value, 3) for stage, value in outcome.stages.items()},
        "duplicates": outcome.duplicates,
        "notes": outcome.notes,
    }


def read_summary(out: Path) -> PackSummary:
    """Reads the summary in the shard folder `out`.

    Raises:
        DataError: it is damaged.
    """
    summary: Any = read_json(out / SUMMARY)
    for name, kind in PackSummary.__annotations__.items():
        if name not in PackSummary.__required_keys__:
            continue
        allowed: Any = (int, float) if kind is float else get_origin(kind) or kind
        if not isinstance(summary, dict) or not isinstance(summary.get(name), allowed):
            raise DataError(f"{out / SUMMARY} is damaged (at {name}); restore it, or pack the videos again")
    for pair in summary["duplicates"]:
        if not isinstance(pair, dict) or not isinstance(pair.get("videos"), list) or "kind" not in pair:
            raise DataError(f"{out / SUMMARY} is damaged (at duplicates); restore it, or pack the videos again")
    return summary
