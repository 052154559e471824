"""The policy that `evaluator demo rollout` writes: how the sample service is rolled out, by each strategy."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from evaluator.sources.sample import find_loadtests
from evaluator.sources.sample_environments import (
    ARMS,
    BACKEND,
    CONFIGURATION,
    LOG_FORMAT,
    PRE_PRODUCTION,
    PRODUCTION,
    PROGRAM,
    SALES,
    TEST,
    Environments,
    name_backend,
)
from evaluator.sources.sample_etcd import LARGE_PAGE, PAGE, find_key


@dataclass(frozen=True, slots=True)
class Times:
    """How long the stages of the demo last (s), and how many users there are."""

    load_s: float = 20.0
    """Of the load in test and in pre-production."""
    canary_load: bool = True
    """Has a canary release these stages, as a blue-green one does?"""
    bake_s: float = 20.0
    """Of a stage in which users meet the candidate, and which is judged."""
    last_s: float = 10.0
    """Of the last stage, in which the candidate has all traffic."""
    least: int = 150
    """Judged requests of each arm for `no_harm`."""
    users: int = 60
    """Users of production."""
    shares: tuple[str, ...] = ("5 %", "25 %", "50 %")
    """Of the stages of a canary release that are judged."""


LEAST_VISITORS = 200
"""Visitors of each arm that let an A/B test be decided."""
LEAST_SERVING = 3
"""Instances that serve at any moment of a rolling rollout."""

# What comes before the stages; the margins are those of minutes, not of a test that a release should rest on.
_HEAD = """\
# The policy of `evaluator demo rollout`: what it does, you can change and try again:
#
#     evaluator --policy {path} rollout plan {release}
#
# Its times are those of a demo. A real rollout bakes for minutes and hours, and asks for GO at 50 %.
version: 1
service: shop
metrics:
  - {{name: failure_rate, type: failure_rate, role: gate, margin: 1pp}}
  - {{name: latency_p50, type: latency_quantile, quantile: 0.50, role: gate, margin: 10%}}
  - {{name: latency_p95, type: latency_quantile, quantile: 0.95, role: gate, margin: 15%}}
  - {{name: throughput, type: throughput, role: watch}}
"""
_CONVERSION = """\
  # Read once, at the planned end: a margin of 0 lets an arm win only if more of its visitors buy.
  - {name: conversion, type: outcome_proportion, outcome: bought, margin: 0pp}
"""

_EXPLAINED = {
    "strategy": "How traffic is given to the candidate: canary, rolling, ab_test, blue_green or big_bang.",
    "router": "The router of production. Only the guard changes it while users meet the candidate.",
    "outcomes": "What the visitors did: a row each, which has the arm, whether they bought, and when they came.",
    "instances": "How an instance gets the new version, and the old one again; `least_serving` serve at any moment.",
    "live": "Where the requests of users are seen.",
    "stages": "One after the other; each begins when the one before has shown what it needs.",
    "acts": "Before the stage of their name; `end` after a promotion, `always` whatever happened.",
    "guard": "Looked at each second while users meet the candidate.",
    "lease": "Without its driver the rollout goes back after this time.",
    "unanswered": "Who is asked, and does not answer, sends the traffic back.",
}
"""Key of the section `rollout` → the comment above it."""


def write_policy(environments: Environments, release: str, strategy: str, times: Times) -> str:
    """Write the policy as YAML with comments."""
    stages = STRATEGIES[strategy](environments, times)
    is_rolling, is_test = strategy == "rolling", strategy == "ab_test"
    section: dict[str, Any] = {
        "strategy": strategy,
        "router": {"shop": {"haproxy": _list_router(environments, strategy)}},
        **({"instances": _list_instances(environments)} if is_rolling else {}),
        **({"outcomes": _list_outcomes(environments)} if is_test else {}),
        "live": {"access_log": str(environments.router.log), "lateness": "3s"},
        "stages": stages,
        "acts": _list_acts(environments, stages, strategy),
        "guard": {"failures": "5%", "p95": "1s", "over": "5s", "least": 20, "health": "2s"},
        "lease": "20s",
        "unanswered": {"after": "5s", "then": "baseline"},
    }
    arms = {arm: [f"{letter}*"] for arm, letter in ARMS.items()}
    # In a rolling rollout the arm of a request follows from its server and the time.
    log = {"format": "haproxy", "log_format": LOG_FORMAT} | ({} if is_rolling else {"arms": arms})
    path = environments.folder / "evaluator.yaml"
    head = _HEAD.format(path=path, release=release) + (_CONVERSION if is_test else "")
    parts = [head, _dump({"sources": {"access_log": log}}), "rollout:\n"]
    for key, value in section.items():
        text = _dump({key: value})
        parts += [f"  # {_EXPLAINED[key]}\n", *(f"  {line}\n" for line in text.splitlines())]
    return "".join(parts)


def _dump(values: Mapping[str, Any]) -> str:
    """Write values as YAML in their own order, with lists on lines of their own."""
    in_blocks = not any(isinstance(value, (dict, list)) for value in values.values())
    style = False if in_blocks else None  # None: what has no further level stands on one line
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=118, default_flow_style=style))


def _list_outcomes(environments: Environments) -> dict[str, Any]:
    """List where the outcomes of an A/B test are, and what their columns are."""
    columns = {"unit": "user_id", "arm": "variant", "baseline": "baseline", "time": "seen", "outcomes": ["bought"]}
    return {"files": [str(environments.visits)], **columns, "least": LEAST_VISITORS}


def _list_instances(environments: Environments) -> dict[str, Any]:
    """List how instances are replaced in a rolling rollout: by a program that is called for each."""
    words = (PRODUCTION, "${instance}")
    undo = [*_write_call(environments, "replace", *words), "${baseline}"]
    replace = _run(environments, "replace", *words, "${version}")
    replace["command"]["undo"] = undo
    return {
        "least_serving": LEAST_SERVING,
        "drain": "5s",
        "replace": [replace],
        "health": [_run(environments, "health", *words, "${version}")],
        "healthy_within": "30s",
    }


def _list_router(environments: Environments, strategy: str) -> dict[str, Any]:
    """List the options of the router."""
    if strategy == "ab_test":
        backends = {arm: name_backend(arm) for arm in ARMS}
        return {"socket": str(environments.socket), "map": str(environments.map), "servers": backends}
    if strategy == "rolling":
        return {"socket": str(environments.socket), "backend": BACKEND, "instances": list(environments.instances)}
    servers = {
        arm: [f"{letter}{number + 1}" for number in range(len(environments.ports[PRODUCTION][arm]))]
        for arm, letter in ARMS.items()
    }
    return {"socket": str(environments.socket), "backend": BACKEND, "servers": servers}


# ------------------------------------------------------------------ stages


def _list_loads(environments: Environments, times: Times) -> list[dict[str, Any]]:
    """List the stages without users: test and pre-production."""
    return [
        {
            "name": environment,
            "environment": environment,
            "needs": "go",
            "load": {
                "locustfile": str(find_loadtests() / "locustfile.py"),
                "users": environments.load_users,
                "spawn_rate": 45,
                "run_time": f"{times.load_s:g}s",
                **{
                    arm: [f"http://{address}" for address in environments.list_addresses(environment, arm)]
                    for arm in ARMS
                },
            },
        }
        for environment in (TEST, PRE_PRODUCTION)
    ]


def _list_canary(environments: Environments, times: Times) -> list[dict[str, Any]]:
    """List the stages of a canary release."""
    needs = {"needs": "no_harm", "bake": f"{times.bake_s:g}s", "least": times.least}
    exposed = [{"name": share, "share": share.replace(" ", ""), **needs} for share in times.shares]
    loads = _list_loads(environments, times) if times.canary_load else []
    return [*loads, *exposed, _list_last("full", times)]


def _list_blue_green(environments: Environments, times: Times) -> list[dict[str, Any]]:
    """List the stages of a blue-green release: judged under load, then one switch."""
    return [*_list_loads(environments, times), _list_last("switch", times)]


def _list_rolling(environments: Environments, times: Times) -> list[dict[str, Any]]:
    """List the stages of a rolling rollout: one instance, then half of them, then the rest."""
    half = len(environments.instances) // 2 - 1
    needs = {"needs": "no_harm", "bake": f"{times.bake_s:g}s", "least": times.least}
    return [
        {"name": "first", "replace": 1, **needs},
        {"name": "half", "replace": half, **needs},
        {"name": "rest", "replace": "rest", "needs": "nothing", "bake": f"{times.last_s:g}s"},
    ]


def _list_ab_test(environments: Environments, times: Times) -> list[dict[str, Any]]:  # noqa: ARG001 - as the others
    """List the stages of an A/B test: few visitors first, then half of them until the planned end."""
    bake = f"{times.bake_s:g}s"
    first, half = ({"name": name, "shares": {"canary": name.replace(" ", "")}} for name in ("10 %", "50 %"))
    return [
        first | {"needs": "no_harm", "bake": bake, "least": times.least},
        half | {"needs": "winner", "bake": bake},
        _list_last("winner", times),
    ]


def _list_big_bang(environments: Environments, times: Times) -> list[dict[str, Any]]:  # noqa: ARG001 - as the others
    """List the stages of a full release: nothing is known before."""
    return [_list_last("full", times)]


def _list_last(name: str, times: Times) -> dict[str, Any]:
    """Describe the stage with all traffic: only the guard looks at it."""
    return {"name": name, "share": "100%", "needs": "nothing", "bake": f"{times.last_s:g}s"}


STRATEGIES = {
    "canary": _list_canary,
    "rolling": _list_rolling,
    "ab_test": _list_ab_test,
    "blue_green": _list_blue_green,
    "big_bang": _list_big_bang,
}
"""Strategy that the sample service can be rolled out by → function that lists its stages."""

# ------------------------------------------------------------------ acts

_ON_LOOPBACK = {"allow_hosts": ["127.0.0.1"]}
"""Option of hooks that may ask this machine."""


def _list_acts(environments: Environments, stages: Sequence[Mapping[str, Any]], strategy: str) -> dict[str, Any]:
    """List the acts: deploy and health check before an environment is used, and what follows all stages."""
    judged = [stage["name"] for stage in stages if "load" in stage]
    first_with_users = next(stage["name"] for stage in stages if "load" not in stage)
    before = {name: _deploy(environments, name) for name in judged}
    production = [
        *([] if strategy == "rolling" else _deploy(environments, PRODUCTION, "canary")),
        {"name": "configure production", "hooks": [_configure(environments)]},
    ]
    announce = {"name": "announce", "hooks": [_run(environments, "announce", "shop ${version} is live")]}
    teardown = [
        {
            "name": f"tear down {name}",
            "hooks": [_run(environments, "teardown", name)],
            "verify": [
                {"tcp": {"address": address, "refuses": True, **_ON_LOOPBACK}}
                for address in environments.list_addresses(name)
            ],
        }
        for name in judged
    ]
    acts: dict[str, Any] = {**before, first_with_users: production, "end": [announce]}
    return acts | ({"always": teardown} if teardown else {})


def _deploy(environments: Environments, environment: str, arm: str = "") -> list[dict[str, Any]]:
    """List the acts that start an environment (or one arm of it), and look whether it answers."""
    words = [environment, *([arm] if arm else [])]
    healthy = [
        {"http": {"url": f"http://{address}/health", "method": "GET", "contains": '"GET /health"', **_ON_LOOPBACK}}
        for address in environments.list_addresses(environment, arm)
    ]
    return [
        {"name": f"deploy {environment}", "hooks": [_run(environments, "deploy", *words, undo="teardown")]},
        {"name": f"health of {environment}", "retry_for": "30s", "hooks": healthy},
    ]


def _configure(environments: Environments) -> dict[str, Any]:
    """Make the hook that gives the candidate its configuration in production; without etcd, it writes a file."""
    if not environments.etcd:
        return _run(environments, "configure", PRODUCTION, undo="restore")
    page = LARGE_PAGE if environments.regression == CONFIGURATION else PAGE
    key = find_key(PRODUCTION, "canary")
    return {"etcd": {"url": environments.etcd, "key": key, "value": json.dumps({"page": page}), **_ON_LOOPBACK}}


def _run(environments: Environments, what: str, *words: str, undo: str = "") -> dict[str, Any]:
    """Make the hook that calls the program of the environments."""
    options: dict[str, Any] = {"run": _write_call(environments, what, *words), "idempotent": True}
    if undo:
        options["undo"] = _write_call(environments, undo, *words)
    return {"command": options}


def _write_call(environments: Environments, *words: str) -> list[str]:
    """Write the command that calls the program of the environments."""
    return [sys.executable, str(environments.folder / PROGRAM), *words]


def find_first_stage(strategy: str, regression: str, with_users: Sequence[str], without_users: Sequence[str]) -> str:
    """Find the first stage of a strategy that can see a regression of KINDS; empty: none can, or there is none.

    `with_users`, `without_users`: the stages in which users meet the candidate, in their order, and the others.
    """
    stages = [with_users[0] if stage == _FIRST else stage for stage in _SEEN_IN[regression].get(strategy, ())]
    return next((stage for stage in stages if stage in (*with_users, *without_users)), "")


_FIRST = "first with users"
"""The first stage with users."""
_IN_ALL = dict.fromkeys(("canary", "rolling", "ab_test", "blue_green", "big_bang"), (_FIRST,))
_SLOWNESS: Mapping[str, tuple[str, ...]] = {"canary": ("50 %",), "rolling": (_FIRST,), "ab_test": ("50 %",)}
"""Where slowness is found: a new instance of a rolling rollout gets as many requests as each of the others at once, and
a full release, and a switch, compare nothing."""
_SEEN_IN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "none": {},
    "errors": _IN_ALL | {"canary": (TEST, _FIRST), "blue_green": (TEST,)},
    "latency": {**_SLOWNESS, "canary": (PRE_PRODUCTION, "50 %"), "blue_green": (PRE_PRODUCTION,)},
    "production-errors": _IN_ALL | {"canary": ("50 %",), "ab_test": ("50 %",)},
    "hang": _IN_ALL,
    "dies": _IN_ALL,
    CONFIGURATION: _SLOWNESS,
    SALES: {"ab_test": ("50 %",)},
}
"""Regression → strategy → stages that can see it; the first of them that the plan has."""
