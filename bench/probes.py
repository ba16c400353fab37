"""How much longer an evaluation takes than computing the features alone.

python bench/probes.py MODEL SHARDS
"""

import json
import statistics
import time

import click

from usucl_fast import evaluate
from usucl_fast.evaluate.embedding import find_model
from usucl_fast.evaluate.samples import find_samples
from usucl_fast.machine import pick_device


@click.command()
@click.argument("model")
@click.argument("shards")
@click.option("--arch", help="Backbone, where MODEL is not a run.")
@click.option("--size", type=int, help="Height and width of pictures, where MODEL is not a run.")
@click.option("--rounds", default=5, show_default=True, help="Times that each is measured, in turn.")
def main(model: str, shards: str, arch: str | None, size: int | None, rounds: int) -> None:
    """Times the protocols knn and linear, and embedding the same frames, within one process; prints JSON, in s."""
    config = evaluate.EvaluateConfig(arch=arch, size=size, protocols=("knn", "linear"))
    found, device = find_model(model, config), pick_device(config.device)
    seconds: dict[str, list[float]] = {"embed": [], "evaluate": []}
    for _ in range(rounds + 1):  # the first round warms up
        begun = time.perf_counter()
        store = config.open_shards(shards)
        frame_ids, samples = find_samples(store.table, config.frames)
        pictures = evaluate.load_frames(store, frame_ids, config.loader, found.delivery(device))
        features = evaluate.embed(found.backbone(), pictures, len(samples), device)
        embedded = time.perf_counter()
        evaluated = list(evaluate.evaluate(model, shards, config))
        seconds["embed"].append(embedded - begun)
        seconds["evaluate"].append(time.perf_counter() - embedded)
        own = evaluated[0].features
        assert own is not None
        assert own.shape == features.shape, "not the same frames"
    taken = {name: values[1:] for name, values in seconds.items()}
    ratios = [one / other for one, other in zip(taken["evaluate"], taken["embed"], strict=True)]
    report = {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in {**taken, "evaluate/embed": ratios}.items()
    }
    print(json.dumps({"frames": len(features), "features": features.shape[1], **report}))


if __name__ == "__main__":
    main()
