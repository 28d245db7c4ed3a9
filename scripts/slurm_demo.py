"""The first sweep on a real Slurm of this machine's own: submitted, watched, reported. `make slurm-demo`.

python scripts/slurm_demo.py                                 editor=rome,memit num_edits=1,10,100
python scripts/slurm_demo.py editor=ft num_edits=1,5         any other sweep
python scripts/slurm_demo.py --keep                          leave the cluster up until Enter, to play with
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.mini_slurm import MiniSlurm  # noqa: E402
from tests.slurm_programs import missing_programs  # noqa: E402

FIRST = ["editor=rome,memit", "num_edits=1,10,100"]


def show(*command: str, env: dict[str, str]) -> int:
    """Print a command as it would be typed, then run it."""
    print("\n$ " + " ".join(command), flush=True)
    typed = [sys.executable if word == "python" else word for word in command]
    if typed[0] == "edit-sweeps":
        typed[:1] = [sys.executable, "-m", "edit_sweeps"]
    return subprocess.run(typed, env=env, check=False).returncode


def main() -> int:
    """Run the demonstration; the exit code is that of the sweep."""
    arguments = sys.argv[1:]
    keep = "--keep" in arguments
    sweep = [word for word in arguments if word != "--keep"] or FIRST
    absent = missing_programs()
    if absent:
        print(f"{', '.join(absent)} not found: `make setup-ci` (as root, Debian) installs Slurm")
        return 2
    with MiniSlurm() as slurm:
        print(f"Slurm is up: nodes n1 and n2, all of it on loopback, in {slurm.root}")
        env = slurm.env | {"EDIT_SWEEPS_HOME": str(ROOT), "PYTHONPATH": str(ROOT)}
        os.chdir(ROOT)
        common = ["study=slurm-demo", "cluster=slurm"]
        show("python", "launch.py", "-m", *sweep, *common, "dry_run=true", env=env)
        show("python", "launch.py", "-m", *sweep, *common, env=env)
        show("squeue", env=env)
        code = show("edit-sweeps", "status", "slurm-demo", "--watch", "--every", "2", env=env)
        show("edit-sweeps", "report", "slurm-demo", env=env)
        show("python", "launch.py", "-m", *sweep, *common, env=env)
        if keep:
            print(
                f"\nIn another terminal: export SLURM_CONF={slurm.layout.conf}   then sinfo, squeue,"
            )
            input("or more sweeps with cluster=slurm. Enter stops Slurm. ")
    return code


if __name__ == "__main__":
    sys.exit(main())
