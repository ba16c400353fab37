"""Does it see better? Recipes and ablations trained for equal compute, and evaluated on the same folds.

python bench/quality.py SHARDS OUT [options of usucl-train]

Compute is counted in passes of a picture through the network: a forward pass is one, and a backward pass two more. Each
arm is given as many epochs as make up --passes, so that arms that look at more pictures a tuple see fewer tuples.
"""

import json
from pathlib import Path
from typing import Any

import click
from safetensors.torch import save as safetensors_bytes

from usucl_fast.cli.evaluate import main as usucl_eval
from usucl_fast.cli.train import main as usucl_train
from usucl_fast.evaluate import load_backbone
from usucl_fast.feed import open_shards
from usucl_fast.files import write_json, write_whole
from usucl_fast.learn import RunFolder, make_config
from usucl_fast.learn.methods.usucl import Usucl
from usucl_fast.machine import hardware

SAME = {"init": "random", "channels": "1"}
ARMS: dict[str, dict[str, Any]] = {
    "random": {},
    "simclr": {"recipe": "simclr"},
    "mocov2": {"recipe": "mocov2"},
    "reference": {"recipe": "reference"},
    "default": {},
}
"""By name, options of usucl-train; `random` is not trained."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "intra-only": {"hard": 0},
    "cross-only": {"negatives": 0},
    "in-batch-only": {"hard": 0, "negatives": 0},
    "no-curriculum": {"floor": 1},
    "published-cosine": {"curriculum": "published-cosine", "floor": 0},
    "exclude-video": {"exclude": "video"},
    "exclude-none": {"exclude": "none"},
}
SCALES: dict[str, tuple[int, dict[str, Any]]] = {
    "cpu": (72_000, {"arch": "resnet18", "size": 64, "batch-size": 47}),
    "gpu": (1_000_000, {"arch": "resnet50", "size": 224, "batch-size": 64}),
}
"""Passes, and options of usucl-train: sized for two CPU cores, and for one GPU, on which it has not been run yet."""

EVALUATIONS: dict[str, list[str]] = {
    "frozen": ["--protocol", "knn,linear"],
    "tuned": ["--protocol", "finetune", "--frames", "6", "--epochs", "4", "--lr", "0.01"],
}


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("shards")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--scale", default="cpu", show_default=True, type=click.Choice(tuple(SCALES)))
@click.option("--passes", type=click.IntRange(1), help="Of pictures, in each run.  [default: the scale's]")
@click.option("--seeds", default=3, show_default=True, help="Runs of each arm.")
@click.option("--ablate", is_flag=True, help="Compare parts of the method, not the method with others.")
@click.option("--arms", help="By commas.  [default: all]")
@click.option("--frozen-only", is_flag=True, help="Leave out fine-tuning.")
@click.option("--folds", default=5, show_default=True)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(
    shards: str,
    out: Path,
    scale: str,
    passes: int | None,
    seeds: int,
    ablate: bool,
    arms: str | None,
    frozen_only: bool,
    folds: int,
    options: tuple[str, ...],
) -> None:
    """Trains into OUT/runs, evaluates into OUT/evaluations, compares into OUT/PROTOCOL, and writes OUT/report.json.

    A run or an evaluation that is there is not made again: it can be interrupted, and arms can be added.
    """
    known = ABLATIONS if ablate else ARMS
    chosen = {name: known[name] for name in (arms.split(",") if arms else known)}
    budget, same = SCALES[scale][0] if passes is None else passes, {**SAME, **SCALES[scale][1]}
    videos = len(open_shards(shards).table.videos)
    evaluations = {k: v for k, v in EVALUATIONS.items() if not (frozen_only and k == "tuned")}
    report: dict[str, Any] = {"kind": "quality", "hardware": hardware(), "passes": budget, "runs": {}}
    for seed in range(seeds):  # all arms once, then once more
        for name, own in chosen.items():
            run = out / "runs" / f"{name}-{seed}"
            if name == "random":
                run = _random_weights(out / "runs", seed, same["arch"])
            else:
                epochs = round(budget / videos / passes_a_tuple(own))
                _train(shards, run, {**same, **own, "seed": seed, "epochs": epochs}, options)
                summary = json.loads(RunFolder(run).summary.read_bytes())
                report["runs"][run.name] = {"epochs": epochs, "seconds": summary["seconds"], "loss": summary["loss"]}
            model = [str(run), "--arch", same["arch"], "--size", str(same["size"]), shards, "--folds", str(folds)]
            for kind, arguments in evaluations.items():
                target = out / "evaluations" / f"{name}-{seed}" / kind
                last = target / "linear" if kind == "frozen" else target
                if not (last / "summary.json").exists():
                    usucl_eval([*model, "--out", str(target), *arguments, "--overwrite"], standalone_mode=False)
    report["options"] = {name: {**same, **own} for name, own in chosen.items()}
    report["compared"] = {}
    place = {"knn": "frozen/knn", "linear": "frozen/linear", "finetune": "tuned"}
    for protocol in list(place)[: 2 if frozen_only else 3]:
        target = out / protocol
        found = [
            f"{name}={out / 'evaluations' / f'{name}-{seed}' / place[protocol]}"
            for name in chosen
            for seed in range(seeds)
        ]
        baseline = ["--baseline", "default"] if "default" in chosen else []
        usucl_eval(["compare", *found, "--out", str(target), "--overwrite", *baseline], standalone_mode=False)
        report["compared"][protocol] = json.loads((target / "comparison.json").read_bytes())
    write_json(out / "report.json", report)


def passes_a_tuple(own: dict[str, Any]) -> int:
    """Of pictures of a tuple through the network, with gradient three each."""
    config = make_config(
        own.get("recipe", "default"), {k: (v, v) for k, v in own.items() if k in ("negatives", "hard")}
    )
    if config.method == "simclr":
        return 6
    if config.method == "moco":
        return 4
    assert isinstance(config, Usucl), config.method
    encoded = max(config.negatives) if config.mining == "encode" else 0
    return 3 * (1 + encoded) + (3 if config.symmetric else 1)


def _train(shards: str, run: Path, settings: dict[str, Any], options: tuple[str, ...]) -> None:
    folder = RunFolder(run)
    if folder.summary.exists():
        summary = json.loads(folder.summary.read_bytes())
        if summary["steps"] == summary["of"]:
            return
    if folder.holds_run():
        usucl_train([shards, "--out", str(run), "--resume", *options], standalone_mode=False)
        return
    arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    usucl_train([shards, "--out", str(run), *arguments, *options], standalone_mode=False)


def _random_weights(out: Path, seed: int, arch: str) -> Path:
    """A file of weights that nothing has been learned in."""
    file = out / f"random-{seed}.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    with write_whole(file) as opened:
        opened.write(safetensors_bytes(load_backbone(None, arch, seed).state_dict()))
    return file


if __name__ == "__main__":
    main()
