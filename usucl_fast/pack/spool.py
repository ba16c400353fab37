"""One video -> its encoded frames, as tar members in a spool file. Runs in a worker process."""

import contextlib
import faulthandler
import hashlib
import itertools
import json
import time
import zipfile
import zlib
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from usucl_fast.errors import DecodeError, first_line
from usucl_fast.files import write_whole
from usucl_fast.pack.contact_sheet import thumbnail_pair, thumbnail_size
from usucl_fast.pack.decode import open_video
from usucl_fast.pack.identity import Pseudonyms
from usucl_fast.pack.picture import Storage, has_color, luma
from usucl_fast.pack.sector import Polygon, Sector, similar
from usucl_fast.pack.segments import Timed, VideoLabels, label_frames
from usucl_fast.pack.sources import Source
from usucl_fast.pack.video import Header, Kept, thin
from usucl_fast.shards import BLOCK, MEMBER_SUFFIX, ROW, MemberHeader, PackSettings, VideoRecord

if TYPE_CHECKING:
    from usucl_fast.pack.motion import Motion

# The sector is looked for in the first frames, which wait for the answer; every so many later ones are asked too.
EARLY_FRAMES, EARLY_BYTES = 32, 1 << 27
LATER = 4

LATE = ".late"  # beside a spool file: says, by not being empty, that a picture took too long
REARM_SECONDS = 0.1  # setting the time limit anew starts a thread, which takes as long as a small picture

MOTION, REGIONS, FILE, NOTHING = "moves", "DICOM regions", "file", "nothing moves: kept whole"  # how a sector is found

Pictures = Iterator[Kept]


class TooShortError(DecodeError):
    """A video with fewer frames than are asked for."""


@dataclass(frozen=True)
class Order:
    """One video to pack.

    id, name, group: what it is called in the shards.
    digest: of what is known of the source, for the record.
    outline: what to keep of its picture, where a file says so.
    pseudonyms: hashes the patient of a DICOM file, which is its group where it has no other.
    time_limit: seconds that a picture may take before the process ends itself.
    path: the spool file.
    """

    source: Source
    id: str
    name: str
    group: str
    digest: str
    outline: tuple[Polygon, ...]
    pseudonyms: Pseudonyms | None
    settings: PackSettings
    time_limit: float
    path: Path


@dataclass(frozen=True)
class Spooled:
    """A video packed into a spool file.

    length: bytes of the spool file.
    rows: `[frames]` of `ROW`, offsets from the start of the spool file; shard and video are left at 0.
    sector: what was kept of the picture: `how` it was found, size of the `picture` (width, height), `polygons`; empty
        where nothing was looked for.
    pair: uint8 `[h, w, 3]`, a frame before and after; without pixels where nothing was looked for.
    warning: what a person should look at.
    labels: of its frames, where any has one.
    stages: seconds spent by stage.
    """

    record: VideoRecord
    length: int
    rows: NDArray[np.void]
    sector: dict[str, Any]
    pair: NDArray[np.uint8]
    warning: str
    labels: VideoLabels | None
    stages: dict[str, float]

    def save(self, path: Path) -> None:
        """Writes all but the frames, whole or not at all."""
        facts = {**vars(self), "record": asdict(self.record), "rows": None, "pair": None}
        arrays: dict[str, Any] = {"rows": self.rows, "pair": self.pair}
        if self.labels:
            facts["labels"] = self.labels.names
            arrays |= {"label": self.labels.label, "value": self.labels.value, "segments": self.labels.segments}
        with write_whole(path) as file:
            np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)

    @staticmethod
    def load(path: Path) -> "Spooled":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: it is not there.
            zipfile.BadZipFile: it is damaged.
        """
        try:
            with np.load(path) as file:
                facts = json.loads(file["facts"].tobytes())
                facts |= {"record": VideoRecord(**facts["record"]), "rows": file["rows"], "pair": file["pair"]}
                if facts["labels"]:
                    facts["labels"] = VideoLabels(facts["labels"], file["label"], file["value"], file["segments"])
                return Spooled(**facts)
        except FileNotFoundError:
            raise
        except Exception as error:  # NumPy and zipfile raise whatever damage leads them to
            raise zipfile.BadZipFile(f"{path} is damaged ({first_line(error)})") from error


def spool(order: Order) -> Spooled:
    """Packs one video into `order.path`.

    A grey video is stored in one channel; one with colour in any frame as RGB throughout, where the settings do not
    say otherwise. Its sector is found in its first frames; where the whole video says otherwise in the end, it is
    packed a second time.

    Raises:
        TooShortError: it has fewer frames than the settings ask for.
        DecodeError: it does not decode to its end, or may not be stored. The text names no file and no patient.
    """
    try:
        way, stages = _Way(grey=order.settings.color != "rgb"), _Stages()
        while True:
            try:
                with _TimeLimit(order) as limit:
                    return _spool(order, way, stages, limit)
            except _AnotherWayError as other:
                way = other.way
    except (av.FFmpegError, ValueError) as error:  # a picture of a kind that cannot be converted
        raise DecodeError(f"has a picture that cannot be stored ({type(error).__name__})") from error


@dataclass(frozen=True)
class _Way:
    """How a video is packed: grey or not, and with which sector (None: not known yet), found how."""

    grey: bool
    sector: Sector | None = None
    how: str = ""


class _AnotherWayError(Exception):
    """What was seen later in the video asks for another way from its start."""

    def __init__(self, way: _Way) -> None:
        self.way = way


def _spool(order: Order, way: _Way, stages: "_Stages", limit: "_TimeLimit") -> Spooled:
    settings = order.settings
    video = open_video(order.source, settings.damaged)
    warning = _check_annotation(video.header, settings)
    timed = Timed(video.pictures)
    pictures = limit.each(thin(replace(video, pictures=iter(timed)), settings.every, settings.fps))
    early = _take_early(pictures)
    first, shown = early[0].picture, len(early) // 2
    stages.lap("decode")

    motion = None
    if way.sector is None:
        size = (first.width, first.height)
        if settings.sector == "auto":
            from usucl_fast.pack.motion import Motion  # brings SciPy, which the command's own process need not import

            motion = Motion(first.height, first.width, video.header.regions if video.header else ())
            for one in early:
                motion.add(luma(one.picture))
            way = _with_sector(way, motion, size)
        else:
            way = replace(way, sector=_given(order.outline, size), how=FILE)
    sector = way.sector
    assert sector  # by now
    storage = Storage(
        first,
        sector,
        size=settings.size,
        enlarge=settings.enlarge,
        grey=way.grey,
        codec=settings.codec,
        quality=settings.quality,
    )
    member = MemberHeader(order.id, MEMBER_SUFFIX[settings.codec])
    rows: list[tuple[int, float, int, int, int, int, int]] = []
    numbers: list[int] = []
    pair = np.empty((0, 0, 3), np.uint8)
    checksum, length = hashlib.sha256(), 0
    stages.lap("clean")

    with order.path.open("wb") as file:
        for number, (picture, at, in_source) in enumerate(itertools.chain(_drain(early), pictures)):
            stages.lap("decode")
            if way.grey and settings.color == "auto" and has_color(picture, sector.box):
                raise _AnotherWayError(replace(way, grey=False, sector=None if motion else sector))
            if motion and number >= EARLY_FRAMES and number % LATER == 0:
                motion.add(luma(picture))
            stages.lap("clean")
            pixels = storage.pixels(picture)
            stages.lap("resize")
            data = storage.encode(pixels)
            stages.lap("encode")
            rows.append((length + BLOCK, at, len(data), 0, 0, number, zlib.crc32(data)))
            numbers.append(in_source)
            length += file.write(b"".join((member.of(number, len(data)), data, bytes(-len(data) % BLOCK))))
            checksum.update(data)
            stages.lap("write")
            if number == shown and settings.sector != "none":
                width, height = thumbnail_size(picture.width, picture.height)
                small = picture.to_ndarray(width=width, height=height, format="rgb24", interpolation=Interpolation.AREA)
                pair = thumbnail_pair(small.astype(np.uint8), pixels, sector)
                stages.lap("clean")
    later = motion.sector() if motion and len(rows) > EARLY_FRAMES else None
    if motion and later and (motion.loses(sector, later) or not similar(sector, later)):
        raise _AnotherWayError(replace(way, sector=later, how=MOTION))
    stages.lap("clean")
    if len(rows) < settings.min_frames:
        raise TooShortError(f"has {len(rows)} frames, fewer than --min-frames {settings.min_frames}")
    warning = "; ".join(filter(None, (warning, _check_found(video.header, settings, way.how), *video.notes)))
    labels = None
    if order.source.segments:
        labels = label_frames(order.source.segments, timed.times, video.frame_rate).of(np.array(numbers))
        if unseen := labels.unseen():
            warning = "; ".join(filter(None, (warning, f"no frame that is kept has the label {', '.join(unseen)}")))
    patient = video.header.patient if video.header else ""
    record = VideoRecord(
        id=order.id,
        name=order.name,
        group=order.group or (order.pseudonyms.of("group", patient) if order.pseudonyms and patient else ""),
        label=order.source.label,
        split=order.source.split,
        frames=len(rows),
        height=storage.height,
        width=storage.width,
        color="grey" if way.grey else "rgb",
        frame_rate=min(video.frame_rate, settings.fps or video.frame_rate) / settings.every,
        checksum=checksum.hexdigest(),
        source=order.digest,
    )
    kept = {"how": way.how, "picture": sector.picture, "polygons": sector.polygons}
    return Spooled(
        record,
        length,
        np.array(rows, ROW),
        {} if settings.sector == "none" else kept,
        pair,
        warning,
        labels,
        dict(stages.seconds),
    )


def _given(outline: tuple[Polygon, ...], size: tuple[int, int]) -> Sector:
    if not outline:
        return Sector.of_boxes(size, ())
    sector = Sector(size, outline)
    left, top, right, bottom = sector.box
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise DecodeError(f"is {size[0]} x {size[1]} pixels, and its polygons in --sector FILE reach out of that")
    return sector


def _with_sector(way: _Way, motion: "Motion", size: tuple[int, int]) -> _Way:
    if found := motion.sector():
        return replace(way, sector=found, how=MOTION)
    if named := motion.regions():
        return replace(way, sector=named, how=REGIONS)
    return replace(way, sector=Sector.of_boxes(size, ()), how=NOTHING)


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
    """The warning, where there is to be one."""
    if settings.burned_in == "refuse":
        raise DecodeError(f"{reason}; if its pictures show no patient's name, give --burned-in warn or allow")
    return reason if settings.burned_in == "warn" else ""


class _Stages:
    """Seconds by stage: what has passed since the last lap is this stage's."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._clock
        self._clock = now


class _TimeLimit:
    """Ends this process where a picture takes too long, opening the file being as much as the first one.

    A decoder that hangs inside a library cannot be interrupted from Python, and may not even let go of its lock: it is
    faulthandler's thread that ends the process, on every system, after it has written where it hangs.
    """

    def __init__(self, order: Order) -> None:
        self._seconds = order.time_limit + REARM_SECONDS
        self._path = order.path.with_suffix(LATE)

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        self._arm()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def each(self, pictures: Pictures) -> Pictures:
        """The pictures, with time for each."""
        for picture in pictures:
            yield picture
            if time.monotonic() - self._armed > REARM_SECONDS:
                self._arm()

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)
        self._armed = time.monotonic()


def is_late(path: Path) -> bool:
    """Whether the process that made the spool file ended because a picture took too long."""
    late = path.with_suffix(LATE)
    return late.exists() and late.stat().st_size > 0


def _take_early(pictures: Pictures) -> deque[Kept]:
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


def _drain(early: deque[Kept]) -> Pictures:
    while early:
        yield early.popleft()  # and its memory is free
