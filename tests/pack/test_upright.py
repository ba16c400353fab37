"""Pictures as they are meant to be seen, against Pillow's and FFmpeg's own ways."""

import struct
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.helpers.videos import moving_texture, write_video
from usucl_fast.pack.container import open_container
from usucl_fast.pack.images import open_images
from usucl_fast.pack.upright import Upright, frame_of


def decoded(files: list[Path]) -> tuple[list[np.ndarray], list[float], list[str]]:
    video = open_images(tuple(files))
    shown = [(picture.to_ndarray(format="rgb24").astype(int), time) for picture, time in video.pictures]
    return [picture for picture, _ in shown], [time for _, time in shown], video.notes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_are_pillows(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(moving_texture(1, 48, 80, 0)[0])
    exif = Image.Exif()
    exif[0x112] = orientation
    image.save(tmp_path / "0.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "0.jpg") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored), int)
    (shown,), _, notes = decoded([tmp_path / "0.jpg"])
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < 2
    assert bool(notes) == (orientation != 1)


@pytest.mark.system
@pytest.mark.parametrize("turn", [90, 180, 270])
def test_display_matrices_are_ffmpegs(tmp_path: Path, turn: int) -> None:
    write_video(tmp_path / "p.mp4", moving_texture(2, 64, 96, 0), "libx264")
    run = ["ffmpeg", "-v", "error", "-y", "-i", str(tmp_path / "p.mp4"), "-c", "copy", "-metadata:s:v:0"]
    subprocess.run([*run, f"rotate={turn}", str(tmp_path / "turned.mp4")], check=True)
    with av.open(str(tmp_path / "turned.mp4")) as container:
        if not next(container.decode(video=0)).rotation:
            pytest.skip("this FFmpeg writes no display matrix")
    show = [
        "ffmpeg",
        "-v",
        "error",
        "-y",
        "-i",
        str(tmp_path / "turned.mp4"),
        "-frames:v",
        "1",
        str(tmp_path / "f.png"),
    ]
    subprocess.run(show, check=True)
    with Image.open(tmp_path / "f.png") as image:
        expected = np.asarray(image.convert("RGB"), int)
    video = open_container(tmp_path / "turned.mp4")
    found = next(iter(video.pictures))[0].to_ndarray(format="rgb24").astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 2


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        pytest.param((1, 0, 0, 1), lambda one: one, id="as it is"),
        pytest.param((-1, 0, 0, 1), np.fliplr, id="mirrored"),
        pytest.param((1, 0, 0, -1), np.flipud, id="upside down"),
        pytest.param((-1, 0, 0, -1), lambda one: np.rot90(one, 2), id="half a turn"),
        pytest.param((0, 1, -1, 0), lambda one: np.rot90(one, -1), id="clockwise"),
        pytest.param((0, -1, 1, 0), np.rot90, id="counter-clockwise"),
        pytest.param((0, 1, 1, 0), lambda one: one.swapaxes(0, 1), id="x and y exchanged"),
        pytest.param((0, -1, -1, 0), lambda one: np.rot90(one, 2).swapaxes(0, 1), id="both"),
    ],
)
def test_display_matrices_turn_and_mirror(
    tmp_path: Path, matrix: tuple[int, int, int, int], shown: Callable[[np.ndarray], np.ndarray]
) -> None:
    file = tmp_path / "p.mp4"
    write_video(file, moving_texture(2, 64, 96, 0), "libx264")
    expected = shown(next(iter(open_container(file).pictures))[0].to_ndarray(format="rgb24").astype(int))
    content = file.read_bytes()
    at = content.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), content.index(b"tkhd"))
    a, b, c, d = (sign << 16 for sign in matrix)
    file.write_bytes(content[:at] + struct.pack(">5i", a, b, 0, c, d) + content[at + 20 :])
    found = next(iter(open_container(file).pictures))[0].to_ndarray(format="rgb24").astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 2


@pytest.mark.parametrize(
    ("aspect", "size"), [((4, 3), (128, 64)), ((1, 2), (96, 128)), ((40, 1), (96, 64)), ((1, 1), (96, 64))]
)
def test_pixels_that_are_not_square_are_stretched(
    tmp_path: Path, aspect: tuple[int, int], size: tuple[int, int]
) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        for picture in moving_texture(3, 64, 96, 0):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode())
    video = open_container(tmp_path / "a.mp4")
    assert {(picture.width, picture.height) for picture, _ in video.pictures} == {size}
    assert bool(video.notes) == (size != (96, 64))


def test_transparent_parts_are_black(tmp_path: Path) -> None:
    pixels = np.full((40, 60, 4), 200, np.uint8)
    pixels[:10, :, 3], pixels[10:, :, 3], pixels[20:30, :, 3] = 0, 255, 128
    Image.fromarray(pixels).save(tmp_path / "0.png")
    Image.fromarray(pixels).save(tmp_path / "1.webp", lossless=True, exact=True)
    (png, webp), _, notes = decoded([tmp_path / "0.png", tmp_path / "1.webp"])
    for shown in (png, webp):
        assert (shown[:10].max(), shown[12:18].min()) == (0, 200)
        assert np.abs(shown[22:28] - 100).max() <= 2
    assert "transparent" in notes[0]


def test_all_pages_of_a_stack_are_frames(tmp_path: Path) -> None:
    pages = [Image.fromarray(picture[..., 0]) for picture in moving_texture(5, 32, 48, 0)]
    pages[0].save(tmp_path / "s1.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "s2.tif")
    shown, times, notes = decoded([tmp_path / "s1.tif", tmp_path / "s2.tif"])
    assert [np.array_equal(one[..., 0], np.asarray(page)) for one, page in zip(shown, [*pages, pages[0]], strict=True)]
    assert times == [0, 1, 2, 3, 4, 5]
    assert notes == []


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_all_pictures_of_an_animation_are_frames_over_black(tmp_path: Path, kind: str) -> None:
    pages = []
    for level in (200, 100, 50):
        pixels = np.full((32, 48, 4), level, np.uint8)
        pixels[:8, :, 3], pixels[8:, :, 3] = 0, 255
        pages.append(Image.fromarray(pixels))
    pages[0].save(tmp_path / f"0.{kind}", save_all=True, append_images=pages[1:], lossless=True)
    shown, times, _ = decoded([tmp_path / f"0.{kind}"])
    assert [(one[:8].max(), one[10, 10, 0]) for one in shown] == [(0, 200), (0, 100), (0, 50)]
    assert times == [0, 1, 2]


def test_few_bits_in_sixteen_are_the_whole_range(tmp_path: Path) -> None:
    stored = (np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 4096).astype(np.uint16)
    Image.fromarray(stored // 4).save(tmp_path / "0.png")  # the first is darker than the rest
    Image.fromarray(stored).save(tmp_path / "1.png")
    (first, second), _, notes = decoded([tmp_path / "0.png", tmp_path / "1.png"])
    np.testing.assert_array_equal(second[..., 0], stored >> 4)
    np.testing.assert_array_equal(first[..., 0], stored >> 6)
    assert "12 bits in 16" in notes[0]


def test_few_bits_in_sixteen_of_a_video(tmp_path: Path) -> None:
    stored = moving_texture(4, 32, 48, 0)[..., 0].astype(np.uint16) * 16 + 15  # up to 12 bits
    stored[0] //= 8  # the first is darker than the rest
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "gray16le"
        for picture in stored:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray16le")))
        container.mux(stream.encode())
    video = open_container(tmp_path / "a.mkv")
    shown = np.stack([picture.to_ndarray(format="gray") for picture, _ in video.pictures])
    np.testing.assert_array_equal(shown, stored >> 4)
    assert "12 bits in 16" in video.notes[0]


def test_a_turned_picture_of_few_bits(tmp_path: Path) -> None:
    stored = (np.arange(40 * 60, dtype=np.uint16).reshape(40, 60) % 1024).astype(np.uint16)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(stored).save(tmp_path / "0.png", exif=exif)
    (shown,), _, notes = decoded([tmp_path / "0.png"])
    np.testing.assert_array_equal(shown[..., 0], np.rot90(stored, 3) >> 2)
    assert len(notes) == 2


def test_pictures_of_several_sizes_keep_their_shape() -> None:
    upright = Upright()
    wide, high = np.full((40, 80, 3), 9, np.uint8), np.full((80, 40, 3), 200, np.uint8)
    upright(frame_of(wide))
    shown = upright(frame_of(high)).to_ndarray(format="rgb24")
    assert shown.shape == wide.shape
    assert (np.ptp(np.flatnonzero(shown[20, :, 0] > 100)) + 1, (shown[:, 40, 0] > 100).sum()) == (20, 40)
    assert "several sizes" in upright.notes[0]


def test_times_never_go_back(tmp_path: Path) -> None:
    write_video(tmp_path / "a.ts", moving_texture(10, 32, 48, 0), "mpeg2video")
    half = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(half + half)
    video = open_container(tmp_path / "joined.ts")
    times = [time for _, time in video.pictures]
    assert len(times) >= 18
    np.testing.assert_allclose(np.diff(times), 1 / 25, atol=0.045)
    assert min(np.diff(times)) > 0
    assert "times that go back" in video.notes[0]
