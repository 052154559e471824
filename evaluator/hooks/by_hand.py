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
from evaluator.hooks.base import HookContext, Json, Step
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


def write_file(path: str, text: str) -> list[str]:
    """Write lines for a shell that replace the content of a file."""
    end = "END"
    lines = text.removesuffix("\n").split("\n")
    while end in lines:
        end += "_"
    return [f"cat > {shlex.quote(path)} <<'{end}'", *lines, end]


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
