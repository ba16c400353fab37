"""Every command of the README is run: `make` targets and `pip install` by CI, everything else here."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.helpers import REPOSITORY
from tools import make_phantoms

README, MANUAL = REPOSITORY / "README.md", REPOSITORY / "usucl_fast" / "cli" / "README.md"
BLOCKS = [
    block
    for path in (README, MANUAL)
    for block in re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
]
DOCUMENTS = [path for path in sorted(REPOSITORY.rglob("*.md")) if ".venv" not in path.parts]


def test_blocks_are_of_known_kinds() -> None:
    assert {kind for kind, _ in BLOCKS} <= {"sh", "python", "text"}


def test_make_targets_are_run_by_ci() -> None:
    named = {line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line.startswith("make")}
    targets = {line.split("#")[0].strip() for line in named}
    assert targets >= {"make demo", "make test", "make test-all"}
    assert targets == set(re.findall(r"^make [\w-]+$", (REPOSITORY / ".ci" / "run").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, heading = target.partition("#")
        path = (document.parent / file) if file else document
        assert path.exists(), target
        if heading and path.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", name).strip().lower().replace(" ", "-") for name in headings}


@pytest.mark.slow
def test_commands_and_code(tmp_path: Path) -> None:
    """In order, in an empty folder that has `my-videos`, as real processes."""
    pytest.importorskip("nvidia.dali")
    arguments = [str(tmp_path / "my-videos"), "--videos", "12", "--frames", "24", "--width", "96", "--height", "72"]
    assert CliRunner().invoke(make_phantoms.main, arguments).exit_code == 0
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    left_out = ["make ", "git ", ". ", "pip install"]
    if not importlib.util.find_spec("ffcv"):  # an extra that must be built
        left_out.append("usucl-shard export-ffcv")
    if not importlib.util.find_spec("onnxscript"):  # an extra
        left_out.append("usucl-train export my-run --format onnx")
    ran = 0
    for kind, text in BLOCKS:
        if kind == "text":
            continue
        if kind == "sh":
            text = "\n".join(line for line in text.splitlines() if not line.startswith(tuple(left_out)))
        command = ["sh", "-ec", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        ran += bool(text.strip())
    assert ran >= 4
    assert (tmp_path / "my-run" / "backbone.safetensors").exists()
