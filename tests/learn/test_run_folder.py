"""The run folder: who may write to it."""

import time
from pathlib import Path

import torch

from tests.helpers import SAMPLE
from tests.helpers.commands import refused, tree, usucl_train
from tests.helpers.processes import warm_processes
from tests.helpers.training import curve, tiny_options
from usucl_fast.cli import train
from usucl_fast.learn.run_folder import RunFolder


def trained(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    train.main(arguments)


def test_a_second_training_is_refused_until_the_first_is_gone_whatever_ended_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [SAMPLE, "--out", out, *tiny_options(epochs=10000), "--checkpoint-every", 1, "--loader", "torch"]
    first = warm_processes().Process(target=trained, args=([str(option) for option in options],))
    first.start()
    while not RunFolder(out).saved_checkpoints():
        assert first.is_alive()
        time.sleep(0.01)
    for how in ("--resume", "--overwrite"):
        refused(usucl_train(*options, how), "another usucl-train is at work on --out", str(out))
    assert first.is_alive()
    first.kill()
    first.join()
    assert RunFolder(out).lock.exists()  # and says nothing, when nobody holds it
    steps = len(curve(out)) + 1
    assert usucl_train(*options, "--resume", "--stop-after", steps).exit_code == 0
    assert not RunFolder(out).lock.exists()
    assert usucl_train(*options, "--overwrite", "--stop-after", 1).exit_code == 0
    assert len(curve(out)) == 1


def test_what_is_refused_before_it_begins_leaves_no_folder_and_no_lock(tmp_path: Path) -> None:
    options = [SAMPLE, *tiny_options(epochs=1), "--batch-size", 4, "--accumulate", 5]
    refused(usucl_train(*options, "--out", tmp_path / "new"), "--accumulate 5")
    (tmp_path / "empty").mkdir()
    refused(usucl_train(*options, "--out", tmp_path / "empty"), "--accumulate 5")
    assert tree(tmp_path).keys() == {"empty"}
