"""Shards whose tables or manifest say something else than what was packed, with checksums that are right."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from usucl_fast.shards import FileRecord, VideoRecord, VideoTable, open_shards, read_manifest


def reseal(folder: Path, videos: Sequence[VideoRecord] = (), **changes: Any) -> None:
    """Changes fields of the manifest, and makes all checksums in it those of the files that are there."""
    manifest = read_manifest(folder)
    files = {name: FileRecord.of(folder / name) for name in manifest.files}
    replace(manifest, **{"files": files, **changes}).write(folder, videos)


def change_videos(folder: Path, change: Callable[[VideoRecord], VideoRecord]) -> None:
    """Replaces what is known of each video."""
    videos = [change(video) for video in open_shards(folder).table.videos]
    VideoTable.of(videos).save(folder / "videos.npz")
    reseal(folder, videos)
