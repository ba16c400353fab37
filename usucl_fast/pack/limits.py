"""What one video may take, where nobody says otherwise."""

from usucl_fast.machine import memory

TIME_LIMIT = 60.0
"""Seconds without a picture after which a video is left out."""
KEPT, MOST, LEAST = 2 << 30, 4 << 30, 1 << 29
"""Memory that workers leave to others; and what one may take at most and at least, in bytes."""


def share_of_memory(workers: int) -> int:
    """Bytes of memory beyond which a worker is ended, and its video left out: what this machine has less `KEPT`, shared
    out, but no more than `MOST` and no less than `LEAST`."""
    return max(LEAST, min(MOST, (memory() - KEPT) // workers))
