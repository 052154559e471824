"""Options of access logs in the policy, and on the command line, where they override those of the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, field_validator

from evaluator.errors import UnknownName, UsageError
from evaluator.fields import Name, Section
from evaluator.records import EndpointRule, LogColumn, LogOptions, check_log_options
from evaluator.records.access_logs import STATUS

_Format = Literal["auto", "haproxy", "nginx", "envoy", "apache", "traefik", "caddy", "json"]
_Patterns = Annotated[
    list[Name],
    BeforeValidator(lambda raw: [raw] if isinstance(raw, str) else raw, json_schema_input_type=Name | list[Name]),
    Field(min_length=1),
]


class EndpointSection(Section):
    """A rule that gives paths one name."""

    pattern: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="Regular expression (RE2) of a part of the path, such as ^/shops/[^/]+."
    )
    replacement: Annotated[str, Field(max_length=1000)] = Field(
        description="What takes its place, such as /shops/{shop}; \\1 is the first group."
    )

    @field_validator("replacement")
    @classmethod
    def _check_rule(cls, value: str, info: Any) -> str:
        """Refuse a rule that cannot be applied. The messages continue the name of the key."""
        import pyarrow as pa  # slow to load, and few policies have rules
        import pyarrow.compute as pc

        pattern = info.data.get("pattern")  # None if it has a mistake of its own
        if pattern is not None:
            try:
                pc.replace_substring_regex(pa.array(["/"]), pattern=pattern, replacement=value)
            except pa.ArrowInvalid as error:
                reason = str(error).removeprefix("Invalid regular expression: ").splitlines()[0]
                raise ValueError(f"and pattern '{pattern}' are no rule of RE2: {reason}") from None
        return value


class AccessLogSource(Section):
    """Access logs of the router in front of the service."""

    format: _Format = Field("auto", description="Format of the lines; auto: by the first lines of the file.")
    log_format: str = Field("", description="Text of the format, as the router's configuration has it.")
    columns: dict[LogColumn, str] = Field(
        default_factory=dict,
        description="Column → key of JSON or variable of the format, such as {time: 'duration:ms'}.",
    )
    arms: dict[Name, _Patterns] = Field(
        default_factory=dict,
        description="Patterns (*, ?) of names of each arm, such as {baseline: ['b*'], canary: ['c*']}.",
    )
    arm_from: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        "server", description="Whose names these are: server, backend, or a field of the lines."
    )
    failures: list[str] = Field(
        ["5xx"],
        description="Statuses that are failures, such as 5xx or 429; a broken answer always is.",
    )
    endpoints: list[EndpointSection] = Field(
        default_factory=list, description="Rules that give paths one name, before identifiers become {id}."
    )
    time_zone: str = Field("UTC", description="Time zone of times without one, such as Europe/Berlin.")

    @field_validator("failures")
    @classmethod
    def _check_failures(cls, value: list[str]) -> list[str]:
        """Refuse what is no status or class of statuses."""
        for text in value:
            if not STATUS.fullmatch(text):
                raise ValueError(f"must be statuses such as 5xx or '429', not '{text}'")
        return value

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, value: str) -> str:
        """Refuse the name of a time zone that does not exist."""
        try:
            ZoneInfo(value)
        except (ValueError, OSError, KeyError):
            raise ValueError(f"must be the name of a time zone such as Europe/Berlin, not '{value}'") from None
        return value


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How access logs are recognised and read, from the policy and the command line."""

    options: LogOptions
    format: str = "auto"
    log_format: str = ""
    columns: Mapping[LogColumn, str] = field(default_factory=dict)


def combine_settings(
    source: AccessLogSource | None,
    *,
    format: str = "auto",  # noqa: A002
    log_format: str = "",
    columns: Sequence[str] = (),
    arm_servers: Sequence[str] = (),
    arm_from: str = "",
    service: str = "",
    sensitive: bool = False,
) -> LogSettings:
    """Combine the options of the policy (`source`) with those of the command line, which override them.

    `columns`: texts COLUMN=SOURCE[:UNIT]. `arm_servers`: texts ARM=PATTERN; they replace all of the policy.
    `arm_from`: server, backend, or a field of the lines; empty: as in the policy. Raises UsageError and UnknownName.
    """
    source = source or AccessLogSource.model_validate({})
    all_columns = dict(source.columns) | _parse_columns(columns)
    origin = arm_from or source.arm_from
    if origin not in ("server", "backend", "arm"):
        all_columns["arm"] = origin
    arms = _parse_arms(arm_servers) or {arm: tuple(patterns) for arm, patterns in source.arms.items()}
    options = LogOptions(
        arms=arms,
        arm_from="server" if origin == "server" else "backend" if origin == "backend" else "arm",
        failures=tuple(source.failures),
        endpoint_rules=tuple(EndpointRule(rule.pattern, rule.replacement) for rule in source.endpoints),
        time_zone=source.time_zone,
        service=service,
        sensitive=sensitive,
    )
    check_log_options(options)
    # A format on the command line is another one than that of the policy, whose text then does not hold.
    is_other_format = format not in ("auto", source.format)
    text = log_format or ("" if is_other_format else source.log_format)
    return LogSettings(options, source.format if format == "auto" else format, text, all_columns)


def _parse_columns(texts: Sequence[str]) -> dict[LogColumn, str]:
    """Read texts COLUMN=SOURCE[:UNIT]. Raises UsageError, and UnknownName for a column that there is not."""
    columns: dict[LogColumn, str] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not (equals and source):
            raise UsageError(f"--column {text} is not COLUMN=SOURCE", hint="for example --column time=duration:ms")
        column = next((column for column in get_args(LogColumn) if column == name), None)
        if column is None:
            raise UnknownName("column of access logs", name, list(get_args(LogColumn)))
        columns[column] = source
    return columns


def _parse_arms(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read texts ARM=PATTERN, of which an arm may have several. Raises UsageError."""
    arms: dict[str, tuple[str, ...]] = {}
    for text in texts:
        arm, equals, pattern = text.partition("=")
        if not (arm and equals and pattern):
            raise UsageError(f"--arm-server {text} is not ARM=PATTERN", hint="for example --arm-server canary='c*'")
        arms[arm] = (*arms.get(arm, ()), pattern)
    return arms
