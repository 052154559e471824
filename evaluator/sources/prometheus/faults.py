"""Errors for what a server sent instead of an answer: one sentence with the cause, and a hint."""

from __future__ import annotations

import gc
import json
import zlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from evaluator.errors import SourceError
from evaluator.sources.prometheus.samples import lift_samples

if TYPE_CHECKING:
    import requests


_REDIRECTS = range(300, 400)
_LONGEST = 300


def explain_unreachable(url: str, error: Exception, timeout_s: float) -> SourceError:
    """Make the error of a server that cannot be reached, or does not answer in time; the text of `error` says why."""
    text = str(error)
    if isinstance(error.__cause__, zlib.error):
        return SourceError(
            f"the answer of the metrics server cannot be decompressed: {text}",
            hint="let the proxy in front of it respect Accept-Encoding: identity",
        )
    if "timed out" in text.lower():
        return SourceError(
            f"{url} did not answer within {timeout_s:g} s",
            hint="raise sources.prometheus.timeout, or collect a shorter time",
        )
    if "refused" in text:
        cause = "the connection was refused"
    elif "resolve" in text or "Name or service" in text:
        cause = "its name cannot be resolved"
    elif "CERTIFICATE_VERIFY_FAILED" in text:
        cause = "its certificate is not trusted; name its authority in sources.prometheus.tls.ca"
    elif "IncompleteRead" in text:
        cause = "it ended the connection before its answer was complete"
    elif "SSL" in text:
        cause = "it ended the TLS handshake; does it need a client certificate (sources.prometheus.tls.cert)?"
    else:
        cause = text.rsplit(":", maxsplit=1)[-1].strip(" ()'\"")[:_LONGEST]
    return SourceError(
        f"{url} cannot be reached: {cause}", hint="check sources.prometheus.url, and that the server runs"
    )


def explain_odd_answer(url: str, query: str, problem: str) -> SourceError:
    """Make the error of an answer that is JSON, but not an answer of the API; `problem`: such as "it has no time"."""
    return SourceError(
        f"{url} gave an answer to {query[:_LONGEST]} that cannot be read: {problem}",
        hint="check that sources.prometheus.url is a server with the query API of Prometheus",
    )


def read_notes(answer: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Read the notes of the server in an answer; none for a key that is missing.

    `key`: `warnings` are about missing data, `infos` are hints on names.
    """
    notes = answer.get(key)
    if isinstance(notes, str):
        return (notes,)
    if isinstance(notes, list):
        return tuple(str(text) for text in notes)
    return (json.dumps(notes, ensure_ascii=False)[:_LONGEST],) if notes else ()


def check_answer(url: str, response: requests.Response, query: str | None) -> dict[str, Any]:
    """Read the JSON of a successful answer; `query` is None if the request was not a query, but for example for labels.

    Returns the whole answer, whose result is in `data`. Raises SourceError for an error, or for another page.
    """
    status = response.status_code
    request_text = query or urlsplit(response.url).path.rpartition("/")[2]
    if status in _REDIRECTS:
        raise SourceError(
            f"{url} redirects to {response.headers.get('Location', 'another page')}, perhaps a login page",
            hint="give the address of the API itself in sources.prometheus.url, and its auth",
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise SourceError(
            f"{url} refuses us ({status}): the credentials are missing, or lack permission",
            hint="set sources.prometheus.auth or tenant, with its secret as ${VARIABLE}",
        )
    if status == HTTPStatus.NOT_FOUND:
        raise SourceError(
            f"{url} has no query API (404)",
            hint="check the path prefix of sources.prometheus.url",
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise SourceError(f"{url} received too many requests (429)", hint="collect later, or a shorter time")
    answer = _read_json(url, response.content, status)
    if answer.get("status") != "success" or status != HTTPStatus.OK:
        message = str(answer.get("error", f"status {status}"))[:_LONGEST]
        raise SourceError(
            f"the server refused a query ({status}): {message}", hint=f"the query was: {request_text[:_LONGEST]}"
        )
    data = answer.get("data")
    if data is None or (query is not None and not (data and isinstance(data, dict))):
        raise explain_odd_answer(url, request_text, "it has no data")
    if query is not None and "result" not in data:
        raise explain_odd_answer(url, request_text, "it has no list of series")
    return answer


def _read_json(url: str, body: bytes, status: int) -> dict[str, Any]:
    """Read an answer as JSON, with the samples of each series as arrays. Raises SourceError for anything else."""
    # The samples are most of an answer. They are read apart from its JSON, where a number takes their place.
    skeleton, samples = lift_samples(body)
    was_collecting = gc.isenabled()
    gc.disable()  # the garbage collector would scan all samples repeatedly, for most of the time
    try:
        answer = json.loads(skeleton)
        for series in answer["data"]["result"] if samples else ():
            if "values" in series:
                series["values"] = samples[series["values"]]
    except (ValueError, LookupError, TypeError, RecursionError):  # also if something other than series had samples
        answer = None
    finally:
        if was_collecting:
            gc.enable()
    if isinstance(answer, dict):
        return answer
    page = "an HTML page" if body[:200].lstrip().startswith(b"<") else "something else"
    raise SourceError(
        f"{url} answered with {page} instead of JSON (status {status})",
        hint="give the address of Prometheus itself, not of a login or a dashboard",
    )
