"""What commands that record something are told of the release: its service, versions and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from evaluator.errors import UsageError
from evaluator.records import Release, Service

__all__ = ["parse_labels", "subject_options", "to_release"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--baseline-version", default="", help="Version of the baseline."),
    click.option("--canary-version", default="", help="Version of the candidate."),
    click.option("--label", "labels", metavar="K=V", multiple=True, help="A label of the release; may be repeated."),
)


def subject_options(function: F) -> F:
    """Give a command the options about the release's versions and labels."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def to_release(name: str, service: str, baseline: str, canary: str, labels: Iterable[str]) -> Release:
    """The release that the options speak of. Raises UsageError."""
    services = (Service(service, baseline, canary),) if service or baseline or canary else ()
    return Release(name, services, parse_labels(labels))


def parse_labels(labels: Iterable[str]) -> dict[str, str]:
    """Turn `k=v` texts into a mapping. Raises UsageError."""
    pairs = [label.partition("=") for label in labels]
    for key, equals, value in pairs:
        if not (key and equals):
            raise UsageError(f"--label {key}{equals}{value} is not K=V")
    return {key: value for key, _, value in pairs}
