"""Video files as they come: pixel formats, times, and what containers may hold besides."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.helpers.videos import moving_texture, write_video
from usucl_fast.errors import DecodeError
from usucl_fast.pack import find_sources
from usucl_fast.pack.decode import open_video
from usucl_fast.pack.picture import has_color, luma

TEXTURE = moving_texture(6, 64, 96, seed=0)
COLOR = moving_texture(6, 64, 96, seed=0, color=True)


def decode(path: Path) -> list[tuple[av.VideoFrame, float]]:
    (source,), _ = find_sources([path])
    return list(open_video(source).pictures)


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [
        ("ffv1", "gray"),
        ("ffv1", "gray10le"),
        ("ffv1", "yuv411p"),
        ("ffv1", "yuv444p16le"),
        ("ffv1", "bgr0"),
        ("huffyuv", "rgb24"),
        ("mjpeg", "yuvj422p"),
        ("libx264", "yuv420p10le"),
        ("libx264", "nv12"),
        ("qtrle", "argb"),
        ("rawvideo", "rgb555le"),
        ("rawvideo", "pal8"),
        ("png", "rgb48be"),
    ],
)
def test_odd_pixel_formats_are_seen_as_they_are(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    path = tmp_path / "a.avi"
    if codec in ("qtrle", "png"):
        path = tmp_path / "a.mov"
    if pix_fmt == "pal8":
        path = tmp_path / "a.gif"
        codec, pix_fmt = "gif", "gray"  # FFmpeg decodes its palette
    for pictures, colored in ((TEXTURE, False), (COLOR, True)):
        if colored and pix_fmt.startswith("gray"):
            continue
        write_video(path, pictures, codec, pix_fmt=pix_fmt)
        found = decode(path)
        assert len(found) == len(pictures)
        last = found[-1][0]
        box = (0, 0, last.width, last.height)
        assert has_color(last, box) == colored
        expected = pictures[-1].astype(float) @ (0.299, 0.587, 0.114)
        # Video levels (16 to 235) are stretched where a picture is stored, not where motion is looked at.
        shown = np.corrcoef(luma(last).ravel(), expected.ravel())[0, 1]
        assert shown > 0.98


def test_times_of_a_variable_frame_rate_are_kept(tmp_path: Path) -> None:
    times = [0, 1, 2, 10, 11, 40]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=50, options={"bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 50)
        for at, picture in zip(times, TEXTURE, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 50)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert np.allclose([at for _, at in decode(tmp_path / "a.mp4")], np.array(times) / 50)


def test_a_codec_that_nobody_knows_is_named_so(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", TEXTURE, "libx264")
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.count(b"avc1") >= 1
    (tmp_path / "a.mp4").write_bytes(content.replace(b"avc1", b"zzzz"))
    with pytest.raises(DecodeError, match="is of a codec that this FFmpeg does not know"):
        decode(tmp_path / "a.mp4")


def test_texts_that_are_no_utf_8_do_no_harm(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        container.metadata["title"] = "Herz-XX"
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuvj420p"
        for picture in TEXTURE:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = (tmp_path / "a.avi").read_bytes()
    assert content.count(b"Herz-XX") == 1
    (tmp_path / "a.avi").write_bytes(content.replace(b"Herz-XX", b"Herz-\xe4\xff"))
    assert len(decode(tmp_path / "a.avi")) == len(TEXTURE)
