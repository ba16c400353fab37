"""One video -> its encoded frames, as tar members in a spool file. Runs in a worker process."""

import hashlib
import itertools
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

import av
import numpy as np
from av.video.reformatter import Interpolation

from usucl_fast.errors import DecodeError
from usucl_fast.pack.ahead import decoded_ahead
from usucl_fast.pack.contact_sheet import thumbnail_pair, thumbnail_size
from usucl_fast.pack.decode import open_video
from usucl_fast.pack.duplicates import look_at
from usucl_fast.pack.limits import TimeLimit
from usucl_fast.pack.picture import Storage, has_color, luma
from usucl_fast.pack.sector import FILE, MOTION, NOTHING, REGIONS, Polygon, Sector, similar
from usucl_fast.pack.sectors_page import thumbnails
from usucl_fast.pack.segments import Timed, label_frames
from usucl_fast.pack.task import Spooled, Task
from usucl_fast.pack.video import Header, Kept, Video, thin
from usucl_fast.shards import BLOCK, MEMBER_SUFFIX, ROW, MemberHeader, PackSettings, VideoRecord

if TYPE_CHECKING:
    from usucl_fast.pack.motion import Motion

# The sector is looked for in the first frames, which are held back until it is found, and in one of LATER after them.
EARLY_FRAMES, EARLY_BYTES = 32, 1 << 27
LATER = 4


class TooShortError(DecodeError):
    """A video with fewer frames than are asked for."""


def spool(task: Task) -> Spooled:
    """Packs one video into `task.path`.

    A grey video is stored in one channel; one with colour in any frame as RGB throughout, unless the settings say
    otherwise. Its sector is found in its first frames; if the whole video shows another one in the end, the video is
    packed a second time.

    Raises:
        TooShortError: it has fewer frames than the settings ask for.
        DecodeError: it does not decode to its end, or may not be stored. The text names no file and no patient.
    """
    outcome: Spooled | _Way = _Way(grey=task.settings.color != "rgb")
    if task.settings.sector == "auto":
        import usucl_fast.pack.motion  # noqa: F401 - SciPy takes long to import: before the time limit begins
    stages = _Stages()
    try:
        while isinstance(outcome, _Way):
            with TimeLimit(task.path, task.time_limit) as limit:
                outcome = _spool(task, outcome, stages, limit)
    except (av.FFmpegError, ValueError) as error:  # a picture of a kind that cannot be converted
        raise DecodeError(f"has a picture that cannot be stored ({type(error).__name__})") from error
    return outcome


@dataclass(frozen=True)
class _Way:
    """How a video is packed: whether in grey, and with which sector (None: not known yet), found how."""

    grey: bool
    sector: Sector | None = None
    how: str = ""


def _spool(task: Task, way: _Way, stages: "_Stages", limit: TimeLimit) -> Spooled | _Way:
    """Packs the video in this way, or returns another way in which it has to be packed from its start."""
    settings = task.settings
    video = open_video(task.source, settings.damaged)
    warning = _check_annotation(video.header, settings)
    timed = Timed(video.pictures)
    decoded = decoded_ahead(iter(timed)) if task.ahead else iter(timed)
    pictures = limit.each(thin(replace(video, pictures=decoded), settings.every, settings.fps))
    early = _take_early(pictures)
    shown = len(early) // 2 if settings.sector != "none" else -1
    stages.lap("decode")
    motion = _watch(early, video.header) if way.sector is None and settings.sector == "auto" else None
    way, sector = _with_sector(way, task, early[0].picture, motion)
    with task.path.open("wb") as file:
        frames = _Frames(file, task, Storage(early[0].picture, sector, way.grey, settings), stages)
        stages.lap("clean")
        for number, kept in enumerate(itertools.chain(_drain(early), pictures)):
            stages.lap("decode")
            if way.grey and settings.color == "auto" and has_color(kept.picture, sector.box):
                return replace(way, grey=False, sector=None if motion else sector)
            if motion and number >= EARLY_FRAMES and number % LATER == 0:
                motion.add(luma(kept.picture))
            stages.lap("clean")
            frames.append(kept, sector if number == shown else None)
    later = motion.sector() if motion and len(frames.rows) > EARLY_FRAMES else None
    if motion and later and (motion.loses(sector, later) or not similar(sector, later)):
        return replace(way, sector=later, how=MOTION)
    stages.lap("clean")
    if len(frames.rows) < settings.min_frames:
        raise TooShortError(f"has {len(frames.rows)} frames, fewer than --min-frames {settings.min_frames}")
    warnings = [warning, _check_found(video.header, settings, way.how), *video.notes]
    labels = None
    if task.source.segments:
        labels = label_frames(task.source.segments, timed.times, video.frame_rate).of(np.array(frames.numbers))
        if unseen := labels.unseen():
            warnings.append(f"no frame that is kept has the label {', '.join(unseen)}")
    rows = np.array(frames.rows, ROW)
    look = look_at(task.path, rows)
    stored = thumbnails(task.path, rows) if settings.sector != "none" else []
    stages.lap("sheets")
    cut_out = {"how": way.how, "picture": sector.picture, "polygons": sector.polygons}
    return Spooled(
        record=_record(task, video, way, frames),
        length=frames.length,
        rows=rows,
        sector={} if settings.sector == "none" else cut_out,
        pair=frames.pair,
        stored=stored,
        look=look,
        warning="; ".join(filter(None, warnings)),
        labels=labels,
        stages=dict(stages.seconds),
    )


class _Frames:
    """Encodes frames and writes them to a spool file, as tar members.

    rows: of `ROW`.
    numbers: of the frames' pictures in the source.
    pair: a frame before and after.
    """

    def __init__(self, file: BinaryIO, task: Task, storage: Storage, stages: "_Stages") -> None:
        self.storage, self.length = storage, 0
        self.rows: list[tuple[int, float, int, int, int, int, int]] = []
        self.numbers: list[int] = []
        self.pair = np.empty((0, 0, 3), np.uint8)
        self.checksum = hashlib.sha256()
        self._file, self._stages = file, stages
        self._member = MemberHeader(task.id, MEMBER_SUFFIX[task.settings.codec])

    def append(self, kept: Kept, shown: Sector | None) -> None:
        """Encodes the next frame; with a sector, `shown`, also makes the pair of it."""
        pixels = self.storage.pixels(kept.picture)
        self._stages.lap("resize")
        data = self.storage.encode(pixels)
        self._stages.lap("encode")
        number = len(self.rows)
        self.rows.append((self.length + BLOCK, kept.time, len(data), 0, 0, number, zlib.crc32(data)))
        self.numbers.append(kept.number)
        header, padding = self._member.of(number, len(data)), bytes(-len(data) % BLOCK)
        self.length += self._file.write(b"".join((header, data, padding)))
        self.checksum.update(data)
        self._stages.lap("write")
        if shown:
            width, height = thumbnail_size(kept.picture.width, kept.picture.height)
            small = kept.picture.to_ndarray(
                width=width, height=height, format="rgb24", interpolation=Interpolation.AREA
            )
            self.pair = thumbnail_pair(small.astype(np.uint8), pixels, shown)
            self._stages.lap("clean")


def _record(task: Task, video: Video, way: _Way, frames: _Frames) -> VideoRecord:
    patient, settings = video.header.patient if video.header else "", task.settings
    return VideoRecord(
        id=task.id,
        name=task.name,
        group=task.group or (task.pseudonyms.of("group", patient) if task.pseudonyms and patient else ""),
        label=task.source.label,
        split=task.source.split,
        frames=len(frames.rows),
        height=frames.storage.height,
        width=frames.storage.width,
        color="grey" if way.grey else "rgb",
        frame_rate=min(video.frame_rate, settings.fps or video.frame_rate) / settings.every,
        checksum=frames.checksum.hexdigest(),
        source=task.digest,
    )


def _watch(early: Sequence[Kept], header: Header | None) -> "Motion":
    """Looks for motion in the first frames."""
    from usucl_fast.pack.motion import Motion  # brings SciPy, which the command's own process need not import

    first = early[0].picture
    motion = Motion(first.height, first.width, header.regions if header else ())
    for one in early:
        motion.add(luma(one.picture))
    return motion


def _with_sector(way: _Way, task: Task, first: av.VideoFrame, motion: "Motion | None") -> tuple[_Way, Sector]:
    """Adds the sector, if it is not known: by motion, a DICOM file's regions, `--sector FILE`, or the whole picture."""
    size = (first.width, first.height)
    if way.sector:
        return way, way.sector
    if not motion:
        sector, how = _given(task.outline, size), FILE
    elif found := motion.sector():
        sector, how = found, MOTION
    elif named := motion.regions():
        sector, how = named, REGIONS
    else:
        sector, how = Sector.of_boxes(size, ()), NOTHING
    return replace(way, sector=sector, how=how), sector


def _given(outline: tuple[Polygon, ...], size: tuple[int, int]) -> Sector:
    if not outline:
        return Sector.of_boxes(size, ())
    sector = Sector(size, outline)
    left, top, right, bottom = sector.box
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise DecodeError(f"is {size[0]} x {size[1]} pixels, and its polygons in --sector FILE reach out of that")
    return sector


def _check_annotation(header: Header | None, settings: PackSettings) -> str:
    if header and header.burned_in:
        return _refuse("says that text is burned into its pictures (BurnedInAnnotation)", settings)
    return ""


def _check_found(header: Header | None, settings: PackSettings, how: str) -> str:
    if how != NOTHING:
        return ""
    reason = "has no sector: nothing moves in it as one would, so all of its picture is kept, text included"
    if header:
        return _refuse(f"{reason}, and it names no region", settings)
    return "" if settings.burned_in == "allow" else f"{reason}; look at it, or say what to keep with --sector FILE"


def _refuse(reason: str, settings: PackSettings) -> str:
    """A warning, or none, or DecodeError, as the setting `burned_in` says."""
    if settings.burned_in == "refuse":
        raise DecodeError(f"{reason}; if its pictures show no patient's name, give --burned-in warn or allow")
    return reason if settings.burned_in == "warn" else ""


class _Stages:
    """Measures seconds by stage: the time since the last lap counts for the stage of this one."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._clock
        self._clock = now


def _take_early(pictures: Iterator[Kept]) -> deque[Kept]:
    early: deque[Kept] = deque()
    room = float(EARLY_BYTES)
    for kept in pictures:
        early.append(kept)
        room -= sum(plane.buffer_size for plane in kept.picture.planes)
        if len(early) == EARLY_FRAMES or room < 0:
            break
    if not early:
        raise DecodeError("holds no frame")
    return early


def _drain(early: deque[Kept]) -> Iterator[Kept]:
    while early:
        yield early.popleft()  # and its memory is free
