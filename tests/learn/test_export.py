"""Runs for elsewhere, taken apart as the programs that they are for do it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from tests.helpers import SAMPLE
from tests.helpers.training import BARE
from usucl_fast.errors import UsageError
from usucl_fast.learn import Execution, train
from usucl_fast.learn.backbones import make_backbone
from usucl_fast.learn.checkpoint import Checkpoint, load_newest
from usucl_fast.learn.exporting import EXPORT_FORMATS, export
from usucl_fast.learn.formats import MAKERS, fold_head
from usucl_fast.learn.network import Network
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.learn.weights import read_backbone
from usucl_fast.shards import open_shards

TINY: dict[str, Any] = {"size": 32, "epochs": 6, "batch_size": 2, "dim": 16, "precision": "fp32", "init": "random"}

HALF = "0.5 0.5 0.5"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One with batch norm in its head, a ResNet18; one without, a ResNet50."""
    torch.set_num_threads(1)
    outs = {}
    for recipe, steps in (("default", 5), ("reference", 1)):
        outs[recipe] = tmp_path_factory.mktemp("export") / recipe
        execution = Execution(loader="torch", device=torch.device("cpu"), threads=1, stop_after=steps)
        train(make_config(recipe, TINY), open_shards(SAMPLE), outs[recipe], execution)
    return outs


def encoders(run: Path) -> Network:
    """As the newest checkpoint has them, ready to be used."""
    network = Network(RunFolder(run).read_config(), open_shards(SAMPLE).table, torch.device("cpu"), Ranks())
    saved = load_newest(RunFolder(run))
    assert saved is not None
    network.load_state_dict(saved.network)
    network.eval()
    return network


@pytest.mark.parametrize("recipe", ["default", "reference"])
def test_us_ucl_takes_it(runs: dict[str, Path], tmp_path: Path, recipe: str) -> None:
    words = export(runs[recipe], "us_ucl", tmp_path / "out.pth")
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    arch, steps, epoch = {"default": ("resnet18", 5, 3), "reference": ("resnet50", 1, 1)}[recipe]
    assert words == f"{arch} after {steps} steps, with its head"
    assert list(written) == ["epoch", "arch", "state_dict", "optimizer"]
    assert (written["epoch"], written["arch"]) == (epoch, arch)  # 4 videos in 2 batches
    state = written["state_dict"]
    pair, pictures = encoders(runs[recipe]), torch.rand(3, 3, 32, 32)
    for name, encoder in (("encoder_q", pair.query), ("encoder_k", pair.key or pair.query)):
        prefix = f"module.{name}."
        # What its fine-tuner does, which would pass over a wrong name in silence.
        taken = {
            key.removeprefix(prefix): tensor
            for key, tensor in state.items()
            if key.startswith(prefix) and not key.startswith(f"{prefix}fc")
        }
        network = torchvision.models.get_model(arch, weights=None)
        missing, unexpected = network.load_state_dict(taken, strict=False)
        assert set(missing) == {"fc.weight", "fc.bias"}
        assert unexpected == []
        # And its encoder in full: a ResNet whose fc is two linear layers.
        width = network.fc.in_features
        network.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 16))
        mine = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        network.load_state_dict(mine, strict=True)
        with torch.no_grad():
            theirs, ours = F.normalize(network.eval()(pictures)), F.normalize(encoder(pictures))
        assert torch.allclose(theirs, ours, atol=1e-5)
    assert {key.split(".")[1] for key in state} == {"encoder_q", "encoder_k"}


@pytest.mark.parametrize("recipe", ["default", "reference"])
def test_the_backbone_comes_back_from_everywhere(runs: dict[str, Path], tmp_path: Path, recipe: str) -> None:
    run = runs[recipe]
    arch = RunFolder(run).read_config().arch
    export(run, "us_ucl", tmp_path / "out.pth")
    expected = load_file(run / "backbone.safetensors")
    newest = max((run / "checkpoints").iterdir())
    for source in (run, run / "backbone.safetensors", newest, tmp_path / "out.pth"):
        found = read_backbone(source, arch)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("recipe", "arch"), [("default", "resnet18"), ("reference", "resnet50")])
def test_the_backbone_is_torchvisions(runs: dict[str, Path], recipe: str, arch: str) -> None:
    network = torchvision.models.get_model(arch, weights=None)
    network.fc = nn.Identity()
    network.load_state_dict(load_file(runs[recipe] / "backbone.safetensors"), strict=True)


def random_statistics(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return network.eval()


@pytest.mark.parametrize("prefix", ["", "layers."])
@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)],
        [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)],
        [nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4)],
        [
            *(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU()),
            *(nn.Linear(7, 3, bias=False), nn.BatchNorm1d(3, affine=False)),
        ],
    ],
)
def test_folded_heads_compute_the_same(layers: list[nn.Module], prefix: str) -> None:
    torch.manual_seed(0)
    head = random_statistics(nn.Sequential(*layers))
    folded = fold_head({prefix + name: tensor for name, tensor in head.state_dict().items()})
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert list(folded) == [f"{2 * n}.{part}" for n in range(len(linears)) for part in ("weight", "bias")]
    plain = nn.Sequential(*[part for old in linears for part in (nn.Linear(*old.weight.shape[::-1]), nn.ReLU())][:-1])
    plain.load_state_dict(folded, strict=True)
    features = torch.randn(9, 6)
    assert torch.allclose(plain(features), head(features), atol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5)),
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 4)),
        nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 4)),
        nn.Sequential(nn.Conv1d(6, 5, 1)),
        nn.ModuleDict({"a": nn.Linear(6, 5)}),
    ],
)
def test_other_heads_are_left_out(head: nn.Module) -> None:
    assert fold_head(head.state_dict()) == {}


def finished_run(root: Path, arch: str, network: dict[str, torch.Tensor] | None = None, **settings: Any) -> Path:
    """A run folder without the training."""
    root.mkdir()
    config = {**vars(make_config("default", {"arch": arch, "size": 32, **settings}))}
    (root / "config.json").write_text(json.dumps({"config": config, "shards": ""}))
    (root / "metrics.jsonl").write_text('{"step": 0, "epoch": 0}\n')
    save_file(random_statistics(make_backbone(arch)[0]).state_dict(), root / "backbone.safetensors")
    if network is not None:
        Checkpoint(step=1, network=network, **BARE).save(RunFolder(root), keep=2)
    return root


def test_without_key_encoder_or_known_head(tmp_path: Path) -> None:
    query = {f"query.backbone.{name}": t for name, t in make_backbone("resnet18")[0].state_dict().items()}
    run = finished_run(tmp_path / "run", "resnet18", {**query, "query.head.norm.weight": torch.rand(3)})
    assert export(run, "us_ucl", tmp_path / "new" / "out.pth") == "resnet18 after 1 steps, without its head"
    state = torch.load(tmp_path / "new" / "out.pth", weights_only=True)["state_dict"]
    assert len(state) == 2 * len(query)
    for name, tensor in query.items():
        for encoder in ("encoder_q", "encoder_k"):
            assert torch.equal(state[name.replace("query.backbone", f"module.{encoder}")], tensor)


@pytest.mark.parametrize("arch", ["resnet18", "timm/vit_tiny_patch16_224"])
def test_onnx_computes_the_same(tmp_path: Path, arch: str) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    if arch.startswith("timm/"):
        pytest.importorskip("timm")
    from onnx.reference import ReferenceEvaluator

    torch.manual_seed(0)
    run = finished_run(tmp_path / "run", arch)
    width, mean, std = {"resnet18": (512, "0.485 0.456 0.406", "0.229 0.224 0.225")}.get(arch, (192, HALF, HALF))
    words = f"{arch}, pictures [N, 3, 32, 32], mean {mean}, std {std}, {width} features"
    assert export(run, "onnx", tmp_path / "out.onnx") == words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "run"]
    content = (tmp_path / "out.onnx").read_bytes()
    for place in (Path(torch.__file__).parent, Path(__file__).parents[2], Path.home()):
        assert str(place).encode() not in content
    model = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(model)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"mean": mean, "std": std}
    backbone, _ = make_backbone(arch)
    backbone.load_state_dict(load_file(run / "backbone.safetensors"))
    for batch in (1, 3):
        pictures = torch.randn(batch, 3, 32, 32)
        (features,) = ReferenceEvaluator(model).run(["features"], {"pictures": pictures.numpy()})
        with torch.no_grad():
            expected = backbone.eval()(pictures)
        assert features.shape == (batch, width)
        assert torch.allclose(torch.from_numpy(features), expected, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    run = finished_run(tmp_path / "run", "resnet18")
    with pytest.raises(UsageError, match=r"run has no checkpoint yet; resume it: usucl-train SHARDS --out .* --resume"):
        export(run, "us_ucl", out)
    with pytest.raises(UsageError, match="nowhere is no run folder"):
        export(tmp_path / "nowhere", "us_ucl", out)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        UsageError, match=r"--format onnx needs onnx and onnxscript, .*: pip install 'usucl-fast\[onnx\]'"
    ):
        export(run, "onnx", out)
    (run / "config.json").write_text((run / "config.json").read_text().replace("resnet18", "timm/resnet18"))
    with pytest.raises(UsageError, match="has the backbone timm/resnet18, and US_UCL knows torchvision's alone"):
        export(run, "us_ucl", out)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(UsageError, match="is already there: it is a folder; name a file"):
        export(run, "us_ucl", run, overwrite=True)


def test_every_format_that_is_offered_is_made() -> None:
    assert tuple(MAKERS) == EXPORT_FORMATS
