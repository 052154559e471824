"""What PrometheusConnect sends with: a session that is fail-closed, whichever of its methods asks.

PrometheusConnect builds the questions. Left to itself it would take any page with status 200 for an answer, drop the
server's warnings (an answer may be partial), follow redirects to a login, put long queries into the address, retry
status 500 for seconds, have no limit of size and none of time for the whole answer, and make a list, a float and a text
of every sample. So each answer is checked and read here, before PrometheusConnect takes the result out of it.
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
"""What proxies answer that let only GET through."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server says beside the result: kind of result, warnings, hints, its clock, size of the answer (bytes)."""

    kind: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    date: str
    size: int


class QuerySession(requests.Session):
    """Asks one server: by POST as PrometheusConnect does, by GET once that is all that gets through to it."""

    def __init__(self, options: PrometheusSource) -> None:
        # A server that is restarting is asked up to three times.
        retry = Retry(total=2, backoff_factor=0.2, allowed_methods=None, status_forcelist=(502, 503, 504), redirect=0)
        self._adapter = Adapter(LARGEST_ANSWER, retry=retry)
        super().__init__()
        tls = options.tls
        for path in (tls.ca, tls.cert, tls.key):
            if path and not Path(path).exists():
                raise SourceError(f"{path} of sources.prometheus.tls is not there", hint="check its path")
        self.verify = tls.ca or tls.verify
        if tls.cert:
            self.cert = (tls.cert, tls.key) if tls.key else tls.cert
        self._options = options
        self._gets_only = False
        self._of_thread = threading.local()

    @property
    def reply(self) -> Reply:
        """What was said beside the last result that this thread asked for."""
        reply: Reply = self._of_thread.reply
        return reply

    def mount(self, prefix: str, adapter: Any) -> None:  # noqa: ARG002 - PrometheusConnect brings one without limits
        """Send over connections that can be ended, whatever is to be mounted."""
        super().mount(prefix, self._adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: a redirect is an answer, such as that of a login page."""

    def request(  # type: ignore[override]
        self, method: str, url: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> requests.Response:
        """Ask a question and check the answer, whose `json()` is what was read. Raises SourceError."""
        form, shown = dict(params or {}), self._options.shown_url
        try:
            if method == "POST" and not self._gets_only:
                # As a form: the address, where PrometheusConnect puts them, has no room for long queries.
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
                f"the metrics server packs its answers as {packing[:40]}, which was not asked for",
                hint="let the proxy before it honour Accept-Encoding: identity",
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
    """Did the API itself answer, be it with an error?"""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("status") in {"success", "error"}
