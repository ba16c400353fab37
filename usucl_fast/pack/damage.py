"""Decodes a video with FFmpeg, and finds out which pictures are damaged.

FFmpeg conceals damage: it fills the missing parts of a picture from others, and continues.
"""

import io
import math
import struct
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av

from usucl_fast.errors import DecodeError

# Most decoders report damage in the lines that FFmpeg logs as errors. They are not printed.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)

HARMLESS = ("mmco: unref short failure", "unable to decode APP fields")
"""Beginnings of error lines that undamaged files cause."""
CUT = "File ended prematurely"
"""The beginning of the line for a file that is cut off; it may come when the file is opened."""
WAY_OUT = "get the file again, or give --damaged drop or warn"

SEAM = 3
"""Packets between the one that FFmpeg calls corrupt where files are joined, and the seam."""
MOST_LOST = 1000
"""Pictures that a gap may stand for; what is longer is a damaged time."""
PACKET, TIMED_PACKET = 188, 192
"""Bytes of a packet of a transport stream, which begins with a G; in some files, a time stands before it."""
FAILURES = (av.FFmpegError, OSError, ValueError)
"""What PyAV raises where a file does not open or decode."""


class Decoded:
    """The pictures of a video with their times in seconds (None where the file has none), in order.

    A picture is damaged where FFmpeg reports it or its packet as damaged, and so are those after it up to the next key
    frame, which depend on it. A picture that is lost altogether is replaced by the next one, so that the others keep
    their numbers.

    container: closed at the end.
    damaged: what to do about damage: `refuse` raises DecodeError; `drop` puts the numbers of damaged pictures into
        `left_out`, `warn` only those of lost ones.
    is_cut: whether the file is known to end too early.
    notes: receives what is to be said about damage, once all pictures have been read.
    left_out: receives the numbers of pictures that are not to be packed, each before the picture itself comes.
    """

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        damaged: str,
        is_cut: bool,
        notes: list[str],
    ) -> None:
        self._container, self._stream, self._policy, self._is_cut = container, stream, damaged, is_cut
        self._notes = notes
        self.left_out: set[int] = set()
        self._names = {container.format.name, stream.codec_context.name}
        self._count = self._bad = self._lost = 0
        self._is_bad = self._broke_off = False
        self._until: int | None = None  # when the latest damage was, in the stream's time
        # Of packets whose pictures have not come: their times, and how many have none and never will.
        self._waiting: list[int] = []
        self._unplaced = 0
        self._last: float | None = None  # seconds of the picture before
        self._steps = (math.inf, 0.0)  # the shortest and the longest between pictures of the sound part

    def __iter__(self) -> Iterator[tuple[av.VideoFrame, float | None]]:
        with self._container:
            packets, ahead = self._container.demux(self._stream), deque[av.Packet]()
            while True:
                while len(ahead) <= SEAM and (packet := self._read(packets)):
                    ahead.append(packet)
                if not ahead:
                    break
                packet = ahead.popleft()
                # Where files are joined, one of the last packets before the seam is called corrupt, and is whole.
                is_seam = any(later.dts is not None and later.dts < (packet.dts or 0) for later in ahead)
                if packet.is_corrupt and not is_seam:
                    self._hear(packet.pts)
                yield from self._pictures(packet)
                if is_seam:
                    self._until = None
                    self._waiting.clear()
            if self._broke_off:
                yield from self._pictures(None)
        self._end()

    def _read(self, packets: Iterator[av.Packet]) -> av.Packet | None:
        with av.logging.Capture() as lines:
            try:
                packet = next(packets, None)
            except FAILURES as error:
                self._broke_off = True
                self._hear(None, error)
                return None
        if self._tell(lines):
            self._hear(packet.pts if packet else None)
        return packet

    def _pictures(self, packet: av.Packet | None) -> Iterator[tuple[av.VideoFrame, float | None]]:
        """The pictures that a packet gives, or, for None, those that the decoder still holds."""
        at = packet.pts if packet else None
        if at is not None:
            self._waiting.append(at)
        decoded: list[av.VideoFrame] = []
        with av.logging.Capture() as lines:
            try:
                decoded = self._stream.decode(packet)
            except FAILURES as error:
                self._unplaced += at is None
                self._hear(at, error)
        if self._tell(lines):
            self._hear(at)
        for picture in decoded:
            yield from self._placed(picture)

    def _tell(self, lines: list[tuple[int, str, str]]) -> bool:
        return any(name in self._names and not line.startswith(HARMLESS) for _, name, line in lines)

    def _hear(self, at: int | None, error: Exception | None = None) -> None:
        """Notes damage in the packet of a time.

        Raises:
            DecodeError: it is not allowed.
        """
        if self._policy == "refuse":
            if error:
                where = f"stops decoding at frame {self._count}" if self._count else "does not decode"
                raise DecodeError(f"{where}: {reason_of(error)}; {WAY_OUT}") from error
            raise DecodeError(f"is damaged at frame {self._count}; {WAY_OUT}")
        self._is_bad = True
        if at is not None:
            self._until = at if self._until is None else max(self._until, at)

    def _placed(self, picture: av.VideoFrame) -> Iterator[tuple[av.VideoFrame, float | None]]:
        """The picture, after those that were lost before it."""
        was_sound = not self._is_bad
        if picture.is_corrupt:
            self._hear(picture.pts)
        elif picture.key_frame and (picture.pts is None or self._until is None or picture.pts > self._until):
            self._is_bad = False
        for time in self._missing(picture, was_sound):
            self.left_out.add(self._count)
            self._count += 1
            self._lost += 1
            yield picture, time
        if self._is_bad:
            self._bad += 1
            if self._policy == "drop":
                self.left_out.add(self._count)
        self._count += 1
        yield picture, picture.time

    def _missing(self, picture: av.VideoFrame, was_sound: bool) -> list[float | None]:
        """Times in seconds of pictures lost since the last one: gaps in time, or packets that gave no picture."""
        at, time, last = picture.pts, picture.time, self._last
        before = [one for one in self._waiting if at is not None and one < at]
        self._waiting = [one for one in self._waiting if at is not None and one > at]
        unplaced, self._unplaced = self._unplaced, 0
        self._last = time
        step = None if time is None or last is None else time - last
        if was_sound:  # a whole file may have packets that give no picture, and gaps
            if step is not None:
                self._steps = min(self._steps[0], step), max(self._steps[1], step)
            return []
        shortest, longest = self._steps
        if step is None or last is None or not 0 < longest < 1.5 * shortest:
            return [float(one * (self._stream.time_base or 0)) for one in sorted(before)] + [None] * unplaced
        usual = (shortest + longest) / 2
        lost = round(step / usual) - 1
        return [last + usual * (one + 1) for one in range(lost if lost <= MOST_LOST else 0)]

    def _end(self) -> None:
        if self._count == 0:
            raise DecodeError("holds no frame")
        if self._is_cut:
            if self._policy == "refuse":
                raise DecodeError(f"is cut off, its end is missing; {WAY_OUT}")
            self._notes.append("is cut off, its end is missing")
        if self._bad:
            what = "left out" if self._policy == "drop" else "packed as they decode"
            self._notes.append(f"has {self._bad} damaged frames of {self._count}, {what}")
        if self._lost:
            self._notes.append(f"has {self._lost} frames that do not decode, left out")


def reason_of(error: Exception) -> str:
    """The reason of an error without the path that FFmpeg adds, for the manifest."""
    return getattr(error, "strerror", None) or type(error).__name__


def is_cut(file: Path) -> bool:
    """Whether an AVI, GIF or transport stream ends where none does; for other formats FFmpeg reports it."""
    with file.open("rb") as opened:
        start = opened.read(2 * TIMED_PACKET)
        if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
            return _avi_is_cut(opened)
        for packet, sync in ((PACKET, 0), (TIMED_PACKET, TIMED_PACKET - PACKET)):
            if start[sync::packet].startswith(b"GG"):
                return opened.seek(0, io.SEEK_END) % packet != 0
        return start[:4] == b"GIF8" and not _gif_is_whole(opened)


def _avi_is_cut(file: BinaryIO) -> bool:
    """Whether one of the file's RIFF chunks reaches past its end."""
    size, place = file.seek(0, io.SEEK_END), 0
    while place + 8 <= size:
        file.seek(place)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF":
            return False
        place += 8 + length + length % 2
    # A chunk of odd length may end without the byte that pads it; 2^32 - 1 is written by what does not know it yet.
    return place > size + 1 and length != 0xFFFFFFFF


def _gif_is_whole(file: BinaryIO) -> bool:
    """Whether a GIF's blocks are complete up to its trailer, with little after it."""
    size = file.seek(0, io.SEEK_END)
    file.seek(10)
    _skip_colors(file, 3)
    while kind := file.read(1):
        if kind == b";":
            return file.tell() > 0.9 * size
        if kind == b"!":
            file.seek(1, io.SEEK_CUR)
        elif kind == b",":
            file.seek(8, io.SEEK_CUR)
            _skip_colors(file, 1)
            file.seek(1, io.SEEK_CUR)
        else:
            return False
        while length := file.read(1):
            if length == b"\0":
                break
            file.seek(length[0], io.SEEK_CUR)
    return False


def _skip_colors(file: BinaryIO, rest: int) -> None:
    """Reads the flags with the size of a colour table, and skips it and the rest of `rest` bytes."""
    flags = file.read(1) or b"\0"
    file.seek(rest - 1 + (3 << (flags[0] & 7) + 1 if flags[0] & 0x80 else 0), io.SEEK_CUR)
