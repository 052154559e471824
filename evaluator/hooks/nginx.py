"""Write an upstream file of nginx that belongs to the evaluator, test the configuration, and reload.

Open-source nginx has no way to set weights but its files. The file holds one `upstream` block and nothing else; nginx
includes it. What was in it before is kept for undo, and put back at once when nginx refuses what was written, or does
not read it. Nor does it report which servers are up, so a server that is to get traffic is connected to.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from evaluator.errors import HookError
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.by_hand import write_file
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.nginx_workers import find_workers, wait_for_new
from evaluator.hooks.options import HookOptions, Seconds, Text
from evaluator.hooks.weights import Weights, moves_back, show_weights
from evaluator.replacing import replace_file

MARK = "# Written by the release evaluator. Changes are lost."
_SERVER = r"^(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?$"
_SERVER_LINE = re.compile(r"^ {4}server \S+ (?:weight=(\d+)|(down));  # (.+)$", re.MULTILINE)
"""A line of a written file. Groups: weight, `down`, name of the server."""


class NginxOptions(HookOptions):
    """The file, its servers with their weights, and how nginx is called."""

    file: Text = Field(description="The file to write; nginx includes it, and only the evaluator writes it.")
    upstream: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = Field(description="Name of the upstream in it.")
    servers: dict[Text, Annotated[str, Field(pattern=_SERVER)]] = Field(
        description="Server to address: {baseline: '10.0.0.1:8000', canary: '10.0.1.1:8000'}.", min_length=1
    )
    weights: Weights = Field(description="Weight of each server, such as {baseline: 1, canary: 9}; 0 sends it nothing.")
    settings: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_ .=:-]*$")]] = Field(
        default_factory=list, description="More lines of the upstream block, without semicolon: [keepalive 16]."
    )
    nginx: list[Text] = Field(
        default_factory=lambda: ["nginx"],
        description="Command that calls nginx, with -c and -p where needed.",
        min_length=1,
    )
    check_servers: bool = Field(
        True,  # noqa: FBT003
        description="Off: servers that get traffic need not accept connections from here (nginx runs elsewhere).",
    )
    timeout: Seconds = Field(
        10.0, description="Longest that nginx may take to test or reload, or a server to accept a connection."
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """Check that each server has an address and a weight."""
        only_in_one = set(self.weights) ^ set(self.servers)
        if only_in_one:
            raise ValueError(f"{', '.join(sorted(only_in_one))} is in servers or in weights, but not in both")
        return self


class Nginx(BaseHook[NginxOptions]):
    """Weights of an upstream, by its file: tested before it is reloaded."""

    kind = "nginx"
    Options = NginxOptions

    def _describe(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        weights = show_weights(self.options.weights)
        return f"writes {self.options.file} with the weights {weights}, tests nginx's configuration and reloads it"

    def _test(self) -> Outcome:
        """Check that the file can be written, and that nginx accepts its configuration and reads the file."""
        text = self._read()  # raises HookError for a file of somebody else
        folder = Path(self.options.file).parent
        if not os.access(folder, os.W_OK):
            raise HookError(f"{folder} cannot be written to")
        # `-T` tests the configuration, and writes out all files that nginx reads.
        self._explain_unread(text or "", self._run_nginx("-T"), is_refused=True)
        if not text or text.isspace():  # found in every output of nginx
            why = "does not exist yet" if text is None else "is empty"
            raise HookError(
                f"it is not known whether nginx reads {self.options.file}: it {why}",
                hint=f"begin it with the line `{MARK}`, with the upstream as it is now below, and let nginx include it",
            )
        if f"upstream {self.options.upstream} {{" not in text:
            raise HookError(
                f"{self.options.file} has no upstream {self.options.upstream} now, and would have no other one",
                hint="write the name of the upstream that nginx's configuration uses",
            )
        return Outcome("acknowledged", "nginx accepts its configuration as it is; nothing was written")

    def _moves_back(self) -> bool:
        """Whether the weights only take traffic from the candidate. Raises HookError."""
        return moves_back(self.options.weights, _read_weights(self._read() or ""))

    def _check_target(self) -> None:
        """Raise HookError if a server that is to get traffic accepts no connection."""
        if unreachable := self._list_unreachable(self.options.weights):
            raise HookError(
                "; ".join(unreachable), hint="start it, or write `check_servers: false` if nginx runs elsewhere"
            )

    def _list_unreachable(self, weights: Mapping[str, int]) -> list[str]:
        """List which servers with a weight above 0 (server → weight) accept no connection, as sentences."""
        unreachable = []
        for name, weight in weights.items():
            address = self.options.servers.get(name)
            if not weight or not address or not self.options.check_servers:
                continue
            host, port = re.fullmatch(r"(.+?)(?::(\d+))?", address).groups()  # type: ignore[union-attr] # it matches any address
            try:
                socket.create_connection((host.strip("[]"), int(port or 80)), self.options.timeout).close()
            except (OSError, UnicodeError, OverflowError) as error:
                why = getattr(error, "strerror", None) or type(error).__name__
                unreachable.append(f"{name} accepts no connection at {address}: {why}")
        return unreachable

    def _read(self) -> str | None:
        """Read the file; None if there is none. Raises HookError if the evaluator did not write it."""
        path = Path(self.options.file)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError):
            raise HookError(f"{path} cannot be read") from None
        if text.strip() and not text.startswith(MARK):
            raise HookError(f"{path} was not written by the evaluator", hint="name a file of its own, and include it")
        return text

    def _describe_value(self, value: Any) -> str:
        """Describe the weights in the text of a file (`value`)."""
        return show_weights(_read_weights(str(value)))

    def write_by_hand(self, context: HookContext) -> list[str]:  # noqa: ARG002 - the file does not depend on it
        """Write lines for a shell that do the same."""
        return self._write_install_by_hand(self._write_file_text())

    def write_undo_by_hand(self, context: HookContext, earlier: Any) -> list[str]:  # noqa: ARG002 - as above
        """Write lines for a shell that undo what the hook did."""
        return self._write_install_by_hand(earlier) if isinstance(earlier, str) else []

    def _write_install_by_hand(self, text: str) -> list[str]:
        """Write the lines that replace the file by this text, test the configuration, and reload nginx."""
        nginx = shlex.join(self.options.nginx)
        return [*write_file(self.options.file, text), f"{nginx} -t && {nginx} -s reload"]

    def _write_file_text(self) -> str:
        """Write the text of the file with the servers and their weights."""
        options = self.options
        server_lines = []
        for name, address in options.servers.items():
            weight = options.weights[name]
            state = f"weight={weight}" if weight else "down"  # nginx has no weight 0
            server_lines.append(f"    server {address} {state};  # {name}")
        setting_lines = [f"    {setting};" for setting in options.settings]
        lines = [MARK, f"upstream {options.upstream} {{", *server_lines, *setting_lines, "}", ""]
        return "\n".join(lines)

    def _execute(self, context: HookContext) -> Outcome:
        """Write a file with the servers and their weights, and let nginx reload it."""
        is_going_back = self._goes_back(context.action)  # by the weights before the change
        outcome = self._install(self._write_file_text(), is_going_back=is_going_back)
        return self._report_problems(outcome, self.options.weights) if is_going_back else outcome

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:  # noqa: ARG002 - as above
        """Write the earlier text of the file again (`earlier`; None: there was no file), and let nginx reload it.

        Raises HookError without such a text, or if nginx refuses it; MaybeSent.
        """
        if not isinstance(earlier, str) or not earlier.startswith(MARK):
            raise HookError(
                "there was no file of the evaluator before, so there is nothing to restore", hint="write it by hand"
            )
        return self._report_problems(self._install(earlier, is_going_back=True), _read_weights(earlier))

    def _report_problems(self, outcome: Outcome, weights: Mapping[str, int]) -> Outcome:
        """Return the outcome of going back, failed where something is missing, although the file is written.

        A server with traffic accepts no connection, or nginx does not read the file.
        """
        unreachable = self._list_unreachable(weights)
        if not unreachable and outcome.state == "acknowledged":
            return outcome
        return Outcome("failed", f"not everything is as before: {'; '.join([*unreachable, outcome.did])}")

    def _install(self, text: str, *, is_going_back: bool) -> Outcome:
        """Write the file, test nginx's configuration, and reload nginx.

        Raises HookError if nginx refuses it, or does not read it, after the earlier file was put back; MaybeSent if
        nginx may reload it. If `is_going_back`, a file that nginx does not read is left there, and the outcome is
        failed.
        """
        earlier = self._read()
        _replace_file(self.options.file, text)
        try:
            configuration = self._run_nginx("-T")
            unread = self._explain_unread(text, configuration, is_refused=not is_going_back)
            output, is_confirmed = self._reload(configuration)
        except HookError:
            if earlier is None:
                Path(self.options.file).unlink(missing_ok=True)
            else:
                _replace_file(self.options.file, earlier)
            raise
        if unread:
            description = f"{unread}; the file is written, and nginx has reloaded its configuration"
            return Outcome("failed", description, response=output)
        description = f"nginx has reloaded {self.options.file}"
        if not is_confirmed:
            description += ", as far as is known here: its processes cannot be seen"
        return Outcome("acknowledged", description, earlier=earlier, response=output)

    def _reload(self, configuration: str) -> tuple[str, bool]:
        """Let nginx reload; returns what it writes, and whether its new workers were seen.

        `configuration`: what `nginx -T` wrote. Raises HookError if nginx runs here and starts no new workers;
        MaybeSent.
        """

        def find() -> frozenset[int] | None:
            """Find the workers that nginx has now; None if they cannot be known."""
            return find_workers(self.options.nginx, configuration) if self.options.check_servers else None

        earlier_workers = find()
        output = self._run_nginx("-s", "reload")
        if earlier_workers is None:
            return output, False
        if not wait_for_new(earlier_workers, find, self.options.timeout):
            raise HookError(
                f"nginx did not start to use {self.options.file} within {self.options.timeout:g} s",
                hint="its error log says why, such as a port that is in use",
            )
        return output, True

    def _explain_unread(self, text: str, configuration: str, *, is_refused: bool) -> str:
        """Say that nginx does not read the file with `text`; empty if it does. `configuration`: what `nginx -T` wrote.

        If `is_refused`, that is raised as HookError instead.
        """
        if text in configuration:
            return ""
        unread = f"nginx does not read {self.options.file}: it is not in what `nginx -T` writes out"
        hint = f"write `include {self.options.file};` into the block http of its configuration"
        if is_refused:
            raise HookError(unread, hint=hint)
        return f"{unread} ({hint})"

    def _run_nginx(self, *arguments: str) -> str:
        """Run nginx with arguments and return what it writes.

        Raises HookError if it fails; MaybeSent if it does not end in time after it may have sent a signal (-s).
        """
        command = [*self.options.nginx, *arguments]
        executable = shutil.which(command[0], path=self.environment.get("PATH", os.defpath))
        if not executable:
            raise HookError(f"there is no program {command[0]}", hint="name it with its whole path in nginx: […]")
        try:
            process = subprocess.run(
                [executable, *command[1:]], check=False, capture_output=True, text=True, timeout=self.options.timeout
            )
        except subprocess.TimeoutExpired:
            message = f"nginx {arguments[0]} did not end within {self.options.timeout:g} s"
            if "-s" in arguments:  # it may have received the signal
                raise MaybeSent(message) from None
            raise HookError(message) from None
        if process.returncode != 0:
            error_text = " ".join(process.stderr.split())[-500:]
            raise HookError(f"nginx {' '.join(arguments)} ended with {process.returncode}: {error_text}")
        return process.stdout + process.stderr


def _read_weights(text: str) -> dict[str, int]:
    """Read the weights (server → weight) in the text of a file; a server that is `down` has weight 0."""
    return {name: 0 if down else int(weight) for weight, down, name in _SERVER_LINE.findall(text)}


def _replace_file(file: str, text: str) -> None:
    """Replace the content of a file in one step, keeping its permissions. Raises HookError.

    nginx may be reloaded by others at any moment: it must not read half a file.
    """
    path = Path(file)
    try:
        permissions = path.stat().st_mode & 0o777 if path.exists() else 0o644
        replace_file(path, text, permissions)
    except OSError as error:
        raise HookError(f"{path} cannot be written: {error.strerror}") from None
