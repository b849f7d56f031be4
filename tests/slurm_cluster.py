"""A real SLURM on this one machine, for tests: one node, two stand-in GPUs, everything on loopback.

By hand, `python tests/slurm_cluster.py COMMAND ...` starts a fresh cluster, runs the command with SLURM_CONF in its
environment (`srun --gpus=1 env`, or `bash` to look around), stops everything, and exits with the command's exit code.
On Debian it needs root and `apt-get install --no-install-recommends slurmctld slurmd slurm-client munge`.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

START_S = 30  # how long a cluster may take to come up; about one second is usual
CALL_S = 10  # how long any one client call may take

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
SlurmUser=root
AuthType=auth/munge
# A requeued or preempted job is held for one second more than cred_expire: two minutes unless said otherwise.
AuthInfo=socket={sockets}/munge,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={sockets}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Else a node that declares more than it has is invalid.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={node} NodeAddr=127.0.0.1 CPUs=8 RealMemory=2000 Gres=gpu:2
PartitionName=low Nodes={node} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes={node} PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "a SLURM cluster for tests needs root"
    absent = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
    return f"not installed, or not on the PATH: {', '.join(absent)}" if absent else None


def configure(folder: Path, sockets: Path, extra: str) -> None:
    """Write what the three daemons read."""
    node = socket.gethostname().split(".")[0]  # slurmctld refuses to run on a host it does not find in SlurmctldHost
    with socket.socket() as one, socket.socket() as two:  # both held at once, so that they differ
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ctld_port, d_port = one.getsockname()[1], two.getsockname()[1]
    text = SLURM_CONF.format(node=node, folder=folder, sockets=sockets, ctld_port=ctld_port, d_port=d_port)
    (folder / "slurm.conf").write_text(text + extra + "\n")
    (folder / "gres.conf").write_text(f"AutoDetect=off\nNodeName={node} Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    for name in ("gpu0", "gpu1"):  # a gres file must be a device: these are two more of /dev/null
        os.mknod(folder / name, 0o20666, os.makedev(1, 3))
    (folder / "munge").mkdir(mode=0o711)
    (folder / "munge" / "key").touch(mode=0o600)
    (folder / "munge" / "key").write_bytes(os.urandom(128))


@contextlib.contextmanager
def daemon(log: Path, env: dict[str, str], *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon in the foreground as our child, and stop it at the end."""
    with log.open("wb") as out:
        # A session of its own: Ctrl-C at a terminal must reach us alone, who stop the daemons in order.
        child = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield child
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=5)
        child.kill()
        child.wait()


def call(env: dict[str, str], *command: str) -> str:
    """What a client prints; nothing if it fails, as it does until slurmctld listens."""
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=CALL_S).stdout.strip()
    except subprocess.TimeoutExpired:
        return ""


def wait_for(ready: Callable[[], bool], seconds: float) -> bool:
    """Whether this became true in time."""
    deadline = time.monotonic() + seconds
    while not (done := ready()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return done


def kill_strays(env: dict[str, str]) -> bool:
    """Kill what runs with our SLURM_CONF (no child of ours is a slurmstepd, or what a job left); whether none did."""
    mark = f"SLURM_CONF={env['SLURM_CONF']}".encode()
    none = True
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone since
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                none = False
    return none


@contextlib.contextmanager
def cluster(folder: Path, extra: str = "") -> Iterator[dict[str, str]]:
    """Start a cluster in a fresh folder, yield the environment variables its clients need, and stop all of it.

    `extra` is more lines for slurm.conf, such as `MinJobAge=2` for finished jobs to be forgotten soon.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    added = {"SLURM_CONF": str(folder / "slurm.conf")}
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | added
    with contextlib.ExitStack() as stack:
        # A socket's path may have 107 characters, fewer than a test's folder; and munged wants its folder reachable.
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        sockets.chmod(0o711)
        configure(folder, sockets, extra)
        stack.callback(wait_for, lambda: kill_strays(env), 5)  # until none: one may be starting another

        def start(*command: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(daemon(folder / f"{command[0]}.log", env, *command))

        def up() -> bool:
            return any(child.poll() is not None for child in children) or call(env, "sinfo", "-h", "-o", "%t") == "idle"

        own = [f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "log", "seed")]
        children = [start("munged", "--foreground", f"--socket={sockets}/munge", *own)]
        wait_for((sockets / "munge").exists, START_S)  # else slurmctld sleeps for a second before it looks again
        children += [start("slurmctld", "-D", "-i"), start("slurmd", "-D")]
        if not wait_for(up, START_S) or any(child.poll() is not None for child in children):
            logs = "\n".join(f"== {log.name}\n{log.read_text(errors='replace')}" for log in folder.glob("*.log"))
            raise RuntimeError(f"the SLURM cluster in {folder} did not come up:\n{logs}")
        try:
            yield added
        finally:
            call(env, "scancel", "--user=root")
            wait_for(lambda: not call(env, "squeue", "-h"), 3)  # the rest, such as jobs deaf to SIGTERM, is killed


def main() -> int:
    """Run a command inside a fresh cluster."""
    if len(sys.argv) < 2:
        raise SystemExit(f"usage: python {sys.argv[0]} COMMAND ...")
    if reason := missing():
        raise SystemExit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the cluster is stopped then too
    with tempfile.TemporaryDirectory() as folder, cluster(Path(folder)) as added:
        code = subprocess.call(sys.argv[1:], env=os.environ | added)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main())
