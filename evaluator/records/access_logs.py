"""Access logs of routers: how lines are read, which arm a request belongs to, and what the router did by itself."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from evaluator.errors import UsageError
from evaluator.records.rows import LeftOut, sum_left_out
from evaluator.records.words import BASELINE

LogColumn = Literal[
    "started", "ended", "request", "method", "target", "status", "time", "bytes", "header_bytes", "server", "backend",
    "attempt_servers", "attempt_statuses", "attempt_times", "retries", "termination", "grpc_status", "upgrade", "arm",
]  # fmt: skip
"""What a line of an access log says of one request:

- `started`, `ended`: when the request came, or its answer was complete (a log has one of them);
- `request`: the request line (`GET /cart HTTP/1.1`); or its parts `method` and `target` (the path; in JSON it may
  have host and query);
- `status`: HTTP status that the client got; `bytes`: size of the answer;
- `header_bytes`: size of its header, where `bytes` counts it;
- `time`: how long the client waited, queue and connect included; -1 or `-` if the router did not measure it;
- `server`, `backend`: the server that answered, and its group, as the router names them;
- `attempt_servers`, `attempt_statuses`, `attempt_times`: lists of all servers that were tried, in order, separated by
  `, ` (the next server) and ` : ` (a redirect inside of nginx; each group of servers is tried again);
- `retries`: how often the router tried again; a leading `+` says that it changed to another server (HAProxy);
- `termination`: how the request ended: HAProxy's first two characters (`--`, `SC`, `cD`), Envoy's flags (`UF,URX`);
- `grpc_status`: status of a gRPC answer; `upgrade`: protocol that the connection changed to (WebSocket);
- `arm`: a field that names the arm: a header, or a version.
"""


@dataclass(frozen=True, slots=True)
class LogField:
    """Where one column of a line comes from."""

    column: LogColumn
    source: str
    """Name of a group of the pattern; in JSON a pointer, such as `/request/uri`."""
    unit: str = ""
    """Of times: s, ms, us, ns, iso, or a format such as `%d/%b/%Y:%H:%M:%S %z`. A time without a zone is local.

    Of `retries`: empty if a leading `+` says that the last retry went to another server (HAProxy); `any` if each retry
    may have gone to another server; `attempts` likewise, and the first attempt is counted, too.
    """


@dataclass(frozen=True, slots=True)
class LogLayout:
    """How the lines of an access log are read: unwrap `wrapped_in`, match `pattern`, take groups or JSON values."""

    format: str
    """Name of the format: haproxy, nginx, envoy, apache, traefik, caddy, json."""
    reader: Literal["text", "json"]
    fields: tuple[LogField, ...]
    pattern: str = ""
    """Regular expression (RE2) of a whole line of text, with a plain group for each name of `groups`, in order.

    In JSON empty, or with one group, `json`: the object of a line, after the prefix of a collector. If a text matches,
    the group of `time` is not empty.
    """
    groups: tuple[str, ...] = ()
    wrapped_in: str = ""
    """JSON pointer of the line, if a collector has made each line a JSON object (`/log` of Docker); else empty."""
    other_lines: str = ""
    """Pattern (RE2) of whole lines, unwrapped, that are no requests: notices, errors, comments, sessions of TCP.

    It says what a line is only if the line is no request: no match of `pattern`, or JSON without a status.
    """
    abort_statuses: tuple[int, ...] = ()
    """Statuses that say that the client left before it had the answer: 499 of nginx."""
    abort_terminations: str = ""
    """Pattern (RE2) of whole values of `termination` that say the same; empty: no value does."""
    failed_terminations: str = ""
    """Pattern (RE2) of whole values of `termination` that say that server or router failed; empty: none does.

    A value that both patterns match is a failure.
    """
    without_server: str = "-?"
    """Pattern (RE2) of whole values of `server`, or of one of `attempt_servers`, that name no server (`<NOSRV>`)."""
    response_time: str = ""
    """What the response time is, for people: `Ta, from the request's first byte to the answer's last`."""
    retries_hidden: bool = False
    """Does the router retry without a trace in the lines? Then failed attempts are not known."""


@dataclass(frozen=True, slots=True)
class EndpointRule:
    """A rule of the policy that gives paths one name: what matches `pattern` (RE2) is replaced by `replacement`."""

    pattern: str
    replacement: str


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How the user wants an access log to be read."""

    arms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Arm → patterns (`*`, `?`) of the values of `arm_from` that are its."""
    arm_from: Literal["server", "backend", "arm"] = "server"
    """The column that names the arm."""
    failures: tuple[str, ...] = ("5xx",)
    """Statuses that are failures: `5xx`, or single ones such as `429`."""
    endpoint_rules: tuple[EndpointRule, ...] = ()
    time_zone: str = "UTC"
    """Of times without one, as an IANA name."""
    service: str = ""
    sensitive: bool = False
    """If true, no text of a request is kept except its path."""


HIDDEN_NAMES = "values that are not shown"
"""In place of the values of a field that names the arm, where the service is sensitive and the field is no server."""


def find_arm(options: LogOptions, name: str) -> str | None:
    """Find the arm whose patterns match the name of a server, backend or field; None if none does.

    `*` stands for any characters and `?` for one; brackets have no meaning.
    """
    for arm, patterns in options.arms.items():
        if any(fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns):
            return arm
    return None


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """What a router did in addition to the requests of the arms, as its access log shows it."""

    answers: int = 0
    """Requests that clients made: each counts once, however many servers were tried."""
    failed_answers: int | None = None
    """Those whose client got a failure in the end; `None`: not known, or there are no requests."""
    without_server: int = 0
    """Those that no server answered (HAProxy's 503 if none could be chosen): they belong to no arm."""
    without_server_failures: int = 0
    other_servers: Mapping[str, int] = field(default_factory=dict)
    """Requests by servers that belong to no arm."""
    retried: Mapping[str, int] = field(default_factory=dict)
    """Arm → attempts that failed, after which the router tried again. Each is a failed request of the arm."""
    retried_by_unknown: int = 0
    """Failed attempts of which the log does not say which server failed."""
    retries_hidden: bool = False
    """May the router retry without a trace in its log? Then failed attempts that it repaired are not known."""
    grpc_unread: Mapping[str, int] = field(default_factory=dict)
    """Arm → gRPC requests whose status the log does not have: their failures are not known."""
    late: int = 0
    """Requests that were logged after their step was closed."""
    holes: tuple[str, ...] = ()
    """Sentences about parts of the log that could not be read."""
    unread_s: float | None = None
    """Seconds of the log's time that these parts cover; `None`: not known, or there are none."""
    unread: Mapping[str, int] = field(default_factory=dict)
    """What is wrong with lines that are not judged, as the end of `3 lines …` → their number; of no known arm."""
    endpoints_pooled: int = 0
    """Requests of endpoints beyond the most that keep their names."""
    pooled_example: str = ""
    """One of their paths, for a rule of the policy."""


@dataclass(frozen=True, slots=True)
class LogCounts:
    """What became of some lines of an access log."""

    lines: int = 0
    read: Mapping[str, int] = field(default_factory=dict)
    """Arm → rows read: requests and failed attempts, landed or left out."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows of arms that are no requests to judge: aborts of clients, streams, lines that could not be read."""
    router: RouterFacts = field(default_factory=RouterFacts)


def sum_counts(parts: Iterable[LogCounts]) -> LogCounts:
    """Sum up the counts of several parts of an access log."""
    lines = 0
    read: Counter[str] = Counter()
    left_out: list[LeftOut] = []
    router = RouterFacts()
    for part in parts:
        lines += part.lines
        read.update(part.read)
        left_out += part.left_out
        router = add_router_facts(router, part.router)
    return LogCounts(lines, dict(read), sum_left_out(left_out), router)


def list_unread(counts: LogCounts) -> dict[str, int]:
    """List what is wrong with lines that are not judged → their number, with those that could not be read."""
    bad_lines = counts.read.get("", 0)
    return {**counts.router.unread, **({"that could not be read": bad_lines} if bad_lines else {})}


def list_left_out(counts: LogCounts) -> tuple[LeftOut, ...]:
    """List the rows of arms that are not judged. Lines of no known arm are not among them: `list_unread` has these."""
    return tuple(part for part in counts.left_out if part.arm)


MOST_SERVERS = 20
"""Most servers without an arm that keep their names."""

OTHER_SERVERS = "others"
"""Name for the other ones."""


def add_router_facts(before: RouterFacts, added: RouterFacts) -> RouterFacts:
    """Add what a router did in a further part of its log, or in another run."""
    servers = dict(before.other_servers)
    for name, requests in added.other_servers.items():
        key = name if name in servers or len(servers) < MOST_SERVERS else OTHER_SERVERS
        servers[key] = servers.get(key, 0) + requests
    return RouterFacts(
        answers=before.answers + added.answers,
        failed_answers=_add_failed(before, added),
        without_server=before.without_server + added.without_server,
        without_server_failures=before.without_server_failures + added.without_server_failures,
        other_servers=servers,
        retried=_add(before.retried, added.retried),
        retried_by_unknown=before.retried_by_unknown + added.retried_by_unknown,
        retries_hidden=before.retries_hidden or added.retries_hidden,
        grpc_unread=_add(before.grpc_unread, added.grpc_unread),
        late=before.late + added.late,
        holes=tuple(dict.fromkeys((*before.holes, *added.holes))),
        unread_s=_add_unread(before, added),
        unread=_add(before.unread, added.unread),
        endpoints_pooled=before.endpoints_pooled + added.endpoints_pooled,
        pooled_example=before.pooled_example or added.pooled_example,
    )


def _add_failed(before: RouterFacts, added: RouterFacts) -> int | None:
    """Add the requests whose client got a failure; None if there are no requests, or those of a part are not known."""
    failed = [facts.failed_answers for facts in (before, added) if facts.answers]
    known = [count for count in failed if count is not None]
    return sum(known) if failed and len(known) == len(failed) else None


def _add_unread(before: RouterFacts, added: RouterFacts) -> float | None:
    """Add the seconds that could not be read of two parts; None if there are none, or those of a part are not known."""
    seconds = [facts.unread_s for facts in (before, added) if facts.holes or facts.unread_s is not None]
    if not seconds or None in seconds:
        return None
    return sum(each for each in seconds if each is not None)


def _add(before: Mapping[str, int], added: Mapping[str, int]) -> Mapping[str, int]:
    """Add counts by name, such as that of an arm."""
    return {name: before.get(name, 0) + added.get(name, 0) for name in dict.fromkeys((*before, *added))}


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file of an access log, and how its lines are read."""

    path: str
    layout: LogLayout


@dataclass(frozen=True, slots=True)
class LogPlan:
    """Access logs to take into the store as one run, with all that is needed to read them."""

    files: tuple[LogFile, ...]
    options: LogOptions
    skip_bad_rows: bool = False
    start: datetime | None = None
    """Requests that began before this time do not land."""
    end: datetime | None = None
    """Requests that began at this time or later do not land."""
    step: str = ""
    """Step of a rollout that the requests belong to; empty: to none."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Arm → share of the traffic that the router sent to it; empty: not known."""


DescribeLine = Callable[[str], tuple[str, str]]
"""Shows a line that could not be read, without secrets: returns it with what it looks like, and what helps."""


STATUS = re.compile(r"[1-5](\d\d|xx)")
"""Pattern of statuses that are failures: `429`, or `5xx` for all of a class."""


def check_log_options(options: LogOptions) -> None:
    """Raise UsageError for options with which no line could be read, or the arm of a line would not be clear."""
    if not options.arms:
        raise UsageError(
            "which requests belong to which arm is not known",
            hint="give --arm-server ARM=PATTERN for each arm, or `sources: {access_log: {arms: …}}` in the policy",
        )
    if BASELINE not in options.arms or len(options.arms) < 2:
        raise UsageError(
            f"the servers of {' and '.join(options.arms)} are named, and nothing to compare with",
            hint="name those of baseline and candidate: --arm-server baseline='b*' --arm-server canary='c*'",
        )
    for (arm, patterns), (other_arm, other_patterns) in itertools.combinations(options.arms.items(), 2):
        for pattern, other_pattern in itertools.product(patterns, other_patterns):
            if _can_match_same(pattern, other_pattern):
                raise UsageError(
                    f"'{pattern}' of arm '{arm}' and '{other_pattern}' of arm '{other_arm}' match the same names",
                    hint="give each arm patterns that match only its own names",
                )
    for text in options.failures:
        if not STATUS.fullmatch(text):
            raise UsageError(f"'{text}' is no status that is a failure", hint="give 5xx, 4xx or a status such as 429")


def _can_match_same(pattern: str, other: str) -> bool:
    """Is there a text that both patterns (`*`, `?`) match?"""
    reached = [(0, 0)]  # how much of each pattern the same text has matched
    tested = set(reached)
    while reached:
        first, second = reached.pop()
        if first == len(pattern) and second == len(other):
            return True
        mark, other_mark = pattern[first : first + 1], other[second : second + 1]
        following = set()
        if mark == "*":  # it matches nothing more, or what the other pattern matches next
            following |= {(first + 1, second)} | ({(first, second + 1)} if other_mark else set())
        if other_mark == "*":
            following |= {(first, second + 1)} | ({(first + 1, second)} if mark else set())
        if mark and other_mark and "*" not in (mark, other_mark) and (mark == other_mark or "?" in (mark, other_mark)):
            following.add((first + 1, second + 1))
        reached += following - tested
        tested |= following
    return False
