"""The command line: one thin module a command, nothing here that a library user would miss.

shard.py, train.py, export.py, page.py, evaluate.py, bench.py   the commands
command.py   what all share: errors as one line, `--debug`, a command that need not be named
shards.py, device.py   the argument SHARDS, the option --device
settings.py  the settings of training as options, or from a TOML file
sources.py   the argument SOURCE, the option --salt, and `usucl-shard names`, which puts both together
charts.py    figures as text

Commands take what they use from the public API of the packages, as in `feed.make_loader`: it is imported when it is
first used, so that help and wrong options do not wait for torch.
"""

import sys
from types import TracebackType


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Says of Ctrl-C what click says of it, while the command is still being imported."""
    if issubclass(kind, KeyboardInterrupt):
        print("Aborted!", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _report
