"""Requests without an answer. Locust reports a request when it has ended, and never reports some.

Its HTTP clients are watched, so requests of `HttpUser` and `FastHttpUser` are known from the moment they are sent. A
request that the end of the load (or of its user) cuts off is in flight. A request whose end Locust does not report is
not judged, but counted as left out: its `with` block ended with an exception, or the client raised one that Locust does
not count as a failure.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Signature, signature
from typing import Any

import requests
from gevent import GreenletExit
from locust.clients import HttpSession, absolute_http_url_regexp
from locust.exception import InterruptTaskSet, RescheduleTask, RescheduleTaskImmediately, StopTest, StopUser
from requests.sessions import merge_setting

from evaluator.records import InFlight, LeftOutKind
from evaluator.sources.request_buffer import RequestBuffer

NO_EVENT = "ended without a request event"

_STOPPED = (GreenletExit, KeyboardInterrupt, SystemExit)
"""Exceptions that stop a user."""

_TURNED = (StopUser, StopTest, RescheduleTask, RescheduleTaskImmediately, InterruptTaskSet)
"""Exceptions that end or change a task, whether the request failed or not."""

_KEY = "evaluator_open"


_Call = tuple[float, Any, Any, Any, tuple[Any, ...], Mapping[str, Any]]
"""One call of a client's `request`: when it began, the client, and what it was given: method, URL, and the rest."""


class OpenRequests:
    """The requests of one process that have no answer yet; `buffer` names them and counts those left out."""

    def __init__(self, buffer: RequestBuffer) -> None:
        self._buffer = buffer
        self._calls: dict[int, _Call] = {}
        """The calls that have not ended, by a key that is unique for as long as a call lasts."""
        self._cut_off: list[InFlight] = []
        """Requests that the end of their user cut off."""
        self._stopped: float | None = None
        """When Locust began to stop the users, by `time.perf_counter`."""
        self._signatures: dict[type[Any], Signature] = {}
        """Class of clients → parameters of its method `request`."""

    def begin(self) -> None:
        """Forget the requests of the run before."""
        self._calls.clear()
        self._cut_off.clear()
        self._stopped = None

    def stop(self) -> None:
        """Note that Locust stops the users: open requests do not grow older from now on."""
        if self._stopped is None:
            self._stopped = time.perf_counter()

    def list_in_flight(self) -> tuple[InFlight, ...]:
        """Requests that the end of their user cut off, and after Locust began to stop the users, those still open.

        A request sent while users are being stopped had no time to be answered, and does not count.
        """
        if self._stopped is None:
            return tuple(self._cut_off)
        still_open = [call for call in list(self._calls.values()) if self._was_sent_before_stop(call)]
        return (*self._cut_off, *map(self._describe, still_open))

    def watch(self, session: type[Any], response: type[Any]) -> None:
        """Watch a class of clients and the class of its responses, by replacing methods of these classes.

        This is permanent, as a process records once.
        """
        self._signatures[session] = signature(session.request)
        session.request = self._watch_request(session.request)
        response.__exit__ = self._watch_exit(response.__exit__)

    def _watch_request(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Make a replacement for a client's method `request` that keeps each call in `_calls` until it has ended."""
        calls, now = self._calls, time.perf_counter

        # This is called for every request, so it packs and unpacks as little as possible.
        @wraps(original)
        def request(session: Any, method: Any, url: Any, *arguments: Any, **options: Any) -> Any:
            # Calls the client's own method, `original`, and keeps the call in `calls` meanwhile.
            key = id(options)  # the dict of this call; its id is unique while the call lasts
            calls[key] = now(), session, method, url, arguments, options
            try:
                if options or arguments:  # most calls have none: then there is nothing to unpack
                    response = original(session, method, url, *arguments, **options)
                else:
                    response = original(session, method, url)
            except BaseException as error:
                # The call is gone if a new run has begun in the meantime.
                if call := calls.pop(key, None):
                    self._record_broken_call(call, error)
                raise
            if "stream" in options and options["stream"] and options.get("catch_response"):
                # The body is read in the `with` block, which ends the request: `__exit__` removes the call by its key.
                setattr(response, _KEY, key)
            else:
                calls.pop(key, None)
            return response

        return request

    def _watch_exit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Make a replacement for a response's `__exit__` that counts requests whose `with` block raised an error."""

        @wraps(original)
        def leave_block(response: Any, error_class: Any, error: Any, trace: Any) -> Any:
            # Replaces the method `__exit__` of a response, `original`. `error` None: the block raised nothing.
            # Only the call of a streamed response has a key and lasts until here; else `call` is None.
            call = self._calls.pop(vars(response).get(_KEY, 0), None)
            is_handled = original(response, error_class, error, trace)
            # Locust reports a request whose block raised nothing, or had set the outcome before.
            if error_class is not None and not is_handled and getattr(response, "_manual_result", None) is None:
                if call and isinstance(error, _STOPPED):  # the end of the user cut off a streamed body
                    self._record_broken_call(call, error)
                else:
                    self._leave_out_answered(response, error)
            return is_handled

        return leave_block

    def _was_sent_before_stop(self, call: _Call) -> bool:
        began = call[0]
        return self._stopped is None or began < self._stopped  # None: Locust does not stop the users

    def _record_broken_call(self, call: _Call, error: BaseException) -> None:
        """Record a call that raised an exception that Locust does not count as a failure, so that no event reports it.

        A call that the end of its user cut off is in flight; any other is left out, as a failure.
        """
        if isinstance(error, _STOPPED):
            if self._was_sent_before_stop(call):
                self._cut_off.append(self._describe(call))
        elif not isinstance(error, _TURNED):  # those are raised by a listener of the event, which has reported the call
            arm, _, _ = self._identify(call)
            self._buffer.leave_out(arm, LeftOutKind.OTHER_KIND, _describe_missing_event(error), failed=True)

    def _leave_out_answered(self, response: Any, error: BaseException) -> None:
        """Count an answered request as left out whose `with` block ended with `error`: Locust does not report it.

        It failed, unless the exception only ended the user or the task: then the status of the response decides.
        """
        meta = response.request_meta
        name, context = meta.get("name"), meta.get("context")
        arm, _, _ = self._buffer.identify(meta.get("request_type"), name, context, response)
        failed = True
        if isinstance(error, (*_STOPPED, *_TURNED)):
            with contextlib.suppress(Exception):  # each client and locustfile raises its own for a failure
                response.raise_for_status()
                failed = False
        self._buffer.leave_out(arm, LeftOutKind.OTHER_KIND, _describe_missing_event(error), failed=failed)

    def _describe(self, call: _Call) -> InFlight:
        """A call as a request in flight: what it is, when it was sent (epoch, s), its age (s) at the stop or now."""
        began, *_ = call
        now = time.perf_counter()
        end = now if self._stopped is None else self._stopped
        sent_s = time.time() - (now - began)  # `began` is of a clock that does not count from 1970
        return InFlight(*self._identify(call), round(sent_s, 6), round(max(end - began, 0.0), 6))

    def _identify(self, call: _Call) -> tuple[str, str, str]:
        """Find arm, instance and endpoint of a call, as Locust's client would report them at its end."""
        _, session, method, url, arguments, options = call
        try:
            client_signature = next(known for cls, known in self._signatures.items() if isinstance(session, cls))
            parameters = client_signature.bind(session, method, url, *arguments, **options).arguments
        except TypeError:
            parameters = {"method": method, "url": url, **options}  # a call with arguments that the client refuses
        name = parameters.get("name") or session.request_name or _derive_name(session, parameters)
        context = parameters.get("context") or {}
        with contextlib.suppress(Exception):  # code of a locustfile may fail; only its context is lost
            context = {**session.user.context(), **context} if session.user else context
        return self._buffer.identify(parameters.get("method"), name, context)


def _derive_name(session: Any, parameters: Mapping[str, Any]) -> Any:
    """The name that a client gives to a request without one: its URL, or the path that is really sent.

    `parameters`: what the client's `request` was called with.
    """
    url: Any = parameters.get("url")
    if not isinstance(session, HttpSession):
        return url
    # HttpSession names a request by the path that it really sends, including the query.
    prepared = requests.PreparedRequest()
    try:
        # `kwargs`: the options of the call that the client's signature does not name.
        full_url = url if absolute_http_url_regexp.match(url) else f"{session.base_url}{url}"
        prepared.prepare_url(full_url, merge_setting(parameters.get("kwargs", {}).get("params"), session.params))
    except (requests.RequestException, TypeError, ValueError):
        return url
    return prepared.path_url


def _describe_missing_event(error: BaseException) -> str:
    return f"{NO_EVENT}: {type(error).__name__}"
