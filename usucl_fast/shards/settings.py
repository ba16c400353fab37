"""The settings of packing: what the shards depend on, beside the sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

CHOICES = {
    "codec": ("jpeg", "png"),
    "color": ("auto", "grey", "rgb"),
    "sector": ("auto", "none", "file"),
    "damaged": ("refuse", "drop", "warn"),
    "burned_in": ("refuse", "warn", "allow"),
    "names": ("auto", "keep", "hash"),
}
"""The allowed values of settings that are words."""


@dataclass(frozen=True)
class PackSettings:
    """How videos are packed; the manifest keeps it."""

    size: int = 224
    """Short side of the stored frames in pixels."""
    enlarge: bool = False
    """Whether smaller videos are enlarged to `size`; else they keep theirs."""
    codec: str = "jpeg"
    """`jpeg`, or `png`: lossless, larger and slower."""
    quality: int = 90
    """JPEG quality, 1 to 100."""
    color: str = "auto"
    """`grey`, `rgb`, or `auto`: in colour where any frame of the video is."""
    every: int = 1
    """One frame of this many is kept."""
    fps: float = 0.0
    """Frames are left out down to this rate; 0 keeps all."""
    min_frames: int = 1
    """Videos with fewer kept frames are left out."""
    sector: str = "auto"
    """Where the ultrasound sector comes from that the frames are cropped to: `auto`, `none` or `file`."""
    damaged: str = "refuse"
    """`refuse` a video with damaged frames, `drop` these frames, or `warn` of them. FFmpeg conceals damage by made-up
    pixels, which must not be learned from unnoticed."""
    burned_in: str = "refuse"
    """`refuse`, `warn` or `allow` a DICOM file whose pictures may hold text about the patient."""
    names: str = "auto"
    """`keep`, `hash`, or `auto`: hash the names of DICOM files and keep those of others."""
    split: dict[str, float] = field(default_factory=dict)
    """Share of the groups that goes to each split; none: videos have the split that a list says."""
    shard_mb: int = 256
    """A new shard begins before this many MB (10^6 bytes) are passed."""

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """Reads what `dataclasses.asdict` made of settings; unknown ones, of a later release, are ignored.

        Raises:
            ValueError: one has a value of another type.
        """
        values = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        for name, default in vars(cls()).items():
            value = values.get(name, default)
            allowed = (int, float) if isinstance(default, float) else type(default)
            is_right = isinstance(value, allowed) and isinstance(value, bool) == isinstance(default, bool)
            if is_right and isinstance(value, int | float):
                is_right = 0 <= value < 1 << 62
            if not is_right or value not in CHOICES.get(name, (value,)):
                raise ValueError(f"the setting {name} is {repr(value)[:80]}")
        for name, share in values.get("split", {}).items():
            name.encode()  # half a surrogate pair could not be written again
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise ValueError(f"the setting split gives {name[:80]!r} {repr(share)[:80]}")
        return cls(**values)
