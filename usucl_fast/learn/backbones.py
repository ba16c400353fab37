"""The networks that learn, by name: torchvision's ResNets, and all of timm's where it is installed."""

import difflib
from collections.abc import Sequence
from typing import Any

import torchvision
from torch import nn

from usucl_fast.errors import UsageError
from usucl_fast.feed.normalise import IMAGENET_MEAN, IMAGENET_STD
from usucl_fast.optional import needed

TIMM = "timm/"


def make_backbone(arch: str) -> tuple[nn.Module, int]:
    """The network of that name without its classifier, with random weights, and the width F of its features.

    arch: the name of a torchvision ResNet, or `timm/NAME` for the model NAME of timm.

    Pictures `[N, 3, H, W]` -> features `[N, F]`. timm's vision transformers take pictures of any size; some of its
    other networks (Swin, for one) take the size that they are named after alone.

    Raises:
        UsageError: there is none, or timm is not installed.
    """
    if arch.startswith(TIMM):
        network = _timm_model(arch.removeprefix(TIMM))
        # Where a layer follows the pooling, its width counts.
        return network, getattr(network, "head_hidden_size", None) or network.num_features
    try:
        network = torchvision.models.get_model(arch, weights=None)
    except ValueError:
        network = None
    if not isinstance(network, torchvision.models.ResNet):
        names = [name for name in torchvision.models.list_models(torchvision.models) if "res" in name]
        raise UsageError(
            f"--arch {arch} is no torchvision ResNet; choose from {', '.join(names)}, or {TIMM}NAME for a model of timm"
        )
    width = network.fc.in_features
    network.fc = nn.Identity()
    return network, width


def normalisation(network: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and the standard deviation, a channel each, that a network's pictures are normalised by.

    network: of `make_backbone`. timm says of each of its own what its weights were trained with; torchvision's take
        ImageNet's.
    """
    trained_with: Any = getattr(network, "pretrained_cfg", {})
    return trained_with.get("mean", IMAGENET_MEAN), trained_with.get("std", IMAGENET_STD)


def import_timm(arch: str) -> Any:
    """The package timm.

    Raises:
        UsageError: it is not installed.
    """
    with needed("timm", f"--arch {arch}", "timm"):
        import timm
    return timm


def _timm_model(name: str) -> Any:
    timm = import_timm(TIMM + name)
    any_size = {"dynamic_img_size": True, "dynamic_img_pad": True}
    if timm.is_model(name):  # what is none may be an address, which timm would fetch
        for options in (any_size, {}):
            try:
                return timm.create_model(name, pretrained=False, num_classes=0, **options)
            except TypeError:  # only vision transformers know these options
                if not options:
                    raise
            except RuntimeError:  # no such tag, in NAME.TAG
                break
    close = difflib.get_close_matches(name, [*timm.list_models(), *timm.list_models(pretrained=True)], n=5)
    instead = f"close to it are {', '.join(TIMM + match for match in close)}" if close else "see timm.list_models()"
    raise UsageError(f"--arch {TIMM}{name}: timm has no such model; {instead}")
