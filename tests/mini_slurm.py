"""A real Slurm of one test session: slurmctld and some slurmd's in a short folder, with fake GPUs, on loopback only.

    with MiniSlurm(nodes=2, gpus=2) as slurm:
        job = slurm.submit("hostname", "--array=0-1", "--gpus=1")
        slurm.wait_for(job, "COMPLETED")

It needs no munge, systemd, cgroup or root. Debian's packages: slurmctld slurmd slurm-client, and for
accounting="dbd" slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core.
"""

import contextlib
import ipaddress
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests import slurm_database
from tests.slurm_files import ACCOUNTING, Layout, user_name, write_files
from tests.slurm_programs import SBIN

LONGEST_ROOT = 40
"""Characters; slurmstepd's sockets add some 30, and 107 is the limit."""
FOREIGN = (
    "SLURM",
    "SBATCH_",
    "SRUN_",
    "SALLOC_",
    "SUBMITIT_",
    "SQUEUE_",
    "SACCT_",
    "SINFO_",
    "CUDA_VISIBLE_DEVICES",
)


class EndedAtOnceError(RuntimeError):
    """A daemon did not come up."""


class MiniSlurm:
    """A context manager: enter starts the cluster and returns when every node is idle, leave ends it.

    Args:
        nodes: How many; they are called n1, n2 ...
        gpus: Of each node.
        cpus: Of each node; may be more than the machine has.
        memory_mb: Of each node.
        accounting: `none`: sacct says that it is disabled, as on many small clusters. `shim`: a sacct first on
            PATH that asks squeue. `dbd`: slurmdbd and a database, seconds to start.
        extra_conf: Keys of slurm.conf, for example {"MaxArraySize": 5}.
        root: Where to live; a new folder below /tmp.

    Attributes:
        env: Environment for clients: this cluster's SLURM_CONF, nothing of a Slurm job around the tests.
        daemons: By name: slurmctld, n1, n2 ...
        start_s: Seconds until all nodes were idle.
    """

    def __init__(
        self,
        *,
        nodes=2,
        gpus=2,
        cpus=4,
        memory_mb=8000,
        accounting="shim",
        extra_conf=None,
        root=None,
    ):
        if accounting not in ACCOUNTING:
            raise ValueError(f"accounting={accounting!r}: one of {', '.join(ACCOUNTING)}")
        self.root = Path(root or tempfile.mkdtemp(prefix="ms", dir="/tmp"))
        if len(str(self.root)) > LONGEST_ROOT:
            raise ValueError(f"{self.root}: a path of at most {LONGEST_ROOT} characters is needed")
        self.layout = Layout(
            root=self.root,
            ports=free_ports(3 + nodes),
            nodes=nodes,
            gpus=gpus,
            cpus=cpus,
            memory_mb=memory_mb,
            accounting=accounting,
            extra_conf=extra_conf or {},
        )
        self.user = user_name()
        self.daemons = {}
        self.env = self._environment()

    def __enter__(self):
        begin = time.monotonic()
        for again in (True, True, False):
            try:
                self._start()
                break
            except BaseException as error:
                error.add_note(self.log_tails())
                self.stop()
                if not (again and isinstance(error, EndedAtOnceError)):
                    raise
                # Somebody took one of the ports between our look and the daemon's.
                self.layout = replace(self.layout, ports=free_ports(len(self.layout.ports)))
                self.root.mkdir()
        self.start_s = time.monotonic() - begin
        return self

    def __exit__(self, *_):
        self.stop()

    # Daemons. They run in the foreground (-D) as children of this process, so that every id is known.

    def _start(self, timeout_s=60):
        write_files(self.layout)
        if self.layout.accounting == "dbd":
            slurm_database.start_database(self, timeout_s)
        self.start_controller()
        for name in self.layout.names:
            self.start_node(name)
        self.wait_until("idle nodes", self._up, timeout_s)
        if self.layout.accounting == "dbd":
            self.wait_until(
                "accounting", lambda: slurm_database.registered(self), timeout_s, every_s=0.2
            )
        outside = self.listening_outside()
        if outside:
            raise RuntimeError(f"Slurm listens beyond loopback: {outside}")

    def _up(self):
        ended = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
        if ended:
            raise EndedAtOnceError(f"{', '.join(ended)} ended at once; their logs are in the note")
        return self.all_idle()

    def start_controller(self):
        """Also after `stop_controller`: jobs are kept in the folder's state (-i: none at first is not an error)."""
        self.spawn("slurmctld", "slurmctld", "-D", "-i", "-f", self.layout.conf)

    def start_node(self, name):
        """Start the slurmd of a node; the mark lets its slurmstepd's be told from another node's."""
        self.spawn(name, "slurmd", "-D", "-N", name, "-f", self.layout.conf, MINI_SLURM_NODE=name)

    def kill_node(self, name):
        """As when the power fails: slurmd, its slurmstepd's and all processes of jobs there are gone at once."""
        self._kill(self.daemons.pop(name))
        marks = (f"MINI_SLURM_NODE={name}".encode(), f"SLURMD_NODENAME={name}".encode())
        for pid, variables in self._own().items():
            if any(mark in variables for mark in marks):
                _signal(pid, signal.SIGKILL)

    def stop_controller(self):
        """Clients then wait for an answer and give up; `start_controller` goes on from its saved state.

        It is asked to end: a killed one would forget the last seconds and give the same job ids again.
        """
        controller = self.daemons.pop("slurmctld")
        controller.terminate()
        controller.wait(20)

    def resume_node(self, name):
        """Start the node's slurmd if it is gone, and take the node into service."""
        if name not in self.daemons:
            self.start_node(name)
        self.run("scontrol", "update", f"NodeName={name}", "State=RESUME", check=False)

    def spawn(self, name, *command, **variables):
        """Start a daemon; what it prints goes to log/<name>.out."""
        with (self.root / "log" / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [str(word) for word in command],
                env=self.env | variables,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self):
        """End everything that belongs to this cluster, jobs included, and remove the folder."""
        begin = time.monotonic()
        order = [*self.layout.names, "slurmctld", "slurmdbd", "mariadbd"]
        for name in sorted(self.daemons, key=order.index):
            daemon = self.daemons[name]
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(5)
            self._kill(daemon)
        self.daemons.clear()
        # slurmstepd's belong to init by now, and jobs to them.
        while self.processes() and time.monotonic() - begin < 20:
            for pid in self.processes():
                _signal(pid, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(self.root, ignore_errors=True)
        self.stop_s = time.monotonic() - begin

    @staticmethod
    def _kill(daemon):
        daemon.kill()
        daemon.wait()

    # What is there.

    def processes(self):
        """Ids of all that run with this cluster's SLURM_CONF: daemons, slurmstepd's, jobs, clients; zombies are gone."""
        return list(self._own())

    def _own(self):
        mark = f"SLURM_CONF={self.layout.conf}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # ended, or of somebody else
                variables = (folder / "environ").read_bytes().split(b"\0")
                if mark in variables and int(folder.name) != os.getpid():
                    found[int(folder.name)] = variables
        return found

    def listening(self):
        """(process id, address, port) of every TCP socket on which something of this cluster listens now."""
        owners = {}
        for pid in self.processes():
            with contextlib.suppress(OSError):
                for link in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        owners[str(link.readlink())] = pid
        return [
            (owners[f"socket:[{inode}]"], address, port)
            for address, port, inode in _listeners()
            if f"socket:[{inode}]" in owners
        ]

    def listening_outside(self):
        """Those that another machine could reach; must be empty."""
        return [row for row in self.listening() if not row[1].is_loopback]

    def all_idle(self):
        """Whether every node waits for work."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %T").split("\n")
        return {line.split()[0] for line in lines if line.endswith(" idle")} == set(
            self.layout.names
        )

    def log_tails(self, lines=12):
        """The last lines of every log, for a message."""
        files = sorted((self.root / "log").glob("*"))
        return "\n".join(
            f"--- {file.name}\n" + "\n".join(file.read_text(errors="replace").split("\n")[-lines:])
            for file in files
        )

    # Jobs.

    def run(self, *command, timeout_s=60, check=True):
        """Run a client of Slurm; returns what it prints.

        Raises:
            subprocess.CalledProcessError: It failed; what it said is in a note.
        """
        done = subprocess.run(
            [str(word) for word in command],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            error = subprocess.CalledProcessError(
                done.returncode, command, done.stdout, done.stderr
            )
            error.add_note(done.stdout + done.stderr)
            raise error
        return done.stdout

    def submit(self, script, *options):
        """Queue lines of bash with options of sbatch; returns the id of the job or array.

        What it prints goes to log/<id>_<task>.job, a requeued job's next attempt behind the first.
        """
        file = self.root / "log" / f"{random.getrandbits(48):x}.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        name = "%A_%a" if any(str(option).startswith("--array") for option in options) else "%j"
        output = f"--output={self.root}/log/{name}.job"
        return self.run(
            "sbatch", "--parsable", "--open-mode=append", output, *options, file
        ).strip()

    def output(self, job):
        """What a job, or a task of an array such as 7_0, has printed."""
        file = self.root / "log" / f"{job}.job"
        return file.read_text() if file.exists() else ""

    def states(self, job):
        """State of the job, or of each task of the array, by its id; finished ones too."""
        rows = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T", "-j", job).split()
        return dict(row.split("|") for row in rows)

    def wait_for(self, job, *wanted, timeout_s=60):
        """Wait until every task of the job is in one of these states; returns them."""
        seen = {}

        def arrived():
            seen.update(self.states(job))
            return seen and set(seen.values()) <= set(wanted)

        try:
            self.wait_until(f"job {job} in {wanted}", arrived, timeout_s)
        except TimeoutError as error:
            error.add_note(f"{seen}\n{self.output(job)}\n{self.log_tails()}")
            raise
        return seen

    def field(self, job, name):
        """One value of `scontrol show job`, for example Restarts."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def clear(self):
        """Cancel all jobs, bring dead nodes back, forget the lag; returns when all nodes are idle."""
        self.set_sacct_lag(0)
        if "slurmctld" not in self.daemons:
            self.start_controller()
        self.wait_until("controller", lambda: "UP" in self.run("scontrol", "ping"), 30)
        self.run("scancel", "--user", self.user)
        self.wait_until("empty queue", lambda: not self.run("squeue", "-h").strip(), 60)
        if not self.all_idle():
            for name in self.layout.names:
                self.resume_node(name)
        self.wait_until("idle nodes", self.all_idle, 60)

    def set_sacct_lag(self, seconds):
        """With accounting="shim": sacct tells what was `seconds` ago; Slurm counts whole ones."""
        (self.root / "lag").write_text(str(seconds))

    @staticmethod
    def wait_until(what, condition, timeout_s, every_s=0.05):
        """Ask until it is so; a client that fails meanwhile is asked again.

        Raises:
            TimeoutError: It never was.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            with contextlib.suppress(subprocess.SubprocessError):
                if condition():
                    return
            time.sleep(every_s)
        raise TimeoutError(f"{what}: not within {timeout_s} s")

    def _environment(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        path = f"{self.root}/bin:{kept.get('PATH', os.defpath)}:{SBIN}"
        return kept | {"SLURM_CONF": str(self.layout.conf), "PATH": path}


def free_ports(count):
    """Ports of loopback that nothing uses, below those that the kernel gives to outgoing connections."""
    ports = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports += [port] * (port not in ports)
    return tuple(ports)


def _listeners():
    """(address, port, inode) of every listening TCP socket of the machine, from /proc/net."""
    for table in ("tcp", "tcp6"):
        file = Path("/proc/net") / table
        for line in file.read_text().splitlines()[1:] if file.exists() else []:
            words = line.split()
            if words[3] != "0A":
                continue
            address, port = words[1].split(":")
            # The kernel prints 32-bit words in the machine's order, which is little-endian wherever Slurm is tested.
            parts = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
            yield ipaddress.ip_address(b"".join(parts)), int(port, 16), words[9]


def _signal(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
