"""`train`: a run from its settings to its summary, with whatever may go wrong said in one line."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from usucl_fast.errors import ResourceError, UsageError
from usucl_fast.files import NO_SPACE
from usucl_fast.learn.arithmetic import arithmetic, with_precision
from usucl_fast.learn.engine import Run
from usucl_fast.learn.execution import Execution
from usucl_fast.learn.method import Method
from usucl_fast.learn.origin import Origin
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.result import RunSummary
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.learn.splits import with_split
from usucl_fast.learn.watch import import_tensorboard
from usucl_fast.shards import ShardStore


def train(
    config: Method,
    store: ShardStore,
    out: Path,
    execution: Execution,
    *,
    resume: bool = False,
    overwrite: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> RunSummary:
    """Trains into the run folder `out`, and returns the summary (also in `summary.json`).

    Stops early, with a checkpoint, when `should_stop()` is true before a step, or when a wait for data is interrupted.
    A resumed run continues as if it had never stopped. Of several `ranks`, each calls this; the first writes the
    folder, and keeps other processes from training in it.

    Raises:
        UsageError: `out` holds a run and neither `resume` nor `overwrite` is given, or there is none to
            resume, or it was begun with other settings or shards, or another process is training in it; or the
            settings do not work on this machine.
        StoppedError: the run was stopped before its first step, or another rank has ended.
        ResourceError: memory or disk ran out.
        DataError: the loss or the gradient is not finite; the message names the step and the frames.
    """
    ranks = ranks or Ranks()
    config = with_split(with_precision(config, execution.device), store)
    folder = RunFolder(out)
    locked = folder.locked() if ranks.first else contextlib.nullcontext()
    with (
        ranks.reporting_lost_ranks(),
        _out_of_room(config),
        ranks.heartbeat(execution.rank_timeout),
        locked,
        arithmetic(config.precision, execution.deterministic),
    ):
        if ranks.first:
            folder.check(config, store.fingerprint, resume, overwrite)
            if execution.tensorboard:
                import_tensorboard()  # before anything is written or an old run is replaced
        run = Run(config, store, folder, execution, ranks, resume)
        if ranks.first:
            if overwrite:
                folder.clear()
            folder.begin(config, store.fingerprint, Origin.of_process(store.name))
        if not ranks.agree(run.step):  # no rank starts before all can
            raise UsageError(f"--out {out} is not the same on all ranks; name a folder that all machines share")
        return run.go(should_stop)


@contextlib.contextmanager
def _out_of_room(config: Method) -> Iterator[None]:
    """Raises ResourceError where memory or disk space runs out."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise ResourceError(
            f"{error.filename} cannot be written ({error.strerror}): make room; --resume continues from the newest"
            " checkpoint"
        ) from error
    except (MemoryError, RuntimeError) as error:
        words = ("out of memory", "can't allocate memory", "not enough memory")
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
            raise
        raise ResourceError(
            f"out of memory: lower --batch-size ({config.batch_size}) or --size ({config.size}), or raise --accumulate"
            f" ({config.accumulate}); --resume continues from the newest checkpoint, with the settings it has"
        ) from error
