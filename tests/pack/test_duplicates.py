import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.videos import moving_texture, write_video
from usucl_fast.pack import PackSettings, find_sources, pack


def test_copies_across_groups_are_found_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "in"
    videos = [moving_texture(32, 120, 160, seed) for seed in range(6)]
    for number, video in enumerate(videos):
        write_video(root / f"{number}.mp4", video, "libx264")
    shutil.copy(root / "0.mp4", root / "copy of 0.mp4")
    small = np.stack([np.asarray(Image.fromarray(picture).resize((120, 90))) for picture in videos[1]])
    write_video(root / "1 smaller.avi", small, "mpeg4")
    write_video(root / "2 slower.mp4", videos[2][::2], "libx264", rate=12)
    write_video(root / "3 another machine.mp4", np.flip(videos[3], axis=2), "libx264")
    summary = pack(find_sources([root])[0], tmp_path / "out", PackSettings(size=64), workers=2)
    found = {(tuple(sorted(pair["videos"])), pair["kind"]) for pair in summary["duplicates"]}
    assert found == {
        (("0.mp4", "copy of 0.mp4"), "exact"),
        (("1 smaller.avi", "1.mp4"), "near"),
        (("2 slower.mp4", "2.mp4"), "near"),
    }
