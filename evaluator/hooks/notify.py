"""Notify people by chat, mail and many other services, through Apprise.

Apprise opens its own connections. Hosts that an address names are checked first; redirects are off; but a name is
resolved again when it is connected to. Where that matters, use the hook `webhook`.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from evaluator.errors import HookError
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.network import NetworkOptions, resolve
from evaluator.hooks.templates import check_template, fill_words

if TYPE_CHECKING:
    import apprise


_SERVICE = re.compile(r"([a-z0-9_+-]+)://.+", re.DOTALL)
_LOGGERS = ("apprise", "urllib3.connectionpool")
"""Loggers that write addresses, with the secrets in them, at their verbose levels."""


def _check_address(text: str) -> str:
    if not _SERVICE.fullmatch(text):
        raise ValueError("must begin with the service, written out: slack://${SLACK_TOKEN}, mailto://mail.example.org")
    return text


class NotifyOptions(NetworkOptions):
    """Who is notified, and of what."""

    to: list[Annotated[str, AfterValidator(_check_address)]] = Field(
        description="Apprise addresses; secrets in them as ${NAME}, escaped as addresses need it.",
        min_length=1,
    )
    title: Annotated[str, AfterValidator(check_template)] = Field(
        "${release}: ${action}", description="First line or subject; words such as ${release} are filled in."
    )
    body: Annotated[str, AfterValidator(check_template)] = Field(
        "${verdict}: ${baseline} to ${canary}. ${requester}: ${reason}", description="The message.", min_length=1
    )


class Notify(BaseHook[NotifyOptions]):
    """Sends a message to each address."""

    kind = "notify"
    Options = NotifyOptions

    def _describe(self) -> str:
        return f"notifies {' and '.join(_service(address) for address in self.options.to)}: {self.options.title}"

    def _test(self) -> Outcome:
        self._recipients()
        return Outcome("acknowledged", f"{len(self.options.to)} addresses can be used; nothing was sent")

    def _execute(self, context: HookContext) -> Outcome:
        words = context.words()
        title, body = (fill_words(text, words) for text in (self.options.title, self.options.body))
        recipients = self._recipients()
        missed: list[str] = []
        with _kept_clean(self._clean) as warnings:
            for address, recipient in zip(self.options.to, recipients, strict=True):
                if not recipient.notify(body=body, title=title.replace("\n", " ").replace("\r", " ")):
                    missed.append(_service(address))
        notified = len(recipients) - len(missed)
        if missed:
            return Outcome(
                "failed",
                f"{notified} of {len(recipients)} were notified, not {', '.join(missed)}",
                response="\n".join(warnings),
            )
        return Outcome("acknowledged", f"notified {', '.join(_service(address) for address in self.options.to)}")

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:  # noqa: ARG002 - a message stays sent
        return Outcome("failed", "a message cannot be taken back")

    def _recipients(self) -> list[apprise.NotifyBase]:
        import apprise

        asset = apprise.AppriseAsset(http_redirects=False, app_id="release-evaluator", app_desc="release evaluator")
        recipients = []
        with _kept_clean(self._clean):
            for address in self.options.to:
                recipient = apprise.Apprise.instantiate(self._secret(address), asset=asset, suppress_exceptions=True)
                if not isinstance(recipient, apprise.NotifyBase):
                    raise HookError(
                        f"Apprise cannot use an address of {_service(address)}",
                        hint="see Apprise's documentation of that service",
                    )
                # An address cannot turn redirects on again.
                recipient.redirects = False
                host = getattr(recipient, "smtp_host", None) or recipient.host
                if "host" in recipient.template_tokens and host:
                    resolve(host, recipient.port or 443, self.options.allow_hosts)
                limit_s = self.options.timeout
                recipient.socket_connect_timeout = recipient.socket_read_timeout = limit_s
                recipients.append(recipient)
        return recipients


def _service(address: str) -> str:
    return address.split("://", maxsplit=1)[0]


@contextlib.contextmanager
def _kept_clean(clean: Callable[[str], str]) -> Iterator[list[str]]:
    """The warnings that other packages log meanwhile; secrets are removed from all that they log."""
    warnings: list[str] = []

    def tidy(record: logging.LogRecord) -> bool:
        record.msg, record.args = clean(record.getMessage()), ()
        if record.levelno >= logging.WARNING:
            warnings.append(record.msg)
        return True

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(tidy)
    try:
        yield warnings
    finally:
        for logger in loggers:
            logger.removeFilter(tidy)
