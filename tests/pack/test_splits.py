from dataclasses import replace

import pytest

from tests.helpers.feeding import VIDEO
from usucl_fast.errors import UsageError
from usucl_fast.pack.splits import assign_splits, parse_split, torn_groups
from usucl_fast.shards import VideoRecord

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def videos(groups: int, each: int = 2) -> list[VideoRecord]:
    return [replace(VIDEO, id=f"{g}-{n}", group=f"p{g}") for g in range(groups) for n in range(each)]


def test_shares_are_met_and_groups_are_whole() -> None:
    split = assign_splits(videos(2000), SHARES)
    share = {name: sum(video.split == name for video in split) / len(split) for name in SHARES}
    assert all(abs(share[name] - SHARES[name]) < 0.03 for name in SHARES)
    assert torn_groups(split) == []


def test_added_videos_change_nobody_elses_split() -> None:
    few = {video.id: video.split for video in assign_splits(videos(30), SHARES)}
    more = {video.id: video.split for video in assign_splits(videos(100)[::-1], SHARES)}
    assert all(more[id] == split for id, split in few.items())


def test_what_a_list_says_holds_for_the_whole_group() -> None:
    a, b, c = videos(1, each=3)
    split = assign_splits([a, replace(b, split="test"), c], SHARES)
    assert [video.split for video in split] == ["test"] * 3
    assert [video.split for video in assign_splits([a, replace(b, split="held"), c], {})] == ["held"] * 3


def test_without_a_group_a_video_is_its_own() -> None:
    split = assign_splits([replace(VIDEO, id=f"v{n}") for n in range(500)], SHARES)
    assert {video.split for video in split} == set(SHARES)
    assert {video.split for video in assign_splits([VIDEO], {})} == {""}


def test_torn_groups_are_found() -> None:
    a, b = videos(1)
    assert torn_groups([replace(a, split="train"), replace(b, split="test")]) == ["p0"]


@pytest.mark.parametrize("text", ["", "train", "train=.8,test=.1", "train=1,test=0", "train=x", "a=.5,a=.5", "=1"])
def test_wrong_shares_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--split"):
        parse_split(text)


def test_shares_are_parsed() -> None:
    assert parse_split("train=.8, val=.1,test=.1") == SHARES
