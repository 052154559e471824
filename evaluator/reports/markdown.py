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
    clean_and_cut,
    count_both,
    describe_data,
    fold_findings,
    format_allowed,
    format_both,
    format_effect,
    label_row,
    list_notes,
    mark_status,
    name_check,
    name_role,
    put_worst_first,
    write_title,
)
from evaluator.reports.failures import describe_failures
from evaluator.reports.faults import list_faults
from evaluator.reports.iterations import describe_iteration

MAX_BYTES = 900_000
"""GitHub refuses a job summary of more than 1 MiB."""
MAX_NAME = 120
MAX_SENTENCE = 1_000
MAX_REASONS = 20
HEAD = ("metric", "role", "baseline", "", "change", "margin", "status", "n")
"""Heads of the table of metrics; the empty one becomes the name of the candidate."""
_MARKUP = re.compile(r"[\\`*_\[\]#|~$&]")
_COMMAND, _ESCAPED_COMMAND = re.compile("`(evaluator [^`]+)`"), re.compile(r"\\`evaluator .+?\\`")
_LIST_MARKER = re.compile(r"^(\d{0,9})(?:([-+=])(?=[-+=\s]|$)|([.)])(?=\s|$))")
"""Start of a text that Markdown would take for a list item, a rule or a heading: digits, then a sign or a dot."""
_MENTION = re.compile(r"(?<!\w)@")
_LINK = re.compile(r"(?i)(www)\.|:(?=//)")
"""What GitHub makes a link without any markup: `www.` or `://`."""


def render(verdict: Verdict, page: Page) -> str:
    """Write a verdict as Markdown. `page` is part of the interface of all formats and is not used here."""
    del page
    return to_markdown(verdict)


def to_markdown(verdict: Verdict, max_bytes: int = MAX_BYTES) -> str:
    """Write a verdict as Markdown, ending without a newline.

    What exceeds `max_bytes` is cut at the end of a line, with a note; the most important lines come first.
    """
    comparisons = verdict.evidence.comparisons
    lines = list(_write_head(verdict))
    for arm in dict.fromkeys(row.arm for row in comparisons):
        lines += _write_table(arm, [row for row in comparisons if row.arm == arm])
    lines += [*_write_health(verdict.evidence.findings), *_write_method(verdict)]
    note = "\n*Cut here: the JSON has all of it.*"
    bytes_left = max_bytes - len(note.encode())
    for line_index, line in enumerate(lines):
        bytes_left -= len(line.encode()) + 1  # with its newline
        if bytes_left < 0:
            return "\n".join([*lines[:line_index], note])
    return "\n".join(lines).rstrip()


def escape(text: str, max_characters: int = MAX_SENTENCE) -> str:
    """Escape a text for Markdown, also for a cell of a table; an empty text becomes a dash.

    No part of the result is markup, HTML, a mention, a link or a list item. A text longer than `max_characters` is cut
    in its middle before it is escaped.
    """
    text = _MARKUP.sub(r"\\\g<0>", clean_and_cut(text, max_characters).strip() or "–")
    text = text.replace("<", "&lt;").replace(">", "&gt;")
    text = _MENTION.sub("@&#8203;", text)  # a space of zero width: `@name` notifies nobody
    # `www.` (its letters are the group 1) becomes `www\.`, and the colon of `://` becomes `\:`.
    text = _LINK.sub(lambda match: f"{match[1]}\\." if match[1] else "\\:", text)
    # What a list item may start with: digits (group 1, may be none), then a sign (2), or a dot or bracket (3).
    return _LIST_MARKER.sub(lambda match: f"{match[1]}\\{match[2] or match[3]}", text)


def escape_but_commands(text: str) -> str:
    """Escape a sentence for Markdown, except its commands in backticks (`evaluator …`), which become code."""
    # Escaping changes commands too; each escaped command is then replaced by its original, in the same order.
    commands = iter(_COMMAND.findall(clean_and_cut(text, MAX_SENTENCE)))
    return _ESCAPED_COMMAND.sub(lambda _: f"`{next(commands)}`", escape(text))


# ------------------------------------------------------------------ sections


def _write_head(verdict: Verdict) -> Iterable[str]:
    """Yield the lines of the verdict: a heading, the reasons as a list, then where faults are and the notes."""
    yield from (f"## {VERDICT_WORDS[verdict.word]} {escape(write_title(verdict), 3 * MAX_NAME)}", "")
    yield from (f"- {escape(reason.text)}" for reason in verdict.reasons[:MAX_REASONS])
    if len(verdict.reasons) > MAX_REASONS:
        yield f"- and {len(verdict.reasons) - MAX_REASONS} more: the JSON names them"
    yield ""
    for sentence in list_faults(verdict):
        yield from (f"**Where:** {escape(sentence)}", "")
    if verdict.faults is not None and (failures := describe_failures(verdict)):
        yield from (escape(failures[0].upper() + failures[1:]), "")
    for sentence in describe_iteration(verdict.iteration):
        yield from (escape(sentence[0].upper() + sentence[1:]), "")
    for note in (*list_notes(verdict), describe_data(verdict.evidence)):
        if note:
            yield from (escape_but_commands(note), "")


def _write_table(arm: str, rows: Sequence[Comparison]) -> Iterable[str]:
    """Yield the lines of an arm: a heading, the table of its comparisons, and below it why some have no data."""
    endpoint_rows, endpoint_notes = choose_endpoints([row for row in rows if row.scan])
    metric_rows = [row for row in rows if not row.scan]
    arm_name = escape(arm, MAX_NAME)
    yield from (f"### {arm_name}", "")
    yield _join_cells(column or arm_name for column in HEAD)  # the empty one is the candidate's
    yield _join_cells("---" for _ in HEAD)
    yield from (_write_row(row) for row in (*metric_rows, *endpoint_rows))
    yield ""
    # Several metrics may lack data for the same reason, which is written once.
    reasons_without_data = dict.fromkeys(row.no_data for row in metric_rows if row.no_data)
    for note in (*reasons_without_data, *endpoint_notes):
        yield from (escape(note), "")


def _write_row(row: Comparison) -> str:
    """Write a comparison as a line of the table, with the cells of `HEAD`."""
    numbers = (escape(text, MAX_NAME) for text in (*format_both(row), format_effect(row), format_allowed(row)))
    return _join_cells([escape(label_row(row), MAX_NAME), name_role(row), *numbers, mark_status(row), count_both(row)])


def _join_cells(cells: Iterable[str]) -> str:
    """Write the cells of a row of a table as its line: `| p95 | gate |`."""
    return f"| {' | '.join(cells)} |"


def _write_health(findings: Sequence[Finding]) -> Iterable[str]:
    """Yield the lines of the health checks: failures and warnings with text and remedy, then passed checks by name."""
    if not findings:
        return
    findings = fold_findings(findings)
    yield from ("### Health", "")
    names = (escape(name_check(finding), MAX_NAME) for finding in findings if finding.level is Level.OK)
    passed = ", ".join(dict.fromkeys(names))  # checks that are made for each candidate: passed for all, they are one
    for finding in put_worst_first(f for f in findings if f.level is not Level.OK):
        texts = [escape_but_commands(text) for text in (finding.text, finding.remedy) if text]
        yield f"- {HEALTH_MARKS[finding.level]} **{escape(name_check(finding), MAX_NAME)}** {' → '.join(texts)}"
    if passed:
        yield f"- {HEALTH_MARKS[Level.OK]} {passed}"
    yield ""


def _write_method(verdict: Verdict) -> Iterable[str]:
    """Yield the lines of the section on how the release was judged; facts that are not known are left out."""
    yield from ("### How it was judged", "")
    facts = {
        "judge": f"{verdict.judge}, {verdict.monitoring.replace('_', ' ')}, alpha {verdict.alpha:g}",
        "policy": verdict.policy_hash,
        "data": verdict.data_hash,
        "evaluator": verdict.evaluator_version,
        "judged at": verdict.judged_at.isoformat(" ", "seconds") if verdict.judged_at else "",
    }
    yield from (f"- {name}: {escape(fact, MAX_NAME)}" for name, fact in facts.items() if fact)
