"""Memory-maps files, and names the file when one is cut off while it is read, for which the system sends SIGBUS.

A check of the length would come too early, and a copy of every frame would cost time. So nothing is done until the
signal comes; then the file is named.
"""

import ctypes
import mmap
import os
import signal
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import printable
from usucl_fast.files import open_file

_LENGTHS: dict[Path, int] = {}
"""Of the files that were mapped, as they were then."""


def map_file(path: Path, later: Path | None = None, mode: Literal["r", "r+", "c"] = "r") -> NDArray[np.uint8]:
    """Memory-maps a file. If it is cut off while it is read, the process ends with a line that names it.

    later: what it is called from now on, where it gets another name.
    mode: `r+` to write to it as well, `c` to write to this process's copy alone.

    Raises:
        OSError, ValueError: it cannot be read, or is empty.
    """
    open_file(path).close()  # refuses what is no file
    data = np.memmap(path, np.uint8, mode=mode).view(np.ndarray)
    if not _LENGTHS and hasattr(signal, "SIGBUS"):  # Windows does not let a mapped file be cut off
        ctypes.CDLL(None).signal(signal.SIGBUS, _tell)
    _LENGTHS[(later or path).absolute()] = len(data)
    return data


def release(array: NDArray[Any]) -> None:
    """Gives the memory of a mapped array back to the system; what is read of it again comes from the file.

    array: of what `map_file` returned, or of no file, to which nothing happens.
    """
    holder: Any = array
    while holder is not None and not isinstance(holder, mmap.mmap):
        holder = holder.obj if isinstance(holder, memoryview) else getattr(holder, "base", None)
    if holder is not None and hasattr(mmap, "MADV_DONTNEED"):  # Windows has none
        holder.madvise(mmap.MADV_DONTNEED)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _tell(number: int) -> None:
    """Called by the system in the thread that was reading, which may be one that Python does not know."""
    for path, length in list(_LENGTHS.items()):
        try:
            found = path.stat().st_size
        except OSError:  # removed: its bytes stay as long as they are mapped
            continue
        if found < length:
            line = f"{path} had {length} bytes and was cut off to {found} while it was read; restore it, or pack again"
            os.write(2, f"{printable(line)}\n".encode(errors="backslashreplace"))
            os._exit(1)
    os.write(2, b"SIGBUS: a mapped file or memory can no longer be read; is a disk or a network folder gone?\n")
    ctypes.CDLL(None).signal(number, None)  # as it would have been, once this returns and it is read again
