"""Decodes ahead, where there are more cores than videos."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AHEAD = 4
"""Pictures that are decoded before they are asked for."""

Picture = TypeVar("Picture")


def decoded_ahead(pictures: Iterator[Picture]) -> Iterator[Picture]:
    """The pictures, and in their place what is raised; a thread takes them, while the caller works on those before."""
    with ThreadPoolExecutor(1, thread_name_prefix="usucl-decode") as pool:
        ahead = deque(pool.submit(next, pictures, None) for _ in range(AHEAD))
        try:
            while (picture := ahead.popleft().result()) is not None:
                ahead.append(pool.submit(next, pictures, None))
                yield picture
        finally:
            for one in ahead:
                one.cancel()
