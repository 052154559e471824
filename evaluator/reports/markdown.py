"""The verdict as Markdown (CommonMark with GitHub's tables): job summaries, comments, chat, wikis.

Names and exception texts come from outside. All that they contain is shown as text: no markup, link, mention or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from evaluator.records import Comparison, Finding, Level, Verdict
from evaluator.reports.base import (
    HEALTH_MARKS,
    VERDICT_WORDS,
    Page,
    choose_endpoints,
    count_both,
    describe_data,
    format_allowed,
    format_both,
    format_effect,
    label_row,
    list_notes,
    mark_status,
    name_check,
    name_role,
    put_worst_first,
    tame,
    title_of,
)

MAX_BYTES = 900_000
"""GitHub refuses a job summary of more than 1 MiB."""
MAX_NAME = 120
MAX_SENTENCE = 1_000
MAX_REASONS = 20
HEAD = ("metric", "role", "baseline", "", "change", "margin", "status", "n")
_MARKUP = re.compile(r"[\\`*_\[\]#|~$&]")
_COMMAND, _ESCAPED_COMMAND = re.compile("`(evaluator [^`]+)`"), re.compile(r"\\`evaluator .+?\\`")
_LEADING = re.compile(r"^(\d{0,9})(?:([-+=])(?=[-+=\s]|$)|([.)])(?=\s|$))")
_MENTION = re.compile(r"(?<!\w)@")
_LINK = re.compile(r"(?i)(www)\.|:(?=//)")


def render(verdict: Verdict, page: Page) -> str:
    """Write a verdict as Markdown."""
    del page
    return to_markdown(verdict)


def to_markdown(verdict: Verdict, most: int = MAX_BYTES) -> str:
    """Write a verdict as Markdown of at most `most` bytes, ending without a newline; a note marks where it was cut."""
    comparisons = verdict.evidence.comparisons
    lines = list(_head(verdict))
    for arm in dict.fromkeys(row.arm for row in comparisons):
        lines += _table(arm, [row for row in comparisons if row.arm == arm])
    lines += [*_health(verdict.evidence.findings), *_method(verdict)]
    note = "\n*Cut here: the JSON has all of it.*"
    bytes_left = most - len(note.encode())
    for k, line in enumerate(lines):  # the most important ones come first
        bytes_left -= len(line.encode()) + 1
        if bytes_left < 0:
            return "\n".join([*lines[:k], note])
    return "\n".join(lines).rstrip()


def escape(text: str, most: int = MAX_SENTENCE) -> str:
    """Escape a text for Markdown, also in a table; cut it in the middle where it is longer than `most`."""
    text = _MARKUP.sub(r"\\\g<0>", tame(text, most).strip() or "–")
    text = text.replace("<", "&lt;").replace(">", "&gt;")
    text = _MENTION.sub("@&#8203;", text)
    text = _LINK.sub(lambda match: f"{match[1]}\\." if match[1] else "\\:", text)
    return _LEADING.sub(lambda match: f"{match[1]}\\{match[2] or match[3]}", text)


def escape_but_commands(text: str) -> str:
    """Escape a sentence for Markdown; its commands become code, to be copied."""
    commands = iter(_COMMAND.findall(tame(text, MAX_SENTENCE)))
    return _ESCAPED_COMMAND.sub(lambda _: f"`{next(commands)}`", escape(text))


# ------------------------------------------------------------------ sections


def _head(verdict: Verdict) -> Iterable[str]:
    yield from (f"## {VERDICT_WORDS[verdict.word]} {escape(title_of(verdict), 3 * MAX_NAME)}", "")
    yield from (f"- {escape(reason.text)}" for reason in verdict.reasons[:MAX_REASONS])
    if len(verdict.reasons) > MAX_REASONS:
        yield f"- and {len(verdict.reasons) - MAX_REASONS} more: the JSON names them"
    yield ""
    for note in (*list_notes(verdict), describe_data(verdict.evidence)):
        if note:
            yield from (escape_but_commands(note), "")


def _table(arm: str, rows: Sequence[Comparison]) -> Iterable[str]:
    shown, notes = choose_endpoints([row for row in rows if row.scan])
    named = escape(arm, MAX_NAME)
    yield from (f"### {named}", "")
    yield _line(column or named for column in HEAD)
    yield _line("---" for _ in HEAD)
    yield from (_row(row) for row in (*(row for row in rows if not row.scan), *shown))
    yield ""
    silences = dict.fromkeys(row.no_data for row in rows if row.no_data and not row.scan)
    for note in (*silences, *notes):
        yield from (escape(note), "")


def _row(row: Comparison) -> str:
    numbers = (escape(text, MAX_NAME) for text in (*format_both(row), format_effect(row), format_allowed(row)))
    return _line([escape(label_row(row), MAX_NAME), name_role(row), *numbers, mark_status(row), count_both(row)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _health(findings: Sequence[Finding]) -> Iterable[str]:
    if not findings:
        return
    yield from ("### Health", "")
    fine = ", ".join(escape(name_check(finding), MAX_NAME) for finding in findings if finding.level is Level.OK)
    for finding in put_worst_first(f for f in findings if f.level is not Level.OK):
        texts = [escape_but_commands(text) for text in (finding.text, finding.remedy) if text]
        yield f"- {HEALTH_MARKS[finding.level]} **{escape(name_check(finding), MAX_NAME)}** {' → '.join(texts)}"
    if fine:
        yield f"- {HEALTH_MARKS[Level.OK]} {fine}"
    yield ""


def _method(verdict: Verdict) -> Iterable[str]:
    yield from ("### How it was judged", "")
    facts = {
        "judge": f"{verdict.judge}, {verdict.monitoring.replace('_', ' ')}, alpha {verdict.alpha:g}",
        "policy": verdict.policy_hash,
        "data": verdict.data_hash,
        "evaluator": verdict.evaluator_version,
        "judged at": verdict.judged_at.isoformat(" ", "seconds") if verdict.judged_at else "",
    }
    yield from (f"- {name}: {escape(fact, MAX_NAME)}" for name, fact in facts.items() if fact)
