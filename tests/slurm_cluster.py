"""A real SLURM on this one machine, for tests: two nodes, each with two stand-in GPUs, everything on loopback.

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
SYSTEM_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")
Daemon = subprocess.Popen[bytes]

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
# A requeued or preempted job is held for one second more than cred_expire: two minutes unless said otherwise.
AuthInfo=socket={sockets}/munge,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={sockets}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
KillWait=5
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Else a node that declares more than it has is invalid.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=2000 Gres=gpu:2
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=2000 Gres=gpu:2
PartitionName=low Nodes=node[1-2] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=node[1-2] PriorityTier=10 PreemptMode=OFF
"""

# Needed only where the jobs of a user are limited. MariaDB does without a user and without a table of its own.
SLURMDBD_CONF = """\
DbdHost=localhost
DbdPort={ports[3]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={sockets}/munge
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[4]}
StorageUser=root
StorageLoc=slurm
"""
ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={ports[3]}
AccountingStoragePass={sockets}/munge
AccountingStorageEnforce=limits
"""


def missing(*more: str) -> str | None:
    """Why no cluster can be started here, or None; `more` are programs that are needed for this one."""
    if os.geteuid() != 0:
        return "a SLURM cluster for tests needs root"
    absent = [name for name in ("slurmctld", "slurmd", "munged", "sbatch", *more) if shutil.which(name) is None]
    return f"not installed, or not on the PATH: {', '.join(absent)}" if absent else None


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:  # all held at once, so that they differ
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


def configure(folder: Path, sockets: Path, extra: str, accounting: bool) -> list[int]:
    """Write what the daemons read; returns their ports."""
    ports = free_ports(5)
    host = socket.gethostname().split(".")[0]  # slurmctld refuses to run on a host it does not find in SlurmctldHost
    places = {"host": host, "folder": folder, "sockets": sockets, "ports": ports}
    conf = SLURM_CONF
    if accounting:
        conf = SLURM_CONF.replace("AccountingStorageType=accounting_storage/none\n", ACCOUNTING)
        (folder / "slurmdbd.conf").touch(mode=0o600)
        (folder / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(**places))
    (folder / "slurm.conf").write_text(conf.format(**places) + extra + "\n")
    (folder / "gres.conf").write_text(f"AutoDetect=off\nNodeName=node[1-2] Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    for name in ("gpu0", "gpu1"):  # a gres file must be a device: these are two more of /dev/null
        os.mknod(folder / name, 0o20666, os.makedev(1, 3))
    (folder / "munge").mkdir(mode=0o711)
    (folder / "munge" / "key").touch(mode=0o600)
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    return ports


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


def start_accounting(
    start: Callable[..., Daemon], env: dict[str, str], folder: Path, sockets: Path, port: int
) -> list[Daemon]:
    """Start MariaDB, and the daemon of SLURM that keeps accounts in it."""
    (folder / "db").mkdir()
    database = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}/db"]
    tables = f"create database mysql;\nuse mysql;\n{SYSTEM_TABLES.read_text()}"
    subprocess.run([*database, "--bootstrap"], input=tables, text=True, check=True, capture_output=True)
    database += ["--skip-grant-tables", f"--socket={sockets}/db", f"--port={port}", "--bind-address=127.0.0.1"]
    children = [start(*database)]
    wait_for((sockets / "db").exists, START_S)
    children += [start("slurmdbd", "-D")]
    wait_for(lambda: "root" in call(env, "sacctmgr", "-nP", "list", "account"), START_S)
    return children


@contextlib.contextmanager
def cluster(folder: Path, extra: str = "", limit: int | None = None) -> Iterator[dict[str, str]]:
    """Start a cluster in a fresh folder, yield the environment variables its clients need, and stop all of it.

    `extra` is more lines for slurm.conf, such as `MinJobAge=2` for finished jobs to be forgotten soon. `limit` is how
    many jobs of this user may be queued or running (MaxSubmitJobs), for which accounting is needed.
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
        ports = configure(folder, sockets, extra, limit is not None)
        stack.callback(wait_for, lambda: kill_strays(env), 5)  # until none: one may be starting another

        def start(*command: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(daemon(folder / f"{command[0]}-{len(children)}.log", env, *command))

        def up() -> bool:
            nodes = call(env, "sinfo", "-h", "-p", "low", "-o", "%D %t")
            return nodes == "2 idle" or any(child.poll() is not None for child in children)

        children: list[subprocess.Popen[bytes]] = []

        own = [f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "log", "seed")]
        children += [start("munged", "--foreground", f"--socket={sockets}/munge", *own)]
        wait_for((sockets / "munge").exists, START_S)  # else slurmctld sleeps for a second before it looks again
        if limit is not None:
            children += start_accounting(start, env, folder, sockets, ports[4])
            for change in ("add cluster test", f"modify user root set MaxSubmitJobs={limit}"):
                subprocess.run(["sacctmgr", "-i", *change.split()], env=env, check=True, capture_output=True)
        children += [start("slurmctld", "-D", "-i")]
        for node in ("node1", "node2"):
            children.append(start("slurmd", "-D", "-N", node))
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
