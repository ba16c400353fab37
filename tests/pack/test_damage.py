"""Damage in the middle of videos, and videos that are cut off: refused, dropped, or told of."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from tests.helpers.dicoms import write_dicom
from tests.helpers.videos import moving_texture, write_frame_folder, write_video
from usucl_fast.cli.shard import main
from usucl_fast.errors import DecodeError
from usucl_fast.pack.container import open_container
from usucl_fast.pack.images import open_images
from usucl_fast.pack.video import Video, thin
from usucl_fast.shards import open_shards

TEXTURE = moving_texture(40, 96, 128, seed=0)
KINDS = {  # file: codec, pixel format
    "a.mp4": ("libx264", "yuv420p"),
    "b.mpg": ("mpeg2video", "yuv420p"),
    "c.avi": ("mpeg4", "yuv420p"),
    "d.mkv": ("ffv1", "gray"),
    "e.avi": ("mjpeg", "yuvj420p"),
    "f.avi": ("huffyuv", "rgb24"),
    "g.gif": ("gif", "gray"),
    "h.mov": ("png", "rgb24"),
    "i.avi": ("rawvideo", "gray"),
    "j.ts": ("libx264", "yuv420p"),
}


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound video of a kind."""
    path = tmp_path_factory.mktemp("whole") / request.param
    write_video(path, TEXTURE, *KINDS[request.param][:1], pix_fmt=KINDS[request.param][1])
    return path


def drawn(video: Video) -> dict[int, tuple[np.ndarray, float]]:
    """By number in the source: grey levels and time of what is kept."""
    return {kept.number: (kept.picture.to_ndarray(format="gray").astype(int), kept.time) for kept in thin(video, 1, 0)}


def broken(path: Path, harm: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    harm(data)
    other = path.with_name(f"broken{path.suffix}")
    other.write_bytes(data)
    return other


def cut(data: bytearray) -> None:
    del data[len(data) * 6 // 10 :]


def overwrite(data: bytearray) -> None:
    data[len(data) // 2 : len(data) // 2 + 400] = b"\xff" * 400


def test_a_sound_video_is_not_called_damaged(whole: Path) -> None:
    video = open_container(whole)
    assert len(drawn(video)) == len(TEXTURE)
    assert video.notes == []
    assert video.left_out == set()


@pytest.mark.parametrize("harm", [cut, overwrite])
def test_damage_is_refused_dropped_or_told_of(whole: Path, harm: Callable[[bytearray], None]) -> None:
    if harm is overwrite and KINDS[whole.name][0] in ("rawvideo", "huffyuv"):
        pytest.skip("any bytes are a picture in this codec")
    if harm is cut and whole.suffix == ".mpg":
        pytest.skip("says nowhere how long it is")
    path = broken(whole, harm)
    with pytest.raises(DecodeError) as refused:
        drawn(open_container(path))
    if harm is cut and whole.suffix in (".mp4", ".mov"):
        assert "does not open" in str(refused.value)  # its index was at the end
        return
    assert "--damaged drop or warn" in str(refused.value)
    sound = drawn(open_container(whole))
    video = open_container(path, "drop")
    kept = drawn(video)
    assert 1 < len(kept) < len(sound)
    for number, (picture, time) in kept.items():
        assert np.abs(picture - sound[number][0]).mean() < 3
        assert time == pytest.approx(sound[number][1], abs=0.011)  # a GIF counts in hundredths
    assert video.notes
    warned = open_container(path, "warn")
    assert kept.keys() <= drawn(warned).keys()
    assert warned.notes


def test_a_lost_frame_leaves_the_numbers_of_the_others(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mov", TEXTURE, "png", pix_fmt="rgb24")
    path = broken(tmp_path / "a.mov", overwrite)
    for policy in ("drop", "warn"):
        video = open_container(path, policy)
        kept = drawn(video)
        assert len(kept) == len(TEXTURE) - 1
        (gone,) = set(range(len(TEXTURE))) - kept.keys()
        assert 10 < gone < 30
        for number, (picture, time) in kept.items():
            np.testing.assert_array_equal(picture, TEXTURE[number, ..., 0])
            assert time == pytest.approx(number / 25)
        assert video.notes == ["has 1 frames that do not decode, left out"]


def test_the_end_of_a_gif(tmp_path: Path) -> None:
    """Whole ones of Pillow, with tables of colours of their own, and such as are followed by something."""
    pages = [Image.fromarray(picture).quantize(32) for picture in moving_texture(5, 32, 48, 0, color=True)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:], duration=40, comment=b"of; mine")
    assert len(drawn(open_container(tmp_path / "a.gif"))) == 5
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "b.gif").write_bytes(data + b"\0\0")
    assert len(drawn(open_container(tmp_path / "b.gif"))) == 5
    (tmp_path / "c.gif").write_bytes(data[:-1])
    with pytest.raises(DecodeError, match="cut off"):
        drawn(open_container(tmp_path / "c.gif"))


def test_a_damaged_image_of_a_folder(tmp_path: Path) -> None:
    write_frame_folder(tmp_path / "f", TEXTURE[:6])
    files = tuple(sorted((tmp_path / "f").iterdir()))
    for place in (0, 3):
        data = files[place].read_bytes()
        files[place].write_bytes(data[: len(data) // 2])
    with pytest.raises(DecodeError, match=r"image 1 of 6 .*--damaged drop or warn"):
        drawn(open_images(files))
    video = open_images(files, "drop")
    assert {number: time for number, (_, time) in drawn(video).items()} == {1: 1, 2: 2, 4: 4, 5: 5}
    assert [note[:21] for note in video.notes] == ["image 1 of 6, left ou", "image 4 of 6, left ou"]
    warned = open_images(files, "warn")
    assert list(drawn(warned)) == [0, 1, 2, 3, 4, 5]
    assert [note[:10] for note in warned.notes] == ["image 1 of", "image 4 of"]  # a file's name may be a patient's


def test_the_command_names_what_is_damaged(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "a.mpg", TEXTURE, "mpeg2video")
    write_video(tmp_path / "in" / "b.mpg", TEXTURE, "mpeg2video")
    (tmp_path / "in" / "b.mpg").write_bytes(broken(tmp_path / "in" / "b.mpg", overwrite).read_bytes())
    (tmp_path / "in" / "broken.mpg").unlink()
    options = ["--sector", "none", "--workers", "1"]
    done = CliRunner().invoke(main, [str(tmp_path / "in"), str(tmp_path / "out"), *options])
    assert done.exit_code == 1
    assert "quarantined b.mpg: is damaged at frame" in done.output
    done = CliRunner().invoke(main, [str(tmp_path / "in"), str(tmp_path / "out2"), *options, "--damaged", "drop"])
    assert done.exit_code == 0
    assert "warning: b.mpg has" in done.output
    table = open_shards(tmp_path / "out2").table
    whole, dropped = (table.rows["time"][a:b] for a, b in zip(table.first_row[:-1], table.first_row[1:], strict=True))
    assert len(whole) == 40
    assert 5 < len(dropped) < 40
    assert set(dropped.tolist()) < set(whole.tolist())


def test_codecs_do_not_write_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libjpeg and OpenJPEG print what they find wrong, without saying in which file."""
    for name, syntax in {"jpeg": JPEGBaseline8Bit, "jpeg-2000": JPEG2000Lossless}.items():
        file = tmp_path / "videos" / f"{name}.dcm"
        write_dicom(file, moving_texture(4, 64, 96, 0)[..., 0], syntax=syntax)
        content = bytearray(file.read_bytes())
        for place in range(len(content) * 2 // 3, len(content) - 100, 97):
            content[place] ^= 0x55
        file.write_bytes(content)
    options = ["--sector", "none", "--burned-in", "allow", "--salt", str(tmp_path / "salt"), "--workers", "1"]
    CliRunner().invoke(main, [str(tmp_path / "videos"), str(tmp_path / "shards"), *options])
    assert capfd.readouterr().err == ""
