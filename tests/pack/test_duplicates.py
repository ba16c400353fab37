import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.videos import moving_texture, write_video
from usucl_fast.pack import find_sources, pack
from usucl_fast.shards import PackSettings


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


def test_what_all_videos_of_a_machine_share_makes_no_duplicates(tmp_path: Path) -> None:
    """A sharp outline and rulers, in every video the same; a picture that stands still, twice."""
    root = tmp_path / "in"
    layout = np.zeros((120, 160, 1), bool)
    layout[10:110, 40:120] = True
    for number in range(4):
        picture = np.where(layout, 120 + moving_texture(24, 120, 160, number) // 8, 0)
        picture[:, ::10, :30] = 255
        write_video(root / f"{number}.mp4", picture.astype(np.uint8), "libx264")
    write_video(root / "still.mp4", np.repeat(moving_texture(1, 120, 160, 9), 24, axis=0), "libx264")
    shutil.copy(root / "still.mp4", root / "still again.mp4")
    summary = pack(find_sources([root])[0], tmp_path / "out", PackSettings(size=64, sector="none"), workers=2)
    (pair,) = summary["duplicates"]
    assert pair == {"videos": ["still again.mp4", "still.mp4"], "kind": "exact", "similarity": 1.0}
