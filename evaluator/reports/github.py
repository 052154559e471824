"""The verdict for GitHub Actions: annotations as text; job summary and outputs where the runner takes them.

The runner names two files in its environment: $GITHUB_STEP_SUMMARY takes Markdown (1 MiB a step), $GITHUB_OUTPUT what
later steps may read. It shows ten annotations of each kind and step.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from evaluator.records import Level, Verdict, VerdictWord
from evaluator.reports.base import VERDICT_WORDS, Page, clean_and_cut, fold_findings, name_check
from evaluator.reports.faults import write_fault
from evaluator.reports.markdown import MAX_BYTES, to_markdown

MAX_ANNOTATIONS = 10
MAX_MESSAGE = 2_000
MAX_TITLE = 200
MIN_SUMMARY_BYTES = 10_000
"""Room for a summary even if earlier commands of the step have filled the file."""
LEVELS = {VerdictWord.GO: "notice", VerdictWord.NO_GO: "error", VerdictWord.INCONCLUSIVE: "warning"}


def render(verdict: Verdict, page: Page) -> str:
    """Write annotations, a line each: the reasons of the verdict, where faults are, then failed health checks.

    GitHub shows ten; if there are more, the tenth counts the others.
    `page` is part of the interface of all formats and is not used here.
    """
    del page
    level, title = LEVELS[verdict.word], f"{VERDICT_WORDS[verdict.word]} {verdict.release.id}"
    annotations = [_write_annotation(level, title, reason.text) for reason in verdict.reasons]
    annotations += [_write_annotation(level, f"{title}: where", write_fault(fault)) for fault in verdict.faults or ()]
    annotations += [
        _write_annotation("warning", name_check(finding), f"{finding.text} {finding.remedy}")
        for finding in fold_findings(verdict.evidence.findings)
        if finding.level is Level.FAIL
    ]
    if len(annotations) > MAX_ANNOTATIONS:
        listed = annotations[: MAX_ANNOTATIONS - 1]
        unlisted_count = len(annotations) - len(listed)
        message = f"{unlisted_count} more: the summary names them"
        annotations = [*listed, _write_annotation(level, "evaluator", message)]
    return "\n".join(annotations)


def publish(verdict: Verdict, environ: Mapping[str, str], report: str = "") -> None:
    """Append the job summary and the outputs `verdict`, `reason` and `report` to the files that the runner names.

    `environ` are the environment variables that name these files; a file that they do not name is not written.
    `report` is the path of the written report, empty if there is none.
    """
    if summary_file := environ.get("GITHUB_STEP_SUMMARY"):
        path = Path(summary_file)
        # Earlier commands of the job may have written to the file, whose size GitHub limits.
        used_bytes = path.stat().st_size if path.exists() else 0
        _append(path, to_markdown(verdict, max(MAX_BYTES - used_bytes, MIN_SUMMARY_BYTES)) + "\n")
    if output_file := environ.get("GITHUB_OUTPUT"):
        outputs = {"verdict": verdict.word.value, "reason": verdict.reasons[0].text, "report": report}
        for name, text in outputs.items():
            # Between random delimiters, so that no text can end the output early.
            delimiter = f"evaluator_{secrets.token_hex(16)}"
            _append(Path(output_file), f"{name}<<{delimiter}\n{clean_and_cut(text, MAX_MESSAGE)}\n{delimiter}\n")


def _write_annotation(level: str, title: str, message: str) -> str:
    """Write the command that makes the runner show an annotation; `level`: `notice`, `warning` or `error`."""
    # A colon or comma would end the title.
    escaped_title = _escape(title, MAX_TITLE).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={escaped_title}::{_escape(message, MAX_MESSAGE)}"


def _escape(text: str, max_characters: int) -> str:
    """Escape a text for a command of the runner, which decodes percent signs and ends at a line break."""
    text = clean_and_cut(text.strip(), max_characters)
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _append(path: Path, text: str) -> None:
    """Add a text to the end of a file, with the same line ends on every system."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(text)
