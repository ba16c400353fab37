"""The campaign of wrong calls, in small; in full: `python -m tools.fuzz_calls --count 3500`."""

import os
from collections import Counter
from typing import Any

import pytest

from tools import fuzz_calls
from tools.campaign import FAULTS, apart
from tools.fuzz_calls import KINDS, TARGETS, campaign


def test_wrong_calls_are_refused_or_answered_right() -> None:
    table, outcomes = campaign(range(10 * len(KINDS)), seed=0)
    assert not [outcome for outcome in outcomes if outcome[2][0] in FAULTS]
    ends = sum(table.values(), Counter[str]())
    assert min(ends["right"], ends["refused"]) > len(KINDS)  # it tries both what is wrong and what is not
    _, [(_, kind, (end, _))] = campaign([22], seed=0)
    assert (kind, end) == (outcomes[22][1], outcomes[22][2][0])


def test_every_target_is_answered_right_where_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_calls, "change", lambda value, _: value)
    _, outcomes = campaign(range(3 * len(KINDS)), seed=1)
    assert {end for _, _, (end, _) in outcomes} == {"right"}


@pytest.mark.parametrize("fault", ["traceback", "crash", "different"])
def test_it_finds_what_should_not_be(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    right = TARGETS["cross"]

    def call(bank: Any, given: Any) -> Any:
        if fault == "traceback":
            raise KeyError("k")
        if fault == "crash":
            os.abort()
        return right.call(bank, given) + 1

    monkeypatch.setattr(fuzz_calls, "change", lambda value, _: value)
    monkeypatch.setattr(fuzz_calls, "KINDS", ("cross",))
    monkeypatch.setitem(fuzz_calls.TARGETS, "cross", right._replace(call=call))
    outcome, _ = apart(lambda: fuzz_calls.attempt(0, seed=0))
    assert outcome == fault
