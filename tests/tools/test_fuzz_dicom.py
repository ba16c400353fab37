"""The campaign of random DICOM settings, in small; in full: `python -m tools.fuzz_dicom --count 2000`."""

import pytest

from tools import fuzz_dicom
from tools.fuzz_dicom import attempt


@pytest.mark.parametrize("number", range(36))
def test_pictures_come_out_as_the_standard_says(number: int) -> None:
    end, said = attempt(number, seed=0)
    assert end == "right", said


def test_it_finds_pictures_that_are_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    read = fuzz_dicom.decode
    monkeypatch.setattr(fuzz_dicom, "decode", lambda path: list(read(path))[::-1])
    assert attempt(3, seed=0)[0] == "different"
