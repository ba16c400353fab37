"""Calls public functions of `mining` and `feed` with wrong arguments, and looks how each call ends.

    python -m tools.fuzz_calls --count 3000 --seed 0
    python -m tools.fuzz_calls --only 317                 the same call again, alone

Call n of a seed is always the same: right arguments, one or two of which were changed in shape, type, layout, device or
value. In a process of its own it ends

    right       in what a naive version of the function makes of the same arguments
    refused     in a ValueError of this package's own, of one line, with nothing changed; or in torch's own error where
                there is no memory for as large a bank as was asked for
    different   in something else, and nobody is told
    traceback, crash, hang, memory     as no call should

The last five are faults: the exit status is then 1. A bank that is spread over ranks has one here.
"""

import dataclasses
import functools
import json
import operator
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
import torch.distributed as dist

import usucl_fast
from tools.campaign import Ends, Outcome, attempt_all, check_line, show
from tools.wrong_arguments import change
from usucl_fast.curriculum import Curriculum, window_bounds
from usucl_fast.feed import Augmentation, BatchPlan, Delivery, Normaliser, Planner, make_loader
from usucl_fast.feed.normalise import IMAGENET_MEAN, IMAGENET_STD
from usucl_fast.mining import MemoryBank, PartitionedBank, hardest_in_window, nearest_in, soft_negative
from usucl_fast.shards import open_shards

PACKAGE = Path(usucl_fast.__file__).parent
SAMPLE = Path(__file__).parent.parent / "shards" / "sample"
FIRST_ROW = np.array([0, 7, 7, 20, 31, 40])
GROUP = np.array([0, 1, 1, 0, 2])
N, D, B = int(FIRST_ROW[-1]), 8, 5
Arguments = dict[str, Any]


class Target(NamedTuple):
    """A public function.

    arguments: right ones.
    call: with a bank and arguments; what it makes of them, as tensors.
    naive: the same, slowly and plainly; None where there is only to see that it comes to an end.
    """

    arguments: Callable[[np.random.Generator], Arguments]
    call: Callable[[MemoryBank, Arguments], Any]
    naive: Callable[[MemoryBank, Arguments], Any] | None = None


def make_bank() -> MemoryBank:
    """A bank of five videos, one of which is empty, with three rows not written yet."""
    bank = MemoryBank(FIRST_ROW, D, torch.float32, group=GROUP)
    ids = torch.arange(N - 3)
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((N - 3, D))).float()
    bank.write(ids, torch.nn.functional.normalize(z, dim=1), 3)
    bank.write(ids[:4], torch.nn.functional.normalize(z[:4] + 1, dim=1), 9)
    return bank


def _unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((*shape, D))).float(), dim=-1)


def _ids(rng: np.random.Generator, count: int = B) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, N, count))


def _asked(rng: np.random.Generator) -> Arguments:
    own = {"max_age": 7, "step": 12} if rng.integers(2) else {"max_age": None, "step": None}
    return {"query": _unit(rng, B), "k": int(rng.integers(1, 9)), **own}


def _cross_arguments(rng: np.random.Generator) -> Arguments:
    ways: tuple[Arguments, ...] = ({"below": 0.5}, {"band": (0.1, 0.8)}, {})
    further = ways[rng.integers(len(ways))]
    return {**_asked(rng), "exclude": torch.from_numpy(rng.integers(-1, 5, B)), **further}


def _answers(allowed_BN: np.ndarray, bank: MemoryBank, query: torch.Tensor, k: int, band: Any = None) -> torch.Tensor:
    """Similarities `[B, k]` of the best of the allowed rows, -inf where there are fewer."""
    similarity = query.double().detach().numpy() @ bank.embeddings.double().numpy().T
    found = np.full((len(similarity), int(k)), -np.inf)
    for row, (own, allowed) in enumerate(zip(similarity, allowed_BN, strict=True)):
        if np.isfinite(query[row].detach().float().numpy()).all():
            best = np.sort(own[allowed])[::-1]
            first, last = (int(np.floor(len(best) * band[0])), int(np.ceil(len(best) * band[1]))) if band else (0, None)
            best = best[first:last][: int(k)]
            found[row, : len(best)] = best
    return torch.from_numpy(found)


def _allowed(bank: MemoryBank, given: Arguments) -> np.ndarray:
    written_at = bank.written_at.numpy()
    age = given.get("max_age")
    return (written_at >= 0) & (True if age is None else written_at >= operator.index(given["step"]) - int(age))


def _naive_cross(bank: MemoryBank, given: Arguments) -> torch.Tensor:
    group = np.repeat(GROUP, np.diff(FIRST_ROW))
    exclude = given["exclude"]
    excluded = np.full(len(given["query"]), -1) if exclude is None else exclude.numpy()
    own = np.where(excluded >= 0, GROUP[excluded], -1)
    allowed = _allowed(bank, given) & (group != own[:, None])
    if given.get("below") is not None:
        similarity = given["query"].double().detach().numpy() @ bank.embeddings.double().numpy().T
        allowed &= ~(similarity > float(given["below"]))
    return _answers(allowed, bank, given["query"], given["k"], given.get("band"))


def _naive_intra(bank: MemoryBank, given: Arguments) -> torch.Tensor:
    places, allowed = np.arange(N), np.zeros((len(given["query"]), N), np.bool_)
    for row, anchor in enumerate(given["frame_ids"].tolist()):
        video = int(np.searchsorted(FIRST_ROW, anchor, side="right")) - 1
        first, end = FIRST_ROW[video], FIRST_ROW[video + 1]
        window = tuple(float(side) for side in given["window"])
        bounds = window_bounds(np.array([anchor - first]), np.array([end - first]), (window[0], window[1]))[0] + first
        for start, stop in bounds.reshape(2, 2):
            allowed[row] |= (places >= start) & (places < stop)
    return _answers(allowed & _allowed(bank, given), bank, given["query"], given["k"])


def _naive_write(bank: MemoryBank, given: Arguments) -> torch.Tensor:
    rows = bank.embeddings.clone()
    for frame_id, z in zip(given["frame_ids"].tolist(), given["z"].detach().float(), strict=True):
        last = given["frame_ids"].tolist()[::-1].index(frame_id)
        z = given["z"].detach()[len(given["z"]) - 1 - last].float()
        if bool((z.abs() <= 2.0**64).all()):
            rows[frame_id] = z
    return rows


def _written(bank: MemoryBank, given: Arguments) -> torch.Tensor:
    bank.write(**given)
    return bank.embeddings.clone()


def _naive_rows(bank: MemoryBank, given: Arguments) -> torch.Tensor:
    flat = given["frame_ids"].reshape(-1).tolist()
    rows = [bank.embeddings[one] if one >= 0 else torch.zeros(D) for one in flat]
    return torch.stack(rows).reshape(*given["frame_ids"].shape, D) if rows else torch.zeros(0)


def _naive_soft(_: MemoryBank, given: Arguments) -> torch.Tensor:
    made = []
    for query, candidates, valid in zip(given["query"], given["candidates"], given["valid"], strict=True):
        kept = candidates[valid].to(query.dtype)
        weights = (kept @ query / float(given["tau"])).softmax(0)
        made.append(weights @ kept if len(kept) else torch.zeros_like(query))
    return torch.stack(made) if made else torch.zeros(0)


def _naive_nearest(_: MemoryBank, given: Arguments) -> torch.Tensor:
    return (given["query"] @ given["buffer"].to(given["query"].dtype).T).sort(dim=1, descending=True)[0][
        :, : given["k"]
    ]


def _nearest_similarity(_: MemoryBank, given: Arguments) -> torch.Tensor:
    found = nearest_in(**given)
    return (given["query"] @ given["buffer"].to(given["query"].dtype).T).gather(1, found)


def _restored(bank: MemoryBank, given: Arguments) -> torch.Tensor:
    bank.load_state_dict(given)
    return bank.embeddings.clone()


def _naive_restored(bank: MemoryBank, given: Arguments) -> torch.Tensor:
    return given["embeddings"].detach().to(bank.embeddings)


@functools.cache
def _store() -> Any:
    return open_shards(SAMPLE)


@functools.cache
def _plan() -> BatchPlan:
    look = Augmentation(area=(0.5, 1.0), flip=0.5, tone_chance=0.5, gamma=(0.7, 1.3), blur_chance=0.5, blur=(0.0, 0.02))
    planner = Planner(
        _store().table, seed=1, epochs=1, batch_size=2, curriculum=Curriculum("cosine"), augmentation=look
    )
    return next(planner.plans())


def _delivery_arguments(_: np.random.Generator) -> Arguments:
    return {"size": 16, "channels": 1, "device": torch.device("cpu"), "threads": 0, "most_frames": 64}


def _plan_arguments(_: np.random.Generator) -> Arguments:
    plan = _plan()
    return {name: np.array(getattr(plan, name)) for name in ("frame_ids", "boxes", "flips", "photometry")}


def _pictures(loader: str, given: Arguments) -> torch.Tensor:
    delivery = Delivery(**_delivery_arguments(np.random.default_rng()))
    batches = make_loader(loader, _store(), delivery).run([dataclasses.replace(_plan(), **given)])
    return torch.cat([batch.frames for batch in batches]).float()


def _normalised(_: MemoryBank, given: Arguments) -> torch.Tensor:
    return Normaliser(torch.device("cpu"), torch.channels_last)(**given)


def _naive_normalised(_: MemoryBank, given: Arguments) -> torch.Tensor:
    mean, deviation = (torch.tensor(three)[:, None, None] for three in (IMAGENET_MEAN, IMAGENET_STD))
    return (given["frames"].float() / 255 - mean) / deviation


TARGETS: dict[str, Target] = {
    "cross": Target(_cross_arguments, lambda bank, given: bank.cross(**given).similarity, _naive_cross),
    "intra": Target(
        lambda rng: {**_asked(rng), "frame_ids": _ids(rng), "window": (0.1, 0.9)},
        lambda bank, given: bank.intra(**given).similarity,
        _naive_intra,
    ),
    "write": Target(lambda rng: {"frame_ids": _ids(rng), "z": _unit(rng, B), "step": 11}, _written, _naive_write),
    "rows": Target(lambda rng: {"frame_ids": _ids(rng)}, lambda bank, given: bank.rows(**given), _naive_rows),
    "load": Target(
        lambda rng: {
            "embeddings": _unit(rng, N),
            "written_at": torch.from_numpy(rng.integers(-1, 5, N)),
            "first_frame": torch.tensor(0),
        },
        _restored,
        _naive_restored,
    ),
    "bank": Target(
        lambda _: {"first_row": FIRST_ROW.copy(), "dim": D, "dtype": torch.float32, "group": GROUP.copy()},
        lambda _, given: MemoryBank(**given).embeddings,
        lambda _, given: torch.zeros(int(np.asarray(given["first_row"])[-1]), int(given["dim"])),
    ),
    "hardest": Target(
        lambda rng: {"anchors": _ids(rng), "window": (0.1, 0.9), "k": 3, "max_age": 8, "step": 10},
        lambda bank, given: hardest_in_window(bank, **given).float(),
    ),
    "soft": Target(
        lambda rng: {
            "query": _unit(rng, B),
            "candidates": _unit(rng, B, 4),
            "valid": torch.from_numpy(rng.random((B, 4)) < 0.7),
            "tau": 0.1,
        },
        lambda _, given: soft_negative(**given),
        _naive_soft,
    ),
    "nearest": Target(
        lambda rng: {"query": _unit(rng, B), "buffer": _unit(rng, 12), "k": 4}, _nearest_similarity, _naive_nearest
    ),
    "normalise": Target(
        lambda rng: {"frames": torch.from_numpy(rng.integers(0, 256, (3, 1, 6, 5), np.uint8))},
        _normalised,
        _naive_normalised,
    ),
    "delivery": Target(_delivery_arguments, lambda _, given: torch.zeros(int(bool(Delivery(**given))))),
    "plan": Target(
        _plan_arguments, lambda _, given: _pictures("torch", given), lambda _, given: _pictures("resident", given)
    ),
}


def _spread(target: Target) -> Target:
    """The same of a bank that is spread over ranks, of which there is one."""

    def call(bank: MemoryBank, given: Arguments) -> Any:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            spread = PartitionedBank(FIRST_ROW, D, torch.float32, group=GROUP)
            spread.load_state_dict(bank.state_dict())
            try:
                return target.call(spread, given)
            finally:
                bank.load_state_dict(spread.state_dict())  # to be seen whether it has changed
        finally:
            dist.destroy_process_group()

    return target._replace(call=call)


TARGETS |= {f"spread {name}": _spread(TARGETS[name]) for name in ("cross", "intra", "write", "rows", "load", "hardest")}
KINDS = tuple(TARGETS)


def attempt(number: int, seed: int) -> Outcome:
    """Makes call `number` and looks how it ends."""
    rng = np.random.default_rng((seed, number))
    target = TARGETS[KINDS[number % len(KINDS)]]
    given = target.arguments(rng)
    changed = rng.choice(len(given), size=min(len(given), int(rng.integers(1, 3))), replace=False)
    for place in changed.tolist():
        name = list(given)[place]
        given[name] = change(given[name], rng)
    bank, untouched = make_bank(), make_bank()
    try:
        made = target.call(bank, given)
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        return "refused", "there is no memory for it"
    except ValueError as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if not Path(frame.filename).is_relative_to(PACKAGE):
            raise
        if any(not torch.equal(now, before) for now, before in zip(_state(bank), _state(untouched), strict=True)):
            return "different", f"refused, and changed the bank: {error}"
        return "refused", check_line(str(error))
    if target.naive is None:
        return "right", ""
    expected = target.naive(untouched, given)
    return ("right", "") if _alike(made, expected) else ("different", f"{made} and not {expected}"[:500])


def _state(bank: MemoryBank) -> tuple[torch.Tensor, ...]:
    return bank.embeddings, bank.written_at


def _alike(made: torch.Tensor, expected: torch.Tensor) -> bool:
    if made.numel() == expected.numel() == 0:
        return True
    made, expected = made.detach().double(), expected.detach().double()
    scale = max(1.0, float(expected[expected.isfinite()].abs().max())) if expected.isfinite().any() else 1.0
    return made.shape == expected.shape and torch.allclose(made, expected, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


def campaign(numbers: Sequence[int], seed: int) -> Ends:
    """Makes the calls of these numbers; by function, how many ended how, and number, function and outcome of each."""
    for number in range(len(KINDS)):  # compiles what all processes need, once
        target = TARGETS[KINDS[number]]
        target.call(make_bank(), target.arguments(np.random.default_rng(0)))
    return attempt_all(numbers, KINDS, functools.partial(attempt, seed=seed), "calls")


@click.command()
@click.option("--count", default=300, show_default=True, type=click.IntRange(1), help="How many calls.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--only", type=click.IntRange(0), help="Number of one call, to make it alone.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Number, function and outcome of each call.")
def main(count: int, seed: int, only: int | None, report: Path | None) -> None:
    """Calls public functions with wrong arguments, and tells by function how many calls ended how."""
    table, outcomes = campaign(range(count) if only is None else [only], seed)
    if report:
        report.write_text(json.dumps(outcomes, indent=1))
    sys.exit(not show(table))


if __name__ == "__main__":
    main()
