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
from evaluator.sources.prometheus.faults import check_answer, read_notes, unreachable
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
        # A server that is restarting is asked up to three times.
        retry = Retry(total=2, backoff_factor=0.2, allowed_methods=None, status_forcelist=(502, 503, 504), redirect=0)
        self._adapter = Adapter(LARGEST_ANSWER, retry=retry)
        super().__init__()
        tls = options.tls
        for path in (tls.ca, tls.cert, tls.key):
            if path and not Path(path).exists():
                raise SourceError(f"{path} of sources.prometheus.tls does not exist", hint="check its path")
        self.verify = tls.ca or tls.verify
        if tls.cert:
            self.cert = (tls.cert, tls.key) if tls.key else tls.cert
        self._options = options
        self._gets_only = False
        self._of_thread = threading.local()

    @property
    def reply(self) -> Reply:
        """The last answer of this thread, without its result."""
        reply: Reply = self._of_thread.reply
        return reply

    def mount(self, prefix: str, adapter: Any) -> None:  # noqa: ARG002 - PrometheusConnect brings one without limits
        """Mount the adapter that has limits, instead of `adapter`."""
        super().mount(prefix, self._adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Follow no redirect: it is an answer, such as that of a login page."""

    def request(  # type: ignore[override]
        self, method: str, url: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> requests.Response:
        """Send a request and check the answer, whose `json()` returns what was read. Raises SourceError."""
        form, shown = dict(params or {}), self._options.shown_url
        try:
            if method == "POST" and not self._gets_only:
                # As a form: long queries do not fit into the URL, where PrometheusConnect puts them.
                response = super().request("POST", url, data=form, **options)
                if response.status_code in _POST_REFUSED and not _is_of_the_api(response.content):
                    retried = super().request("GET", url, params=form, **options)
                    if _is_of_the_api(retried.content):
                        self._gets_only, response = True, retried
            else:
                response = super().request("GET", url, params=form, **options)
        except requests.RequestException as error:
            raise unreachable(shown, error, self._options.timeout) from None
        packing = response.headers.get("Content-Encoding", "identity").strip().lower()
        if packing not in {"", "identity", *PACKED}:
            raise SourceError(
                f"the metrics server compresses its answers as {packing[:40]}, which was not requested",
                hint="let the proxy in front of it respect Accept-Encoding: identity",
            )
        if len(response.content) > LARGEST_ANSWER:
            raise SourceError(
                f"the metrics server sent more than {LARGEST_ANSWER >> 20} MiB in one answer",
                hint="narrow sources.prometheus.selectors, or lower sources.prometheus.max_series",
            )
        answer = check_answer(shown, response, form.get("query"))
        warnings = read_notes(answer, "warnings")
        if answer.get("isPartial"):
            warnings = (*warnings, "the answer is partial: a part of the storage did not answer")
        kind = answer["data"].get("resultType") if isinstance(answer["data"], dict) else ""
        date = response.headers.get("Date", "")
        self._of_thread.reply = Reply(str(kind), warnings, read_notes(answer, "infos"), date, len(response.content))
        response.json = lambda **_: answer  # type: ignore[method-assign]
        return response


def _is_of_the_api(body: bytes) -> bool:
    """Did the API itself answer, even with an error?"""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("status") in {"success", "error"}
