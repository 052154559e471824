"""Set a key of etcd through its v3 JSON gateway: only if it is still what was read.

https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/: keys and values are base64, numbers are text, and what is absent
is zero. One transaction compares the key's revision and writes, so that a change in between is not overwritten.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, Self, TypedDict

from pydantic import AfterValidator, Field, model_validator

from evaluator.errors import HookError
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.by_hand import write_curl
from evaluator.hooks.network import MaybeSent, TlsOptions, send
from evaluator.hooks.options import SecretName, Text
from evaluator.hooks.templates import check_template, fill_words, show_words
from evaluator.secrecy import OF_HOOKS

_LOGIN_PATH = "auth/authenticate"


class EtcdOptions(TlsOptions):
    """Where etcd is, and what is set."""

    url: Text = Field(description="Address of its client port: http://etcd:2379.")
    key: Text = Field(description="The key to set.")
    value: Annotated[str, Field(max_length=1_000_000), AfterValidator(check_template)] = Field(
        description="Its value; words such as ${canary} are filled in."
    )
    username: Text | None = Field(None, description="User name, where etcd requires a login.")
    password: SecretName | None = Field(None, description="Where the password is: ${VARIABLE}.")

    @model_validator(mode="after")
    def _check_login(self) -> Self:
        """Check that the options have a user name and a password, or neither."""
        if (self.username is None) != (self.password is None):
            raise ValueError("needs username and password, or neither")
        return self


class KeyState(TypedDict):
    """A key as etcd has it."""

    value: str | None
    """None: there is no such key."""
    revision: int
    """Of its last change; 0: there is no such key."""
    ours: NotRequired[int]
    """The revision of the change that this hook made afterwards; absent if the execution did not end."""


class Etcd(BaseHook[EtcdOptions]):
    """Sets a key, unless it was changed in between."""

    kind = "etcd"
    Options = EtcdOptions

    def _describe(self, words: Mapping[str, str]) -> str:
        return f"sets {self.options.key} of etcd at {self.options.url} to {show_words(self.options.value, words)}"

    def _test(self) -> Outcome:
        """Read the key, to see that etcd answers; changes nothing."""
        exists = self._read()["revision"] != 0
        return Outcome("acknowledged", f"etcd answers; {self.options.key} is {'set' if exists else 'not set'}")

    def _read(self) -> KeyState:
        """Read the value of the key and the revision of its last change; None and 0 if there is no such key.

        Raises HookError for a value that is not text.
        """
        entries = self._ask("kv/range", {"key": _encode(self.options.key)}).get("kvs") or []
        if not entries:
            return {"value": None, "revision": 0}
        try:  # an empty value is left out of the answer
            raw_value = base64.b64decode(entries[0].get("value", ""), validate=True)
            revision = int(entries[0]["mod_revision"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise HookError("etcd's answer cannot be read", hint="check that the address is that of etcd") from None
        try:
            return {"value": raw_value.decode(), "revision": revision}
        except UnicodeDecodeError:
            raise HookError("the key's value is not text, so it could not be restored") from None

    def _describe_value(self, value: KeyState) -> str:
        return "no such key" if value["value"] is None else value["value"]

    def _execute(self, context: HookContext) -> Outcome:
        """Set the key. The outcome has its earlier state, with the revision of our change as `ours`: undo needs it."""
        earlier = self._read()
        new_value = fill_words(self.options.value, context.words())
        if earlier["value"] == new_value:
            # An attempt that was killed may have set it. With its revision, undo does not overwrite later changes.
            description = f"{self.options.key} has this value already"
            our_revision = earlier["revision"]
        else:
            our_revision = self._set_if_unchanged(earlier["revision"], new_value)
            description = f"{self.options.key} was set at revision {our_revision}"
        return Outcome("acknowledged", description, earlier={**earlier, "ours": our_revision})

    def _undo(self, context: HookContext, earlier: KeyState) -> Outcome:  # noqa: ARG002 - the earlier value does not depend on it
        """Restore the earlier value, unless the key was changed after the hook set it. Raises HookError if it was."""
        current = self._read()
        if current["value"] == earlier["value"]:
            return Outcome("acknowledged", f"{self.options.key} has its earlier value already")
        # Without `ours`, the execution did not end, and the revision that it wrote is not known: then only a change
        # between the `_read` above and the `_set_if_unchanged` below is noticed.
        our_revision = earlier.get("ours", current["revision"])
        if our_revision != current["revision"]:
            now = "deleted" if current["value"] is None else f"changed to {current['value'][:100]}"
            before = "delete it" if earlier["value"] is None else f"set it to {earlier['value'][:100]}"
            raise HookError(
                f"{self.options.key} was {now} after the hook had set it; nothing was done",
                hint=f"{before} by hand, if that is right now",
            )
        new_revision = self._set_if_unchanged(our_revision, earlier["value"])
        return Outcome("acknowledged", f"{self.options.key} was restored at revision {new_revision}", earlier=current)

    def write_by_hand(self, context: HookContext) -> list[str]:
        """Write lines for a shell that do the same."""
        return self._write_value_by_hand(fill_words(self.options.value, context.words()))

    def write_undo_by_hand(self, context: HookContext, earlier: KeyState) -> list[str]:  # noqa: ARG002 - as above
        """Write lines for a shell that undo what the hook did."""
        return self._write_value_by_hand(earlier["value"])

    def _write_value_by_hand(self, value: str | None) -> list[str]:
        """Write the line that sets the key to a value (None: deletes it), through etcd's JSON gateway."""
        url, headers, lines = self.options.url.rstrip("/"), {"Content-Type": "application/json"}, list[str]()
        if self.options.username:
            name = shlex.quote(self.options.username)
            password = OF_HOOKS.pattern.findall(self.options.password or "")[0]
            login = (
                f"""$(jq -n --arg name {name} --arg password "${password}" '{{name: $name, password: $password}}')"""
            )
            ask = write_curl("POST", f"{url}/v3/{_LOGIN_PATH}", headers, f'"{login}"', self.options.ca)
            lines.append(f"token=$({ask} | jq -r .token)")
            headers["Authorization"] = '"$token"'
        message = {"key": _encode(self.options.key)}
        if value is not None:
            message["value"] = _encode(value)
        path = "kv/deleterange" if value is None else "kv/put"
        shown = "deleted" if value is None else f"set to {value[:200]}"
        note = f"# in base64: the key {self.options.key} is {shown}, whatever it is now".splitlines()[0]
        body = shlex.quote(json.dumps(message))
        return [note, *lines, write_curl("POST", f"{url}/v3/{path}", headers, body, self.options.ca)]

    def _set_if_unchanged(self, revision: int, value: str | None) -> int:
        """Set the key to a value (None: delete it), if its last change was at `revision` (0: it does not exist).

        Returns the new revision. If the key was changed since, nothing is done, and HookError is raised.
        """
        key = _encode(self.options.key)
        if value is None:
            change: dict[str, Any] = {"request_delete_range": {"key": key}}
        else:
            change = {"request_put": {"key": key, "value": _encode(value)}}
        is_unchanged = {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
        answer = self._ask("kv/txn", {"compare": [is_unchanged], "success": [change], "failure": []}, changes=True)
        if not answer.get("succeeded"):
            raise HookError(
                f"{self.options.key} was changed in the meantime; nothing was done",
                hint="check its value, and try again",
            )
        try:
            return int(answer["header"]["revision"])
        except (KeyError, TypeError, ValueError):
            raise MaybeSent("etcd answered that it is done, without the revision") from None

    def _ask(self, path: str, message: dict[str, Any], *, changes: bool = False) -> dict[str, Any]:
        """Send a message to a path of etcd's API and return the answer.

        `changes`: the message changes the key. Raises HookError; MaybeSent if it may have been changed.
        """
        headers = {"Content-Type": "application/json"}
        if self.options.username and path != _LOGIN_PATH:
            login = {"name": self.options.username, "password": self._fill_secrets(self.options.password or "")}
            token = self._ask(_LOGIN_PATH, login).get("token")
            if not token:
                raise HookError(
                    "etcd's answer to the login has no token", hint="check that the address is that of etcd"
                )
            headers["Authorization"] = str(token)
        url = f"{self.options.url.rstrip('/')}/v3/{path}"
        body = json.dumps(message).encode()
        answer = send("POST", url, self.options, body, headers, changes=changes)
        content = answer.parse()
        if answer.ok and content is not None:
            return content
        text = f"etcd answered {answer.status}: {self._remove_secrets(answer.text)[:200]}"
        # The server may have changed the key before it failed, or before it sent an answer that cannot be read.
        if changes and (answer.ok or answer.status >= 500):
            raise MaybeSent(text)
        raise HookError(text)


def _encode(text: str) -> str:
    """Write a key or a value in base64, as etcd's API takes it."""
    return base64.b64encode(text.encode()).decode()
