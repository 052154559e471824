"""The version of the running code: of an installed package the built version, of a checkout the version from git.

Both follow the rule of `[tool.hatch.version]` in pyproject.toml. The built version of an editable install is outdated
after the next commit: a verdict would name code that did not produce it. So git is asked. `git describe` takes a few
milliseconds and is run only when the version is needed; `evaluator --help` does not need it.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

DISTRIBUTION = "release-evaluator"
TREE = Path(__file__).parent.parent
BEFORE_ALL_TAGS = "0.0.0"
_DESCRIBED = re.compile(r"v(?P<tag>\d+\.\d+\.\d+)-(?P<distance>\d+)-g(?P<node>[0-9a-f]+)(?P<dirty>-dirty)?")


@functools.cache
def find_version() -> str:
    """Find the version of the code that runs, such as `1.4.0`, or `1.4.1.dev3+g0a1b2c3d4` three commits after that."""
    return (_ask_git(TREE) if (TREE / ".git").exists() else None) or _ask_metadata()


def _ask_metadata() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # a copied folder on PYTHONPATH
        return BEFORE_ALL_TAGS


def _ask_git(tree: Path) -> str | None:
    """Return the version of a checkout, or `None` where git is missing or fails."""
    # GIT_DIR in the environment, as within a hook of git, means another repository.
    git = functools.partial(run_git, "--no-optional-locks", f"--git-dir={tree / '.git'}", f"--work-tree={tree}")
    described = git("describe", "--dirty", "--tags", "--long", "--abbrev=40", "--match", "v[0-9]*.[0-9]*.[0-9]*")
    if described is None:  # no tag, or a shallow clone that does not reach one
        count, node = git("rev-list", "--count", "HEAD"), git("rev-parse", "HEAD")
        dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        described = f"v{BEFORE_ALL_TAGS}-{count}-g{node}{dirty}"
    match = _DESCRIBED.fullmatch(described)
    return _to_version(**match.groupdict()) if match else None


def _to_version(tag: str, distance: str, node: str, dirty: str | None) -> str:
    """Write the tag itself, or a development version of the next one."""
    if distance == "0" and not dirty:
        return tag
    major, minor, patch = tag.split(".")
    return f"{major}.{minor}.{int(patch) + 1}.dev{distance}+g{node[:9]}{'.dirty' if dirty else ''}"


def run_git(*words: str, folder: Path | None = None) -> str | None:
    """Run git, in `folder` if given, and return its output; `None` where git is missing, fails or takes over 10 s."""
    import subprocess

    command = ["git", *words]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
