"""Labels of videos and of single frames, from the files that people have, to the shards."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest

from tests.helpers.commands import refused, usucl_shard
from tests.helpers.videos import moving_texture, write_video
from usucl_fast.errors import DecodeError, UsageError
from usucl_fast.pack import Source, by_name, read_labels
from usucl_fast.pack.segments import Segment, label_frames
from usucl_fast.shards import open_shards, verify

RATE, FRAMES = 10, 10
TIMES = [number / RATE for number in range(FRAMES)]


def source(name: str) -> Source:
    return Source(name, (), 1, "container")


SOURCES = [source("a.mp4"), source("covid/b.mp4"), source("video01.mp4")]


def read(path: Path, text: str, fps: float | None = None, sources: list[Source] = SOURCES) -> dict[str, Source]:
    path.write_text(text, encoding="utf-8")
    return {one.name: one for one in read_labels([path], sources, fps)[0]}


def shown(one: Source, times: list[float] = TIMES, rate: float = RATE) -> str:
    """A letter a frame, the first of its label; `.` for none."""
    labels = label_frames(one.segments, times, rate)
    return "".join((labels.names[code] or ".")[0] for code in labels.label)


def values(one: Source) -> list[float | None]:
    found = label_frames(one.segments, TIMES, RATE).value.tolist()
    return [None if math.isnan(value) else round(value, 4) for value in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("video,first,last,label\na.mp4,2,4,wall\na.mp4,7,7,fluid\n", "..www..f.."),
        ("video,first,label\na.mp4,0,wall\na.mp4,6,\na.mp4,8,fluid\n", "wwwwww..ff"),  # up to the next row
        ("video,start,end,label\na.mp4,0.2,0.5,wall\na.mp4,0.5,1,fluid\n", "..wwwfffff"),
        ("video;start;end;label\na.mp4;0,2;0:00:00,4;wall\n", "..ww......"),
        ("video,start,label\na.mp4,.3,wall\na.mp4,.7,fluid\n", "...wwwwfff"),
        ("video,frame,label\na.mp4,9,wall\na.mp4,0,fluid\n", "f........w"),
        ("Video, Frame ,LABEL\na.mp4,1,wall\na.mp4,2,wall\na.mp4,3,fluid\na.mp4,2,wall\n", ".wwf......"),
        ("video\tfirst\tlast\tlabel\na.mp4\t8\t9\twall\n", "........ww"),
    ],
)
def test_tables(tmp_path: Path, text: str, expected: str) -> None:
    assert shown(read(tmp_path / "l.csv", text)["a.mp4"]) == expected


def test_a_table_has_values_labels_and_facts_of_videos_beside_each_other(tmp_path: Path) -> None:
    text = "video,first,last,label,value,group\na.mp4,0,3,wall,1.5,p1\na.mp4,6,7,,-2,\ncovid/b.mp4,,,lung,,p2\n"
    read_all = read(tmp_path / "l.csv", text)
    a, b = read_all["a.mp4"], read_all["covid/b.mp4"]
    assert (a.group, a.label, b.group, b.label, b.segments) == ("p1", "", "p2", "lung", ())
    assert shown(a) == "wwww......"
    assert values(a) == [1.5] * 4 + [None] * 2 + [-2] * 2 + [None] * 2


def test_several_files_add_to_each_other_and_may_not_contradict(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("video,label,group\na.mp4,lung,p1\n")
    (tmp_path / "2.tsv").write_text("video\tframe\tvalue\na.mp4\t3\t7\n")
    a = read_labels([tmp_path / "1.csv", tmp_path / "2.tsv"], SOURCES)[0][0]
    assert (a.label, a.group, values(a)[3]) == ("lung", "p1", 7)
    (tmp_path / "3.csv").write_text("video,group\na.mp4,p2\n")
    with pytest.raises(UsageError, match=r"3\.csv: says that a\.mp4 is of group 'p2', and 'p1' before"):
        read_labels([tmp_path / "1.csv", tmp_path / "3.csv"], SOURCES)


def test_boris_aggregated_events(tmp_path: Path) -> None:
    header = (
        "Observation id,Observation date,Description,Media file,Total length,FPS,Subject,Behavior,Behavioral category,"
        "Modifiers,Behavior type,Start (s),Stop (s),Duration (s),Comment start,Comment stop\n"
    )
    row = "obs1,2024-01-02,,/home/me/videos/a.mp4,1.0,10,No focal subject,{},,,{},{},{},{},,\n"
    text = header + row.format("wall", "STATE", 0.1, 0.4, 0.3) + row.format("fluid", "POINT", 0.65, 0.65, "NA")
    one = read(tmp_path / "boris.csv", text)["a.mp4"]
    assert shown(one) == ".www..f..."  # at .65 s the frame of .6 s is seen


def test_cholec80_phases(tmp_path: Path) -> None:
    text = "Frame\tPhase\n" + "".join(f"{n}\t{'Preparation' if n < 4 else 'Clipping'}\n" for n in range(10))
    assert shown(read(tmp_path / "video01-phase.txt", text)["video01.mp4"]) == "PPPPCCCCCC"
    with pytest.raises(UsageError, match="needs a column video; the file's own name begins with that of no video"):
        read(tmp_path / "video02-phase.txt", text)


def test_echonet_file_list(tmp_path: Path) -> None:
    text = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\na,57.5,20,50,112,112,50,10,TRAIN\n"
    (tmp_path / "FileList.csv").write_text(text)
    (a, _, _), notes = read_labels([tmp_path / "FileList.csv"], SOURCES)
    assert (a.split, values(a)) == ("train", [57.5] * 10)
    assert "value (column 'EF')" in notes[0]
    assert "ignores ESV, EDV" in notes[0]
    assert "'a', taken for 'a.mp4'" in notes[1]


def label_studio(*results: dict[str, Any], video: str = "/data/upload/1/0123abcd-a.mp4") -> str:
    return json.dumps(
        [{"id": 5, "data": {"video": video}, "annotations": [{"result": list(results)}], "predictions": []}]
    )


def timeline(start: int, end: int, label: str) -> dict[str, Any]:
    value = {"ranges": [{"start": start, "end": end}], "timelinelabels": [label]}
    return {"type": "timelinelabels", "from_name": "l", "to_name": "video", "id": "x", "value": value}


def test_label_studio_counts_from_one_with_both_ends(tmp_path: Path) -> None:
    text = label_studio(timeline(1, 3, "wall"), timeline(9, 10, "fluid"))
    assert shown(read(tmp_path / "l.json", text, fps=10)["a.mp4"]) == "www.....ff"
    # 20 a second there, 10 here: its frames 3 to 6 are seen from .1 to .3 s.
    assert shown(read(tmp_path / "l.json", label_studio(timeline(3, 6, "wall")), fps=20)["a.mp4"]) == ".ww......."
    local = label_studio(timeline(2, 2, "wall"), video="/data/local-files/?d=my%20data/covid/b.mp4")
    assert shown(read(tmp_path / "l.json", local, fps=10)["covid/b.mp4"]) == ".w........"
    minimal = [{"video": "/data/upload/a.mp4", "id": 1, "marks": [timeline(4, 4, "wall")["value"]], "annotator": 1}]
    assert shown(read(tmp_path / "l.json", json.dumps(minimal), fps=10)["a.mp4"]) == "...w......"


def test_label_studio_is_refused_where_its_frames_are_others(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="24 by default, as --label-fps"):
        read(tmp_path / "l.json", label_studio(timeline(1, 3, "wall")))
    counted = {"type": "videorectangle", "value": {"framesCount": 24, "duration": 1.0, "sequence": [], "labels": []}}
    one = read(tmp_path / "l.json", label_studio(timeline(1, 3, "wall"), counted), fps=10)["a.mp4"]
    with pytest.raises(DecodeError, match=r"10\.0 at --label-fps 10, and its labels were made for 24"):
        shown(one)
    assert (
        shown(read(tmp_path / "l.json", label_studio(timeline(1, 12, "wall"), counted), fps=24)["a.mp4"])[:6]
        == "wwwww."
    )
    twice = json.loads(label_studio(timeline(1, 3, "wall")))
    twice[0]["annotations"] *= 2
    with pytest.raises(UsageError, match="task 5 was annotated 2 times"):
        read(tmp_path / "l.json", json.dumps(twice), fps=10)
    for text, message in (
        ("{", "is not JSON"),
        ("[[]]", "not an export of Label Studio"),
        ("[]", "holds no timeline labels"),
    ):
        with pytest.raises(UsageError, match=message):
            read(tmp_path / "l.json", text, fps=10)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><id>7</id><name>my task</name><size>10</size><mode>interpolation</mode>
<start_frame>2</start_frame><stop_frame>9</stop_frame><frame_filter>step=3</frame_filter>
<labels><label><name>wall</name></label></labels><source>a.mp4</source></task><dumped>2024</dumped></meta>{}</annotations>
"""


def test_cvat_for_images(tmp_path: Path) -> None:
    image = '<image id="{}" name="{}" width="32" height="32">{}</image>'
    tag, box = '<tag label="wall" source="manual"></tag>', '<box label="probe" xtl="1" ytl="1" xbr="2" ybr="2"></box>'
    named = image.format(0, "frame_000002", tag + box) + image.format(1, "frame_000005", "")
    assert shown(read(tmp_path / "l.xml", CVAT.format(named))["a.mp4"]) == "..w......."
    counted = image.format(1, "one.png", tag) + image.format(2, "two.png", tag)  # frames 2 + 3 n of the source
    assert shown(read(tmp_path / "l.xml", CVAT.format(counted))["a.mp4"]) == ".....w..w."
    both = image.format(0, "frame_000002", tag + tag.replace("wall", "fluid"))
    with pytest.raises(UsageError, match="frame 2 has several labels"):
        read(tmp_path / "l.xml", CVAT.format(both))


def test_cvat_for_video_without_a_track_is_refused_with_the_right_export(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"leaves tags out; export CVAT for images 1\.1"):
        read(tmp_path / "l.xml", CVAT.format(""))
    box = '<box frame="{}" outside="{}" xtl="1" ytl="1" xbr="2" ybr="2"></box>'
    track = '<track id="0" label="wall">' + box.format(0, 0) + box.format(1, 0) + box.format(2, 1) + "</track>"
    assert shown(read(tmp_path / "l.xml", CVAT.format(track))["a.mp4"]) == "..w..w...."
    with pytest.raises(UsageError, match="not XML of CVAT"):
        read(tmp_path / "l.xml", "<svg/>")


def test_excel(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    assert book.active
    for row in (("Video", "first", "last", "label", "value"), ("a.mp4", 2, 4.0, "wall", 0.25), (None, None, None)):
        book.active.append(row)
    book.save(tmp_path / "l.xlsx")
    a = read_labels([tmp_path / "l.xlsx"], SOURCES)[0][0]
    assert shown(a) == "..www....."
    assert values(a)[4] == 0.25
    (tmp_path / "l.xlsx").write_bytes(b"PK no")
    with pytest.raises(UsageError, match="not a readable table"):
        read_labels([tmp_path / "l.xlsx"], SOURCES)


def test_folders_and_names(tmp_path: Path) -> None:
    told, notes = read_labels([Path("folder")], SOURCES)
    assert [one.label for one in told] == ["", "covid", ""]
    assert notes == ["2 videos lie in no folder of SOURCE, and have no label"]
    with pytest.raises(UsageError, match="no video lies in a folder of SOURCE"):
        read_labels([Path("folder")], SOURCES[:1])
    assert [one.label for one in by_name(SOURCES, "label", r"(\w)\d*\.mp4")] == ["a", "b", "o"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,first,last,label\na.mp4,4,2,wall\n", "entry 1 ends before it begins"),
        ("video,first,last,label\na.mp4,4,,wall\n", "entry 1 has a first and no last"),
        (
            "video,first,last,label\na.mp4,0,4,wall\na.mp4,4,5,fluid\n",
            r"a\.mp4 is labelled more than once at frames 4 to 5",
        ),
        ("video,start,end,label\na.mp4,0,4,wall\na.mp4,3.9,5,wall\n", r"more than once at 3\.9 to 5 s, wall and wall"),
        ("video,frame,label\na.mp4,1,wall\na.mp4,1,fluid\n", "entry 2, frame 1, has two labels"),
        ("video,frame,label\na.mp4,-1,wall\n", "entry 1, '-1', is not the number of a frame"),
        ("video,frame,value\na.mp4,1,high\n", "entry 1, 'high', is not a number"),
        ("video,last,label\na.mp4,1,wall\n", "needs a column first"),
        ("video,first,frame,label\na.mp4,1,1,wall\n", "has the columns first and frame; keep one"),
        ("video,label\na.mp4,x\na.mp4,x\n", "more than once, without saying which frames"),
        ("video,file,frame,label\nno.mp4,a.mp4,1,wall\n", "1 of its 1 videos are not in SOURCE"),
        ("file,filename,label\na.mp4,a.mp4,wall\n", "'file' and 'filename' may both be video"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "l.csv", text)


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (Segment(8, 11, label="x"), "labelled at frames 8 to 10, and has 10 frames, from 0 to 9"),
        (Segment(1.5, 1.7, seconds=True, label="x"), "labelled at 1.5 to 1.7 s, and has 1 seconds"),
        (Segment(0.5, 1.5, seconds=True, label="x"), "labelled at 0.5 to 1.5 s"),
        (Segment(0.31, 0.39, seconds=True, label="x"), "where it has no frame"),
    ],
)
def test_what_lies_outside_the_video_is_refused(segment: Segment, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        label_frames([segment], TIMES, RATE)
    with pytest.raises(DecodeError, match="more than once at frame 2"):
        label_frames([Segment(0, 3, label="x"), Segment(0.2, 0.3, seconds=True, label="y")], TIMES, RATE)
    with pytest.raises(DecodeError, match="has no frame rate"):
        label_frames([Segment(0, 1, seconds=True, label="x")], TIMES, 0)


def test_whole_milliseconds_are_near_enough() -> None:
    times = [round(number / 30, 3) for number in range(30)]  # as Matroska keeps them: .033, .067, …
    one = Segment(1 / 30, 2 / 30, seconds=True, label="x")
    assert label_frames([one], times, 30).label.nonzero()[0].tolist() == [1]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        write_video(root / name, moving_texture(FRAMES, 32, 32, seed), "libx264", rate=RATE)
    return root


def test_labels_reach_the_shards_and_stay_when_videos_are_added(videos: Path, tmp_path: Path) -> None:
    root, out, labels = tmp_path / "v", tmp_path / "out", tmp_path / "l.csv"
    root.mkdir()
    (root / "b.mp4").write_bytes((videos / "b.mp4").read_bytes())
    labels.write_text("video,first,last,label,value\nb.mp4,2,4,wall,1\nb.mp4,6,6,fluid,\n")
    done = usucl_shard(root, out, "--size", 32, "--labels", labels, "--every", 2)
    assert done.exit_code == 0, done.output
    assert "uses video, first, last, label, value" in done.stderr
    found = open_shards(out).table.labels
    assert found
    assert list(found.label) == ["", "wall", "wall", "fluid", ""]  # frames 0, 2, 4, 6, 8
    assert found.value.tolist()[1:3] == [1, 1]
    assert found.segments[["first", "end", "rate"]].tolist() == [(2, 5, 10.0), (6, 7, 10.0)]
    np.testing.assert_allclose(found.segments["stop"], [0.5, 0.7])

    (root / "a.mp4").write_bytes((videos / "a.mp4").read_bytes())
    (root / "c.mp4").write_bytes((videos / "c.mp4").read_bytes())
    labels.write_text(labels.read_text() + "c.mp4,0,1,plaque,\nc.mp4,3,3,lost,\n")
    done = usucl_shard(root, out, "--size", 32, "--labels", labels, "--every", 2)
    assert done.exit_code == 0, done.output
    assert "c.mp4 no frame that is kept has the label lost" in done.stderr
    table = open_shards(out).table
    assert list(table.videos.name) == ["b.mp4", "a.mp4", "c.mp4"]
    assert table.labels
    assert list(table.labels.label) == ["", "wall", "wall", "fluid", "", *[""] * 5, "plaque", *[""] * 4]
    assert table.labels.segments["video"].tolist() == [0, 0, 2, 2]
    assert [table.labels.label.different[code] for code in table.labels.segments["label"]][-2:] == ["plaque", "lost"]
    assert verify(out) == []
    listed = usucl_shard("list", out).output
    assert "wall 2, fluid 1; 2 values" in listed
    assert "plaque 1" in listed

    (out / "frame_labels.npz").write_bytes((out / "frame_labels.npz").read_bytes()[:-1] + b"x")
    refused_by = usucl_shard("list", out)
    assert refused_by.exit_code == 1
    assert "frame_labels.npz was changed since it was written" in refused_by.stderr


def test_labels_by_rate_and_what_lies_outside(videos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "l.csv"
    labels.write_text("video,start,end,label\na.mp4,0,.5,wall\nb.mp4,2,3,wall\n")
    done = usucl_shard(videos, tmp_path / "out", "--size", 32, "--labels", labels, "--fps", 5)
    assert done.exit_code == 1
    assert "quarantined b.mp4: is labelled at 2 to 3 s, and has 1 seconds; correct --labels" in done.stderr
    table = open_shards(tmp_path / "out").table
    assert list(table.videos.name) == ["a.mp4", "c.mp4"]
    assert table.labels
    assert list(table.labels.label) == ["wall"] * 3 + [""] * 7  # at 0, .2, .4 s
    labels.write_text("video,frame,label\nno.mp4,0,wall\n")
    refused(usucl_shard(videos, tmp_path / "no", "--labels", labels), "l.csv", "no.mp4")
