"""Options of commands that read the access log of a router."""

from __future__ import annotations

from dataclasses import dataclass

import click

from evaluator.errors import UsageError


@dataclass(frozen=True, slots=True)
class AccessLogs:
    """Values of the options that give access logs to import."""

    access_log: tuple[str, ...]
    access_log_glob: tuple[str, ...]
    log_format: str
    arm_server: tuple[str, ...]
    """Texts ARM=PATTERN."""
    arm_from: str

    def has_files(self) -> bool:
        """Is there an access log? Raises UsageError for options of one without it."""
        if self.access_log or self.access_log_glob:
            return True
        options = {
            "--log-format": self.log_format,
            "--arm-server": self.arm_server,
            "--arm-from": self.arm_from,
        }
        unused = [name for name, value in options.items() if value]
        if unused:
            raise UsageError(f"{' and '.join(unused)} without --access-log FILE")
        return False


LOG_FORMAT = click.option(
    "--log-format", default="", metavar="TEXT", help="Format of the lines, as the router's configuration has it."
)
ARM_SERVER = click.option(
    "--arm-server",
    metavar="ARM=PATTERN",
    multiple=True,
    help="Names of the servers of an arm: canary='c*'; may be repeated.  [default: those of the policy]",
)
ARM_FROM = click.option(
    "--arm-from",
    default="",
    metavar="FIELD",
    help="Whose names these are: server, backend, or a field of the lines.  [default: as in the policy, or server]",
)

ACCESS_LOG_OPTIONS = (
    click.option(
        "--access-log",
        metavar="FILE",
        multiple=True,
        help="Access log of a router, with the requests of all arms; may be repeated.",
    ),
    click.option("--access-log-glob", metavar="PATTERN", multiple=True, help="The same, in all files that match."),
    LOG_FORMAT,
    ARM_SERVER,
    ARM_FROM,
)
