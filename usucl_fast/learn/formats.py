"""What a run has learned, as the bytes of files for other programs."""

import importlib
import io

import torch
from torch import Tensor

from usucl_fast.errors import UsageError
from usucl_fast.learn.backbones import TIMM, make_backbone, normalisation
from usucl_fast.learn.checkpoint import load_newest
from usucl_fast.learn.config import TrainConfig
from usucl_fast.learn.run_folder import RunFolder, parse_metrics
from usucl_fast.learn.weights import read_backbone
from usucl_fast.optional import needed

EPS = 1e-5
"""What torch's batch norms add to the variance, where nobody says otherwise."""


def _us_ucl(run: RunFolder, config: TrainConfig) -> tuple[bytes, str]:
    if config.arch.startswith(TIMM):
        raise UsageError(
            f"RUN {run.path} has the backbone {config.arch}, and US_UCL knows torchvision's alone; use --format onnx"
        )
    state = load_newest(run)
    if state is None:
        raise UsageError(
            f"RUN {run.path} has no checkpoint yet; resume it: usucl-train SHARDS --out {run.path} --resume"
        )
    learned = state.network
    state_dict: dict[str, Tensor] = {}
    for encoder, ours in (("encoder_q", "query"), ("encoder_k", "key")):
        if not any(name.startswith(f"{ours}.backbone.") for name in learned):
            ours = "query"
        state_dict |= _renamed(learned, f"{ours}.backbone.", f"module.{encoder}.")
        head = fold_head(_renamed(learned, f"{ours}.head.", ""))
        state_dict |= _renamed(head, "", f"module.{encoder}.fc.")
    epochs = [line["epoch"] + 1 for line in parse_metrics(state.metrics)]
    record: dict[str, object] = {
        "epoch": max(epochs, default=0),
        "arch": config.arch,
        "state_dict": {name: tensor.clone() for name, tensor in state_dict.items()},
        # Folding leaves other parameters than those that it was made for.
        "optimizer": {"state": {}, "param_groups": []},
    }
    file = io.BytesIO()
    torch.save(record, file)
    return file.getvalue(), f"{config.arch} after {state.step} steps, {'with' if head else 'without'} its head"


def _onnx(run: RunFolder, config: TrainConfig) -> tuple[bytes, str]:
    with needed("onnx and onnxscript", "--format onnx", "onnx"):
        onnx = importlib.import_module("onnx")
        importlib.import_module("onnxscript")
    backbone, width = make_backbone(config.arch)
    backbone.load_state_dict(read_backbone(run.path, config.arch))
    program = torch.onnx.export(
        backbone.eval(),
        (torch.zeros(2, 3, config.size, config.size),),
        input_names=["pictures"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # where on this machine the code of each lies
    normalised = [" ".join(f"{value:g}" for value in values) for values in normalisation(backbone)]
    onnx.helper.set_model_props(model, dict(zip(("mean", "std"), normalised, strict=True)))
    return model.SerializeToString(), (
        f"{config.arch}, pictures [N, 3, {config.size}, {config.size}], mean {normalised[0]}, std {normalised[1]},"
        f" {width} features"
    )


MAKERS = {"us_ucl": _us_ucl, "onnx": _onnx}
"""Of each of `EXPORT_FORMATS`: a run and its settings -> the bytes of the file, and what went in, in words."""


def fold_head(head: dict[str, Tensor]) -> dict[str, Tensor]:
    """A head of linear layers, with batch norms behind any of them and ReLUs between, without the batch norms.

    Takes the state dict of an nn.Sequential, all names below a prefix or none; gives that of Linear, ReLU, Linear, …,
    which computes the same where batch norms use their running statistics. Empty where there are other parts.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in head.items():
        module, _, part = name.rpartition(".")
        modules.setdefault(module, {})[part] = tensor.double()
    layers: list[tuple[Tensor, Tensor]] = []
    last = -2
    for module, parts in modules.items():
        number = module.rpartition(".")[2]
        if not number.isdecimal():
            return {}
        place = int(number)
        weight = parts.get("weight", torch.ones(()))
        bias = parts.get("bias", torch.zeros(()))
        if weight.ndim == 2 and parts.keys() <= {"weight", "bias"} and place == last + 2:
            layers.append((weight, bias.expand(len(weight))))
        elif "running_mean" in parts and place == last + 1:
            before, shift = layers[-1]
            scale = weight / (parts["running_var"] + EPS).sqrt()
            layers[-1] = scale[:, None] * before, scale * (shift - parts["running_mean"]) + bias
        else:
            return {}
        last = place
    return {
        f"{2 * n}.{part}": tensor.float()
        for n, layer in enumerate(layers)
        for part, tensor in zip(("weight", "bias"), layer, strict=True)
    }


def _renamed(state: dict[str, Tensor], before: str, after: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, with another beginning."""
    return {after + name.removeprefix(before): tensor for name, tensor in state.items() if name.startswith(before)}
