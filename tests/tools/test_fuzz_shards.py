"""The campaign with hostile shards, in small; in full: `python -m tools.fuzz_shards`."""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import campaign as tools_campaign
from tools import fuzz_shards
from tools.campaign import FAULTS
from tools.fuzz_shards import KINDS, campaign, make_shards


@pytest.fixture(scope="module")
def shards(made_once: Callable[..., Path]) -> Path:
    return made_once("hostile", make_shards) / "shards"


def test_hostile_shards_are_refused_or_read_right(shards: Path) -> None:
    table, outcomes = campaign(shards, range(5 * len(KINDS)), seed=0, dali_every=0)
    assert not [outcome for outcome in outcomes if outcome[2][0] in FAULTS]
    ends = sum(table.values(), Counter[str]())
    assert min(ends["right"], ends["refused"]) > len(KINDS)  # it tries both what does harm and what does not
    _, [(_, kind, (end, _))] = campaign(shards, [22], seed=0, dali_every=0)
    assert (kind, end) == (outcomes[22][1], outcomes[22][2][0])


def fail(kind: str) -> Callable[..., object]:
    def opened(*_: object) -> object:
        if kind == "traceback":
            raise KeyError("shards")
        if kind == "crash":
            os.abort()
        time.sleep(60)
        raise AssertionError

    return opened


@pytest.mark.parametrize("kind", ["traceback", "crash", "hang"])
def test_it_finds_what_should_not_be(shards: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(tools_campaign, "SECONDS", 1)
    monkeypatch.setattr(fuzz_shards, "_read", fail(kind))
    _, [(_, _, (outcome, _))] = campaign(shards, [0], seed=0, dali_every=0)
    assert outcome == kind


def test_it_finds_other_pictures(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = fuzz_shards._feed
    monkeypatch.setattr(fuzz_shards, "mutate", lambda *_: False)
    monkeypatch.setattr(fuzz_shards, "_feed", lambda store, name: feed(store, name) + 9 * (name == "resident"))
    _, [(_, _, (outcome, _))] = campaign(shards, [0], seed=0, dali_every=0)
    assert outcome == "different"
