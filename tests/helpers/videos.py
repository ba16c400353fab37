"""Small made-up videos in real containers, for the tests."""

from pathlib import Path

import av
import numpy as np
from PIL import Image


def moving_texture(frames: int, height: int, width: int, seed: int, color: bool = False) -> np.ndarray:
    """uint8 `[frames, height, width, 3]`: smooth noise that drifts; grey unless `color`."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 2, (width + 2 * frames) // 8 + 2), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(coarse).resize((width + 2 * frames, height), Image.Resampling.BICUBIC))
    grey = np.stack([wide[:, 2 * t : 2 * t + width] for t in range(frames)])
    pictures = np.repeat(grey[..., None], 3, axis=-1)
    if color:
        pictures[frames // 2 :, :, : width // 3, 2] //= 4  # a yellow tint, from the middle of the video on
    return pictures


def write_video(path: Path, pictures: np.ndarray, codec: str, rate: int = 25, pix_fmt: str = "yuv420p") -> None:
    """Writes uint8 `[frames, height, width, 3]` in the container of the path's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = pix_fmt
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode())


def write_frame_folder(folder: Path, pictures: np.ndarray) -> None:
    """Writes `00000.jpg`, … grey."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0]).save(folder / f"{number:05d}.jpg", quality=95)


VIDEOS = {  # name: frames, height, width, codec, pix_fmt
    "a.mp4": (40, 96, 128, "libx264", "yuv420p"),
    "b c.avi": (30, 100, 80, "mpeg4", "yuv420p"),
    "deep/er/d.e (1).mov": (24, 64, 64, "libx264", "yuv420p"),
    "deep/f.MPEG": (25, 96, 96, "mpeg2video", "yuv420p"),
    "herz-ü.gif": (12, 80, 96, "gif", "gray"),
    "short.mp4": (5, 96, 96, "libx264", "yuv420p"),
    "one.mp4": (1, 96, 96, "libx264", "yuv420p"),
    "doppler.mp4": (16, 96, 96, "libx264", "yuv420p"),
    "small.mp4": (20, 40, 50, "libx264", "yuv420p"),
}
FOLDER, FOLDER_FRAMES = "frames/g", 14


def write_all(root: Path) -> dict[str, int]:
    """Writes one of everything, and `labels.csv`; returns the frames by name."""
    for seed, (name, (frames, height, width, codec, pix_fmt)) in enumerate(VIDEOS.items()):
        pictures = moving_texture(frames, height, width, seed, color=name.startswith("doppler"))
        write_video(root / name, pictures, codec, pix_fmt=pix_fmt)
    write_frame_folder(root / FOLDER, moving_texture(FOLDER_FRAMES, 90, 70, seed=99))
    names = {**{name: spec[0] for name, spec in VIDEOS.items()}, FOLDER: FOLDER_FRAMES}
    lines = [f"{name},{'lung' if n % 2 else 'liver'},patient-{n // 2}\n" for n, name in enumerate(sorted(names))]
    (root / "labels.csv").write_text("video,label,group\n" + "".join(lines), encoding="utf-8")
    return names
