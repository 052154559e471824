"""Access logs of Envoy, and of what is built on it (Istio): default formats, any format string, and JSON."""

from __future__ import annotations

import re

from evaluator.records.access_logs import LogLayout
from evaluator.sources.access_logs.log_formats import FormatDialect

ADVICE = (
    'text_format_source: {inline_string: "[%START_TIME%] '
    '\\"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\\" '
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_SENT% %DURATION% %UPSTREAM_REQUEST_ATTEMPT_COUNT% "
    '%GRPC_STATUS_NUMBER% \\"%UPSTREAM_HOST%\\" %UPSTREAM_CLUSTER%\\n"}'
)

DEFAULT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
    '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"'
)
ISTIO = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" '
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
    '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" '
    "%UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% "
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%"
)
KNOWN_FORMATS = (ISTIO, DEFAULT, ADVICE.split('inline_string: "')[1].removesuffix('\\n"}').replace('\\"', '"'))

_FAILED = "UH|UF|UT|UR|UC|UO|URX|UPE|LH|LR|DT|SI|OM|NC|DF|UMSDR|OMSDR|NFCF|DO"
"""Flags of failures: no healthy server, no connection, reset, time is over, overloaded, retries used up, and so on."""

ENVOY = FormatDialect(
    layout=LogLayout(
        "envoy",
        "text",
        (),
        # `- - -` are connections of TCP and requests that were no HTTP.
        other_lines=(
            r"\[[^\]]+\] \"- - [^\"]*\" .*|"
            r"[ \t]*|#.*|\[[0-9-]{10}[ T][0-9:.]+Z?\] ?\[[0-9]+\] ?\[[a-z]+\].*"
            r"|[0-9-]{10}T[0-9:.]+Z\t[a-z]+\t.*"
        ),
        abort_statuses=(499,),
        abort_terminations=r"(?:.*,)?(?:DC|DR)(?:,.*)?",
        failed_terminations=rf"(?:.*,)?(?:{_FAILED})(?:,.*)?",
        without_server="-?",
    ),
    variable=re.compile(r"%(?P<name>[A-Z][A-Z0-9_]*(?:\([^)]*\))?)(?::[0-9]+)?%"),
    columns={
        "started": (("START_TIME", "iso"), ("START_TIME(%s.%3f)", "s"), ("START_TIME(%s)", "s")),
        "method": (("REQ(:METHOD)", ""), ("REQUEST_HEADER(:METHOD)", "")),
        "target": (
            ("REQ(X-ENVOY-ORIGINAL-PATH?:PATH)", ""),
            ("REQ(:PATH)", ""),
            ("REQUEST_HEADER(X-ENVOY-ORIGINAL-PATH?:PATH)", ""),
            ("REQUEST_HEADER(:PATH)", ""),
            ("REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)", ""),
            ("REQ_WITHOUT_QUERY(:PATH)", ""),
            ("PATH(NQ)", ""),
            ("PATH", ""),
        ),
        "status": (("RESPONSE_CODE", ""),),
        "time": (("DURATION", "ms"),),
        "bytes": (("BYTES_SENT", ""),),
        "server": (("UPSTREAM_HOST", ""), ("UPSTREAM_HOST_NAME", ""), ("UPSTREAM_REMOTE_ADDRESS", "")),
        "backend": (("UPSTREAM_CLUSTER", ""), ("UPSTREAM_CLUSTER_RAW", "")),
        "retries": (("UPSTREAM_REQUEST_ATTEMPT_COUNT", "attempts"),),
        "termination": (("RESPONSE_FLAGS", ""),),
        "grpc_status": (
            ("GRPC_STATUS_NUMBER", ""),
            ("GRPC_STATUS", ""),
            ("TRAILER(GRPC-STATUS)", ""),
            ("RESP(GRPC-STATUS)", ""),
        ),
        "upgrade": (("RESP(UPGRADE)", ""), ("REQ(UPGRADE)", "")),
    },
    values={
        "START_TIME": r"[0-9]{4}-[0-9:T.Z+-]+",
        "RESPONSE_CODE": "[0-9]+",
        "DURATION": "[0-9]+|-",
        "BYTES_SENT": "[0-9]+",
        "BYTES_RECEIVED": "[0-9]+",
        **dict.fromkeys(("REQ(:METHOD)", "REQUEST_HEADER(:METHOD)"), "[A-Za-z][A-Za-z_-]*"),
        "RESPONSE_FLAGS": r"[A-Za-z,-]+",
        "UPSTREAM_REQUEST_ATTEMPT_COUNT": "[0-9]+|-",
    },
    advice=ADVICE,
    with_spaces=re.compile(r"RE(?:Q|SP)\((?!:METHOD).*\)|.*_DETAILS|.*_REASON|ROUTE_NAME"),
    response_times={"DURATION": "%DURATION%, from the request's first byte to the answer's last"},
)
