"""The session that PrometheusConnect sends with: it refuses any answer that is not one of the query API.

PrometheusConnect builds the requests. With its own session it takes any page with status 200 for an answer, drops the
server's warnings (an answer may be partial), follows redirects to a login, puts long queries into the URL, retries
status 500 for seconds, has no limit for the size of an answer or its total time, and makes a list, a float and a text
of every sample. So each answer is checked and read here, before PrometheusConnect takes the result from it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests
from urllib3 import Retry

from evaluator.errors import SourceError
from evaluator.network import PACKED, Adapter
from evaluator.sources.prometheus.faults import check_answer, explain_unreachable, read_notes
from evaluator.sources.prometheus.options import PrometheusSource

LARGEST_ANSWER = 1 << 28
"""Bytes of one answer, unpacked."""

_POST_REFUSED = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_IMPLEMENTED,
}
"""Answers of proxies that allow only GET."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer without its result: kind of result, warnings, hints, the server's clock, size of the answer (bytes)."""

    kind: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    date: str
    size: int


class QuerySession(requests.Session):
    """Queries one server: by POST as PrometheusConnect does, or by GET once POST was refused."""

    def __init__(self, options: PrometheusSource) -> None:
        """Prepare a session with the TLS options. Raises SourceError for a file of certificates that does not exist."""
        # A server that is restarting is asked up to three times. Queries change nothing, so all methods (None) are
        # repeated, also POST. No redirect is followed.
        retry = Retry(total=2, backoff_factor=0.2, allowed_methods=None, status_forcelist=(502, 503, 504), redirect=0)
        self._adapter = Adapter(LARGEST_ANSWER, retry=retry)
        super().__init__()  # calls `mount`, which needs the adapter
        tls = options.tls
        for path in (tls.ca, tls.cert, tls.key):
            if path and not Path(path).exists():
                raise SourceError(f"{path} of sources.prometheus.tls does not exist", hint="check its path")
        self.verify = tls.ca or tls.verify
        if tls.cert:
            self.cert = (tls.cert, tls.key) if tls.key else tls.cert
        self._options = options
        self._uses_get = False
        """Set once the server has refused a POST and answered the same query by GET."""
        self._thread_data = threading.local()
        """Its `reply` is the last answer of each thread, as windows are requested by a thread of their own."""

    @property
    def reply(self) -> Reply:
        """The last answer that this thread received, without its result."""
        reply: Reply = self._thread_data.reply
        return reply

    def mount(self, prefix: str, adapter: Any) -> None:  # noqa: ARG002 - PrometheusConnect brings one without limits
        """Mount the adapter that has limits, instead of `adapter`."""
        super().mount(prefix, self._adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Follow no redirect: it is an answer, such as that of a login page."""

    def request(  # type: ignore[override]
        self, method: str, url: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> requests.Response:
        """Send a request and check the answer, whose `json()` then returns what was read here. Raises SourceError.

        PrometheusConnect calls this with the query in `params`; warnings and notes of the answer are in `reply`.
        """
        parameters, shown_url = dict(params or {}), self._options.shown_url
        try:
            if method == "POST" and not self._uses_get:
                # As a form: long queries do not fit into the URL, where PrometheusConnect puts them.
                response = super().request("POST", url, data=parameters, **options)
                if response.status_code in _POST_REFUSED and not _is_api_answer(response.content):
                    # A proxy may have refused the POST, not the server.
                    get_response = super().request("GET", url, params=parameters, **options)
                    if _is_api_answer(get_response.content):
                        self._uses_get = True
                        response = get_response
            else:
                response = super().request("GET", url, params=parameters, **options)
        except requests.RequestException as error:
            raise explain_unreachable(shown_url, error, self._options.timeout) from None
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"", "identity", *PACKED}:
            raise SourceError(
                f"the metrics server compresses its answers as {encoding[:40]}, which was not requested",
                hint="let the proxy in front of it respect Accept-Encoding: identity",
            )
        if len(response.content) > LARGEST_ANSWER:
            raise SourceError(
                f"the metrics server sent more than {LARGEST_ANSWER >> 20} MiB in one answer",
                hint="narrow sources.prometheus.selectors, or lower sources.prometheus.max_series",
            )
        answer = check_answer(shown_url, response, parameters.get("query"))
        warnings = read_notes(answer, "warnings")
        if answer.get("isPartial"):
            warnings = (*warnings, "the answer is partial: a part of the storage did not answer")
        kind = answer["data"].get("resultType") if isinstance(answer["data"], dict) else ""
        date = response.headers.get("Date", "")
        self._thread_data.reply = Reply(str(kind), warnings, read_notes(answer, "infos"), date, len(response.content))
        response.json = lambda **_: answer  # type: ignore[method-assign]
        return response


def _is_api_answer(body: bytes) -> bool:
    """Is this an answer of the API itself, even an error, and not of a proxy?"""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and answer.get("status") in {"success", "error"}
