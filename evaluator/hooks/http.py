"""Any request: method, address, headers and body from the options, with the words of the context filled in.

One request does what an action needs; or two share requests between arms: one sets the shares, one reads them.

Words are escaped for their place. Secrets are allowed in headers only, as `${NAME}`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, cast
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field, model_validator

from evaluator.errors import HookError
from evaluator.fields import Section
from evaluator.hooks import by_hand
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.network import HttpResponse, MaybeSent, TlsOptions, resolve_allowed, send, split_url
from evaluator.hooks.options import TextWithWords, refuse_words
from evaluator.hooks.router import (
    ARMS,
    SHARES,
    Applied,
    ArmName,
    Router,
    Shares,
    add_shares,
    check_arms,
    parse_shares,
    show_shares,
)
from evaluator.hooks.templates import (
    SET_WORDS,
    WORDS,
    check_template,
    check_words,
    escape_json,
    escape_url,
    fill_json,
    fill_url,
    fill_words,
    list_words,
    show_words,
)
from evaluator.secrecy import OF_HOOKS, SECRET_HEADERS

_RESERVED_HEADERS = ("host", "content-length", "transfer-encoding", "connection", "accept-encoding")
"""Headers that the evaluator sets itself."""
_FORM = "application/x-www-form-urlencoded"
_PRINTABLE = "".join(map(chr, range(32, 127)))
_WORD_OR_SECRET = re.compile(r"\$\{([^}]*)\}")
_EXAMPLES = {"share": "0", "percent": "0", "shares": '{"arm": 1}'}
"""Values of the words that stand without quotes in JSON."""
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


def _check_url(text: str) -> str:
    """Return a URL unchanged. It may contain `${word}` only after the host: words must not decide where a request goes.

    Raises ValueError.
    """
    check_template(text, SET_WORDS)  # raises ValueError for an unknown word
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "${" in parts.netloc or "@" in parts.netloc:
        raise ValueError("must begin with http:// or https:// and a host that is written out, without a password")
    return text


class HttpRequest(Section):
    """One request."""

    method: Method = Field("POST", description="GET, POST, PUT, PATCH or DELETE.")
    url: Annotated[TextWithWords, AfterValidator(_check_url)] = Field(description="The address; words are escaped.")
    headers: dict[str, str] = Field(default_factory=dict, description="Headers to send; secrets as ${NAME}.")
    body: str = Field(
        "", description="The body; words are escaped as in JSON, or as in a form if Content-Type is that of a form."
    )

    more_words: ClassVar[tuple[str, ...]] = ()
    """Words that the request may have besides those of each template."""

    @property
    def content_type(self) -> str:
        """Type of the body: JSON, unless a header names another."""
        for name, value in self.headers.items():
            if name.lower() == "content-type":
                return value
        return "application/json"

    @model_validator(mode="after")
    def _check_headers_and_body(self) -> Self:
        """Check that headers can be sent, name only known words and variables, and that a JSON body is JSON."""
        for text in (self.url, self.body):
            check_template(text, self.more_words)
        for name, text in self.headers.items():
            if name.lower() in _RESERVED_HEADERS:
                raise ValueError(f"header {name} is set by the evaluator")
            if not re.fullmatch(r"[A-Za-z0-9-]+", name) or any(char not in _PRINTABLE for char in text):
                raise ValueError(f"header {name} has characters that headers cannot have")
            placeholders = _WORD_OR_SECRET.findall(text)  # names within ${…}
            for placeholder in placeholders:
                if placeholder not in (*WORDS, *self.more_words) and not OF_HOOKS.pattern.fullmatch(
                    f"${{{placeholder}}}"
                ):
                    raise ValueError(
                        f"header {name} names ${{{placeholder}}}, which is neither a word nor a variable in capitals"
                    )
            if SECRET_HEADERS.search(name) and not placeholders:
                raise ValueError(
                    f"header {name} must name an environment variable, such as ${{TOKEN}}: no secrets here"
                )
        if self.body and "json" in self.content_type:
            try:
                # With any text in place of the words; numbers and JSON need no quotes.
                examples = dict.fromkeys(WORDS, "x") | {name: _EXAMPLES[name] for name in self.more_words}
                json.loads(fill_json(self.body, examples))
            except ValueError:
                unquoted = ", and ${shares} without" if self.more_words else ""
                raise ValueError(
                    f'body is not JSON: words must be within quotes, such as "${{canary}}"{unquoted}'
                ) from None
        return self


class SetRequest(HttpRequest):
    """The request that sets shares."""

    more_words: ClassVar[tuple[str, ...]] = (*SET_WORDS, "share")


class GetRequest(HttpRequest):
    """The request that reads shares."""

    method: Method = Field("GET", description="GET or POST.")


class HttpOptions(HttpRequest, TlsOptions):
    """The request, how to take it back, and which answers mean success; or two requests of a router."""

    url: Annotated[TextWithWords, AfterValidator(_check_url)] = Field("", description="The address; words are escaped.")
    set: SetRequest | None = Field(
        None,
        description="Or, for a router, the request that sets the shares; its body is ${shares} if it has none. "
        "It may be sent again.",
    )
    get: GetRequest | None = Field(
        None, description='With set: the request whose answer has the shares, {"baseline": 0.95, …}.'
    )
    arms: list[ArmName] = ARMS
    shares: Shares | None = SHARES
    undo: HttpRequest | None = Field(None, description="The request that takes it back.")
    accept: list[Annotated[int, Field(ge=200, le=599)]] = Field(
        default_factory=list, description="Statuses that mean success; by default all from 200 to 299."
    )
    contains: Annotated[str, AfterValidator(refuse_words)] | None = Field(
        None, description="Text that the answer must contain, where its status is not enough."
    )
    idempotent: bool | None = Field(
        None, description="Whether it may be sent twice; POST and PATCH may not by default."
    )

    @model_validator(mode="after")
    def _check_requests(self) -> Self:
        """Check that there is one request, or two for a router."""
        if bool(self.set) != bool(self.get) or bool(self.url) == bool(self.set):
            raise ValueError("needs url; or, for a router, set and get")
        if self.set and (self.undo or self.body or self.headers):
            raise ValueError("cannot have undo, body or headers next to set: they are options of set and get")
        check_arms(self.arms, self.shares)
        return self


class RequestHook(BaseHook[HttpOptions]):
    """A hook that sends requests."""

    kind = "http"
    Options = HttpOptions

    def _check_request(self, request: HttpRequest) -> None:
        """Check that the secrets of a request are set, and that its host may be connected to. Raises UsageError."""
        for text in request.headers.values():
            self._fill_secrets(text)  # raises UsageError for a variable that is not set
        url_before_words = request.url.split("${")[0]  # has the host, which names no words
        host, port = split_url(url_before_words)
        resolve_allowed(host, port, self.options.allow_hosts)

    def _send(
        self, request: HttpRequest, words: Mapping[str, str], limit_s: float, *, changes: bool = True
    ) -> HttpResponse:
        """Send a request with words and secrets filled in, and return the answer. Raises HookError, MaybeSent.

        `changes`: it changes something; without an answer it is then not known whether it did.
        """
        fill_body = fill_url if _FORM in request.content_type else fill_json

        def fill(match: re.Match[str]) -> str:
            """Return the value of the word `${word}`, or of the variable `${NAME}`."""
            name = match[1]
            return quote(words[name], safe=_PRINTABLE) if name in words else self._fill_secrets(match[0])

        of_headers = " ".join(request.headers.values())
        check_words(OF_HOOKS.pattern.sub("", of_headers), words)
        # Both are filled in at once: a word whose value contains ${NAME} must not reveal that secret.
        headers = {name: _WORD_OR_SECRET.sub(fill, text) for name, text in request.headers.items()}
        if any(char not in _PRINTABLE for text in headers.values() for char in text):
            raise HookError("a secret has line breaks or other characters that a header cannot have")
        if request.body and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = request.content_type
        url, body = fill_url(request.url, words), fill_body(request.body, words).encode()
        return send(request.method, url, self.options, body, headers, changes=changes, timeout_s=limit_s)

    def _write_request_by_hand(self, request: HttpRequest, words: Mapping[str, str]) -> list[str]:
        """Write the line that sends a request. Raises HookError for a word that has no value."""
        check_words(OF_HOOKS.pattern.sub("", " ".join(request.headers.values())), words)

        def fill_header(text: str) -> str:
            """Fill in the words of a part of a header; variables are not in it."""
            return fill_words(text, words, lambda value: quote(value, safe=_PRINTABLE))

        headers = {name: by_hand.quote(text, fill_header) for name, text in request.headers.items()}
        if request.body and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = shlex.quote(request.content_type)
        fill_body = fill_url if _FORM in request.content_type else fill_json
        body = shlex.quote(fill_body(request.body, words)) if request.body else ""
        return [by_hand.write_curl(request.method, fill_url(request.url, words), headers, body, self.options.ca)]

    def _is_accepted(self, answer: HttpResponse) -> bool:
        """Whether the status of an answer means success."""
        return answer.status in self.options.accept if self.options.accept else answer.ok


class Http(RequestHook):
    """Sends one request, once. With the options `set` and `get`, an HttpRouter is made instead."""

    @classmethod
    def choose_class(cls, options: HttpOptions) -> type[BaseHook[HttpOptions]]:
        """Return the class for one request, or for a router."""
        return HttpRouter if options.set else cls

    def __init__(self, options: HttpOptions, environment: Any = None) -> None:
        """Set whether it may be repeated: as the options say, else by the method of the request."""
        super().__init__(options, environment)
        if options.idempotent is None:  # by the definition of HTTP, all other methods do no harm if they are repeated
            self.idempotent = options.method not in ("POST", "PATCH")
        else:
            self.idempotent = options.idempotent

    def _describe(self, words: Mapping[str, str]) -> str:
        return f"sends {_show_request(self.options, words)}"

    def _describe_undo(self, words: Mapping[str, str]) -> str:
        if not self.options.undo:
            return super()._describe_undo(words)
        return f"sends {_show_request(self.options.undo, words)}, to take back {_show_request(self.options, words)}"

    def _test(self) -> Outcome:
        """Check that the secrets of both requests are set, and that their hosts may be connected to."""
        for request in filter(None, (self.options, self.options.undo)):
            self._check_request(request)
        return Outcome("acknowledged", "the host is allowed, and the secrets are set; nothing was sent")

    def _execute(self, context: HookContext) -> Outcome:
        return self._send_once(self.options, context)

    def can_undo(self) -> bool:
        """Whether `undo` names a request."""
        return self.options.undo is not None

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:
        """Send the request of the option `undo`; it needs no earlier value. Raises HookError if there is none."""
        if self.options.undo is None:
            return super()._undo(context, earlier)  # raises HookError
        return self._send_once(self.options.undo, context)

    def write_by_hand(self, context: HookContext) -> list[str]:
        """Write lines for a shell that do the same."""
        return self._write_request_by_hand(self.options, context.words())

    def write_undo_by_hand(self, context: HookContext, earlier: Any) -> list[str]:  # noqa: ARG002 - it needs none
        """Write lines for a shell that undo what the hook did."""
        return self._write_request_by_hand(self.options.undo, context.words()) if self.options.undo else []

    def _send_once(self, request: HttpRequest, context: HookContext) -> Outcome:
        """Send a request, and judge the answer. Raises HookError, MaybeSent."""
        answer = self._send(request, context.words(), min(self.options.timeout, context.left_s()))
        message = f"the answer was {answer.status}"
        if not self._is_accepted(answer):
            return Outcome("unknown" if answer.may_be_done else "failed", message, response=answer.text)
        if self.options.contains and self.options.contains not in answer.text:
            return Outcome("failed", f"{message}, without '{self.options.contains}'", response=answer.text)
        return Outcome("acknowledged", message, response=answer.text)


class HttpRouter(RequestHook, Router[HttpOptions]):
    """Shares requests by two HTTP requests: one sets the shares, one reads those that the router has."""

    def __init__(self, options: HttpOptions, environment: Any = None) -> None:
        """Give the request that sets shares a body, if it has none."""
        super().__init__(options, environment)
        set_request = cast("SetRequest", options.set)  # both are there: see `choose_class`
        has_body = set_request.body or set_request.method in ("GET", "DELETE")
        self._set_request = set_request if has_body else set_request.model_copy(update={"body": "${shares}"})
        self._get_request = cast("GetRequest", options.get)

    def arms(self) -> tuple[str, ...]:
        """Return the arms of the options."""
        return tuple(self.options.arms)

    def _list_requested(self) -> Mapping[str, float] | None:
        return self.options.shares

    def _describe_router(self, words: Mapping[str, str]) -> str:
        return f"the router at {show_words(self._set_request.url, words, escape_url)}"

    def _test_router(self) -> list[str]:
        """Check secrets and hosts of both requests, and send the one that reads the shares. Raises HookError."""
        for request in (self._set_request, self._get_request):
            self._check_request(request)
        request = self._get_request
        if list_words(" ".join([request.url, request.body, *request.headers.values()])):
            return ["the hosts are allowed; nothing was sent, because `get` has words that only a request fills in"]
        return [f"the shares are {show_shares(self._read_state({}))}; no share was set"]

    def _read_state(self, words: Mapping[str, str]) -> dict[str, float]:
        """Send the request whose answer has the shares. Raises HookError."""
        answer = self._send(self._get_request, words, self.options.timeout, changes=False)
        if not answer.ok:
            raise HookError(
                f"the answer to {self._get_request.url} was {answer.status}: {self._remove_secrets(answer.text)[:200]}"
            )
        return parse_shares(self._remove_secrets(answer.text), self.arms())

    def _write_state_by_hand(self, state: Mapping[str, float], words: Mapping[str, str]) -> list[str]:
        """Write the line that sends the request which sets the shares."""
        return self._write_request_by_hand(self._set_request, add_shares(words, state))

    def _apply(self, state: Mapping[str, float], words: Mapping[str, str], *, back: bool) -> Applied:  # noqa: ARG002 - set or not
        """Send the request that sets the shares. Raises HookError, MaybeSent."""
        answer = self._send(self._set_request, add_shares(words, state), self.options.timeout)
        problem = f"the answer was {answer.status}: {self._remove_secrets(answer.text)[:200]}"
        if self._is_accepted(answer) and self.options.contains and self.options.contains not in answer.text:
            raise HookError(f"{problem}, without '{self.options.contains}'")
        if not self._is_accepted(answer):
            raise (MaybeSent if answer.may_be_done else HookError)(problem)
        return Applied(notes=(f"the answer was {answer.status}",))


def _show_request(request: HttpRequest, words: Mapping[str, str]) -> str:
    """Write a request for people, with the words that have a value; without its headers, which may hold secrets."""
    escape = escape_url if _FORM in request.content_type else escape_json
    body = f" with {show_words(request.body, words, escape)}" if request.body else ""
    return f"{request.method} {show_words(request.url, words, escape_url)}{body}"
