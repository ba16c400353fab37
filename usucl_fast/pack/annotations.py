"""Files of annotation programs (Label Studio's JSON, CVAT's XML) -> labelled segments."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from usucl_fast.errors import UsageError
from usucl_fast.pack.segments import Segment, joined

UPLOAD = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that was uploaded."""
FRAME = re.compile(r"frame_(\d+)")
"""How CVAT calls a picture of a video: by its number in the source, from 0."""


def read_label_studio(path: Path, fps: float | None) -> dict[str, list[Segment]]:
    """Timeline labels by video, from Label Studio's JSON or JSON-MIN.

    Its ranges count frames from 1, both ends included, at the frame rate set in its Video tag.

    fps: that rate.

    Raises:
        UsageError: the file is not from Label Studio, `fps` is missing, or several people labelled one video.
    """
    what = f"--labels {path}"
    try:
        tasks = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{what}: is not JSON ({error})") from error
    found: defaultdict[str, list[Segment]] = defaultdict(list)
    try:
        for task in tasks if isinstance(tasks, list) else [tasks]:
            regions = _regions(task, what)
            if not regions:
                continue
            if not fps:
                raise UsageError(
                    f"{what}: give the frame rate of Label Studio's Video tag, 24 by default, as --label-fps"
                )
            values = [region.get("value", region) for region in regions]
            frames = max((int(value["framesCount"]) for value in values if value.get("framesCount")), default=0)
            for value in values:
                for label in value.get("timelinelabels", ()):
                    for place in value["ranges"]:
                        start, end = (float(place["start"]) - 1) / fps, float(place["end"]) / fps
                        if not 0 <= start < end:
                            raise UsageError(f"{what}: has a range from {place['start']} to {place['end']}")
                        found[_video(task, what)].append(
                            Segment(start, end, seconds=True, label=str(label), rate=fps, frames=frames)
                        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{what}: is not an export of Label Studio ({type(error).__name__}: {error})") from error
    if not found:
        raise UsageError(f"{what}: holds no timeline labels; export JSON from a project with a TimelineLabels tag")
    return dict(found)


def _regions(task: dict[str, Any], what: str) -> list[dict[str, Any]]:
    """The annotations of a task, made by one person."""
    if "annotations" in task and isinstance(task["annotations"], list):
        done = [one["result"] for one in task["annotations"] if one.get("result") and not one.get("was_cancelled")]
        if len(done) > 1:
            raise UsageError(f"{what}: task {task.get('id')} was annotated {len(done)} times; keep one annotation")
        return list(done[0]) if done else []
    lists = (entries for entries in task.values() if isinstance(entries, list))
    return [entry for entries in lists for entry in entries if isinstance(entry, dict) and "timelinelabels" in entry]


def _video(task: dict[str, Any], what: str) -> str:
    """The name of a task's video, from its URL."""
    data = task.get("data", task)
    url = (
        data.get("video")
        or data.get("videos")
        or next((value for value in data.values() if isinstance(value, str) and "." in value), None)
    )
    if not url:
        raise UsageError(f"{what}: task {task.get('id')} names no video")
    name = unquote(str(url)).partition("?d=")
    return UPLOAD.sub("", (name[2] or name[0]).rpartition("/")[2])


def read_cvat(path: Path) -> dict[str, list[Segment]]:
    """Tags of frames by video, from CVAT's "CVAT for images 1.1" XML; without tags, the labels of the shapes drawn.

    "CVAT for video 1.1" leaves tags out; of it, a frame has the label of the track that is visible in it.

    Raises:
        UsageError: the file is not from CVAT, has no labels, or a frame has several.
    """
    what = f"--labels {path}"
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UsageError(f"{what}: is not XML ({error})") from error
    tasks = {task.findtext("id", ""): task for kind in ("task", "job") for task in root.iterfind(f"./meta//{kind}")}
    if root.tag != "annotations" or not tasks:
        raise UsageError(f"{what}: is not XML of CVAT; export CVAT for images 1.1")
    if root.find("image") is None and root.find("track") is None:
        raise UsageError(f"{what}: has no labels, for CVAT for video 1.1 leaves tags out; export CVAT for images 1.1")
    has_tags = root.find("./image/tag") is not None
    labels: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for task, frame, label, kind in (*_in_images(root), *_in_tracks(root)):
        if has_tags and kind != "tag":
            continue
        about = tasks.get(task) or next(iter(tasks.values()))
        number = _number(about, frame)
        video = about.findtext("source") or about.findtext("name") or ""
        if labels[video].setdefault(number, label) != label:
            raise UsageError(f"{what}: frame {number} has several labels, {label} among them; a frame has one")
    if not labels:
        raise UsageError(f"{what}: no frame of it has a tag")
    return {
        video: joined({frame: (label, math.nan) for frame, label in frames.items()}) for video, frames in labels.items()
    }


def _in_images(root: ElementTree.Element) -> Iterator[tuple[str, str, str, str]]:
    """Task, frame, label and kind of every annotation of a single frame."""
    for image in root.iterfind("image"):
        name = FRAME.search(image.get("name", ""))
        for child in image:
            if child.get("label"):
                frame = f"={name[1]}" if name else image.get("id", "0")
                yield image.get("task_id", ""), frame, child.get("label", ""), child.tag


def _in_tracks(root: ElementTree.Element) -> Iterator[tuple[str, str, str, str]]:
    for track in root.iterfind("track"):
        for shape in track:
            if shape.get("outside") != "1" and shape.get("frame"):
                yield track.get("task_id", ""), shape.get("frame", "0"), track.get("label", ""), "track"


def _number(task: ElementTree.Element, frame: str) -> int:
    """The number of a frame in its source: given after `=`, or computed from its place in the task."""
    if frame.startswith("="):
        return int(frame[1:])
    step = re.search(r"step=(\d+)", task.findtext("frame_filter") or "")
    return int(task.findtext("start_frame") or 0) + int(frame) * int(step[1] if step else 1)
