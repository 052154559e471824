"""The arm of a request that went through a router: a header of its answer names the server, or the arm itself.

Answers without the header are the router's own. A router may have tried other servers before: nginx lists them all in
the header (`$upstream_addr`), other routers give their number in a header of its own (`X-Retries`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluator.errors import UsageError
from evaluator.records import (
    BASELINE,
    CANDIDATE,
    LogOptions,
    RouterFacts,
    add_router_facts,
    check_log_options,
    check_name,
)

DEFAULT_ARM_HEADER = "X-Arm"

RETRIES_HEADER = "X-Retries"
"""How often the router tried again, as HAProxy's `%rc` says it: a leading `+`: at last at another server."""

ATTEMPTS_HEADER = "X-Envoy-Attempt-Count"
"""How often Envoy tried, the first time included."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Pattern of the name of a header, as RFC 9110 allows it."""

CONFIGURATION = (
    "HAProxy: `http-after-response set-header {header} %[srv_name]` and `http-after-response set-header "
    f"{RETRIES_HEADER} %rc`; nginx: `add_header {{header}} $upstream_addr always;`"
)
"""Lines that make routers name the server; `{header}` is the name of the header."""

_ADDRESS = re.compile(r"(.*:\d+|unix:.*)")
"""Pattern of an address, as nginx names servers: it lists all that it has tried."""


@dataclass(frozen=True, slots=True)
class Route:
    """What the headers of an answer say of the way of its request."""

    arm: str = ""
    """Empty: no server of an arm has answered."""
    server: str = ""
    """The one that answered, as the header names it; empty: none did."""
    failed: tuple[tuple[str, str], ...] = ()
    """Arm and server of each attempt that failed before."""
    failed_unknown: int = 0
    """Such attempts of which the headers do not name the arm."""
    shows_retries: bool = False
    """Would the headers show that another server was tried before?"""


@dataclass(frozen=True, slots=True)
class ArmHeader:
    """The header that names the arm of a request, and how its values are read."""

    name: str = DEFAULT_ARM_HEADER
    patterns: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {BASELINE: (BASELINE,), CANDIDATE: (CANDIDATE,)}
    )
    """Arm → patterns (`*`, `?`) of the values that are its, the baseline first."""
    no_retries: bool = False
    """Does the router never try a second time? Then no header has to show it."""

    def describe(self) -> dict[str, Any]:
        """Describe it for the fingerprint of a run."""
        return {"arm_header": self.name, "arm_values": {arm: list(of_arm) for arm, of_arm in self.patterns.items()}}

    def find_arm(self, value: str) -> str:
        """Find the arm of one value; empty if it belongs to none."""
        return next((arm for arm, patterns in self.patterns.items() if any(_matches(value, p) for p in patterns)), "")

    def read_route(self, value: Any, retries: Any = None, attempts: Any = None) -> Route:
        """Read the values of the arm's header, of `X-Retries` and of `X-Envoy-Attempt-Count`; None: there is none.

        nginx separates servers by a comma, and groups of servers, after a redirect inside of it, by a colon. The last
        server of a group gave its answer.
        """
        groups = [[part.strip() for part in group.split(",")] for group in _join(value).split(" : ")]
        server = groups[-1][-1]
        failed = [(self.find_arm(tried), tried) for group in groups for tried in group[:-1]]
        counted, moved = _count_retries(_join(retries), _join(attempts))
        arm = self.find_arm(server) if server else ""
        if counted and not moved and arm:  # all attempts were at the server that answered
            failed += [(arm, server)] * counted
        unknown = (counted or 0) if moved or not arm else 0
        unknown += sum(not tried_arm for tried_arm, _ in failed)
        return Route(
            arm,
            server,
            tuple((tried_arm, tried) for tried_arm, tried in failed if tried_arm),
            unknown,
            shows_retries=self.no_retries or counted is not None or bool(failed) or bool(_ADDRESS.fullmatch(server)),
        )


def _join(value: Any) -> str:
    """The value of a header as one text; empty if there is none. A header that is set twice has a list of values."""
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in value)
    return "" if value is None else str(value).strip()


def _matches(value: str, pattern: str) -> bool:
    """Does a pattern with `*` (any text) and `?` (any character) match the whole value?"""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, value, re.DOTALL) is not None


def _count_retries(retries: str, attempts: str) -> tuple[int | None, bool]:
    """Read how often the router tried again, and whether it may have changed to another server; None: it is not said.

    `retries`: a number, with a leading `+` if the server was changed. `attempts`: the number of all attempts.
    """
    if re.fullmatch(r"\+?\d{1,3}", retries):
        return int(retries), retries.startswith("+")
    if re.fullmatch(r"\d{1,3}", attempts):
        return max(int(attempts) - 1, 0), True
    return None, False


class RouterCounts:
    """What the router did by itself, added up over the answers of one process."""

    def __init__(self) -> None:
        self.facts = RouterFacts()

    def begin(self) -> None:
        """Count from 0, because a run begins."""
        self.facts = RouterFacts()

    def count(self, routes: Iterable[Route], failed: Iterable[bool]) -> None:
        """Count requests by their routes; `failed`: for each, whether it failed."""
        answers, failed_answers, without_server, failures, unknown, retries_hidden = 0, 0, 0, 0, 0, False
        others, retried = Counter[str](), Counter[str]()
        for route, has_failed in zip(routes, failed, strict=True):
            answers += 1
            failed_answers += bool(has_failed)
            unknown += route.failed_unknown
            retried.update(arm for arm, _ in route.failed)
            if not route.server:
                without_server += 1
                failures += bool(has_failed)
            elif not route.arm:
                others[route.server] += 1
            elif not route.shows_retries:
                retries_hidden = True
        added = RouterFacts(
            answers=answers,
            failed_answers=failed_answers,
            without_server=without_server,
            without_server_failures=failures,
            other_servers=dict(others),
            retried=dict(retried),
            retried_by_unknown=unknown,
            retries_hidden=retries_hidden,
        )
        self.facts = add_router_facts(self.facts, added)


def parse_arm_values(texts: Iterable[str], option: str) -> dict[str, tuple[str, ...]]:
    """Read texts ARM=PATTERN, of which an arm may have several; the baseline is first. Empty without texts.

    `option`: the option that has the texts. Raises UsageError.
    """
    patterns: dict[str, tuple[str, ...]] = {}
    for text in texts:
        arm, equals, pattern = (part.strip() for part in text.partition("="))
        if not (arm and equals and pattern):
            raise UsageError(f"{option} {text} is not ARM=PATTERN", hint=f"for example {option} canary='c*'")
        check_name("arm", arm)
        patterns[arm] = (*patterns.get(arm, ()), pattern)
    if not patterns:
        return {}
    if BASELINE not in patterns or len(patterns) < 2:
        raise UsageError(
            f"{option} names values of {' and '.join(patterns)} only",
            hint=f"name those of the baseline and of each candidate: {option} baseline='b*' {option} canary='c*'",
        )
    check_log_options(LogOptions(arms=patterns))  # refuses values that belong to two arms
    return {BASELINE: patterns[BASELINE], **patterns}


def check_header_name(name: str, option: str) -> None:
    """Refuse a text that cannot be the name of a header; `option` is the one that gave it. Raises UsageError."""
    if not HEADER_NAME.fullmatch(name):
        raise UsageError(f"{option} '{name}' is no name of a header", hint=f"for example {option} {DEFAULT_ARM_HEADER}")
