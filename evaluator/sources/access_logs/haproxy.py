"""Access logs of HAProxy: its default HTTP log, that of HTTPS, the CLF one, and any `log-format`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evaluator.errors import InputError
from evaluator.records.access_logs import LogColumn, LogLayout
from evaluator.sources.access_logs.log_formats import TIME_OF_CLF, VALUE_OF_CLF_TIME, FormatDialect, build_layout

ADVICE = "option httplog, in `defaults` or in the frontend"
_DATE = r"[0-9]{2}/[A-Za-z]{3}/[0-9]{4}:[0-9:]{8}\.[0-9]{3}"
_LOCAL_TIME = "%d/%b/%Y:%H:%M:%S.%f"
_NUMBER = r"\+?(-?[0-9]+)"
"""A leading plus says that the line was written before the answer was complete (`option logasap`)."""
_CLIENT = r"[^ ]+:[0-9]+"

TCP_LINE = rf"{_CLIENT} \[{_DATE}\] [^ ]+ [^ ]+ -?[0-9]+/-?[0-9]+/\+?-?[0-9]+ [+0-9]+ [A-Za-z-]{{2}} .*"
"""A line of `option tcplog`: a session, no request."""
NOTICES = (
    r"(?:backup )?(?:Server|Backend|Proxy|Frontend|Listener|Process|Health check|Agent check|Connect|Stopping|Stopped|"
    r"Starting|Started|Reloading|Reloaded|Pausing|Resuming|Enabling|Disabling|Loading|New|Reexecuting|Exiting|Current|All|"
    r"Former|Previous|A worker|Some|Failed|"
    r"Cannot|Deprecated|Received|Initializing|Warning|Backup|backend|proxy|"
    r"\[(?:NOTICE|WARNING|ALERT|INFO)\]|<[0-9]>) ?.*"
)
_ERRORS = rf"{_CLIENT} \[{_DATE}\] [^ ]+/[^ :]+: .*"
"""The log of connections that failed before a request (`SSL handshake failure`)."""

HAPROXY = FormatDialect(
    layout=LogLayout(
        "haproxy",
        "text",
        (),
        other_lines=f"[ \\t]*|#.*|{NOTICES}|{_ERRORS}|{TCP_LINE}",
        abort_terminations=r"[Cc].",
        # S, s: the server ended or was too slow; R: no more resources; I: error inside of HAProxy; D, U, K: killed.
        # P is HAProxy's own decision: by rules on the request (PR, PT), or since the answer was invalid (PH, PD).
        failed_terminations=r"[SsRIDUK].|P[CHDQL]",
        without_server=r"-?|<[A-Za-z]*>",
    ),
    # `%o` prints nothing: its flags are those of all variables after it.
    variable=re.compile(
        r"%(?:\((?P<key>[^):]*)(?::[a-z]+)?\))?(?:\{(?:[^}]*(?P<quoted>\+Q))?[^}]*\})?(?P<name>\[(?:[^\]\"']|\"[^\"]*\"|'[^']*')*\]|%|[A-Za-z]+)"
    ),
    columns={
        "started": (("tr", _LOCAL_TIME), ("trg", TIME_OF_CLF), ("trl", TIME_OF_CLF), ("Ts", "s"),
                    ("t", _LOCAL_TIME), ("T", TIME_OF_CLF), ("Tl", TIME_OF_CLF)),
        "request": (("r", ""),),
        "method": (("HM", ""), ("[capture.req.method]", ""), ("[method]", "")),
        "target": (("HP", ""), ("HPO", ""), ("HU", ""), ("[path]", ""), ("[capture.req.uri]", "")),
        "status": (("ST", ""), ("[status]", "")),
        "time": (("Ta", "ms"), ("Tt", "ms"), ("Tr", "ms")),
        "bytes": (("B", ""),),
        "header_bytes": (("[var(txn.header_bytes)]", ""),),
        "server": (("s", ""), ("[srv_name]", "")),
        "backend": (("b", ""), ("[be_name]", "")),
        "retries": (("rc", ""),),
        "termination": (("tsc", ""), ("ts", "")),
    },
    values={
        "ci": "[^ ]+",  # an address of IPv6 has colons itself
        "tr": _DATE,
        "t": _DATE,
        "trg": VALUE_OF_CLF_TIME,
        "trl": VALUE_OF_CLF_TIME,
        "T": VALUE_OF_CLF_TIME,
        "Tl": VALUE_OF_CLF_TIME,
        "ST": "-?[0-9]+",
        "tsc": r"([A-Za-z-]{2})[A-Za-z-]*",
        "ts": r"([A-Za-z-]{2})",
        "rc": r"(\+?[0-9]+)",
        # Captured headers: HAProxy prints nothing if the frontend captures none. Quotes, braces and bars are escaped.
        "hr": r"\{([^}]*)\}",
        "hs": r"\{([^}]*)\}",
        **dict.fromkeys(
            ("B", "U", "TR", "Tw", "Tc", "Tr", "Ta", "Td", "Th", "Ti", "Tq", "Tt", "Tu", "Ts", "ms", "cp", "ac", "fc",
             "bc", "sc", "sq", "bq", "rt", "lc", "pid", "bp", "fp", "sp", "si"),
            _NUMBER,
        ),
    },
    advice=ADVICE,
    vanishing=frozenset(("hr", "hs")),
    response_times={
        "Ta": "Ta, from the request's first byte to the answer's last",
        "Tt": "Tt, from the connection to the answer's last byte: the time in which a connection was idle is in it",
        "Tr": "Tr, from the request at the server to the answer's first byte: time in queues is not in it",
    },
)  # fmt: skip

DEFAULT = "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %hr %hs %{+Q}r"
"""What `option httplog` writes; `option httpslog` adds fields of TLS at the end."""
_CLF = (
    '%ci - - [%trg] %{+Q}r %ST %B "" "" %cp %ms %{+Q}ft %{+Q}b %{+Q}s %TR %Tw %Tc %Tr %Ta %tsc '
    "%ac %fc %bc %sc %rc %sq %bq %{+Q}CC %{+Q}CS"
)
"""What `option httplog clf` writes, without captured headers, which end the line."""
_CAPTURE = re.compile(r"capture\.(?P<which>request|response)\.(?P<position>[0-9]{1,3})")
_WRITTEN_EARLY = re.compile(r" [0-9/-]+/\+[0-9]+ [0-9]{3} ")
"""The timers of a line that `option logasap` wrote before the answer was complete."""
_TWO_BLOCKS = re.compile(r" \{[^}]*\} \{[^}]*\} \"")


def build_default_layout(
    columns: Mapping[LogColumn, str], where: str, top_lines: Sequence[str] = (), prefix: str = ""
) -> LogLayout:
    """Build the layout of `option httplog` and `option httpslog`.

    `columns`: column → `capture.request.0` (the first header that the frontend captures, counted from 0) or
    `capture.response.0`. `top_lines`: they show whether the lines have one block of captured headers or two. Of one
    block a line does not say whether it is of the request or the answer: it is the one that `columns` names.
    """
    dialect, named = _place_captures(columns, where, two_blocks=any(map(_TWO_BLOCKS.search, top_lines)))
    layout = build_layout(dialect, DEFAULT, named, where, prefix)
    if any(map(_WRITTEN_EARLY.search, top_lines)):
        layout = replace(layout, response_time="Ta, up to the answer's header: `option logasap` writes the line then")
    # A line that is too long for HAProxy ends in its request, without the last quote.
    return replace(layout, pattern=layout.pattern.removesuffix('"$') + '(?:"(?: .*)?)?$')


def build_clf_layout(columns: Mapping[LogColumn, str], where: str, prefix: str = "") -> LogLayout:
    """Build the layout of `option httplog clf`. Raises InputError if it has not what `columns` names."""
    layout = build_layout(HAPROXY, _CLF, columns, where, prefix)
    return replace(layout, pattern=layout.pattern.removesuffix("$") + "(?: .*)?$")


def _place_captures(
    columns: Mapping[LogColumn, str], where: str, *, two_blocks: bool
) -> tuple[FormatDialect, dict[LogColumn, str]]:
    """Replace `capture.request.0` by the variable of its block, whose value has a group for this header alone.

    Returns the dialect with these values, and the columns with names of variables. Raises InputError if two columns
    are of one block.
    """
    values = dict(HAPROXY.values)
    named = dict(columns)
    for column, source in columns.items():
        capture = _CAPTURE.fullmatch(source)
        if capture is None:
            continue
        block = "hs" if two_blocks and capture["which"] == "response" else "hr"
        if block in named.values():
            raise InputError(
                f"{where}: two columns are named from one block of captured headers",
                hint="give the text of the log format with --log-format, and log each header by itself",
            )
        values[block] = rf"\{{(?:[^|}}]*\|){{{capture['position']}}}([^|}}]*)[^}}]*\}}"
        named[column] = block
    return replace(HAPROXY, values=values), named
