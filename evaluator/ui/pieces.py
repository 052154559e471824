"""Pieces of pages as HTML. Every text goes through `Markup.format`, which escapes it; nothing else makes HTML here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from urllib.parse import urlencode

import streamlit as st
from markupsafe import Markup

from evaluator.figures.base import PALETTE
from evaluator.records import Comparison, Finding, Verdict, VerdictWord
from evaluator.records.life import Life, LifeState
from evaluator.reports import VERDICT_WORDS, plain_text
from evaluator.reports.base import (
    HEALTH_MARKS,
    fold_findings,
    is_only_shown,
    mark_status,
    name_check,
    put_worst_first,
)
from evaluator.reports.life import describe_life, name_state
from evaluator.ui.reads import DEFAULT_STORE, find_store_path
from evaluator.wording import add_options, count_of, format_duration

MAX_CHARACTERS = 300
DAY_S = 86400
TIME = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands in a sentence for a time."""


def show(html: Markup) -> None:
    """Put HTML on the page."""
    st.html(Markup('<div class="ev">{}</div>').format(html))


def show_markup(template: str, *values: object) -> None:
    """Put HTML on the page; each `{}` of the template is filled with a value, escaped unless it is Markup."""
    show(Markup(template).format(*values))  # noqa: S704 the pages' own text


def name_tab(page: str, release_id: str, word: VerdictWord | None) -> None:
    """Name the browser's tab after a release, its latest verdict (None: not judged) and the page: several are open."""
    mark = f"{VERDICT_WORDS[word].split()[-1]} " if word else ""
    st.set_page_config(page_title=f"{mark}{clean(release_id)} · {page}")


def show_sections() -> None:
    """Put a line of links to the headings below on the page, which stays at its top.

    `navigation.js` writes them as soon as there are headings, and marks the section that is read.
    """
    show(Markup('<nav class="ev-sections" aria-label="sections of this page"></nav>'))


def show_list(items: Iterable[Markup]) -> None:
    """Put a list on the page; each item is an `<li>`."""
    show_markup('<ul class="ev-list">{}</ul>', Markup("").join(items))


def show_empty(problem: str, advice: str, command: str = "", *, alert: bool = False) -> None:
    """Show a box that says what is missing or wrong, what to do, and the exact command for that.

    `alert`: screen readers announce the box at once.
    """
    command_html = Markup(" {}").format(mark_up_command(command)) if command else ""
    box = Markup('<div class="ev-empty" role="status"><strong>{}</strong>{}{}</div>').format(
        mark_up_code(problem), mark_up_code(advice), command_html
    )
    show(Markup('<div role="alert">{}</div>').format(box) if alert else box)


def clean(text: object) -> str:
    """Make a text that cannot change the layout: control characters are escaped, and a long text is cut.

    It is not escaped for HTML: `Markup.format` does that.
    """
    plain = plain_text(str(text))
    return plain if len(plain) <= MAX_CHARACTERS else plain[: MAX_CHARACTERS - 1] + "…"


def keep_units(text: str) -> str:
    """Replace the space between a number and its unit by one at which no line ends: `2 %`, `± 3 ms`, `69 min`."""
    return re.sub(r"(?<=\d) (?=(?:%|(?:pp|ns|µs|ms|s|min|h)\b))|(?<=±) ", "\u00a0", text)


def escape_markdown(text: object) -> str:
    """Escape a text for labels and captions, which Streamlit reads as Markdown."""
    return "".join(
        f"\\{character}" if character in "\\`*_{}[]()<>#+-.!|~$:" else character for character in clean(text)
    )


def link(page: str, text: str, *, at: str = "", **chosen: object) -> Markup:
    """Make a link to a page of this app: `text` is shown; the other arguments are those of `write_address`."""
    return Markup('<a href="{}" target="_self">{}</a>').format(write_address(page, at=at, **chosen), clean(text))


def write_address(page: str, *, at: str = "", **chosen: object) -> str:
    """Write the address of a page, relative to any other page.

    `chosen`: what is chosen on that page, by the key of its control; None is left out. `at`: the heading to go to.
    """
    query = urlencode({name: str(value) for name, value in chosen.items() if value is not None})
    return f"./{page}" + (f"?{query}" if query else "") + (f"#{at}" if at else "")


def mark_up_time(moment: datetime | None, *, with_seconds: bool = False) -> Markup:
    """Write a time in the reader's time zone as `<time>`, with UTC as its tooltip; a dash if it is None."""
    if moment is None:
        return Markup("–")
    utc, local = moment.astimezone(UTC), moment.astimezone(find_time_zone())
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(),
        f"{utc:%Y-%m-%d %H:%M:%S} UTC",
        f"{local:%Y-%m-%d %H:%M:%S}" if with_seconds else f"{local:%Y-%m-%d %H:%M}",
    )


def find_time_zone() -> tzinfo:
    """Find the time zone of the reader's browser; UTC if the browser names none, or an unknown one."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def write_age(moment: datetime | None, now: datetime) -> str:
    """Write how long ago a moment was: `just now`, `14 min ago`, from two days on `3 days ago`."""
    if moment is None:
        return "at an unknown time"
    seconds = (now - moment).total_seconds()
    if seconds < 10:
        return "just now"
    for unit_s, unit, below_s in ((1, "s", 90), (60, "min", 90 * 60), (3600, "h", 2 * DAY_S)):
        if seconds < below_s:
            return f"{int(seconds // unit_s)} {unit} ago"
    return f"{int(seconds // DAY_S)} days ago"


def write_until(moment: datetime, now: datetime) -> str:
    """Write how much time is left until a moment: `in 14 min`, from two days on `in 3 days`; `over` afterwards."""
    seconds = (moment - now).total_seconds()
    if seconds <= 0:
        return "over"
    return f"in {int(seconds // DAY_S)} days" if seconds >= 2 * DAY_S else f"in {format_duration(round(seconds))}"


def mark_up_verdict(word: VerdictWord | str | None) -> Markup:
    """Write the word of a verdict with its mark, coloured; `not judged` for None or an empty text."""
    if not word:
        return Markup('<span class="muted">not judged</span>')
    verdict_word = VerdictWord(word)
    return Markup('<strong class="{}">{}</strong>').format(verdict_word.value, VERDICT_WORDS[verdict_word])


_STATE_CLASSES = {
    LifeState.LIVE: "go",
    LifeState.ROLLED_BACK: "no_go",
    LifeState.FAILED: "no_go",
    LifeState.NOT_JUDGED: "muted",
    LifeState.JUDGED: "muted",
    LifeState.REPLACED: "muted",
}
"""State of a release → the class that colours it; the others need attention."""


def mark_up_state(life: Life) -> Markup:
    """Write the state of a release with its mark, coloured."""
    return Markup('<strong class="{}">{}</strong>').format(
        _STATE_CLASSES.get(life.state, "inconclusive"), clean(name_state(life))
    )


def mark_up_life(life: Life, present: datetime) -> Markup:
    """Write the state of a release in a line: what was done with it, when, by whom and why."""
    return Markup('<p class="state">{} {}</p>').format(mark_up_state(life), mark_up_past(life, present))


def mark_up_past(life: Life, present: datetime) -> Markup:
    """Write what was done with a release after the name of its state: how long ago, by whom and why."""
    if life.state is LifeState.JUDGED:
        return Markup("no action was requested")
    # The time is an element: it is put where a sentence has its place.
    before, _, after = describe_life(life, lambda _: TIME).partition(TIME)
    if before.startswith(state := str(life.state)):
        before = before[len(state) :].removeprefix(":").lstrip()
    age = Markup("{} ({})").format(write_age(life.at, present), mark_up_time(life.at)) if life.at else ""
    return Markup("{}{}{}").format(clean(before), age, clean(after))


def mark_up_code(text: str) -> Markup:
    """Write a text as HTML: its lines stay lines, and parts between backticks (commands) are code."""
    lines = []
    for line in text.splitlines():
        parts = clean(line).split("`")  # parts at odd places were between backticks
        lines.append(Markup("").join(mark_up_command(part) if place % 2 else part for place, part in enumerate(parts)))
    return Markup("<br>").join(lines)


def mark_up_command(command: str) -> Markup:
    """Write a command as HTML code, completed by `complete_command`."""
    return Markup("<code>{}</code>").format(complete_command(command))


def complete_command(command: str) -> str:
    """Add `--store` to a command of the evaluator, unless the store is the one that is found without it.

    A person copies the command into a shell in the folder in which the app was started. `evaluator app` stays as it is:
    it is shown to those who must not see where the store is. `evaluator demo` has a store of its own by itself.
    """
    store = find_store_path()
    is_found = store == DEFAULT_STORE.absolute() and not command.startswith("evaluator demo")
    if is_found or command.startswith("evaluator app"):
        return command
    return add_options(f"`{command}`", {"--store": str(store)}).strip("`")


def show_definitions(pairs: Iterable[tuple[str, object]]) -> None:
    """Put names with their values on the page; values are cleaned unless they are Markup."""
    rows = (Markup("<dt>{}</dt><dd>{}</dd>").format(name, _clean_cell(value)) for name, value in pairs)
    show_markup('<dl class="ev-dl">{}</dl>', Markup("").join(rows))


def _clean_cell(value: object) -> object:
    """Clean a value that is no Markup."""
    return value if isinstance(value, Markup) else clean(value)


def make_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> Markup:
    """Make a table; the first cell of a row is the name of the row. Values are cleaned unless they are Markup.

    `caption`: what screen readers call the table. On a phone each row is a block, which repeats the heads.
    """
    head_cells = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in head)
    body = []
    for row in rows:
        cells = (
            Markup('<td data-of="{}">{}</td>').format(name, _clean_cell(value))
            for name, value in zip(head[1:], row[1:], strict=True)
        )
        body.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(_clean_cell(row[0]), Markup("").join(cells)))
    return Markup(
        '<div class="ev-scroll ev-rows" tabindex="0" role="region" aria-label="{}"><table><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(caption or " and ".join(head[:2]), head_cells, Markup("").join(body))


def show_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> None:
    """Put a table on the page; arguments as of `make_table`."""
    show(make_table(head, rows, caption=caption))


# ------------------------------------------------------------------ a verdict


def make_banner(verdict: Verdict, notes: Sequence[Markup], state: Markup, next_action: str) -> Markup:
    """Make the box with the answer: the verdict, the state of the release, reasons, what to do next, and notes below.

    `state`: as `mark_up_life` writes it. Four reasons are shown at most.
    """
    against = ", ".join(
        f"{service.name} {service.baseline}".strip() for service in verdict.release.services if service.baseline
    )
    reasons = Markup("").join(Markup("<li>{}</li>").format(clean(reason.text)) for reason in verdict.reasons[:4])
    more = f"and {count_of(len(verdict.reasons) - 4, 'more reason')}"
    unlisted = Markup("<p>{}</p>").format(link("release", more, at="metrics", release=verdict.release.id))
    return Markup(
        '<section class="ev-banner is-{}" aria-label="verdict"><h1><span class="word {}">{}</span>'
        '<span class="name">{}</span> <span class="against">{}</span></h1>{}<ul>{}</ul>{}'
        '<p class="next"><strong>Next:</strong> {}</p><p class="said muted">{}</p></section>'
    ).format(
        verdict.word.value,
        verdict.word.value,
        VERDICT_WORDS[verdict.word],
        clean(verdict.release.id),
        f"against {clean(against)}" if against else "",
        state,
        reasons,
        unlisted if len(verdict.reasons) > 4 else "",
        mark_up_code(next_action or "nothing"),
        Markup(" · ").join(notes),
    )


def show_health(findings: Sequence[Finding]) -> None:
    """Show the health checks with what they found, the worst first."""
    st.header("Was it a fair comparison?", anchor="health")
    if not findings:
        show_empty("No check was made.", "")
        return
    show_list(
        Markup('<li><span class="{}" aria-hidden="true">{}</span> <strong>{}</strong> <span>{}</span>{}</li>').format(
            finding.level.value,
            HEALTH_MARKS[finding.level],
            name_check(finding),
            clean(finding.text),
            Markup('<span class="reason">{}</span>').format(mark_up_code(finding.remedy)) if finding.remedy else "",
        )
        for finding in put_worst_first(fold_findings(findings))
    )


# ------------------------------------------------------------------ status and colour


def mark_up_status(comparison: Comparison) -> Markup:
    """Write the status of a comparison with its mark, coloured."""
    return Markup('<span class="status {}">{}</span>').format(
        find_status_class(comparison), mark_status(comparison, watched_mark="· shown only")
    )


def find_status_class(comparison: Comparison) -> str:
    """Return the CSS class that colours a status: `watch` for a watched metric with data, else the status itself."""
    return "watch" if is_only_shown(comparison) else comparison.status.value


def to_css_color(color: str) -> str:
    """Write a colour of the figures as CSS that has its counterpart for dark pages too."""
    return f"light-dark({color}, {PALETTE[color]})"


def make_legend(colors: Mapping[str, str]) -> Markup:
    """Make the legend of the figures: line and name of each arm; `colors` by arm, the dashed baseline first."""
    keys = Markup("").join(
        Markup('<span><span class="ev-key" style="color:{}{}"></span>{}</span>').format(
            color, "" if index else ";border-top-style:dashed", clean(name)
        )
        for index, (name, color) in enumerate(colors.items())
    )
    return Markup('<p class="ev-legend">{}</p>').format(keys)
