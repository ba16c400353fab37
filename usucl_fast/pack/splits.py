"""Assigns videos to splits by group, independently of what else is in the dataset."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from usucl_fast.errors import UsageError
from usucl_fast.pack.kinds import Source
from usucl_fast.shards import VideoRecord


def parse_split(text: str) -> dict[str, float]:
    """Parses `train=.8,val=.1,test=.1` to shares that sum to 1.

    Raises:
        UsageError: it is not of that form.
    """
    try:
        pairs = [part.split("=") for part in text.split(",")]
        shares = {name.strip(): float(share) for name, share in pairs}
    except ValueError:
        shares = {}
    if not shares or len(shares) < len(text.split(",")) or not all(shares) or not all(v > 0 for v in shares.values()):
        raise UsageError(f"--split {text!r}: write it as train=.8,val=.1,test=.1")
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise UsageError(f"--split {text!r}: the shares sum to {sum(shares.values()):g}, not to 1")
    return shares


def assign_splits(videos: Iterable[VideoRecord], shares: Mapping[str, float]) -> list[VideoRecord]:
    """Gives every video without a split that of its group, or else one drawn by a hash of the group's name.

    So a group, and a video without one, has the same split in every dataset of the same shares, and the shares are met
    on average. With no shares, only the splits that groups have already are spread within them.
    """
    videos = list(videos)
    of_group = {video.group: video.split for video in videos if video.group and video.split}
    return [
        video
        if video.split
        else replace(video, split=of_group.get(video.group) or _draw(video.group or video.id, shares))
        for video in videos
    ]


def check_splits(sources: Iterable[Source]) -> None:
    """Refuses lists that put videos of one group into different splits.

    Raises:
        UsageError: there is such a group.
    """
    split_of: dict[str, str] = {}
    for source in sources:
        if source.group and source.split and split_of.setdefault(source.group, source.split) != source.split:
            raise UsageError(
                f"group {source.group!r} has videos in the splits {split_of[source.group]!r} and {source.split!r},"
                f" {source.name!r} among them; a patient must be on one side"
            )


def torn_groups(videos: Iterable[VideoRecord]) -> list[str]:
    """The groups with videos in more than one split."""
    splits = defaultdict(set)
    for video in videos:
        if video.group and video.split:
            splits[video.group].add(video.split)
    return sorted(group for group, found in splits.items() if len(found) > 1)


def _draw(key: str, shares: Mapping[str, float]) -> str:
    point = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    total = 0.0
    for name, share in shares.items():
        total += share
        if point < total:
            return name
    return list(shares)[-1] if shares else ""
