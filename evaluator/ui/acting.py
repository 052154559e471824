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
from evaluator.ui.reads import KEYS, Workspace, find_workspace, open_store, read_policy

NO_WORKER = "EVALUATOR_APP_WORKER"
"""`off` in the environment: the app records intents, and another process executes them."""
PREVIEW_TTL_S = 5.0
_log = logging.getLogger("evaluator")


@dataclass(frozen=True, slots=True)
class IntentRecord:
    """An intent with its approvals, its hooks, and its latest text in the audit trail."""

    intent: Intent
    approvals: tuple[Approval, ...]
    deliveries: tuple[Delivery, ...]
    last: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """What an action would do: hooks in their order, what it cannot take back, or why that is not known."""

    steps: tuple[Preview, ...] = ()
    irreversible: tuple[str, ...] = ()
    problem: str = ""


@st.cache_data(max_entries=64, show_spinner=False, hash_funcs=KEYS)
def read_intents(workspace: Workspace, release: str | None = None) -> tuple[IntentRecord, ...]:
    """Read the intents of a release, or of all, the oldest first."""
    control = open_store(workspace).control
    texts = {row.intent: row.text for row in control.audit(release) if row.intent}
    # All at once: one read for each intent would get slower with every request.
    approvals: dict[str, list[Approval]] = {}
    deliveries: dict[str, list[Delivery]] = {}
    for approval in control.approvals():
        approvals.setdefault(approval.intent, []).append(approval)
    for delivery in control.deliveries():
        deliveries.setdefault(delivery.intent, []).append(delivery)
    return tuple(
        IntentRecord(
            intent, tuple(approvals.get(intent.id, ())), tuple(deliveries.get(intent.id, ())), texts.get(intent.id, "")
        )
        for intent in control.intents(release)
    )


@st.cache_data(ttl=PREVIEW_TTL_S, max_entries=32, show_spinner="reading the current values …", hash_funcs=KEYS)
def read_forecast(workspace: Workspace, policy: Policy, release: str, action: Action) -> Forecast:
    """What an action would do, with the current values; they are read again after `PREVIEW_TTL_S` seconds."""
    store = open_store(workspace)
    until = datetime.now(UTC) + timedelta(seconds=PREVIEW_TTL_S)
    try:
        planned, irreversible = plan_action(store, policy, release, action)
        unnamed = Person("", ())
        shown = preview_steps(planned, store.control.release(release), find_latest(store, release), unnamed, until)
    except StoreError:
        raise
    except EvaluatorError as error:
        return Forecast(problem=error.message)
    return Forecast(shown, irreversible)


@st.cache_data(max_entries=8, show_spinner="reading the audit trail …", hash_funcs=KEYS)
def read_trail(workspace: Workspace) -> tuple[AuditRow, ...]:
    """Read who did what, the oldest first."""
    return open_store(workspace).control.audit()


@st.cache_data(max_entries=8, show_spinner="checking the audit trail …", hash_funcs=KEYS)
def verify_trail(workspace: Workspace) -> tuple[str, str]:
    """The hash of the trail's head, or what is wrong with it."""
    try:
        return open_store(workspace).control.verify_audit(), ""
    except StoreError as error:
        return "", f"{error.message}: {error.hint}"


# ------------------------------------------------------------------ the worker


def start_worker() -> None:
    """Start a thread of this server that executes approved requests: one for each store, not one for each reader."""
    workspace = find_workspace()
    if os.environ.get(NO_WORKER) != "off" and workspace.store.exists():
        _start(workspace)


@st.cache_resource(
    show_spinner=False, hash_funcs={Workspace: lambda workspace: (str(workspace.store), str(workspace.policy))}
)
def _start(workspace: Workspace) -> threading.Thread:
    worker = threading.Thread(
        target=run_worker,
        args=(open_store(workspace), partial(read_policy, workspace), threading.Event()),
        kwargs={"say": _log.warning},
        daemon=True,
        name="worker",
    )
    worker.start()
    return worker
