"""What pages read of intents, hooks and the audit trail, and the thread that executes what was approved."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import streamlit as st

from evaluator.errors import EvaluatorError, StoreError
from evaluator.intents import (
    Condition,
    Preview,
    find_latest,
    list_conditions,
    plan_action,
    preview_steps,
    run_worker,
)
from evaluator.records import Verdict
from evaluator.records.intents import Action, Approval, AuditRow, Delivery, Intent, Person
from evaluator.ui.reads import Place, find_place, open_store, read_policy

__all__ = [
    "NO_WORKER",
    "Act",
    "Forecast",
    "read_acts",
    "read_conditions",
    "read_forecast",
    "read_trail",
    "start_worker",
    "verify_trail",
]

NO_WORKER = "EVALUATOR_APP_WORKER"
"""`off` in the environment: the app records intents, and another process executes them."""
PEEK_TTL_S = 5.0
_log = logging.getLogger("evaluator")


@dataclass(frozen=True, slots=True)
class Act:
    """An intent with who agreed to it, its hooks, and what was last said of it."""

    intent: Intent
    approvals: tuple[Approval, ...]
    deliveries: tuple[Delivery, ...]
    last: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """What an action would do: hooks in their order, what it cannot take back, or why it cannot be told."""

    steps: tuple[Preview, ...] = ()
    left: tuple[str, ...] = ()
    problem: str = ""


@st.cache_data(max_entries=64, show_spinner=False)
def _acts(_place: Place, key: str, stamp: object, release: str | None) -> tuple[Act, ...]:
    del key, stamp
    control = open_store(_place).control
    said = {row.intent: row.text for row in control.audit(release) if row.intent}
    # All at once: a read for each intent would take longer with each that was ever asked for.
    approvals: dict[str, list[Approval]] = {}
    deliveries: dict[str, list[Delivery]] = {}
    for approval in control.approvals():
        approvals.setdefault(approval.intent, []).append(approval)
    for delivery in control.deliveries():
        deliveries.setdefault(delivery.intent, []).append(delivery)
    return tuple(
        Act(one, tuple(approvals.get(one.id, ())), tuple(deliveries.get(one.id, ())), said.get(one.id, ""))
        for one in control.intents(release)
    )


def read_acts(place: Place, release: str | None = None) -> tuple[Act, ...]:
    """Read the intents of a release, or of all, the oldest first."""
    return _acts(place, str(place.store), place.stamp, release)


def read_conditions(place: Place, verdict: Verdict) -> tuple[Condition, ...]:
    """What has to be so before a release is promoted, and whether it is."""
    return list_conditions(open_store(place), read_policy(place, verdict.release.id), verdict)


@st.cache_data(ttl=PEEK_TTL_S, max_entries=32, show_spinner="asking what is so now …")
def _forecast(_place: Place, key: str, stamp: object, hooks: str, release: str, action: Action) -> Forecast:
    del key, stamp, hooks
    store, policy = open_store(_place), read_policy(_place, release)
    until = datetime.now(UTC) + timedelta(seconds=PEEK_TTL_S)
    try:
        planned, left = plan_action(store, policy, release, action)
        nobody = Person("", ())
        shown = preview_steps(planned, store.control.release(release), find_latest(store, release), nobody, until)
    except StoreError:
        raise
    except EvaluatorError as error:
        return Forecast(problem=error.message)
    return Forecast(shown, left)


def read_forecast(place: Place, release: str, action: Action) -> Forecast:
    """What an action would do, with what is so now; asked anew every few seconds at most."""
    hooks = read_policy(place, release).promotion.hash
    return _forecast(place, str(place.store), place.stamp, hooks, release, action)


@st.cache_data(max_entries=8, show_spinner="reading the audit trail …")
def _trail(_place: Place, key: str, stamp: object) -> tuple[AuditRow, ...]:
    del key, stamp
    return open_store(_place).control.audit()


def read_trail(place: Place) -> tuple[AuditRow, ...]:
    """Read who did what, the oldest first."""
    return _trail(place, str(place.store), place.stamp)


@st.cache_data(max_entries=8, show_spinner="checking the audit trail …")
def _verify(_place: Place, key: str, stamp: object) -> tuple[str, str]:
    del key, stamp
    try:
        return open_store(_place).control.verify_audit(), ""
    except StoreError as error:
        return "", f"{error.message}: {error.hint}"


def verify_trail(place: Place) -> tuple[str, str]:
    """The hash of the trail's head, or what is wrong with it."""
    return _verify(place, str(place.store), place.stamp)


# ------------------------------------------------------------------ the worker


def start_worker() -> None:
    """Let a thread of this server execute what is approved; one for each store, however many readers there are."""
    place = find_place()
    if os.environ.get(NO_WORKER) != "off" and place.store.exists():
        _start(place, str(place.store), str(place.policy or ""))


@st.cache_resource(show_spinner=False)
def _start(_place: Place, store: str, policy: str) -> threading.Thread:
    del store, policy
    worker = threading.Thread(
        target=run_worker,
        args=(open_store(_place), partial(read_policy, _place), threading.Event()),
        kwargs={"say": _log.warning},
        daemon=True,
        name="worker",
    )
    worker.start()
    return worker
