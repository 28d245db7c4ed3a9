"""The code of a submission and of its jobs: what differs, and copies that cannot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edit_sweeps.provenance import GIT_FILE, code_digest, git_version

PACKAGE = Path(__file__).parent.parent


def differences(submitted: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of `provenance.code_identity` is another now, in words; empty when results can be trusted to agree."""
    told = []
    if submitted["digest"] != now["digest"]:
        told.append(f"the package's source was {submitted['git'] or submitted['digest']} when the cells were submitted "
                    f"and is {now['git'] or now['digest']} now")  # fmt: skip
    for name, version in submitted["versions"].items():
        found = now["versions"].get(name, "")
        if found != version:
            told.append(f"{name} was {version or 'absent'} and is {found or 'absent'}")
    return told


def snapshot(study: Path) -> Path:
    """Copy the package into the study, once for each state of its source.

    Returns:
        The folder to import it from.
    """
    folder = study / "code" / code_digest()
    if not folder.exists():
        aside = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(
            PACKAGE, aside / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
        (aside / GIT_FILE).write_text(git_version(), encoding="utf-8")
        try:
            aside.rename(folder)
        except OSError:  # another submission copied the same first
            shutil.rmtree(aside)
    return folder.absolute()
