"""What this machine is, and what it is told to be."""

import pytest

from usucl_fast import machine


@pytest.mark.parametrize(
    ("busy", "count", "told", "says"),
    [(1.0, 2, None, True), (0.9, 2, None, False), (9.0, 2, "1", False), (5.0, 1, None, False), (3.9, 8, None, False)],
)
def test_busy_cores_are_told_of_where_threads_would_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch, busy: float, count: int, told: str | None, says: bool
) -> None:
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (busy, 0.0, 0.0))
    monkeypatch.setattr(machine, "cores", lambda: count)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    note = machine.crowded()
    assert (note is not None) == says
    if note:
        assert f"about {busy:.1f} of {count} cores" in note
        assert "OMP_NUM_THREADS=1" in note
