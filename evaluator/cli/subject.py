"""Options of commands that record a release: its service, versions and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from evaluator.cli import Session
from evaluator.cli.gathering import Command, gathered
from evaluator.errors import UsageError
from evaluator.records import Release, Service, check_whose_versions
from evaluator.wording import quote_command

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
        """Make the release `name` from these options; if it is stored and gains a service, show a message.

        `service`: the service of the release if the options name none; empty: it is not known. Raises UsageError for a
        bad label, and for versions without a service if the stored release has several.
        """
        service = self.service or service
        stored = session.find_release(name)
        stored_services = [known.name for known in stored.services if known.name] if stored else []
        if stored and service and service not in stored_services:
            message = f"{name} is a release of {' and '.join([*stored_services, service])} from now on"
            if stored_services:
                set_alone = f"{quote_command('data', 'service', name)} NAME"
                message += f", released together; to set one alone: `{set_alone}`"
            session.say(message)
        has_service = service or self.baseline_version or self.canary_version
        services = (Service(service, self.baseline_version, self.canary_version),) if has_service else ()
        release = Release(name, services, parse_labels(self.labels))
        if stored:
            try:
                check_whose_versions(stored, release)
            except UsageError as error:
                raise UsageError(error.message, hint=_advise_service(session, stored_services)) from None
        return release


def _advise_service(session: Session, services: Sequence[str]) -> str:
    """Write the command that was typed with `--service`, and the first of the services as its value."""
    name = click.get_current_context().info_name or ""
    position = session.typed.index(name) + 1
    options = session.typed[position:]  # before them: those of every command, which all printed commands repeat
    command = quote_command(name, "--service", services[0], *options)
    others = " or ".join(services[1:])
    return f"if they are those of {services[0]}: `{command}`; likewise for {others}, in a command of its own"


def service_option(text: str) -> Callable[[Any], Any]:
    """Return the option `--service`, with `text` as its help. Its value is a name; empty if it is not given.

    It may be repeated only so that a repetition can be refused: click would silently take the last value.
    """

    def take_single(_ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> str:
        """Return the value of the option; empty if it is not given. Raises UsageError if it is repeated."""
        if len(names) > 1:
            raise UsageError(
                "--service is given more than once", hint="give one service; `evaluator data service` sets several"
            )
        return names[0] if names else ""

    return click.option("--service", multiple=True, callback=take_single, help=text)


def subject_options(service_help: str) -> Callable[[Command], Command]:
    """Return a decorator for the options about the release; the command receives them as `subject`."""
    return gathered("subject", Subject, service_option(service_help), *_OPTIONS)


def parse_labels(labels: tuple[str, ...]) -> dict[str, str]:
    """Turn texts `K=V` into a mapping. Raises UsageError for any other text."""
    value_of: dict[str, str] = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not (key and equals):
            raise UsageError(f"--label {label} is not K=V")
        value_of[key] = value
    return value_of
