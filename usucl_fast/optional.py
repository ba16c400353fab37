"""Optional dependencies: how a missing one is reported."""

import contextlib
from collections.abc import Iterator

from usucl_fast.errors import UsageError, first_line


@contextlib.contextmanager
def needed(package: str, by: str, extra: str, hint: str = "") -> Iterator[None]:
    """Wraps the import of an optional package: if it is missing, one line says which, and how to install it.

    by: what needs the package: an option, an arm.
    extra: of usucl-fast, which brings it.
    hint: what else is needed, added after the command that installs it.

    Raises:
        UsageError: it is not installed, or is but does not load, as where it misses a library of the system.
    """
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:
        raise UsageError(
            f"{by} needs {package}, which cannot be loaded ({first_line(error)}):"
            f" pip install 'usucl-fast[{extra}]'{hint}"
        ) from error
