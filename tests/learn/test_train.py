"""Training on the sample shards: what a run writes, resuming, golden curves."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import SAMPLE, copy_shards, golden, training
from tests.helpers.forged import change_videos
from tests.helpers.training import curve
from usucl_fast.errors import DataError, UsageError
from usucl_fast.feed import LOOKAHEAD
from usucl_fast.learn import Execution, RunSummary, arithmetic, engine, train
from usucl_fast.learn.health import effective_rank, mean_cosine
from usucl_fast.learn.methods.usucl import Usucl
from usucl_fast.learn.network import Network
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.learn.weights import read_backbone
from usucl_fast.shards import ShardStore, open_shards

TINY: dict[str, Any] = {**training.TINY, "epochs": 6, "batch_size": 3}
EXECUTION = Execution(loader="torch", device=torch.device("cpu"), threads=2, checkpoint_every=4)


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("default", {"cross_topk": (16, 16)}),
    "reference": ("reference", {}),
    "hardest": (
        "default",
        {
            "intra_mining": "encode",
            "symmetric": False,
            "intra_hard_share": (0.4, 1.0),
            "intra_negatives": (2, 4),
            "bank_max_age": 9,
            "curriculum": "step",
        },
    ),
    "bank": ("fast", {"intra_negatives": (4, 12), "cross_band_start": (0.2, 0.0), "cross_topk": (9, 3)}),
    "steps": ("default", {"epochs": 0, "steps": 12, "tuples_per_video": 3, "batch_size": 5, "cross_topk": (16, 16)}),
}
"""Recipe and settings of the runs below, by name."""


def run(store: ShardStore, out: Path, name: str = "default", resume: bool = False, **execution: Any) -> RunSummary:
    recipe, settings = RUNS[name]
    config = make_config(recipe, {**TINY, **settings})
    return train(config, store, out, dataclasses.replace(EXECUTION, **execution), resume=resume)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An uninterrupted run of each name."""
    torch.set_num_threads(1)
    outs = {name: tmp_path_factory.mktemp("run") / name for name in RUNS}
    for name, out in outs.items():
        run(open_shards(SAMPLE), out, name)
    return outs


def test_what_a_run_writes(finished: dict[str, Path], sample: ShardStore) -> None:
    out = finished["default"]
    lines = RunFolder(out).read_metrics()
    assert [line["step"] for line in lines] == list(range(12))  # 4 videos in 2 batches, 6 epochs
    assert [line["frames"] for line in lines] == [4] * 12
    assert [step for step, line in enumerate(lines) if "bank" in line] == [0]
    assert lines[0]["bank"]["written"] == 2 / len(sample.table)  # a frame a tuple, seen twice
    assert lines[0]["bank"]["age"] == [0, 0, 0]
    assert lines[0]["near_duplicates"] is None  # the bank was empty
    assert all(0 <= line["near_duplicates"] <= 1 for line in lines[4:])
    assert [line["intra"] for line in lines] == [False] * 4 + [True] * 8
    summary = json.loads((out / "summary.json").read_bytes())
    assert summary["steps"] == 12
    assert summary["loss"] == lines[-1]["loss"]
    assert 0 <= summary["data_wait"] < 1
    assert summary["frames_per_second"] > 0
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["step-00000008.pt", "step-00000012.pt"]
    assert json.loads((out / "config.json").read_bytes())["shards"] == sample.fingerprint


@pytest.mark.parametrize("recipe", ["default", "reference"])
def test_golden_curves(sample: ShardStore, recipe: str) -> None:
    """Another CPU's rounding moves a loss by less than the tolerance, a change of meaning by far more.

    The bank keeps float16: where two CPUs differ in the last bit of float64, a number may be rounded the other way
    there, which moved losses by 3e-6.
    """
    found = golden.curve(recipe, sample)
    recorded = golden.recorded(recipe)
    assert [plan for plan, _ in found] == [plan for plan, _ in recorded]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in recorded], abs=2e-5)


@pytest.mark.parametrize(("has_it", "precision"), [(True, "bf16"), (False, "fp32")])
def test_precision_is_what_the_device_has_and_stays(
    sample: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_it: bool, precision: str
) -> None:
    config = make_config("default", {**TINY, "precision": "auto"})
    monkeypatch.setattr(arithmetic, "computes_in_bf16", lambda device: has_it)
    train(config, sample, tmp_path / "run", dataclasses.replace(EXECUTION, stop_after=1))
    begun = RunFolder(tmp_path / "run").read_config()
    assert begun.precision == precision
    monkeypatch.setattr(arithmetic, "computes_in_bf16", lambda device: not has_it)  # another machine
    assert (
        train(begun, sample, tmp_path / "run", dataclasses.replace(EXECUTION, stop_after=2), resume=True)["steps"] == 2
    )


@pytest.mark.parametrize(
    ("name", "stop"),
    [("reference", 5), *((name, stop) for name in RUNS if name != "reference" for stop in range(1, 12))],
)
def test_a_run_stopped_after_any_step_goes_on_bit_equal(
    finished: dict[str, Path], sample: ShardStore, tmp_path: Path, name: str, stop: int
) -> None:
    summary = run(sample, tmp_path / "run", name, stop_after=stop)
    assert summary["steps"] == stop
    run(sample, tmp_path / "run", name, resume=True)
    assert curve(tmp_path / "run") == curve(finished[name])
    whole, resumed = (load_file(out / "backbone.safetensors") for out in (finished[name], tmp_path / "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_steps_after_the_newest_checkpoint_are_done_again(
    finished: dict[str, Path], sample: ShardStore, tmp_path: Path
) -> None:
    """As after a power cut: metrics ahead of the checkpoint, the last line and the newest checkpoint cut off."""
    out = tmp_path / "run"
    run(sample, out, stop_after=9)
    newest = max((out / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    run(sample, out, resume=True)
    assert curve(out) == curve(finished["default"])


def test_resuming_a_finished_run_changes_nothing(finished: dict[str, Path], sample: ShardStore) -> None:
    before = curve(finished["default"])
    assert run(sample, finished["default"], resume=True)["steps"] == 12
    assert curve(finished["default"]) == before


def test_the_loaders_see_the_same_plans(sample: ShardStore, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    for loader in ("torch", "dali"):
        execution = dataclasses.replace(EXECUTION, loader=loader)
        calm = {**TINY, "size": 64, "lr": 1e-5}
        train(make_config("reference", calm), sample, tmp_path / loader, execution)
    ours, theirs = curve(tmp_path / "torch"), curve(tmp_path / "dali")
    assert [plan for plan, _ in ours] == [plan for plan, _ in theirs]
    # A grey level here and there is rounded otherwise, and the losses drift apart from the first step on.
    assert ours[0][1] == pytest.approx(theirs[0][1], abs=0.1)


def test_negatives_from_the_bank_load_nothing_more(finished: dict[str, Path]) -> None:
    lines = RunFolder(finished["bank"]).read_metrics()
    assert [line["frames"] for line in lines] == [4] * 12
    assert [line["intra_negatives"] for line in lines][-1] > 4


def test_hard_negatives_do_not_depend_on_threads(finished: dict[str, Path], sample: ShardStore, tmp_path: Path) -> None:
    for loader, threads in (("torch", 0), ("resident", 3)):
        run(sample, tmp_path / loader, "hardest", loader=loader, threads=threads)
        assert curve(tmp_path / loader) == curve(finished["hardest"])
    drawn = {**RUNS["hardest"][1], "intra_hard_share": (0.0, 0.0)}
    train(make_config("default", {**TINY, **drawn}), sample, tmp_path / "drawn", EXECUTION)
    differ = [a != b for (a, _), (b, _) in zip(curve(tmp_path / "drawn"), curve(finished["hardest"]), strict=True)]
    assert not any(differ[: LOOKAHEAD + 1])  # the bank was empty when these were planned
    assert any(differ)


def test_a_run_is_not_resumed_with_other_settings_or_shards(
    finished: dict[str, Path], sample: ShardStore, store: ShardStore
) -> None:
    out = finished["default"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(UsageError, match=r"begun with lr 0\.06, not 0\.5"):
        train(make_config("default", {**TINY, **RUNS["default"][1], "lr": 0.5}), sample, out, EXECUTION, resume=True)
    with pytest.raises(UsageError, match="other shards"):
        run(store, out, resume=True)
    with pytest.raises(UsageError, match="--resume to continue"):
        run(sample, out)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_a_run_of_another_version_is_not_resumed_but_its_weights_load(sample: ShardStore, tmp_path: Path) -> None:
    """As version 1 wrote it: all settings of all methods, no format, and a key encoder and the bank in the weights."""
    folder = RunFolder(tmp_path / "old")
    run(sample, folder.path, stop_after=4)
    record = json.loads(folder.config.read_bytes())
    del record["format"]
    record["config"]["queue"] = 1024
    folder.config.write_text(json.dumps(record))
    (path,) = folder.saved_checkpoints()
    content = torch.load(path, weights_only=True)
    bank, weights = content.pop("bank"), content["method"]
    keys = {name.replace("query.", "key.", 1): tensor for name, tensor in weights.items()}
    content["method"] = {**weights, **keys, "_extra_state": bank}
    torch.save(content, path)
    with pytest.raises(UsageError, match=r"begun by another version of usucl-fast; .*--init .*backbone\.safetensors$"):
        run(sample, folder.path, resume=True)
    config = folder.read_config()
    for source in (path, folder.path):
        found, expected = read_backbone(source, config.arch), load_file(folder.backbone)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_loader_that_changes_the_order_is_noticed(sample: ShardStore, tmp_path: Path) -> None:
    config = make_config("default", TINY)
    run = engine.Run(config, sample, RunFolder(tmp_path), EXECUTION, Ranks())
    plans = [next(iter(run.planner.plans(start))) for start in (1, 0)]
    late, early = run.loader.run(plans)
    with pytest.raises(DataError, match="step 0: the loader delivered a batch of the plan"):
        run.one_step(late)
    assert run.one_step(early).read()["step"] == 0


def test_damaged_checkpoints_are_named(sample: ShardStore, tmp_path: Path) -> None:
    run(sample, tmp_path / "run", stop_after=2)
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        file.write_bytes(b"?")
    with pytest.raises(DataError, match=r"step-00000002\.pt"):
        run(sample, tmp_path / "run", resume=True)


def test_videos_of_any_length_can_be_trained_on(store: ShardStore, tmp_path: Path) -> None:
    """Videos of 1 and 5 frames among them, and 10 videos in batches of 3, 3, 2 and 2."""
    summary = run(store, tmp_path / "run")
    assert summary["steps"] == summary["of"] == 24


def test_a_batch_of_one_tuple_can_be_trained_on(store: ShardStore, tmp_path: Path) -> None:
    config = make_config("default", {**TINY, "epochs": 2, "batch_size": 1})
    assert train(config, store, tmp_path / "run", EXECUTION)["steps"] == 20


@pytest.mark.parametrize(
    ("recipe", "changes", "words"),
    [
        ("nonsense", {}, "no such recipe"),
        ("default", {"steps": 5, "epochs": 5}, "--steps and --epochs both say how long the run is"),
        ("default", {"intra_window": (0.4, 0.2)}, "--intra-window 0.4:0.2 is empty"),
        ("reference", {"cross_from": 0.1}, "--no-in-batch leaves no negatives at the start: add --cross-from 0"),
        ("default", {"in_batch": False}, "--no-in-batch leaves no negatives at the start"),
        ("reference", {"intra_negatives": (0, 3)}, "--cross-candidates batch needs --intra-negatives"),
        (
            "reference",
            {"intra_mining": "bank"},
            "--intra-mining bank encodes no negatives, and --cross-candidates batch needs them",
        ),
        ("reference", {"cross_band_start": (0.1, 0.0)}, "need --cross-candidates bank"),
        ("reference", {"bank_max_age": 10}, "--bank-max-age has no effect with --cross-candidates batch"),
        (
            "default",
            {"intra_mining": "bank", "intra_hard_share": (0.0, 1.0)},
            "--intra-hard-share has no effect with --intra-mining bank",
        ),
        (
            "default",
            {"cross_band_start": (0.0, 0.5), "cross_band_end": (1.0, 0.5)},
            "--cross-band-start 0.5 is not below --cross-band-end 0.5",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(recipe: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_config(recipe, changes)


def test_an_unknown_arch_is_refused(sample: ShardStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--arch vgg16 is no torchvision ResNet; choose from .*resnet18"):
        train(Usucl(arch="vgg16"), sample, tmp_path / "run", EXECUTION)
    assert not (tmp_path / "run").exists()


def test_an_exclusion_that_leaves_no_negatives_is_refused(tmp_path: Path) -> None:
    copy_shards(SAMPLE, tmp_path / "s")
    change_videos(tmp_path / "s", lambda video: dataclasses.replace(video, group="patient-00"))
    store = open_shards(tmp_path / "s")
    with pytest.raises(UsageError, match="holds one group alone; use --exclude video"):
        train(make_config("default", TINY), store, tmp_path / "run", EXECUTION)
    config = make_config("default", {**TINY, "epochs": 1, "exclude": "video"})
    assert train(config, store, tmp_path / "run", EXECUTION)["steps"] == 2


def test_the_key_encoder_follows(sample: ShardStore) -> None:
    config = make_config("fast", {**TINY, "key_momentum": (0.9, 1.0)})
    network = Network(config, sample.table, torch.device("cpu"), Ranks())
    assert network.key is not None
    start = [p.clone() for p in network.key.parameters()]
    with torch.no_grad():
        for p in network.query.parameters():
            p.add_(1)
    network.begin(0.0)
    for before, key in zip(start, network.key.parameters(), strict=True):
        assert torch.allclose(key, before + 0.1, atol=1e-5)
        assert not key.requires_grad
    network.begin(1.0)
    assert all(torch.allclose(key, b + 0.1, atol=1e-5) for b, key in zip(start, network.key.parameters(), strict=True))


def test_health_in_closed_form() -> None:
    assert mean_cosine(torch.eye(4)) == pytest.approx(0)
    assert mean_cosine(torch.ones(5, 4) / 2) == pytest.approx(1)
    assert mean_cosine(torch.ones(1, 1)) is None
    assert effective_rank(torch.eye(6)) == pytest.approx(6, rel=1e-5)
    assert effective_rank(torch.ones(6, 6)) == pytest.approx(1, rel=1e-3)
