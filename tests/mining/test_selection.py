"""The hardest frames of a window against a double loop. n̂ itself: tests/learn/test_losses.py."""

import numpy as np
import pytest
import torch

from usucl_fast.curriculum import window_bounds
from usucl_fast.mining import MemoryBank, hardest_in_window


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("max_age", [None, 4])
def test_the_hardest_of_a_window_against_a_double_loop(k: int, max_age: int | None) -> None:
    torch.manual_seed(0)
    first_row = np.array([0, 40, 41, 60, 90])
    bank = MemoryBank(first_row, 8, dtype=torch.float32)
    for step in range(10):  # some rows written often, some never
        frame_ids = torch.randint(90, (12,))
        bank.write(frame_ids, torch.nn.functional.normalize(torch.randn(12, 8), dim=1), step)
    anchors = torch.arange(90)
    window = (0.1, 0.5)
    found = hardest_in_window(bank, anchors, window, k, max_age, step=10)
    assert found.shape == (90, k)
    for anchor in range(90):
        video = int(np.searchsorted(first_row, anchor, side="right")) - 1
        first, length = first_row[video], first_row[video + 1] - first_row[video]
        left, left_end, right, right_end = window_bounds(np.array([anchor - first]), np.array([length]), window)[0]
        answers = []
        for frame in (*range(left, left_end), *range(right, right_end)):
            row = int(frame + first)
            written = int(bank.written_at[row])
            if written >= 0 and (max_age is None or written >= 10 - max_age):
                answers.append((float(bank.embeddings[anchor] @ bank.embeddings[row]), row))
        expected = [row for _, row in sorted(answers, reverse=True)][:k]
        if bank.written_at[anchor] < 0:
            expected = []
        assert found[anchor].tolist() == expected + [-1] * (k - len(expected))
