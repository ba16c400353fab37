"""The runbooks of tools/cluster: SLURM's scripts with its commands played by others, manifests, machines apart."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, SAMPLE
from tests.helpers.commands import usucl_shard, usucl_train
from tests.helpers.ray import check_ray
from tests.helpers.training import ARCH, curve, plans
from tests.helpers.videos import moving_texture, write_video
from usucl_fast.learn.run_folder import RunFolder

CLUSTER = REPOSITORY / "tools" / "cluster"
RUN = [*("--arch", ARCH, "--size", "32", "--dim", "16", "--batch-size", "4", "--epochs", "60", "--device", "cpu")]
RUN += ["--precision", "fp32", "--threads", "0", "--no-page", "--checkpoint-every", "9"]
SRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do case $1 in --nodes|--ntasks|--exclude) shift 2;; *) shift;; esac; done
exec "$@"
"""
"""Starts on this machine what is to be started on each of the nodes that are meant."""
SCONTROL = """#!/bin/sh
echo "$@" >> "$SCONTROL_ASKED"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of SLURM on one node."""
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    path = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        **os.environ,
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": str(REPOSITORY),
        "SCONTROL_ASKED": str(tmp_path / "asked"),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_CPUS_PER_TASK": "2",
    }


@contextlib.contextmanager
def begun(*command: object, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [str(word) for word in command],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_steps(run: Path, steps: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or len(RunFolder(run).read_metrics()) < steps:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pkill"), reason="the script needs pkill, of Debian's procps")
def test_a_job_whose_time_is_up_is_requeued_and_goes_on(slurm: dict[str, str], tmp_path: Path) -> None:
    """Equal to the run that was not disturbed, and the second job asks for nothing more."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    job = ["bash", CLUSTER / "train.sbatch", *RUN]
    slurm |= {"SHARDS": str(SAMPLE), "PORT": "29577"}
    with begun(*job, environment={**slurm, "OUT": str(whole)}) as process:
        assert process.communicate(timeout=200)[0] is not None
    assert process.returncode == 0
    asked = Path(slurm["SCONTROL_ASKED"])
    assert not asked.exists()
    with begun(*job, environment={**slurm, "OUT": str(out)}) as process:
        wait_for_steps(out, 5, process)
        os.kill(process.pid, signal.SIGUSR1)  # to the script, as --signal=B: says
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "stopped; " in output
    assert asked.read_text() == "requeue 17\n"
    assert 5 <= len(plans(out)) < len(plans(whole))
    with begun(*job, environment={**slurm, "OUT": str(out), "SLURM_RESTART_COUNT": "1"}) as process:
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert curve(out) == curve(whole)
    assert asked.read_text() == "requeue 17\n"


@pytest.mark.slow
def test_a_failed_job_says_so(slurm: dict[str, str], tmp_path: Path) -> None:
    with begun(
        "bash", CLUSTER / "train.sbatch", environment={**slurm, "SHARDS": "nowhere", "OUT": str(tmp_path / "run")}
    ) as process:
        output, _ = process.communicate(timeout=200)
    assert process.returncode not in (0, None)
    assert "nowhere" in output


@pytest.mark.slow
def test_nodes_of_slurm_pack(slurm: dict[str, str], tmp_path: Path) -> None:
    """Two, both of which are this machine."""
    check_ray()
    for number in range(4):
        write_video(tmp_path / "in" / f"{number}.mp4", moving_texture(20, 64, 64, number), "libx264")
    assert usucl_shard(tmp_path / "in", tmp_path / "one", "--size", 48).exit_code == 0
    slurm |= {"SOURCE": str(tmp_path / "in"), "OUT": str(tmp_path / "out"), "SLURM_JOB_NUM_NODES": "2", "PORT": "6391"}
    command = ["bash", CLUSTER / "pack.sbatch", "--size", 48, "--memory-limit", 0.5]
    with begun(*command, environment=slurm) as process:
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    names = {path.name for path in (tmp_path / "one").iterdir()} - {"summary.json"}
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "out" / name).read_bytes() for name in names)


def test_manifests_name_options_that_there_are() -> None:
    yaml = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))
    assert [(one["apiVersion"], one["kind"], one["metadata"]["labels"]["step"]) for one in documents] == [
        ("ray.io/v1", "RayJob", "pack"),
        ("v1", "Service", "train"),
        ("batch/v1", "Job", "train"),
    ]
    packs, service, trains = (one["spec"] for one in documents)
    pod = trains["template"]["spec"]
    assert service["selector"]["job-name"] == pod["subdomain"] == documents[2]["metadata"]["name"]
    (container,) = pod["containers"]
    words = [*container["command"], *container["args"]]
    assert f"--nnodes {trains['completions']}" in " ".join(words)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    run = words[words.index("usucl-train") :]
    for command, given in (
        (usucl_shard("pack", "--help"), packs["entrypoint"]),
        (usucl_train("--help"), " ".join(run)),
    ):
        for option in re.findall(r"--[\w-]+", given):
            assert option in command.output


@pytest.mark.slow
@pytest.mark.skipif(
    os.name != "posix" or not shutil.which("ip") or os.geteuid() != 0, reason="needs network namespaces"
)
def test_two_machines_train_as_one_does(tmp_path: Path) -> None:
    """Two network namespaces, each with an address of its own: all that they share is the disk. Of one machine, which
    has one name, torchrun must be told who is the host."""
    name = f"usucl{os.getpid()}"
    setup = [
        *(f"netns add {name}{side}" for side in "ab"),
        f"link add {name}x netns {name}a type veth peer name {name}y netns {name}b",
        *(f"-n {name}{side} link set lo up" for side in "ab"),
        f"-n {name}a addr add 10.77.0.1/24 dev {name}x",
        f"-n {name}b addr add 10.77.0.2/24 dev {name}y",
        f"-n {name}a link set {name}x up",
        f"-n {name}b link set {name}y up",
    ]
    try:
        for line in setup:
            if subprocess.run(["ip", *line.split()], check=False, capture_output=True).returncode:
                pytest.skip("no network namespaces here")
        train = ["-c", "from usucl_fast.cli.train import main; main()", SAMPLE, *RUN, "--epochs", "4", "--out"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "10.77.0.1:29411"]
        with contextlib.ExitStack() as stack:
            machines = []
            for number, (side, device) in enumerate([("a", "x"), ("b", "y")]):
                where = ["ip", "netns", "exec", f"{name}{side}"]
                own = ["--local-addr", f"10.77.0.{number + 1}", "--rdzv-conf", f"is_host={1 - number}", "--no-python"]
                command = [*where, *torchrun, *own, sys.executable, *train, tmp_path / "two"]
                variables = {"PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": f"{name}{device}"}
                machines.append(stack.enter_context(begun(*command, environment={**os.environ, **variables})))
            outputs = [machine.communicate(timeout=120)[0] for machine in machines]
        assert [machine.returncode for machine in machines] == [0, 0], outputs
    finally:
        for side in "ab":
            subprocess.run(["ip", "netns", "del", f"{name}{side}"], check=False, capture_output=True)
    assert usucl_train(SAMPLE, *RUN, "--epochs", 4, "--out", tmp_path / "one").exit_code == 0
    assert plans(tmp_path / "two") == plans(tmp_path / "one")
    assert RunFolder(tmp_path / "two").read_summary()["ranks"] == 2
