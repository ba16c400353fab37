"""Labelled segments of a video -> a label and a value of each of its frames."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DecodeError
from usucl_fast.shards import SEGMENT

EARLY = 1e-3
"""Seconds by which a frame may come too early: some files round times to milliseconds."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with a label, a value, or both.

    start, end: half-open. In frames of the source, from 0; or in seconds from its first frame, where `seconds`, and
        where they are equal the frame that is seen at that time is meant. An infinite `end` is that of the video.
    label: empty where there is none.
    value: NaN where there is none.
    rate: frames per second of the list that counted `frames` frames in the video; 0 where it is not known.
    """

    start: float
    end: float
    seconds: bool = False
    label: str = ""
    value: float = math.nan
    rate: float = 0.0
    frames: int = 0

    def __str__(self) -> str:
        if self.seconds:
            return f"{self.start:g} to {self.end:g} s"
        return f"frames {self.start:g} to {self.end - 1:g}" if self.end > self.start + 1 else f"frame {self.start:g}"


def joined(by_frame: Mapping[int, tuple[str, float]]) -> list[Segment]:
    """Joins frames with a label and a value each into segments: neighbours with the same ones become one segment."""
    segments: list[Segment] = []
    for frame, (label, value) in sorted(by_frame.items()):
        last = segments[-1] if segments else None
        if last and last.end == frame and repr((last.label, last.value)) == repr((label, value)):  # NaN is not NaN
            segments[-1] = replace(last, end=frame + 1)
        else:
            segments.append(Segment(frame, frame + 1, label=label, value=value))
    return segments


@dataclass(frozen=True)
class VideoLabels:
    """The labels and values of the frames of one video.

    names: the different labels; the first one is empty and stands for none.
    label: uint32 `[frames]`, which of them each frame has.
    value: float32 `[frames]`, NaN for none.
    segments: `[S]` of `SEGMENT`, labels counted as in `names`, videos left at 0.
    """

    names: list[str]
    label: NDArray[np.uint32]
    value: NDArray[np.float32]
    segments: NDArray[np.void]

    def of(self, frames: NDArray[np.int64]) -> "VideoLabels":
        """The labels and values of some of the frames."""
        return VideoLabels(self.names, self.label[frames], self.value[frames], self.segments)

    def unseen(self) -> list[str]:
        """The labels that no frame has."""
        seen = set(self.label.tolist())
        return [name for code, name in enumerate(self.names) if code and code not in seen]


class Timed:
    """Passes pictures on, and records their times."""

    def __init__(self, pictures: Iterable[tuple[av.VideoFrame, float]]) -> None:
        self._pictures = pictures
        self.times: list[float] = []

    def __iter__(self) -> Iterator[tuple[av.VideoFrame, float]]:
        for picture, time in self._pictures:
            self.times.append(time)
            yield picture, time


def label_frames(segments: Sequence[Segment], times: Sequence[float], rate: float) -> VideoLabels:
    """Labels all frames of a source, kept or not.

    times: of the frames, in seconds.
    rate: frames per second, 0 where unknown.

    Raises:
        DecodeError: segments overlap, lie outside the video, or hold no frame of it; or their list is of a video of
            another length.
    """
    at, count = np.array(times), len(times)
    step = 1 / rate if rate else 1.0
    names = list(dict.fromkeys(["", *(segment.label for segment in segments)]))
    label, value = np.zeros(count, np.uint32), np.full(count, np.nan, np.float32)
    table: list[tuple[Any, ...]] = []
    for segment in segments:
        _check_length(segment, at[-1] + step, count)
        if segment.seconds and not rate:
            raise DecodeError(f"is labelled by seconds ({segment}), but has no frame rate; label its frames")
        first, end = _place(segment, at, step)
        code = names.index(segment.label)
        for column, given in ((label, bool(code)), (value, not math.isnan(segment.value))):
            taken = column[first:end] != 0 if column is label else ~np.isnan(column[first:end])
            if given and taken.any():
                number = first + int(np.argmax(taken))
                raise DecodeError(f"is labelled more than once at frame {number} ({segment}); a frame has one label")
        if code:
            label[first:end] = code
        if not math.isnan(segment.value):
            value[first:end] = segment.value
        table.append((0, first, end, at[first], at[end - 1] + step, rate, code, segment.value))
    return VideoLabels(names, label, value, np.array(table, SEGMENT))


def _place(segment: Segment, at: NDArray[np.float64], step: float) -> tuple[int, int]:
    """The first frame of a segment, and the one after its last."""
    count = len(at)
    if segment.seconds:
        first = int(np.searchsorted(at, segment.start - EARLY))
        end = int(np.searchsorted(at, segment.end - EARLY))
        if segment.start == segment.end:
            end = int(np.searchsorted(at, segment.start + EARLY, "right"))
            first = end - 1
        last = at[-1] + step
        if segment.start < 0 or segment.start >= last or last + step < segment.end < math.inf:
            raise DecodeError(f"is labelled at {segment}, and has {last:g} seconds; correct --labels")
    else:
        first, end = int(segment.start), count if math.isinf(segment.end) else int(segment.end)
        if not 0 <= first < count or end > count:
            last = count - 1
            raise DecodeError(f"is labelled at {segment}, and has {count} frames, from 0 to {last}; correct --labels")
    if first >= end:
        raise DecodeError(f"is labelled at {segment}, where it has no frame; correct --labels")
    return first, end


def _check_length(segment: Segment, seconds: float, frames: int) -> None:
    """Raises DecodeError if a list that counts frames at a rate of its own counted another number of them."""
    if segment.frames and abs(segment.frames - seconds * segment.rate) > 1:
        raise DecodeError(
            f"has {frames} frames in {seconds:.3f} s, {seconds * segment.rate:.1f} at --label-fps {segment.rate:g}, and"
            f" its labels were made for {segment.frames}; give the rate that they were made with, or the right video"
        )
