"""What commands that record something are told of the release: its service, versions and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import click

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
    """What the options say of a release."""

    service: str
    baseline_version: str
    canary_version: str
    labels: tuple[str, ...]

    def to_release(self, name: str, service: str = "") -> Release:
        """Make the release; `service` is its service where the options name none. Raises UsageError."""
        values = (self.service or service, self.baseline_version, self.canary_version)
        return Release(name, (Service(*values),) if any(values) else (), parse_labels(self.labels))


def subject_options(service_help: str) -> Callable[[Command], Command]:
    """Give a command the options about the release; it is passed them as `subject`."""
    return gathered("subject", Subject, click.option("--service", default="", help=service_help), *_OPTIONS)


def parse_labels(labels: tuple[str, ...]) -> dict[str, str]:
    """Turn `k=v` texts into a mapping. Raises UsageError."""
    pairs = [label.partition("=") for label in labels]
    for key, equals, value in pairs:
        if not (key and equals):
            raise UsageError(f"--label {key}{equals}{value} is not K=V")
    return {key: value for key, _, value in pairs}
