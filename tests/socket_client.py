"""A program that speaks to the app without a browser: it opens a page, and presses buttons that were not shown to it.

As a program: the arguments are the user id to become, the address, and the headers as JSON; it prints what it saw.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # now, because another account may not be able to read Python's files
import json
import os
import sys
from dataclasses import dataclass, field

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

assert encodings.idna
LONGEST_S = 60


@dataclass
class Shown:
    """What one run of a page showed."""

    page_hash: str = ""
    texts: list[str] = field(default_factory=list)
    widgets: dict[str, str] = field(default_factory=dict)
    """Label of each button and text field, and its id."""
    files: list[str] = field(default_factory=list)
    """Names by which the server knows the downloads, which it makes when they are requested."""
    everything: str = ""
    """All that the server sent, as text."""

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


class Visitor:
    """A connection to the pages of one release."""

    def __init__(self, address: str, headers: dict[str, str], release: str = "cart@1.9.0") -> None:
        origin = headers.pop("Origin", None)
        self.release = release
        self.session_id = ""
        self.stack = contextlib.ExitStack()
        self.socket: ClientConnection = self.stack.enter_context(
            connect(
                f"ws{address.removeprefix('http')}/_stcore/stream",
                origin=origin,
                additional_headers=headers,
                subprotocols=["streamlit"],
                max_size=None,
                compression=None,
            )
        )

    def open(self, page: str = "promote") -> Shown:
        """Open a page, by its name in the address."""
        return self._run({}, "", page)

    def press(self, widgets: dict[str, str], page_hash: str, label: str = "Promote") -> Shown:
        """Fill in the form and press its button, by the ids that someone else was shown."""
        confirmation = next(name for name in widgets if name.endswith("to confirm"))
        texts = {"Reason, in one sentence": "forged", confirmation: self.release}
        return self._run({widgets[name]: text for name, text in texts.items()} | {widgets[label]: True}, page_hash)

    def request_file(self, name: str) -> str:
        """Let the server make a download; returns the path of its address."""
        message = BackMsg()
        message.backend_operation_request.request_id = name
        message.backend_operation_request.session_id = self.session_id
        message.backend_operation_request.deferred_file.file_id = name
        self.socket.send(message.SerializeToString())
        while True:
            answer = ForwardMsg()
            answer.ParseFromString(self.socket.recv(timeout=LONGEST_S))
            if answer.WhichOneof("type") == "backend_operation_response":
                return answer.backend_operation_response.deferred_file.url

    def _run(self, states: dict[str, str | bool], page_hash: str, page: str = "promote") -> Shown:
        message = BackMsg()
        message.rerun_script.query_string = f"release={self.release}"
        message.rerun_script.page_script_hash = page_hash
        message.rerun_script.page_name = "" if page_hash or page == "releases" else page
        for name, value in states.items():
            state = message.rerun_script.widget_states.widgets.add(id=name)
            if value is True:
                state.trigger_value = True
            else:
                state.string_value = str(value)
        self.socket.send(message.SerializeToString())
        shown = Shown()
        while True:
            answer = ForwardMsg()
            answer.ParseFromString(self.socket.recv(timeout=LONGEST_S))
            shown.everything += str(answer)
            kind = answer.WhichOneof("type")
            if kind == "new_session":
                self.session_id = answer.new_session.initialize.session_id
            elif kind == "navigation":
                shown.page_hash = answer.navigation.page_script_hash
            elif kind == "delta" and answer.delta.WhichOneof("type") == "new_element":
                element = answer.delta.new_element
                shape = element.WhichOneof("type")
                if shape == "download_button":
                    shown.files.append(element.download_button.deferred_file_id)
                elif shape in {"button", "text_input"}:
                    widget = getattr(element, shape)
                    shown.widgets[widget.label] = widget.id
                elif shape in {"html", "markdown", "heading"}:
                    shown.texts.append(getattr(getattr(element, shape), "body", ""))
            elif kind == "script_finished" and shown.page_hash:
                return shown

    def close(self) -> None:
        self.stack.close()


def main() -> None:
    user, address, headers, widgets, page_hash = sys.argv[1:]
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
    visitor = Visitor(address, json.loads(headers))
    seen = visitor.open()
    pressed = visitor.press(json.loads(widgets), page_hash)
    visitor.close()
    json.dump({"text": seen.text, "buttons": list(seen.widgets), "pressed": pressed.text}, sys.stdout)


if __name__ == "__main__":
    main()
