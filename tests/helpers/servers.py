"""A web server on the loopback interface that fails as it is told."""

import contextlib
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("drop", "stall", "short", "long", "wrong", "500", "404", "403")


class FaultyServer:
    """Serves the files of `folder`.

    faults: by file name, what happens to its next requests, one each; with "always" at the end, the last goes on.
    requests: how often each file was asked for.
    stalled: set once a request stalls; `release` ends them all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.requests: Counter[str] = Counter()
        self.stalled, self.release = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):
                    outer.serve(self)

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

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        name = handler.path.partition("?")[0].strip("/")
        fault, path = self.next_fault(name), self.folder / name
        if fault.isdigit() or not path.is_file():
            handler.send_error(int(fault or 404))
            return
        content = path.read_bytes()
        body = {
            "drop": content[: len(content) // 2],
            "stall": content[: len(content) // 2],
            "short": content[:-7],
            "long": content + bytes(1 << 20),
            "wrong": content[:-1] + bytes([content[-1] ^ 1]),
        }.get(fault, content)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content if fault in ("drop", "stall") else body)))
        handler.end_headers()
        handler.wfile.write(body)
        if fault == "stall":
            handler.wfile.flush()
            self.stalled.set()
            self.release.wait(60)

    @contextlib.contextmanager
    def running(self) -> Iterator["FaultyServer"]:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield self
        finally:
            self.release.set()
            self._server.shutdown()
            self._server.server_close()
