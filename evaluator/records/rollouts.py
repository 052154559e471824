"""Rollouts: the plan, which does not change once the rollout has started, and the events that follow."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from evaluator.errors import PlanNotReadable
from evaluator.records.intents import NOTIFY, HookEntry
from evaluator.records.words import BASELINE, CANDIDATE


class StepNeeds(StrEnum):
    """What an observation has to show before the next step begins."""

    GO = "go"
    NO_HARM = "no_harm"
    """No NO-GO, enough judged requests, and failures below the guard's limit."""
    NOTHING = "nothing"
    WINNER = "winner"
    """One of several candidates, shown by the outcomes of users at the planned end of an A/B test."""

    @property
    def label(self) -> str:
        """The same for people."""
        if self is StepNeeds.WINNER:
            return "an arm that wins"
        return "GO" if self is StepNeeds.GO else self.value.replace("_", " ")


class Unanswered(StrEnum):
    """What happens if a person who is asked does not answer in time."""

    BASELINE = "baseline"
    STAY = "stay"


class InstanceWork(StrEnum):
    """What an act does with some of a service's instances, in a rollout that replaces one batch after the other."""

    DRAIN = "drain"
    """Its router gives them no new requests; those that they have are waited for."""
    REPLACE = "replace"
    """They get the new version."""
    HEALTH = "health"
    """Hooks look whether the new version works."""
    UNDRAIN = "undrain"
    """Its router gives them requests again: from now on they are of the candidate."""


AFTER_STAGES = "end"
"""Stage of acts that are executed after all stages of a promotion."""


@dataclass(frozen=True, slots=True)
class Act:
    """A step that changes something by hooks."""

    name: str
    stage: str
    """Name of the stage before which it is executed; `end` and `always` stand after all stages."""
    hooks: tuple[HookEntry, ...] = ()
    """Executed in this order."""
    services: tuple[str, ...] = ()
    """Services whose traffic a shift changes."""
    share: float | None = None
    """Share of these services' traffic that the candidate gets (1 is all); None: it changes no traffic."""
    arm: str = ""
    """The arm that its hooks are about; empty: the only candidate."""
    arm_shares: Mapping[str, float] = field(default_factory=dict)
    """Candidate → its share, where there are several; together they are `share`. Empty: there is one."""
    to_winner: bool = False
    """Does the arm that won get all of `share`?"""
    retry_for_s: float = 0.0
    """How long an act that fails is tried again."""
    agree: int = 0
    """How many people have to agree before it is executed."""
    final: bool = False
    """Is it executed after the rollout, however that ends?"""
    irreversible: bool = False
    """Is there no way back after it?"""
    verify: tuple[HookEntry, ...] = ()
    """Hooks that change nothing, and have to succeed after it."""
    keeps_baseline: bool = False
    """Does the policy say that the servers of the baseline go on serving after it?"""
    work: InstanceWork | None = None
    """What it does with `instances`; None: it concerns none."""
    instances: tuple[str, ...] = ()
    """The instances of one batch, as the router names them."""
    arms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Arm → the servers that serve it after `drain` or `undrain`; a drained server is in none."""

    @property
    def is_shift(self) -> bool:
        """Does it change traffic?"""
        return self.share is not None

    @property
    def may_take_down(self) -> bool:
        """May it take down the servers of the baseline, once the candidate has all users?

        So may each act that comes after all stages, unless it only notifies people or the policy says otherwise.
        """
        is_last = self.final or self.stage == AFTER_STAGES
        return is_last and not self.keeps_baseline and any(hook.kind != NOTIFY for hook in self.hooks)


@dataclass(frozen=True, slots=True)
class Observe:
    """A step that waits for evidence, which allows or forbids the next step."""

    name: str
    stage: str
    environment: str
    services: tuple[str, ...]
    needs: StepNeeds
    bake_s: float
    """Time until it is judged."""
    deadline_s: float
    """Time until a person is asked; at least `bake_s`."""
    share: float = 0.0
    """Share of production's traffic that the candidate has meanwhile."""
    arm_shares: Mapping[str, float] = field(default_factory=dict)
    """Candidate → its share, where there are several; together they are `share`. Empty: there is one."""
    least: int = 0
    """Judged requests that each arm needs for `no_harm`."""
    load: Mapping[str, Any] | None = None
    """Options of the load that is run meanwhile; None: the requests of users are judged."""


Step = Act | Observe


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """What is looked at each second while users meet the candidate."""

    failures: float = 0.05
    """Largest share of the candidate's requests that may fail."""
    p95_ms: float | None = None
    """Longest 95th percentile of response times (ms); None: no limit."""
    over_s: float = 10.0
    """Time over which both are counted."""
    least: int = 20
    """Requests below which nothing is concluded from them."""
    health_s: float = 10.0
    """Time between two looks at the router's own state."""


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What a rollout will do, as it was shown and agreed to."""

    release: str
    strategy: str
    services: tuple[str, ...]
    steps: tuple[Step, ...]
    """Acts that are final stand at the end."""
    guard: GuardLimits = field(default_factory=GuardLimits)
    lease_s: float = 60.0
    """Time without the process that drives the rollout, after which traffic returns to the baseline."""
    answer_within_s: float = 4 * 3600.0
    """Time in which a person who is asked has to answer."""
    unanswered: Unanswered = Unanswered.BASELINE
    alpha_no_go: float = 0.05
    """Level at which an observation is NO-GO."""
    joint_margin: float | None = None
    """Largest rise of the geometric means over all services of an observation together; None: each is judged alone."""
    policy_hash: str = ""
    evaluator_version: str = ""

    def __post_init__(self) -> None:
        """Check that acts that are final stand at the end, and that others come before."""
        finals = [step for step in self.steps if is_final(step)]
        if tuple(finals) != self.steps[len(self.steps) - len(finals) :]:
            raise ValueError("acts that are final have to stand at the end of a plan")

    @property
    def body(self) -> int:
        """Number of steps before the final ones."""
        count = len(self.steps)
        while count and is_final(self.steps[count - 1]):
            count -= 1
        return count

    @property
    def watched(self) -> int:
        """Number of steps before those that come last: the acts of `end`, and the final ones.

        When these steps are done, the candidate has all traffic for good, and the guard's watch ends: what comes last
        may take down the servers of the baseline.
        """
        count = self.body
        while count and isinstance(step := self.steps[count - 1], Act) and step.stage == AFTER_STAGES:
            count -= 1
        return count

    @property
    def candidates(self) -> tuple[str, ...]:
        """The arms that users may meet besides the baseline."""
        arms = [arm for step in self.steps for arm in step.arm_shares]
        return tuple(dict.fromkeys(arms)) or (CANDIDATE,)

    def is_joint(self, step: Observe) -> bool:
        """Are the services of an observation also judged together?"""
        return self.joint_margin is not None and len(step.services) > 1 and step.share > 0

    @property
    def has_shift(self) -> bool:
        """Does it change traffic?"""
        return any(isinstance(step, Act) and step.is_shift for step in self.steps)

    @property
    def replaces_instances(self) -> bool:
        """Does it replace the instances that serve? Then users can return only to instances with the old version."""
        return any(isinstance(step, Act) and step.work is not None for step in self.steps)

    def find_arms(self, position: int, service: str) -> Mapping[str, tuple[str, ...]]:
        """Find arm → servers of a service while a step is the current one; empty if the plan replaces no instances.

        A server is of no arm from the moment at which it is drained, and of the candidate once it is undrained.
        """
        changed = self.find_change_of_arms(position, service)
        step = self.steps[changed] if changed is not None else None
        return step.arms if isinstance(step, Act) else {}

    def find_change_of_arms(self, position: int, service: str) -> int | None:
        """Find the step after which the arms of a service have the servers that they have in a step; None: none."""
        found = None
        for number, step in enumerate(self.steps[: position + 1]):
            is_over = number < position or (isinstance(step, Act) and step.work is InstanceWork.DRAIN)
            if isinstance(step, Act) and service in step.services and step.arms and is_over:
                found = number
        return found

    def hash(self) -> str:
        """Hash the plan: `sha256:…`, equal for plans that do the same."""
        canonical = json.dumps(to_plain(self), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def split_traffic(step: Step, winner: str = "") -> dict[str, float]:
    """Split the traffic of a step among its arms: arm → share, the baseline first. `winner`: the arm that won.

    Raises ValueError for a shift to the winner while there is none.
    """
    share = step.share or 0.0
    if isinstance(step, Act) and step.to_winner and not winner:
        raise ValueError("no arm has won")
    candidates = step.arm_shares or {winner or CANDIDATE: share}
    return {BASELINE: round(1 - share, 9), **candidates}


def is_final(step: Step) -> bool:
    """Is a step executed after the rollout, however that ends?"""
    return isinstance(step, Act) and step.final


def to_plain(plan: RolloutPlan) -> dict[str, Any]:
    """Write a plan as plain JSON; each step says in `kind` whether it is an act or an observation."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(plan)))  # tuples become lists
    plain["steps"] = [
        {"kind": "act" if isinstance(step, Act) else "observe", **values}
        for step, values in zip(plan.steps, plain["steps"], strict=True)
    ]
    return plain


def from_plain(plain: Mapping[str, Any]) -> RolloutPlan:
    """Read a plan that `to_plain` wrote. Raises PlanNotReadable for one of another version, or that was edited."""
    try:
        values = dict(plain)
        steps = tuple(_read_step(dict(step)) for step in values.pop("steps"))
        guard = GuardLimits(**values.pop("guard"))
        values |= {"services": tuple(values["services"]), "unanswered": Unanswered(values["unanswered"])}
        return RolloutPlan(steps=steps, guard=guard, **values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanNotReadable(
            f"the plan was made by version {plain.get('evaluator_version', '?')} of the evaluator, and this version "
            f"cannot continue it ({error})",
            hint="go back with `evaluator rollback`, or continue it with that version",
        ) from error


def _read_step(values: dict[str, Any]) -> Step:
    """Read a step that `to_plain` wrote; `values` are changed. Raises what does not fit."""
    kind = values.pop("kind")
    values["services"] = tuple(values["services"])
    if kind == "observe":
        return Observe(**{**values, "needs": StepNeeds(values["needs"])})
    if kind != "act":
        raise ValueError(f"unknown kind of step: {kind}")
    hooks = {name: tuple(HookEntry(**entry) for entry in values[name]) for name in ("hooks", "verify")}
    work = None if values["work"] is None else InstanceWork(values["work"])
    arms = {arm: tuple(names) for arm, names in values["arms"].items()}
    return Act(**{**values, **hooks, "work": work, "instances": tuple(values["instances"]), "arms": arms})


class EventKind(StrEnum):
    """What happened in a rollout."""

    BEGUN = "begun"
    """A step was begun: written before it acts."""
    DONE = "done"
    """A step ended well: an act was acknowledged, an observation has shown what it needs."""
    FAILED = "failed"
    UNKNOWN = "unknown"
    """An act may have been executed or not."""
    JUDGED = "judged"
    """An observation was judged, at its `look`."""
    ASKED = "asked"
    """People were asked whether a step may begin, or may end without what it needs."""
    AGREED = "agreed"
    """A person agreed to a step."""
    DECLINED = "declined"
    """A person declined a step."""
    HELD = "held"
    CONTINUED = "continued"
    STOPPED = "stopped"
    """From now on the rollout goes back."""
    RETURNED = "returned"
    """The router was set to the baseline, and says so when it is read back."""
    RETURN_FAILED = "return_failed"
    KEPT = "kept"
    """Too few instances have the old version: users stay at the new ones until instances are restored."""
    UNDO_BEGUN = "undo_begun"
    """All acts that may have been executed are being undone."""
    UNDONE = "undone"
    UNDO_FAILED = "undo_failed"
    """At least one act could not be undone, or it is not known."""
    READ_BACK = "read_back"
    """The router says that the candidate has all traffic."""
    DRIFTED = "drifted"
    """The router has other shares than it was given."""
    ENDED = "ended"


class JudgedAt(StrEnum):
    """When an observation is judged."""

    MEANWHILE = "meanwhile"
    """Before its end: only a NO-GO counts."""
    BAKE = "bake"
    DEADLINE = "deadline"


class RolloutOutcome(StrEnum):
    """How a rollout ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ROLLED_BACK_PARTLY = "rolled_back_partly"
    """Traffic is at the baseline, but an act could not be undone."""


class StopCause(StrEnum):
    """Why a rollout goes back."""

    NO_GO = "no_go"
    GUARD = "guard"
    """A limit of the guard."""
    PEOPLE = "people"
    """A person stopped it or declined a step, or no person has answered in time."""
    NO_WINNER = "no_winner"
    """The A/B test has come to its planned end, and no arm has won."""
    FAILURE = "failure"
    """Of anything but the candidate's evidence: a hook, the router, the data, the driver."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a rollout. Events are only ever added."""

    kind: EventKind
    at: float
    """Seconds since 1970 (UTC)."""
    step: int = -1
    """Position of its step in the plan, from 0; -1: of none."""
    person: str = ""
    text: str = ""
    """Why: a part of a sentence."""
    look: JudgedAt = JudgedAt.MEANWHILE
    verdict: str = ""
    """Of `judged`: go, no_go or inconclusive."""
    no_harm: bool = False
    """Of `judged`: was no harm shown?"""
    data_hash: str = ""
    """Of `judged`: hash of the data that were judged."""
    note: str = ""
    """Of `judged`: a sentence on all services together."""
    arm: str = ""
    """Of `judged`, and of `ended` if it was promoted: the arm that won an A/B test; empty: none."""
    is_sound: bool = False
    """Of `judged`, where an arm is to win: can its data be believed? Then no winner means that no arm has won."""
    outcome: RolloutOutcome | None = None
    """Of `ended`."""
    cause: StopCause | None = None
    """Of `stopped`."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout that was started: its plan, which never changes, and who started it."""

    id: str
    """`r1`, `r2`, … in the order of their starts; empty: it is not stored yet."""
    release: str
    plan: Mapping[str, Any]
    """The plan as `to_plain` writes it; `from_plain` reads it."""
    plan_hash: str
    policy: Mapping[str, Any]
    """The policy when it started, as its file had it: the steps are judged by this one, whatever becomes of the file.
    Its defaults are spelled out, and it holds no secrets."""
    person: str
    """Who started it, and so agreed to an automatic way back."""
    names: tuple[str, ...]
    """All names of that person."""
    reason: str
    started_at: datetime
    is_queued: bool = False
    """Does `evaluator hooks worker` drive it?"""
