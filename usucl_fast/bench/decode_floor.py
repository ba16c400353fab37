"""Decodes videos and drops the frames: packing cannot be faster. Run with `python -m` and paths on stdin.

It imports nothing but PyAV, so that it measures none of our own code.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import av


def decode_all(videos: list[str], workers: int) -> int:
    """Decodes the videos in `workers` processes, and returns the number of frames."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(count_frames, videos))


def count_frames(video: str) -> int:
    """Decodes one video, in one thread."""
    with av.open(video) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


if __name__ == "__main__":
    print(decode_all(sys.stdin.read().splitlines(), int(sys.argv[1])))
