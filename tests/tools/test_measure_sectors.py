import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from tests.helpers.videos import moving_texture, write_video
from tools import measure_sectors
from usucl_fast.pack import find_sources, pack
from usucl_fast.pack.sector import Sector
from usucl_fast.shards import PackSettings


def test_light_outside_the_widened_outline_is_lost() -> None:
    light = np.zeros((100, 200), np.float32)
    light[:, :100] = 1
    light[:, 100:] = 3
    lost, kept = measure_sectors.measure(light, Sector.of_boxes((200, 100), [(0, 0, 97, 100)]))
    assert (lost, kept) == (0.75, 0.485)
    assert measure_sectors.measure(light, Sector.of_boxes((200, 100), ())) == (0, 1)
    assert measure_sectors.measure(np.zeros((100, 200), np.float32), Sector.of_boxes((200, 100), ())) == (0, 1)


def test_what_moves_has_light(tmp_path: Path) -> None:
    pictures = np.full((20, 64, 96, 3), 50, np.uint8)
    pictures[::2, :, :48] += 40  # a deviation of 20, a mean of 70
    write_video(tmp_path / "a.avi", pictures, "ffv1", pix_fmt="gray")
    light = measure_sectors.moving_light(find_sources([tmp_path])[0][0])
    assert (light[:, :48] == 70).all()
    assert (light[:, 52:] == 0).all()


def test_the_figures_of_packed_videos(tmp_path: Path) -> None:
    """Whole pictures lose nothing and are all alike; half of one loses the rest."""
    root, out = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate(("p/a.mp4", "p/b.mp4", "q/c.mp4")):
        write_video(root / name, moving_texture(16, 64, 96, seed), "libx264")
    sources = [replace(one, group=one.name[0]) for one in find_sources([root])[0]]
    pack(sources, out, PackSettings(), workers=1)
    sectors = json.loads((out / "sectors.json").read_bytes())
    sectors["p/a.mp4"]["polygons"] = [[[0, 0], [48, 0], [48, 64], [0, 64]]]
    (out / "sectors.json").write_text(json.dumps(sectors))
    result = CliRunner().invoke(measure_sectors.main, [str(out), str(root), "--json", str(tmp_path / "f.json")])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "f.json").read_bytes())
    by_name = {video["video"]: video for video in figures["videos"]}
    assert by_name["p/a.mp4"]["kept"] == 0.5
    assert 0.3 < by_name["p/a.mp4"]["lost"] < 0.6
    assert by_name["q/c.mp4"] == {"video": "q/c.mp4", "lost": 0, "kept": 1}
    assert figures["overlaps"] == [0.5]
    assert "p/a.mp4: " in result.output
    assert "1 pairs of a group: overlap under 0.8 in 1" in result.output
