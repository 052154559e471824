"""The verdict for GitHub Actions: annotations as text; job summary and outputs where the runner takes them.

The runner names two files in its environment: $GITHUB_STEP_SUMMARY takes Markdown (1 MiB a step), $GITHUB_OUTPUT what
later steps may read. It shows ten annotations of each kind and step.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from evaluator.records import Level, Verdict, VerdictWord
from evaluator.reports.base import VERDICT_WORDS, Page, name_check, tame
from evaluator.reports.markdown import MAX_BYTES, to_markdown

MAX_ANNOTATIONS = 10
MAX_MESSAGE = 2_000
MAX_TITLE = 200
MAX_LEAST = 10_000
"""Bytes of a summary even where earlier commands of the step have filled it."""
LEVELS = {VerdictWord.GO: "notice", VerdictWord.NO_GO: "error", VerdictWord.INCONCLUSIVE: "warning"}


def render(verdict: Verdict, page: Page) -> str:
    """Write the annotations: the verdict with its reasons, then what is unhealthy; ten at most."""
    del page
    word, level = VERDICT_WORDS[verdict.word], LEVELS[verdict.word]
    lines = [_command(level, f"{word} {verdict.release.id}", reason.text) for reason in verdict.reasons]
    lines += [
        _command("warning", name_check(finding), f"{finding.text} {finding.remedy}")
        for finding in verdict.evidence.findings
        if finding.level is Level.FAIL
    ]
    if len(lines) > MAX_ANNOTATIONS:
        unlisted = len(lines) - MAX_ANNOTATIONS + 1
        lines = [
            *lines[: MAX_ANNOTATIONS - 1],
            _command(level, "evaluator", f"{unlisted} more: the summary names them"),
        ]
    return "\n".join(lines)


def publish(verdict: Verdict, environ: Mapping[str, str], report: str = "") -> None:
    """Append the job summary and the outputs `verdict`, `reason` and `report` to the files that the runner names."""
    if summary := environ.get("GITHUB_STEP_SUMMARY"):
        path = Path(summary)
        used_bytes = path.stat().st_size if path.exists() else 0
        _append(path, to_markdown(verdict, max(MAX_BYTES - used_bytes, MAX_LEAST)) + "\n")
    if output := environ.get("GITHUB_OUTPUT"):
        facts = {"verdict": verdict.word.value, "reason": verdict.reasons[0].text, "report": report}
        for name, text in facts.items():
            # Between random delimiters, so that no text can end it early.
            delimiter = f"evaluator_{secrets.token_hex(16)}"
            _append(Path(output), f"{name}<<{delimiter}\n{tame(text, MAX_MESSAGE)}\n{delimiter}\n")


def _command(level: str, title: str, message: str) -> str:
    named = _data(title, MAX_TITLE).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={named}::{_data(message, MAX_MESSAGE)}"


def _data(text: str, most: int) -> str:
    return tame(text.strip(), most).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(text)
