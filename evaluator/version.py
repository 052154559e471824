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
    is_checkout = (TREE / ".git").exists()
    version_from_git = _read_git_version(TREE) if is_checkout else None
    return version_from_git or _read_installed_version()


def _read_installed_version() -> str:
    """Return the version of the installed package; 0.0.0 if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # such as a copied folder on PYTHONPATH
        return BEFORE_ALL_TAGS


def _read_git_version(tree: Path) -> str | None:
    """Return the version of the checkout in the folder `tree`; `None` if git is missing or fails."""
    # The repository is given by name: GIT_DIR in the environment, as within a hook of git, may name another.
    git = functools.partial(run_git, "--no-optional-locks", f"--git-dir={tree / '.git'}", f"--work-tree={tree}")
    described = git("describe", "--dirty", "--tags", "--long", "--abbrev=40", "--match", "v[0-9]*.[0-9]*.[0-9]*")
    if described is None:  # no tag, or a shallow clone that does not reach any
        commit_count = git("rev-list", "--count", "HEAD")
        commit = git("rev-parse", "HEAD")
        dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        described = f"v{BEFORE_ALL_TAGS}-{commit_count}-g{commit}{dirty}"
    match = _DESCRIBED.fullmatch(described)  # no match if git failed: `None` is in the text then
    return _write_version(**match.groupdict()) if match else None


def _write_version(tag: str, distance: str, node: str, dirty: str | None) -> str:
    """Write the version, by the scheme of pyproject.toml: the tag itself, or a development version of the next release.

    `distance`: number of commits after the tag, as text. `node`: hash of the commit. `dirty`: not empty if files were
    changed after the commit.
    """
    if distance == "0" and not dirty:
        return tag
    major, minor, patch = tag.split(".")
    return f"{major}.{minor}.{int(patch) + 1}.dev{distance}+g{node[:9]}{'.dirty' if dirty else ''}"


def run_git(*words: str, folder: Path | None = None) -> str | None:
    """Run git, in `folder` if given, and return its output; `None` if git is missing, fails or takes over 10 s."""
    import subprocess

    command = ["git", *words]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
