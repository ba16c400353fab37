"""A real store of objects that speaks S3, on the loopback interface: OpenStack Swift, of Debian's packages.

`apt-get install swift-proxy swift-account swift-container swift-object`; the middleware `s3api` is in them.
"""

import contextlib
import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

KINDS = ("account", "container", "object")
PIPELINE = "catch_errors proxy-logging cache listing_formats s3api tempauth bulk slo dlo versioned_writes proxy-logging"
KEY, SECRET = "test:tester", "testing"


def is_installed() -> bool:
    """Whether Swift's servers are on this machine."""
    return all(shutil.which(f"swift-{kind}-server") for kind in (*KINDS, "proxy"))


@dataclass(frozen=True)
class Store:
    """A running store.

    url: of its S3 interface.
    log: the file with a line for each request that it answered.
    """

    url: str
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """By what clients of S3 find it, and may use it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def requests(self) -> list[tuple[str, str]]:
        """Method and path of each request so far."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        # process, client, remote address, date, method, path, protocol, status, ...
        return [(line[4], unquote(line[5])) for line in lines if line[:2] == ["proxy-server:", "127.0.0.1"]]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Store]:
    """Runs a store whose files, settings and log are in `folder`, while the block runs."""
    ports = dict(zip((*KINDS, "proxy"), _free_ports(4), strict=True))
    (folder / "devices" / "d").mkdir(parents=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = a\nswift_hash_path_prefix = b\n")
    for kind in KINDS:
        ring = [str(folder / f"{kind}.builder")]
        for step in (
            ["create", "4", "1", "1"],
            ["add", f"r1z1-127.0.0.1:{ports[kind]}/d", "1"],
            ["rebalance"],
        ):
            subprocess.run(["swift-ring-builder", *ring, *step], check=True, stdout=subprocess.DEVNULL)
    common = f"[DEFAULT]\nbind_ip = 127.0.0.1\nswift_dir = {folder}\nuser = {getpass.getuser()}\nworkers = 0\n"
    for kind in KINDS:
        (folder / f"{kind}.conf").write_text(
            f"{common}bind_port = {ports[kind]}\ndevices = {folder / 'devices'}\nmount_check = false\n"
            f"[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n"
        )
    filters = "".join(
        f"[filter:{name}]\nuse = egg:swift#{name.replace('-', '_')}\n" for name in set(PIPELINE.split()) - {"cache"}
    )
    (folder / "proxy.conf").write_text(
        f"{common}bind_port = {ports['proxy']}\n[pipeline:main]\npipeline = {PIPELINE} proxy-server\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\nallow_account_management = true\n"
        f"[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:9\n{filters}".replace(
            "[filter:s3api]\n", "[filter:s3api]\ns3_acl = false\nlocation = us-east-1\n"
        ).replace("[filter:tempauth]\n", f"[filter:tempauth]\nuser_test_tester = {SECRET} .admin\n")
    )
    log = folder / "log"
    with log.open("w") as out, contextlib.ExitStack() as stack:
        for kind in (*KINDS, "proxy"):
            command = [f"swift-{kind}-server", str(folder / f"{kind}.conf"), "-v"]
            process = subprocess.Popen(command, stdout=out, stderr=out)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        end = time.monotonic() + 60
        while not all(map(_answers, ports.values())):
            if time.monotonic() > end:
                raise TimeoutError(log.read_text()[-2000:])
            time.sleep(0.1)
        yield Store(f"http://127.0.0.1:{ports['proxy']}", log)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
