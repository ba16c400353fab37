import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.videos import FOLDER, FOLDER_FRAMES, VIDEOS, moving_texture, write_frame_folder, write_video
from usucl_fast.errors import UsageError
from usucl_fast.pack import by_name, find_sources, read_labels
from usucl_fast.pack.decode import open_video
from usucl_fast.pack.identity import LONGEST_ID, escape, read_pseudonyms
from usucl_fast.pack.lists import read_list


def test_sources_are_found_by_kind(videos: Path) -> None:
    sources, others = find_sources([videos])
    assert [source.name for source in sources] == sorted({*VIDEOS, FOLDER})
    assert others == {".csv": 1}
    folder = next(source for source in sources if source.name == FOLDER)
    assert [file.name for file in folder.files] == [f"{n:05d}.jpg" for n in range(FOLDER_FRAMES)]


def test_images_sort_by_number_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    for name in ("10.png", "9.png", "._9.png"):
        Image.new("L", (32, 32)).save(tmp_path / "v" / name, format="png")
    (source,), _ = find_sources([tmp_path])
    assert [file.name for file in source.files] == ["9.png", "10.png"]


def test_a_root_of_images_is_one_video(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    for number in range(3):
        Image.new("L", (32, 32)).save(tmp_path / "scan" / f"{number}.png")
    (source,), _ = find_sources([tmp_path / "scan"])
    assert (source.name, len(source.files)) == ("scan", 3)


@pytest.mark.parametrize(
    ("names", "times"),
    [
        (["00000.jpg", "00001.jpg", "00004.jpg"], [0, 1, 4]),  # US_UCL's layout, with a gap
        (["v1_frame7.png", "v1_frame9.png", "v1_frame10.png"], [0, 2, 3]),
        (["left.png", "middle.jpg", "right.bmp"], [0, 1, 2]),  # USCL's: any name
    ],
)
def test_frame_folders_keep_gaps_and_take_any_image(tmp_path: Path, names: list[str], times: list[int]) -> None:
    folder = tmp_path / "video.one"
    folder.mkdir()
    for value, name in enumerate(names):
        Image.new("L", (32, 32), 60 * value).save(folder / name)
    (source,), _ = find_sources([tmp_path])
    assert source.name == "video.one"
    found = [
        (round(float(picture.to_ndarray(format="gray").mean())), at) for picture, at in open_video(source).pictures
    ]
    assert [at for _, at in found] == times
    assert np.allclose([value for value, _ in found], [0, 60, 120], atol=2)


def test_shards_and_what_systems_leave_behind_are_no_videos(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    for folder in ("@eaDir", "__MACOSX", "out", "lost+found", ".ipynb_checkpoints"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "b.mp4").touch()
    (tmp_path / "out" / "sectors-000.png").touch()
    (tmp_path / "out" / "usucl-000000.tar").touch()
    (tmp_path / "out" / "manifest.json").touch()
    sources, others = find_sources([tmp_path])
    assert [source.name for source in sources] == ["a.mp4"]
    assert others == {"folders of the system's": 3, "folders of shards": 1}


def test_what_cannot_be_read_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "closed").mkdir()
    (tmp_path / "notes").touch()
    iterdir, opened = Path.iterdir, Path.open

    def refuse(work: Callable[..., Any], name: str) -> Callable[..., Any]:
        def refused(path: Path, *arguments: Any) -> Any:
            if path.name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return work(path, *arguments)

        return refused

    monkeypatch.setattr(Path, "iterdir", refuse(iterdir, "closed"))
    monkeypatch.setattr(Path, "open", refuse(opened, "notes"))
    sources, others = find_sources([tmp_path])
    assert [source.name for source in sources] == ["a.mp4"]
    assert others == {f"folder {tmp_path / 'closed'} (Permission denied)": 1, "without extension": 1}


def test_a_colon_in_a_bare_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "x.mp4", moving_texture(3, 32, 32, 0), "libx264")
    (tmp_path / "x.mp4").rename(tmp_path / "2021-03-04T12:30:05.mp4")
    monkeypatch.chdir(tmp_path)
    (source,) = find_sources([Path()])[0]
    assert len(list(open_video(source).pictures)) == 3


def test_equal_names_in_two_roots_are_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_video(tmp_path / folder / "a.mp4", moving_texture(3, 32, 32, 0), "libx264")
    with pytest.raises(UsageError, match=r"two videos are named a\.mp4"):
        find_sources([tmp_path / "x", tmp_path / "y"])


def test_links_are_followed_inside_the_source_only(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    write_video(root / "deep" / "a.mp4", moving_texture(3, 32, 32, 0), "libx264")
    write_video(elsewhere / "b.mp4", moving_texture(3, 32, 32, 1), "libx264")
    (root / "out.mp4").symlink_to(elsewhere / "b.mp4")
    (root / "more").symlink_to(elsewhere)
    (root / "same.mp4").symlink_to("deep/a.mp4")
    (root / "deep" / "up").symlink_to("..")  # round and round
    (root / "gone.mp4").symlink_to("nowhere.mp4")
    sources, others = find_sources([root])
    assert [source.name for source in sources] == ["deep/a.mp4", "same.mp4"]
    assert others == {"links out of SOURCE": 2, "broken links": 1}
    names = [source.name for source in find_sources([root], follow_links=True)[0]]
    assert names == ["deep/a.mp4", "more/b.mp4", "out.mp4", "same.mp4"]


def test_a_name_that_is_not_utf8_is_told_apart(tmp_path: Path) -> None:
    for name in (b"a\xff.mp4", b"a\xfe.mp4"):
        write_video(tmp_path / "x.mp4", moving_texture(3, 32, 32, 0), "libx264")
        (tmp_path / "x.mp4").rename(tmp_path / name.decode("utf-8", "surrogateescape"))
    names = [source.name for source in find_sources([tmp_path])[0]]
    assert names == ["a\\xfe.mp4", "a\\xff.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,label\nno.mp4,x\n", r"1 of its 1 videos are not in SOURCE, first 'no\.mp4'"),
        ("name,label\na.mp4,x\n", "needs a column video"),
        ("video,label\na.mp4,x\na.mp4,y\n", "more than once"),
        ("video,label\na.mp4,x,y,z\n", "entry 1 has more fields than the header"),
        ("video,colour\na.mp4,x\n", "has none of the columns label, group, split"),
        ("video,label,Label \na.mp4,x,y\n", "has the column 'label' more than once"),
        ("video,groups\na.mp4,x\n", "has a column 'groups'; if group is meant"),
        ("", "has none of the columns"),
        ("video,label\n\0\n", "readable|zero byte|not in SOURCE"),
    ],
)
def test_wrong_labels_are_refused(videos: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_labels([tmp_path / "l.csv"], find_sources([videos])[0])


def test_columns_and_names_are_taken_as_they_are_meant(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "herz-u\u0308.mp4").touch()  # as macOS writes it
    (tmp_path / "v" / "b.mp4").touch()
    text = "\ufeff Video ,LABEL, Group,age\nherz-\u00fc.mp4, lung ,mu\u0308ller,40\nb.mp4,NA,m\u00fcller,nan\n"
    (tmp_path / "L.CSV").write_text(text, encoding="utf-8")
    b, heart = read_labels([tmp_path / "L.CSV"], find_sources([tmp_path / "v"])[0])[0]
    assert (heart.label, heart.group, b.label, b.group) == ("lung", "m\u00fcller", "", "m\u00fcller")


def test_rows_and_cells_of_a_spreadsheet_that_hold_nothing(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "l.csv").write_text("video,label\na.mp4,<NA>,,\n,\n\nb.mp4,lung\n, ,,\n")
    sources = read_labels([tmp_path / "l.csv"], find_sources([tmp_path])[0])[0]
    assert [(source.name, source.label) for source in sources] == [("a.mp4", ""), ("b.mp4", "lung")]
    (tmp_path / "l.csv").write_text("video,label\na.mp4,lung,x\n")
    with pytest.raises(UsageError, match="entry 1 has more fields than the header"):
        read_labels([tmp_path / "l.csv"], sources)


def test_links_that_lead_nowhere_or_to_themselves_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "here").symlink_to("there")
    (tmp_path / "there").symlink_to("here")
    (tmp_path / "gone.mp4").symlink_to("nothing.mp4")
    sources, others = find_sources([tmp_path])
    assert [source.name for source in sources] == ["a.mp4"]
    assert others == {"broken links": 4}


def test_paths_of_a_list_in_another_form_of_unicode(tmp_path: Path) -> None:
    (tmp_path / "mu\u0308ller").mkdir()
    (tmp_path / "mu\u0308ller" / "herz-u\u0308.mp4").touch()
    (tmp_path / "l.csv").write_text("path,label\nm\u00fcller/herz-\u00fc.mp4,lung\n", encoding="utf-8")
    ((source,), _) = read_list(tmp_path / "l.csv")
    assert source.files[0].exists()
    assert source.name == "m\u00fcller/herz-\u00fc.mp4"


def test_half_a_letter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "l.jsonl").write_text('{"video": "a.mp4", "label": "\\ud800"}')
    with pytest.raises(UsageError, match=r"entry 1, label .* is not a Unicode text"):
        read_labels([tmp_path / "l.jsonl"], find_sources([tmp_path])[0])


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_list_stands_for_a_folder(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / "a b.mp4", moving_texture(3, 32, 32, 0), "libx264")
    write_frame_folder(tmp_path / "x" / "frames", moving_texture(3, 32, 32, 0))
    path = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        path.write_text("path,id,label,group,split\na b.mp4,one,lung,p1,train\nx/frames,,,p2,\n")
    else:
        rows = [{"path": "a b.mp4", "id": "one", "label": "lung", "group": "p1", "split": "train"}]
        rows.append({"path": "x/frames", "group": "p2"})
        path.write_text("\n".join(json.dumps(row) for row in rows))
    (one, frames), note = read_list(path)
    assert note.endswith("uses path, id, label, group, split")
    assert (one.name, one.label, one.group, one.split, one.kind) == ("one", "lung", "p1", "train", "container")
    assert (frames.name, frames.group, frames.kind, len(frames.files)) == ("x/frames", "p2", "images", 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "path\nno.mp4\n", "entry 1, 'no.mp4', does not exist"),
        ("l.csv", "path,id\na.mp4,x\na.mp4,x\n", "names 'x' more than once"),
        ("l.csv", "path\n", "lists no video"),
        ("l.jsonl", '{"path": "a.mp4"}\n[]\n', "not a readable"),
        ("l.jsonl", '{"id": "x"}\n', "needs a column path"),
        ("l.jsonl", "{", "not a readable"),
    ],
)
def test_wrong_lists_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_list(tmp_path / name)


def test_groups_from_names(videos: Path) -> None:
    sources = find_sources([videos])[0]
    grouped = {source.name: source.group for source in by_name(sources, "group", r"^(.)")}
    assert grouped["a.mp4"] == "a"
    assert grouped["deep/f.MPEG"] == "d"
    with pytest.raises(UsageError, match=r"finds no group in 'a\.mp4'"):
        by_name(sources, "group", "deep")
    with pytest.raises(UsageError, match="not a regular expression"):
        by_name(sources, "group", "(")


def test_escaped_names_are_safe_and_different() -> None:
    names = ["a.mp4", "a_mp4", "a%2Emp4", "a/b.mp4", "a b.mp4", "ü.mp4", "x" * 200, "x" * 199 + "y"]
    ids = [escape(name) for name in names]
    assert len(set(ids)) == len(names)
    assert all(len(id) <= LONGEST_ID and not set(id) & set("./ ") and id.isascii() for id in ids)


def test_pseudonyms_depend_on_the_secret_alone(tmp_path: Path) -> None:
    first = read_pseudonyms(tmp_path / "deep" / "salt")
    assert (tmp_path / "deep" / "salt").stat().st_mode & 0o077 == 0
    again = read_pseudonyms(tmp_path / "deep" / "salt")
    other = read_pseudonyms(tmp_path / "salt")
    assert first.of("group", "DOE^JANE") == again.of("group", "DOE^JANE") != other.of("group", "DOE^JANE")
    assert len({first.of(kind, name) for kind in ("group", "video") for name in ("a", "b")}) == 4
    (tmp_path / "short").write_text("x")
    with pytest.raises(UsageError, match="holds fewer than 32 bytes"):
        read_pseudonyms(tmp_path / "short")
