"""What is said without computing anything comes at once: it imports neither torch nor anything else that takes long."""

import importlib
import json
import pkgutil
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import usucl_fast
from tests.helpers import REPOSITORY, SAMPLE

HEAVY = {
    *("torch", "torchvision", "numba", "matplotlib", "sklearn", "scipy", "nvidia", "pandas", "pyarrow"),
    *("av", "pydicom", "simplejpeg", "pebble", "fsspec", "aiohttp", "lightly", "timm"),
}
INVOKE = """
import json, sys
from click.testing import CliRunner
from usucl_fast.cli.{command} import main
told = [CliRunner().invoke(main, arguments) for arguments in json.load(sys.stdin)]
print(json.dumps([[(one.exit_code, one.output) for one in told], list(sys.modules)]))
"""
PACKAGES = sorted(module.name for module in pkgutil.walk_packages(usucl_fast.__path__, "usucl_fast.") if module.ispkg)
LAZY = ("bench", "evaluate", "feed", "learn", "mining", "pack", "shards")

# A line of arguments each; FULL is a folder that holds something, NEW a path where nothing is.
LOOKED_UP = {
    ("shard", "options"): [
        "--help; pack --help; verify --help; list --help; export-ffcv --help; --version",
        "--no-such x y; x; x y --codec gif; nowhere NEW; x y --every 2 --fps 3; list; verify --no-such",
    ],
    ("shard", "shards"): [
        "list SAMPLE; verify SAMPLE",
        "list nowhere; verify nowhere; verify http://there/shards; export-ffcv nowhere NEW",
    ],
    ("train", "all"): [
        "--help; export --help; --version; --show-curriculum; --show-curriculum --recipe reference --epochs 9",
        "--no-such; --arch; --loader no-such; --dali --loader torch; --resume --overwrite; --resume; --epochs 0",
        "SAMPLE; nowhere --out NEW; SAMPLE --out FULL; nowhere --out FULL --resume; --config nowhere",
        "--recipe simclr --intra-floor 1; --intra-negatives 0 --cross-topk 0 --no-in-batch",
        "export nowhere --format onnx --out NEW; export nowhere --format onnx --out FULL; export x --format no-such",
        "page --help; page; page nowhere; page FULL",
    ],
    ("evaluate", "all"): [
        "--help; compare --help; embed --help; --version",
        "--no-such; random; nowhere SAMPLE --out NEW; random nowhere --out NEW; random SAMPLE --out FULL",
        "random SAMPLE --out NEW --protocol no-such; random SAMPLE --out NEW --by no-such",
        "random SAMPLE --out NEW --positive no-such; random SAMPLE --out NEW --by frame",
        "random SAMPLE --out NEW --lr 1",
        "compare; compare nowhere --out NEW; compare nowhere --out FULL",
        "embed random SAMPLE --out NEW; embed random nowhere --out NEW.npz; embed random SAMPLE --out FULL",
    ],
    ("bench", "all"): [
        "--help; feed --help; shard --help; mining --help; train --help; --version",
        "no-such; feed --no-such; feed; feed nowhere; feed SAMPLE --arms no-such; shard nowhere",
        "shard x --arms no-such",
        "mining --arms no-such; train nowhere; train SAMPLE --arms no-such; feed SAMPLE --arms published",
        "feed http://there/shards --page-cache cold",
    ],
}
MOST_MODULES = {
    ("shard", "options"): 230,
    ("shard", "shards"): 390,
    ("train", "all"): 340,
    ("evaluate", "all"): 440,
    ("bench", "all"): 480,
}
"""A sixth or so more than there are: what takes long to import brings hundreds."""


def run(code: str, given: object = None) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=json.dumps(given), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def heavy(modules: list[str]) -> set[str]:
    return HEAVY & {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("group", LOOKED_UP, ids=" ".join)
def test_what_computes_nothing_imports_nothing_that_takes_long(group: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    places = {"SAMPLE": str(SAMPLE), "FULL": str(tmp_path / "full"), "NEW": str(tmp_path / "new")}
    lines = [line.strip() for text in LOOKED_UP[group] for line in text.split(";")]
    given = [[re.sub("SAMPLE|FULL|NEW", lambda m: places[m[0]], word) for word in line.split()] for line in lines]
    told, modules = json.loads(run(INVOKE.format(command=group[0]), given))
    for line, (code, output) in zip(lines, told, strict=True):
        right = any(word in line for word in ("--help", "--version", "--show", "list SAMPLE", "verify SAMPLE"))
        assert code == (0 if right else 2), f"{line}: {output}"
        assert output, line
    assert not heavy(modules)
    assert len(modules) <= MOST_MODULES[group]
    assert not (tmp_path / "new").exists()


def test_packages_are_imported_without_what_takes_long() -> None:
    names = [*PACKAGES, "usucl_fast.shards.store", "usucl_fast.shards.verification", "usucl_fast.feed.registry"]
    code = "import importlib, json, sys\nfor name in json.load(sys.stdin): importlib.import_module(name)\n"
    assert not heavy(json.loads(run(f"{code}print(json.dumps(list(sys.modules)))", names)))


@pytest.mark.parametrize("name", LAZY)
def test_public_names_are_what_the_stub_says(name: str) -> None:
    package = importlib.import_module(f"usucl_fast.{name}")
    lines = (REPOSITORY / "usucl_fast" / name / "__init__.pyi").read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"from \.(\w+) import (\w+) as \2", line) for line in lines]
    module_of = {match[2]: match[1] for match in found if match}
    assert len(module_of) == len(lines)
    assert package.__all__ == sorted(module_of)
    # A module called like a public name would be what that name means, once it is imported.
    assert not {module.name for module in pkgutil.iter_modules(package.__path__)} & set(module_of)
    for public, module in module_of.items():
        assert getattr(package, public) is getattr(importlib.import_module(f"{package.__name__}.{module}"), public)


@pytest.mark.parametrize("command", ["shard", "train", "evaluate", "bench"])
def test_ctrl_c_while_a_command_is_imported_shows_no_traceback(tmp_path: Path, command: str) -> None:
    """Click, which every command imports, is interrupted."""
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from usucl_fast.cli.{command} import main"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "Aborted!\n"
