"""What a server said instead of an answer, as one sentence with a cause and a remedy."""

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


def unreachable(url: str, error: Exception, timeout_s: float) -> SourceError:
    """The error of a server that cannot be reached, or does not answer in time."""
    text = str(error)
    if isinstance(error.__cause__, zlib.error):
        return SourceError(
            f"the metrics server says that its answer is packed, and it cannot be unpacked: {text}",
            hint="let the proxy before it honour Accept-Encoding: identity",
        )
    if "timed out" in text.lower():
        return SourceError(
            f"{url} did not answer within {timeout_s:g} s",
            hint="raise sources.prometheus.timeout, or collect a shorter time",
        )
    if "refused" in text:
        cause = "the connection was refused"
    elif "resolve" in text or "Name or service" in text:
        cause = "its name is not known"
    elif "CERTIFICATE_VERIFY_FAILED" in text:
        cause = "its certificate is not trusted; name its authority in sources.prometheus.tls.ca"
    elif "IncompleteRead" in text:
        cause = "it ended the connection before its answer was complete"
    elif "SSL" in text:
        cause = "it ended the TLS handshake; does it ask for a certificate of ours (sources.prometheus.tls.cert)?"
    else:
        cause = text.rsplit(":", maxsplit=1)[-1].strip(" ()'\"")[:_LONGEST]
    return SourceError(f"{url} cannot be reached: {cause}", hint="is sources.prometheus.url right, and the server up?")


def odd_answer(url: str, query: str, why: str) -> SourceError:
    """The error of an answer that is JSON, and not what the API gives."""
    return SourceError(
        f"{url} gave an answer to {query[:_LONGEST]} that cannot be read: {why}",
        hint="does sources.prometheus.url name a server that speaks the query API of Prometheus?",
    )


def read_notes(answer: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """What a server says beside its answer: `warnings` are about missing data, `infos` are hints on names."""
    notes = answer.get(key)
    if isinstance(notes, str):
        return (notes,)
    if isinstance(notes, list):
        return tuple(str(text) for text in notes)
    return (json.dumps(notes, ensure_ascii=False)[:_LONGEST],) if notes else ()


def check_answer(url: str, response: requests.Response, query: str | None) -> dict[str, Any]:
    """Read the JSON of an answer, to a query or to something else. Raises SourceError that says what came instead."""
    status, sent = response.status_code, query or urlsplit(response.url).path.rpartition("/")[2]
    if status in _REDIRECTS:
        raise SourceError(
            f"{url} redirects to {response.headers.get('Location', 'another page')}, such as a login page",
            hint="give the address of the API itself in sources.prometheus.url, and its auth",
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise SourceError(
            f"{url} refuses us ({status}): who asks is not known, or may not ask",
            hint="set sources.prometheus.auth or tenant, with its secret as ${VARIABLE}",
        )
    if status == HTTPStatus.NOT_FOUND:
        raise SourceError(
            f"{url} has no query API (404)",
            hint="does sources.prometheus.url miss a path prefix, or have one too many?",
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise SourceError(f"{url} refuses so many requests (429)", hint="collect later, or a shorter time")
    answer = _read_json(url, response.content, status)
    if answer.get("status") != "success" or status != HTTPStatus.OK:
        message = str(answer.get("error", f"status {status}"))[:_LONGEST]
        raise SourceError(f"the server refused a query ({status}): {message}", hint=f"the query was: {sent[:_LONGEST]}")
    data = answer.get("data")
    if data is None or (query is not None and not (data and isinstance(data, dict))):
        raise odd_answer(url, sent, "it holds no data")
    if query is not None and "result" not in data:
        raise odd_answer(url, sent, "it has no list of series")
    return answer


def _read_json(url: str, body: bytes, status: int) -> dict[str, Any]:
    skeleton, samples = lift_samples(body)
    was_on = gc.isenabled()
    gc.disable()  # the collector would go through all samples again and again, for most of the time
    try:
        answer = json.loads(skeleton)
        for series in answer["data"]["result"] if samples else ():
            if "values" in series:
                series["values"] = samples[series["values"]]
    except (ValueError, KeyError, TypeError, IndexError):  # samples where something else than series had some, too
        answer = None
    finally:
        if was_on:
            gc.enable()
    if isinstance(answer, dict):
        return answer
    what = "an HTML page" if body[:200].lstrip().startswith(b"<") else "something else"
    raise SourceError(
        f"{url} answered with {what} instead of JSON (status {status})",
        hint="is it the address of Prometheus itself, and not of a login or a dashboard?",
    )
