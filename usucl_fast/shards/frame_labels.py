"""Labels and values of single frames: which of them show a finding, and how large it is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from usucl_fast.shards.columns import Columns, Texts, read_columns, read_numbers, read_texts, write_columns

FRAME_LABELS = "frame_labels.npz"
SEGMENT = np.dtype(
    [
        ("video", "<u4"),
        ("first", "<u4"),  # frame of the source, from 0
        ("end", "<u4"),  # the frame after the last one
        ("start", "<f8"),  # the same in seconds
        ("stop", "<f8"),
        ("rate", "<f8"),  # frames per second of the source, 0 where unknown
        ("label", "<u4"),  # code of the text, as in the column of labels
        ("value", "<f4"),  # not a number where there is none
    ]
)
"""A labelled segment of a video as its list says, whatever frames of it were kept; 44 bytes."""


@dataclass(frozen=True, eq=False)
class FrameLabels:
    """The label and the value of each frame of a dataset.

    label: column of N texts, empty where a frame has none.
    value: float32 `[N]`, NaN where a frame has none.
    segments: structured array `[S]` of `SEGMENT`, what the two were made of.
    """

    label: Texts
    value: NDArray[np.float32]
    segments: NDArray[np.void]

    def counts(self, frames: slice) -> str:
        """Counts the frames with each label, and those with a value: `wall 16, fluid 4; 20 values`."""
        names, codes = self.label.different, np.bincount(self.label.codes[frames])
        labels = ", ".join(
            f"{name} {count}" for name, count in zip(names, codes.tolist(), strict=False) if name and count
        )
        values = int((~np.isnan(self.value[frames])).sum())
        return "; ".join(part for part in (labels, f"{values} values" if values else "") if part)

    def save(self, path: Path) -> None:
        """Writes all of it, whole or not at all."""
        write_columns(path, {"label": self.label, "value": self.value, "segments": self.segments})

    @staticmethod
    def read(data: bytes, place: str, frames: int, videos: int) -> "FrameLabels":
        """Reads what `save` wrote for a dataset with these numbers of frames and videos.

        place: the file, as messages name it.

        Raises:
            DataError: it is damaged.
        """

        def read(archive: Columns) -> FrameLabels:
            label, value = read_texts(archive, "label"), read_numbers(archive, "value", np.dtype("<f4"))
            segments = read_numbers(archive, "segments", SEGMENT)
            if len(label) != frames or len(value) != frames:
                raise ValueError(f"it has {len(label)} labels and {len(value)} values for {frames} frames")
            if np.isinf(value).any() or not (segments["rate"] >= 0).all() or np.isinf(segments["rate"]).any():
                raise ValueError("a value, or the rate of a segment, is not a finite number")
            if not label.is_distinct:
                raise ValueError("label has one text twice")
            if (segments["video"] >= videos).any() or (segments["label"] >= len(label.different)).any():
                raise ValueError("a segment is of no video, or of no label")
            return FrameLabels(label, value, segments)

        return read_columns(data, place, read)
