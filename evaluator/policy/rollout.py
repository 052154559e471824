"""Section `rollout` of the policy: the stages of a release, and what is done before each of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evaluator.errors import EvaluatorError, HookError, UnknownName
from evaluator.fields import Duration, Name, PositiveDuration, Section, Share, within
from evaluator.policy.ab_test import (
    WINNER,
    ArmShares,
    OutcomesSection,
    find_mistakes_of_outcomes,
    find_mistakes_of_test,
    sum_shares,
)
from evaluator.policy.promotion import MOST_APPROVALS, Entries, Entry
from evaluator.quantities import format_duration
from evaluator.records.intents import UNDO, HookEntry

ROLLING, AB_TEST = "rolling", "ab_test"

FIXED_ACTS = ("end", "always")
"""Acts after all stages: `end` if the release is promoted, `always` whatever happened."""

_NO_UNDO = "undo is allowed only among the hooks of rollback; a rollout undoes its acts by itself"

Agreement = Annotated[int, within(0, MOST_APPROVALS)]


class LoadSection(Section):
    """A load that is run while a stage is observed."""

    locustfile: Annotated[str, Field(min_length=1)] = Field(description="File of the users.")
    baseline: list[str] = Field(min_length=1, description="Addresses of the baseline.")
    canary: list[str] = Field(min_length=1, description="Addresses of the candidate.")
    users: Annotated[int, within(1, 1_000_000)] = Field(10, description="Users of each arm.")
    spawn_rate: Annotated[float, within(0.01, 10_000)] = Field(10.0, description="Users that start per second.")
    run_time: PositiveDuration = Field(300.0, description="Duration of one load.")
    replicates: Annotated[int, within(1, 100)] = Field(1, description="Loads one after another.")
    restart: str = Field("", description="Program that restarts both versions between replicates.")


REST = "rest"
"""Size of the batch that has all instances which are left."""

_BATCH = rf"^([1-9][0-9]{{0,4}}%?|{REST})$"


def _write_batch(raw: Any) -> Any:
    """Write the size of a batch as text. Raises ValueError for what is none."""
    text = str(raw) if isinstance(raw, int | float) else raw
    if isinstance(text, str) and not re.fullmatch(_BATCH, text):
        raise ValueError(f"must be a number of instances such as 2, a share of all such as 25%, or rest, not {text}")
    return text


Batch = Annotated[str, BeforeValidator(_write_batch, json_schema_input_type=int | str), Field(pattern=_BATCH)]
"""How many instances a stage replaces, as text: `2`, `25%`, `rest`."""


class StageSection(Section):
    """One stage: what is observed, for how long, and what it needs."""

    name: Name = Field(description="Name of the stage, and of its step in verdicts.")
    environment: Name = Field("production", description="Where it takes place.")
    share: Share | None = Field(None, description="Share of the users of production that the candidate serves.")
    replace: Batch | None = Field(
        None,
        description="With strategy rolling, in place of a share: how many instances get the new version before it; a "
        "number, a share of all instances such as 25%, or rest.",
    )
    shares: ArmShares = Field(
        default_factory=dict,
        description="With strategy ab_test, in place of a share: candidate to its share, such as {b: 10%, c: 10%}; the "
        "baseline gets the rest.",
    )
    needs: Literal["go", "no_harm", "nothing", "winner"] = Field(
        "go", description="What has to be shown before the next stage begins; winner: by the outcomes of ab_test."
    )
    load: LoadSection | None = Field(None, description="A load to run; without it, requests of users are judged.")
    bake: Duration | None = Field(
        None, description="Time until it is judged; of a stage with a load, that of the load."
    )
    deadline: Duration | None = Field(None, description="Time until a person is asked.  Default: bake.")
    least: Annotated[int, within(0, 1_000_000_000)] = Field(500, description="Judged requests of each arm for no_harm.")
    agree: Agreement = Field(0, description="People who have to agree before it begins.")
    policy: dict[str, Any] = Field(
        default_factory=dict,
        description="What it is judged by, where that differs from the rest of the policy: "
        "{alpha: 1%, metrics: [{name: latency_p95, margin: 20%}]}.",
    )

    @field_validator("shares")
    @classmethod
    def _check_arms(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        """Check that the shares of candidates leave something for the baseline, and no other share is named."""
        if value and info.data.get("share") is not None:
            raise ValueError("and share: name one of them; the candidates have the sum of their shares")
        if value:
            sum_shares(value)
        return value

    @property
    def user_share(self) -> float | None:
        """Share of the users that all candidates serve together; None: users meet none."""
        return sum_shares(self.shares) if self.shares else self.share

    @field_validator("deadline")
    @classmethod
    def _check_deadline(cls, value: float | None, info: ValidationInfo) -> float | None:
        """Check that a person is asked after the stage was judged, not before."""
        bake = info.data.get("bake")
        if value is not None and bake is not None and value < bake:
            raise ValueError(f"must be at least bake ({format_duration(bake)}), not {format_duration(value)}")
        return value

    @property
    def has_users(self) -> bool:
        """Do users meet the candidate in it?"""
        return self.user_share is not None or self.replace is not None


class ActSection(Section):
    """Something that is done before a stage, at the end, or always."""

    name: Name = Field(description="Name of the act.")
    arm: Name | None = Field(None, description="With strategy ab_test: the arm whose version ${version} its hooks get.")
    hooks: Entries = Field(default_factory=list, description="Hooks, in order.")
    verify: Entries = Field(default_factory=list, description="Hooks that have to succeed after it.")
    retry_for: Duration = Field(0.0, description="How long it is tried again if it fails.")
    agree: Agreement = Field(0, description="People who have to agree before it is executed.")
    irreversible: bool = Field(default=False, description="There is no way back after it.")
    keeps_baseline: bool = Field(
        default=False,
        description="Of acts of end and always: the servers of the baseline go on serving after it, so that a rollback "
        "can give them users again.",
    )

    @field_validator("hooks", "verify")
    @classmethod
    def _refuse_undo(cls, value: list[HookEntry]) -> list[HookEntry]:
        """Refuse the entry `undo`: what a rollout did is undone without being named."""
        for index, entry in enumerate(value):
            if entry.kind == UNDO:
                raise PydanticCustomError("no_undo", _NO_UNDO, {"index": index})
        return value


class InstancesSection(Section):
    """How instances get the new version, one batch after the other: strategy rolling."""

    least_serving: Annotated[int, within(1, 100_000)] = Field(
        description="How many instances of each service serve at least, at any moment: what a batch takes has to leave "
        "so many."
    )
    drain: Duration = Field(
        60.0,
        description="How long requests and sessions of a drained instance are waited for; then it is replaced all the "
        "same.",
    )
    replace: Entries = Field(
        min_length=1,
        description="Hooks that give an instance the new version; each with an undo that gives it the old one, also "
        "where that runs already. Those that name ${instance} are executed for each instance, others once for a batch.",
    )
    health: Entries = Field(
        default_factory=list,
        description="Hooks that succeed only if an instance works, best with its version ${version}; also executed "
        "after the old version was brought back.",
    )
    healthy_within: Duration = Field(60.0, description="How long they are tried again until they succeed.")

    @field_validator("replace", "health")
    @classmethod
    def _check_hooks(cls, value: list[HookEntry], info: ValidationInfo) -> list[HookEntry]:
        """Refuse the entry `undo`, and hooks that cannot bring back the old version."""
        from evaluator.hooks import make_step

        for index, entry in enumerate(value):
            if entry.kind == UNDO:
                raise PydanticCustomError("no_undo", _NO_UNDO, {"index": index})
            if info.field_name != "replace":
                continue
            try:
                can_undo = make_step(entry.kind, entry.options).hook.can_undo()
            except EvaluatorError as error:
                raise ValueError(error.message) from None
            if not can_undo:
                text = f"{entry.kind} cannot bring back the old version: add undo, such as undo: [./deploy.sh, ...]"
                raise PydanticCustomError("no_way_back", "{error}", {"error": text, "index": index})
        return value


class GuardSection(Section):
    """Limits that are looked at each second while users meet the candidate."""

    failures: Annotated[Share, within(0, 1, ends=False)] = Field(
        0.05, description="Largest share of failed requests of the candidate; more than 0."
    )
    p95: PositiveDuration | None = Field(None, description="Longest 95th percentile of its response times.")
    over: PositiveDuration = Field(10.0, description="Time over which both are counted.")
    least: Annotated[int, within(1, 1_000_000)] = Field(20, description="Requests below which nothing is concluded.")
    health: PositiveDuration = Field(10.0, description="Time between two looks at the router.")


class UnansweredSection(Section):
    """What silence means, where a person is asked."""

    after: PositiveDuration = Field(4 * 3600.0, description="Time to answer.")
    then: Literal["baseline", "stay"] = Field("baseline", description="Go back, or go on waiting.")


class LiveSection(Section):
    """Where the requests of users come from."""

    access_log: str | dict[Name, str] = Field(
        "",
        description="Log of the router, or service to its log; `sources.access_log` says how they are read.",
    )
    lateness: PositiveDuration = Field(
        65.0, description="How long a request may take: it is logged at its end, and a stage ends so much later."
    )
    prometheus: bool = Field(default=False, description="Readings of `sources.prometheus`.")

    def find_log(self, service: str) -> str:
        """Find the path of the log of a service; empty if it has none."""
        return self.access_log if isinstance(self.access_log, str) else self.access_log.get(service, "")


def _list_groups(raw: Any) -> Any:
    """Make a group of one of each service that is named alone."""
    return [[group] if isinstance(group, str) else group for group in raw] if isinstance(raw, list) else raw


Groups = Annotated[
    list[Annotated[list[Name], Field(min_length=1)]],
    BeforeValidator(_list_groups, json_schema_input_type=list[Name | list[Name]]),
    Field(min_length=1),
]


LEAST_LEASE_S = 10.0
"""A driver is seen each second; on a busy machine, or while a store is locked, some of them are missed."""


def _check_lease(value: float) -> float:
    """Refuse a lease in which a driver that is only slow would be taken for gone."""
    if value < LEAST_LEASE_S:
        raise ValueError(f"must be at least {LEAST_LEASE_S:g}s, or a driver that is only slow counts as gone")
    return value


class RolloutSection(Section):
    """How a release is taken to its users."""

    strategy: Literal["canary", "blue_green", "rolling", "ab_test", "big_bang"] = Field(
        description="How traffic is given to the candidate."
    )
    order: Groups | None = Field(
        None, description="Services, one after the other; services of an inner list at the same time: [[cart, shop]]."
    )
    router: dict[Name, Entry] = Field(default_factory=dict, description="Service → the hook of its router.")
    instances: InstancesSection | None = Field(
        None, description="With strategy rolling: how instances get the new version."
    )
    live: LiveSection = Field(default_factory=LiveSection)
    outcomes: OutcomesSection | None = Field(
        None, description="With strategy ab_test: where the outcomes of users come from."
    )
    stages: list[StageSection] = Field(min_length=1, description="The stages, in their order.")
    acts: dict[Name, list[ActSection]] = Field(
        default_factory=dict,
        description="What is done before the stage of this name; `end`: after the last; `always`: whatever happened.",
    )
    guard: GuardSection = Field(default_factory=GuardSection)
    lease: Annotated[Duration, AfterValidator(_check_lease)] = Field(
        60.0, description="Time without a driver after which traffic returns; at least 10s."
    )
    unanswered: UnansweredSection = Field(default_factory=UnansweredSection)
    joint_margin: Annotated[Share, within(0, 1, ends=False)] | None = Field(
        None,
        description="Largest rise of the geometric mean of response times over all services of a stage together, such "
        "as 1%; without it, each service is judged alone.",
    )

    @field_validator("router")
    @classmethod
    def _check_routers(cls, value: dict[str, HookEntry]) -> dict[str, HookEntry]:
        """Refuse what does not share requests between arms."""
        from evaluator.hooks import check_router  # a policy without hooks must not wait for them

        for service, entry in value.items():
            if entry.kind == UNDO:
                raise ValueError(_NO_UNDO)
            try:
                check_router(entry.kind, entry.options)
            except HookError as error:
                raise ValueError(f"{service}: {error.message}; {error.hint}") from None
        return value

    @field_validator("stages")
    @classmethod
    def _check_stages(cls, value: list[StageSection], info: ValidationInfo) -> list[StageSection]:
        """Refuse stages that contradict each other, or the strategy."""
        strategy = info.data.get("strategy", "")
        is_rolling = strategy == ROLLING
        shares = _find_wrong_batches if is_rolling else _find_wrong_shares
        checks = [_find_repeated_name, _find_wrong_order, shares, _find_impossible_needs]
        mistakes = [mistake for check in checks for mistake in check(value)]
        mistakes += _STRATEGY_CHECKS[strategy](value) if strategy in _STRATEGY_CHECKS else []
        mistakes += _find_keys_of_test(strategy, value, info.data)
        if strategy and "instances" in info.data and is_rolling != (info.data["instances"] is not None):
            needs = "needs instances: how they are replaced" if is_rolling else "replaces no instances: leave them out"
            mistakes.append((0, f"strategy {strategy} {needs}, or use another strategy"))
        if is_rolling and any(len(group) > 1 for group in info.data.get("order") or ()):
            mistakes.append((0, "strategy rolling replaces one service after the other: order: [cart, shop]"))
        live: LiveSection | None = info.data.get("live")
        exposed = next((n for n, stage in enumerate(value) if stage.has_users), None)
        if live is not None and exposed is not None and not (live.access_log or live.prometheus):
            text = "users meet the candidate, and nothing shows what they get: name live: {access_log: FILE}"
            mistakes.append((exposed, text))
        for position, text in mistakes:  # the first one
            raise PydanticCustomError("stages", "{error}", {"error": text, "index": position})
        return value

    @field_validator("acts")
    @classmethod
    def _check_acts(cls, value: dict[str, list[ActSection]], info: ValidationInfo) -> dict[str, list[ActSection]]:
        """Check that acts stand before a stage that exists, have different names, and leave a way back for users."""
        stages = info.data.get("stages")
        if stages is None:
            return value  # these have a mistake of their own
        allowed = [*(stage.name for stage in stages), *FIXED_ACTS]
        for name in value:
            if name not in allowed:
                raise ValueError(UnknownName("stage", name, allowed).message)
        # The guard has to return users at any time, whatever else was done.
        exposed = next((n for n, stage in enumerate(stages) if stage.has_users), None)
        for name, acts in value.items():
            one_way = next((act.name for act in acts if act.irreversible), None)
            if one_way is not None and exposed is not None and name not in FIXED_ACTS:
                raise ValueError(
                    f"{one_way} is irreversible and stands before users have left the baseline for good; acts without "
                    "a way back stand at `end`, or leave the key out if the old version works after it, too"
                )
        names = [act.name for acts in value.values() for act in acts]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two acts have the name {name}")
        return value


Mistakes = list[tuple[int, str]]
"""Position of a stage, and what is wrong with it."""


def _find_repeated_name(stages: Sequence[StageSection]) -> Mistakes:
    """Find stages that have the name of an earlier one, or of the acts that follow all stages."""
    names = [*FIXED_ACTS]
    mistakes = []
    for position, stage in enumerate(stages):
        if stage.name in names:
            mistakes.append((position, f"the name {stage.name} is taken"))
        names.append(stage.name)
    return mistakes


def _find_wrong_order(stages: Sequence[StageSection]) -> Mistakes:
    """Find stages without traffic that follow one with traffic."""
    first = next((n for n, stage in enumerate(stages) if stage.has_users), len(stages))
    return [
        (position, f"{stage.name} has no share, but follows {stages[first].name}, in which users meet the candidate")
        for position, stage in enumerate(stages)
        if position > first and not stage.has_users
    ]


def _find_wrong_shares(stages: Sequence[StageSection]) -> Mistakes:
    """Find shares that do not rise up to all traffic."""
    mistakes: Mistakes = []
    earlier = 0.0
    for position, stage in enumerate(stages):
        if stage.replace is not None:
            mistakes.append((position, f"{stage.name} replaces instances, which only strategy: rolling does"))
        if stage.user_share is None:
            continue
        if stage.user_share <= earlier:
            text = f"the share has to rise, but {100 * stage.user_share:g}% follows {100 * earlier:g}%"
            mistakes.append((position, text))
        earlier = stage.user_share
    if earlier != 1.0:
        mistakes.append((len(stages) - 1, "the last stage needs share: 100%, or the release never reaches all users"))
    return mistakes


def _find_wrong_batches(stages: Sequence[StageSection]) -> Mistakes:
    """Find shares, and batches that do not replace all instances."""
    mistakes: Mistakes = []
    batches = [position for position, stage in enumerate(stages) if stage.replace is not None]
    for position, stage in enumerate(stages):
        if stage.share is not None:
            text = f"{stage.name} has a share: strategy rolling has replace: 2, 25% or rest, and the share follows"
            mistakes.append((position, text))
        if stage.replace is not None and stage.load is not None:
            mistakes.append((position, f"{stage.name} has a load and replaces instances: give each a stage of its own"))
        if stage.replace == REST and position != batches[-1]:
            mistakes.append((position, f"{stage.name} replaces the rest, so nothing is left for a later stage"))
    if not batches or stages[batches[-1]].replace != REST:
        mistakes.append((len(stages) - 1, "the last stage needs replace: rest, or some instances keep the old version"))
    return mistakes


def _find_impossible_needs(stages: Sequence[StageSection]) -> Mistakes:
    """Find stages whose evidence cannot exist."""
    mistakes = []
    for position, stage in enumerate(stages):
        if stage.needs == "nothing":
            continue
        if stage.replace == REST:
            text = "no instance has the old version then, so nothing can be compared: needs: nothing; the guard watches"
            mistakes.append((position, text))
        elif stage.share == 1.0 and stage.load is None:
            text = "no request reaches the baseline at a share of 100 %, so nothing can be compared: needs: nothing"
            mistakes.append((position, text))
        elif not stage.has_users and stage.load is None:
            mistakes.append((position, f"{stage.name} has neither a load nor a share of the users, so it has no data"))
        elif stage.load is None and not stage.bake:
            mistakes.append((position, f"{stage.name} needs {stage.needs}, so it needs a time: bake: 10m"))
    return mistakes


def _check_canary(stages: Sequence[StageSection]) -> Mistakes:
    """Find what a canary cannot be: it has a stage with a part of the traffic."""
    if any(stage.user_share is not None and stage.user_share < 1 for stage in stages):
        return []
    return [(0, "a canary needs a stage with a share below 100%; without one it is strategy: big_bang or blue_green")]


def _check_one_switch(stages: Sequence[StageSection]) -> Mistakes:
    """Find shares other than all traffic."""
    return [
        (position, "this strategy moves all traffic at once: share: 100%, or strategy: canary")
        for position, stage in enumerate(stages)
        if stage.user_share is not None and stage.user_share < 1
    ]


def _check_blue_green(stages: Sequence[StageSection]) -> Mistakes:
    """Find what a blue-green release cannot be: it is judged before the switch."""
    is_judged = any(stage.user_share is None and stage.needs != "nothing" for stage in stages)
    before = [] if is_judged else [(0, "blue-green needs a stage with a load before the switch, which needs go")]
    return [*_check_one_switch(stages), *before]


def _find_keys_of_test(strategy: str, stages: Sequence[StageSection], known: dict[str, Any]) -> Mistakes:
    """Find what only an A/B test has, in another strategy, and outcomes that cannot decide one. `known`: other keys."""
    if strategy == AB_TEST:
        text = find_mistakes_of_outcomes(stages, known["outcomes"]) if "outcomes" in known else ""
        return [(0, text)] if text else []
    mistakes = [
        (position, f"{stage.name} splits users between several candidates, which only strategy: ab_test does")
        for position, stage in enumerate(stages)
        if stage.shares or stage.needs == WINNER
    ]
    if strategy and known.get("outcomes") is not None:
        mistakes.append((0, f"strategy {strategy} is not decided by outcomes: leave them out, or strategy: ab_test"))
    return mistakes


_STRATEGY_CHECKS = {
    "canary": _check_canary,
    "blue_green": _check_blue_green,
    "ab_test": find_mistakes_of_test,
    "big_bang": _check_one_switch,
}
"""Strategy → finds what contradicts it."""
