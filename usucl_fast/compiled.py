"""Compilers, as the whole package uses them: numba's, whose code is cached from process to process, and Triton's."""

import contextlib
import functools
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba

from usucl_fast.errors import first_line
from usucl_fast.progress import note

if TYPE_CHECKING:
    import torch


def njit(*signature: Any, **options: Any) -> Callable[[Any], Any]:
    """`numba.njit` with `cache=True`, wherever the package lies.

    numba keeps what it has compiled in NUMBA_CACHE_DIR, beside the source, or in the user's cache folder. Where it can
    write in none of them, as in a container that is read-only, it goes into a private folder among the temporary files;
    where there is none either, it is compiled again in each process.
    """

    def compile(function: Any) -> Any:
        with contextlib.suppress(RuntimeError):  # numba finds no place
            return numba.njit(*signature, cache=True, **options)(function)
        if folder := private_folder():
            before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
            try:
                with contextlib.suppress(RuntimeError):
                    return numba.njit(*signature, cache=True, **options)(function)
            finally:
                numba.config.CACHE_DIR = before
        return numba.njit(*signature, **options)(function)

    return compile


def private_folder() -> Path | None:
    """A temporary folder that only this user can write to; None where that is not certain.

    Cached code is run, so anybody who can write there runs code as this user. Another user's folder is not used.
    """
    if not hasattr(os, "getuid"):  # Windows has no such simple check of who may write there
        return None
    user = os.getuid()
    folder = Path(tempfile.gettempdir()) / f"usucl-fast-{user}"
    try:
        folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        made, above = folder.lstat(), folder.parent.stat()
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return None
    others_write = stat.S_IWGRP | stat.S_IWOTH
    is_ours = stat.S_ISDIR(made.st_mode) and made.st_uid == user and stat.S_IMODE(made.st_mode) == stat.S_IRWXU
    stays_ours = above.st_uid in (0, user) and (not above.st_mode & others_write or above.st_mode & stat.S_ISVTX)
    return folder if is_ours and stays_ours else None


def runs_triton(device: "torch.device") -> bool:
    """Whether what is written in Triton runs on the device. Where a GPU has to do without, says so, once."""
    return device.type == "cuda" and _starts_triton()


@functools.cache
def _starts_triton() -> bool:
    try:
        from triton.runtime import driver

        driver.active.get_current_target()  # compiles, for which it needs a C compiler and Python's headers
    except Exception as error:  # Triton raises whatever fails
        note(
            f"Triton does not work here ({first_line(error)}), so that the GPU searches and crops more slowly, by torch"
        )
        return False
    return True
