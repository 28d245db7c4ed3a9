"""The fixture `slurm`: one real Slurm for all tests of a session, empty again after each.

A test module asks for it with `pytest_plugins = ["tests.slurm_fixture"]`.
"""

import pytest

from tests.mini_slurm import MiniSlurm
from tests.slurm_programs import need_slurm


@pytest.fixture(scope="session")
def slurm():
    """Two nodes n1 and n2 with two GPUs each; partitions main and, ahead of it, urgent; sacct is the shim."""
    need_slurm()
    with MiniSlurm() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _empty_slurm(request):
    """What a test leaves queued, dead or lagging does not reach the next one."""
    yield
    if "slurm" in request.fixturenames:
        request.getfixturevalue("slurm").clear()
