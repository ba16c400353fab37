"""Optional packages that are not installed, or are and do not load."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from tests.helpers import SAMPLE
from tests.helpers.videos import moving_texture, write_video
from tests.helpers.without import OPTIONAL, finders_without, is_of, run_after
from usucl_fast.bench import feed
from usucl_fast.cli import bench, evaluate, shard, train
from usucl_fast.errors import UsageError
from usucl_fast.feed import choose_loader
from usucl_fast.learn.formats import MAKERS
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.shards import open_shards

OURS = (
    *("usucl_fast.feed.loaders.dali", "usucl_fast.learn.methods", "usucl_fast.bench.spdl_arm"),
    *("usucl_fast.bench.torchcodec_arm", "usucl_fast.bench.datasets_arm"),
)
"""Modules that import them, and are to be imported again."""

EVERYTHING = """
import importlib, pkgutil, sys
from pathlib import Path

import click
from click.testing import CliRunner

import usucl_fast
from tests.helpers.without import OPTIONAL

for module in pkgutil.walk_packages(usucl_fast.__path__, "usucl_fast."):
    if module.ispkg:
        package = importlib.import_module(module.name)
        for name in getattr(package, "__all__", ()):
            getattr(package, name)


def helps(command, *path):
    result = CliRunner().invoke(mains[path[0]], [*path[1:], "--help"])
    assert result.exit_code == 0, (path, result.output)
    for name, inner in getattr(command, "commands", {}).items():
        helps(inner, *path, name)


def call(name, *arguments):
    result = CliRunner().invoke(mains[name], list(map(str, arguments)))
    assert result.exit_code == 0, result.output


mains = {name: importlib.import_module(f"usucl_fast.cli.{name}").main for name in "shard train evaluate bench".split()}
for name, main in mains.items():
    helps(main, name)
root = Path(sys.argv[1])
call("shard", root / "in", root / "shards", "--labels", root / "in" / "labels.csv", "--size", 32, "--workers", 1)
how = ("--arch", "resnet18", "--size", 32, "--epochs", 6, "--batch-size", 4, "--dim", 8, "--precision", "fp32")
call("train", root / "shards", "--out", root / "run", *how, "--threads", 1)
call("evaluate", root / "run", root / "shards", "--out", root / "eval", "--folds", 2, "--protocol", "knn")
assert not [name for name in OPTIONAL if name in sys.modules]
print("done")
"""


def test_everything_else_works_without_any_of_them(tmp_path: Path) -> None:
    hide = "import sys\nfrom tests.helpers.without import finders_without\n"
    hide += f"sys.meta_path[:] = finders_without({OPTIONAL!r})\n"
    lines = ["video,label,group"]
    for seed in range(4):
        write_video(tmp_path / "in" / f"{seed}.mp4", moving_texture(8, 32, 32, seed), "mpeg4")
        lines.append(f"{seed}.mp4,{'ab'[seed % 2]},{seed}")
    (tmp_path / "in" / "labels.csv").write_text("\n".join(lines))
    done = run_after(hide, EVERYTHING, tmp_path)
    assert done.stdout == "done\n", done.stderr


Ask = Callable[[Path], None]


def command(main: object, *arguments: object) -> Ask:
    """Calls a command, whose error is one line."""

    def ask(folder: Path) -> None:
        words = [str(argument).replace("OUT", str(folder / "out")) for argument in arguments]
        result = CliRunner().invoke(main, words)  # type: ignore[arg-type]
        assert result.exit_code == 2, result.output
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert not list(folder.iterdir())
        raise UsageError(result.stderr)

    return ask


def training(*arguments: object) -> Ask:
    return command(train.main, SAMPLE, "--out", "OUT", "--size", 32, "--threads", 1, *arguments)


def arm(name: str) -> Ask:
    return lambda _: feed.check_arm(name)


USES: dict[str, tuple[str, str, tuple[Ask, ...]]] = {
    "nvidia.dali": (
        "NVIDIA DALI",
        "dali",
        (
            *(training("--loader", "dali"), arm("dali"), arm("stock-dali")),
            command(bench.main, "feed", SAMPLE, "--arms", "torch,stock-dali"),
        ),
    ),
    "ffcv": (
        "FFCV",
        "ffcv",
        (
            *(command(shard.main, "export-ffcv", SAMPLE, "OUT"), arm("ffcv"), arm("stock-ffcv")),
            training("--loader", "ffcv", "--beton", "OUT.beton"),
        ),
    ),
    "lightly": (
        "lightly",
        "baselines",
        (
            *(training("--method", name) for name in ("simclr", "moco", "byol", "simsiam", "dino")),
            training("--optimizer", "lars", "--lr", "0.1"),
        ),
    ),
    "timm": ("timm", "timm", (training("--arch", "timm/resnet18"),)),
    "onnx": (
        "onnx",
        "onnx",
        (lambda folder: (MAKERS["onnx"](RunFolder(folder), make_config("default", {})), None)[1],),
    ),
    "onnxscript": (
        "onnxscript",
        "onnx",
        (lambda folder: (MAKERS["onnx"](RunFolder(folder), make_config("default", {})), None)[1],),
    ),
    "pyarrow": (
        "pyarrow",
        "parquet",
        (command(evaluate.main, "embed", "random", SAMPLE, "--size", 32, "--out", "OUT.parquet"),),
    ),
    "tensorboard": ("TensorBoard", "tensorboard", (training("--tensorboard"),)),
    "faiss": ("FAISS", "bench", (command(bench.main, "mining", "--rows", 64, "--arms", "exact,faiss-flat"),)),
    "datasets": ("datasets", "bench", (arm("datasets"),)),
    "spdl": ("spdl", "bench", (arm("spdl"),)),
    "torchcodec": ("torchcodec", "bench", (arm("torchcodec"),)),
    "webdataset": (
        "webdataset",
        "bench",
        (arm("stock-webdataset"), command(bench.main, "feed", SAMPLE, "--arms", "stock-webdataset")),
    ),
}
"""What a person calls the package, the extra that brings it, and all that needs it."""


@pytest.mark.parametrize("how", ["absent", "broken", "half"])
@pytest.mark.parametrize("package", OPTIONAL)
def test_what_needs_it_says_so_in_one_line(
    package: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = {"absent": None, "broken": OSError("libsome.so.1: no such file"), "half": RuntimeError("no\nsuch\ncode")}[
        how
    ]
    monkeypatch.setattr(sys, "meta_path", finders_without((package,), error))
    for module in list(sys.modules):
        if is_of(module, (package, *OURS)):
            monkeypatch.delitem(sys.modules, module)
    called, extra, uses = USES[package]
    reason = {"absent": "No module named", "broken": r"libsome\.so\.1: no such file", "half": "no"}[how]
    for use in uses:
        with pytest.raises(UsageError, match=rf"needs .*{called}.*\({reason}.*pip install 'usucl-fast\[{extra}\]'"):
            use(tmp_path)


def test_torchcodec_without_ffmpeg_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is imported all the same, and complains about the first video."""
    torchcodec, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    vars(torchcodec)["ffmpeg_major_version"], vars(decoders)["VideoDecoder"] = None, object
    monkeypatch.setitem(sys.modules, "torchcodec", torchcodec)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    monkeypatch.delitem(sys.modules, "usucl_fast.bench.torchcodec_arm", raising=False)
    with pytest.raises(UsageError, match=r"FFmpeg's shared libraries are missing.*, and FFmpeg for your system$"):
        feed.check_arm("torchcodec")


def test_without_dali_another_loader_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", finders_without(("nvidia.dali",)))
    for module in list(sys.modules):
        if is_of(module, ("nvidia.dali",)):
            monkeypatch.delitem(sys.modules, module)
    assert choose_loader(open_shards(SAMPLE), 1, 1)[0] == "torch"
