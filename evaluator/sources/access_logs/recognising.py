"""Which format an access log has, by its first lines."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from evaluator.errors import InputError, UnknownName
from evaluator.records.access_logs import LogColumn, LogLayout
from evaluator.sources.access_logs.apache import ADVICE as ADVICE_FOR_APACHE
from evaluator.sources.access_logs.apache import APACHE
from evaluator.sources.access_logs.apache import KNOWN_FORMATS as FORMATS_OF_APACHE
from evaluator.sources.access_logs.envoy import ENVOY
from evaluator.sources.access_logs.envoy import KNOWN_FORMATS as FORMATS_OF_ENVOY
from evaluator.sources.access_logs.haproxy import HAPROXY, build_clf_layout, build_default_layout
from evaluator.sources.access_logs.json_lines import list_json_layouts
from evaluator.sources.access_logs.json_values import list_values, parse_object
from evaluator.sources.access_logs.log_formats import FormatDialect, build_layout, unquote_directive
from evaluator.sources.access_logs.nginx import KNOWN_FORMATS as FORMATS_OF_NGINX
from evaluator.sources.access_logs.nginx import NGINX
from evaluator.sources.access_logs.refusals import describe_line, show_line
from evaluator.sources.access_logs.traefik import DEFAULT as FORMAT_OF_TRAEFIK
from evaluator.sources.access_logs.traefik import TRAEFIK
from evaluator.sources.access_logs.wrapping import POINTERS, PREFIXES, remove_prefix, unwrap_lines

FORMATS = ("auto", "haproxy", "nginx", "envoy", "apache", "traefik", "caddy", "json")
"""What `--format` may be."""
_DIALECTS: Mapping[str, FormatDialect] = {"haproxy": HAPROXY, "nginx": NGINX, "envoy": ENVOY, "apache": APACHE}
"""Formats whose log format can be given as text → how it is written."""
_SPELLINGS = {
    "nginx": r"\$[a-z{]",
    "envoy": r"%[A-Z_]{3,}(?:\([^)]*\))?(?::[0-9]+)?%",
    "haproxy": r"%(?:\{[+-][^}]*\})?(?:ci|ST|T[aRtr]|tr|ft|HM|HU|HP|\[)|\+json",
    "apache": r"%[<>!0-9,]*(?:\{[^}]*\})?[a-zA-Z]",
}
"""Name of a router → what only its log formats contain, the clearest first."""


@dataclass(frozen=True, slots=True)
class HeadLine:
    """One of the first lines of a file."""

    number: int
    """Counted from 1."""
    text: str
    """Without what a collector has put around it; the prefix of a text line is still there."""


def find_layout(
    top_lines: Sequence[str],
    where: str,
    *,
    log_format: str = "",
    format: str = "auto",  # noqa: A002
    columns: Mapping[LogColumn, str] | None = None,
    sensitive: bool = False,
) -> LogLayout:
    """Find how the lines of an access log are read.

    `top_lines`: the first lines of the file, at least some dozens if it has so many: the first may be cut, and lines
    that are no requests are passed over. `where`: name of the file, for errors. `log_format`: text of the format, as
    the router's configuration has it. `format`: one of FORMATS. `columns`: column → variable of the format, capture of
    HAProxy (`capture.request.0`), or key of JSON, with a unit after a colon. `sensitive`: no error shows a line.

    Raises InputError if no format, or more than one, fits, or if lines lack what is needed; UnknownName.
    """
    if format not in FORMATS:
        raise UnknownName("format of access logs", format, list(FORMATS))
    columns = columns or {}
    lines = [HeadLine(number, line.lstrip("\ufeff").rstrip("\r\n")) for number, line in enumerate(top_lines, 1)]
    lines = [line for line in lines if line.text.strip()]
    if not lines:
        raise InputError(f"{where} has no lines yet", hint="name a file to which the router writes its requests")
    for pointer in POINTERS:
        for prefix in PREFIXES:
            unwrapped = unwrap_lines([line.text for line in lines], pointer, prefix)
            if unwrapped is None:
                continue
            contents = [
                HeadLine(line.number, line.text if text is None else text)
                for line, text in zip(lines, unwrapped, strict=True)
            ]
            layout = _choose_layout(contents, where, log_format, format, columns, prefix, sensitive=sensitive)
            if layout is not None:
                return replace(layout, wrapped_in=pointer, other_lines=_add_prefix(layout.other_lines, prefix))
    raise _refuse(lines, where, log_format, format, sensitive=sensitive)


def _add_prefix(other_lines: str, prefix: str) -> str:
    """Allow the prefix of a collector, or none, before lines that are no requests."""
    return f"^(?:{prefix})?(?:{other_lines})$" if prefix else f"^(?:{other_lines})$"


def _choose_layout(
    lines: Sequence[HeadLine],
    where: str,
    log_format: str,
    format: str,  # noqa: A002
    columns: Mapping[LogColumn, str],
    prefix: str,
    *,
    sensitive: bool,
) -> LogLayout | None:
    """Choose the layout that most lines have; `None` if no line has any. Raises InputError for mixed formats."""
    texts = [remove_prefix(line.text, prefix) for line in lines]
    if log_format:
        layouts = [_build_from_text(log_format, format, columns, where, prefix)]
    else:
        layouts = list(_list_layouts(texts, format, columns, where, prefix))
    whole = [line.text for line in lines]
    matched = [list(itertools.compress(lines, find_requests(layout, whole))) for layout in layouts]
    most = max(map(len, matched), default=0)
    if not most:
        return None
    chosen = next(position for position, requests in enumerate(matched) if len(requests) == most)
    layout = layouts[chosen]
    others = [line for line in lines if line not in matched[chosen]]
    are_known = match_lines(layout.other_lines, [remove_prefix(line.text, prefix) for line in others])
    others = [line for line, is_known in zip(others, are_known, strict=True) if not is_known]
    for line in others:
        by_another = next((each for each, requests in zip(layouts, matched, strict=True) if line in requests), None)
        what, hint = describe_line(remove_prefix(line.text, prefix))
        is_cut = line is lines[0] or line is lines[-1]
        if by_another is not None or (what and not is_cut) or (not is_cut and 2 * len(others) > most):
            what = f"a line of {by_another.format}, with other fields" if by_another else what or "no known format"
            raise InputError(
                f"{where}:{line.number}: formats are mixed: most lines are of {layout.format}, this one looks like "
                f"{what}: {show_line(line.text, sensitive=sensitive)}",
                hint="let each service write to a file of its own, and name its file" + (f"; {hint}" if hint else ""),
            )
    return layout


def find_requests(layout: LogLayout, lines: Sequence[str]) -> list[bool]:
    """Find which lines, unwrapped, are of this layout: requests, if the reader finds their values to be good."""
    if layout.reader == "text":
        return match_lines(layout.pattern, lines)
    before = re.compile(layout.pattern.removesuffix(r"(\{.*)$"))
    documents = [parse_object(before.sub("", line, count=1)) if before.match(line) else None for line in lines]
    pointers = [{pointer for pointer, _ in list_values(document or {})} for document in documents]
    needed = {"started", "ended", "status", "time", "target", "request"}
    return [all(each.source in present for each in layout.fields if each.column in needed) for present in pointers]


def match_lines(pattern: str, lines: Sequence[str]) -> list[bool]:
    """Find which lines match the RE2 `pattern` of a whole line.

    RE2 needs the same time for each character, while Python could search in a long line for hours.
    """
    import pyarrow as pa  # slow to load
    import pyarrow.compute as pc

    valid = pa.array([line.encode("utf-8", "replace").decode() for line in lines], pa.string())
    return cast("list[bool]", pc.match_substring_regex(valid, pattern=f"^(?:{pattern})$").to_pylist())


# ------------------------------------------------------------------ candidates


def _build_from_text(
    log_format: str,
    format: str,  # noqa: A002
    columns: Mapping[LogColumn, str],
    where: str,
    prefix: str,
) -> LogLayout:
    """Build the layout of a log format given as text. Raises InputError if its router is not known."""
    text = unquote_directive(log_format)
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # bytes of the command line that are no UTF-8
        raise InputError("--log-format is not UTF-8", hint="give it in the policy, or in a shell whose locale is UTF-8")
    name = format
    if format not in _DIALECTS:
        name = next((each for each, spelling in _SPELLINGS.items() if re.search(spelling, text)), "")
    if not name:
        raise InputError(
            f"--log-format has no variable: {show_line(text)}",
            hint=f"give it as the router's configuration has it, in single quotes so that the shell keeps $ and %: "
            f"--log-format '{FORMATS_OF_NGINX[-1]}' for nginx, or for Apache {ADVICE_FOR_APACHE}",
        )
    if name == "nginx" and re.search(r"escape=json", log_format):
        dialect = replace(NGINX, quoted=r'(?:[^"\\]|\\.)*')
        return build_layout(dialect, text, columns, where, prefix)
    return build_layout(_DIALECTS[name], text, columns, where, prefix)


def _list_layouts(
    texts: Sequence[str],
    format: str,  # noqa: A002
    columns: Mapping[LogColumn, str],
    where: str,
    prefix: str,
) -> Iterator[LogLayout]:
    """List the layouts that the format may have, the most special first. Raises InputError.

    A layout is left out if it has not what `columns` names, unless lines match it without these columns.
    """
    builders: list[tuple[str, Callable[[Mapping[LogColumn, str], str], LogLayout]]] = [
        ("haproxy", lambda named, before: build_default_layout(named, where, texts, before)),
        ("haproxy", lambda named, before: build_clf_layout(named, where, before)),
        ("traefik", lambda named, before: build_layout(TRAEFIK, FORMAT_OF_TRAEFIK, named, where, before)),
        *(
            (dialect.layout.format, _make_builder(dialect, text, where))
            for dialect, formats in ((NGINX, FORMATS_OF_NGINX), (ENVOY, FORMATS_OF_ENVOY), (APACHE, FORMATS_OF_APACHE))
            for text in formats
        ),
    ]
    for name, build in builders:
        if format not in {"auto", name}:
            continue
        try:
            yield build(columns, prefix)
        except InputError:
            plain = build({}, "")
            if any(find_requests(plain, texts)):
                raise
    objects = [document for text in texts if (document := parse_object(text))]
    if objects:
        for layout in list_json_layouts(objects, columns, where, prefix):
            if format in {"auto", "json", layout.format}:
                yield layout


def _make_builder(dialect: FormatDialect, text: str, where: str) -> Callable[[Mapping[LogColumn, str], str], LogLayout]:
    """Make the function that builds the layout of a known format for named columns and a prefix."""
    return lambda named, prefix: build_layout(dialect, text, named, where, prefix)


# ------------------------------------------------------------------ no layout


def _refuse(
    lines: Sequence[HeadLine],
    where: str,
    log_format: str,
    format: str,  # noqa: A002
    *,
    sensitive: bool,
) -> InputError:
    """Make the error for a file none of whose first lines is a request that can be read."""
    line = lines[min(1, len(lines) - 1)]  # the first one may be cut
    text = line.text
    what, hint = describe_line(text)
    for prefix in PREFIXES[1:]:
        if what and what != "syslog of another program":
            break
        if re.match(prefix, text):
            inner_what, inner_hint = describe_line(remove_prefix(text, prefix))
            what, hint = (inner_what, inner_hint) if inner_what else (what, hint)
    expected = "of the format that --log-format gives" if log_format else f"of {format}" if format != "auto" else ""
    looks_like = f"looks like {what}" if what else "is of no known format"
    reason = f"is not {expected}: it {looks_like}" if expected else looks_like
    return InputError(
        f"{where}:{line.number}: this line {reason}: {show_line(text, sensitive=sensitive)}",
        hint=hint or "give the text of the log format, as the router's configuration has it, with --log-format",
    )
