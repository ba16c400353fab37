"""Pictures of 16 bits, of which a camera often uses fewer -> 8 bits, scaled alike for all of a source."""

from collections.abc import Callable, Iterable

import av
import numpy as np
from numpy.typing import NDArray

from usucl_fast.pack.video import frame_of

DEEP = {"gray16": "gray", "rgb48": "rgb24"}
"""By the beginning of a pixel format's name: the same in 8 bits."""


class Depth:
    """Scales grey levels of 16 bits to 8, in proportion.

    Pictures that have no 16 bits are passed on untouched.

    again: all pictures of the source from the start, for the range that they have together.
    notes: gets what was guessed.
    """

    def __init__(self, again: Callable[[], Iterable[av.VideoFrame]], notes: list[str]) -> None:
        self._again, self._notes, self._bits = again, notes, 0

    def __call__(self, picture: av.VideoFrame) -> av.VideoFrame:
        """One picture."""
        kind = picture.format.name[:-2]  # which byte is first does not matter
        if kind not in DEEP:
            return picture
        if not self._bits:
            most = max(int(_stored(one).max()) for one in self._again() if one.format.name[:-2] in DEEP)
            self._bits = max(8, most.bit_length())
            if self._bits < 16:
                self._notes.append(f"has levels of {self._bits} bits in 16, which were taken for the whole range")
        levels = _stored(picture) >> (self._bits - 8)
        return frame_of(np.minimum(levels, 255), DEEP[kind])


def _stored(picture: av.VideoFrame) -> NDArray[np.uint16]:
    return picture.to_ndarray(format=f"{picture.format.name[:-2]}le").astype(np.uint16, copy=False)
