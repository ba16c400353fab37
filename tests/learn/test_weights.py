"""Backbones from elsewhere: layouts as other programs write them, and what is refused."""

import argparse
import functools
import sys
import urllib.error
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.helpers import SAMPLE
from usucl_fast.errors import DataError, UsageError
from usucl_fast.learn import imagenet
from usucl_fast.learn.backbones import make_backbone
from usucl_fast.learn.encoder import Encoder
from usucl_fast.learn.network import Network
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.weights import read_backbone
from usucl_fast.shards import open_shards

State = dict[str, Tensor]


@functools.cache
def trained(arch: str) -> State:
    """torchvision's state dict, `fc` among it, with no tensor as it is made."""
    generator = torch.Generator().manual_seed(len(arch))
    state: State = torchvision.models.get_model(arch, weights=None).state_dict()
    return {
        name: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else torch.tensor(7)
        for name, tensor in state.items()
    }


@functools.cache
def numbered(arch: str) -> State:
    """As USCL and lightly take a ResNet apart."""
    network = torchvision.models.get_model(arch, weights=None)
    network.load_state_dict(trained(arch))
    return nn.Sequential(*list(network.children())[:-1]).state_dict()


def below(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def without_fc(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def linear(*names: str) -> State:
    return {f"{name}.{part}": torch.rand(3, 3) for name in names for part in ("weight", "bias")}


def moco(arch: str) -> State:
    """Query and key encoder, the key's weights other ones, and the queue."""
    backbone = without_fc(trained(arch))
    return {
        **below("module.encoder_q.", {**backbone, **linear("fc.0", "fc.2")}),
        **below("module.encoder_k.", {**{name: tensor + 1 for name, tensor in backbone.items()}, **linear("fc.0")}),
        "module.queue": torch.rand(128, 96),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    }


def us_ucl(arch: str) -> dict[str, Any]:
    optimizer = {"state": {0: {"momentum_buffer": torch.rand(3)}}, "param_groups": [{"lr": 0.003, "params": [0]}]}
    return {"epoch": 60, "arch": arch, "state_dict": moco(arch), "optimizer": optimizer}


def uscl(arch: str) -> State:
    return {**below("features.", numbered(arch)), **linear("l1", "l2", "fc", "fc1", "fc2")}


def lightning(state: State) -> dict[str, Any]:
    return {"epoch": 9, "global_step": 90, "pytorch-lightning_version": "2.5.0", "loops": {}, "state_dict": state}


def run_checkpoint(arch: str) -> dict[str, Any]:
    config = make_config("default", {"arch": arch, "dim": 8})
    network = Network(config, open_shards(SAMPLE).table, torch.device("cpu"), Ranks())
    network.query.backbone.load_state_dict(without_fc(trained(arch)))
    return {"step": 3, "method": network.state_dict(), "plans": []}


LAYOUTS: dict[str, Callable[[str], Any]] = {
    "torchvision": trained,
    "without fc": lambda arch: without_fc(trained(arch)),
    "in an envelope": lambda arch: {"model": {"state_dict": trained(arch)}, "best": 0.9},
    "data parallel": lambda arch: below("module.", trained(arch)),
    "US_UCL": us_ucl,
    "MoCo": lambda arch: {"state_dict": moco(arch)},
    "MoCo v3": lambda arch: {"state_dict": below("module.base_encoder.", trained(arch))},
    "USCL": uscl,
    "USCL, published": lambda arch: {**below("features.", numbered(arch)), **linear("linear", "fc")},
    "lightly": lambda arch: lightning(
        {**below("backbone.", numbered(arch)), **below("backbone_momentum.", uscl(arch)), **linear("projection_head.0")}
    ),
    "lightly, by name": lambda arch: lightning(
        {**below("model.backbone.", trained(arch)), **linear("model.prediction_head.0")}
    ),
    "a run": run_checkpoint,
}


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_is_found(tmp_path: Path, layout: str, arch: str) -> None:
    torch.save(LAYOUTS[layout](arch), tmp_path / "file.pth")
    found = read_backbone(tmp_path / "file.pth", arch)
    expected = without_fc(trained(arch))
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    make_backbone(arch)[0].load_state_dict(found, strict=True)


def test_safetensors_and_run_folders(tmp_path: Path) -> None:
    save_file(without_fc(trained("resnet18")), tmp_path / "backbone.safetensors")
    for source in (tmp_path, tmp_path / "backbone.safetensors", str(tmp_path)):
        found = read_backbone(source, "resnet18")
        assert all(torch.equal(found[name], tensor) for name, tensor in without_fc(trained("resnet18")).items())


def test_old_and_half_precise_files(tmp_path: Path) -> None:
    """Before torch 0.4.1 nobody counted batches; before 1.6 files were no zips."""
    state = {name: tensor.half() for name, tensor in trained("resnet18").items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    found = read_backbone(tmp_path / "old.pth", "resnet18")
    assert found["bn1.num_batches_tracked"] == 0
    assert found["conv1.weight"].dtype == torch.float32
    assert torch.equal(found["conv1.weight"], state["conv1.weight"].float())


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.target_encoder.net."]
)
def test_what_wrappers_put_before_names(tmp_path: Path, prefix: str) -> None:
    weights = torchvision.models.resnet18().state_dict()
    state = {prefix + name: tensor for name, tensor in weights.items()}
    state[f"{prefix}prototypes.weight"] = torch.zeros(3, 2)  # SwAV's
    torch.save(state, tmp_path / "x.pth")
    assert torch.equal(read_backbone(tmp_path / "x.pth", "resnet18")["conv1.weight"], weights["conv1.weight"])


def test_averaged_weights_come_first(tmp_path: Path) -> None:
    weights = torchvision.models.resnet18().state_dict()
    torch.save({"state_dict": {n: 0 * t for n, t in weights.items()}, "state_dict_ema": weights}, tmp_path / "x.pth")
    assert read_backbone(tmp_path / "x.pth", "resnet18")["conv1.weight"].abs().sum() > 0


def test_reading_draws_nothing(tmp_path: Path) -> None:
    torch.save(trained("resnet18"), tmp_path / "file.pth")
    before = torch.get_rng_state()
    read_backbone(tmp_path / "file.pth", "resnet18")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("state", "arch", "words"),
    [
        (
            lambda: trained("resnet34"),
            "resnet18",
            "no resnet18: .* differs is layer1.2.conv1.weight, which a resnet18 doe",
        ),
        (
            lambda: us_ucl("resnet34"),
            "resnet18",
            r"differs is module\.encoder_q\.layer1\.2\.conv1.weight, which a resnet18",
        ),
        (
            lambda: uscl("resnet34"),
            "resnet18",
            r"differs is features\.4\.2\.conv1\.weight, which a resnet18 does not hav",
        ),
        (
            lambda: trained("resnet18"),
            "resnet34",
            r"no resnet34: .* is layer1\.2\.conv1\.weight, which is missing; .*--arch",
        ),
        (
            lambda: uscl("resnet18"),
            "resnet34",
            r"the first name that differs is features\.4\.2\.conv1\.weight, which is mi",
        ),
        (
            lambda: us_ucl("resnet50"),
            "resnet18",
            r"q\.layer1\.0\.conv1\.weight, of shape \[64, 64, 1, 1\] and not \[64, 64, 3",
        ),
        (
            lambda: {**trained("resnet18"), "extra": torch.rand(1)},
            "resnet18",
            "differs is extra, which a resnet18 does not",
        ),
        (
            lambda: {"net.w": torch.rand(1), "b": torch.rand(1)},
            "resnet18",
            r"conv1\.weight, which is missing, and its names",
        ),
        (lambda: [1, 2], "resnet18", "which is missing, and it holds no tensors by name"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, state: Callable[[], Any], arch: str, words: str) -> None:
    torch.save(state(), tmp_path / "file.pth")
    with pytest.raises(UsageError, match=words) as error:
        read_backbone(tmp_path / "file.pth", arch)
    assert str(error.value).startswith(str(tmp_path / "file.pth"))
    assert len(str(error.value).splitlines()) == 1


def test_no_tensor_can_be_missing_or_of_another_shape(tmp_path: Path) -> None:
    state = uscl("resnet18")
    for name in [name for name in state if name.startswith("features.") and "num_batches" not in name][::25]:
        for wrong in ({}, {name: torch.rand(2, 2)}):
            torch.save({**{n: t for n, t in state.items() if n != name}, **wrong}, tmp_path / "file.pth")
            with pytest.raises(UsageError, match="conv1.weight" if name == "features.0.weight" and not wrong else name):
                read_backbone(tmp_path / "file.pth", "resnet18")


class Surprise:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise AssertionError('the code in the file was run')",)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("core", ["core", "_core"])
@pytest.mark.parametrize("zipped", [True, False])
def test_accuracies_of_numpy_are_passed_over(tmp_path: Path, kind: type, core: str, zipped: bool) -> None:
    """As US_UCL saves them beside the weights it has fine-tuned."""
    state = trained("resnet18")
    content = {"epoch": 3, "state_dict": state, "best": [kind(0.5), {"acc": kind(0.25)}]}
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    if core == "core":
        file = tmp_path / "renamed.pth"
        rename(tmp_path / "file.pth", file, b"numpy._core.multiarray", b"numpy.core.multiarray", zipped)
    else:
        file = tmp_path / "file.pth"
    found = read_backbone(file, "resnet18")
    assert torch.equal(found["conv1.weight"], state["conv1.weight"])


def rename(file: Path, to: Path, name: bytes, other: bytes, zipped: bool) -> None:
    """Replaces a name in the pickle of a checkpoint."""
    if not zipped:
        to.write_bytes(file.read_bytes().replace(name, other))
        return
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(to, "w") as renamed:
        for entry in whole.namelist():
            content = whole.read(entry)
            renamed.writestr(entry, content.replace(name, other) if entry.endswith("data.pkl") else content)


@pytest.mark.parametrize("surprise", [np.arange(3.0), np.array([Surprise()], object)])
def test_other_things_of_numpy_are_refused(tmp_path: Path, surprise: object) -> None:
    torch.save({"state_dict": trained("resnet18"), "more": surprise}, tmp_path / "file.pth")
    with pytest.raises(UsageError, match=r"file\.pth holds more than weights \(.*save its state dict alone"):
        read_backbone(tmp_path / "file.pth", "resnet18")


@pytest.mark.parametrize("surprise", [Surprise(), argparse.Namespace(lr=0.1), nn.Linear(2, 2)])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_files_is_not_run(tmp_path: Path, surprise: object, zipped: bool) -> None:
    torch.save(
        {"state_dict": trained("resnet18"), "args": surprise},
        tmp_path / "file.pth",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(UsageError, match=r"file\.pth holds more than weights \(.*save its state dict alone"):
        read_backbone(tmp_path / "file.pth", "resnet18")


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name.endswith(".pth"):
        torch.save(trained("resnet18"), file)
    else:
        save_file(trained("resnet18"), file)
    whole = file.read_bytes()
    for content in (b"", b"?" * 1000, whole[: len(whole) // 2], whole[:100], b"PK" + whole[:5000]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"{name} is damaged or holds no weights") as error:
            read_backbone(file, "resnet18")
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_is_refused_in_one_line(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    recwarn.clear()
    with pytest.raises(DataError, match="TorchScript"):
        read_backbone(tmp_path / "script.pt", "resnet18")
    assert not recwarn.list


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere is neither a run, nor a file of weights, nor the word imagenet"):
        read_backbone("nowhere", "resnet18")
    with pytest.raises(UsageError, match=r"holds no backbone\.safetensors; name a finished run, or one of its checkp"):
        read_backbone(tmp_path, "resnet18")
    with pytest.raises(UsageError, match="--arch vgg16 is no torchvision ResNet"):
        read_backbone(tmp_path, "vgg16")


def test_imagenet_from_the_cache_and_without_internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no internet")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    monkeypatch.setattr(imagenet, "why_unreachable", lambda place: "")
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    with pytest.raises(
        UsageError, match=rf"imagenet weights of resnet18 .*no internet.*{url} and give the file .*--init"
    ):
        read_backbone("imagenet", "resnet18")
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(trained("resnet18"), cache / url.rpartition("/")[2])
    found = read_backbone("imagenet", "resnet18")
    assert all(torch.equal(found[name], tensor) for name, tensor in without_fc(trained("resnet18")).items())


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_models_of_timm(tmp_path: Path, name: str) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, num_classes=5)  # with a classifier, called fc, head or classifier
    torch.save(model.state_dict(), tmp_path / "file.pth")
    found = read_backbone(tmp_path / "file.pth", f"timm/{name}")
    assert len(found) == len(model.state_dict()) - 2
    encoder = Encoder(f"timm/{name}", lambda width: nn.Linear(width, 8), bf16=False, frozen_norm=False).eval()
    encoder.backbone.load_state_dict(found, strict=True)
    assert encoder(torch.rand(2, 3, 72, 72)).shape == (2, 8)  # neither a multiple of 16 nor 224
    pictures = torch.rand(2, 3, 224, 224)
    expected = model.eval().forward_head(model.forward_features(pictures), pre_logits=True)
    assert torch.allclose(encoder.backbone(pictures), expected, atol=1e-5)


def test_what_timm_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    for name, words in (
        ("resnet17", "no such model; close to it are .*timm/resnet18"),
        ("vit_tiny_patch16_224.nonsense", "no such model; close to it are .*timm/vit_tiny_patch16_224"),
        ("hf_hub:someone/something", "no such model; see timm.list_models"),
    ):
        with pytest.raises(UsageError, match=words):
            make_backbone(f"timm/{name}")

    create = timm.create_model

    def offline(*names: str, pretrained: bool, **options: Any) -> Any:
        if pretrained:
            raise FileNotFoundError("cannot be reached\nat all")
        return create(*names, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(imagenet, "why_unreachable", lambda place: "")
    with pytest.raises(
        UsageError, match=r"cannot be reached\); download them from https://huggingface\.co/timm/resnet18\S"
    ):
        read_backbone("imagenet", "timm/resnet18")


def test_without_timm_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"--arch timm/resnet18 needs timm, .*: pip install 'usucl-fast\[timm\]'"):
        make_backbone("timm/resnet18")


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path: Path) -> None:
    """Whoever looks for weights within it never comes to an end."""
    state: dict[str, Any] = {}
    state["model"] = state
    torch.save(state, tmp_path / "endless.pth")
    with pytest.raises(UsageError, match="it holds no tensors by name"):
        read_backbone(tmp_path / "endless.pth", "resnet18")
