"""Options of commands that record a release: its service, versions and labels."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from evaluator.cli import Session
from evaluator.cli.gathering import Command, gathered
from evaluator.errors import UsageError
from evaluator.records import Release, Service

_OPTIONS = (
    click.option("--baseline-version", default="", help="Version of the baseline."),
    click.option("--canary-version", default="", help="Version of the candidate."),
    click.option("--label", "labels", metavar="K=V", multiple=True, help="A label of the release; may be repeated."),
)


@dataclass(frozen=True, slots=True)
class Subject:
    """The values of these options."""

    service: str
    baseline_version: str
    canary_version: str
    labels: tuple[str, ...]

    def to_release(self, session: Session, name: str, service: str = "") -> Release:
        """Make the release, and show a message if a stored one gains a service. Raises UsageError.

        `service`: its service if the options name none.
        """
        service = self.service or service
        values = (service, self.baseline_version, self.canary_version)
        stored = session.find_release(name)
        stored_services = (
            [stored_service.name for stored_service in stored.services if stored_service.name] if stored else []
        )
        if stored and service and service not in stored_services:
            message = f"{name} is a release of {' and '.join([*stored_services, service])} from now on"
            alone = f"evaluator data service {shlex.quote(name)} NAME"
            session.say(f"{message}, released together; to set one alone: `{alone}`" if stored_services else message)
        return Release(name, (Service(*values),) if any(values) else (), parse_labels(self.labels))


def service_option(text: str) -> Callable[[Any], Any]:
    """Return the option for the one service of a command."""

    def only(_ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> str:
        if len(names) > 1:
            raise UsageError(
                "--service is given more than once", hint="give one service; `evaluator data service` sets several"
            )
        return "".join(names)

    return click.option("--service", multiple=True, callback=only, help=text)


def subject_options(service_help: str) -> Callable[[Command], Command]:
    """Return a decorator for the options about the release; the command receives them as `subject`."""
    return gathered("subject", Subject, service_option(service_help), *_OPTIONS)


def parse_labels(labels: tuple[str, ...]) -> dict[str, str]:
    """Turn `k=v` texts into a mapping. Raises UsageError."""
    pairs = [label.partition("=") for label in labels]
    for key, equals, value in pairs:
        if not (key and equals):
            raise UsageError(f"--label {key}{equals}{value} is not K=V")
    return {key: value for key, _, value in pairs}
