"""Whether a reload of HAProxy keeps weights that were set at run time: what its configuration says about that.

A reload starts a new process with the weights of the configuration, unless it loads the states of servers from a file:
https://docs.haproxy.org/2.6/configuration.html#load-server-state-from-file. The runtime API does not report these
settings, so the files are read that the process was started with, where that is possible.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

_SECTIONS = (
    "global",
    "defaults",
    "backend",
    "listen",
    "frontend",
    "peers",
    "resolvers",
    "userlist",
    "mailers",
    "cache",
)


def explain_reload(info: str, backend: str, *, is_local: bool) -> str:
    """Say whether weights of a backend survive a reload of HAProxy, or that it is not known.

    `info`: its answer to `show info`, which has the id of its process. `is_local`: that is a process of this machine.
    """
    unknown = "it is not known whether a reload keeps the weights: HAProxy's configuration cannot be read here"
    process = re.search(r"^Pid: (\d+)$", info, re.MULTILINE)
    if not is_local or not process:
        return unknown
    try:
        text = _read_configuration(Path("/proc") / process[1])
    except (OSError, UnicodeDecodeError, ValueError):
        return unknown
    state_file, is_loaded = _find_state_file(text, backend)
    if state_file and is_loaded:
        return f"a reload keeps the weights if `show servers state` was written to {state_file} before it"
    missing = [
        name
        for name, is_there in (("server-state-file", state_file), ("load-server-state-from-file", is_loaded))
        if not is_there
    ]
    return f"a reload of HAProxy forgets the weights: its configuration has no {' and no '.join(missing)} for {backend}"


def _read_configuration(process: Path) -> str:
    """Read the configuration that a process of HAProxy was started with (`process`: its folder in /proc).

    Raises OSError, UnicodeDecodeError, and ValueError for another program.
    """
    arguments = (process / "cmdline").read_bytes().decode().split("\0")[:-1]
    if Path(arguments[0]).name != "haproxy":
        raise ValueError("not a process of HAProxy")
    named = [arguments[index + 1] for index, argument in enumerate(arguments[:-1]) if argument == "-f"]
    if "--" in arguments:
        named += arguments[arguments.index("--") + 1 :]
    folder = (process / "cwd").resolve()
    files: list[Path] = []
    for path in (folder / name for name in named):
        files += sorted(path.glob("*.cfg")) if path.is_dir() else [path]
    if not files:
        raise ValueError("no file")
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def _find_state_file(text: str, backend: str) -> tuple[str, bool]:
    """Find the file of the states of servers in a configuration, and whether a backend loads them from it.

    The file is empty if the configuration names none.
    """
    section, defaults = "", ""  # what lines belong to: `global`, `defaults NAME`, `backend NAME` …
    settings: dict[str, dict[str, str]] = {}  # section → keyword → its first argument
    for line in text.splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote that does not end: no line that matters here
            continue
        if not words:
            continue
        if words[0] in _SECTIONS:
            section = " ".join(words[:2]) if words[0] != "global" else "global"
            if words[0] == "defaults":
                # Sections without a name must not share their settings.
                section = defaults = f"{section} {len(settings)}"
                settings[f"named defaults {words[1] if len(words) > 1 else ''}"] = settings.setdefault(section, {})
            elif section not in settings:
                inherited = f"named defaults {words[3]}" if words[2:3] == ["from"] else defaults
                settings[section] = dict(settings.get(inherited, {})) if section != "global" else {}
        else:
            settings.setdefault(section, {})[words[0]] = words[1] if len(words) > 1 else ""
    of_backend = settings.get(f"backend {backend}", settings.get(f"listen {backend}", {}))
    of_all = settings.get("global", {})
    source = of_backend.get("load-server-state-from-file", "none")
    if source == "local":
        name = of_backend.get("server-state-file-name") or backend
        return str(Path(of_all.get("server-state-base", "")) / name), True
    return of_all.get("server-state-file", ""), source == "global"
