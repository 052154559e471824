"""Deploys the sample service to the environments of `evaluator demo rollout`, and tears it down.

    environments.py deploy production canary
    environments.py configure production
    environments.py teardown test
    environments.py replace production s1 1.5.0
    environments.py health production s1 1.5.0

The file `environments.json` next to this program has the environments. A real project has its own programs in this
place; like those, this one may be killed and run again at any time: what runs already is not started twice.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
STOP_S = 5.0
"""How long (s) an instance may take to end before it is killed."""
ANSWER_S = 2.0
"""How long (s) an instance may take to say its version."""


@dataclass(frozen=True)
class Instance:
    """One process of the service."""

    environment: str
    arm: str
    """Whose version it has."""
    name: str
    port: int
    owner: int
    """Id of the process with which it ends."""

    def find_process(self, version: str = "") -> int | None:
        """Find its process by its command line; None if it does not run, or has another version than this one.

        There is no file with the process id: this program may be killed before it has written one.
        """
        wanted = self._name_it() | ({"--version": version} if version else {})
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            except OSError:  # it has just ended, or belongs to another user
                continue
            if wanted.items() <= dict(itertools.pairwise(words)).items():
                return int(folder.name)
        return None

    def _name_it(self) -> dict[str, str]:
        """Options of its command line that no other process has together."""
        return {"--port": str(self.port), "--end-with": str(self.owner)}

    def start(self, settings: dict[str, Any]) -> None:
        """Start it, unless it runs."""
        if self.find_process():
            return
        version = settings["versions"][self.arm]
        regression = settings["environments"][self.environment]["regressions"].get(self.arm, "none")
        options = {"--instance": self.name, "--version": version, "--regression": regression}
        if self.arm in settings.get("buyers", {}):
            options["--buyers"] = str(settings["buyers"][self.arm])
        if settings.get("etcd"):
            options |= {
                "--etcd": settings["etcd"].removeprefix("http://"),
                "--configuration-key": f"/shop/{self.environment}/{self.arm}",
            }
        words = [word for option in (self._name_it() | options).items() for word in option]
        subprocess.Popen(
            [sys.executable, settings["target"], *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End its process, if it runs, and wait for that."""
        pid = self.find_process()
        for number in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + STOP_S
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            while pid and time.monotonic() < until:
                time.sleep(0.02)
                pid = self.find_process()
        if pid:
            sys.exit(f"process {pid} does not end")


def list_instances(settings: dict[str, Any], environment: str, arm: str) -> Iterator[Instance]:
    """List the instances of an arm of an environment; of all arms, if `arm` is empty."""
    for name, ports in settings["environments"][environment]["ports"].items():
        if arm in ("", name):
            for number, port in enumerate(ports, start=1):
                yield Instance(environment, name, f"{name}-{number}", port, settings["end_with"])


def find_instance(settings: dict[str, Any], environment: str, name: str, version: str) -> Instance:
    """Find the instance of a rolling rollout with this name, as it is with a version."""
    ports = settings["environments"][environment]["instances"]
    arms = {known: arm for arm, known in settings["versions"].items()}
    if name not in ports or version not in arms:
        sys.exit(f"no instance {name} with {version}: instances {', '.join(ports)}, versions {', '.join(arms)}")
    return Instance(environment, arms[version], name, ports[name], settings["end_with"])


def replace(settings: dict[str, Any], instance: Instance) -> None:
    """Give an instance its version, unless it has it."""
    if not instance.find_process(settings["versions"][instance.arm]):
        instance.stop()
        instance.start(settings)


def check_health(settings: dict[str, Any], instance: Instance) -> None:
    """End with an error unless the instance answers, with its version: an old process that answers is not healthy."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{instance.port}/health", timeout=ANSWER_S) as answer:
            found = json.load(answer)["version"]
    except (OSError, ValueError, LookupError) as error:
        sys.exit(f"{instance.name} does not answer: {error}")
    wanted = settings["versions"][instance.arm]
    if found != wanted:
        sys.exit(f"{instance.name} has {found}, not {wanted}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Deploys the sample service.")
    parser.add_argument("what", choices=["deploy", "teardown", "configure", "restore", "announce", "replace", "health"])
    parser.add_argument("environment")
    parser.add_argument("arm", nargs="?", default="", help="of replace and health: the instance")
    parser.add_argument("version", nargs="?", default="", help="only of replace and health")
    options = parser.parse_args(arguments)
    settings = json.loads((FOLDER / "environments.json").read_text(encoding="utf-8"))
    configuration = FOLDER / f"{options.environment}.configuration"
    if options.what == "deploy":
        for instance in list_instances(settings, options.environment, options.arm):
            instance.start(settings)
    elif options.what == "teardown":
        for instance in list_instances(settings, options.environment, options.arm):
            instance.stop()
    elif options.what == "replace":
        replace(settings, find_instance(settings, options.environment, options.arm, options.version))
    elif options.what == "health":
        check_health(settings, find_instance(settings, options.environment, options.arm, options.version))
    elif options.what == "configure":
        configuration.write_text(f"version: {settings['versions']['canary']}\n", encoding="utf-8")
    elif options.what == "restore":
        configuration.write_text(f"version: {settings['versions']['baseline']}\n", encoding="utf-8")
    else:
        with (FOLDER / "announcements.txt").open("a", encoding="utf-8") as announcements:
            announcements.write(f"{options.environment}\n")
    line = f"{time.time():.3f} {options.what} {options.environment} {options.arm} {options.version}".strip()
    with (FOLDER / "acts.log").open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")
    print(line)


if __name__ == "__main__":
    main()
