"""Makes hostile shards of good ones: one change, drawn at random, of what a forger or a bad disk would change."""

import functools
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.servers import FAULTS as SERVER_FAULTS
from usucl_fast.shards import FRAME_LABELS, FRAMES, MANIFEST, VIDEOS

Rng = np.random.Generator

NUMBERS = (
    *(0, 1, 2, 3, 5, 255, 256, 65535, 65536, -1, -(1 << 63)),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1),
)
FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-320, 1e308)
TEXTS = (
    *("", " ", "0", "png", "../victim", "/etc/passwd", "usucl-000001.tar", "usucl-000000.tar\n"),
    *("\x1b[2J", "\u202e", "\ud800", "\x00", "0" * 64, "a" * 5000),
)
VALUES: tuple[Any, ...] = (
    *(*NUMBERS, *FLOATS, *TEXTS, 1 << 53, 10**30, 0.5, None, True, False),
    *([], {}, [[]], {"": {}}, [None] * 9),
)


def mutate(folder: Path, kind: str, rng: Rng, faults: dict[str, list[str]] | None = None) -> bool:
    """Changes the shards in `folder`, or what a server does with them by `faults`.

    Returns:
        Whether the shards now say of themselves that they are whole, so that their pictures may be others.
    """
    if kind in SERVERS:
        assert faults is not None
        SERVERS[kind](folder, rng, faults)
        return False
    return FOLDERS[kind](folder, rng)


def seal(folder: Path, content: dict[str, Any] | None = None) -> None:
    """Makes all checksums and lengths in the manifest those of the files that are there."""
    if content is None:
        content = json.loads((folder / MANIFEST).read_bytes())
        for name in content["files"]:
            data = (folder / name).read_bytes()
            content["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for shard in content["shards"]:
            data = (folder / shard["name"]).read_bytes()
            index = (folder / shard["name"]).with_suffix(".idx").read_bytes()
            shard |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            shard["index_sha256"] = hashlib.sha256(index).hexdigest()
        content["totals"]["bytes"] = sum(shard["bytes"] for shard in content["shards"])
    content.pop("sha256", None)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    (folder / MANIFEST).write_text(json.dumps({**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


def _pick(rng: Rng, items: Any) -> Any:
    items = list(items)
    return items[int(rng.integers(len(items)))]


def damage(data: bytes, rng: Rng) -> bytes:
    """Bytes with a part flipped, zeroed, cut out, doubled or put in."""
    start = int(rng.integers(len(data) + 1))
    end = min(len(data), start + int(2 ** rng.uniform(0, 12)))
    part = data[start:end]
    new = _pick(
        rng,
        (
            lambda: bytes(byte ^ (1 << int(rng.integers(8))) for byte in part[:1]) + part[1:],
            lambda: bytes(len(part)),
            lambda: b"",
            lambda: part + part,
            lambda: part + rng.bytes(20),
            lambda: rng.bytes(len(part)),
        ),
    )()
    return bytes(data[:start] + new + (b"" if rng.random() < 0.1 else data[end:]))


def _bytes(folder: Path, rng: Rng) -> bool:
    """A bad disk: any file, and no checksum is made right."""
    path = _pick(rng, sorted(folder.glob("[!s]*")))
    path.write_bytes(damage(path.read_bytes(), rng))
    return False


def _manifest(folder: Path, rng: Rng) -> bool:
    """A value somewhere in the manifest is another, a key is gone, or an entry is there twice."""
    content = json.loads((folder / MANIFEST).read_bytes())
    content.pop("videos", None)  # nobody reads them
    for _ in range(int(rng.integers(1, 3))):
        at, key = content, _pick(rng, content)
        while isinstance(at[key], dict | list) and at[key] and rng.random() < 0.8:
            at = at[key]
            key = _pick(rng, at if isinstance(at, dict) else range(len(at)))
        what = rng.random()
        if what < 0.1:
            del at[key]
        elif what < 0.2 and isinstance(at, list):
            at.append(at[key])
        elif what < 0.25 and isinstance(at, dict):
            at[str(_pick(rng, VALUES))] = at[key]
        else:
            at[key] = _pick(rng, VALUES)
        if not content:
            break
    seal(folder, content)
    if rng.random() < 0.1:  # text that is no JSON, or nested without end
        path = folder / MANIFEST
        path.write_bytes(
            _pick(rng, (b"[" * 100_000, b'{"a":' * 100_000, damage(path.read_bytes(), rng), b"\xff\xfe{}"))
        )
    return True


def _wrong_array(array: np.ndarray, rng: Rng) -> np.ndarray:
    """An array of another kind or shape."""
    return _pick(
        rng,
        (
            lambda: array[:-1],
            lambda: np.concatenate((array, array[:1])),
            lambda: array[None],
            lambda: array[:0],
            lambda: np.array(array.tolist(), object),
            lambda: array.astype(array.dtype.newbyteorder(">")),
            lambda: np.float64(3),
            lambda: np.array(["x"]),
            lambda: np.asfortranarray(np.zeros((2, 3))),
        ),
    )()


def _set(array: np.ndarray, rng: Rng) -> None:
    """Sets one number, or one in three, to one at the edge of what its type holds."""
    values = FLOATS if array.dtype.kind == "f" else NUMBERS
    places = rng.random(len(array)) < 1 / 3 if rng.random() < 0.2 else [int(rng.integers(len(array)))]
    with np.errstate(all="ignore"):
        array[places] = np.array(_pick(rng, values)).astype(array.dtype)


def _frames(folder: Path, rng: Rng) -> bool:
    """The frame table: a field of some rows, rows in another order, another array, a damaged header."""
    rows = np.load(folder / FRAMES)
    what = rng.random()
    if what < 0.65:
        _set(rows[_pick(rng, rows.dtype.names)], rng)
    elif what < 0.75:
        one, other = rng.integers(len(rows), size=2)
        rows[[one, other]] = rows[[other, one]]
    elif what < 0.9:
        rows = _wrong_array(rows, rng)
    np.save(folder / FRAMES, rows, allow_pickle=True)
    if what >= 0.9:
        data = (folder / FRAMES).read_bytes()
        (folder / FRAMES).write_bytes(damage(data[:128], rng) + data[128:])
    seal(folder)
    return True


def _columns(name: str, folder: Path, rng: Rng) -> bool:
    """A table of columns: a number or a byte of one, another array, one that is gone; or the archive around them."""
    with np.load(folder / name) as file:
        arrays = dict(file)
    key, what = _pick(rng, arrays), rng.random()
    if what < 0.6:
        arrays[key] = arrays[key].copy()
        field = arrays[key][_pick(rng, arrays[key].dtype.names)] if arrays[key].dtype.names else arrays[key]
        if len(field):
            _set(field, rng)
    elif what < 0.75:
        arrays[key] = _wrong_array(arrays[key], rng)
    elif what < 0.8:
        del arrays[key]
    (np.savez_compressed if what > 0.97 else np.savez)(folder / name, **arrays)
    if 0.8 <= what <= 0.97:
        (folder / name).write_bytes(damage((folder / name).read_bytes(), rng))
    seal(folder)
    return True


def huge_png(side: int) -> bytes:
    """A PNG of so many pixels a side in few bytes."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(999))),
        (b"IEND", b""),
    )
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _picture(data: bytes, rng: Rng) -> bytes:
    """Another picture in place of an encoded frame, or one whose header lies of its size."""
    made = BytesIO()
    size = _pick(rng, ((1, 1), (33, 41), (4000, 10), (43, 32)))
    Image.new(_pick(rng, ("L", "RGB")), size, 90).save(made, _pick(rng, ("jpeg", "png", "gif", "bmp")))
    sides = _pick(rng, (b"\xff\xff\xff\xff", bytes(4), b"\x00\x01\xff\xff", b"\x00\x20\x00\x21"))
    header = data.find(b"\xff\xc0") + 5
    lying = data[:header] + sides + data[header + 4 :], huge_png(int(_pick(rng, (10_000, 30_000, 1 << 30))))
    return _pick(rng, (made.getvalue(), *lying, bytes(len(data)), b"\x89PNG", b"x"))


def _tar(folder: Path, rng: Rng) -> bool:
    """The bytes of a tar: a frame is another picture, behind a table that knows of it; or they are damaged anywhere."""
    rows = np.load(folder / FRAMES)
    place = int(rng.integers(len(rows)))
    path = folder / json.loads((folder / MANIFEST).read_bytes())["shards"][rows["shard"][place]]["name"]
    data = path.read_bytes()
    if rng.random() < 0.7:
        start, length = int(rows["offset"][place]), int(rows["length"][place])
        new = _picture(data[start : start + length], rng)
        rows["offset"][place], rows["length"][place], rows["crc"][place] = len(data), len(new), zlib.crc32(new)
        np.save(folder / FRAMES, rows)
        path.write_bytes(data + new)
    else:
        path.write_bytes(damage(data, rng))
    seal(folder)
    return True


def _index(folder: Path, rng: Rng) -> bool:
    """DALI's index, which its own readers read and nobody here."""
    path = _pick(rng, sorted(folder.glob("*.idx")))
    path.write_bytes(damage(path.read_bytes(), rng))
    if rng.random() < 0.5:
        seal(folder)
        return True
    return False


def _files(folder: Path, rng: Rng) -> bool:
    """What is in place of a file: nothing, a folder, a pipe, a link, another file, a hole of a TB."""
    path = _pick(rng, sorted(folder.glob("[!s]*")))
    data = path.read_bytes()
    path.unlink()
    _pick(
        rng,
        (
            lambda: None,
            path.mkdir,
            lambda: os.mkfifo(path),
            lambda: path.symlink_to(path),
            lambda: path.symlink_to("/dev/zero"),
            lambda: path.write_bytes(b""),
            lambda: path.write_bytes(_pick(rng, sorted(folder.glob("[!s]*"))).read_bytes()),
            lambda: _with_hole(path, data),
        ),
    )()
    return False


def _with_hole(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.truncate(path, 1 << 40)


def _server(folder: Path, rng: Rng, faults: dict[str, list[str]]) -> None:
    """A server that answers some requests as no server should, now and then or always."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".npy", ".npz", ".tar"))
    for name in rng.choice(names, size=int(rng.integers(1, 3)), replace=False):
        fault = str(_pick(rng, SERVER_FAULTS))
        faults[name] = [fault, "always"] if rng.random() < 0.7 else [fault]


def _served(folder: Path, rng: Rng, faults: dict[str, list[str]]) -> None:
    """A good server, and damaged files."""
    _bytes(folder, rng)


FOLDERS: dict[str, Callable[[Path, Rng], bool]] = {
    "bytes": _bytes,
    "manifest": _manifest,
    "frames": _frames,
    "videos": functools.partial(_columns, VIDEOS),
    "labels": functools.partial(_columns, FRAME_LABELS),
    "tar": _tar,
    "index": _index,
    "files": _files,
}
SERVERS: dict[str, Callable[[Path, Rng, dict[str, list[str]]], None]] = {"server": _server, "served": _served}
