"""A proxy between a client and a server, on the loopback interface, that harms connections as it is told."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


class Proxy:
    """Passes bytes on from and to the server at `port`.

    faults: what happens to the next connections with an answer of at least `MUCH` bytes, or such a request, one each:
        `drop`: it ends in the middle, `stall`: it hangs there, `wrong`: a byte of it is another.
    harmed: what has happened.
    """

    MUCH = 1 << 14

    def __init__(self, port: int) -> None:
        self.faults: list[str] = []
        self.harmed: list[str] = []
        self._server = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._ended = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator["Proxy"]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._ended.set()
            self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        passed, last = 0, time.monotonic()
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 12):
                if time.monotonic() - last > 0.2:  # another request on the same connection
                    passed = 0
                last = time.monotonic()
                passed += len(data)
                if passed >= self.MUCH and self.faults:
                    fault = self.faults.pop(0)
                    self.harmed.append(fault)
                    if fault == "wrong":
                        data = data[:-1] + bytes([data[-1] ^ 1])
                    elif fault == "stall":
                        self._ended.wait(60)
                        return
                    else:
                        source.close()
                        break
                target.sendall(data)
        target.close()
