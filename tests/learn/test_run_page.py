"""The page of a run: it holds what the run and the shards say, and nothing that would be fetched or obeyed."""

import base64
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import SAMPLE, copy_shards
from tests.helpers.commands import refused, usucl_train
from tests.helpers.forged import change_videos
from tests.helpers.servers import FaultyServer
from tests.helpers.training import EXECUTION, TINY
from usucl_fast.errors import DataError, UsageError
from usucl_fast.learn import page_of, train
from usucl_fast.learn.page.bank_map import bank_map
from usucl_fast.learn.page.curves import POINTS, curves
from usucl_fast.learn.page.negatives import negatives, soft_weights
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.learn.snapshots import read_snapshots
from usucl_fast.mining import soft_negative
from usucl_fast.shards import ShardStore, open_shards

STEPS = 20


def trained(out: Path, shards: Path = SAMPLE, recipe: str = "default", **settings: Any) -> Path:
    length = {"epochs": 0, "steps": STEPS, "tuples_per_video": 4, "batch_size": 8}
    config = make_config(recipe, {**TINY, **length, **settings})
    train(config, open_shards(shards), out, dataclasses.replace(EXECUTION, page_every=0))
    return out


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("page") / "run", cross_topk=(6, 6))


def test_a_page_shows_the_run(run: Path, sample: ShardStore) -> None:
    page = RunFolder(run).page
    data, table = data_of(page), sample.table
    titles = {curve["title"]: curve for curve in data["curves"]}
    losses = [line["loss"] for line in RunFolder(run).read_metrics()]
    assert titles["loss"]["values"] == pytest.approx(losses, rel=1e-4)
    assert titles["loss"]["steps"] == list(range(STEPS))
    assert {"window of the intra-video negatives, share of the video", "members of n̂"} <= {*titles}
    snapshots = read_snapshots(RunFolder(run).mined, len(table))
    assert data["negatives"]["anchors"] == snapshots["anchors"].tolist()
    assert [moment["step"] for moment in data["negatives"]["moments"]] == snapshots["step"].tolist()
    for at, row in enumerate(data["negatives"]["mined"]):
        for number, found in enumerate(row):
            for name in ("intra", "cross"):
                ids = [frame for frame in snapshots[name][at, number].tolist() if frame >= 0]
                assert [one[0] for one in found[name]] == ids
    text = page.read_text(encoding="utf-8")
    assert '"batch_size": 8' in re.sub("&quot;", '"', text)
    assert RunFolder(run).read_fingerprint() in text
    record = json.loads(RunFolder(run).config.read_text())["started"][0]
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or record["versions"]["torch"] in text


def test_the_pictures_are_the_frames(run: Path, sample: ShardStore) -> None:
    """Anchors and intra-video negatives as they are stored, to the byte; all others as thumbnails of the same."""
    data = data_of(RunFolder(run).page)
    snapshots = read_snapshots(RunFolder(run).mined, len(sample.table))
    whole = {int(frame) for name in ("anchors", "positive", "intra") for frame in snapshots[name].flat if frame >= 0}
    assert {int(frame) for frame in data["pictures"]} == whole
    for frame, url in data["pictures"].items():
        (stored,) = sample.read(np.array([int(frame)]))
        assert base64.b64decode(url.partition(",")[2]) == stored.tobytes()
    small = data["thumbnails"]
    assert not whole & {int(frame) for frame in small["places"]}
    assert {*data["map"]["frames"]} <= whole | {int(frame) for frame in small["places"]}
    atlases = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in small["atlases"]]
    assert max(max(atlas.size) for atlas in atlases) <= 4096
    for frame, (number, width, height) in small["places"].items():
        atlas, within = divmod(number, small["across"] ** 2)
        x, y = within % small["across"] * small["side"], within // small["across"] * small["side"]
        shown = np.asarray(atlases[atlas].convert("L").crop((x, y, x + width, y + height)), np.float64)
        (stored,) = sample.read(np.array([int(frame)]))
        picture = Image.open(io.BytesIO(stored.tobytes())).convert("L")
        expected = np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float64)
        assert abs(shown - expected).mean() < 6  # a JPEG of noise


def test_nothing_is_fetched_and_names_are_no_code(tmp_path: Path) -> None:
    name = "</script><script>alert(1)</script>\u202e"
    shards = tmp_path / "shards"
    copy_shards(SAMPLE, shards)
    change_videos(shards, lambda video: dataclasses.replace(video, name=f"{name}{video.id}"))
    page = RunFolder(trained(tmp_path / "run", shards)).page.read_text(encoding="utf-8")
    assert page.count("<script") == 2
    assert "alert(1)</script>" not in page
    assert "\u202e" not in page
    assert "\u202e" not in data_of(RunFolder(tmp_path / "run").page)["videos"]["0"]["name"]
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_written_anew_and_for_a_run_that_was_stopped(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    before = RunFolder(run).page.read_bytes()
    RunFolder(tmp_path / "run").page.unlink()
    result = usucl_train("page", tmp_path / "run")  # the run says where its shards are
    assert result.exit_code == 0, result.output
    assert RunFolder(tmp_path / "run").page.read_bytes() == before
    RunFolder(tmp_path / "run").summary.unlink()
    assert "not finished" in page_of(tmp_path / "run", open_shards(SAMPLE)).read_text()


def test_a_run_whose_page_cannot_be_made(run: Path, tmp_path: Path) -> None:
    refused(usucl_train("page", tmp_path / "none"), "none is not the folder of a run")
    shutil.copytree(run, tmp_path / "run")
    copy_shards(SAMPLE, tmp_path / "shards")
    change_videos(tmp_path / "shards", lambda video: dataclasses.replace(video, group=video.id))
    refused(usucl_train("page", tmp_path / "run", tmp_path / "shards"), "begun on other shards")
    folder = RunFolder(tmp_path / "run")
    config = folder.config.read_bytes()
    for damaged in ('[{"shards": 1}]', '{"started": [{"command": 1}, 7]}', "{"):
        folder.config.write_text(damaged)
        result = usucl_train("page", folder.path)
        assert result.exit_code in (1, 2)
        assert "config.json" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    folder.config.write_bytes(config)
    folder.metrics.write_text('{"step": "x", "loss": 1}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl is damaged"):
        page_of(folder.path, open_shards(SAMPLE))
    folder.metrics.write_text("")
    with pytest.raises(UsageError, match="no steps yet"):
        page_of(tmp_path / "run", open_shards(SAMPLE))


def test_shards_at_a_url_are_not_fetched_for_thumbnails(run: Path, tmp_path: Path) -> None:
    """Of a packing, nothing but the shards is there."""
    shards = tmp_path / "shards"
    copy_shards(SAMPLE, shards)
    (shards / "summary.json").unlink()
    shutil.copytree(run, tmp_path / "run")
    with FaultyServer(shards).running() as server:
        result = usucl_train("page", tmp_path / "run", server.url, "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.output
    page = RunFolder(tmp_path / "run").page
    assert "at a URL" in page.read_text()
    assert "Which videos are copies" in page.read_text()
    found, before = data_of(page), data_of(RunFolder(run).page)
    assert found["thumbnails"]["places"] == {}
    for name in ("pictures", "videos", "map", "negatives"):
        assert found[name] == before[name]


def test_pages_while_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second epoch, and at the end; of a method without a bank as well."""
    steps: list[int] = []
    monkeypatch.setattr("usucl_fast.learn.engine.write_page", lambda folder, store, bank, step: steps.append(step))
    config = make_config("default", {**TINY, "epochs": 5, "batch_size": 2})
    train(config, open_shards(SAMPLE), tmp_path / "run", dataclasses.replace(EXECUTION, page_every=2))
    assert steps == [4, 8, 10]
    monkeypatch.undo()
    page = RunFolder(trained(tmp_path / "simclr", recipe="simclr")).page
    assert "no memory bank" in page.read_text()
    assert {*data_of(page)} == {"curves", "pictures", "thumbnails", "videos", "labels"}


def test_a_long_run_has_curves_of_a_few_points() -> None:
    lines = [
        {"step": step, "loss": float(step % 7), "intra": step >= 500, "window": [0.1, 0.5]} for step in range(2003)
    ]
    found = {curve["title"]: curve for curve in curves(lines)}
    loss = found["loss"]
    assert len(loss["steps"]) == len(loss["values"]) == POINTS
    assert min(loss["low"]) == 0
    assert max(loss["high"]) == 6
    weights = [len(part) for part in np.array_split(np.arange(2003), POINTS)]
    assert np.average(loss["values"], weights=weights) == pytest.approx(
        np.mean([step % 7 for step in range(2003)]), 1e-3
    )
    window = found["window of the intra-video negatives, share of the video"]
    assert min(window["steps"]) >= 500
    assert {*window["low"]} == {0.1}
    assert {*window["high"]} == {0.5}


def test_weights_are_those_of_the_synthesised_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    query, rows = (torch.nn.functional.normalize(torch.randn(1, n, 8, generator=generator), dim=2) for n in (1, 5))
    weights = torch.from_numpy(soft_weights((rows[0] @ query[0, 0]).numpy(), 0.1)).float()
    expected = soft_negative(query[0], rows, torch.ones(1, 5, dtype=torch.bool), 0.1)[0]
    assert torch.allclose(weights @ rows[0], expected, atol=1e-6)


def test_near_duplicates_are_marked(sample: ShardStore) -> None:
    table = sample.table
    first, other = (int(table.first_row[video]) for video in (0, 1))
    ids = np.array([[[first + 2, first + 8, first + 10, first + 15, -1]]])
    cross = np.array([[[other, other + 9, -1, -1, -1]]])
    found = negatives(
        {
            "anchors": np.array([first]),
            "step": np.array([3]),
            "counted": np.array([True]),
            "window": np.array([[0.1, 1.0]]),
            "written_at": np.array([[2]]),
            "positive": np.array([[first]]),
            "positive_similarity": np.array([[1.0]]),
            "intra": ids,
            "intra_similarity": np.array([[[0.5, 0.4, 0.3, 0.995, np.nan]]]),
            "cross": cross,
            "cross_similarity": np.array([[[0.2, 0.2, np.nan, np.nan, np.nan]]]),
        },
        table,
        0.1,
        [(1, 0)],
    )["mined"][0][0]
    marks = {one[0] - first: one[3] for one in found["intra"]}
    assert marks == {
        2: ["within 3 frames of the anchor"],
        8: ["next to another one"],
        10: ["next to another one"],
        15: ["similarity of 0.99 or more"],
    }
    assert [one[1:] for one in found["cross"]] == [[0.2, 0.5, ["its video is a copy of the anchor's"]]] * 2


def test_a_map_has_every_video_by_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usucl_fast.learn.page.bank_map.DOTS", 100)
    rows = torch.nn.functional.normalize(torch.randn(3000, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    written = torch.arange(3000) % 3 - 1  # a third is not written
    found = bank_map(rows[:600], written[:600], 5, 0)
    assert found is not None
    assert found["of"] == 400
    parts = np.searchsorted(np.flatnonzero(written[:600].numpy() >= 0), found["frames"]) // 4
    assert parts.tolist() == list(range(100))  # one of every four rows that are written
    assert {5 - 1 - age for age in found["age"]} == {0, 1}
    assert all(0 <= value <= 1 for value in found["x"] + found["y"])
    assert bank_map(rows, torch.full((3000,), -1), 5, 0) is None
    assert bank_map(rows[:1].expand(20, 4), torch.zeros(20, dtype=torch.int64), 5, 0) is None
