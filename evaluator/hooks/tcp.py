"""Look whether a port accepts connections, or whether it refuses them. Nothing is sent.

As a check before or after other hooks: a service that was started accepts, one that was stopped refuses. No answer is
neither: a firewall that drops packets, or a machine that is gone, says nothing about the service.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from evaluator.errors import HookError
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.network import NetworkOptions, resolve_allowed
from evaluator.hooks.options import Seconds, Text

_PAUSE_S = 0.5
"""Between two attempts."""


class TcpOptions(NetworkOptions):
    """What is connected to, and what is expected."""

    address: Text = Field(description="HOST:PORT.")
    refuses: bool = Field(
        False,  # noqa: FBT003
        description="On: it succeeds only if the connection is refused; no answer is no refusal.",
    )
    retry_for: Seconds | None = Field(
        None, description="For how long it is tried again until it succeeds; without it, it is tried once."
    )

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        """Check that the address has a host and a port, and that time for attempts is left."""
        match = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):(\d{1,5})", self.address)
        if not match or not 0 < int(match[1]) < 65536:
            raise ValueError(f"address must be HOST:PORT, not {self.address}")
        if self.retry_for and self.retry_for > self.time_limit:
            raise ValueError("has a retry_for that is longer than its time_limit")
        return self


class Tcp(BaseHook[TcpOptions]):
    """Connects, and closes the connection."""

    kind = "tcp"
    Options = TcpOptions

    def _describe(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        return f"checks that {self.options.address} {'refuses' if self.options.refuses else 'accepts'} connections"

    def _describe_undo(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - as above
        return f"does nothing: {self.options.address} was only looked at"

    def _test(self) -> Outcome:
        """Check that the host may be connected to; connects to nothing."""
        self._resolve()
        return Outcome("acknowledged", "the host is allowed; nothing was connected to")

    def _resolve(self) -> list[str]:
        """Return the addresses of the host. Raises HookError if hooks may not connect to it."""
        host, _, port = self.options.address.rpartition(":")
        return resolve_allowed(host.strip("[]"), int(port), self.options.allow_hosts)

    def _execute(self, context: HookContext) -> Outcome:
        """Connect until the expected happens, or time is over. Raises HookError."""
        until = time.monotonic() + min(self.options.retry_for or 0, context.left_s())
        attempts = 0
        while True:
            attempts += 1
            is_expected, description = self._attempt_once(context.left_s())
            if is_expected:
                return Outcome("acknowledged", description)
            if time.monotonic() + _PAUSE_S >= until:
                times = f", {attempts} times" if attempts > 1 else ""
                raise HookError(f"{description}{times}", hint=None if attempts > 1 else "`retry_for` tries it again")
            time.sleep(_PAUSE_S)

    def _attempt_once(self, left_s: float) -> tuple[bool, str]:
        """Connect to each address of the host once: was it as expected, and what was seen?

        One that accepts is enough; it refuses only if each address does.
        """
        port = int(self.options.address.rpartition(":")[2])
        answers = {}
        for address in self._resolve():
            try:
                socket.create_connection((address, port), max(min(self.options.timeout, left_s), 0.01)).close()
            except ConnectionRefusedError:
                answers[address] = "refuses"
            except TimeoutError:
                answers[address] = "does not answer"
            except OSError as error:
                answers[address] = f"cannot be reached ({error.strerror or type(error).__name__})"
            else:
                answers[address] = "accepts"
        if "accepts" in answers.values():
            return not self.options.refuses, f"{self.options.address} accepts connections"
        if set(answers.values()) == {"refuses"}:
            return self.options.refuses, f"{self.options.address} refuses connections"
        return False, f"{self.options.address}: " + ", ".join(f"{name} {answer}" for name, answer in answers.items())

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:  # noqa: ARG002 - nothing was changed
        """Return that there is nothing to take back."""
        return Outcome("acknowledged", "there is nothing to take back: it was only looked at")
