"""A web server on the loopback interface that fails as it is told."""

import contextlib
import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

FAULTS = ("drop", "stall", "drip", "short", "long", "endless", "bomb", "wrong", "words", "garbage", "500", "404", "403")
HOSTILE = b"\x1b]0;owned\x07\xe2\x80\xaeOops"
"""What a server says to change the terminal of whoever is told of it."""


class FaultyServer:
    """Serves the files of `folder`.

    faults: by file name, what happens to its next requests, one each; with "always" at the end, the last goes on.
    requests: how often each file was asked for.
    sent: bytes of floods, as they are once unpacked.
    stalled: set once a request stalls; `release` ends them all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.sent = 0
        self.requests: Counter[str] = Counter()
        self.stalled, self.release = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):
                    outer.serve(self)

            def do_HEAD(self) -> None:
                outer.tell(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def next_fault(self, name: str) -> str:
        with self._lock:
            self.requests[name] += 1
            faults = self.faults[name]
            if not faults:
                return ""
            return faults[0] if faults[1:] == ["always"] else faults.pop(0)

    def tell(self, handler: BaseHTTPRequestHandler) -> None:
        """Tells the length of a file; no fault happens to it."""
        path = self.folder / unquote(handler.path.partition("?")[0]).strip("/")
        handler.send_response(200 if path.is_file() else 404)
        handler.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
        handler.end_headers()

    def _list(self, handler: BaseHTTPRequestHandler, folder: Path) -> None:
        """A page of links, as web servers write one."""
        names = [quote(path.name) + "/" * path.is_dir() for path in sorted(folder.iterdir())]
        links = "".join(f'<a href="{name}">{name}</a>' for name in ["../", "?C=M;O=A", *names])
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        handler.wfile.write(f"<html>{links}</html>".encode())

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        name = unquote(handler.path.partition("?")[0]).strip("/")
        fault, path = self.next_fault(name), self.folder / name
        if path.is_dir() and not fault:
            self._list(handler, path)
            return
        if fault.isdigit() or not path.is_file():
            handler.send_error(int(fault or 404))
            return
        if fault == "garbage":  # no HTTP at all
            handler.wfile.write(b"HTTP/1.1 \x1b[2J\xff\xfe200 " + HOSTILE + b"\r\n\r\n")
            return
        if fault == "words":
            handler.send_response_only(500, HOSTILE.decode("latin-1"))
            handler.end_headers()
            return
        if fault in ("endless", "bomb"):
            self._flood(handler, compressed=fault == "bomb")
            return
        content = path.read_bytes()
        body = {
            "drop": content[: len(content) // 2],
            "stall": content[: len(content) // 2],
            "drip": b"",
            "short": content[:-7],
            "long": content + bytes(1 << 20),
            "wrong": content[:-1] + bytes([content[-1] ^ 1]),
        }.get(fault, content)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content if fault in ("drop", "stall", "drip") else body)))
        handler.end_headers()
        handler.wfile.write(body)
        if fault == "stall":
            handler.wfile.flush()
            self.stalled.set()
            self.release.wait(60)
        while fault == "drip" and not self.release.wait(0.05):
            handler.wfile.write(b"{")

    def _flood(self, handler: BaseHTTPRequestHandler, compressed: bool) -> None:
        """A page without an end, or a GB of zeros in one MB."""
        handler.send_response(200)
        if compressed:
            handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        packer = zlib.compressobj(wbits=31)
        for _ in range(1 << 10):
            self.sent += 1 << 20
            handler.wfile.write(packer.compress(bytes(1 << 20)) if compressed else bytes(1 << 20))
        handler.wfile.write(packer.flush())

    @contextlib.contextmanager
    def running(self) -> Iterator["FaultyServer"]:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield self
        finally:
            self.release.set()
            self._server.shutdown()
            self._server.server_close()
