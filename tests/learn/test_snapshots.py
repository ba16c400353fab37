"""Snapshots of what is mined: their moments and anchors, what they say against loops over the bank, resuming."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import SAMPLE
from tests.helpers.training import EXECUTION, TINY
from usucl_fast.curriculum import window_bounds
from usucl_fast.errors import DataError
from usucl_fast.learn import train
from usucl_fast.learn.checkpoint import load_newest
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.learn.snapshots import MOMENTS, read_snapshots
from usucl_fast.shards import ShardStore, open_shards

STEPS = 24
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("default", {"cross_topk": (3, 5)}),
    "encode": ("default", {"intra_mining": "encode", "symmetric": False, "intra_negatives": (2, 3)}),
    "batch": ("reference", {"head_norm": True, "cross_topk": (2, 2)}),
    "cycle": ("cyclecontrast", {"cross_topk": (4, 4)}),
}


def run(out: Path, name: str, resume: bool = False, **execution: Any) -> dict[str, np.ndarray]:
    recipe, settings = RUNS[name]
    length = {"epochs": 0, "steps": STEPS, "tuples_per_video": 8, "batch_size": 8, "warm_up": 2}
    config = make_config(recipe, {**TINY, "channels": 1, **length, **settings})
    train(config, open_shards(SAMPLE), out, dataclasses.replace(EXECUTION, **execution), resume=resume)
    return read_snapshots(RunFolder(out).mined, len(open_shards(SAMPLE).table))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
    """A run of each name, and its snapshots."""
    outs = {name: tmp_path_factory.mktemp("run") / name for name in RUNS}
    return {name: (out, run(out, name)) for name, out in outs.items()}


@pytest.mark.parametrize("name", list(RUNS))
def test_moments_and_anchors(runs: dict[str, Any], name: str, sample: ShardStore) -> None:
    """Ten moments to the end of the run, and an anchor of each of the two patients, the same all the time."""
    _, found = runs[name]
    assert found["step"].tolist() == [STEPS * (number + 1) // MOMENTS for number in range(MOMENTS)]
    groups = sample.table.group[sample.table.rows["video"][found["anchors"]]]
    assert sorted(groups.tolist()) == [0, 1]
    assert (np.diff(found["written_at"], axis=0) >= 0).all()
    assert (found["written_at"] < found["step"][:, None]).all()


@pytest.mark.parametrize("name", list(RUNS))
def test_what_is_mined_at_the_end_against_loops(runs: dict[str, Any], name: str, sample: ShardStore) -> None:
    """The last snapshot is of the bank that the last checkpoint has: all of it is worked out from there again."""
    out, found = runs[name]
    table, saved = sample.table, load_newest(RunFolder(out))
    assert saved is not None
    assert saved.bank is not None
    rows, written = saved.bank["embeddings"].double().numpy(), saved.bank["written_at"].numpy()
    assert found["written_at"][-1].tolist() == written[found["anchors"]].tolist()
    stage = make_config(RUNS[name][0], RUNS[name][1])
    for place, anchor in enumerate(found["anchors"].tolist()):
        video = int(table.rows["video"][anchor])
        intra, cross = found["intra"][-1, place], found["cross"][-1, place]
        if written[anchor] < 0:
            assert (intra < 0).all()
            assert (cross < 0).all()
            continue
        for ids, similarity in ((intra, "intra_similarity"), (cross, "cross_similarity")):
            expected = [rows[anchor] @ rows[frame] if frame >= 0 else np.nan for frame in ids]
            assert found[similarity][-1, place] == pytest.approx(expected, abs=1e-3, nan_ok=True)
        first, length = int(table.first_row[video]), table.videos[video].frames
        bounds = window_bounds(np.array([anchor - first]), np.array([length]), tuple(found["window"][-1]))[0] + first
        window = {*range(*bounds[:2]), *range(*bounds[2:])}
        assert {frame for frame in intra.tolist() if frame >= 0} <= window
        if name == "default":  # the most similar ones of the window, all there are where they are few
            known = [frame for frame in window if written[frame] >= 0]
            best = sorted((rows[anchor] @ rows[frame] for frame in known), reverse=True)[: len(intra)]
            assert found["intra_similarity"][-1, place][: len(best)] == pytest.approx(best, abs=1e-3)
        if name != "batch":  # there, negatives of the batch, of any patient
            others = table.group[table.rows["video"]] != table.group[video]
            if getattr(stage, "exclude", "group") == "video":
                others = table.rows["video"] != video
            best = sorted(
                (rows[anchor] @ rows[frame] for frame in np.flatnonzero(others & (written >= 0))), reverse=True
            )
            kept = found["cross_similarity"][-1, place]
            assert kept[~np.isnan(kept)] == pytest.approx(best[: (~np.isnan(kept)).sum()], abs=1e-3)


def test_a_resumed_run_has_the_same(runs: dict[str, Any], tmp_path: Path) -> None:
    out, found = runs["default"]
    run(tmp_path / "run", "default", stop_after=11)
    again = run(tmp_path / "run", "default", resume=True)
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in found.items()
    }
    assert RunFolder(tmp_path / "run").mined.read_bytes() == RunFolder(out).mined.read_bytes()


def test_snapshots_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: dict[str, Any]) -> None:
    """A run without any learns the same, to the bit."""
    out, _ = runs["default"]
    monkeypatch.setattr("usucl_fast.learn.snapshots.Snapshots.look", lambda self, step: None)
    recipe, settings = RUNS["default"]
    length = {"epochs": 0, "steps": STEPS, "tuples_per_video": 8, "batch_size": 8, "warm_up": 2}
    train(
        make_config(recipe, {**TINY, "channels": 1, **length, **settings}),
        open_shards(SAMPLE),
        tmp_path / "run",
        EXECUTION,
    )
    assert not RunFolder(tmp_path / "run").mined.exists()
    assert RunFolder(tmp_path / "run").backbone.read_bytes() == RunFolder(out).backbone.read_bytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [("intra", np.array([[[10**6]]])), ("anchors", np.array([0.5])), ("step", np.arange(3)), ("cross", np.array([1]))],
)
def test_damaged_snapshots_are_refused(runs: dict[str, Any], tmp_path: Path, name: str, value: np.ndarray) -> None:
    _, found = runs["default"]
    np.savez(tmp_path / "mined.npz", **{**found, name: value})
    with pytest.raises(DataError, match=r"mined\.npz is damaged"):
        read_snapshots(tmp_path / "mined.npz", 100)
    (tmp_path / "mined.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"mined\.npz is damaged"):
        read_snapshots(tmp_path / "mined.npz", 100)
