"""Access logs of Apache httpd: any `LogFormat`."""

from __future__ import annotations

import re

from evaluator.records.access_logs import LogLayout
from evaluator.sources.access_logs.log_formats import ESCAPED_QUOTED, TIME_OF_CLF, VALUE_OF_CLF_TIME, FormatDialect

ADVICE = (
    'LogFormat "%{usec}t %>s %D %B \\"%r\\" \\"%{BALANCER_WORKER_NAME}e\\" \\"%{Upgrade}i\\"" evaluator, and '
    "CustomLog /var/log/apache2/evaluator.log evaluator"
)
KNOWN_FORMATS = (ADVICE.partition(", and")[0],)
"""Formats that are recognised without their text: the one that this program recommends."""

APACHE = FormatDialect(
    layout=LogLayout(
        "apache",
        "text",
        (),
        other_lines=r"[ \t]*|#.*|\[[A-Z][a-z]{2} [A-Z][a-z]{2} [0-9]{2} [0-9:.]+ [0-9]{4}\] .*|AH[0-9]{5}: .*",
        without_server="-?",
    ),
    variable=re.compile(r"%[!0-9,]*(?P<name>[<>]?(?:\{[^}]*\})?(?:\^(?:FB|ti|to|FU)|[A-Za-z%]))"),
    columns={
        "ended": (("{end:usec}t", "us"), ("{end:msec}t", "ms"), ("{end:sec}t", "s")),
        "started": (("{usec}t", "us"), ("{begin:usec}t", "us"), ("{msec}t", "ms"), ("{begin:msec}t", "ms"),
                    ("{sec}t", "s"), ("{%s}t", "s"), ("t", TIME_OF_CLF)),
        "request": (("r", ""),),
        "method": (("m", ""),),
        "target": (("U", ""),),
        "status": ((">s", ""), ("s", "")),
        "time": (("D", "us"), ("{us}T", "us"), ("{ms}T", "ms"), ("T", "s"), ("{s}T", "s")),
        "bytes": (("B", ""), ("b", ""), ("O", "")),
        "server": (("{BALANCER_WORKER_NAME}e", ""), ("{BALANCER_WORKER_ROUTE}e", "")),
        "backend": (("{BALANCER_NAME}e", ""),),
        "grpc_status": (("{grpc-status}^to", ""), ("{grpc-status}o", "")),
        "upgrade": (("{Upgrade}o", ""), ("{Upgrade}i", "")),
    },
    values={
        "t": rf"\[{VALUE_OF_CLF_TIME}\]",
        **dict.fromkeys(("{usec}t", "{begin:usec}t", "{end:usec}t", "{msec}t", "{begin:msec}t", "{end:msec}t",
                         "{sec}t", "{%s}t", "{end:sec}t"), "[0-9]+"),
        ">s": "[0-9]{3}|-",
        "s": "[0-9]{3}|-",
        **dict.fromkeys(("D", "T", "{us}T", "{ms}T", "{s}T"), "-?[0-9]+"),
        **dict.fromkeys(("B", "b", "O", "I"), "[0-9]+|-"),
    },
    advice=ADVICE,
    with_spaces=re.compile(r"\{.*\}[ioetCnx]|u|r|q|U|f"),
    quoted=ESCAPED_QUOTED,
    response_times={
        "D": "%D, from the request's first line to the answer's last byte",
        "T": "%T, whole seconds: too coarse for most services",
    },
)  # fmt: skip
