"""The campaign of damaged and killed runs, in small; in full: `python -m tools.fuzz_runs --count 600`."""

from collections import Counter
from pathlib import Path

import pytest

from tools import fuzz_runs
from tools.campaign import FAULTS
from tools.fuzz_runs import KINDS, Way, Whole, campaign

pytestmark = pytest.mark.slow
WAYS: list[Way] = [("torch", "encode", 1), ("resident", "bank", 2)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole.make(tmp_path_factory.mktemp("runs"), WAYS)


def test_damaged_and_killed_runs_go_on_to_the_bit_or_are_refused(whole: Whole) -> None:
    table, outcomes = campaign(whole, WAYS, [*range(len(KINDS)), len(KINDS) + KINDS.index("killed")], seed=0)
    assert not [outcome for outcome in outcomes if outcome[2][0] in FAULTS]
    ends = sum(table.values(), Counter[str]())
    assert ends["right"] >= 4
    assert ends["refused"] >= 1


def test_it_finds_a_run_that_comes_to_something_else(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_runs, "result", lambda out: str(Path(out)))
    _, [(_, _, (outcome, _))] = campaign(whole, WAYS, [0], seed=0)
    assert outcome == "different"
