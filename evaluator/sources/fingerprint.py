"""What makes two runs comparable: the same load from the same machine with the same files."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluator.version import run_git


def describe_environment(files: Iterable[Path]) -> dict[str, Any]:
    """Describe the locustfiles of a load (their hash and git revision) and this machine (host, cores, Python)."""
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
    """Hash the contents of files in their order; of a file that cannot be read, its name is hashed instead."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError:
            digest.update(str(path).encode())
    return f"sha256:{digest.hexdigest()}"


def read_git_revision(folder: Path) -> str | None:
    """Read the revision of the working tree, with `+` where tracked files were changed; None outside of one."""
    revision = run_git("rev-parse", "HEAD", folder=folder)
    if not revision:
        return None
    return revision + ("+" if run_git("status", "--porcelain", "--untracked-files=no", folder=folder) else "")
