"""What makes two runs comparable: the same load from the same machine with the same files."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["describe_environment", "hash_files", "read_git_revision"]

_GIT_TIMEOUT_S = 5.0


def describe_environment(files: Iterable[Path]) -> dict[str, Any]:
    """Describe the machine and the files of a load: hash, revision, host, cores."""
    paths = tuple(files)
    folder = paths[0].parent if paths else Path()
    return {
        "locustfile": hash_files(paths),
        "git": read_git_revision(folder),
        "host": platform.node(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def hash_files(paths: Iterable[Path]) -> str:
    """Hash the contents of files in their order; a file that cannot be read counts as its name."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError:
            digest.update(str(path).encode())
    return f"sha256:{digest.hexdigest()}"


def read_git_revision(folder: Path) -> str | None:
    """Read the revision of the working tree, with `+` where tracked files were changed; None outside of one."""
    revision = _git(folder, "rev-parse", "HEAD")
    if not revision:
        return None
    return revision + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    try:
        done = subprocess.run(
            [git, *arguments], cwd=folder, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
