"""Stages that can never show what they need: refused before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from evaluator.errors import EvaluatorError, UnknownName
from evaluator.health.per_instance_load import MOST
from evaluator.health.replication import ENOUGH
from evaluator.hooks.router import make_router
from evaluator.policy import Policy
from evaluator.policy.rollout import ROLLING, RolloutSection, StageSection
from evaluator.records import BASELINE, CANDIDATE, EvidenceKind, Rulebook
from evaluator.records.rollouts import Observe
from evaluator.rollout.checks import name_servers
from evaluator.rollout.strategies.rolling import list_instances, split_batches
from evaluator.wording import count_of, format_duration, format_number

LEAST_BAKE_S = 12.0
"""Requests of users are summed up in parts of a second or more, as the shortest stage needs (`shortest_step_s` of
`TailPlan`). Eight parts are needed; of a log that is followed further, up to three more are cut off at the end."""


def refuse_contradictions(policy: Policy, section: RolloutSection) -> None:
    """Raise PolicyError with file and line for the first stage that can never show what it needs."""
    if section.strategy == ROLLING:
        _refuse_batches(policy, section)
    for number, stage in enumerate(section.stages):
        if not stage.has_users or stage.user_share == 1 or stage.load is not None or stage.needs == "nothing":
            continue
        key_path = ("rollout", "stages", number)
        if (stage.bake or 0.0) < LEAST_BAKE_S:
            raise policy.refuse(
                (*key_path, "bake"),
                f"{format_duration(stage.bake or 0.0)} are too short to judge the requests of users: bake: "
                f"{LEAST_BAKE_S:g}s at least, and minutes to find more than a candidate that is dead",
            )
        if stage.needs != "go":
            continue
        for service in section.router:
            servers, share = count_servers(section, service), stage.share
            if stage.replace is not None:
                servers, share = _count_replaced(section, service, stage)
            for sentence in _find_impossible_go(policy.rulebook, stage.name, share, servers, service):
                raise policy.refuse(
                    key_path, sentence, hint="change the stage or the servers; needs: no_harm is possible"
                )


def refuse_impossible_test(policy: Policy, section: RolloutSection, services: Sequence[str]) -> None:
    """Raise PolicyError for an A/B test that cannot be decided: by its metrics, its router, its arms, its services."""
    if len(services) != 1:
        raise policy.refuse(
            ("rollout", "strategy"),
            f"an A/B test is of one service, and this policy has {len(services)}: {', '.join(services)}",
            hint="order: [shop], and a policy for each service",
        )
    gates = [rule for rule in policy.rulebook.on(EvidenceKind.OUTCOMES) if rule.role == "gate"]
    if not gates:
        raise policy.refuse(
            ("rollout", "strategy"),
            "an A/B test is decided by outcomes of users, and no metric of outcomes decides in this policy",
            hint="metrics: [{name: conversion, type: outcome_proportion, outcome: bought, margin: 0%}]",
        )
    candidates = next(list(stage.shares) for stage in section.stages if stage.shares)
    for acts in section.acts.values():
        for act in acts:
            if act.arm is not None and act.arm not in (BASELINE, *candidates):
                raise policy.refuse(("rollout", "acts"), UnknownName("arm", act.arm, [BASELINE, *candidates]).message)
    for service, entry in section.router.items():
        try:
            router = make_router(entry.kind, entry.options)
        except EvaluatorError:  # such as a secret that is not there; the start needs it
            continue
        if not router.keeps_clients():
            raise policy.refuse(
                ("rollout", "router", service),
                f"{router.explain_moving_users()}, and an A/B test needs a router that keeps each user in an arm",
                hint="haproxy with map, or nginx with split: docs/ab-test.md has both configurations",
            )


def count_servers(section: RolloutSection, service: str) -> Mapping[str, int]:
    """Count the servers of each arm of a service, as its router names them; empty: it does not."""
    entry = section.router.get(service)
    servers = entry.options.get("servers") if entry is not None else None
    return {arm: len(names) for arm, names in name_servers(servers).items()} if isinstance(servers, Mapping) else {}


def _refuse_batches(policy: Policy, section: RolloutSection) -> None:
    """Raise PolicyError for instances that cannot be replaced in batches, and for the first batch that is too large."""
    least = section.instances.least_serving if section.instances else 1
    for service, entry in section.router.items():
        instances = list_instances(section, service)
        if not instances:
            raise policy.refuse(
                ("rollout", "router", service),
                f"strategy rolling drains single instances, which the router of {service} ({entry.kind}) cannot do, or "
                "it does not name them",
                hint="haproxy: {socket: …, backend: …, instances: [s1, s2, s3]}; other routers: strategy canary",
            )
        if len(instances) <= least:
            raise policy.refuse(
                ("rollout", "instances", "least_serving"),
                f"{service} has {count_of(len(instances), 'instance')}, and {least} have to serve at any moment, so "
                "none can be replaced",
                hint="add instances, or lower least_serving",
            )
        for stage, batch in split_batches(section, instances):
            number = section.stages.index(stage)
            if not batch:
                raise policy.refuse(
                    ("rollout", "stages", number),
                    f"no instance of {service} is left for {stage.name}: it has {len(instances)}",
                    hint="leave the stage out, or let earlier stages replace fewer",
                )
            if len(instances) - len(batch) < least:
                raise policy.refuse(
                    ("rollout", "stages", number),
                    f"{stage.name} takes {len(batch)} of {len(instances)} instances of {service} at once, and "
                    f"{least} have to serve (least_serving): at most {len(instances) - least}",
                    hint="add a stage before it, or let an earlier one replace more",
                )
    log = policy.access_log
    if log is not None and (log.arms or log.arm_from != "server"):
        raise policy.refuse(
            ("sources", "access_log"),
            "names arms, but in a rolling rollout the arm of a request follows from its server and the time",
            hint="leave out arms and arm_from",
        )


def _count_replaced(
    section: RolloutSection, service: str, stage: StageSection
) -> tuple[Mapping[str, int], float | None]:
    """Count the instances of each version in a stage, and the share of the new ones; None: there are none."""
    instances, new = list_instances(section, service), 0
    for batch_stage, batch in split_batches(section, instances):
        new += len(batch)
        if batch_stage is stage:
            break
    return {BASELINE: len(instances) - new, CANDIDATE: new}, new / len(instances) if instances else None


def _find_impossible_go(
    rulebook: Rulebook, name: str, share: float | None, servers: Mapping[str, int], service: str
) -> Iterator[str]:
    """Say why a stage of a service can never be GO, by the number of its servers."""
    baseline, candidate = split_servers(servers)
    if baseline is None or candidate is None or share is None:
        return
    declared = min(rulebook.prior.baseline or 0, rulebook.prior.canary or 0)
    if min(baseline, candidate) < 2 and declared < ENOUGH:
        yield (
            f"{name} needs go, but {service} has {count_of(baseline, 'server')} of the baseline and "
            f"{candidate} of the candidate: a single server cannot be distinguished from the release. Use three of each"
        )
    ratio = compare_loads(share, baseline, candidate)
    if not 1 / MOST <= ratio <= MOST and has_time_gate(rulebook):
        times, more, fewer = max(ratio, 1 / ratio), "candidate", "baseline"
        if ratio < 1:
            more, fewer = fewer, more
        yield (
            f"{name} needs go, but at {100 * share:g} % a server of the {more} gets {format_number(times)} "
            f"times as many requests as one of the {fewer}, so response times decide nothing: up to {MOST:g} is allowed"
        )


def split_servers(servers: Mapping[str, int]) -> tuple[int | None, int | None]:
    """Split the numbers of servers into baseline and candidate; None: not known."""
    candidates = [count for arm, count in servers.items() if arm != BASELINE]
    return servers.get(BASELINE), candidates[0] if len(candidates) == 1 else None


def compare_loads(share: float, baseline: int, candidate: int) -> float:
    """Requests of one of the candidate's servers for each request of one of the baseline's."""
    return share / candidate * baseline / (1 - share)


def has_time_gate(rulebook: Rulebook) -> bool:
    """Does a GO need response times?"""
    return any(rule.metric.is_response_time and rule.role != "watch" for rule in rulebook.on(EvidenceKind.REQUESTS))


def refuse_unreachable_least(policy: Policy, steps: Sequence[Observe], rate_per_s: float) -> None:
    """Raise PolicyError for a stage whose `least` requests do not come until its deadline, at the service's rate."""
    section = policy.rollout
    if section is None:
        return
    for step in steps:
        if not 0 < step.share < 1 or step.load is not None or step.needs != "no_harm":
            continue
        expected = rate_per_s * min(step.share, 1 - step.share) * step.deadline_s
        if expected < step.least:
            number = next(n for n, stage in enumerate(section.stages) if stage.name == step.stage)
            raise policy.refuse(
                ("rollout", "stages", number, "least"),
                f"{step.name} needs {step.least:,} requests of each arm, and about {expected:,.0f} come in "
                f"{format_duration(step.deadline_s)} at {format_number(rate_per_s)} requests a second, as in the "
                "service's history",
                hint="a longer bake or deadline, a larger share, or a smaller least",
            )
