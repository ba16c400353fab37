import csv
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import median_filter

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


def test_the_truth_is_in_the_pictures() -> None:
    """What frames.csv says of the lumen is what can be counted in the pictures: it is the dark part of the middle."""
    made = make_phantoms.make_video(seed=1, number=0, frames=32, height=120, width=160)
    pictures = median_filter(made.pictures, (1, 7, 7))[:, 20:110, 40:120]
    dark = (pictures < 0.6 * np.median(pictures)).mean(axis=(1, 2))
    assert np.corrcoef(dark, [frame.value for frame in made.truth])[0, 1] > 0.95
    assert {frame.label for frame in made.truth} == {"normal"}
    assert not any(frame.lesion_area for frame in made.truth)


@pytest.mark.parametrize(("patient", "label"), [(1, "benign"), (2, "malignant")])
def test_a_lesion_is_seen_at_one_place_of_the_body(patient: int, label: str) -> None:
    places = []
    for number in (2 * patient, 2 * patient + 1):
        made = make_phantoms.make_video(seed=1, number=number, frames=48, height=120, width=160)
        area = np.array([frame.lesion_area for frame in made.truth])
        shown = np.array([frame.label == label for frame in made.truth])
        assert (made.label, made.group) == (label, f"patient-{patient:02d}")
        assert 2 < shown.sum() < 36
        assert np.flatnonzero(shown).tolist() == np.flatnonzero(area >= make_phantoms.VISIBLE).tolist()
        places.append(np.average([frame.position for frame in made.truth], weights=area))
    assert abs(places[0] - places[1]) < 0.2


def test_machines_show_one_sweep_differently_and_always_alike() -> None:
    one, two = (make_phantoms.draw_machine(0, number) for number in (1, 2))
    shown = [make_phantoms.make_video(1, 4, 6, 96, 128, machine) for machine in (one, two, one)]
    assert np.array_equal(shown[0].pictures, shown[2].pictures)
    assert shown[0].truth == shown[2].truth
    assert np.abs(shown[0].pictures.astype(int) - shown[1].pictures).mean() > 10
    assert make_phantoms.machine_of(0, 5, 1) == make_phantoms.STANDARD
    assert len({make_phantoms.machine_of(0, number, 3).name for number in range(20)}) == 3
    assert len({make_phantoms.machine_of(0, number, 0).name for number in range(20)}) == 20


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
    with (tmp_path / "v" / "frames.csv").open() as file:
        truth = list(csv.DictReader(file))
    assert list(truth[0]) == ["video", "frame", "label", "value", "lesion_area", "position"]
    assert [(row["video"], row["frame"]) for row in truth[4:6]] == [("phantom-000.mp4", "4"), ("phantom-001.mp4", "0")]
    fewer = CliRunner().invoke(make_phantoms.main, [str(tmp_path / "w"), "--videos", "2", *arguments[3:]])
    assert fewer.exit_code == 0  # a video is the same whatever is made beside it
    assert (tmp_path / "w" / "frames.csv").read_text() in (tmp_path / "v" / "frames.csv").read_text()
    assert len(read_labels([tmp_path / "v" / "labels.csv"], find_sources([tmp_path / "v"])[0])[0]) == 6
