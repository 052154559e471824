"""Access logs of nginx: any `log_format`, and those of common documentation, which are recognised."""

from __future__ import annotations

import re

from evaluator.records.access_logs import LogLayout
from evaluator.sources.access_logs.log_formats import TIME_OF_CLF, VALUE_OF_CLF_TIME, FormatDialect

ADVICE = (
    'log_format evaluator \'$msec $status $request_time $body_bytes_sent "$request" "$upstream_addr" '
    '"$upstream_status" "$upstream_response_time" "$http_upgrade" "$request_completion"\'; '
    "access_log /var/log/nginx/evaluator.log evaluator;"
)
"""What a configuration needs so that nothing is missing."""

_ATTEMPT = r"[^ ,\"]+"
_BETWEEN = r"(?:, | : )"
_ATTEMPTS = rf"({_ATTEMPT}(?:{_BETWEEN}{_ATTEMPT})*|)"
"""Values of all servers that were tried; `-` if none was."""
_OTHER_LINES = (
    r"[ \t]*|#.*|[0-9]{4}/[0-9]{2}/[0-9]{2} [0-9:]{8} \[[a-z]+\] .*|nginx: .*"
    r"|/docker-entrypoint\.sh: .*|[0-9a-z./_-]+\.(?:sh|envsh): .*"
)
"""Empty lines, comments, and lines of the error log, which containers write to the same stream."""

_COMBINED = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'
)
KNOWN_FORMATS = (
    # The default of ingress-nginx (Kubernetes).
    (
        f"{_COMBINED} $request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] "
        "$upstream_addr $upstream_response_length $upstream_response_time $upstream_status $req_id"
    ),
    # What nginx Amplify asks for.
    (
        f'{_COMBINED} "$http_x_forwarded_for" "$host" sn="$server_name" rt=$request_time ua="$upstream_addr" '
        'us="$upstream_status" ut="$upstream_response_time" ul="$upstream_response_length" cs=$upstream_cache_status'
    ),
    f"{_COMBINED} $request_time $upstream_addr $upstream_status $upstream_response_time",
    f'{_COMBINED} $request_time "$upstream_addr" "$upstream_status" "$upstream_response_time"',
    f"{_COMBINED} rt=$request_time ua=$upstream_addr us=$upstream_status ut=$upstream_response_time",
    f'{_COMBINED} rt=$request_time ua="$upstream_addr" us="$upstream_status" ut="$upstream_response_time"',
    f'{_COMBINED} rt=$request_time uaddr="$upstream_addr" ustatus="$upstream_status" urt="$upstream_response_time"',
    # The one that this program recommends.
    re.split(r"(?<=evaluator) '|';", ADVICE)[1],
)
"""Formats that are recognised without their text; all say which servers were tried."""

NGINX = FormatDialect(
    layout=LogLayout(
        "nginx",
        "text",
        (),
        other_lines=_OTHER_LINES,
        abort_statuses=(499,),
        abort_terminations="-?",
        # An attempt without a server has the name of the group of servers, which has no port.
        without_server=r"-?|[^:]*",
    ),
    variable=re.compile(r"\$(?P<brace>\{)?(?P<name>[A-Za-z0-9_]+)(?(brace)\})"),
    columns={
        "ended": (("msec", "s"), ("time_iso8601", "iso"), ("time_local", TIME_OF_CLF)),
        "request": (("request", ""),),
        "method": (("request_method", ""),),
        "target": (("request_uri", ""), ("uri", ""), ("document_uri", "")),
        "status": (("status", ""),),
        "time": (("request_time", "s"),),
        "bytes": (("body_bytes_sent", ""), ("bytes_sent", "")),
        "backend": (("proxy_upstream_name", ""), ("proxy_host", ""), ("upstream_name", "")),
        "attempt_servers": (("upstream_addr", ""),),
        "attempt_statuses": (("upstream_status", ""),),
        "attempt_times": (("upstream_response_time", "s"),),
        # It is empty if the client left; if the server ended in the middle of its answer, nginx logs `OK`.
        "termination": (("request_completion", ""),),
        "grpc_status": (
            ("sent_trailer_grpc_status", ""),
            ("upstream_trailer_grpc_status", ""),
            ("sent_http_grpc_status", ""),
            ("upstream_http_grpc_status", ""),
        ),
        "upgrade": (("sent_http_upgrade", ""), ("upstream_http_upgrade", ""), ("http_upgrade", "")),
    },
    values={
        "msec": r"[0-9]+\.[0-9]+",
        "time_iso8601": r"[0-9T:+-]{25}",
        "time_local": VALUE_OF_CLF_TIME,
        "status": r"[0-9]{3}",
        "request_time": r"[0-9]+\.[0-9]+",
        "body_bytes_sent": "[0-9]+",
        "bytes_sent": "[0-9]+",
        **dict.fromkeys(("host", "http_host", "server_name"), r'[^/ "]*'),
        "upstream_addr": _ATTEMPTS,
        "upstream_status": _ATTEMPTS,
        "upstream_response_time": _ATTEMPTS,
        "upstream_connect_time": _ATTEMPTS,
        "upstream_header_time": _ATTEMPTS,
        "upstream_response_length": _ATTEMPTS,
        "upstream_bytes_received": _ATTEMPTS,
        "upstream_bytes_sent": _ATTEMPTS,
    },
    advice=ADVICE,
    with_spaces=re.compile(
        r"remote_user|https?_.*|sent_http_.*|upstream_http_.*|cookie_.*|args?_?.*|ssl_.*|request|time_.*"
    ),
    response_times={"request_time": "$request_time, from the request's first byte to the answer's last"},
)
