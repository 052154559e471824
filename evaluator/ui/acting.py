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
from evaluator.intents import Preview, find_latest, plan_action, preview_steps, run_worker
from evaluator.policy import Policy
from evaluator.records.intents import Action, Approval, AuditRow, Delivery, Intent, Person
from evaluator.ui.reads import KEYS, Place, find_place, open_store, read_policy

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


@st.cache_data(max_entries=64, show_spinner=False, hash_funcs=KEYS)
def read_acts(place: Place, release: str | None = None) -> tuple[Act, ...]:
    """Read the intents of a release, or of all, the oldest first."""
    control = open_store(place).control
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


@st.cache_data(ttl=PEEK_TTL_S, max_entries=32, show_spinner="asking what is so now …", hash_funcs=KEYS)
def read_forecast(place: Place, policy: Policy, release: str, action: Action) -> Forecast:
    """What an action would do, with what is so now; asked again every few seconds at most."""
    store = open_store(place)
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


@st.cache_data(max_entries=8, show_spinner="reading the audit trail …", hash_funcs=KEYS)
def read_trail(place: Place) -> tuple[AuditRow, ...]:
    """Read who did what, the oldest first."""
    return open_store(place).control.audit()


@st.cache_data(max_entries=8, show_spinner="checking the audit trail …", hash_funcs=KEYS)
def verify_trail(place: Place) -> tuple[str, str]:
    """The hash of the trail's head, or what is wrong with it."""
    try:
        return open_store(place).control.verify_audit(), ""
    except StoreError as error:
        return "", f"{error.message}: {error.hint}"


# ------------------------------------------------------------------ the worker


def start_worker() -> None:
    """Let a thread of this server execute what is approved; one for each store, however many readers there are."""
    place = find_place()
    if os.environ.get(NO_WORKER) != "off" and place.store.exists():
        _start(place)


@st.cache_resource(show_spinner=False, hash_funcs={Place: lambda place: (str(place.store), str(place.policy))})
def _start(place: Place) -> threading.Thread:
    worker = threading.Thread(
        target=run_worker,
        args=(open_store(place), partial(read_policy, place), threading.Event()),
        kwargs={"say": _log.warning},
        daemon=True,
        name="worker",
    )
    worker.start()
    return worker
