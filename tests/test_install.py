"""What `.ci/install` and `.ci/install-servers` say on machines that lack something.

The machines are folders of commands, where nothing is really installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent

# This interpreter with another version or without ensurepip. The environments that it makes have a pip that knows some
# packages only, and what that installs does not work.
PYTHON = """#!{python}
import pathlib, shutil, sys
version = {version}
sys.version_info = version
sys.modules["ensurepip"] = {ensurepip}
if sys.argv[1] == "--version":
    print("Python", ".".join(map(str, version)))
elif sys.argv[1] == "-c":
    exec(sys.argv[2])
elif sys.argv[2] == "venv":
    made = pathlib.Path(sys.argv[-1], "bin")
    made.mkdir(parents=True)
    shutil.copy(__file__, made / "python")
elif sys.argv[-1] in {known}:
    tool = pathlib.Path(__file__).with_name(sys.argv[-1])
    tool.write_text("#!/bin/sh\\necho " + tool.name + ": no certificate >&2\\nexit 2\\n")
    tool.chmod(0o755)
else:
    sys.exit("pip: no " + sys.argv[-1])
"""


class Machine:
    """A folder of commands, and a working tree with `.ci/install` in it."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.tree = folder / "bin", folder / "tree"
        self.bin.mkdir()
        (self.tree / ".ci").mkdir(parents=True)
        for name in ("install", "install-servers"):
            shutil.copy(ROOT / ".ci" / name, self.tree / ".ci")
        self.add("dirname", f'#!/bin/sh\nexec {shutil.which("dirname")} "$@"\n')

    def add(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def add_python(self, version: tuple[int, int, int], *, ensurepip: bool = True, known: tuple[str, ...] = ()) -> None:
        module = "sys" if ensurepip else None
        self.add("python3", PYTHON.format(python=sys.executable, version=version, ensurepip=module, known=known))

    def add_apt(self, *, user: int, then: str) -> None:
        self.add("id", f"#!/bin/sh\necho {user}\n")
        self.add("apt-get", f'#!/bin/sh\necho "$@" >> "{self.bin}/apt.log"\n{then}\n')

    def add_packages(self, wanted: str, *, installed: str) -> None:
        (self.tree / ".ci" / "debian-packages").write_text(wanted)
        self.add("dpkg-query", f'#!/bin/sh\n[ "$3" = "{installed}" ] && echo installed\n')

    def install(self, script: str = "install", *, code: int = 1) -> str:
        """Run a script, in vain unless `code` says otherwise, and give what it said."""
        command = [shutil.which("bash") or "bash", self.tree / ".ci" / script]
        done = subprocess.run(
            command,
            env={"PATH": str(self.bin)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done
        assert done.stdout == ""
        return done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_no_python(machine: Machine) -> None:
    assert machine.install() == (
        "install: Python 3.11, 3.12 or 3.13 is needed, and python3 is not there; "
        "on Debian 12 or 13, as root: apt-get install python3 python3-venv\n"
    )


@pytest.mark.parametrize("version", [(3, 10, 12), (3, 14, 0)])
def test_python_of_another_version_is_named(machine: Machine, version: tuple[int, int, int]) -> None:
    machine.add_python(version)
    assert f" is needed, and python3 is Python {version[0]}.{version[1]}.{version[2]}; on " in machine.install()


def test_no_ensurepip_and_no_apt(machine: Machine) -> None:
    machine.add_python((3, 11, 2), ensurepip=False)
    assert machine.install() == (
        "install: python3 lacks the module ensurepip, and there is no apt-get to install it with; "
        "install what Debian calls python3.11-venv\n"
    )


def test_no_ensurepip_and_not_root(machine: Machine) -> None:
    machine.add_python((3, 13, 5), ensurepip=False)
    machine.add_apt(user=1000, then="exit 0")
    assert machine.install() == (
        "install: python3 lacks the module ensurepip; as root: apt-get update && apt-get install python3.13-venv\n"
    )
    assert not (machine.bin / "apt.log").exists()


def test_apt_that_fails_is_left_to_say_why(machine: Machine) -> None:
    machine.add_python((3, 11, 2), ensurepip=False)
    machine.add_apt(user=0, then='[ "$1" = update ] && exit 0; echo "E: Unable to locate" >&2; exit 100')
    assert machine.install() == (
        "install: python3 lacks the module ensurepip: installing python3.11-venv\n"
        "E: Unable to locate\n"
        "install: apt-get could not install python3.11-venv and says why above\n"
    )


def test_root_gets_the_package_and_pip_is_left_to_say_why_it_fails(machine: Machine) -> None:
    machine.add_python((3, 11, 2), ensurepip=False)
    machine.add_apt(user=0, then="echo chatter")
    said = machine.install().splitlines()
    calls = (machine.bin / "apt.log").read_text().splitlines()
    assert calls[0].split()[0] == "update"
    assert calls[1].split()[0] == "install"
    assert calls[1].split()[-1] == "python3.11-venv"
    assert said[0] == "install: python3 lacks the module ensurepip: installing python3.11-venv"
    assert said[1] == "pip: no uv"
    assert said[2].startswith("install: pip could not install uv and says why above; ")
    assert len(said) == 3


def test_pip_tries_where_uv_fails(machine: Machine) -> None:
    machine.add_python((3, 12, 1), known=("uv",))
    said = machine.install().splitlines()
    assert said[0] == "uv: no certificate"
    assert said[1].startswith("install: uv could not install the packages and says why above; trying with pip")
    assert said[2] == "pip: no requirements-dev.lock"
    assert said[3].startswith(
        "install: pip could not install --require-hashes --requirement requirements-dev.lock and says why above; "
    )
    assert len(said) == 4


def requirements() -> list[Requirement]:
    """All that development needs: what the project declares, its extras, and the group `dev`."""
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = said["project"]["optional-dependencies"].values()
    texts = [*said["project"]["dependencies"], *said["dependency-groups"]["dev"], *said["build-system"]["requires"]]
    found = [Requirement(text) for text in [*texts, *(text for extra in extras for text in extra)]]
    return [one for one in found if one.name != said["project"]["name"]]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_has_what_is_asked_for(python: str) -> None:
    lock = (ROOT / "requirements-dev.lock").read_text()
    asked = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    locked: dict[str, list[str]] = {}
    for line in re.findall(r"^[\w.-]+==[^\\\n]+", lock, re.MULTILINE):
        pin = Requirement(line.strip())
        if pin.marker is None or pin.marker.evaluate(asked):
            locked.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    assert all(len(versions) == 1 for versions in locked.values())
    for wanted in requirements():
        (version,) = locked[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{wanted}: {version} is locked; run: make lock"


def test_the_lock_is_of_no_index_and_each_file_has_its_hash() -> None:
    lock = (ROOT / "requirements-dev.lock").read_text()
    assert "://" not in lock
    assert "index-url" not in lock
    pins = [part for part in re.split(r"\n(?=\S)", lock) if "==" in part]
    assert len(pins) > 100
    assert all("--hash=sha256:" in pin for pin in pins)


def test_servers_that_are_there_are_not_installed_again(machine: Machine) -> None:
    machine.add_packages("# servers\n\nnginx\n", installed="nginx")
    machine.add_apt(user=0, then="exit 0")
    assert machine.install("install-servers", code=0) == ""
    assert not (machine.bin / "apt.log").exists()


def test_root_gets_the_servers_that_are_missing(machine: Machine) -> None:
    machine.add_packages("nginx\nprometheus\n", installed="nginx")
    machine.add_apt(user=0, then="echo chatter")
    assert machine.install("install-servers", code=0) == "install-servers: installing prometheus\n"
    assert (machine.bin / "apt.log").read_text().splitlines()[1].split()[-1] == "prometheus"


def test_servers_without_root_or_apt(machine: Machine) -> None:
    machine.add_packages("nginx\nprometheus\n", installed="nginx")
    assert machine.install("install-servers") == (
        "install-servers: tests need what Debian calls prometheus, and there is no apt-get to install it with\n"
    )
    machine.add_apt(user=1000, then="exit 0")
    assert machine.install("install-servers") == (
        "install-servers: tests need more packages; as root: "
        "apt-get update && apt-get install --no-install-recommends prometheus\n"
    )
