"""What a hospital hands over comes out without a word of whose it is."""

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw

from tests.helpers.dicoms import write_dicom
from tests.helpers.videos import write_frame_folder, write_video
from usucl_fast.cli.shard import main
from usucl_fast.html import read_html_data
from usucl_fast.pack.contact_sheet import CAPTION, GAP
from usucl_fast.pack.contact_sheet import HEIGHT as SHEET_HEIGHT
from usucl_fast.shards import open_shards

SECRETS = ("DOE^JANE", "Jane Doe", "PID-4711", "19630401", "1.2.826.0.1.999.4711", "ACC-0815", "St Elsewhere")
HEIGHT, WIDTH = 240, 320


def screen(frames: int, seed: int, text: str = "DOE^JANE  PID-4711  1963-04-01") -> np.ndarray:
    """uint8 `[frames, 240, 320]`: live speckle in a fan, a name above it, a logo and a ruler beside it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    radius, angle = np.hypot(x - 160, y + 20), np.arctan2(x - 160, y + 20)
    fan = (radius > 70) & (radius < 230) & (abs(angle) < 0.5)
    picture = Image.new("L", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    draw.text((4, 2), text, fill=255)
    draw.text((4, 225), "St Elsewhere", fill=200)
    for tick in range(40, 220, 20):
        draw.line([(310, tick), (318, tick)], fill=220)
    rng = np.random.default_rng(seed)
    live = rng.integers(20, 220, (frames, HEIGHT, WIDTH), dtype=np.uint8)
    return np.where(fan, live, np.asarray(picture)).astype(np.uint8)


def live_area() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    radius, angle = np.hypot(x - 160, y + 20), np.arctan2(x - 160, y + 20)
    return (radius > 70 - 8) & (radius < 230 + 8) & (abs(angle) < 0.5 + 0.08)


def planted(**more: Any) -> dict[str, Any]:
    name, spoken, patient, birth, uid, accession, place = SECRETS
    return {
        "PatientName": name,
        "PatientID": patient,
        "PatientBirthDate": birth,
        "StudyInstanceUID": uid,
        "AccessionNumber": accession,
        "InstitutionName": place,
        "StudyDescription": f"follow-up of {spoken}",
        **more,
    }


def usucl_shard(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="usucl-shard")


def everything(out: Path) -> bytes:
    """All bytes of all files, and of PNG files what is compressed in them."""
    content = b""
    for path in sorted(out.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            content += path.name.encode() + data
            if path.suffix == ".png":
                content += Image.open(io.BytesIO(data)).convert("L").tobytes()
    return content


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Two patients' cines, under names that tell; one file that does not decode."""
    root = tmp_path / "clinic"
    write_dicom(root / "DOE^JANE 19630401" / "PID-4711", screen(24, 0), **planted())
    write_dicom(root / "DOE^JANE 19630401" / "1.2.826.0.1.999.4711.2", screen(20, 1), **planted())
    write_dicom(root / "other" / "IM_0001", screen(20, 2, "ROE^RICHARD"), PatientID="PID-4712")
    write_dicom(root / "DOE^JANE 19630401" / "broken ACC-0815.dcm", screen(9, 3), **planted())
    broken = root / "DOE^JANE 19630401" / "broken ACC-0815.dcm"
    broken.write_bytes(broken.read_bytes()[:5000])
    return root


def test_nothing_of_the_patient_is_in_the_shards(clinic: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = usucl_shard(clinic, out, "--salt", tmp_path / "salt", "--codec", "png", "--size", HEIGHT, "--workers", 1)
    assert result.exit_code == 1, result.output  # the broken one
    content = everything(out)
    assert not [secret for secret in (*SECRETS, "clinic", "IM_0001", "ROE", "PID-4712") if secret.encode() in content]
    store = open_shards(out)
    assert len(store.table.videos) == 3
    groups = [video.group for video in store.table.videos]
    assert len(set(groups)) == 2
    assert all(len(group) == 16 for group in groups)
    (quarantined,) = json.loads((out / "summary.json").read_bytes())["quarantined"]
    assert len(quarantined["source"]) == 16
    again = tmp_path / "again"
    usucl_shard(clinic, again, "--salt", tmp_path / "other", "--codec", "png", "--size", HEIGHT, "--workers", 1)
    assert not set(groups) & {video.group for video in open_shards(again).table.videos}


def test_outside_the_sector_everything_is_black(clinic: Path, tmp_path: Path) -> None:
    for codec in ("png", "jpeg"):
        out = tmp_path / codec
        usucl_shard(clinic, out, "--salt", tmp_path / "salt", "--codec", codec, "--size", 4096, "--workers", 1)
        store = open_shards(out)
        sectors = json.loads((out / "sectors.json").read_bytes())
        for number, video in enumerate(store.table.videos):
            kept = sectors[video.name]
            x, y = zip(*(point for polygon in kept["polygons"] for point in polygon), strict=True)
            assert (video.height, video.width) == (max(y) - min(y), max(x) - min(x))
            frame = Image.open(io.BytesIO(store.read(store.table.first_row[number : number + 1])[0].tobytes()))
            outside = ~live_area()[min(y) : max(y), min(x) : max(x)]
            assert outside.any()
            # A JPEG's ripples do not leave the blocks that the edge runs through.
            assert (np.asarray(frame)[outside] > (0 if codec == "png" else 40)).sum() == 0


def test_a_contact_sheet_shows_no_name(clinic: Path, tmp_path: Path) -> None:
    """The rows that the name is written in are a coarse mosaic in it: no letter's edge is left."""
    out = tmp_path / "out"
    usucl_shard(clinic, out, "--salt", tmp_path / "salt", "--workers", 1)
    sheet = np.asarray(Image.open(out / "sectors-000.png").convert("L")).astype(int)
    name = sheet[4:12, 4:90]  # the first thumbnail's top left corner
    jumps = np.abs(np.diff(name, axis=1)) > 8
    assert jumps.any(axis=0).sum() <= 10  # an edge each ten pixels at most
    first = read_html_data(out / "sectors.html")["videos"][0]  # the page shows the same pictures
    pair = Image.open(io.BytesIO(base64.b64decode(first["pair"].partition(",")[2])))
    assert np.abs(np.asarray(pair.convert("L"), int) - sheet[4 : 4 + pair.height, 4 : 4 + pair.width]).mean() < 4


def test_burned_in_text_is_refused_unless_allowed(tmp_path: Path) -> None:
    still = np.repeat(screen(1, 0), 5, axis=0)
    write_dicom(tmp_path / "in" / "live.dcm", screen(16, 0))
    write_dicom(tmp_path / "in" / "says so.dcm", screen(16, 1), BurnedInAnnotation="YES")
    write_dicom(tmp_path / "in" / "still.dcm", still)
    write_dicom(tmp_path / "in" / "still region.dcm", still, regions=[(60, 40, 260, 215)])
    common = [tmp_path / "in", "--salt", tmp_path / "salt", "--names", "keep", "--workers", 1, "--codec", "png"]
    summaries = {}
    for policy in ("refuse", "warn", "allow"):
        out = tmp_path / policy
        result = usucl_shard(common[0], out, *common[1:], "--burned-in", policy)
        assert result.exit_code == (1 if policy == "refuse" else 0), result.output
        summaries[policy] = json.loads((out / "summary.json").read_bytes())
    reasons = {entry["source"]: entry["reason"] for entry in summaries["refuse"]["quarantined"]}
    assert reasons.keys() == {"says so.dcm", "still.dcm"}
    assert "--burned-in warn" in reasons["says so.dcm"]
    assert {entry["source"] for entry in summaries["warn"]["warnings"]} == reasons.keys()
    assert summaries["allow"]["warnings"] == []
    assert summaries["warn"]["videos"] == summaries["allow"]["videos"] == 4
    sectors = json.loads((tmp_path / "refuse" / "sectors.json").read_bytes())
    assert {name: sector["how"] for name, sector in sectors.items()} == {
        "live.dcm": "moves",
        "still region.dcm": "DICOM regions",
    }
    assert sectors["still region.dcm"]["polygons"] == [[[60, 40], [260, 40], [260, 215], [60, 215]]]


def test_a_region_that_is_the_whole_picture_keeps_no_text_in_silence(tmp_path: Path) -> None:
    still, live = np.repeat(screen(1, 0), 5, axis=0), screen(16, 0)
    whole, nearly, below = (0, 0, WIDTH, HEIGHT), (1, 0, WIDTH - 1, HEIGHT), (0, 14, WIDTH, HEIGHT)
    for number, box in enumerate((whole, nearly, below)):
        write_dicom(tmp_path / "in" / f"still {number}.dcm", still, regions=[box])
        write_dicom(tmp_path / "in" / f"live {number}.dcm", live, regions=[box])
    options = ["--salt", tmp_path / "salt", "--names", "keep", "--workers", 1]
    assert usucl_shard(tmp_path / "in", tmp_path / "out", *options).exit_code == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    assert {entry["source"] for entry in summary["quarantined"]} == {"still 0.dcm", "still 1.dcm"}
    sectors = json.loads((tmp_path / "out" / "sectors.json").read_bytes())
    assert {name: sector["how"] for name, sector in sectors.items()} == {
        "still 2.dcm": "DICOM regions",
        **{f"live {number}.dcm": "moves" for number in range(3)},
    }


def test_where_no_sector_is_found_nothing_is_kept_in_silence(tmp_path: Path) -> None:
    still = np.repeat(screen(1, 0), 5, axis=0)
    write_video(tmp_path / "in" / "still.mp4", np.repeat(still[..., None], 3, axis=-1), "libx264")
    write_frame_folder(tmp_path / "in" / "one picture", still[:1, ..., None])
    write_video(tmp_path / "in" / "live.mp4", np.repeat(screen(16, 0)[..., None], 3, axis=-1), "libx264")
    for modality in ("US", "OT", "XC"):
        write_dicom(tmp_path / "in" / f"{modality}.dcm", still, Modality=modality)
    options = ["--salt", tmp_path / "salt", "--names", "keep", "--workers", 1]
    result = usucl_shard(tmp_path / "in", tmp_path / "out", *options)
    assert result.exit_code == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    assert {entry["source"] for entry in summary["quarantined"]} == {"US.dcm", "OT.dcm", "XC.dcm"}
    assert {entry["source"] for entry in summary["warnings"]} == {"still.mp4", "one picture"}
    for name in ("still.mp4", "one picture"):
        assert f"warning: {name} has no sector" in result.stderr
    sectors = json.loads((tmp_path / "out" / "sectors.json").read_bytes())
    assert {name: sector["how"].partition(":")[0] for name, sector in sectors.items()} == {
        "still.mp4": "nothing moves",
        "one picture": "nothing moves",
        "live.mp4": "moves",
    }
    with Image.open(tmp_path / "out" / "sectors-000.png") as sheet:
        captions = np.asarray(sheet).astype(int)[GAP + SHEET_HEIGHT : GAP + SHEET_HEIGHT + CAPTION]
    marked = np.array_split((captions[..., 0] > captions[..., 2] + 100).any(axis=0), 5)
    assert [bool(part.any()) for part in marked] == [False, True, True, False, False]  # live, one picture, still
    result = usucl_shard(tmp_path / "in", tmp_path / "allowed", *options, "--burned-in", "allow")
    assert result.exit_code == 0
    assert json.loads((tmp_path / "allowed" / "summary.json").read_bytes())["warnings"] == []


def test_light_that_comes_late_is_kept(tmp_path: Path) -> None:
    pictures = screen(64, 0)
    pictures[:40, 196:] = 0
    write_video(tmp_path / "in" / "a.avi", np.repeat(pictures[..., None], 3, axis=-1), "ffv1", pix_fmt="gray")
    assert usucl_shard(tmp_path / "in", tmp_path / "out", "--workers", 1).exit_code == 0
    (polygon,) = json.loads((tmp_path / "out" / "sectors.json").read_bytes())["a.avi"]["polygons"]
    assert max(y for _, y in polygon) >= 209


def test_hashed_names_are_hashed_on_the_terminal(clinic: Path, tmp_path: Path) -> None:
    write_dicom(clinic / "ROE^RICHARD still.dcm", np.repeat(screen(1, 0), 5, axis=0))
    salt = ["--salt", tmp_path / "salt"]
    result = usucl_shard(clinic, tmp_path / "out", *salt, "--workers", 1, "--burned-in", "warn")
    assert result.exit_code == 1
    assert not [secret for secret in (*SECRETS, "IM_0001", "ROE") if secret in result.output]
    summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    (broken,), (still,) = ([entry["source"] for entry in summary[key]] for key in ("quarantined", "warnings"))
    assert f"quarantined {broken}: " in result.stderr
    assert f"warning: {still} has no sector" in result.stderr
    assert "usucl-shard names SOURCE... tells which" in result.stderr
    shown = usucl_shard("names", clinic, *salt)
    assert shown.exit_code == 0
    assert f"{broken}  DOE^JANE 19630401/broken ACC-0815.dcm\n" in shown.stdout
    assert f"{still}  ROE^RICHARD still.dcm\n" in shown.stdout
    assert len(shown.stdout.splitlines()) == 5
    result = usucl_shard("names", clinic, "--salt", tmp_path / "other")
    assert result.exit_code == 2
    assert "there is no such file" in result.stderr
    assert not (tmp_path / "other").exists()


def test_none_of_the_hashed_videos_can_be_packed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "DOE^JANE.mp4").write_bytes(b"nothing")
    result = usucl_shard(tmp_path / "in", tmp_path / "out", "--names", "hash", "--salt", tmp_path / "salt")
    assert result.exit_code == 2
    assert "DOE" not in result.output


def test_a_corrected_sector_of_a_hashed_video_is_used(clinic: Path, tmp_path: Path) -> None:
    options = ["--salt", tmp_path / "salt", "--workers", 1]
    usucl_shard(clinic, tmp_path / "out", *options)
    sectors = json.loads((tmp_path / "out" / "sectors.json").read_bytes())
    name = min(sectors)
    sectors[name]["polygons"] = [[[100, 80], [220, 80], [220, 180]]]
    sectors["*"] = {"polygons": [[[60, 40], [260, 40], [260, 215]]]}
    (tmp_path / "my.json").write_text(json.dumps(sectors))
    result = usucl_shard(clinic, tmp_path / "mine", *options, "--sector", tmp_path / "my.json")
    assert result.exit_code == 1, result.output  # the broken one
    used = json.loads((tmp_path / "mine" / "sectors.json").read_bytes())
    assert {key: entry["polygons"] for key, entry in used.items()} == {key: sectors[key]["polygons"] for key in used}
    assert used[name]["polygons"] == [[[100, 80], [220, 80], [220, 180]]]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such names")
def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    """Red text, a title, a line of its own, letters from right to left."""
    evil = "a\x1b[31m\x1b]0;owned\x07\nwarning: all is well\u202e\x9b2J"
    shown = r"a\x1b[31m\x1b]0;owned\x07\nwarning: all is well\u202e\x9b2J"
    still = np.repeat(screen(1, 0)[..., None], 3, axis=-1)
    write_video(tmp_path / "in" / f"{evil}.mp4", np.repeat(still, 5, axis=0), "libx264")
    (tmp_path / "in" / f"{evil} 2.mp4").write_bytes(b"nothing")
    result = usucl_shard(tmp_path / "in", tmp_path / f"out {evil}", "--workers", 1)
    listed = usucl_shard("list", tmp_path / f"out {evil}")
    wrong = usucl_shard(tmp_path / "in" / f"{evil}.txt", tmp_path / "other")
    assert f"warning: {shown}.mp4 has no sector" in result.stderr
    assert f"quarantined {shown} 2.mp4: " in result.stderr
    assert shown in listed.stdout.replace("\n", "")
    assert shown in wrong.stderr
    assert wrong.exit_code == 2
    for output in (result.output, listed.output, wrong.output):
        assert not set(output) & {"\x1b", "\x07", "\x9b", "\u202e"}
        assert not [line for line in output.splitlines() if line.startswith("warning: all is well")]


def test_a_corrected_sector_is_used(tmp_path: Path) -> None:
    frames = np.repeat(screen(12, 0)[..., None], 3, axis=-1)
    write_video(tmp_path / "in" / "a.mp4", frames, "libx264")
    assert usucl_shard(tmp_path / "in", tmp_path / "out", "--workers", 1).exit_code == 0
    sectors = json.loads((tmp_path / "out" / "sectors.json").read_bytes())
    sectors["a.mp4"]["polygons"] = [[[100, 80], [220, 80], [220, 180]]]
    (tmp_path / "my.json").write_text(json.dumps(sectors))
    options = ["--sector", tmp_path / "my.json", "--codec", "png", "--workers", 1]
    assert usucl_shard(tmp_path / "in", tmp_path / "mine", *options).exit_code == 0
    store = open_shards(tmp_path / "mine")
    assert (store.table.videos[0].height, store.table.videos[0].width) == (100, 120)
    pixels = np.asarray(Image.open(io.BytesIO(store.read(np.array([0]))[0].tobytes())))
    assert pixels[:50, -50:].mean() > 50  # upper right: inside
    assert pixels[60:, :40].max() == 0  # lower left: outside
