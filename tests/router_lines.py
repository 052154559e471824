"""Lines as nginx and HAProxy write them, with layouts that read them: inputs of tests of what is made of the lines."""

from __future__ import annotations

from evaluator.records import LogColumn, LogField, LogLayout, LogOptions

ARMS = {"baseline": ("b*",), "canary": ("c*",)}
OPTIONS = LogOptions(arms=ARMS)

_HAPROXY: tuple[tuple[LogColumn, str], ...] = (
    ("started", "%d/%b/%Y:%H:%M:%S.%g"), ("backend", ""), ("server", ""), ("time", "ms"), ("status", ""), ("bytes", ""),
    ("termination", ""), ("retries", ""), ("request", ""))  # fmt: skip
HAPROXY = LogLayout(
    "haproxy",
    "text",
    tuple(LogField(column, column, unit) for column, unit in _HAPROXY),
    pattern=r"(?:.* )?haproxy\[\d+\]: \S+ \[([^\]]+)\] \S+ ([^/ ]+)/(\S+) -?\d+/-?\d+/-?\d+/-?\d+/\+?(-?\d+) (-?\d+) "
    r'\+?(\d+) \S+ \S+ (..)\S\S \d+/\d+/\d+/\d+/(\+?\d+) \d+/\d+ (?:\{[^}]*\} )*"([^"]*)"?',
    groups=tuple(column for column, _ in _HAPROXY),
    other_lines=r".*haproxy\[\d+\]: (?:Server|Proxy|Backend) .*",
    abort_terminations="[Cc].",
    failed_terminations="[sS].|PH",
    without_server="-?|<NOSRV>",
)

_NGINX: tuple[tuple[LogColumn, str], ...] = (
    ("ended", "s"), ("request", ""), ("status", ""), ("bytes", ""), ("time", "s"), ("attempt_servers", ""),
    ("attempt_statuses", ""), ("attempt_times", "s"))  # fmt: skip
NGINX = LogLayout(
    "nginx",
    "text",
    tuple(LogField(column, column, unit) for column, unit in _NGINX),
    pattern=r'(\S+) "([^"]*)" (\d{3}) (\d+) (\S+) "([^"]*)" "([^"]*)" "([^"]*)"',
    groups=tuple(column for column, _ in _NGINX),
    abort_statuses=(499,),
    without_server="-?|[^:]*",
)

JSON = LogLayout(
    "json",
    "json",
    (
        LogField("started", "/at", "iso"),
        LogField("method", "/request/method"),
        LogField("target", "/request/uri"),
        LogField("status", "/status"),
        LogField("time", "/took", "s"),
        LogField("arm", "/version"),
        LogField("grpc_status", "/grpc"),
        LogField("upgrade", "/upgrade"),
    ),
)


def write_haproxy(
    server="b1",
    *,
    second=0,
    ms="12",
    status="200",
    ended="--",
    retries="0",
    request="GET /cart HTTP/1.1",
    backend="shop",
) -> bytes:
    """Write a line of HAProxy's HTTP log, of the given second of a minute."""
    return (
        f"Nov 29 10:00:00 lb haproxy[7]: 10.9.0.1:5000 [29/Nov/2025:10:00:{second:02}.250] front {backend}/{server} "
        f'0/0/0/{ms}/{ms} {status} 512 - - {ended}-- 1/1/0/0/{retries} 0/0 "{request}"\n'
    ).encode()


def write_nginx(
    servers="b:1",
    *,
    at=1764410400.5,
    status="200",
    statuses="200",
    s="0.100",
    times="0.100",
    request="GET /cart HTTP/1.1",
) -> bytes:
    """Write a line of an nginx log that ended at a time (s since 1970)."""
    return f'{at:.3f} "{request}" {status} 512 {s} "{servers}" "{statuses}" "{times}"\n'.encode()
