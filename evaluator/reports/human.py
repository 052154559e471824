"""The verdict for a person at a terminal: the answer, what decided it, what to do next, then everything else."""

from __future__ import annotations

import itertools
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import click

from evaluator.records import Comparison, Finding, Level, MetricStatus, Verdict, VerdictWord
from evaluator.reports.base import (
    HEALTH_MARKS,
    NBSP,
    TIED,
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
    is_watched,
    label_row,
    list_notes,
    mark_status,
    name_check,
    name_role,
    put_worst_first,
    to_ascii,
    write_title,
)
from evaluator.reports.failures import describe_failures
from evaluator.reports.faults import list_faults
from evaluator.reports.iterations import describe_iteration
from evaluator.reports.metric_rows import explain_adjustment
from evaluator.wording import add_options

WIDE = 110
"""Below this width amounts are written closer together, and absolute bounds are shown in the reasons only."""
LEAST_NAME = 12
MOST_NAME = 36
"""Bounds of the width of the column of names, if there is not enough room for the longest."""
MAX_REASONS = 4
MAX_TEXT = 5_000
COLORS: Mapping[VerdictWord | MetricStatus, str] = {
    VerdictWord.GO: "green",
    VerdictWord.NO_GO: "red",
    VerdictWord.INCONCLUSIVE: "yellow",
    MetricStatus.PASS: "green",
    MetricStatus.FAIL: "red",
}
_COMMAND_TO_COPY = re.compile(r"`evaluator [^`]*`")
_LONG_WORD = re.compile(r"(\S{300})\S+")
"""A name of thousands of characters would hide the rest of the page; the JSON has all of it."""
_COMMAND = re.compile(r"(^\s*)(:)(?=:)|(##\w*)(\[)")
"""What GitHub, Azure and TeamCity take for a command in a log: `::error::`, `##[error]`, `##vso[…]`."""


def render(verdict: Verdict, page: Page) -> str:
    """Write a verdict for the terminal, or the file, that `page` describes."""
    return to_human(
        verdict, width=page.width, color=page.color, unicode=page.unicode, command_options=page.command_options
    )


def to_human(
    verdict: Verdict,
    *,
    width: int = 80,
    color: bool = False,
    unicode: bool = True,
    command_options: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Write a verdict for a terminal of `width` columns; without `unicode` in ASCII only.

    Numbers and commands are never broken into lines. `command_options`: options that commands repeat, and their values.
    """
    writer = _Writer(width, color, unicode, command_options)
    comparisons = verdict.evidence.comparisons
    lines = [*_write_head(verdict, writer), ""]
    for arm in dict.fromkeys(row.arm for row in comparisons):
        lines += [*_write_table(arm, [row for row in comparisons if row.arm == arm], writer), ""]
    lines += _write_health(verdict.evidence.findings, writer)
    return "\n".join(_COMMAND.sub(_escape_command_sign, line.rstrip()) for line in lines).rstrip()


def _escape_command_sign(match: re.Match[str]) -> str:
    """Escape the colon or bracket in a match of `_COMMAND`, so that a CI system takes the line for text.

    The pattern has two alternatives, each with two groups: what stands before the sign, and the sign.
    """
    text_before, sign = match[1] or match[3] or "", match[2] or match[4]
    return f"{text_before}\\x{ord(sign):02x}"


class _Writer(Page):
    """A page with methods that make text fit for it."""

    __slots__ = ()

    def clean(self, text: str) -> str:
        """Make any text safe for this page: no control characters, not endless, and ASCII where the page needs that."""
        text = clean_and_cut(add_options(text, self.command_options), MAX_TEXT)
        # No-break spaces must survive until the lines are broken.
        return text if self.unicode else NBSP.join(map(to_ascii, text.split(NBSP)))

    def paint(self, text: str, meaning: VerdictWord | MetricStatus, *, bold: bool = False) -> str:
        """Colour a text by its meaning, if the page has colours.

        The text itself contains a mark or a word too: colour is never the only sign.
        """
        if not self.color:
            return text
        return click.style(text, fg=COLORS.get(meaning), bold=bold or None)  # False would write a code, None does not

    def wrap(self, text: str, indent: str = "  ", next_indent: str = "    ") -> list[str]:
        """Break a sentence into lines: `indent` before the first, `next_indent` before the others.

        No line is broken between a number and its unit, or in a command: a shell would take it for two. A word of more
        than 300 characters is cut.
        """
        text = _LONG_WORD.sub(rf"\1{self.clean('…')}", self.clean(text))
        text = _COMMAND_TO_COPY.sub(lambda match: match[0].replace(" ", NBSP), text)
        lines = textwrap.wrap(
            TIED.sub(NBSP, text),  # spaces at which no line may be broken
            max(self.width, 40),
            initial_indent=indent,
            subsequent_indent=next_indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return [line.replace(NBSP, " ") for line in lines]


# ------------------------------------------------------------------ the answer


def _write_head(verdict: Verdict, writer: _Writer) -> list[str]:
    """Write the lines of the verdict with its release, the data it rests on, its reasons, faults and notes."""
    word = writer.clean(VERDICT_WORDS[verdict.word])
    title = writer.clean(write_title(verdict))
    data = writer.clean(describe_data(verdict.evidence))
    # Measured before colouring, whose codes take no columns.
    gap = writer.width - _count_columns(f"{word}  {title}") - _count_columns(data)
    answer = f"{writer.paint(word, verdict.word, bold=True)}  {title}"
    fits_one_line = gap >= 2 and data
    lines = [f"{answer}{' ' * gap}{data}"] if fits_one_line else [answer, *writer.wrap(data)]
    for reason in verdict.reasons[:MAX_REASONS]:
        lines += writer.wrap(reason.text)
    if len(verdict.reasons) > MAX_REASONS:
        unlisted = len(verdict.reasons) - MAX_REASONS
        lines += writer.wrap(f"+{unlisted} more reason{'s' if unlisted > 1 else ''}: --format json names them")
    lines += [line for sentence in list_faults(verdict) for line in writer.wrap(f"where: {sentence}")]
    if verdict.faults is not None and (failures := describe_failures(verdict)):
        lines += writer.wrap(failures)
    lines += [line for sentence in describe_iteration(verdict.iteration) for line in writer.wrap(sentence)]
    return lines + [line for note in list_notes(verdict) for line in writer.wrap(note)]


# ------------------------------------------------------------------ the metrics


COLUMNS = ("metric", "role", "baseline", "canary", "change", "margin", "status", "n")
STATUS = COLUMNS.index("status")
COLUMN_SETS = ((0, 1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 3, 4, 5, 6), (0, 2, 3, 4, 5, 6))
"""Columns that are shown, as indexes of `COLUMNS`, from wide pages to narrow ones."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table as text."""

    cells: tuple[str, ...]
    """A cell for each of `COLUMNS`, whether it is shown or not."""
    status: MetricStatus | None = None
    """What colours the cell of the status; `None`: no colour."""
    note: str = ""
    """Sentence below the row."""


def _write_table(arm: str, comparisons: Sequence[Comparison], writer: _Writer) -> list[str]:
    """Write the table of one candidate's comparisons as lines: metrics, listed endpoints, the count of the others."""
    endpoint_rows, endpoint_notes = choose_endpoints([row for row in comparisons if row.scan])
    metric_rows = [row for row in comparisons if not row.scan]
    # The column of the candidate has the name of its arm.
    head = _Row(tuple(writer.clean(arm if column == "canary" else column) for column in COLUMNS))
    label_counts = Counter(map(label_row, comparisons))
    rows = [head, *(_make_row(row, writer, label_counts) for row in (*metric_rows, *endpoint_rows))]
    columns, widths = _choose_columns(rows, writer)
    # A note that neighbouring rows share is written once, below the last of them; an empty row follows the last row.
    rows_with_notes = [
        replace(row, note="") if row.note == next_row.note else row
        for row, next_row in itertools.pairwise([*rows, _Row(())])
    ]
    lines = [line for row in rows_with_notes for line in _arrange_row(row, columns, widths, writer)]
    return lines + [line for note in endpoint_notes for line in writer.wrap(note, "    ", "      ")]


def _make_row(row: Comparison, writer: _Writer, label_counts: Mapping[str, int]) -> _Row:
    """Write the cells of a comparison, shorter on a narrow page; `label_counts`: how many rows have each label."""
    label, change, margin = label_row(row), format_effect(row), format_allowed(row)
    # The metric's note, such as at which quantile values are cut, tells rows of the same label apart.
    label += row.rule.metric.note if label_counts[label] > 1 else ""
    status = mark_status(row, watched_mark="·")
    if writer.width < WIDE:
        change = change.replace(" … ", "…")
        margin = margin.split(", ")[0]  # without limits: reasons name them
        status = status.replace("inconclusive", "unsure")
    note = row.no_data or explain_adjustment(row)
    cells = (label, name_role(row), *format_both(row), change, margin, status, count_both(row))
    return _Row(tuple(map(writer.clean, cells)), None if is_watched(row) else row.status, note)


def _choose_columns(rows: Sequence[_Row], writer: _Writer) -> tuple[tuple[int, ...], list[int]]:
    """Choose the columns that the page has room for; returns their indexes in `COLUMNS`, and their widths.

    The first column, the names, is always shown. Numbers are never cut: if even the fewest columns are too wide, the
    names get what is left.
    """
    full_widths = [max(_count_columns(row.cells[index]) for row in rows) for index in range(len(COLUMNS))]
    for columns in COLUMN_SETS:  # from all columns to the fewest
        # Two spaces precede each column, also the first.
        name_room = writer.width - 2 - sum(full_widths[index] + 2 for index in columns[1:])
        if name_room >= full_widths[0]:
            return columns, [full_widths[index] for index in columns]
    fewest = COLUMN_SETS[-1]  # `name_room` is now what it leaves for the names
    return fewest, [min(max(name_room, LEAST_NAME), MOST_NAME), *(full_widths[index] for index in fewest[1:])]


def _arrange_row(row: _Row, columns: Sequence[int], widths: Sequence[int], writer: _Writer) -> list[str]:
    """Write a row as lines: its cells in `columns`, each padded to its width, then its note.

    A name that is wider than its column gets a line of its own, above the other cells.
    """
    name, lines = row.cells[0], []
    if _count_columns(name) > widths[0]:
        lines = [f"  {_cut_to_columns(name, max(writer.width - 2, LEAST_NAME), dots=writer.clean('…'))}"]
        name = ""
    cells = [_pad(name, widths[0])]
    # Padded before colouring, whose codes take no columns.
    for column, width in zip(columns[1:], widths[1:], strict=True):
        cell = _pad(row.cells[column], width)
        cells.append(writer.paint(cell, row.status) if column == STATUS and row.status else cell)
    lines.append("  " + "  ".join(cells))
    return lines + writer.wrap(row.note, "      ", "      ")


def _pad(text: str, width: int) -> str:
    """Add spaces until a text takes `width` columns of a terminal."""
    return text + " " * (width - _count_columns(text))


def _cut_to_columns(text: str, columns: int, *, dots: str) -> str:
    """Cut the end of a text that takes more than `columns` of a terminal, and write `dots` in its place."""
    if _count_columns(text) <= columns:
        return text
    ends = itertools.accumulate(map(_count_columns, text))  # columns up to and with each character
    kept_characters = sum(1 for end in ends if end <= columns - _count_columns(dots))
    return text[:kept_characters] + dots


def _count_columns(text: str) -> int:
    """Count the columns that a text takes on a terminal: two for a wide character, none for a combining accent."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


# ------------------------------------------------------------------ was it fair


def _write_health(findings: Sequence[Finding], writer: _Writer) -> list[str]:
    """Write the lines of the health checks: passed ones by name, the others with what they found and the remedy."""
    findings = fold_findings(findings)
    # Some checks are made for each candidate: passed for all, they are one.
    passed = list(dict.fromkeys(f"{HEALTH_MARKS[f.level]} {name_check(f)}" for f in findings if f.level is Level.OK))
    names = "  ".join(name.replace(" ", NBSP) for name in passed)
    lines = writer.wrap(names, "  health  ", " " * 10) if passed else []
    for finding in put_worst_first(f for f in findings if f.level is not Level.OK):
        # The word `health` stands before the first line only.
        indent = " " * 10 if lines else "  health  "
        text = f"{HEALTH_MARKS[finding.level]} {name_check(finding)} – {finding.text}"
        lines += writer.wrap(text, indent, " " * 12)
        lines += writer.wrap(finding.remedy, " " * 12, " " * 12)
    return lines
