"""Options of a load through a router, which chooses the arm of each request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import click

from evaluator.errors import UnknownName, UsageError
from evaluator.records import BASELINE, CANDIDATE

ROUTER_OPTIONS = (
    click.option(
        "--router",
        metavar="URL",
        default="",
        help="A router in front of all arms, in place of --baseline and --canary; its answers name the arm.",
    ),
    click.option(
        "--arm-header",
        metavar="NAME",
        default="",
        help="Header of the router's answers that names the arm.  [default: the policy's, X-Arm]",
    ),
    click.option(
        "--arm-value",
        "arm_values",
        metavar="ARM=PATTERN",
        multiple=True,
        help="Values of this header: canary='c*'; may be repeated.  [default: names and versions of the arms]",
    ),
    click.option("--no-retries", is_flag=True, help="The router never tries a request a second time."),
)


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Values of these options."""

    router: str = ""
    arm_header: str = ""
    arm_values: tuple[str, ...] = ()
    """Texts ARM=PATTERN."""
    no_retries: bool = False

    def check(self, *, has_arms: bool, has_shares: bool) -> None:
        """Refuse options that do not fit together, before anything is loaded. Raises UsageError.

        `has_arms`: arms have addresses of their own. `has_shares`: there are shares of a router.
        """
        if self.router:
            if has_arms:
                raise UsageError(
                    "--router excludes --baseline, --canary and --arm",
                    hint="give the address of the router alone; it sends the requests to the arms",
                )
            return
        options = {
            "--arm-header": bool(self.arm_header),
            "--arm-value": bool(self.arm_values),
            "--no-retries": self.no_retries,
            "--share": has_shares,
        }
        if unused := [name for name, is_given in options.items() if is_given]:
            raise UsageError(f"{' and '.join(unused)} without --router URL")
        if not has_arms:
            raise UsageError(
                "it is not known where the release runs",
                hint="give --baseline URL and --canary URL, or --router URL of a router in front of both",
            )

    def find_patterns(self, versions: Mapping[str, str], shares: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
        """Find the values of the header of each arm: those of `--arm-value`, else its name and its version.

        `versions`: arm → its version, empty if it is not known. `shares`: arm → share of the requests. Raises
        UsageError, and UnknownName for a share of an arm that has no value.
        """
        from evaluator.sources.arm_header import parse_arm_values

        patterns = parse_arm_values(self.arm_values, "--arm-value")
        if not patterns:
            arms = tuple(dict.fromkeys((BASELINE, CANDIDATE, *shares)))
            are_distinct = versions.get(BASELINE) != versions.get(CANDIDATE)
            known = {arm: version for arm, version in versions.items() if version and are_distinct}
            patterns = {arm: tuple(dict.fromkeys((arm, known.get(arm) or arm))) for arm in arms}
        for arm in shares:
            if arm not in patterns:
                raise UnknownName("arm", arm, list(patterns))
        return patterns
