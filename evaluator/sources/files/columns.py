"""Columns by option: `--column TARGET=SOURCE[:UNIT]`, and `--column TARGET=const:VALUE`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from evaluator.errors import InputError, UnknownName
from evaluator.records import ColumnMap

REQUIRED = ("ts", "endpoint", "response_time_ms", "failed")
"""Columns of the request row that a file must have."""

TARGETS = (*REQUIRED, "instance", "response_bytes", "status_code", "exception", "user_count")
"""Columns of the request row that a file may have."""

TIME_UNITS = ("s", "ms", "us", "ns")
INSTANT_UNITS = (*TIME_UNITS, "iso")
FAILED_UNITS = {"failure": "true", "success": "false", "status": "status", "text": "filled"}
_SUCCESS_NAMES = ("success", "succeeded", "ok", "passed")
CONSTANT = "const:"
"""How a SOURCE begins that is no column, but one value for all rows."""
_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), "true"),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), "false"),
}
_LARGEST = {"response_bytes": 2**63 - 1, "status_code": 599, "user_count": 2**31 - 1}
"""Columns of whole numbers → largest value."""

Kind = Literal[
    "text", "integer", "number", "instant", "true", "false", "status", "filled", "unexpected", "ended", "route"
]


@dataclass(frozen=True, slots=True)
class ColumnRequest:
    """One `--column`: the source is looked up when the file's header is known."""

    target: str
    source: str
    """A column, or several joined by `+`; with a constant the text of the option."""
    unit: str = ""
    """A unit, or the format of a time; empty if the option has none."""
    constant: str | None = None
    """Value for all rows; `None`: it comes from columns."""

    @property
    def text(self) -> str:
        """The value of the option: TARGET=SOURCE[:UNIT]."""
        return f"{self.target}={self.source}" + (f":{self.unit}" if self.unit else "")


# ------------------------------------------------------------------ the option


def parse_columns(texts: Sequence[str]) -> tuple[ColumnRequest, ...]:
    """Parse the values of `--column`, each TARGET=SOURCE[:UNIT]. Raises InputError and UnknownName."""
    column_requests = []
    for text in texts:
        target, equals, source_text = text.partition("=")
        if not equals or not target or not source_text:
            raise InputError(
                f"--column '{text}' is not of the form TARGET=SOURCE[:UNIT]",
                hint="for example --column response_time_ms=elapsed:s",
            )
        if target not in TARGETS:
            raise UnknownName("column of a request row", target, TARGETS)
        if source_text.startswith(CONSTANT):
            constant = _check_constant(target, source_text.removeprefix(CONSTANT))
            column_requests.append(ColumnRequest(target, source_text, constant=constant))
        else:
            source, unit = _split_unit(target, source_text)
            column_requests.append(ColumnRequest(target, source, unit))
    targets = [request.target for request in column_requests]
    repeated_target = next((target for target in targets if targets.count(target) > 1), None)
    if repeated_target:
        raise InputError(f"--column names '{repeated_target}' twice", hint="give each TARGET once")
    return tuple(column_requests)


_FORMAT_OF_TIME = re.compile(r"(?P<source>.+?):(?P<format>[^:]*%.*)", re.DOTALL)
"""A column, then a format of a time, which may itself have colons: its first part has a `%`."""


def _split_unit(target: str, source_text: str) -> tuple[str, str]:
    """Split SOURCE[:UNIT]; a colon without a unit after it is part of the column's name. Raises InputError.

    The column of a request row (`target`) decides which units it may have; most have none. Returns the source, and the
    unit or the format of a time, empty if there is none.
    """
    with_format = _FORMAT_OF_TIME.fullmatch(source_text) if target == "ts" else None
    if with_format:
        check_time_format(with_format["format"])
        return with_format["source"], with_format["format"]
    source, _, unit = source_text.rpartition(":")
    units = {"ts": INSTANT_UNITS, "response_time_ms": TIME_UNITS, "failed": tuple(FAILED_UNITS)}.get(target, ())
    return (source, unit) if source and unit in units else (source_text, "")


def _check_constant(target: str, value: str) -> str:
    """Check the value of `TARGET=const:VALUE`, and return it as it is stored. Raises InputError."""
    option = f"--column '{target}={CONSTANT}{value}'"
    if target in {"ts", "response_time_ms"}:
        raise InputError(
            f"{option}: a time cannot be the same for all requests", hint=f"name a column: --column {target}=COLUMN"
        )
    if target == "failed":
        if value.strip().lower() not in _BOOLEANS:
            raise InputError(
                f"{option} has the value '{value}', which does not show whether requests failed",
                hint=f"give failed={CONSTANT}false if all requests of the files succeeded",
            )
        return _BOOLEANS[value.strip().lower()]
    if target in _LARGEST:
        if not re.fullmatch(r"\s*[0-9]{1,19}\s*", value) or int(value) > _LARGEST[target]:
            raise InputError(f"{option} is not a whole number from 0 to {_LARGEST[target]}", hint="correct the value")
        return str(int(value))
    if not value.strip() or "\n" in value:
        raise InputError(f"{option} has no text of one line", hint=f"for example {target}={CONSTANT}all")
    return value


# ------------------------------------------------------------------ columns of a file


def list_sources(request: ColumnRequest, header: Sequence[str]) -> tuple[str, ...]:
    """List the columns that a request names: one, or several joined by `+`. They may be missing in the `header`.

    A column whose name has a `+`, or begins like a constant, is taken as it is. Empty for a constant.
    """
    if request.source in header:
        return (request.source,)
    if request.constant is not None:
        return ()
    return tuple(request.source.split("+"))


def map_column(request: ColumnRequest, header: Sequence[str], typical: Mapping[str, object]) -> ColumnMap:
    """Map a column of the request row to the columns of the file that the option `--column` names for it.

    `header`: columns of the file, which has all that are named; `typical`: column → a typical value, which shows the
    unit of `ts` (seconds, milliseconds, …) if the request has none. Raises InputError for several columns where they
    cannot be joined.
    """
    sources = list_sources(request, header)
    if not sources:
        return ColumnMap(request.target, (), "constant", constant=request.constant or "")
    unit = request.unit
    if request.target == "ts":
        unit = unit or determine_instant_unit(" ".join(str(typical.get(source)) for source in sources))
        if len(sources) > 1 and unit in TIME_UNITS:
            raise _refuse_several(request, f"times in {unit} cannot be joined")
        return ColumnMap("ts", sources, "instant", unit)
    if request.target == "response_time_ms":  # several are summed up
        units = {unit or find_unit_of_name(source) or "ms" for source in sources}
        if len(units) > 1:
            raise _refuse_several(request, f"their names end in different units ({', '.join(sorted(units))})")
        return ColumnMap(request.target, sources, "number", units.pop())
    is_integer = request.target in _LARGEST
    if len(sources) > 1 and (is_integer or request.target == "failed"):
        raise _refuse_several(request, f"{request.target} is made of one column")
    if request.target == "failed":
        # Without a unit, the name of the column shows whether its values are true for a success or for a failure.
        default = "success" if request.source.lower() in _SUCCESS_NAMES else "failure"
        return ColumnMap("failed", sources, cast("Kind", FAILED_UNITS[unit or default]))
    return ColumnMap(request.target, sources, "integer" if is_integer else "text")


def _refuse_several(request: ColumnRequest, why: str) -> InputError:
    """Make the error for a request that joins columns that cannot be joined, and `why`."""
    return InputError(
        f"--column '{request.text}' names several columns: {why}",
        hint="name one; only names and texts of a time are joined (with a space), and response times summed up",
    )


_WORDS_FOR_UNITS = {
    "ns": ("ns", "nanos", "nanosecond", "nanoseconds"),
    "us": ("us", "µs", "micros", "microsecond", "microseconds"),
    "ms": ("ms", "millis", "millisecond", "milliseconds"),
    "s": ("s", "sec", "secs", "second", "seconds"),
}
"""Unit of a duration → words for it at the end of the name of a column."""


def find_unit_of_name(name: str) -> str:
    """Find the unit of a duration that the name of its column ends in: s, ms, us or ns; empty if there is none.

    >>> find_unit_of_name("took_ns"), find_unit_of_name("durationSeconds"), find_unit_of_name("time (µs)")
    ('ns', 's', 'us')
    >>> find_unit_of_name("elapsed"), find_unit_of_name("status")
    ('', '')
    """
    # "durationSeconds" has the words "duration Seconds"; both letters that are used for micro become the same.
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace("\N{GREEK SMALL LETTER MU}", "µ"))
    words = re.findall(r"[a-zµ]+", spaced.lower())
    last_word = words[-1] if words else ""
    return next((unit for unit, spellings in _WORDS_FOR_UNITS.items() if last_word in spellings), "")


# ------------------------------------------------------------------ times

_DIRECTIVES = frozenset(["%", *"aAbBdfgHIjmMnpSyYzZ", *(f"-{letter}" for letter in "dHIjmMSy")])
"""What may follow a `%` in the format of a time: all that the store can read and that says when it is."""


def check_time_format(text: str) -> None:
    """Check the format of a time, such as `%d/%b/%Y:%H:%M:%S %z`. Raises InputError."""
    used = re.findall(r"%(-?.|$)", text, re.DOTALL)
    unknown = next((directive for directive in used if directive not in _DIRECTIVES), None)
    if unknown is not None:
        raise InputError(
            f"the format '{text}' of a time has %{unknown}, which is not known",
            hint="use %Y %m %d %H %M %S, %b and %B (month), %y, %j, %I with %p, %z (+0100), %Z (UTC), "
            "%g (ms), %f (µs), %n (ns)",
        )
    letters = {directive.removeprefix("-") for directive in used}
    has_day = "j" in letters or ("d" in letters and letters & {"m", "b", "B"})
    has_hour = "H" in letters or {"I", "p"} <= letters
    if not (letters & {"Y", "y"} and has_day and has_hour):
        raise InputError(
            f"the format '{text}' of a time needs year, month, day and hour",
            hint="for example --column 'ts=time:%d/%b/%Y:%H:%M:%S %z'; join columns with +: --column 'ts=date+time'",
        )


_SINCE_EPOCH = ((1e11, "s"), (1e14, "ms"), (1e17, "us"))
"""An instant below this number is in this unit: years 1973 to 5138 for seconds, and so on."""

_KNOWN_FORMATS = {
    "%d/%b/%Y:%H:%M:%S %z": re.compile(r"\d{1,2}/[A-Za-z]{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d\d:?\d\d"),
    "[%d/%b/%Y:%H:%M:%S %z]": re.compile(r"\[\d{1,2}/[A-Za-z]{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d\d:?\d\d\]"),
    "%Y-%m-%d %H:%M:%S,%f": re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{1,6}"),
}
"""Format of a time → texts that have it: access logs, and logs of Python."""


def determine_instant_unit(value: object) -> str:
    """Determine how a time is written: s, ms, us or ns since 1970 by its size; a format; iso (8601) for other texts."""
    text = str(value).strip()
    try:
        size = abs(float(text))
    except ValueError:
        return next((name for name, texts in _KNOWN_FORMATS.items() if texts.fullmatch(text)), "iso")
    for limit, unit in _SINCE_EPOCH:
        if size < limit:
            return unit
    return "ns"


def looks_like_time(value: object) -> bool:
    """Whether a value is a time that can be read without a unit or a format: since 2000, or a text with a date."""
    if str(value).startswith(("timestamp[", "date32[", "date64[")):  # a type of Parquet stands for its values
        return True
    unit = determine_instant_unit(value)
    if unit in TIME_UNITS:
        seconds = float(str(value)) / {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
        return 946_684_800 <= seconds < 4_102_444_800  # years 2000 to 2099
    return unit != "iso" or re.match(r"\s*\d{4}[-/]\d\d?[-/]\d\d?([T ]|$)", str(value)) is not None
