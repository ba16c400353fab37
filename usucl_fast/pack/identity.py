"""Names of videos and patients in the shards: escaped, or hashed with a secret."""

import hashlib
import hmac
import os
import secrets
import urllib.parse
from pathlib import Path

import platformdirs

from usucl_fast.errors import UsageError
from usucl_fast.shards.members import LONGEST_ID

DEVICES = frozenset(("aux", "con", "nul", "prn", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))))
"""Names that no file can have on Windows."""
SECRET_BYTES = 32


def escape(name: str) -> str:
    """A video's name, percent-encoded down to letters, digits, `-`, `_` and `~`: one path component, no dot.

    So is the first letter of one that is a device on Windows (`aux`). Different names give different ids; a long one is
    cut and ends in a hash of the whole.
    """
    escaped = urllib.parse.quote(name, safe="").replace(".", "%2E")
    if escaped.lower() in DEVICES:
        escaped = f"%{ord(escaped[0]):02X}{escaped[1:]}"
    if len(escaped) > LONGEST_ID:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        escaped = f"{escaped[: LONGEST_ID - 17]}~{digest}"
    return escaped


class Pseudonyms:
    """Replaces names by keyed hashes (HMAC-SHA-256, RFC 2104).

    Equal names give equal pseudonyms under one secret; without the secret they cannot be found by trying names.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of(self, kind: str, name: str) -> str:
        """16 hexadecimal digits for `name`; kinds do not share pseudonyms."""
        return hmac.digest(self._secret, f"{kind}\0{name}".encode(), "sha256").hex()[:16]

    @property
    def fingerprint(self) -> str:
        """Tells secrets apart without giving them away."""
        return self.of("fingerprint", "")


def default_secret() -> Path:
    """Path of this user's secret; below `~` for a user without a home folder, which is reported when it is needed."""
    try:
        return platformdirs.user_config_path("usucl-fast", appauthor=False, roaming=True) / "salt"
    except RuntimeError:
        return Path("~/salt")


def read_pseudonyms(path: Path) -> Pseudonyms:
    """Reads the secret in `path`; a missing file is made, readable by its owner only.

    Raises:
        UsageError: the file cannot be made, or holds no secret.
    """
    if path.parts[:1] == ("~",):  # it was not replaced
        raise UsageError(f"--salt {path}: this user has no home folder; name a file elsewhere")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(SECRET_BYTES) + "\n")
        secret = path.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"--salt {path}: {error.strerror or error}; name a file that can be made or read") from error
    if len(secret) < SECRET_BYTES:
        raise UsageError(f"--salt {path} holds fewer than {SECRET_BYTES} bytes; take it away and a new one is made")
    return Pseudonyms(secret)
