"""The same code on a GPU. Skipped where there is none."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.helpers.feeding import plans_of
from tests.helpers.pictures import expected
from usucl_fast.feed import AUGMENTATIONS, LOADERS, Delivery, make_loader
from usucl_fast.learn import Execution, train
from usucl_fast.learn.recipes import RECIPES, make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.mining import MemoryBank
from usucl_fast.shards import ShardStore

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("name", [name for name in LOADERS if name != "ffcv"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_loaders_deliver_the_plans_pictures_on_the_gpu(
    sample: ShardStore, name: str, channels: int, augmentation: str
) -> None:
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    plans = plans_of(sample, AUGMENTATIONS[augmentation])
    loader = make_loader(name, sample, Delivery(size=48, channels=channels, device=GPU, threads=2, most_frames=20))
    kept = list(loader.run(plans))
    for plan, batch in zip(plans, kept, strict=True):
        assert batch.frames.device == GPU
        assert (batch.frames.cpu().double() - expected(sample, plan, 48, channels)).abs().mean() < 2


def test_the_bank_answers_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    first_row = torch.arange(0, 5001, 50)
    z, ids = torch.nn.functional.normalize(torch.randn(4000, 64), dim=1), torch.randperm(5000)[:4000]
    query, anchors = z[:32], torch.arange(0, 3200, 100) + 20
    answers = []
    for device in ("cpu", GPU):
        bank = MemoryBank(first_row, 64, torch.float32, device)
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


def test_compiled_encoders_learn_the_same(sample: ShardStore, tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        settings = {"size": 64, "epochs": 2, "batch_size": 4, "precision": "fp32", "compile": compiled}
        train(
            make_config("default", settings),
            sample,
            tmp_path / str(compiled),
            Execution(loader="torch", device=GPU, threads=2),
        )
        losses.append([line["loss"] for line in RunFolder(tmp_path / str(compiled)).read_metrics()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)
