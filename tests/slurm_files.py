"""The files of a Slurm that lives in one folder: slurm.conf, gres.conf, slurmdbd.conf and a stand-in for sacct."""

import os
import pwd
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ACCOUNTING = ("none", "shim", "dbd")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the files are made of.

    Attributes:
        root: Short path: sockets of Unix lie below it, whose names may have 107 characters.
        nodes: How many, named n1, n2 ...
        gpus: Of a node; each is a link to /dev/null, which Slurm takes for a device.
        extra_conf: Keys of slurm.conf with their values, instead of or besides the ones here.
        ports: Free ones: controller, slurmdbd, database, then one a node.
    """

    root: Path
    ports: tuple[int, ...]
    nodes: int = 2
    cpus: int = 4
    memory_mb: int = 8000
    gpus: int = 2
    accounting: str = "shim"
    extra_conf: Mapping[str, object] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def conf(self) -> Path:
        return self.root / "slurm.conf"


def write_files(layout: Layout) -> None:
    """Everything the daemons read, and the folders they write to."""
    root = layout.root
    for folder in ("state", "log", "dev", "bin", *(f"spool/{name}" for name in layout.names)):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(layout.gpus):
        (root / "dev" / f"gpu{number}").symlink_to("/dev/null")
    layout.conf.write_text(slurm_conf(layout))
    (root / "gres.conf").write_text(gres_conf(layout))
    if layout.accounting == "shim":
        shim = root / "bin" / "sacct"
        shim.write_text(SACCT.format(python=sys.executable, root=root))
        shim.chmod(0o755)
    if layout.accounting == "dbd":
        file = root / "slurmdbd.conf"
        file.write_text(slurmdbd_conf(layout))
        file.chmod(0o600)  # slurmdbd refuses one that others can read


def slurm_conf(layout: Layout) -> str:
    """No munge, no cgroups, no other user; short waits everywhere; every socket on loopback."""
    root, user = layout.root, user_name()
    settings: dict[str, object] = {
        "ClusterName": "mini",
        "SlurmctldHost": f"{host()}(127.0.0.1)",
        "SlurmctldPort": layout.ports[0],
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/none",
        "CredType": "cred/none",
        # A requeued job starts again when its old credential has expired: 120 s if nothing is said.
        "AuthInfo": "cred_expire=5",
        # Without these every daemon listens on all interfaces, and with auth/none anybody may run jobs as this user.
        "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
        "StateSaveLocation": root / "state",
        "SlurmdSpoolDir": f"{root}/spool/%n",
        "SlurmctldPidFile": root / "slurmctld.pid",
        "SlurmdPidFile": f"{root}/slurmd-%n.pid",
        "SlurmctldLogFile": root / "log" / "slurmctld.log",
        "SlurmdLogFile": f"{root}/log/slurmd-%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "MailProg": "/bin/true",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "SlurmdParameters": "config_overrides",  # nodes may have more CPUs than the machine
        "GresTypes": "gpu",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_continue",
        "PriorityType": "priority/basic",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "SlurmctldParameters": "preempt_send_user_signal",
        "JobRequeue": 1,
        "ReturnToService": 2,
        "KillWait": 3,
        "MinJobAge": 86400,  # squeue -t all shows finished jobs all the time
        "InactiveLimit": 0,
        "SlurmdTimeout": 30,
        "SlurmctldTimeout": 60,
        "BatchStartTimeout": 60,
        "MessageTimeout": 30,
    }
    if layout.accounting == "dbd":
        settings |= {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": layout.ports[1],
            "AccountingStorageTRES": "gres/gpu",
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "task=2",
        }
    settings |= layout.extra_conf
    lines = [f"{key}={value}" for key, value in settings.items()]
    return "\n".join([*lines, *node_lines(layout), *PARTITIONS, ""])


PARTITIONS = (
    "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=100 PriorityTier=1 GraceTime=10 State=UP",
    "PartitionName=urgent Nodes=ALL MaxTime=INFINITE DefMemPerCPU=100 PriorityTier=10 PreemptMode=OFF State=UP",
)
"""A job in `urgent` pushes jobs of `main` aside, which are queued again."""


def node_lines(layout: Layout) -> list[str]:
    """One a node; all of them are this machine."""
    devices = f"Gres=gpu:{layout.gpus} " if layout.gpus else ""
    return [
        f"NodeName={name} NodeHostname={host()} NodeAddr=127.0.0.1 Port={port} CPUs={layout.cpus} "
        f"RealMemory={layout.memory_mb} {devices}State=UNKNOWN"
        for name, port in zip(layout.names, layout.ports[3:], strict=True)
    ]


def gres_conf(layout: Layout) -> str:
    """The fake GPUs of every node."""
    if not layout.gpus:
        return "AutoDetect=off\n"
    devices = f"{layout.root}/dev/gpu[0-{layout.gpus - 1}]"
    return f"AutoDetect=off\nNodeName=n[1-{layout.nodes}] Name=gpu File={devices}\n"


def slurmdbd_conf(layout: Layout) -> str:
    """Accounting in a database of our own on loopback."""
    settings = {
        "AuthType": "auth/none",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": layout.ports[1],
        "CommunicationParameters": "NoInAddrAny",
        "SlurmUser": user_name(),
        "LogFile": layout.root / "log" / "slurmdbd.log",
        "PidFile": layout.root / "slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": layout.ports[2],
        "StorageUser": "slurm",
        "StoragePass": "slurm",
        "StorageLoc": "accounting",
        "CommitDelay": 0,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def host() -> str:
    """Slurm compares this with the short name of the machine."""
    return socket.gethostname().split(".")[0]


def user_name() -> str:
    """Of the process, whatever the environment says."""
    return pwd.getpwuid(os.getuid()).pw_name


SACCT = '''\
#!{python} -IS
"""sacct as submitit and edit_sweeps call it, answered by squeue; it may lag behind as the real one does.

A job younger than the lag is one row without array elements; one that ended within the lag still runs.
"""
import subprocess, sys, time
from pathlib import Path

arguments, columns, jobs, header, separator = sys.argv[1:], "JobID,State,NodeList", [], True, "|"
while arguments:
    word = arguments.pop(0)
    name, _, value = word.partition("=") if word.startswith("--") else (word, "", "")
    if name in ("-j", "--jobs"):
        jobs += (value or arguments.pop(0)).split(",")
    elif name in ("-o", "--format"):
        columns = value or arguments.pop(0)
    elif name in ("-n", "--noheader"):
        header = False
    elif name not in ("-X", "-P", "--allocations", "--parsable2"):
        sys.exit(f"this sacct is a stand-in and does not know {{word}}")
lag = float(Path("{root}/lag").read_text()) if Path("{root}/lag").exists() else 0
columns = columns.split(",")
if header:
    print(separator.join(columns))
if not jobs:
    sys.exit()
command = ["squeue", "-h", "-r", "-t", "all", "-j", ",".join(jobs), "-o", "%i|%F|%T|%N|%V|%e"]
rows = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def age(stamp):
    try:
        return time.time() - time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:  # N/A
        return -1


answer = {{}}
for row in rows:
    job, array, state, node, submitted, ended = row.split("|")
    live = state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")
    if age(submitted) < lag:
        job, state, node = array, "PENDING", "None assigned"
    elif not live and 0 <= age(ended) < lag:
        state = "RUNNING"
    answer[job] = {{"JobID": job, "State": state, "NodeList": node or "None assigned"}}
for fields in answer.values():
    print(separator.join(fields.get(column, "") for column in columns))
'''
