"""A private MariaDB on loopback for slurmdbd, in the folder of a MiniSlurm."""

import subprocess

OPTIONS = (
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=4M",
    "--innodb-lock-wait-timeout=900",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--performance-schema=0",
)
PROGRAMS = ("slurmdbd", "mariadbd", "mariadb", "mariadb-install-db", "sacct", "sacctmgr")


def start_database(cluster, timeout_s):
    """Install, start and fill the database, then slurmdbd; both are children of this process.

    Args:
        cluster: A MiniSlurm whose files are written.
        timeout_s: For each of the two to answer.
    """
    root, user = cluster.root, cluster.user
    cluster.run(
        "mariadb-install-db",
        "--no-defaults",
        f"--datadir={root}/db",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        f"--user={user}",
        "--innodb-log-file-size=4M",
        timeout_s=timeout_s,
    )
    cluster.spawn(
        "mariadbd",
        "mariadbd",
        "--no-defaults",
        f"--user={user}",
        f"--datadir={root}/db",
        f"--socket={root}/m.sock",
        "--bind-address=127.0.0.1",
        f"--port={cluster.layout.ports[2]}",
        f"--pid-file={root}/mariadbd.pid",
        *OPTIONS,
    )
    cluster.wait_until("MariaDB", lambda: _query(cluster, "select 1"), timeout_s)
    grants = [
        f"create user slurm@'{place}' identified by 'slurm'; grant all on accounting.* to slurm@'{place}'"
        for place in ("127.0.0.1", "localhost")
    ]
    _query(cluster, "; ".join(["create database accounting", *grants]))
    cluster.spawn("slurmdbd", "slurmdbd", "-D")  # finds its file beside $SLURM_CONF
    cluster.wait_until("slurmdbd", lambda: _clusters(cluster) is not None, timeout_s)


def registered(cluster):
    """Whether the controller has made itself known to slurmdbd."""
    return "mini" in (_clusters(cluster) or "")


def _query(cluster, text):
    socket = f"--socket={cluster.root}/m.sock"
    cluster.run("mariadb", "--no-defaults", "--user=root", socket, f"--execute={text}")
    return True


def _clusters(cluster):
    try:
        return cluster.run("sacctmgr", "--noheader", "show", "cluster", "format=Cluster")
    except subprocess.SubprocessError:
        return None
