"""Packing from and to a real store that speaks S3, and from a real web server."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import swift
from tests.helpers.proxies import Proxy
from tests.helpers.videos import write_video
from usucl_fast.pack import find_sources, pack
from usucl_fast.shards import PackSettings, attempts, open_shards, remote

s3fs = pytest.importorskip("s3fs")
pytestmark = pytest.mark.system
VIDEOS = 24
OPTIONS = ["--size", "48", "--shard-mb", "1", "--sector", "none"]
SETTINGS = PackSettings(size=48, shard_mb=1, sector="none")


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for number in range(VIDEOS):
        noise = np.random.default_rng(number).integers(0, 256, (40, 64, 64, 1), dtype=np.uint8)
        write_video(root / f"{number:02d}.avi", np.repeat(noise, 3, axis=-1), "mjpeg", pix_fmt="yuvj420p")
    return root


@pytest.fixture(scope="module")
def whole(some: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    pack(find_sources([some])[0], out, SETTINGS, workers=1)
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "summary.json"}


@pytest.fixture(scope="module")
def store(some: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[swift.Store]:
    """A store with the videos in the bucket `videos`, and an empty bucket `shards`."""
    if not swift.is_installed():
        pytest.skip("needs Swift: apt-get install swift-proxy swift-account swift-container swift-object")
    with swift.running(tmp_path_factory.mktemp("swift") / "swift") as running:
        files = _files(running.url)
        files.mkdir("videos")
        files.mkdir("shards")
        files.put(f"{some}/", "s3://videos/", recursive=True)
        yield running


@pytest.fixture
def there(store: swift.Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(attempts, "BACKOFF_SECONDS", 0.05)
    s3fs.S3FileSystem.clear_instance_cache()
    files = _files(store.url)
    for path in files.find("shards"):
        files.rm_file(path)
    return files


def _files(url: str) -> Any:
    return s3fs.S3FileSystem(
        key=swift.KEY, secret=swift.SECRET, endpoint_url=url, use_listings_cache=False, skip_instance_cache=True
    )


def content(files: Any) -> dict[str, bytes]:
    files.invalidate_cache()
    return {path.rpartition("/")[2]: files.cat_file(path) for path in files.find("shards") if "summary" not in path}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from usucl_fast.cli.shard import main; main()", *arguments, *OPTIONS]


def test_the_shards_are_the_same_for_a_request_a_video(
    store: swift.Store, there: Any, whole: dict[str, bytes], tmp_path: Path
) -> None:
    before = len(store.requests())
    done = subprocess.run(command("s3://videos", "s3://shards/of/all"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    requests = store.requests()[before:]
    assert content(there) == whole
    read = Counter(path for method, path in requests if method == "GET" and path.endswith(".avi"))
    assert set(read.values()) == {1}
    assert len(read) == VIDEOS
    assert sum(path.startswith("/videos") for _, path in requests) <= VIDEOS + 4  # and a page of the listing
    written = [path for method, path in requests if method == "PUT"]
    assert written[-1] == "/shards/of/all/manifest.json"
    assert len(written) == len(set(written))
    assert len(open_shards("s3://shards/of/all").table.videos) == VIDEOS


@pytest.mark.parametrize("seconds", [0.8, 1.2, 1.6, 2.0, 2.6])
def test_killed_at_any_moment_the_same_command_goes_on(there: Any, whole: dict[str, bytes], seconds: float) -> None:
    line = command("s3://videos", "s3://shards/out")
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.kill()
    process.wait()
    assert subprocess.run(line, capture_output=True, check=False).returncode == 0
    assert content(there) == whole


@pytest.mark.parametrize("fault", ["drop", "stall", "wrong"])
def test_a_network_that_fails_between_changes_nothing(
    store: swift.Store,
    there: Any,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr(remote, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(attempts, "ANSWER_SECONDS", 1.0)
    with Proxy(int(store.url.rpartition(":")[2])).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        sources = find_sources(["s3://videos"])[0]
        proxy.faults = [fault, fault]
        pack(sources, "s3://shards/out", SETTINGS, workers=2, work=tmp_path / "work")
        assert proxy.harmed == [fault, fault]
    assert content(there) == whole


def test_credentials_that_expire_cost_no_video(
    store: swift.Store, there: Any, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = command("s3://videos", "s3://shards/out")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "no longer")
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "no longer" not in done.stderr
    assert swift.KEY not in done.stderr
    assert not there.find("shards")


@pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx")
def test_a_web_server_is_a_source(some: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/errors; user {os.environ.get('USER', 'root')};\n"
        f"events {{}}\nhttp {{ access_log {tmp_path}/log; client_body_temp_path {tmp_path}/body;\n"
        f"server {{ listen 127.0.0.1:{port}; root {some}; autoindex on; }} }}\n"
    )
    server = subprocess.Popen(["nginx", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)])
    try:
        time.sleep(1)
        done = subprocess.run(command(f"http://127.0.0.1:{port}/", str(tmp_path / "out")), check=False)
        assert done.returncode == 0
    finally:
        server.terminate()
        server.wait()
    out = tmp_path / "out"
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "summary.json"} == whole
    asked = Counter(line.split('"')[1].split()[0] for line in (tmp_path / "log").read_text().splitlines())
    assert asked == {"GET": VIDEOS + 1, "HEAD": VIDEOS}
