"""A short program that recognises the format of an access log, for the guard, which then stays small.

It reads how from stdin, as JSON, and writes the layout or an error to stdout, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluator.errors import EvaluatorError, InputError, SourceError
from evaluator.guard.log_lines import read_layout, write_layout
from evaluator.records.access_logs import LogLayout
from evaluator.sources.access_logs.options import AccessLogSource, LogSettings, combine_settings

_LIMIT_S = 20.0
NO_SERVER = "no server"
"""Name of no server: of an arm that has none at this time."""


def find_settings(log: Mapping[str, Any], servers: Mapping[str, Any]) -> LogSettings:
    """Find how a log is read, from `sources.access_log` of the policy as plain JSON.

    `servers`: arm → names of its servers, where the router knows them; they are used if the policy names none. The
    key `sensitive` of `log` is that of the policy. Raises InputError, UsageError.
    """
    known = {key: value for key, value in log.items() if key in AccessLogSource.model_fields and key != "endpoints"}
    if not known.get("arms"):
        known["arms"] = {arm: names or [NO_SERVER] for arm, names in servers.items()}
    try:
        source = AccessLogSource.model_validate(known)
    except ValueError as error:
        raise InputError(f"the options of the access log cannot be used: {error}") from None
    return combine_settings(source, sensitive=bool(log.get("sensitive")))


def recognise(path: Path, settings: LogSettings) -> LogLayout:
    """Recognise the format of a log, in another process. Raises InputError if that is not possible (yet)."""
    question = {
        "path": str(path),
        "sensitive": settings.options.sensitive,
        **{name: getattr(settings, name) for name in ("format", "log_format", "columns")},
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "evaluator.guard.recognise"],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise SourceError(
            f"the format of {path} was not recognised within {_LIMIT_S:g} s: this machine is very busy",
            hint="try again, or name it in the policy: sources: {access_log: {format: haproxy}}",
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"the format of {path} could not be recognised: {type(error).__name__}") from None
    if "error" in answer:
        raise InputError(answer["error"], hint=answer.get("hint"))
    return read_layout(answer)


def main() -> None:
    """Answer one question."""
    # pyarrow, whose patterns need the same time for each character, is imported only here.
    from evaluator.sources.access_logs.planning import find_layout_of_file

    question = json.load(sys.stdin)
    settings = LogSettings(
        combine_settings(
            AccessLogSource.model_validate({"arms": {"baseline": ["b"], "canary": ["c"]}}),
            sensitive=question["sensitive"],
        ).options,
        question["format"],
        question["log_format"],
        question["columns"],
    )
    try:
        answer = write_layout(find_layout_of_file(Path(question["path"]), settings))
    except EvaluatorError as error:
        answer = {"error": error.message, "hint": error.hint}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
