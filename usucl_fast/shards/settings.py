"""What the bytes of the shards depend on, beside the sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

CODECS = ("jpeg", "png")


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
    """`grey`, `rgb`, or `auto`: in colour where any frame of the video has some."""
    every: int = 1
    """Of so many frames one is kept."""
    fps: float = 0.0
    """Frames are left out down to this rate; 0 keeps all."""
    min_frames: int = 1
    """Videos with fewer kept frames are left out."""
    sector: str = "auto"
    """Where the ultrasound sector comes from that the frames are cropped to: `auto`, `none` or `file`."""
    damaged: str = "refuse"
    """`refuse` a video with damaged frames, `drop` these frames, or `warn` of them. FFmpeg conceals damage by made-up
    pixels, which must not be learned from unseen."""
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
        """What `dataclasses.asdict` made of settings; those of a later release are passed over.

        Raises:
            ValueError: one has a value of another type.
        """
        values = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        for name, default in vars(cls()).items():
            allowed = (int, float) if isinstance(default, float) else type(default)
            if not isinstance(values.get(name, default), allowed):
                raise ValueError(f"the setting {name} is {repr(values[name])[:80]}")
        if values.get("codec", cls.codec) not in CODECS:
            raise ValueError(f"the setting codec is {values['codec'][:80]!r}, and not one of {', '.join(CODECS)}")
        return cls(**values)
