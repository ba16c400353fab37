import csv
from pathlib import Path

import av
import numpy as np
from click.testing import CliRunner

from tools import make_phantoms
from usucl_fast.pack import find_sources, read_labels


def test_neighbours_are_alike_and_distant_frames_are_not() -> None:
    for number in (0, 3, 5):
        pictures, *_ = make_phantoms.make_video(seed=1, number=number, frames=48, height=120, width=160)
        near = make_phantoms.frame_correlation(pictures, 1)
        far = make_phantoms.frame_correlation(pictures, 16)
        assert near > far + 0.15


def test_text_and_ruler_are_static_and_outside_the_sector() -> None:
    pictures, *_ = make_phantoms.make_video(seed=1, number=0, frames=4, height=240, width=320)
    grid = make_phantoms.sector_grid(240, 320)[0]
    outside = ~(grid.abs() <= 1).all(dim=-1).numpy()
    assert all(np.array_equal(picture[outside], pictures[0][outside]) for picture in pictures)
    assert (pictures[0][outside] > 100).sum() > 100


def test_speckle_is_fully_developed() -> None:
    """In even tissue the envelope is Rayleigh distributed: mean / standard deviation = 1.91 (Goodman)."""
    anatomy = make_phantoms.draw_anatomy(1, 0, "normal")
    points = make_phantoms.scan_points(0.0, 0.0, np.zeros(3))
    thick = points / make_phantoms.BEAM_THICKNESS
    field = make_phantoms._point_spread(make_phantoms._sample(anatomy.scatterers, thick * 6, pitch=0.55))
    envelope = field.square().sum(0).sqrt()[100:220, 20:-20]
    assert abs(float(envelope.mean() / envelope.std()) - 1.91) < 0.12


def test_the_command_writes_videos_and_labels(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "v"), "--videos", "6", "--frames", "5", "--width", "96", "--height", "72"]
    result = CliRunner().invoke(make_phantoms.main, arguments)
    assert result.exit_code == 0, result.output
    with (tmp_path / "v" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["normal"] * 2 + ["benign"] * 2 + ["malignant"] * 2
    assert len({row["group"] for row in rows}) == 3
    with av.open(str(tmp_path / "v" / "phantom-005.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert [(frame.height, frame.width) for frame in container.decode(video=0)] == [(72, 96)] * 5
    assert len(read_labels([tmp_path / "v" / "labels.csv"], find_sources([tmp_path / "v"])[0])[0]) == 6
