"""A checkout has the version that a build would have, with its commit, whenever it was installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evaluator
from evaluator import version

ROOT = Path(__file__).parent.parent
BUILD_RULE = """
import sys, tomllib
from hatch_vcs.version_source import VCSVersionSource
with open(sys.argv[1], "rb") as file:
    rule = tomllib.load(file)["tool"]["hatch"]["version"]
print(VCSVersionSource(sys.argv[2], rule).get_version_data()["version"])
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of one commit, without a tag."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "SETUPTOOLS_SCM_", "VCS_VERSIONING_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git(tmp_path, "init", "-q", "-b", "main")
    commit(tmp_path, "one")
    return tmp_path


def git(tree, *words):
    author = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
    return subprocess.run(["git", "-C", tree, *author, *words], check=True, capture_output=True, text=True).stdout


def commit(tree, text):
    (tree / "file").write_text(text)
    git(tree, "add", "file")
    git(tree, "commit", "-q", "-m", text)


def built(tree):
    words = [sys.executable, "-W", "ignore", "-c", BUILD_RULE, ROOT / "pyproject.toml", tree]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def node(tree):
    return git(tree, "rev-parse", "HEAD")[:9]


def test_before_the_first_tag_commits_are_counted(repository):
    commit(repository, "two")
    assert version._read_git_version(repository) == built(repository) == f"0.0.1.dev2+g{node(repository)}"


def test_a_tag_is_the_version(repository):
    git(repository, "tag", "v1.4.0")
    assert version._read_git_version(repository) == built(repository) == "1.4.0"


def test_after_a_tag_it_is_a_development_version_of_the_next(repository):
    git(repository, "tag", "v1.4.9")
    commit(repository, "two")
    git(repository, "tag", "nightly-2026.11.26")  # not a version
    assert version._read_git_version(repository) == built(repository) == f"1.4.10.dev1+g{node(repository)}"


@pytest.mark.parametrize("tag", ["v1.4.0", None])
def test_uncommitted_changes_are_in_the_version(repository, tag):
    if tag:
        git(repository, "tag", tag)
    (repository / "file").write_text("changed")
    asked, said_by_build = version._read_git_version(repository), built(repository)
    assert asked.endswith(f"+g{node(repository)}.dirty")
    assert asked.split("+")[0] == said_by_build.split("+")[0]


def test_a_shallow_clone_without_tags_has_a_version(repository, tmp_path_factory):
    git(repository, "tag", "v1.4.0")
    commit(repository, "two")
    clone = tmp_path_factory.mktemp("clone")
    git(clone, "clone", "-q", "--depth=1", "--no-tags", repository.as_uri(), clone)
    assert version._read_git_version(clone) == built(clone) == f"0.0.1.dev1+g{node(clone)}"


def test_another_repository_in_the_environment_is_not_asked(repository, monkeypatch):
    git(repository, "tag", "v1.4.0")
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))
    assert version._read_git_version(repository) == "1.4.0"


def test_without_git_it_is_what_was_installed(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version._read_git_version(tmp_path) is None
    monkeypatch.setattr(version, "TREE", tmp_path)
    assert version.find_version.__wrapped__() == version._read_installed_version()


def test_a_folder_that_was_never_installed_says_so(monkeypatch):
    monkeypatch.setattr(version, "DISTRIBUTION", "never-installed")
    assert version._read_installed_version() == "0.0.0"


def test_a_copied_folder_is_built_without_git(tmp_path):
    assert built(tmp_path) == "0.0.0"


def test_the_package_has_the_version():
    assert evaluator.__version__ == version.find_version()


@pytest.mark.parametrize(
    ("tag", "later", "expected"), [("v1.4.0", False, "1.4.0"), ("v1.4.0", True, "1.4.1.dev1+"), (None, False, "0.0")]
)
def test_an_exported_archive_knows_its_version(repository, tmp_path_factory, tag, later, expected):
    for name in (".gitattributes", ".git_archival.txt"):
        shutil.copy(ROOT / name, repository)
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "archive")
    if tag:
        git(repository, "tag", tag)
    if later:
        commit(repository, "two")
    exported = tmp_path_factory.mktemp("exported")
    git(repository, "archive", "--output", exported / "archive.tar", "HEAD")
    shutil.unpack_archive(exported / "archive.tar", exported)
    assert built(exported).startswith(expected)
