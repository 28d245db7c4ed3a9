"""Whether Slurm is installed, and what happens to a test when it is not."""

import os
import shutil

import pytest

from tests import slurm_database

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel")
SBIN = "/usr/sbin:/sbin"
"""Where the daemons lie; often not on the PATH of a user."""
PACKAGES = "slurmctld slurmd slurm-client"
DATABASE_PACKAGES = "slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core"
DEMAND = "EDIT_SWEEPS_NEED_SLURM"
"""Set in the environment of a machine on which these tests must run."""


def need_slurm(accounting="shim"):
    """Skip where Slurm is not installed; fail where it must be, as the environment says (`DEMAND`)."""
    missing = missing_programs(accounting)
    if not missing:
        return
    packages = f"{PACKAGES} {DATABASE_PACKAGES}" if accounting == "dbd" else PACKAGES
    reason = (
        f"NOT TESTED ON SLURM: {', '.join(missing)} not found. Debian, as root: apt-get install "
        f"--no-install-recommends {packages}"
    )
    if os.environ.get(DEMAND):
        pytest.fail(f"{reason}. {DEMAND} is set: it must be there", pytrace=False)
    pytest.skip(reason)


def missing_programs(accounting="shim"):
    """Programs that a MiniSlurm needs and this machine lacks."""
    needed = PROGRAMS + (slurm_database.PROGRAMS if accounting == "dbd" else ())
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    return [program for program in needed if shutil.which(program, path=path) is None]
