"""What is written for a GPU compiles for one, though there is none: Triton brings the assembler along."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from usucl_fast import compiled
from usucl_fast.feed.loaders import resident
from usucl_fast.mining import bank

PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from usucl_fast.feed.fused_gather import _gather
from usucl_fast.mining.fused import MOST_DIM, _block_maxima

def compile(kernel, types, constants):
    signature = dict(zip(kernel.arg_names, types)) | dict.fromkeys(constants, "constexpr")
    for capability in (80, 90):
        made = triton.compile(
            ASTSource(kernel, signature, constants), GPUTarget("cuda", capability, 32), {"num_stages": 1}
        )
        print(kernel.__name__, made.metadata.shared)

for stored, parts, dim, at_once in (("fp16", 2, 100, 32), ("bf16", 3, MOST_DIM, 64)):
    rows = [f"*{stored}", "*i64", "*i32", f"*{stored}", "*i64", "*fp32", "*fp32", *["i32"] * 4]
    width = triton.next_power_of_2(dim)
    compile(_block_maxima, rows, dict(dim=dim, width=width, parts=parts, span=64, at_once=at_once))
for channels in (1, 3):
    compile(_gather, ["*u8", "*i64", "*u8", "i32"], dict(channels=channels, at_once=256))
"""
LEAST_SHARED = 99 * 1024
"""Bytes that the multiprocessors of GPUs of capability 8 and more share among a program's threads, at least."""


@pytest.mark.parametrize("works", [True, False])
def test_where_it_does_not_work_torch_does_the_same_and_it_is_said(
    works: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As without a C compiler, which Triton needs for a start."""
    driver = pytest.importorskip("triton.runtime").driver

    def look() -> None:
        if not works:
            raise RuntimeError("Failed to find C compiler.\nPlease specify")

    monkeypatch.setattr(type(driver), "active", SimpleNamespace(get_current_target=look))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    compiled._starts_triton.cache_clear()
    try:
        for device in (torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)):
            on_gpu = works and device.type == "cuda"
            assert (resident._gather_on(device).__module__ == "usucl_fast.feed.fused_gather") is on_gpu
            assert ("FusedSearch" in str(bank._search_on(device))) is on_gpu
        said = "Triton does not work here (Failed to find C compiler.), so that the GPU searches and crops more slowly"
        assert capsys.readouterr().err.count(said) == (not works)
    finally:
        compiled._starts_triton.cache_clear()


def test_kernels_compile_and_fit() -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 2 * (2 + 2)
    assert max(int(shared) for _, shared in lines) <= LEAST_SHARED
