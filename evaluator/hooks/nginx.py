"""Share requests by a file of nginx's configuration: weights of an upstream, or the parts of `split_clients`.

Open-source nginx has no other way than its files. Only shares are changed in the file, and nothing else. nginx tests
the new configuration before it is reloaded; where it refuses it, or does not read the file, the earlier text is put
back at once. nginx does not report which servers are up, so a server that is to get requests is connected to.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from evaluator.errors import HookError
from evaluator.hooks.by_hand import write_edit
from evaluator.hooks.hash_values import ALL
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.nginx_config import read_split, read_split_key, read_upstream, set_split, set_weights
from evaluator.hooks.nginx_workers import find_workers, wait_for_new
from evaluator.hooks.options import HookOptions, Seconds, Text, names_of
from evaluator.hooks.router import (
    SHARES,
    Applied,
    ArmName,
    Realised,
    ServerRouter,
    Shares,
    check_servers,
    show_share,
)
from evaluator.hooks.weights import check_earlier, divide, find_weights, show_weights, sum_shares
from evaluator.replacing import replace_file

MOST_WEIGHT, MOST_WEIGHT_OF_MANY = 1000, 100_000
"""Largest weight that is written, and where a server would get none otherwise: larger ones need memory in a hash."""
_END_OF_WORKERS_S = 0.5
"""How long earlier workers are waited for, which end when their connections do."""
_POLL_S = 0.02
_DIFFER_BY_REQUEST = (
    "request_id",
    "msec",
    "time_iso8601",
    "time_local",
    "connection",
    "connection_requests",
    "remote_port",
)
"""Variables of nginx that tell requests of one user apart."""
_ServerOrValue = Annotated[str, Field(max_length=200, pattern=r"""^[^\s;{}"'#\\]*$""")]


def _check_variable(text: str) -> str:
    """Return the name of a variable of nginx. Raises ValueError."""
    if not re.fullmatch(r"\$[A-Za-z0-9_]+", text):
        raise ValueError(f"must be a variable such as $shop, not {text}")
    return text


class NginxOptions(HookOptions):
    """The file, the servers of each arm in it, and how nginx is called."""

    file: Text = Field(description="The file of nginx's configuration that has the block; only shares change in it.")
    upstream: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None = Field(
        None, description="Name of the upstream whose servers get weights."
    )
    split: Annotated[str, AfterValidator(_check_variable)] | None = Field(
        None, description="Or the variable that `split_clients` sets, such as $shop: each user keeps an arm."
    )
    servers: dict[ArmName, names_of(_ServerOrValue)] = Field(  # type: ignore[valid-type] # a type that a function makes
        description="Arm to its servers as the upstream has them, {baseline: ['10.0.0.1:8000'], canary: "
        "['10.0.1.1:8000']}, or to its values of `split_clients`."
    )
    shares: Shares | None = SHARES
    nginx: list[Text] = Field(
        default_factory=lambda: ["nginx"],
        description="Command that calls nginx, with -c and -p where needed.",
        min_length=1,
    )
    check_servers: bool = Field(
        True,  # noqa: FBT003
        description="Off: servers that get requests need not accept connections from here (nginx runs elsewhere).",
    )
    timeout: Seconds = Field(
        10.0, description="Longest that nginx may take to test or reload, or a server to accept a connection."
    )

    @model_validator(mode="after")
    def _check_block(self) -> Self:
        """Check that the options name one block, and arms with servers."""
        if (self.upstream is None) == (self.split is None):
            raise ValueError("needs upstream or split, one of them")
        check_servers(self.servers, self.shares)
        return self


class Nginx(ServerRouter[NginxOptions]):
    """Shares in a file of nginx, which is tested before it is reloaded.

    The state is server → weight (0: `down`), or value → share in hundredths of a percent.
    """

    kind = "nginx"
    Options = NginxOptions

    def _list_servers(self) -> Mapping[str, Sequence[str]]:
        return self.options.servers

    def _list_requested(self) -> Mapping[str, float] | None:
        return self.options.shares

    def _describe_router(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        options = self.options
        block = f"upstream {options.upstream}" if options.upstream else f"split_clients {options.split}"
        return f"nginx's {block} in {options.file}"

    def _test_router(self) -> list[str]:
        """Check that the file can be written, and that nginx accepts its configuration and reads the file."""
        text = self._read_file()
        folder = Path(self.options.file).resolve().parent
        if not os.access(folder, os.W_OK):
            raise HookError(f"{folder} cannot be written to")
        state = self._parse(text)
        self._check_names(state)
        # `-T` tests the configuration, and writes out all files that nginx reads.
        self._explain_unread(text, self._run_nginx("-T"), is_refused=True)
        shown = self._describe_value({name: state[name] for name in self._list_names()})
        notes = self._describe_limits(text)
        return [f"nginx accepts its configuration as it is, with {shown}; nothing was written", *notes]

    # -------------------------------------------------------------- shares and the file

    def _parse(self, text: str) -> dict[str, int]:
        """Read server → weight, or value → hundredths of a percent, from the text of the file. Raises HookError."""
        try:
            if self.options.upstream is None:
                return read_split(text, str(self.options.split))
            servers = read_upstream(text, self.options.upstream).servers
            return {name: 0 if server.is_down else server.weight for name, server in servers.items()}
        except HookError as error:
            raise HookError(f"{self.options.file}: {error.message}", hint=error.hint) from None

    def _write(self, text: str, state: Mapping[str, int]) -> str:
        """Return the text of the file with these weights or parts."""
        if self.options.upstream is None:
            return set_split(text, str(self.options.split), state)
        return set_weights(text, self.options.upstream, state)

    def _check_names(self, state: Mapping[str, int]) -> None:
        """Raise HookError for servers or values that the file does not have."""
        if unknown := [name or "(empty)" for name in self._list_names() if name not in state]:
            raise HookError(
                f"{self.options.file} has no {', '.join(unknown)} in its block",
                hint=f"it has {', '.join(state) or 'none'}",
            )

    def _read_state(self, words: Mapping[str, str]) -> dict[str, int]:  # noqa: ARG002 - its options have no words
        """Read server → weight, or value → hundredths of a percent; without what the file does not have."""
        state = self._parse(self._read_file())
        return {name: state[name] for name in self._list_names() if name in state}

    def _check_state(self, state: Any) -> dict[str, int]:
        return check_earlier(state)

    def _describe_value(self, value: Any) -> str:
        if self.options.upstream is not None:
            return show_weights(value)
        return ", ".join(f"{name or '(empty)'} {show_share(share / ALL)}" for name, share in value.items())

    def _plan(self, shares: Mapping[str, float], words: Mapping[str, str], *, back: bool) -> dict[str, int]:  # noqa: ARG002
        """Find the weights, or parts, that give each arm its share. Within an arm, they stay in the same ratio.

        Raises HookError unless `back`.
        """
        text = self._read_file()
        state = self._parse(text)
        if not back:
            self._check_names(state)
            for arm, share in shares.items():
                names = self._list_servers()[arm]
                unreachable = self._list_unreachable(names)
                if share and len(unreachable) == len(names):
                    raise HookError(
                        "; ".join(unreachable),
                        hint="start it, or write `check_servers: false` if nginx runs elsewhere",
                    )
        if self.options.upstream is None:
            return self._plan_split(state, shares, back=back)
        written = read_upstream(text, self.options.upstream).servers
        own = {
            arm: {name: written[name].weight if name in written else 1 for name in names}
            for arm, names in self._list_servers().items()
        }
        weights = find_weights(own, shares, MOST_WEIGHT, MOST_WEIGHT_OF_MANY)
        for arm, share in shares.items():
            if share and not any(weights[name] for name in own[arm]):
                raise HookError(f"{arm} cannot get {show_share(share)}: it is too small", hint="give it a larger share")
        return weights

    def _plan_split(self, state: Mapping[str, int], shares: Mapping[str, float], *, back: bool) -> dict[str, int]:
        """Find the parts of a split: value → hundredths of a percent. Raises HookError unless `back`."""
        others = {name: share for name, share in state.items() if share and name not in self._list_names()}
        if others and not back:
            raise HookError(
                f"{self.options.file} also gives requests to {self._describe_value(others)}, which is of no arm",
                hint="name these values in `servers`, or remove their lines",
            )
        parts: dict[str, int] = {}
        for arm, number in divide(ALL - sum(others.values()), shares).items():
            own = {name: state.get(name, 0) for name in self._list_servers()[arm]}
            total = sum(own.values())
            parts |= divide(number, {name: part / total if total else 1 / len(own) for name, part in own.items()})
            if shares[arm] and not number and not back:
                raise HookError(
                    f"{arm} cannot get {show_share(shares[arm])}: nginx takes parts of 0.01 %", hint="give it more"
                )
        return parts

    def _measure(self, words: Mapping[str, str]) -> Realised:  # noqa: ARG002 - its options have no words
        """Read the shares of the file, also of servers or values of no arm."""
        text = self._read_file()
        state: Mapping[str, float] = self._parse(text)
        if self.options.upstream is not None:
            state = read_upstream(text, self.options.upstream).find_effective_weights()
        return Realised(sum_shares(state, self._list_servers()), tuple(self._describe_limits(text)))

    def _describe_limits(self, text: str) -> list[str]:
        """List what the shares in the text of the file do not decide, as sentences."""
        state, names = self._parse(text), self._list_names()
        limits = []
        others = {name: part for name, part in state.items() if part and name not in names}
        if others:
            limits.append(f"of no arm are: {self._describe_value(others)}")
        if self.options.upstream is not None:
            upstream = read_upstream(text, self.options.upstream)
            backups = [name for name, server in upstream.servers.items() if server.is_backup and not server.is_down]
            if backups:
                limits.append(f"as backup, {', '.join(backups)} gets requests only while no other server can take them")
            if upstream.methods:
                limits.append(
                    f"the upstream chooses servers by {', '.join(upstream.methods)}, not by the weights alone"
                )
        return limits

    def _check_servers(self, shares: Mapping[str, float]) -> None:
        """Raise HookError if one of the servers that are to get requests accepts no connection."""
        names = [name for arm, names in self._list_servers().items() if shares[arm] for name in names]
        if unreachable := self._list_unreachable(names):
            raise HookError(
                "; ".join(unreachable), hint="start it, or write `check_servers: false` if nginx runs elsewhere"
            )

    def _list_unreachable(self, names: Sequence[str]) -> list[str]:
        """List which of these servers accept no connection, as sentences."""
        return [problem for problem in self._look_at_servers(names).values() if problem]

    def keeps_clients(self) -> bool:
        """`split_clients` and ways to balance by a hash keep clients; a file that cannot be read may do so, too."""
        try:
            methods = read_upstream(self._read_file(), self.options.upstream).methods if self.options.upstream else ()
        except HookError:
            return True
        return self.options.split is not None or any("hash" in method or "sticky" in method for method in methods)

    def explain_moving_users(self) -> str:
        """`split_clients` keeps a user in an arm, unless it hashes what differs between requests of one user."""
        if self.options.split is None:
            return "weights of an upstream do not keep a user in an arm: use `split_clients`, and `split` in the policy"
        try:
            key = read_split_key(self._read_file(), self.options.split)
        except HookError as error:
            return error.message
        changing = [name for name in _DIFFER_BY_REQUEST if re.search(rf"\$\{{?{name}\b", key)]
        if changing:
            return f"split_clients hashes ${changing[0]}, which differs between requests of one user: hash a cookie"
        return ""

    def _explain_down(self, arm: str) -> str | None:
        """Connect to the servers of an arm."""
        names = self._list_servers().get(arm, ())
        problems = self._look_at_servers(names)
        if "" in problems.values():
            return ""
        return "; ".join(problems.values()) if len(problems) == len(names) else None

    def _look_at_servers(self, names: Sequence[str]) -> dict[str, str]:
        """Return server → why it accepts no connection, empty if it does; without those that are not known.

        A value of `split_clients` is unreachable if it is the name of an upstream of which no server accepts one.
        """
        if not self.options.check_servers:
            return {}
        if self.options.upstream is not None:
            return {name: self._try_to_connect(name) for name in names}
        configuration = self._run_nginx("-T")
        known = {}
        for name in names:
            try:
                servers = read_upstream(configuration, name).servers
            except HookError:  # it is no upstream, so its servers are not known
                continue
            problems = [self._try_to_connect(server) for server, its in servers.items() if not its.is_down]
            why = "; ".join(problems) or "all of its servers are down"
            known[name] = f"no server of the upstream {name} accepts a connection: {why}" if all(problems) else ""
        return known

    def _try_to_connect(self, server: str) -> str:
        """Open a connection to a server and close it; returns why that is not possible, empty if it is."""
        try:
            self._connect(server).close()
        except (OSError, UnicodeError, OverflowError) as error:
            return f"{server} accepts no connection: {getattr(error, 'strerror', None) or type(error).__name__}"
        return ""

    def _connect(self, server: str) -> socket.socket:
        """Open a connection to a server as nginx writes it: HOST, HOST:PORT or unix:PATH. Raises OSError."""
        if server.startswith("unix:"):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(self.options.timeout)
            try:
                connection.connect(server.removeprefix("unix:").removesuffix(":"))
            except BaseException:
                connection.close()
                raise
            return connection
        host, port = re.fullmatch(r"(\[.*\]|[^:]*)(?::(\d+))?", server).groups()  # type: ignore[union-attr] # any text matches
        return socket.create_connection((host.strip("[]"), int(port or 80)), self.options.timeout)

    # -------------------------------------------------------------- file and process

    def _read_file(self) -> str:
        """Read the file. Raises HookError."""
        try:
            return Path(self.options.file).read_bytes().decode("utf-8")  # `read_text` would change line ends
        except FileNotFoundError:
            raise HookError(f"there is no file {self.options.file}", hint="name the file that has the block") from None
        except (OSError, UnicodeDecodeError):
            raise HookError(f"{self.options.file} cannot be read") from None

    def _apply(self, state: Mapping[str, int], words: Mapping[str, str], *, back: bool) -> Applied:  # noqa: ARG002
        """Write shares (server → weight, or value → hundredths of a percent) into the file, and let nginx reload.

        Raises HookError if nginx refuses it, or does not read it, after the earlier text was put back; MaybeSent.
        """
        earlier = self._read_file()
        current, missing = self._parse(earlier), list[str]()
        absent = [name for name in state if name not in current]
        if absent and not back:
            self._check_names(current)
        missing += [f"{self.options.file} has no {name or '(empty)'} any more" for name in absent]
        text = self._write(earlier, state)
        unread, notes = self._install(text, earlier, is_refused=not back)
        if back:
            missing += filter(None, [unread])
            missing += self._list_unreachable([name for name, weight in state.items() if weight and name in current])
        return Applied(tuple(missing), tuple(notes))

    def _write_state_by_hand(self, state: Mapping[str, int], words: Mapping[str, str]) -> list[str]:  # noqa: ARG002
        """Write the lines that set these shares in the file, test the configuration, and reload nginx."""
        nginx = shlex.join(self.options.nginx)
        text = self._read_file()
        return [*write_edit(self.options.file, text, self._write(text, state)), f"{nginx} -t && {nginx} -s reload"]

    def _install(self, text: str, earlier: str, *, is_refused: bool) -> tuple[str, list[str]]:
        """Write the file, test nginx's configuration, and reload nginx; the earlier text is put back on failure.

        Returns why nginx does not read the file (empty: it does; an error if `is_refused`), and what is known of the
        reload. Raises HookError, MaybeSent.
        """
        if text != earlier:
            _replace_file(self.options.file, text)
        try:
            configuration = self._run_nginx("-T")
            unread = self._explain_unread(text, configuration, is_refused=is_refused)
        except HookError:
            self._put_back(text, earlier)
            raise
        try:
            notes = self._reload(configuration)
        except HookError:
            self._put_back(text, earlier)
            # nginx may still be trying to load what was written, as it does for 2.5 s where a port is in use.
            with contextlib.suppress(HookError, MaybeSent):
                self._run_nginx("-s", "reload")
            raise
        return unread, notes

    def _put_back(self, text: str, earlier: str) -> None:
        """Write the earlier text of the file again, if `text` is another one. Raises HookError."""
        if text != earlier:
            _replace_file(self.options.file, earlier)

    def _reload(self, configuration: str) -> list[str]:
        """Let nginx reload; returns what is known of it, as sentences.

        `configuration`: what `nginx -T` wrote. Raises HookError if nginx runs here and starts no new workers;
        MaybeSent.
        """

        def find() -> frozenset[int] | None:
            """Find the workers that nginx has now; None if they cannot be known."""
            return find_workers(self.options.nginx, configuration) if self.options.check_servers else None

        earlier_workers = find()
        self._run_nginx("-s", "reload")
        loaded = f"nginx has reloaded {self.options.file}"
        if earlier_workers is None:
            return [f"{loaded}, as far as is known here: its processes cannot be seen"]
        if not wait_for_new(earlier_workers, find, self.options.timeout):
            raise HookError(
                f"nginx did not start to use {self.options.file} within {self.options.timeout:g} s",
                hint="its error log says why, such as a port that is in use",
            )
        deadline = time.monotonic() + _END_OF_WORKERS_S
        while (old := (find() or frozenset()) & earlier_workers) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if old:
            loaded += f"; {len(old)} earlier workers serve open connections by the earlier shares until these end"
        return [loaded]

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
        """Run nginx with arguments and return what it writes to its output, such as the configuration for `-T`.

        Raises HookError if it fails; MaybeSent if it does not end in time after it may have sent a signal (-s).
        """
        command = [*self.options.nginx, *arguments]
        executable = shutil.which(command[0], path=self.environment.get("PATH", os.defpath))
        if not executable:
            raise HookError(f"there is no program {command[0]}", hint="name it with its whole path in nginx: […]")
        try:
            process = subprocess.run(
                [executable, *command[1:]], check=False, capture_output=True, timeout=self.options.timeout
            )
        except subprocess.TimeoutExpired:
            message = f"nginx {arguments[0]} did not end within {self.options.timeout:g} s"
            if "-s" in arguments:  # it may have received the signal
                raise MaybeSent(message) from None
            raise HookError(message) from None
        if process.returncode != 0:
            error_text = " ".join(process.stderr.decode("utf-8", "replace").split())[-500:]
            raise HookError(f"nginx {' '.join(arguments)} ended with {process.returncode}: {error_text}")
        return process.stdout.decode("utf-8", "replace")


def _replace_file(file: str, text: str) -> None:
    """Replace the content of a file in one step, keeping its permissions and its owner. Raises HookError.

    nginx may be reloaded by others at any moment: it must not read half a file.
    """
    path = Path(file).resolve()  # `sites-enabled` has links to the files
    try:
        before = path.stat()
        replace_file(path, text, before.st_mode & 0o777)
        with contextlib.suppress(OSError):  # only root may give files away
            os.chown(path, before.st_uid, before.st_gid)
    except OSError as error:
        raise HookError(f"{path} cannot be written: {error.strerror}") from None
