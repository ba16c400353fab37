"""Training keeps to a split: no frame of another one is planned, loaded or remembered."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import SAMPLE, copy_shards
from tests.helpers.commands import refused, usucl_train
from tests.helpers.feeding import planner_of, table_of
from tests.helpers.forged import change_videos
from tests.helpers.training import EXECUTION, TINY, tiny_options
from usucl_fast.learn import RECIPES
from usucl_fast.learn.engine import Run
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.shards import ShardStore, open_shards


@pytest.fixture
def split(tmp_path: Path) -> ShardStore:
    """The sample's four videos, three of them of the split `train`, one of `test`; each of a group of its own."""
    folder = copy_shards(SAMPLE, tmp_path / "split")
    first = open_shards(SAMPLE).table.videos[1].id
    change_videos(folder, lambda v: dataclasses.replace(v, group=v.id, split="test" if v.id == first else "train"))
    return open_shards(folder)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_no_frame_of_another_split_is_planned_or_remembered(split: ShardStore, tmp_path: Path, recipe: str) -> None:
    method = make_config(recipe, {})
    if method.needs_lightly:
        pytest.importorskip("lightly")
    tiny = TINY | {"channels": 1, "epochs": 4, "batch_size": 2}
    run = Run(make_config(recipe, tiny), split, RunFolder(tmp_path), EXECUTION, Ranks())
    assert run.steps == 8  # 3 videos in 2 batches, 4 epochs
    trained, rows = {0, 2, 3}, split.table.rows["video"]
    for batch in run.loader.run(run.shares()):
        assert set(rows[batch.plan.frame_ids].ravel().tolist()) <= trained
        run.one_step(batch)
    if run.network.bank is not None:
        written = torch.nonzero(run.network.bank.written_at >= 0)[:, 0].numpy()
        assert set(rows[written].tolist()) == trained


def test_an_epoch_of_some_videos_by_hand() -> None:
    planner = planner_of(table_of([30] * 7), videos=np.array([1, 4, 6]), batch_size=2)
    assert (planner.steps_per_epoch, planner.steps, planner.most_frames) == (2, 120, 2 * 5)
    for epoch in (0, 20):
        plans = [planner.plan(epoch, step) for step in range(2)]
        assert sorted(np.concatenate([plan.video for plan in plans]).tolist()) == [1, 4, 6]
        assert [plan.step for plan in plans] == [2 * epoch, 2 * epoch + 1]


def test_a_split_that_is_not_there_is_refused_and_the_run_keeps_to_its_own(split: ShardStore, tmp_path: Path) -> None:
    out, shards = tmp_path / "run", tmp_path / "split"
    refused(usucl_train(shards, "--out", out, "--split", "val"), "--split val", "no video of", "train, test, and all")
    refused(usucl_train(SAMPLE, "--out", out, "--split", "val"), "--split val", "have no splits")
    assert not out.exists()
    begun = usucl_train(shards, "--out", out, *tiny_options(4), "--stop-after", 1)
    assert "trains on 3 of 4 videos: --split train" in begun.output
    assert json.loads((out / "config.json").read_bytes())["config"]["split"] == "train"
    summary = json.loads((out / "summary.json").read_bytes())
    assert (summary["split"], summary["videos"], summary["of"]) == ("train", 3, 4)
    refused(usucl_train(shards, "--out", out, "--resume", "--split", "all"), "begun with split train, not all")
    assert "trains on 3 of 4" in usucl_train(shards, "--out", out, "--resume", "--stop-after", 2).output


def test_every_video_is_trained_on_where_told_and_without_splits(split: ShardStore, tmp_path: Path) -> None:
    told = usucl_train(tmp_path / "split", "--out", tmp_path / "a", *tiny_options(2), "--split", "all")
    assert "trains on all 4 videos, 1 of test among them: --split all" in told.output
    plain = usucl_train(SAMPLE, "--out", tmp_path / "b", *tiny_options(2))
    assert "trains on all 4 videos\n" in plain.output
    assert json.loads((tmp_path / "b" / "config.json").read_bytes())["config"]["split"] == "all"


def test_splits_without_train_have_to_be_chosen_from(split: ShardStore, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    change_videos(folder, lambda v: dataclasses.replace(v, split="fit" if v.split == "train" else v.split))
    refused(usucl_train(folder, "--out", tmp_path / "run"), "--split train", "fit, test, and all")


def test_one_group_alone_in_the_split_is_told(split: ShardStore, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    change_videos(folder, lambda v: dataclasses.replace(v, group="g" if v.split == "train" else "h"))
    told = usucl_train(folder, "--out", tmp_path / "run", *tiny_options(2))
    refused(told, "one group alone to train on (--split train); use --exclude video")
