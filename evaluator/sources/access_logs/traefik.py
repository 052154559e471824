"""Access logs of Traefik in its common format; those in JSON are in `json_lines`."""

from __future__ import annotations

import re

from evaluator.records.access_logs import LogLayout
from evaluator.sources.access_logs.log_formats import ESCAPED_QUOTED, TIME_OF_CLF, VALUE_OF_CLF_TIME, FormatDialect

ADVICE = "accessLog: {filePath: /var/log/traefik/access.log, format: json}"
DEFAULT = (
    '$ClientHost - $User [$StartUTC] "$Request" $Status $Size "$Referer" "$Agent" $Count "$Router" "$Server" '
    "${Duration}ms"
)
"""Traefik's common format (`common`), with names of our own: Traefik has none for its parts."""
OTHER_LINES = (
    r'[ \t]*|#.*|time="[^"]*" level=.*|[0-9-]{10}T[0-9:+Z-]+ (?:DBG|INF|WRN|ERR|FTL) .*'
    r'|\{"level":"[a-z]+",.*"message":.*'
)

TRAEFIK = FormatDialect(
    layout=LogLayout("traefik", "text", (), other_lines=OTHER_LINES, abort_statuses=(499,), without_server="-?"),
    variable=re.compile(r"\$(?P<brace>\{)?(?P<name>[A-Za-z]+)(?(brace)\})"),
    columns={
        "started": (("StartUTC", TIME_OF_CLF),),
        "request": (("Request", ""),),
        "status": (("Status", ""),),
        "time": (("Duration", "ms"),),
        "bytes": (("Size", ""),),
        "server": (("Server", ""),),
        "backend": (("Router", ""),),
    },
    values={
        "StartUTC": VALUE_OF_CLF_TIME,
        "Status": "[0-9]{3}|-",
        "Size": "[0-9]+|-",
        "Count": "[0-9]+|-",
        "Duration": "[0-9]+",
    },
    advice=ADVICE,
    with_spaces=re.compile("User"),
    quoted=ESCAPED_QUOTED,
    response_times={"Duration": "the duration, from the request's first byte to the answer's last"},
)
