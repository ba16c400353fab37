"""The commands, run in this process."""

from pathlib import Path

from click.testing import CliRunner, Result

from usucl_fast.cli import bench, evaluate, shard, train


def usucl_shard(*arguments: object) -> Result:
    return CliRunner().invoke(shard.main, [str(argument) for argument in arguments], prog_name="usucl-shard")


def usucl_train(*arguments: object) -> Result:
    return CliRunner().invoke(train.main, [str(argument) for argument in arguments], prog_name="usucl-train")


def usucl_eval(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate.main, [str(argument) for argument in arguments], prog_name="usucl-eval")


def usucl_bench(*arguments: object) -> Result:
    return CliRunner().invoke(bench.main, [str(argument) for argument in arguments], prog_name="usucl-bench")


def refused(result: Result, *words: str) -> None:
    """Exit status 2 and one line that has the words."""
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


def tree(folder: Path) -> dict[str, int]:
    """When each file below a folder was changed: equal trees, nothing written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}
