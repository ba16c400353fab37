"""What a video to pack is, and which files are one."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from usucl_fast.pack.segments import Segment

# fmt: off
CONTAINERS = frozenset((
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2v", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
))
IMAGES = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
DICOM = frozenset((".dcm", ".dicom"))
DICOM_START = 132
"""Bytes at the start of a file that tell whether it is a DICOM file."""
# fmt: on

LITTER = frozenset(
    (
        *("__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "lost+found", "system volume information"),
        *("@recently-snapshot", "#snapshot"),
    )
)
"""Folders that operating systems leave behind, in lower case."""

Kind = Literal["container", "images", "dicom"]
File = TypeVar("File", bound=PurePath)


@dataclass(frozen=True)
class Source:
    """One video to pack.

    name: path relative to the folder it was found in, with `/`; for a file given by itself, its file name; from a
        list, its `id` or else its `path`.
    files: the video file, or the images of a frame folder in order.
    bytes: their total size.
    segments: labels and values of its frames.
    url: the folder that the files are in, where that is at a URL.
    versions: one of each file, which changes whenever that is written anew, as far as that can be seen.
    """

    name: str
    files: tuple[Path, ...]
    bytes: int
    kind: Kind
    group: str = ""
    label: str = ""
    split: str = ""
    segments: "tuple[Segment, ...]" = ()
    url: str = ""
    versions: tuple[str, ...] = ()


def kind_of(file: File, is_dicom: Callable[[File], bool]) -> Kind:
    """What the file of a video is, which may have any name."""
    return "dicom" if file.suffix.lower() in DICOM or is_dicom(file) else "container"


def videos_among(
    files: Sequence[File], is_dicom: Callable[[File], bool], others: Counter[str]
) -> tuple[list[File], list[File]]:
    """The videos among the files of a folder, or the images, if these are the frames of one.

    others: what else there is, by kind, is added to it.
    """
    videos = [file for file in files if _is_video(file, is_dicom)]
    images = [file for file in files if file not in videos and is_image(file)]
    others.update(
        file.suffix.lower() or "without extension" for file in files if file not in videos and file not in images
    )
    if videos:
        others.update(file.suffix.lower() for file in images)
    return videos, [] if videos else images


def _is_video(file: File, is_dicom: Callable[[File], bool]) -> bool:
    return file.suffix.lower() in CONTAINERS | DICOM or (may_be_dicom(file) and is_dicom(file))


def may_be_dicom(file: PurePath) -> bool:
    """Whether only the content tells: hospitals export DICOM without extension, or with the end of a UID for one."""
    return file.suffix.lower() not in CONTAINERS | DICOM | IMAGES and file.name != "DICOMDIR"  # which is only a table


def is_start_of_dicom(start: bytes) -> bool:
    """Whether a file with these first `DICOM_START` bytes is a DICOM file."""
    return start[128:] == b"DICM"


def is_image(file: PurePath) -> bool:
    """Whether it may be a frame of a frame folder."""
    return file.suffix.lower() in IMAGES


def natural(path: PurePath) -> tuple[tuple[int, str], ...]:
    """A sort key by which `9.jpg` comes before `10.jpg`."""
    return tuple((int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name))
