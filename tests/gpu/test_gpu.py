"""The same code on a GPU. Skipped where there is none."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import SAMPLE, copy_shards, training
from tests.helpers.feeding import plans_of
from tests.helpers.pictures import expected
from tests.helpers.training import curve
from usucl_fast.errors import DataError
from usucl_fast.feed import AUGMENTATIONS, LOADERS, Delivery, make_loader
from usucl_fast.learn import Execution, train
from usucl_fast.learn.recipes import RECIPES, make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.mining import MemoryBank
from usucl_fast.pack import find_sources, pack
from usucl_fast.shards import PackSettings, ShardStore, open_shards

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GPU = torch.device("cuda", 0)
ON_GPU = [name for name in LOADERS if name != "ffcv"]


def skip_without(loader: str) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")


@pytest.mark.parametrize("name", ON_GPU)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_loaders_deliver_the_plans_pictures_on_the_gpu(
    sample: ShardStore, name: str, channels: int, augmentation: str
) -> None:
    skip_without(name)
    plans = plans_of(sample, AUGMENTATIONS[augmentation])
    loader = make_loader(name, sample, Delivery(size=48, channels=channels, device=GPU, threads=2, most_frames=20))
    kept = list(loader.run(plans))
    for plan, batch in zip(plans, kept, strict=True):
        assert batch.frames.device == GPU
        assert (batch.frames.cpu().double() - expected(sample, plan, 48, channels)).abs().mean() < 2


@pytest.mark.parametrize("name", ON_GPU)
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_shards_are_delivered_as_well(videos: Path, tmp_path: Path, name: str, channels: int) -> None:
    skip_without(name)
    pack(find_sources([videos])[0], tmp_path / "png", PackSettings(size=64, codec="png"), workers=2)
    store = open_shards(tmp_path / "png")
    plans = plans_of(store, epochs=1)
    loader = make_loader(name, store, Delivery(size=48, channels=channels, device=GPU, threads=2, most_frames=20))
    for plan, batch in zip(plans, list(loader.run(plans)), strict=True):
        assert (batch.frames.cpu().double() - expected(store, plan, 48, channels)).abs().mean() < 1


@pytest.mark.parametrize("name", ON_GPU)
def test_a_damaged_frame_is_named(tmp_path: Path, name: str) -> None:
    skip_without(name)
    store = open_shards(copy_shards(SAMPLE, tmp_path / "copy"))
    plans = plans_of(store)
    bad = int(plans[2].frame_ids[1, 0])
    row = store.table.rows[bad]
    with store.shard_path(int(row["shard"])).open("r+b") as file:
        file.seek(int(row["offset"]) + int(row["length"]) // 2)
        file.write(bytes(16))
    loader = make_loader(name, store, Delivery(size=48, channels=1, device=GPU, threads=2, most_frames=20))
    with pytest.raises(DataError) as caught:
        list(loader.run(plans))
    assert store.table.name_of(bad) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_bank_answers_as_on_the_cpu(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    first_row = torch.arange(0, 5001, 50)
    z, ids = torch.nn.functional.normalize(torch.randn(4000, 64), dim=1), torch.randperm(5000)[:4000]
    query, anchors = z[:32], torch.arange(0, 3200, 100) + 20
    answers = []
    for device in ("cpu", GPU):
        bank = MemoryBank(first_row, 64, dtype, device)
        bank.write(ids.to(device), z.to(device), step=0)
        exclude = (anchors // 50).to(device)
        answers.append(
            (bank.cross(query.to(device), exclude, 8), bank.intra(anchors.to(device), query.to(device), (0.1, 0.5), 8))
        )
    for on_cpu, on_gpu in zip(*answers, strict=True):
        assert torch.allclose(on_cpu.similarity, on_gpu.similarity.cpu(), atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_runs_and_resumes_on_the_gpu(sample: ShardStore, tmp_path: Path, recipe: str) -> None:
    if recipe not in ("default", "fast", "reference"):
        pytest.importorskip("lightly")
    config = make_config(recipe, {"arch": "resnet18", "init": "random", "size": 64, "epochs": 4, "batch_size": 4})
    execution = Execution(loader="torch", device=GPU, threads=2, checkpoint_every=2)
    assert train(config, sample, tmp_path / "run", dataclasses.replace(execution, stop_after=3))["steps"] == 3
    assert train(config, sample, tmp_path / "run", execution, resume=True)["steps"] == 4


@pytest.mark.parametrize("loader", ON_GPU)
def test_a_deterministic_run_resumes_to_the_bit(sample: ShardStore, tmp_path: Path, loader: str) -> None:
    skip_without(loader)
    config = make_config("default", {**training.TINY, "epochs": 6, "batch_size": 4, "precision": "auto"})
    execution = Execution(loader=loader, device=GPU, threads=2, checkpoint_every=2, deterministic=True)
    train(config, sample, tmp_path / "whole", execution)
    train(config, sample, tmp_path / "parts", dataclasses.replace(execution, stop_after=3))
    train(config, sample, tmp_path / "parts", execution, resume=True)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    weights = [RunFolder(tmp_path / name).backbone.read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_two_ranks_share_a_gpu(tmp_path: Path) -> None:
    words = [SAMPLE, "--out", tmp_path / "run", *training.tiny_options(4, batch_size=4), "--loader", "torch"]
    program = tmp_path / "train.py"  # the commands need not be installed
    program.write_text("from usucl_fast.cli.train import main\nmain()\n")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [*torchrun, str(program), *map(str, words), "--device", str(GPU)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(RunFolder(tmp_path / "run").summary.read_bytes())
    assert (summary["ranks"], summary["steps"], summary["device"]) == (2, 4, str(GPU))


def test_compiled_encoders_learn_the_same(sample: ShardStore, tmp_path: Path) -> None:
    """With batch norm frozen: of four tiny pictures it makes a great difference of a rounding."""
    losses = []
    settings = {"size": 64, "epochs": 8, "batch_size": 4, "precision": "fp32", "batch_norm": "frozen", "lr": 0.001}
    for compiled in (False, True):
        settings["compile"] = compiled
        train(
            make_config("default", settings),
            sample,
            tmp_path / str(compiled),
            Execution(loader="torch", device=GPU, threads=2),
        )
        losses.append([line["loss"] for line in RunFolder(tmp_path / str(compiled)).read_metrics()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
