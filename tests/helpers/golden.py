"""Loss curves that stay as they are. After a change that is meant: `python -m tests.helpers.golden` makes them anew."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.helpers import REPOSITORY, SAMPLE
from tests.helpers.training import EXECUTION
from usucl_fast.learn.encoder import Encoder
from usucl_fast.learn.engine import Run
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.shards import ShardStore, open_shards

FOLDER = REPOSITORY / "tests" / "golden"
RECIPES = ("default", "reference")
SETTINGS: dict[str, Any] = {
    "arch": "resnet18",
    "init": "random",
    "size": 32,
    "epochs": 6,
    "batch_size": 4,
    "dim": 16,
    "channels": 1,
}


def curve(recipe: str, store: ShardStore) -> list[tuple[str, float]]:
    """Plan and loss of each step, computed in float64 and with batch norm frozen.

    Neither batch norm over four pictures nor float32 is portable: they amplify the last digit, in which instruction
    sets differ, to .08 within six steps.
    """
    config = make_config(recipe, {**SETTINGS, "precision": "fp32", "batch_norm": "frozen"})
    run = in_float64(Run(config, store, RunFolder(Path("/dev/null")), EXECUTION, Ranks()))
    draw_weights(run.network.encoders())
    lines = [run.one_step(batch).read() for batch in run.loader.run(run.shares())]
    return [(line["plan"], line["loss"]) for line in lines]


def in_float64(run: Run) -> Run:
    """The run, with weights, activations and gradients in float64."""
    run.network.to(torch.float64)
    for encoder in run.network.encoders():
        encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return run


def draw_weights(encoders: list[Encoder]) -> None:
    """The same weights for each, as NumPy draws them: torch's own depend on the instruction set in the last digit."""
    for encoder in encoders:
        draw = np.random.default_rng(0)
        for module in encoder.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = math.sqrt(6 / math.prod(module.weight.shape[1:]))
                module.weight.data.copy_(torch.from_numpy(draw.uniform(-bound, bound, module.weight.shape)))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def recorded(recipe: str) -> list[tuple[str, float]]:
    return [(plan, loss) for plan, loss in json.loads((FOLDER / f"{recipe}.json").read_bytes())]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for recipe in RECIPES:
        rows = [f"[{json.dumps(plan)}, {loss!r}]" for plan, loss in curve(recipe, open_shards(SAMPLE))]
        (FOLDER / f"{recipe}.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")
