"""Notify people by chat, mail and many other services, through Apprise.

Apprise opens its own connections. Hosts that an address names are checked first; redirects are off; but a name is
resolved again when it is connected to. Where that matters, use the hook `webhook`.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from evaluator.errors import HookError
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.network import NetworkOptions, resolve_allowed
from evaluator.hooks.templates import OPTIONAL, VERSIONS, check_template, fill_words, show_words

if TYPE_CHECKING:
    import apprise


_ADDRESS = re.compile(r"([a-z0-9_+-]+)://.+", re.DOTALL)
_MENTION = re.compile(r"@(?=(?:everyone|here|channel|all)\b)|<(?=[@!#&])", re.IGNORECASE)
"""Begin of what services take for a mention of many people, or of a person by number."""
_KINDS = {"acknowledged": "success", "failed": "failure", "unknown": "warning", "waiting": "warning"}
"""Outcome → kind of message, which services show by colours or signs; `info` for others."""
_LOGGERS = ("apprise", "urllib3.connectionpool")
"""Loggers that write addresses, with the secrets in them, at their verbose levels."""
_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected", default=None)
"""Warnings of the hook that is sending here; Apprise passes the context on to its threads."""


def _check_address(text: str) -> str:
    """Check that an Apprise address begins with its service, which must not come from a secret."""
    if not _ADDRESS.fullmatch(text):
        raise ValueError("must begin with the service, written out: slack://${SLACK_TOKEN}, mailto://mail.example.org")
    return text


class NotifyOptions(NetworkOptions):
    """Who is notified, and of what."""

    to: list[Annotated[str, AfterValidator(_check_address)]] = Field(
        description="Apprise addresses; secrets in them as ${NAME}, escaped as addresses need it.",
        min_length=1,
    )
    title: Annotated[str, AfterValidator(check_template)] | None = Field(
        None,
        description="First line or subject; words such as ${release} are filled in. By default release, action and "
        "outcome.",
    )
    body: Annotated[str, AfterValidator(check_template), Field(min_length=1)] | None = Field(
        None,
        description="The message. By default what happened, verdict, versions, who requested it and why, and the link.",
    )

    def write_title(self, words: Mapping[str, str]) -> str:
        """Template of the title; `words`: those that are known."""
        if self.title is not None:
            return self.title
        return "${release}: ${action} ${outcome}" if words.get("outcome") else "${release}: ${action}"

    def write_body(self, words: Mapping[str, str]) -> str:
        """Template of the message; `words`: those that are known."""
        if self.body is not None:
            return self.body
        news = ["${summary}"] if words.get("summary") else []
        link = ["${link}"] if words.get("link") else []
        return "\n".join([*news, "${verdict}: ${baseline} to ${canary}. ${requester}: ${reason}", *link])


class Notify(BaseHook[NotifyOptions]):
    """Sends a message to each address."""

    kind = "notify"
    Options = NotifyOptions

    def _describe(self, words: Mapping[str, str]) -> str:
        services = " and ".join(_read_service(address) for address in self.options.to)
        title = show_words(self.options.write_title(words), words)
        body = show_words(self.options.write_body(words), words)
        return f"notifies {services}: {title}: {body}".replace("\n", " ")

    def _test(self) -> Outcome:
        """Check that Apprise can use each address, and that each host is allowed; sends nothing."""
        self._make_recipients()
        return Outcome("acknowledged", f"{len(self.options.to)} addresses can be used; nothing was sent")

    def _execute(self, context: HookContext) -> Outcome:
        """Send the message to each address; the outcome is failed if any was not notified."""
        words = context.words()
        title_template, body_template = self.options.write_title(words), self.options.write_body(words)
        # People are notified all the same.
        words |= {word: "an unknown version" for word in VERSIONS if not words[word]}
        if not words["outcome"]:
            words |= {word: "none" for word in OPTIONAL if not words[word]}
        body = fill_words(body_template, words, defuse)
        # A line break in the subject of a mail would begin another header.
        title = fill_words(title_template, words, defuse).replace("\n", " ").replace("\r", " ")
        kind = _KINDS.get(words["outcome"], "info")
        recipients = self._make_recipients()
        not_notified: list[str] = []
        with _collect_warnings(self._remove_secrets) as warnings:
            for address, recipient in zip(self.options.to, recipients, strict=True):
                if not _send(recipient, title, body, kind):
                    not_notified.append(_read_service(address))
        if not_notified:
            return Outcome(
                "failed",
                f"{len(recipients) - len(not_notified)} of {len(recipients)} were notified, "
                f"not {', '.join(not_notified)}",
                response="\n".join(warnings),
            )
        return Outcome("acknowledged", f"notified {', '.join(_read_service(address) for address in self.options.to)}")

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:  # noqa: ARG002 - a message stays sent
        """Return that undoing failed."""
        return Outcome("failed", "a message cannot be taken back")

    def _make_recipients(self) -> list[apprise.NotifyBase]:
        """Make Apprise's object for each address, whose `notify` sends a message. Raises HookError, UsageError.

        Each host is checked against `allow_hosts`, and redirects, which could lead to another host, are off.
        """
        import apprise

        asset = apprise.AppriseAsset(http_redirects=False, app_id="release-evaluator", app_desc="release evaluator")
        recipients = []
        with _collect_warnings(self._remove_secrets):  # its messages have the addresses with their secrets
            for address in self.options.to:
                recipient = apprise.Apprise.instantiate(
                    self._fill_secrets(address), asset=asset, suppress_exceptions=True
                )
                if not isinstance(recipient, apprise.NotifyBase):
                    raise HookError(
                        f"Apprise cannot use an address of {_read_service(address)}",
                        hint="see Apprise's documentation of that service",
                    )
                # An address can have an option that turns redirects on: off again.
                recipient.redirects = False
                host = getattr(recipient, "smtp_host", None) or recipient.host
                # Services without a host in their addresses have a fixed one.
                if "host" in recipient.template_tokens and host:
                    resolve_allowed(host, recipient.port or 443, self.options.allow_hosts)
                limit_s = self.options.timeout
                recipient.socket_connect_timeout = recipient.socket_read_timeout = limit_s
                recipients.append(recipient)
        return recipients


def _send(recipient: apprise.NotifyBase, title: str, body: str, kind: str) -> bool:
    """Send a message to one recipient; returns whether it was accepted. `kind`: info, success, warning or failure."""
    import apprise

    # Not by its own `notify`: only this class escapes text for services that take HTML or Markdown.
    sender = apprise.Apprise()
    sender.add(recipient)
    return bool(
        sender.notify(
            body=body, title=title, notify_type=apprise.NotifyType(kind), body_format=apprise.NotifyFormat.TEXT
        )
    )


def defuse(value: str) -> str:
    """Make a value from outside mention no user in a chat: neither `@everyone` nor `<@123>`."""
    return _MENTION.sub(lambda match: f"{match[0]}\u200b", value)


def _read_service(address: str) -> str:
    """Return the service of an Apprise address, such as `slack`; it is no secret."""
    return address.split("://", maxsplit=1)[0]


@contextlib.contextmanager
def _collect_warnings(remove_secrets: Callable[[str], str]) -> Iterator[list[str]]:
    """Remove secrets from all that Apprise and its HTTP client log within the block.

    Yields a list to which their warnings and errors of this block are added: other hooks send at the same time, and
    their secrets are not known here.
    """
    warnings: list[str] = []

    def clean_record(record: logging.LogRecord) -> bool:
        """Remove secrets from a record, and collect its text if it is a warning or an error."""
        record.msg = remove_secrets(record.getMessage())
        record.args = ()  # the message has them already
        if record.levelno >= logging.WARNING and _COLLECTED.get() is warnings:
            warnings.append(record.msg)
        return True  # it is logged

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(clean_record)
    token = _COLLECTED.set(warnings)
    try:
        yield warnings
    finally:
        _COLLECTED.reset(token)
        for logger in loggers:
            logger.removeFilter(clean_record)
