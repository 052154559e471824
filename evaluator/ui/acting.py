"""What pages read of intents, hooks and the audit trail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import streamlit as st

from evaluator.errors import EvaluatorError, StoreError
from evaluator.intents import (
    Preview,
    describe_request,
    explain_other_hooks,
    find_latest,
    plan_action,
    plan_request,
    preview_action,
    preview_intent,
    read_release_to_preview,
    read_request_release,
)
from evaluator.policy import Policy
from evaluator.records.intents import Action, Approval, AuditRow, Delivery, Intent
from evaluator.ui.reads import CACHE_KEYS, Workspace, open_store

PREVIEW_TTL_S = 5.0


@dataclass(frozen=True, slots=True)
class IntentRecord:
    """An intent with its approvals, the hooks that were begun, and its latest text in the audit trail."""

    intent: Intent
    approvals: tuple[Approval, ...]
    deliveries: tuple[Delivery, ...]
    latest_text: str
    """Of its rows in the audit trail; empty without any."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What an action would do, or why it is not possible."""

    steps: tuple[Preview, ...] = ()
    """Hooks in the order of their execution."""
    irreversible: tuple[str, ...] = ()
    """What cannot be taken back, as sentences."""
    consequences: tuple[str, ...] = ()
    """What follows from the answer to a step of a rollout, as sentences."""
    problem: str = ""
    """Why the action is not possible; empty if it is."""


@st.cache_data(max_entries=64, show_spinner=False, hash_funcs=CACHE_KEYS)
def read_intents(workspace: Workspace, release: str | None = None) -> tuple[IntentRecord, ...]:
    """Read the intents of a release (`None`: of all releases) with what belongs to them, the oldest first."""
    control = open_store(workspace, decisions_only=True).control
    # Rows of the audit trail are in the order of time: the last text of an intent remains.
    latest_text_by_intent = {row.intent: row.text for row in control.audit(release) if row.intent}
    # All at once: one read for each intent would get slower with every request.
    approvals_by_intent: dict[str, list[Approval]] = {}
    deliveries_by_intent: dict[str, list[Delivery]] = {}
    for approval in control.approvals():
        approvals_by_intent.setdefault(approval.intent, []).append(approval)
    for delivery in control.deliveries():
        deliveries_by_intent.setdefault(delivery.intent, []).append(delivery)
    return tuple(
        IntentRecord(
            intent=intent,
            approvals=tuple(approvals_by_intent.get(intent.id, ())),
            deliveries=tuple(deliveries_by_intent.get(intent.id, ())),
            latest_text=latest_text_by_intent.get(intent.id, ""),
        )
        for intent in control.intents(release)
    )


@st.cache_data(ttl=PREVIEW_TTL_S, max_entries=32, show_spinner="reading the current values …", hash_funcs=CACHE_KEYS)
def read_forecast(workspace: Workspace, policy: Policy, release: str, action: Action, requester: str) -> Forecast:
    """Find out what an action would do, with the current values of the systems that its hooks change.

    `requester`: who would request it; empty: not known.

    The values are read again after `PREVIEW_TTL_S` seconds. An action that is not possible gives a forecast with that
    problem; a problem of the store itself raises StoreError.
    """
    store = open_store(workspace, decisions_only=True)
    deadline = datetime.now(UTC) + timedelta(seconds=PREVIEW_TTL_S)
    try:
        steps, irreversible = plan_action(store, policy, release, action)
        versions, verdict = read_release_to_preview(store, release, action), find_latest(store, release)
        previews = preview_action(steps, action, versions, verdict, deadline, requester)
    except StoreError:
        raise
    except EvaluatorError as error:
        return Forecast(problem=error.message)
    return Forecast(previews, irreversible)


@st.cache_data(
    ttl=PREVIEW_TTL_S,
    max_entries=32,
    show_spinner="reading the current values …",
    hash_funcs={**CACHE_KEYS, Intent: lambda intent: (intent.id, intent.state)},
)
def read_request_forecast(workspace: Workspace, policy: Policy, intent: Intent) -> Forecast:
    """Find out what a request that waits would do, as `read_forecast`."""
    store = open_store(workspace, decisions_only=True)
    try:
        if other_hooks := explain_other_hooks(store, policy, intent):
            return Forecast(problem=f"{other_hooks}, so it will be refused")
        steps, irreversible = plan_request(store, policy, intent)
        release = read_request_release(store, intent)
        verdict = find_latest(store, intent.release)
        limit = datetime.now(UTC) + timedelta(seconds=PREVIEW_TTL_S)
        brief = replace(intent, expires_at=min(intent.expires_at, limit))  # values are not waited for any longer
        previews = preview_intent(steps, brief, release, verdict)
        consequences = describe_request(store, intent) if intent.action is Action.STEP else ()
        return Forecast(previews, irreversible, tuple(consequences))
    except StoreError:
        raise
    except EvaluatorError as error:
        return Forecast(problem=error.message)


@st.cache_data(max_entries=8, show_spinner="reading the audit trail …", hash_funcs=CACHE_KEYS)
def read_trail(workspace: Workspace) -> tuple[AuditRow, ...]:
    """Read all rows of the audit trail, who did what, the oldest first."""
    return open_store(workspace, decisions_only=True).control.audit()


@st.cache_data(max_entries=8, show_spinner="checking the audit trail …", hash_funcs=CACHE_KEYS)
def verify_trail(workspace: Workspace) -> tuple[str, str]:
    """Check that the audit trail was not changed; returns the hash of its last row, and what is wrong with it.

    One of both is empty.
    """
    try:
        return open_store(workspace, decisions_only=True).control.verify_audit(), ""
    except StoreError as error:
        return "", f"{error.message}: {error.hint}"
