"""What is published builds, installs and works in a clean environment with only what it declares."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

OUTSIDE = '''
"""What another project might write."""

from collections.abc import Mapping

import evaluator
from evaluator.api import ReleaseJudgement
from evaluator.hooks import BaseHook, HookContext, HookOptions, Outcome
from evaluator.sources.locust import Recorder


class BellOptions(HookOptions):
    times: int = 1


class Bell(BaseHook[BellOptions]):
    kind = "bell"
    Options = BellOptions

    def _describe(self, words: Mapping[str, str]) -> str:
        return f"ring {self.options.times} times"

    def _execute(self, context: HookContext) -> Outcome:
        return Outcome("acknowledged", f"rang for {context.release}")


def judge(path: str) -> Mapping[str, str]:
    release = evaluator.open(path).release("cart@1.5.0")
    judged: ReleaseJudgement = release.compare(endpoints=["POST /checkout"], alpha=0.01)
    return {release.name: judged.word, "by": evaluator.__version__}


def record() -> Recorder:
    return evaluator.Recorder(release="cart@1.5.0", arm="canary")


reveal_type(evaluator.open)
reveal_type(evaluator.Recorder)
'''

WRONG = """
import evaluator

evaluator.open("evaluator.duckdb").release(150)
"""

IMPORTS = """
import importlib, pkgutil, evaluator

for found in pkgutil.walk_packages(evaluator.__path__, "evaluator.", onerror=lambda name: None):
    if "starter" not in found.name and "loadtests" not in found.name and not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            print(error.name.partition(".")[0])
"""


def execute(*words: str | Path, cwd: Path, code: int = 0) -> str:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source archive, and a wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    execute(
        BIN / "uv", "build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, ROOT,
        cwd=folder,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def source(built: Path) -> set[str]:
    """The files of the source archive."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """The files of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path, names: set[str]) -> Message:
    (name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and what it declares, in the versions of the lock."""
    folder = tmp_path_factory.mktemp("clean")
    execute(BIN / "uv", "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    lock = ROOT / "requirements-dev.lock"
    execute(BIN / "uv", "pip", "install", "--quiet", "--python", python, "--constraint", lock, wheel, cwd=folder)
    return python.parent


# ------------------------------------------------------------------ what is in it


def test_the_source_archive_holds_what_is_versioned_and_nothing_that_is_ignored(source, tmp_path):
    git_dir = ROOT / ".git"
    if not git_dir.exists():  # in an unpacked source archive, where all is what another git has not seen
        git_dir = tmp_path / ".git"
        execute("git", "init", "--quiet", "--bare", git_dir, cwd=tmp_path)
    ask = ("git", f"--git-dir={git_dir}", f"--work-tree={ROOT}", "ls-files", "--exclude-standard")
    versioned = {name for name in execute(*ask, "--cached", cwd=ROOT).splitlines() if (ROOT / name).is_file()}
    new = set(execute(*ask, "--others", cwd=ROOT).splitlines())
    assert versioned <= source
    assert source <= versioned | new | {"PKG-INFO"}


def test_the_wheel_holds_the_package_whole(names):
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "evaluator").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    loadtests = {f"evaluator/loadtests/{path.name}" for path in (ROOT / "loadtests").iterdir() if path.is_file()}
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == package | loadtests | {"evaluator/starter/app.py"}
    assert {
        "evaluator/py.typed",
        "evaluator/schemas/policy.schema.json",
        "evaluator/schemas/verdict.schema.json",
        "evaluator/starter/evaluator.yaml",
        "evaluator/starter/locustfile.py.template",
    } <= package


def test_the_licence_is_named_and_enclosed(metadata, names):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_pythons_that_are_named_are_those_that_are_taken(metadata):
    said = {text.rpartition(" ")[2] for text in metadata.get_all("Classifier") if " 3." in text}
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    assert said == {"3.11", "3.12", "3.13"}


# ------------------------------------------------------------------ what it does where it is installed


def test_it_says_what_it_is(clean, metadata, tmp_path):
    assert execute(clean / "evaluator", "--help", cwd=tmp_path).startswith("Usage: evaluator")
    assert execute(clean / "evaluator", "--version", cwd=tmp_path) == f"evaluator {metadata['Version']}\n"


def test_it_starts_a_policy_and_checks_it(clean, tmp_path):
    execute(clean / "evaluator", "init", cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluator.yaml", "locustfile.py"}
    assert "evaluator.yaml" in execute(clean / "evaluator", "policy", "check", cwd=tmp_path)


def test_it_judges(clean, tmp_path):
    """With nothing but numbers and a store: the whole way from files to an answer."""
    rows = [f"{1764000000 + k / 10},/,{30 + k % 7},{i},false" for k in range(300) for i in "12"]
    for name in ("old", "new"):
        text = "\n".join(["ts,endpoint,response_time_ms,instance,failed", *rows])
        (tmp_path / f"{name}.csv").write_text(text + "\n")
    words = ("import", "cart@1.5.0", "--baseline", "old.csv", "--canary", "new.csv")
    execute(clean / "evaluator", *words, cwd=tmp_path)
    assert "INCONCLUSIVE" in execute(clean / "evaluator", "verdict", "cart@1.5.0", cwd=tmp_path, code=3)


def test_its_front_door_opens(clean, tmp_path):
    code = "import evaluator, evaluator.hooks; print(evaluator.__version__, *evaluator.hooks.HOOKS)"
    said = execute(clean / "python", "-c", code, cwd=tmp_path).split()
    assert {"webhook", "kubernetes"} <= set(said[1:])


def test_what_a_module_misses_is_an_extra(clean, tmp_path):
    (tmp_path / "imports.py").write_text(IMPORTS)
    missing = set(execute(clean / "python", "imports.py", cwd=tmp_path).split())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {Requirement(text).name for texts in extras.values() for text in texts}
    assert "streamlit" in missing
    assert missing <= named | {"gevent"}  # which comes with Locust


def test_it_type_checks_from_outside(clean, tmp_path):
    (tmp_path / "outside.py").write_text(OUTSIDE)
    (tmp_path / "wrong.py").write_text(WRONG)
    check = (BIN / "mypy", "--strict", "--no-incremental", "--python-executable", clean / "python")
    said = execute(*check, "outside.py", "wrong.py", cwd=tmp_path, code=1)
    assert 'Revealed type is "def (path: str | pathlib.Path =) -> evaluator.api.releases.Snapshot"' in said, said
    assert "evaluator.sources.locust.recorder.Recorder" in said
    assert said.count("error:") == 1, said
    assert 'wrong.py:4: error: Argument 1 to "release" of "Snapshot" has incompatible type "int"' in said
