"""What strategy `ab_test` adds to the section `rollout` of the policy: the outcomes of users, and its stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from evaluator.fields import Name, PositiveDuration, Section, Share, within
from evaluator.records.words import BASELINE

WINNER = "winner"
"""What the last stage of a test needs."""
_NOISE = 1e-9
Text = Annotated[str, Field(min_length=1)]


def _check_time_zone(value: str) -> str:
    """Refuse a time zone that is not known."""
    try:
        ZoneInfo(value or "UTC")
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone {value}: write one such as Europe/Berlin") from None
    return value


class OutcomesSection(Section):
    """Where the outcomes of the users of an A/B test come from. They are read once, at its planned end."""

    files: list[Text] = Field(
        default_factory=list, description="Files, or patterns such as /data/outcomes-*.parquet: CSV, Parquet or Arrow."
    )
    command: list[Text] = Field(
        default_factory=list,
        description="Or a program that writes CSV to its output; ${release} is filled in, and ${begin} and ${end} of "
        "the stages that split users.",
    )
    query: str = Field(
        "",
        description="Or SQL of DuckDB, in which $begin and $end are these times; with files, these are its "
        "table `outcomes`.",
    )
    database: str = Field("", description="With query: a file of DuckDB, which is opened for reading.")
    assigned: list[Text] = Field(
        default_factory=list,
        description="Files, CSV or Parquet, of all users that were assigned, with the columns of user, arm and time: "
        "outcomes of other users, or of half of them, let no arm win.",
    )
    unit: str = Field("", description="Column of the user.  Default: as `evaluator import --outcomes` finds it.")
    arm: str = Field("", description="Column of the arm.  Default: as above.")
    baseline: str = Field("", description="Value of that column which is the baseline.  Default: as above.")
    time: str = Field(
        "", description="Column with the time of a row, by which it belongs to a stage; needed with several stages."
    )
    time_zone: Annotated[str, AfterValidator(_check_time_zone)] = Field(
        "", description="Zone of times that name none, such as Europe/Berlin; without it, these are refused."
    )
    outcomes: list[Text] = Field(
        default_factory=list, description="Columns of outcomes, as `column` or `column:binary`.  Default: all numbers."
    )
    covariates: list[Text] = Field(default_factory=list, description="Columns that were known before the test.")
    least: Annotated[int, within(1, 1_000_000_000)] = Field(100, description="Users that each arm needs.")
    timeout: PositiveDuration = Field(600.0, description="Longest that the program may take.")

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        """Check that the outcomes come from one place."""
        sources = [name for name in ("files", "command", "query") if getattr(self, name)]
        if len(sources) != 1 and sources != ["files", "query"]:
            raise ValueError("needs files, command or query: where the outcomes are read")
        if self.database and sources != ["query"]:
            raise ValueError("has a database, which is read by a query without files")
        return self


ArmShares = dict[Name, Share]


class SplitStage(Protocol):
    """What of a stage matters for a test."""

    @property
    def name(self) -> str: ...  # noqa: D102 - as the keys of the policy
    @property
    def share(self) -> float | None: ...  # noqa: D102
    @property
    def shares(self) -> Mapping[str, float]: ...  # noqa: D102
    @property
    def needs(self) -> str: ...  # noqa: D102
    @property
    def bake(self) -> float | None: ...  # noqa: D102
    @property
    def deadline(self) -> float | None: ...  # noqa: D102


def sum_shares(shares: Mapping[str, float]) -> float:
    """Sum the shares of candidates. Raises ValueError for a baseline, and if nothing is left for it."""
    if BASELINE in shares:
        raise ValueError(f"names the share of {BASELINE}, which gets what the candidates leave")
    empty = [arm for arm, share in shares.items() if share <= 0]
    if empty:
        raise ValueError(f"gives nothing to {', '.join(empty)}")
    total = math.fsum(shares.values())
    if total >= 1 - _NOISE:
        raise ValueError(f"gives {100 * total:g}% to the candidates, so that nothing is left for the {BASELINE}")
    return round(total, 9)


def find_mistakes_of_test(stages: Sequence[SplitStage]) -> list[tuple[int, str]]:
    """Find stages that an A/B test cannot have: position and what is wrong."""
    mistakes = []
    split = [position for position, stage in enumerate(stages) if stage.shares]
    if not split:
        return [(0, "an A/B test needs a stage that splits users: shares: {b: 10%, c: 10%}")]
    arms = set(stages[split[0]].shares)
    for earlier, position in zip([None, *split], split, strict=False):
        stage = stages[position]
        if set(stage.shares) != arms:
            mistakes.append((position, f"{stage.name} has the arms {_name(stage.shares)}, not {_name(arms)} as before"))
            continue
        before = stages[earlier].shares if earlier is not None else {}
        smaller = [arm for arm, share in stage.shares.items() if share < before.get(arm, 0.0)]
        if smaller:
            mistakes.append((position, f"{stage.name} takes users away from {_name(smaller)}: shares have to rise"))
    for position, stage in enumerate(stages):
        is_last = position == split[-1]
        if stage.share is not None and not stage.shares and stage.share < 1:
            mistakes.append((position, f"{stage.name} has a share, but no arms: shares: {{b: 10%, c: 10%}}"))
        if is_last != (stage.needs == WINNER):
            text = f"{stage.name} is the last that splits users, so it needs a winner: needs: winner"
            mistakes.append(
                (position, text if is_last else f"{stage.name} cannot have a winner: only the last split has")
            )
        elif stage.shares and not is_last and stage.needs == "go":
            mistakes.append((position, f"{stage.name} comes before the planned end: needs: no_harm, or nothing"))
        if is_last and stage.deadline is not None and stage.deadline != stage.bake:
            mistakes.append((position, "outcomes are read once, at the planned end, which is bake: leave deadline out"))
    return mistakes


def find_mistakes_of_outcomes(stages: Sequence[SplitStage], outcomes: OutcomesSection | None) -> str:
    """Say why the outcomes of a test cannot decide it; empty if they can."""
    if outcomes is None:
        return "an A/B test is decided by outcomes of its users: outcomes: {files: [/data/outcomes.csv]}"
    split = [stage.name for stage in stages if stage.shares]
    if len(split) > 1 and not outcomes.time:
        return (
            f"users are split in {len(split)} stages with other shares ({', '.join(split)}), and each has its own "
            "sample ratio: outcomes: {time: COLUMN} says to which stage a row belongs"
        )
    return ""


def _name(arms: Sequence[str] | set[str] | Mapping[str, float]) -> str:
    """Name arms in a sentence."""
    return " and ".join(sorted(arms))
