"""Lines for a shell by which a person does what a hook would do. All that comes from outside is quoted.

Secrets stay variables of the shell: `${HOOK_TOKEN}` of the options is `"$HOOK_TOKEN"` in a line. A hook that knows such
lines has `write_by_hand(context)`, and `write_undo_by_hand(context, earlier)` for what undoes it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from evaluator.errors import EvaluatorError
from evaluator.hooks.base import HookContext, Json
from evaluator.hooks.running import Step
from evaluator.secrecy import OF_HOOKS, redact

_SPECIAL_IN_SOCAT = re.compile(r"""([,:!"'\\()\[\]{}])""")
"""Characters of a path that mean something in an address of socat."""
_OTHER_FORM = (LookupError, TypeError, ValueError, AttributeError)
"""What Python raises for an earlier value of another form, from a damaged store."""


def write_by_hand(step: Step, context: HookContext, *, undoes: bool, earlier: Json) -> list[str]:
    """Write lines for a shell by which a person does what a hook would do; empty if none are known.

    `undoes`: what undoes the hook, which then restores `earlier`. Hooks of other packages need not know any.
    """
    hook: Any = step.hook
    if not hasattr(hook, "write_undo_by_hand" if undoes else "write_by_hand"):
        return []
    try:
        texts = hook.write_undo_by_hand(context, earlier) if undoes else hook.write_by_hand(context)
    except (EvaluatorError, *_OTHER_FORM):  # also a version that is not known
        return []
    variables = OF_HOOKS.pattern.findall(json.dumps(hook.options.model_dump(mode="json")))
    secrets = [value for name in variables if (value := hook.environment.get(name))]
    return [redact(line, secrets) for text in texts for line in text.split("\n")]


def quote(text: str, fill: Callable[[str], str] = str) -> str:
    r"""Quote a text for a shell, in which `${NAME}` of a secret stays the variable. `fill`: applied to the other parts.

    So a part that `fill` puts in cannot name a variable.

    >>> quote("Bearer ${TOKEN}")
    '\'Bearer \'"$TOKEN"'
    """
    parts = OF_HOOKS.pattern.split(text)  # at odd places are names of variables
    quoted = [
        f'"${part}"' if place % 2 else shlex.quote(fill(part)) for place, part in enumerate(parts) if part or place % 2
    ]
    return "".join(quoted) or "''"


def write_edit(path: str, text: str, new: str) -> list[str]:
    """Write the line for a shell that changes only what differs between the text of a file and a new one.

    Lines are found by what they are now, so several hooks may change one file, other changes to it stay, and the rest
    of the file, which may have secrets, is not shown. Empty if nothing differs.
    """
    all_lines = [line.strip() for line in text.split("\n")]
    commands = []
    for number, old, replacement in _list_changes(text.split("\n"), new.split("\n")):
        # A line that the file has several times is found by its number, too.
        address = str(number) if all_lines.count(old.strip()) > 1 else ""
        commands.append(f"{address}{_write_substitution(old, replacement)}")
    # `t`: a line that was changed is not changed again by what follows.
    script = "".join(f" -e {shlex.quote(command)} -e t" for command in commands)
    return [f"sed -i --follow-symlinks{script} {shlex.quote(path)}"] if commands else []


def _list_changes(earlier: list[str], later: list[str]) -> list[tuple[int, str, str]]:
    """List the lines that differ: number (from 1), what the line is, and what it becomes, which may be several lines.

    If the numbers of lines differ, the last of the lines that differ becomes all that are new.
    """
    while earlier and later and earlier[-1] == later[-1]:
        earlier, later = earlier[:-1], later[:-1]
    if len(earlier) != len(later):
        same = 0
        while same < min(len(earlier) - 1, len(later)) and earlier[same] == later[same]:
            same += 1
        emptied = [""] * (len(earlier) - same - 1)
        later = [*later[:same], *emptied, "\n".join(later[same:])]
    pairs = enumerate(zip(earlier, later, strict=True), 1)
    return [(number, old, replacement) for number, (old, replacement) in pairs if old != replacement]


def _write_substitution(old: str, replacement: str) -> str:
    """Write the command of sed that replaces a line, whose indentation and line end stay.

    A terminal would not take tabs and line ends of Windows, so the command has none.
    """
    pattern = re.sub(r"\t", "[[:space:]]", re.sub(r"[][\\.*^$/]", r"\\\g<0>", old.strip()))
    indent = old[: len(old) - len(old.lstrip())]
    added = replacement.removeprefix(indent).rstrip().replace("\r", "")
    added = re.sub(r"[\\&/\n]", r"\\\g<0>", added).replace("\t", "\\t")
    return rf"s/^\([[:space:]]*\){pattern}\([[:space:]]*\)$/\1{added}\2/"


def write_socat(command: str, *, socket: str | None, address: str | None) -> str:
    """Write the line that sends a command to HAProxy: to its unix socket, or to HOST:PORT."""
    escaped = _SPECIAL_IN_SOCAT.sub(r"\\\1", socket or "")
    target = f"UNIX-CONNECT:{escaped}" if socket else f"TCP:{address}"
    return f"echo {shlex.quote(command)} | socat - {shlex.quote(target)}"


def write_curl(method: str, url: str, headers: Mapping[str, str], body: str = "", ca: str | None = None) -> str:
    """Write the line that sends a request. `headers`: name → value, quoted for a shell already; so is `body`."""
    words = ["curl", "-sS", "--fail-with-body", "-X", method]
    words += ["--cacert", shlex.quote(ca)] if ca else []
    for name, value in headers.items():
        words += ["-H", f"{shlex.quote(f'{name}: ')}{value}"]
    words += ["--data-raw", body] if body else []
    return " ".join([*words, shlex.quote(url)])
