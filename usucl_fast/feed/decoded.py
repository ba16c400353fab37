"""Decoded frames, in a file beside the shards that all processes of a machine map, fill and share.

    decoded-1.raw           `decoded-3.raw` those in colour
      0                     of which shards it is: 64 bytes, their fingerprint
      64                    uint32 a frame: the CRC-32 of its pixels, 0 as long as there are none
      then                  the pixels of each frame, uint8 `[height, width, channels]`, in the order of the frame table

It is filled as frames are asked for, each once, whoever asks first, and kept for the next run. Its bytes lie in the
system's page cache, once for all processes. It may be removed at any time: those who have it mapped keep it.
"""

import contextlib
import os
import uuid
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import UsageError
from usucl_fast.feed.batch import decoded_bytes
from usucl_fast.files import is_url
from usucl_fast.shards import DECODED, ShardStore, map_file

FINGERPRINT_BYTES = 64


class DecodedFrames:
    """The decoded frames of shards; each has a place, which is filled once. Thread-safe.

    They are in a file beside the shards; where none can be made there, in the memory of this process.

    Args:
        channels: 1 or 3.
        most_bytes: that they may take in memory.

    bytes_of: int64 `[N]`, bytes of each frame.
    starts: int64 `[N]`, where each is among the pixels of all, which have no gaps.
    addresses: int64 `[N]`, where in memory each is, or will be.

    Raises:
        UsageError: they can be kept nowhere.
    """

    def __init__(self, store: ShardStore, channels: int, most_bytes: int) -> None:
        self.bytes_of = decoded_bytes(store.table, channels)
        ends = np.cumsum(self.bytes_of)
        self.starts = ends - self.bytes_of
        head = FINGERPRINT_BYTES + 4 * len(ends)
        length = int(ends[-1]) + head
        try:
            if is_url(store.name):
                raise OSError(0, "they are at a URL")
            data = _map(store.folder / DECODED.format(channels), store.fingerprint.encode(), length)
        except OSError as error:
            if ends[-1] > most_bytes:
                raise UsageError(
                    f"all frames decoded take {ends[-1] / 1e9:.3g} GB, more than --resident-gb {most_bytes / 1e9:g},"
                    f" and cannot be kept beside the shards in {store.name} ({error.strerror}); use another --loader"
                ) from error
            data = np.zeros(length, np.uint8)  # taken page by page
        self._checksums, self._pixels = data[FINGERPRINT_BYTES:head].view(np.uint32), data[head:]
        self._is_here = np.zeros(len(ends), bool)  # and was found right
        self.addresses = self.starts + self._pixels.ctypes.data

    def missing(self, frame_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the frames that are still to be decoded, each once."""
        unknown = np.unique(frame_ids[~self._is_here[frame_ids]])
        for frame_id in unknown[self._checksums[unknown] > 0].tolist():
            # After a crash of the machine, or over a network, a checksum may be there before its pixels.
            self._is_here[frame_id] = self._checksums[frame_id] == _checksum(self.pixels(frame_id))
        return unknown[~self._is_here[unknown]]

    def put(self, frame_id: int, pixels: NDArray[np.uint8]) -> None:
        """Takes a decoded frame. Where two processes or threads decode one at a time, they write the same."""
        self.pixels(frame_id)[:] = pixels.ravel()
        self._checksums[frame_id] = _checksum(pixels)
        self._is_here[frame_id] = True

    def pixels(self, frame_id: int) -> NDArray[np.uint8]:
        """The place of a frame, flat."""
        start = self.starts[frame_id]
        return self._pixels[start : start + self.bytes_of[frame_id]]


def _checksum(pixels: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data) or 1


def _map(path: Path, fingerprint: bytes, length: int) -> NDArray[np.uint8]:
    """Maps the file; makes it where it is not there, or is of other shards.

    Raises:
        OSError: it can be neither read nor made.
    """
    if (found := _open(path, fingerprint, length)) is not None:
        return found
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            if hasattr(os, "posix_fallocate"):  # all its room: a disk that gets full later would kill the process
                os.posix_fallocate(file.fileno(), 0, length)
            else:
                file.truncate(length)
            file.write(fingerprint)
        made = map_file(partial, path, mode="r+")
        if (found := _open(path, fingerprint, length)) is not None:  # of another process, meanwhile
            return found
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return made


def _open(path: Path, fingerprint: bytes, length: int) -> NDArray[np.uint8] | None:
    """The file, mapped; where it may only be read, what is written stays in this process. None if it is not there."""
    with contextlib.suppress(OSError, ValueError):
        found = map_file(path, mode="r+" if os.access(path, os.W_OK) else "c")
        if len(found) == length and found[:FINGERPRINT_BYTES].tobytes() == fingerprint:
            return found
    return None
