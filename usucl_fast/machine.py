"""What this machine has: cores, memory, a GPU."""

import contextlib
import ctypes
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from usucl_fast.errors import UsageError, first_line

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's `malloc.h`."""


def cores() -> int:
    """CPU cores for this process: those it may use, shared out among the ranks that torchrun started beside it."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // ranks_here())


def ranks_here() -> int:
    """How many ranks torchrun started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def memory() -> int:
    """Bytes of memory this process may use: the machine's, or its container's limit where that is lower."""
    import psutil

    most = int(psutil.virtual_memory().total)
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        with contextlib.suppress(OSError, ValueError):  # another system, or no limit ("max")
            most = min(most, int(limit.read_text()))
    return most


def keep_freed_memory() -> None:
    """Makes glibc keep memory that is freed for what is taken next, in the whole process and for good.

    By default it gives large pieces back to the system, which clears each page when it is taken again: a training step
    on a CPU, which takes the same tensors each time, spends up to a sixth of its time on that. Other C libraries are
    left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS has none, Windows no such library
        return
    for parameter, most in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
        mallopt(parameter, most)


def crowded() -> str | None:
    """A warning that other programs already use the CPU cores of this process; None if they do not.

    Where two programs compute on the same cores, a thread that has been put aside keeps those waiting that share its
    convolution: they do so in a loop of oneDNN's, which no setting of OpenMP ends.
    """
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if "OMP_NUM_THREADS" in os.environ or cores() < 2 or busy < cores() / 2:
        return None
    return (
        f"other programs keep about {busy:.1f} of {cores()} cores busy, and threads of two networks hold each other up:"
        " give each its own cores, by OMP_NUM_THREADS=1 or taskset"
    )


def hardware() -> str:
    """CPU model, cores this process may use, and the GPU if there is one."""
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{model}, {cores()} cores, {gpu}"


def pick_device(name: str, gpu: int | None = None) -> "torch.device":
    """The device that `--device` names: `auto` is the GPU where there is one.

    gpu: the number of the GPU where the name has none; nothing is begun on another one.

    Raises:
        UsageError: the device cannot be used here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and gpu is not None:
        name = f"cuda:{gpu}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used here: {first_line(error)}") from error
    return device


def computes_in_bf16(device: "torch.device") -> bool:
    """Whether the device has instructions for bfloat16; without them it is many times slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(has for name, has in capabilities.items() if name.endswith("_bf16"))
