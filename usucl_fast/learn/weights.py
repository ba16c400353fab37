"""A backbone's weights, from wherever they were trained, with every name and shape accounted for."""

import itertools
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from safetensors.torch import load_file
from torch import Tensor, nn

from usucl_fast.errors import DataError, UsageError, first_line
from usucl_fast.learn.backbones import make_backbone
from usucl_fast.learn.checkpoint import NETWORK, QUERY_BACKBONE, is_whole
from usucl_fast.learn.config import IMAGENET
from usucl_fast.learn.imagenet import fetch
from usucl_fast.learn.run_folder import RunFolder

ENVELOPES = ("state_dict_ema", "state_dict", NETWORK, "model")
"""Keys under which checkpoints keep the weights, one within another too; averaged ones first, as timm does."""
DEEPEST = 16
"""Envelopes nested deeper are refused: one that holds itself has no end."""
SCALARS: list[Any] = [
    *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *(type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64))),
]
"""What makes a NumPy number, as US_UCL saves its accuracies beside the weights; nothing of it runs code."""
COMPILED = "_orig_mod."
"""What torch.compile puts before the names of whatever it wraps."""

PREFIXES = tuple(
    wrapper + place
    for wrapper, place in itertools.product(
        ("", "module.", "model."),  # as it is, DataParallel, a Lightning module
        (
            "",  # torchvision, timm, backbone.safetensors
            QUERY_BACKBONE,  # a run's checkpoints
            "encoder_q.",  # MoCo, US_UCL
            "base_encoder.",  # MoCo v3
            "backbone.",  # lightly
            "features.",  # USCL
            "encoder.",
            "target_encoder.net.",  # BYOL's, of PyTorch Lightning Bolts and others
        ),
    )
)
"""What may stand before the name of every tensor of a backbone."""

HEADS = frozenset(
    (
        *("fc", "classifier", "head", "head_dist", "heads", "last_linear", "linear", "l1", "l2"),
        *("mlp", "predictor", "prediction_head", "projector", "projection", "projection_head"),
        "prototypes",  # SwAV
    )
)
"""Modules beside a backbone's own that are no part of it: classifiers, projectors, predictors."""


def read_backbone(source: str | Path, arch: str) -> dict[str, Tensor]:
    """The state dict of `make_backbone(arch)`, all of it and nothing else, from what `source` names.

    source: a run folder, a file, or the word `imagenet`. A file is a .safetensors, or what torch.save wrote: one of a
        run's checkpoints, a state dict of torchvision or timm, a checkpoint of US_UCL, MoCo, USCL or lightly, or any
        other in which one of `PREFIXES` stands before all names. Children may be numbered, as nn.Sequential does.

    A classifier or projector in the file is left aside. What is not in older files, how many batches the batch norms
    have seen, is 0.

    Raises:
        UsageError: there is no such source, it is of another network, it holds code beside weights, or ImageNet's
            weights cannot be fetched.
        DataError: the file cannot be read.
    """
    with torch.random.fork_rng(devices=[]):  # these random weights are replaced
        network, _ = make_backbone(arch)
    if str(source) == IMAGENET:
        return _match(fetch(arch, network), network, f"what {IMAGENET} stands for", arch)
    path = Path(source)
    if path.is_dir():
        path = RunFolder(path).backbone
        if not path.is_file():
            raise UsageError(f"{source} holds no {path.name}; name a finished run, or one of its checkpoints")
    if not path.is_file():
        raise UsageError(f"{source} is neither a run, nor a file of weights, nor the word {IMAGENET}")
    return _match(unwrap(_load(path)), network, str(path), arch)


def unwrap(state: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, out of its `ENVELOPES`; none where it is not made of tensors."""
    for _ in range(DEEPEST):
        if not isinstance(state, Mapping):
            break
        inner = next((state[key] for key in ENVELOPES if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            tensors = {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}
            return {name.replace(COMPILED, ""): value for name, value in tensors.items()}
        state = inner
    return {}


def _match(state: dict[str, Tensor], network: nn.Module, source: str, arch: str) -> dict[str, Tensor]:
    """The tensors in `state` by the network's own names, from below the prefix that accounts for most of them."""
    expected = network.state_dict()
    prefix, spelling = max(_spellings(network), key=lambda one: sum(name in state for name in one[1].values()))
    differs = f"{source} is no {arch}: the first name that differs is"
    way_out = "name the network that the file is of with --arch"
    found = {}
    for name, spelt in spelling.items():
        if spelt in state and state[spelt].shape == expected[name].shape:
            found[name] = state[spelt].to(expected[name].dtype)
        elif spelt in state:
            shapes = f"of shape {list(state[spelt].shape)} and not {list(expected[name].shape)}"
            raise UsageError(f"{differs} {spelt}, {shapes}; {way_out}")
        elif name.endswith("num_batches_tracked"):
            found[name] = expected[name]
        elif found:
            raise UsageError(f"{differs} {spelt}, which is missing; {way_out}")
        else:
            has = f"its names are {', '.join(list(state)[:2])}, …" if state else "it holds no tensors by name"
            raise UsageError(f"{differs} {name}, which is missing, and {has}; {way_out}")
    ours = set(spelling.values())
    for name in state:
        if name.startswith(prefix) and name not in ours and name.removeprefix(prefix).split(".")[0] not in HEADS:
            raise UsageError(f"{differs} {name}, which a {arch} does not have; {way_out}")
    return found


def _spellings(network: nn.Module) -> Iterator[tuple[str, dict[str, str]]]:
    """Each prefix, and how the names of the network may be spelt below it."""
    number = {child: str(n) for n, (child, _) in enumerate(network.named_children())}
    names = list(network.state_dict())
    numbered = []
    for name in names:
        child, *rest = name.split(".")
        numbered.append(".".join([number.get(child, child), *rest]))
    for prefix, spelt in itertools.product(PREFIXES, (names, numbered)):
        yield prefix, {name: prefix + spelling for name, spelling in zip(names, spelt, strict=True)}


def _load(path: Path) -> Any:
    """What the file holds, without running any code that it may hold."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if is_whole(path) is False:
            raise ValueError("its checksum is another")
        # the error names it
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its zip and pickle readers raise
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise UsageError(
                f"{path} holds more than weights ({code[1]}), which is not loaded, as it may run any code; where you"
                " trust it, save its state dict alone"
            ) from error
        reason = "it is no checkpoint" if isinstance(error, pickle.UnpicklingError) else first_line(error)
        raise DataError(f"{path} is damaged or holds no weights ({reason}); get the file again") from error
