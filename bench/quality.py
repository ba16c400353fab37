"""Which negatives help, and where? Arms alike but for one thing, trained as long, and asked the same questions.

python bench/quality.py LEG SHARDS WORK

Every run ends as one small file, RESULTS/LEG-SCALE-ARM-SEED.json; `python -m bench.quality_tables` makes the tables.
"""

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from usucl_fast import evaluate, learn
from usucl_fast.evaluate import RANDOM
from usucl_fast.evaluate.folds import most_folds
from usucl_fast.evaluate.metrics import at_level, bootstrap_scores, group_draws
from usucl_fast.evaluate.samples import find_samples
from usucl_fast.feed import RESIDENT_BYTES, Delivery, choose_loader
from usucl_fast.files import write_json
from usucl_fast.learn import RunFolder
from usucl_fast.machine import cores, hardware, pick_device
from usucl_fast.shards import ShardStore, open_shards

RESULTS = Path(__file__).parent / "results" / "quality"
DRAWS = 200
"""Of the groups, the same in all runs, so that differences of runs are paired."""
POINTS = 4
"""Of a run at which it is evaluated: its quarters."""
NORMAL = "normal"
"""Label of frames without a lesion, see `tools/make_phantoms.py`."""


class Arm(NamedTuple):
    """`settings` of `TrainConfig`, beside the scale's; and what it is compared with: the first arm that was run."""

    settings: dict[str, Any]
    beside: tuple[str, ...]


IN_BATCH = {
    "optimizer": "sgd",
    "lr": 0.06,
    "augment": "geometric",
    "intra_negatives": (0, 0),
    "cross_topk": (0, 0),
}
INTRA = {**IN_BATCH, "intra_negatives": (16, 16), "intra_window": (0.1, 1.0), "intra_floor": 1.0}
BY_NAME = ("default", "intra", RANDOM)
"""What recipes are compared with; `intra` has the settings of `default`."""
LOOK, GAIN = {"augment": "look"}, {"augment": "gain"}

ARMS: dict[str, Arm] = {
    RANDOM: Arm({}, ()),
    # Two factors: intra-video negatives or not, another machine's look in each view or not.
    "in-batch": Arm(IN_BATCH, (RANDOM,)),
    "intra": Arm(INTRA, ("in-batch",)),
    "look": Arm({**IN_BATCH, **LOOK}, ("in-batch",)),
    "look-intra": Arm({**INTRA, **LOOK}, ("look",)),
    # The same without the texture and the blur, in which small lesions go under.
    "gain": Arm({**IN_BATCH, **GAIN}, ("in-batch",)),
    "gain-intra": Arm({**INTRA, **GAIN}, ("intra",)),
    # The parts, one by one.
    "intra-nhat": Arm({**INTRA, "cross_topk": (16, 16)}, ("intra",)),
    "look-intra-nhat": Arm({**INTRA, **LOOK, "cross_topk": (16, 16)}, ("look-intra",)),
    "intra-closing": Arm({**INTRA, "intra_floor": 0.15}, ("intra",)),
    "intra-published-window": Arm({**INTRA, "intra_window": (0.2, 0.4), "intra_floor": 0.15}, ("intra",)),
    "intra-from-start": Arm({**INTRA, "intra_from": 0.0}, ("intra",)),
    "intra-encoded": Arm({**INTRA, "intra_mining": "encode", "intra_negatives": (3, 3)}, ("intra",)),
    "intra-adamw": Arm({**INTRA, "optimizer": "adamw", "lr": 1e-3}, ("intra",)),
    "video-excluded": Arm({**IN_BATCH, "exclude": "video"}, ("in-batch",)),
    "mocov2-crops": Arm({**IN_BATCH, "augment": "mocov2"}, ("in-batch",)),
    # By name.
    "default": Arm({"recipe": "default"}, ("in-batch", RANDOM)),
    "simclr": Arm({"recipe": "simclr"}, BY_NAME),
    "mocov2": Arm({"recipe": "mocov2"}, BY_NAME),
    "byol": Arm({"recipe": "byol"}, BY_NAME),
    "uscl": Arm({"recipe": "uscl"}, BY_NAME),
    "dino": Arm({"recipe": "dino"}, BY_NAME),
    "reference": Arm({"recipe": "reference"}, BY_NAME),
}
SAME: dict[str, Any] = {"init": RANDOM, "channels": 1}
SCALES: dict[str, dict[str, Any]] = {
    "cpu": {"arch": "timm/test_resnet", "size": 96, "batch_size": 32, "steps": 2000},
    "cpu-long": {"arch": "timm/test_resnet", "size": 96, "batch_size": 32, "steps": 6000},
    "gpu": {"arch": "resnet18", "size": 96, "batch_size": 64, "steps": 2500},
    "imagenet": {"init": "imagenet", "arch": "timm/tf_efficientnet_lite0", "size": 112, "batch_size": 64, "steps": 600},
}
"""Settings by scale: for two CPU cores, the same three times as long, for a GPU, and from ImageNet's weights, for the
arms by name."""


class Question(NamedTuple):
    """What is asked of features: what is predicted of frames or videos, and the score that counts."""

    target: str
    level: str
    score: str
    binary: bool = False
    """Whether there is a lesion or none, whichever it is."""


OF_PHANTOMS = {
    "lesion visible": Question("frame", "frame", "auroc", binary=True),
    "which lesion": Question("frame", "frame", "balanced_accuracy"),
    "lumen": Question("value", "frame", "r2"),
}
LEGS: dict[str, dict[str, Question]] = {
    "many-machines": OF_PHANTOMS,
    "one-machine": OF_PHANTOMS,
    "pocus": {
        "frames": Question("video", "frame", "balanced_accuracy"),
        "videos": Question("video", "video", "balanced_accuracy"),
    },
}
"""By the videos that are learned from: phantoms of as many machines as videos, phantoms of one, real lungs."""
PROTOCOLS = ("linear", "knn")


@click.command()
@click.argument("leg", type=click.Choice(tuple(LEGS)))
@click.argument("shards")
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--scale", default="cpu", show_default=True, type=click.Choice(tuple(SCALES)))
@click.option("--arms", default="random,in-batch,intra,look,look-intra", show_default=True, help="By commas.")
@click.option("--seeds", default="0,1,2", show_default=True, help="By commas.")
@click.option("--steps", type=click.IntRange(POINTS), help="Of each run.  [default: the scale's]")
@click.option("--results", default=RESULTS, show_default=True, type=click.Path(path_type=Path))
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", default=cores(), show_default="one a CPU core", type=click.IntRange(0))
def main(
    leg: str, shards: str, work: Path, scale: str, arms: str, seeds: str, results: Path, threads: int, **options: Any
) -> None:
    """Trains the ARMS into WORK and writes what each has learned into RESULTS.

    A run whose file is there is not made again, and one that was interrupted is resumed. Runs of several of these
    commands do not meet, as long as their arms or seeds differ.
    """
    unknown = set(arms.split(",")) - set(ARMS)
    if unknown:
        raise click.BadParameter(f"no {', '.join(sorted(unknown))}; choose from {', '.join(ARMS)}", param_hint="--arms")
    store, device = open_shards(shards), pick_device(options["device"])
    execution = learn.Execution(
        loader=choose_loader(store, SAME["channels"], RESIDENT_BYTES)[0],
        device=device,
        threads=threads,
        checkpoint_every=500,
    )
    scaled = {**SAME, **SCALES[scale], **({"steps": options["steps"]} if options["steps"] else {})}
    results.mkdir(parents=True, exist_ok=True)
    for seed in map(int, seeds.split(",")):
        for arm in arms.split(","):
            name = f"{leg}-{scale}-{arm}-{seed}"
            file = results / f"{name}.json"
            if not file.exists():
                report = {"kind": "quality", "leg": leg, "scale": scale, "arm": arm, "seed": seed}
                write_json(
                    file, {**report, **_run(store, LEGS[leg], arm, {**scaled, "seed": seed}, work / name, execution)}
                )
            click.echo(f"{name}: {_in_words(json.loads(file.read_bytes()))}")


def _run(
    store: ShardStore,
    questions: dict[str, Question],
    arm: str,
    scaled: dict[str, Any],
    work: Path,
    execution: learn.Execution,
) -> dict[str, Any]:
    """Trains an arm to the end, quarter by quarter; what its file says."""
    facts = {"commit": _commit(), "hardware": hardware(), "groups": len(set(store.table.group.tolist()))}
    if arm == RANDOM:
        init = None if scaled["init"] == RANDOM else scaled["init"]
        backbone = evaluate.load_backbone(init, scaled["arch"], scaled["seed"])
        config = {name: scaled[name] for name in ("init", "arch", "size", "channels", "seed")}
        return {**facts, "settings": config, "figures": dict(_figures(store, backbone, questions, config, execution))}
    settings = {**scaled, **ARMS[arm].settings}
    made = learn.make_config(
        settings.get("recipe", "default"), {name: value for name, value in settings.items() if name != "recipe"}
    )
    folder = RunFolder(work / "run")
    curve_file = work / "curve.json"
    curve = json.loads(curve_file.read_bytes()) if curve_file.exists() else []
    for quarter in range(len(curve), POINTS):
        stop = made.steps * (quarter + 1) // POINTS
        begun = folder.holds_run()
        learn.train(
            folder.read_config() if begun else made,
            store,
            folder.path,
            dataclasses.replace(execution, stop_after=stop),
            resume=begun,
        )
        backbone = evaluate.load_backbone(folder.backbone, made.arch)
        figures = dict(_figures(store, backbone, questions, dataclasses.asdict(made), execution))
        curve.append({"step": stop, "figures": figures, "mean_cosine": _mean_cosine(folder)})
        write_json(curve_file, curve)
    short = [
        {**point, "figures": {name: figure["value"] for name, figure in point["figures"].items()}} for point in curve
    ]
    return {
        **facts,
        "settings": dataclasses.asdict(folder.read_config()),
        "seconds": json.loads(folder.summary.read_bytes())["seconds"],
        "curve": short,
        "figures": curve[-1]["figures"],
    }


def _figures(
    store: ShardStore,
    backbone: torch.nn.Module,
    questions: dict[str, Question],
    settings: dict[str, Any],
    execution: learn.Execution,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """By question and protocol: the value over all groups, and what it is where they are drawn anew."""
    found = {question.target: find_samples(store.table, 16, question.target) for question in questions.values()}
    wanted = np.unique(np.concatenate([frame_ids for frame_ids, _ in found.values()]))
    delivery = Delivery(
        size=settings["size"],
        channels=settings["channels"],
        device=execution.device,
        threads=execution.threads,
        most_frames=evaluate.BATCH,
    )
    pictures = evaluate.load_frames(store, wanted, "torch", delivery)
    features = evaluate.embed(backbone, pictures, len(wanted), execution.device)
    for name, question in questions.items():
        frame_ids, samples = found[question.target]
        if question.binary:
            ill = (samples.labels != samples.classes.index(NORMAL)).astype(np.int64)
            samples = dataclasses.replace(samples, labels=ill, classes=[NORMAL, "lesion"])
        splits = evaluate.make_folds(samples, "group", min(5, most_folds(samples, "group")), 5, seed=0)
        groups = len(np.unique(samples.groups))
        weights = np.concatenate([np.ones((1, groups)), group_draws(groups, seed=0)[:DRAWS]])
        own = features[np.searchsorted(wanted, frame_ids)]
        for protocol in PROTOCOLS:
            asked = at_level(evaluate.predict(protocol, own, samples, splits), question.level)
            assert asked
            value, *drawn = bootstrap_scores(asked, weights, question.score).round(5).tolist()
            yield f"{name}, {protocol}", {"value": value, "drawn": drawn}


def _mean_cosine(folder: RunFolder) -> float:
    """Of a batch's anchors, the mean over the last steps: near 1 where embeddings have collapsed."""
    return round(float(np.mean([line["mean_cosine"] for line in list(folder.read_metrics())[-20:]])), 4)


def _commit() -> str:
    """The commit of this checkout, and whether it was changed."""
    here = Path(__file__).parent
    said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


def _in_words(report: dict[str, Any]) -> str:
    return ", ".join(f"{name} {figure['value']:.3f}" for name, figure in report["figures"].items())


if __name__ == "__main__":
    main()
