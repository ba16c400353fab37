"""Run folders with damage: it is named, and the run resumes from what is whole, bit for bit."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import SAMPLE
from tests.helpers.training import EXECUTION, TINY, curve
from usucl_fast.errors import DataError, UsageError
from usucl_fast.learn import train
from usucl_fast.learn.checkpoint import MARK, is_whole, load_newest
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.learn.weights import read_backbone
from usucl_fast.shards import ShardStore, open_shards

CONFIG = make_config("default", {**TINY, "epochs": 3, "batch_size": 2})
FIRST, NEWEST = "step-00000002.pt", "step-00000004.pt"


def go_on(store: ShardStore, out: Path, **execution: Any) -> None:
    config = RunFolder(out).read_config() if out.exists() else CONFIG
    how = dataclasses.replace(EXECUTION, checkpoint_every=2, **execution)
    train(config, store, out, how, resume=out.exists())


@pytest.fixture(scope="module")
def stopped(made_once: Callable[..., Path]) -> Path:
    """A run stopped after 4 of 6 steps, and `whole`, which was not."""

    def make(folder: Path) -> None:
        torch.set_num_threads(1)
        go_on(open_shards(SAMPLE), folder / "whole")
        go_on(open_shards(SAMPLE), folder / "run", stop_after=4)

    return made_once("stopped-run", make)


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped / "run", tmp_path / "run"))


def same(out: Path, stopped: Path) -> bool:
    backbones = [(run / "backbone.safetensors").read_bytes() for run in (out, stopped / "whole")]
    return curve(out) == curve(stopped / "whole") and backbones[0] == backbones[1]


def flipped(place: float) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        at = int(place * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return flip


DAMAGE = {
    **{f"flipped-{place}": flipped(place) for place in (0, 0.001, 0.3, 0.6, 0.99, 1)},
    "flipped-mark": lambda content: content.replace(MARK, MARK.swapcase()),
    "cut": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    stopped: Path, out: Path, sample: ShardStore, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    file = out / "checkpoints" / NEWEST
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    go_on(sample, out, keep=1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "checkpoints has damage" in line]
    assert NEWEST in line
    assert f"using the earlier {FIRST}" in line
    assert same(out, stopped)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000006.pt"]


def test_a_damaged_checkpoint_is_not_kept_in_the_place_of_a_good_one(out: Path, sample: ShardStore) -> None:
    file = out / "checkpoints" / NEWEST
    file.write_bytes(b"")
    go_on(sample, out, keep=1, stop_after=3)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003.pt"]


def test_where_no_checkpoint_is_whole_there_is_a_way_out(out: Path, sample: ShardStore) -> None:
    (out / "checkpoints" / FIRST).write_bytes(b"")
    file = out / "checkpoints" / NEWEST
    file.write_bytes(DAMAGE["flipped-0.6"](file.read_bytes()))
    before = curve(out)
    with pytest.raises(DataError, match=rf"{NEWEST}: it is damaged.*{FIRST}: it is truncated.*--overwrite"):
        go_on(sample, out)
    assert curve(out) == before
    with pytest.raises(DataError, match=f"{NEWEST} is damaged .*its checksum is another"):
        read_backbone(file, CONFIG.arch)


def test_a_checkpoint_without_a_checksum_is_not_gone_on_with_but_its_weights_load(
    out: Path, stopped: Path, sample: ShardStore
) -> None:
    """As versions before wrote it."""
    for name in (FIRST, NEWEST):
        file = out / "checkpoints" / name
        torch.save(torch.load(file, weights_only=True), file)
        assert is_whole(file) is None
    with pytest.raises(DataError, match=f"{NEWEST}: it is truncated, or was written by another version"):
        go_on(sample, out)
    found, expected = (read_backbone(run / "checkpoints" / NEWEST, CONFIG.arch) for run in (out, stopped / "run"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("name", "value"), [("lr", 0.5), ("seed", 1), ("dim", 8), ("intra_window", [0.1, 0.2]), ("batch_norm", "frozen")]
)
def test_settings_that_were_changed_are_noticed(out: Path, sample: ShardStore, name: str, value: object) -> None:
    change_config(out, lambda record: record["config"].update({name: value}))
    with pytest.raises(UsageError, match=rf"config\.json was changed: {name} is .*, and was .*put it back"):
        go_on(sample, out)


def test_a_setting_that_was_removed_is_noticed(out: Path, sample: ShardStore) -> None:
    change_config(out, lambda record: record["config"].pop("dim"))
    with pytest.raises(UsageError, match=r"config\.json was changed: dim is 128, and was 16"):
        go_on(sample, out)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"config": []}', b'{"config": {"method": []}}'])
def test_damaged_settings_are_named(out: Path, sample: ShardStore, content: bytes) -> None:
    (out / "config.json").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json is damaged .*--overwrite"):
        go_on(sample, out)


@pytest.mark.parametrize(("name", "value"), [("lr", "fast"), ("epochs", 2.5), ("intra_window", [0.1]), ("compile", 1)])
def test_settings_of_another_type_are_named(out: Path, sample: ShardStore, name: str, value: object) -> None:
    change_config(out, lambda record: record["config"].update({name: value}))
    with pytest.raises(DataError, match=rf"config\.json is damaged \({name} is "):
        go_on(sample, out)


def change_config(out: Path, change: Callable[[Any], object]) -> None:
    record = json.loads((out / "config.json").read_bytes())
    change(record)
    (out / "config.json").write_text(json.dumps(record))


METRICS = {
    "gone": None,
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "flipped": flipped(0.4),
    "no text": lambda content: b"\xff\0" + content[2:],
}


@pytest.mark.parametrize("damage", METRICS)
def test_damaged_metrics_are_the_checkpoints_again(
    stopped: Path, out: Path, sample: ShardStore, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    file, change = out / "metrics.jsonl", METRICS[damage]
    before = file.read_bytes()
    file.unlink() if change is None else file.write_bytes(change(before))
    go_on(sample, out)
    assert "metrics.jsonl is damaged, cut off or gone; its lines up to step 4" in capsys.readouterr().err
    assert file.read_bytes().startswith(before)
    assert same(out, stopped)


def test_whole_runs_are_gone_on_with_without_a_word(
    stopped: Path, out: Path, sample: ShardStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of steps after the checkpoint are no damage: the process was killed before the next one."""
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    go_on(sample, out)
    assert [line for line in capsys.readouterr().err.splitlines() if " steps  " not in line] == []
    assert same(out, stopped)


def test_a_checkpoint_says_what_run_it_is_of(out: Path, sample: ShardStore) -> None:
    saved = load_newest(RunFolder(out))
    assert saved is not None
    record = json.loads((out / "config.json").read_bytes())
    assert saved.begun == {name: record[name] for name in ("format", "config", "shards")}
    assert saved.begun["shards"] == sample.fingerprint
    assert (saved.ranks, saved.step) == (1, 4)
    assert saved.metrics.encode() == (out / "metrics.jsonl").read_bytes()
