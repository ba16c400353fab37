"""Shards at a URL: the same bytes as from the folder, through whatever the network does, or one line."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from filelock import FileLock
from numpy.typing import NDArray

from tests.helpers.feeding import delivery, plans_of
from tests.helpers.servers import FaultyServer
from usucl_fast.cli import bench, evaluate, shard, train
from usucl_fast.errors import DataError, StoppedError, UsageError
from usucl_fast.feed import make_loader
from usucl_fast.feed.order import by_shards, shuffled
from usucl_fast.learn import Execution
from usucl_fast.learn import train as learn
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.pack import find_sources, pack, read_labels
from usucl_fast.shards import PackSettings, ShardStore, attempts, open_shards, remote, remote_shards
from usucl_fast.shards import cache as cache_module

SHARD = "usucl-000000.tar"


@pytest.fixture(scope="module")
def shards(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard for every video."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(
        read_labels([videos / "labels.csv"], find_sources([videos])[0])[0],
        out,
        PackSettings(size=64, shard_mb=0),
        workers=2,
    )
    return out


@pytest.fixture
def server(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """Serves the shards; the client is in a hurry."""
    monkeypatch.setattr(attempts, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(remote, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(attempts, "POLL_SECONDS", 0.02)
    with FaultyServer(shards).running() as running:
        yield running


def same(one: ShardStore, other: ShardStore) -> bool:
    """Whether all frames are equal, byte for byte."""
    frame_ids = np.arange(len(other.table))
    return len(one.table) == len(other.table) and all(
        np.array_equal(a, b) for a, b in zip(one.read(frame_ids), other.read(frame_ids), strict=True)
    )


def kept(cache: Path) -> list[Path]:
    """The files in a cache but its locks; none that is half, none that is not what its name says."""
    files = [path for path in cache.iterdir() if path.suffix != ".lock"]
    for path in files:
        assert not remote.check_bytes(path.name)(path)
    return files


@pytest.mark.parametrize("fault", ["drop", "stall", "short", "long", "wrong", "500"])
def test_what_goes_wrong_is_tried_again(server: FaultyServer, store: ShardStore, tmp_path: Path, fault: str) -> None:
    for name in ("manifest.json", "videos.npz", "frames.npy", SHARD):
        server.faults[name] = [fault, fault]
    streamed = open_shards(server.url, tmp_path)
    assert same(streamed, store)
    assert streamed.fingerprint == store.fingerprint
    assert server.requests[SHARD] == 3
    kept(tmp_path)


@pytest.mark.parametrize(
    ("fault", "words", "requests"),
    [
        ("drop", "4 attempts", 4),
        ("stall", "only [0-9]+ bytes came in 0.3 s; 4 attempts", 4),
        ("short", "of its [0-9]+ bytes came; 4 attempts", 4),
        ("long", "more than its [0-9]+ bytes came; 4 attempts|[0-9]+ of its [0-9]+ bytes", 4),
        ("wrong", "not those of its checksum; 4 attempts", 4),
        ("drip", "only [0-9]+ bytes came in 0.3 s; 4 attempts", 4),
        ("bomb", "bytes came; 4 attempts", 4),
        ("garbage", r"\(the server's answer is not HTTP; 4 attempts\)", 4),
        ("words", r"\(the server answers 500 Internal Server Error; 4 attempts\)", 4),
        ("500", r"\(the server answers 500 Internal Server Error; 4 attempts\)", 4),
        ("404", "is not there", 1),
        ("403", "403", 1),
    ],
)
def test_what_stays_wrong_is_told_in_one_line(
    server: FaultyServer, store: ShardStore, tmp_path: Path, fault: str, words: str, requests: int
) -> None:
    server.faults[SHARD] = [fault, "always"]
    streamed = open_shards(server.url, tmp_path)
    with pytest.raises(DataError, match=words) as raised:
        streamed.read(np.array([0]))
    assert str(raised.value).startswith(f"{server.url}/{SHARD} ")
    assert str(raised.value).isprintable()
    assert "Oops" not in str(raised.value)
    assert server.requests[SHARD] == requests
    streamed.close()
    streamed._shards.join(5)  # type: ignore[attr-defined]
    names = [path.name for path in kept(tmp_path)]
    assert json.loads((server.folder / "manifest.json").read_bytes())["shards"][0]["sha256"] not in names
    server.faults.clear()
    assert same(open_shards(server.url, tmp_path), store)


@pytest.mark.parametrize("fault", ["drop", "wrong", "500"])
def test_a_failed_read_can_be_tried_again(server: FaultyServer, store: ShardStore, tmp_path: Path, fault: str) -> None:
    server.faults[SHARD] = [fault] * 4
    streamed = open_shards(server.url, tmp_path)
    with pytest.raises(DataError):
        streamed.read(np.array([0]))
    assert same(streamed, store)


def test_each_file_is_fetched_once(server: FaultyServer, store: ShardStore, tmp_path: Path) -> None:
    for _ in range(2):
        streamed = open_shards(server.url, tmp_path)
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(same, [streamed] * 8, [store] * 8))
    assert server.requests.pop("manifest.json") == 2
    assert len(server.requests) == 2 + int(store.table.rows["shard"][-1]) + 1
    assert set(server.requests.values()) == {1}


def test_shards_are_fetched_ahead(server: FaultyServer, shards: Path, tmp_path: Path) -> None:
    streamed = open_shards(server.url, tmp_path)
    assert server.requests.keys() == {"manifest.json", "videos.npz", "frames.npy"}  # `list` needs no more
    streamed.read(np.array([0]))
    records = json.loads((shards / "manifest.json").read_bytes())["shards"]
    deadline = time.monotonic() + 5
    while not all((tmp_path / record["sha256"]).exists() for record in records):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def even(server: FaultyServer, a_shard_each: Path) -> FaultyServer:
    """Serves 12 shards of about the same size."""
    server.folder = a_shard_each
    return server


def epoch_of(shards: int, lanes: int, epoch: int = 0) -> list[NDArray[np.int64]]:
    """The shards of batches of 16 tuples, 60 of each shard."""
    shard = np.arange(shards).repeat(60)
    order = by_shards(shard, lanes, 0, epoch) if lanes else shuffled(0, epoch, len(shard))
    return np.array_split(shard[order], len(shard) // 16)


@pytest.mark.parametrize("lanes", [3, 0])
def test_an_epoch_that_follows_its_plan_fetches_each_shard_once(even: FaultyServer, tmp_path: Path, lanes: int) -> None:
    """With room for a few more than are read side by side; where all are shuffled, shards are fetched again."""
    records = json.loads((even.folder / "manifest.json").read_bytes())["shards"]
    limit = (3 + 2) * max(record["bytes"] for record in records)
    streamed = open_shards(even.url, tmp_path, limit)
    assert streamed.room == 5
    frame_of = np.searchsorted(streamed.table.rows["shard"], np.arange(len(records)))
    steps = epoch_of(len(records), lanes)
    streamed.follow(iter(steps))
    for step in steps:
        streamed.read(frame_of[step])
        time.sleep(0.03)  # as a network would take, so that there is time to fetch ahead
        streamed.passed()
    fetched = [even.requests[record["name"]] for record in records]
    if lanes:  # where the machine is busy, a shard may be wanted before it is fetched ahead
        assert sum(fetched) <= len(records) + 3
    else:
        assert sum(fetched) > 2 * len(records)


def test_what_is_fetched_ahead_is_here_before_it_is_read(even: FaultyServer, tmp_path: Path) -> None:
    records = json.loads((even.folder / "manifest.json").read_bytes())["shards"]
    limit = 3 * max(record["bytes"] for record in records)
    streamed = open_shards(even.url, tmp_path, limit)
    streamed.follow(iter([[7], [7, 2], [5], [1]]))  # no order that could be guessed

    def here() -> set[int]:
        return {number for number, record in enumerate(records) if (tmp_path / record["sha256"]).exists()}

    def come(wanted: set[int]) -> bool:
        deadline = time.monotonic() + 5
        while not wanted <= here() and time.monotonic() < deadline:
            time.sleep(0.02)
        return wanted <= here()

    assert come({7, 2, 5})
    time.sleep(0.1)
    assert 1 not in here()
    streamed.passed()
    streamed.passed()
    assert come({5, 1})


def test_what_cannot_be_fetched_ahead_is_tried_when_it_is_read(even: FaultyServer, tmp_path: Path) -> None:
    even.faults[SHARD] = ["500"] * 4
    streamed = open_shards(even.url, tmp_path)
    streamed.follow(iter([[0], [1], [2]]))
    deadline = time.monotonic() + 5
    while even.requests[SHARD] < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)  # until the last answer is a failure
    assert len(streamed.read(np.array([0]))) == 1


def test_reading_waits_for_no_other_shard(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "STALL_SECONDS", 60)
    server.faults[SHARD] = ["stall"]
    streamed = open_shards(server.url, tmp_path)
    last = len(streamed.table) - 1
    with ThreadPoolExecutor(1) as pool:
        stalled = pool.submit(streamed.read, np.array([0]))
        assert server.stalled.wait(5)
        streamed.read(np.array([last]))
        assert not stalled.done()
        streamed.close()
        with pytest.raises(StoppedError, match=SHARD):
            stalled.result(5)
    streamed.read(np.array([last]))  # what is at hand can still be read


def test_a_small_cache_stays_small_and_delivers_all(
    server: FaultyServer, store: ShardStore, shards: Path, tmp_path: Path
) -> None:
    records = json.loads((shards / "manifest.json").read_bytes())["shards"]
    limit = max(record["bytes"] for record in records) + (shards / "frames.npy").stat().st_size
    assert limit < sum(record["bytes"] for record in records)
    (tmp_path / "notes.txt").write_text("somebody else's")
    streamed = open_shards(server.url, tmp_path, limit)
    sizes, done = [], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            files = [path for path in tmp_path.iterdir() if re.fullmatch("[0-9a-f]{64}", path.name)]
            with contextlib.suppress(FileNotFoundError):  # it had to go meanwhile
                sizes.append(sum(path.stat().st_size for path in files))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda _: same(streamed, store), range(3)))
    done.set()
    watcher.join()
    assert max(sizes) <= limit
    assert (tmp_path / "notes.txt").exists()
    with pytest.raises(UsageError, match=r"--cache-gb .* less than .*tar; give more"):
        open_shards(server.url, tmp_path, max(record["bytes"] for record in records) - 1)


def test_what_was_used_longest_ago_goes_first(server: FaultyServer, shards: Path, tmp_path: Path) -> None:
    records = json.loads((shards / "manifest.json").read_bytes())["shards"]
    old, newer = ("0" * 64, "1" * 64)
    size = sum(record["bytes"] for record in records)
    size += sum((shards / name).stat().st_size for name in ("frames.npy", "videos.npz"))
    for name, age in ((newer, 10), (old, 20)):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    streamed = open_shards(server.url, tmp_path, size + 150)
    streamed.read(np.arange(len(streamed.table)))
    assert (tmp_path / newer).exists()
    assert not (tmp_path / old).exists()


def test_cached_files_that_were_damaged_are_fetched_again(
    server: FaultyServer, store: ShardStore, shards: Path, tmp_path: Path
) -> None:
    assert same(open_shards(server.url, tmp_path), store)
    for path in kept(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    assert same(open_shards(server.url, tmp_path), store)
    assert len(kept(tmp_path)) == 2 + int(store.table.rows["shard"][-1]) + 1


def test_what_a_killed_process_left_is_taken_away(server: FaultyServer, store: ShardStore, tmp_path: Path) -> None:
    left = [tmp_path / f"{'0' * 64}.{10**12}.abc.partial{end}" for end in ("", "-1")]
    for path in left:
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    assert same(open_shards(server.url, tmp_path), store)
    assert not any(path.exists() for path in left)


def test_a_dataset_that_changed_is_never_stale(shards: Path, sample: ShardStore, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{shards}/", "/changing/", recursive=True)
    cache = tmp_path / "cache"
    assert same(open_shards("memory://changing", cache), open_shards(shards))
    memory.rm("/changing", recursive=True)
    memory.put(f"{sample.name}/", "/changing/", recursive=True)
    assert same(open_shards("memory://changing", cache), sample)


@pytest.mark.parametrize("name", ["torch", "resident", "dali"])
def test_loaders_deliver_the_same(server: FaultyServer, store: ShardStore, tmp_path: Path, name: str) -> None:
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    plans = plans_of(store)
    batches = [
        list(make_loader(name, where, delivery()).run(plans)) for where in (store, open_shards(server.url, tmp_path))
    ]
    for ours, theirs in zip(*batches, strict=True):
        assert torch.equal(ours.frames, theirs.frames)


@pytest.mark.parametrize("name", ["torch", "dali"])
def test_a_vanished_shard_ends_a_loader(server: FaultyServer, store: ShardStore, tmp_path: Path, name: str) -> None:
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    for number in range(int(store.table.rows["shard"][-1]) + 1):
        server.faults[f"usucl-{number:06d}.tar"] = ["404", "always"]
    with pytest.raises(DataError, match=rf"{server.url}/usucl-[0-9]+\.tar is not there"):
        list(make_loader(name, open_shards(server.url, tmp_path), delivery()).run(plans_of(store)))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("unheardof://x", ["unheardof", "not known"]),
        ("{server}/nowhere", ["/nowhere", "no manifest.json"]),
        ("http://user:pass@127.0.0.1:1/x?token=a:b", ["http://127.0.0.1:1/x/", "cannot be fetched"]),
        ("memory://nowhere", ["memory://nowhere", "no manifest.json"]),
    ],
)
def test_urls_that_lead_nowhere_are_refused(server: FaultyServer, tmp_path: Path, url: str, words: list[str]) -> None:
    arguments = ["list", url.format(server=server.url), "--cache", str(tmp_path)]
    result = CliRunner().invoke(shard.main, arguments)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert not re.search("user|pass|token|a:b", result.stderr)
    for word in words:
        assert word in result.stderr


def test_no_secret_of_a_url_is_told(server: FaultyServer, tmp_path: Path) -> None:
    secret = server.url.replace("://", "://user:pass@") + "/?token=a:b"
    server.faults[SHARD] = ["500", "always"]
    streamed = open_shards(secret, tmp_path)
    with pytest.raises(DataError) as raised:
        streamed.read(np.array([0]))
    for text in (str(raised.value), streamed.name, streamed.place(0)):
        assert server.url in text
        assert not re.search("user|pass|token|a:b", text)
    with pytest.raises(UsageError, match="copy the shards to a folder"):
        streamed.shard_path(0)


def test_a_full_disk_is_told(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{shards}/", "/full/", recursive=True)
    streamed = open_shards("memory://full", tmp_path)

    def write(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(memory), "get_file", write)
    with pytest.raises(DataError, match=rf"cannot be kept in {tmp_path} \(No space left on device\)"):
        streamed.read(np.array([0]))
    kept(tmp_path)


def test_a_process_that_hangs_stops_no_other(
    server: FaultyServer, store: ShardStore, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "FORSAKEN_SECONDS", 0.2)
    sha256 = json.loads((shards / "manifest.json").read_bytes())["shards"][0]["sha256"]
    with FileLock(tmp_path / f"{sha256}.lock"):
        assert same(open_shards(server.url, tmp_path), store)


@pytest.mark.parametrize("fault", ["endless", "bomb", "drip"])
@pytest.mark.parametrize("name", ["manifest.json", "frames.npy"])
def test_a_server_that_sends_without_end_fills_nothing(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    monkeypatch.setattr(remote_shards, "MANIFEST_BYTES", 1 << 22)
    server.faults[name] = [fault, "always"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((DataError, UsageError), match=f"{name} (cannot be fetched|is damaged)"):
        open_shards(server.url, tmp_path / "cache")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # of 1 KiB
    assert sum(path.stat().st_size for path in kept(tmp_path / "cache")) < 1 << 20
    if fault == "endless":
        assert server.sent < 1 << 28  # 4 attempts, each up to what lies in the sockets


def test_a_table_that_is_larger_than_the_cache_is_not_fetched(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--cache-gb .* is less than the .* GB of .*(npz|npy|tar)"):
        open_shards(server.url, tmp_path / "cache", 100)
    assert server.requests.keys() == {"manifest.json"}


def test_a_manifest_cannot_lead_out_of_the_cache(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a SHA-256"):
        cache_module.Cache(tmp_path, 1).get(remote.RemoteFolder("memory://x"), "frames.npy", "../x")


def test_a_cache_that_cannot_be_used_is_refused(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--cache .*file/cache"):
        open_shards(server.url, tmp_path / "file" / "cache")


def test_the_commands_take_a_url(server: FaultyServer, store: ShardStore, tmp_path: Path) -> None:
    cache = ["--cache", str(tmp_path / "cache")]

    def run(command: object, *arguments: object) -> Result:
        result = CliRunner().invoke(command, [str(a) for a in arguments])  # type: ignore[arg-type]
        assert result.exit_code == 0, result.output
        return result

    assert store.table.videos[0].name in run(shard.main, "list", server.url, *cache).stdout
    tiny = ["--size", 32, "--epochs", 1, "--batch-size", 3, "--dim", 16, "--precision", "fp32", "--stop-after", 1]
    url = f"{server.url}/?token=s3cret"
    result = run(train.main, url, *cache, *tiny, "--loader", "torch", "--out", tmp_path / "run")
    assert f"resume it with: usucl-train {server.url} --out" in result.output
    for path in (tmp_path / "run").rglob("*.json*"):
        assert "s3cret" not in path.read_text()
    feed = ["--arms", "torch", "--size", 32, "--batch-size", 2, "--batches", 1, "--runs", 1, "--threads", 1]
    run(evaluate.main, "random", server.url, *cache, "--size", 32, "--frames", 1, "--folds", 2, "--out", tmp_path / "e")
    run(bench.main, "feed", server.url, *cache, *feed)
    refused = CliRunner().invoke(shard.main, ["verify", server.url])
    assert refused.exit_code == 2
    assert "reads a folder" in refused.stderr


IN_SEVERAL_PROCESSES = """
import hashlib, multiprocessing, sys
from pathlib import Path
import numpy as np
from usucl_fast.shards import open_shards

def digest(_):
    store = open_shards(sys.argv[1], Path(sys.argv[2]))
    return hashlib.sha256(b"".join(map(bytes, store.read(np.arange(len(store.table)))))).hexdigest()

print(*multiprocessing.get_context("fork").Pool(4).map(digest, range(4), chunksize=1))
"""


def test_several_processes_fetch_each_shard_once(server: FaultyServer, store: ShardStore, tmp_path: Path) -> None:
    line = [sys.executable, "-c", IN_SEVERAL_PROCESSES, server.url, str(tmp_path)]
    digests = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    frames = b"".join(map(bytes, store.read(np.arange(len(store.table)))))
    assert digests == [hashlib.sha256(frames).hexdigest()] * 4
    assert server.requests.pop("manifest.json") == 4
    assert set(server.requests.values()) == {1}
    kept(tmp_path)


def all_stall(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every shard stalls, and the client is patient."""
    monkeypatch.setattr(remote, "STALL_SECONDS", 60)
    for path in server.folder.glob("*.tar"):
        server.faults[path.name] = ["stall", "always"]


@pytest.mark.parametrize("name", ["torch", "dali"])
def test_an_interrupt_ends_a_loader_that_waits(
    server: FaultyServer, store: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    all_stall(server, monkeypatch)
    loader = make_loader(name, open_shards(server.url, tmp_path), delivery())

    def interrupt() -> None:
        server.stalled.wait(30)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    # A process in the background of a shell ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(loader.run(plans_of(store)))
        assert time.monotonic() - started < 5
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_a_command_that_waits(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_stall(server, monkeypatch)
    code = "from usucl_fast.cli.train import main; main()"
    options = ["--loader", "torch", "--size", "32", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    line = [sys.executable, "-c", code, server.url, *options]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    assert server.stalled.wait(60)
    time.sleep(0.1)
    told = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - told < 15  # a server is given up after 20
    assert process.returncode == 1
    assert re.fullmatch(rf"-c run: stopped while {server.url}/usucl-[0-9]+\.tar was fetched\n", stderr)
    tables = {(server.folder / name).stat().st_size for name in ("frames.npy", "videos.npz")}
    assert {path.stat().st_size for path in kept(tmp_path / "cache")} == tables


def test_a_run_that_is_stopped_while_it_waits_goes_on(
    sample: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to one that was never stopped."""
    config = make_config("default", {"size": 32, "epochs": 2, "batch_size": 2, "dim": 16, "precision": "fp32"})
    execution = Execution(loader="torch", device=torch.device("cpu"), threads=1)
    learn(config, sample, tmp_path / "whole", execution)
    with monkeypatch.context() as patch:
        reads, read = itertools.count(), sample.read

        def stopping(frame_ids: np.ndarray) -> list[np.ndarray]:
            if next(reads) >= 2:
                raise StoppedError("stopped")
            return read(frame_ids)

        patch.setattr(sample, "read", stopping)
        # Told only when the loader has raised, never after a step.
        summary = learn(config, sample, tmp_path / "run", execution, should_stop=lambda: sys.exc_info()[1] is not None)
    assert 0 < summary["steps"] < summary["of"]
    learn(config, sample, tmp_path / "run", execution, resume=True)
    whole, resumed = (RunFolder(tmp_path / name).read_metrics() for name in ("whole", "run"))
    assert [line["loss"] for line in whole] == [line["loss"] for line in resumed]
