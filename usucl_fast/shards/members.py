"""Tar headers: what precedes each frame in a shard."""

import string
import tarfile
from collections.abc import Sequence

BLOCK = tarfile.BLOCKSIZE
ID_LETTERS, LONGEST_ID = f"{string.ascii_letters}{string.digits}-_~%", 85
"""What the id of a video is made of; `<id>/000000.jpg` stays within the 100 bytes of a plain tar header."""

SIDECARS = ("json", "cls")
"""Suffixes of what an export puts beside each frame: all that is known of it, or the number of its video's label."""

END_OF_ARCHIVE = bytes(2 * BLOCK)


def index_text(samples: Sequence[str]) -> str:
    """DALI's index of a tar, as its wds2idx writes it, version 1.2: a line a sample, with `<suffix> <offset> <length>
    <name>` of each of its members."""
    return "\n".join([f"v1.2 {len(samples)}", *samples, ""])


class MemberHeader:
    """Makes the 512-byte ustar headers of a video's frames, without owner or time: equal input gives equal bytes."""

    def __init__(self, id: str, suffix: str) -> None:
        self._id, self._suffix = id, suffix
        # Made once; a member then differs in its name, its length and the checksum, and tarfile takes 30 µs for one.
        self._blank = bytearray(tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT))
        self._blank[148:156] = b" " * 8

    def of(self, number: int, length: int) -> bytes:
        """The header of frame `number`, `length` bytes long.

        Raises:
            ValueError: the name or the length do not fit the format.
        """
        name = f"{self._id}/{number:06d}.{self._suffix}".encode("ascii")
        if len(name) > 100 or length >= 1 << 33:
            raise ValueError(f"{name!r} of {length} bytes does not fit a tar header")
        header = self._blank.copy()
        header[: len(name)] = name
        header[124:135] = b"%011o" % length
        header[148:155] = b"%06o\0" % sum(header)
        return bytes(header)
