"""Whether a run can be carried out as it is asked for, looked at before it starts."""

import torch

from usucl_fast.errors import UsageError
from usucl_fast.feed import Planner
from usucl_fast.learn.execution import PARTITIONED, Execution
from usucl_fast.learn.method import BankMethod, Method
from usucl_fast.learn.ranks import Ranks
from usucl_fast.progress import note
from usucl_fast.shards import ShardStore


def check_fit(config: Method, planner: Planner, execution: Execution, ranks: Ranks) -> None:
    """Checks that the settings suit the ranks and the length of the run.

    Raises:
        UsageError: a rank would have no tuples, the warm-up is all of the run, the batch norm is not available, or
            there is no bank to spread.
    """
    if not least_share(config, planner, ranks):
        least = planner.tuples_per_epoch // planner.steps_per_epoch
        raise UsageError(
            f"batches of {least} tuples are too few for {ranks.count} ranks and --accumulate {config.accumulate}: start"
            " fewer ranks, or raise --batch-size"
        )
    if config.warm_up >= planner.steps:
        raise UsageError(f"--warm-up {config.warm_up} is all of the run, which has {planner.steps} steps; lower it")
    if config.batch_norm == "sync" and ranks.count > 1 and not torch.cuda.is_available():
        raise UsageError("--batch-norm sync works on GPUs only; use rank or shuffle")
    if execution.bank == PARTITIONED and not isinstance(config, BankMethod):
        raise UsageError(f"--bank {PARTITIONED} has no effect with --method {config.method}, which has none; remove it")


def least_share(config: Method, planner: Planner, ranks: Ranks) -> int:
    """The least number of tuples that a rank encodes at once."""
    return planner.tuples_per_epoch // planner.steps_per_epoch // (ranks.count * config.accumulate)


def look_at_cache(config: Method, store: ShardStore, ranks: Ranks) -> None:
    """Says so where shards at a URL will be fetched more than once an epoch, for want of room."""
    lanes, room = -(-config.shuffle_shards // ranks.count), store.room
    if room is None or 0 < lanes < room:
        return
    held = f"the cache holds {room} of the {store.table.rows['shard'][-1] + 1} shards of {store.name} for each rank"
    if lanes:
        note(f"{held}, and --shuffle-shards {config.shuffle_shards} needs {lanes + 1}; lower it, or raise --cache-gb")
    else:
        fits = max(1, room * 3 // 4) * ranks.count
        note(
            f"{held}: shards are fetched again and again in each epoch; --shuffle-shards {fits} fetches each once, or"
            " raise --cache-gb"
        )
