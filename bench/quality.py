"""Does it see better? Recipes and ablations trained for equal compute, and evaluated on the same folds.

python bench/quality.py SHARDS OUT

Compute is counted in passes of a picture through the network: a forward pass is one, and a backward pass two more. Each
arm is given as many epochs as make up --passes, so that arms that look at more pictures a tuple see fewer tuples.
"""

import json
from pathlib import Path
from typing import Any

import click
from safetensors.torch import save as safetensors_bytes

from usucl_fast import evaluate, learn
from usucl_fast.feed import LOADERS, RESIDENT_BYTES, choose_loader
from usucl_fast.files import write_json, write_whole
from usucl_fast.learn import RunFolder
from usucl_fast.learn.methods.usucl import Usucl
from usucl_fast.machine import cores, hardware, pick_device
from usucl_fast.shards import ShardStore, open_shards

SAME: dict[str, Any] = {"init": "random", "channels": 1}
ARMS: dict[str, dict[str, Any]] = {
    "random": {},
    "simclr": {"recipe": "simclr"},
    "mocov2": {"recipe": "mocov2"},
    "reference": {"recipe": "reference"},
    "default": {},
}
"""By name, a recipe and settings of `TrainConfig`; `random` is not trained."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "intra-only": {"cross_topk": (0, 0)},
    "cross-only": {"intra_negatives": (0, 0)},
    "in-batch-only": {"cross_topk": (0, 0), "intra_negatives": (0, 0)},
    "no-curriculum": {"intra_floor": 1.0},
    "published-cosine": {"curriculum": "published-cosine", "intra_floor": 0.0},
    "exclude-video": {"exclude": "video"},
    "exclude-none": {"exclude": "none"},
}
SCALES: dict[str, tuple[int, dict[str, Any]]] = {
    "cpu": (72_000, {"arch": "resnet18", "size": 64, "batch_size": 47}),
    "gpu": (1_000_000, {"arch": "resnet50", "size": 224, "batch_size": 64}),
}
"""Passes, and settings of `TrainConfig`: sized for two CPU cores, and for one GPU, on which it has not been run yet."""

EVALUATIONS: dict[str, dict[str, Any]] = {
    "frozen": {"protocols": ("knn", "linear")},
    "tuned": {"protocols": ("finetune",), "frames": 6, "epochs": 4, "lr": 0.01},
}
"""By name, settings of `EvaluateConfig`."""


@click.command()
@click.argument("shards")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--scale", default="cpu", show_default=True, type=click.Choice(tuple(SCALES)))
@click.option("--passes", type=click.IntRange(1), help="Of pictures, in each run.  [default: the scale's]")
@click.option("--size", type=click.IntRange(32), help="Of the pictures, in pixels.  [default: the scale's]")
@click.option("--batch-size", type=click.IntRange(2), help="Tuples a step.  [default: the scale's]")
@click.option("--seeds", default=3, show_default=True, help="Runs of each arm.")
@click.option("--ablate", is_flag=True, help="Compare parts of the method, not the method with others.")
@click.option("--arms", help="By commas.  [default: all]")
@click.option("--frozen-only", is_flag=True, help="Leave out fine-tuning.")
@click.option("--folds", default=5, show_default=True)
@click.option("--loader", type=click.Choice(tuple(LOADERS)), help="Of training.  [default: the fastest]")
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", default=cores(), show_default="one a CPU core", type=click.IntRange(0))
def main(
    shards: str, out: Path, ablate: bool, arms: str | None, frozen_only: bool, seeds: int, folds: int, **options: Any
) -> None:
    """Trains into OUT/runs, evaluates into OUT/evaluations, compares into OUT/PROTOCOL, and writes OUT/report.json.

    A run or an evaluation that is there is not made again: it can be interrupted, and arms can be added.
    """
    known = ABLATIONS if ablate else ARMS
    chosen = {name: known[name] for name in (arms.split(",") if arms else known)}
    passes, scaled = SCALES[options["scale"]]
    given = {name: options[name] for name in ("size", "batch_size") if options[name]}
    budget, same = options["passes"] or passes, {**SAME, **scaled, **given}
    store = open_shards(shards)
    execution = _execution(store, options)
    evaluations = {k: v for k, v in EVALUATIONS.items() if not (frozen_only and k == "tuned")}
    report: dict[str, Any] = {"kind": "quality", "hardware": hardware(), "passes": budget, "runs": {}}
    for seed in range(seeds):  # all arms once, then once more
        for name, own in chosen.items():
            run = out / "runs" / f"{name}-{seed}"
            if name == "random":
                run = _random_weights(out / "runs", seed, same["arch"])
            else:
                epochs = round(budget / len(store.table.videos) / passes_a_tuple(own))
                summary = _train(store, run, execution, {**same, **own, "seed": seed, "epochs": epochs})
                report["runs"][run.name] = {"epochs": epochs, "seconds": summary["seconds"], "loss": summary["loss"]}
            for kind, settings in evaluations.items():
                config = evaluate.EvaluateConfig(
                    arch=same["arch"], size=same["size"], device=options["device"], folds=folds, **settings
                )
                _evaluate(run, shards, out / "evaluations" / f"{name}-{seed}" / kind, config)
    report["options"] = {name: {**same, **own} for name, own in chosen.items()}
    report["compared"] = {}
    for kind, settings in evaluations.items():
        for protocol in settings["protocols"]:
            found = [
                f"{name}={out / 'evaluations' / f'{name}-{seed}' / kind / protocol}"
                for name in chosen
                for seed in range(seeds)
            ]
            baseline = "default" if "default" in chosen else None
            comparison = evaluate.compare(evaluate.read_evaluations(found), baseline)
            evaluate.write_comparison(out / protocol, comparison)
            evaluate.show_comparison(comparison)
            report["compared"][protocol] = comparison
    write_json(out / "report.json", report)


def passes_a_tuple(own: dict[str, Any]) -> int:
    """Of pictures of a tuple through the network, with gradient three each."""
    config = _config(own)
    if config.method == "simclr":
        return 6
    if config.method == "moco":
        return 4
    assert isinstance(config, Usucl), config.method
    encoded = max(config.intra_negatives) if config.intra_mining == "encode" else 0
    return 3 * (1 + encoded) + (3 if config.symmetric else 1)


def _config(settings: dict[str, Any]) -> learn.Method:
    return learn.make_config(
        settings.get("recipe", "default"), {name: value for name, value in settings.items() if name != "recipe"}
    )


def _execution(store: ShardStore, options: dict[str, Any]) -> learn.Execution:
    loader = options["loader"] or choose_loader(store, SAME["channels"], RESIDENT_BYTES)[0]
    return learn.Execution(loader=loader, device=pick_device(options["device"]), threads=options["threads"])


def _train(store: ShardStore, run: Path, execution: learn.Execution, settings: dict[str, Any]) -> dict[str, Any]:
    """The summary of the run, which is begun, or gone on with, where it is not finished."""
    folder = RunFolder(run)
    if folder.summary.exists():
        summary: dict[str, Any] = json.loads(folder.summary.read_bytes())
        if summary["steps"] == summary["of"]:
            return summary
    begun = folder.holds_run()
    return learn.train(folder.read_config() if begun else _config(settings), store, run, execution, resume=begun)


def _evaluate(model: Path, shards: str, out: Path, config: evaluate.EvaluateConfig) -> None:
    if all((out / protocol / "summary.json").exists() for protocol in config.protocols):
        return
    for evaluation in evaluate.evaluate(model, shards, config):
        evaluate.write_evaluation(out / evaluation.protocol, evaluation)
        evaluate.show(evaluation.summary)


def _random_weights(out: Path, seed: int, arch: str) -> Path:
    """A file of weights that nothing has been learned in."""
    file = out / f"random-{seed}.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    with write_whole(file) as opened:
        opened.write(safetensors_bytes(evaluate.load_backbone(None, arch, seed).state_dict()))
    return file


if __name__ == "__main__":
    main()
