"""What roles let people do, and why not."""

from __future__ import annotations

import pytest

from evaluator.intents.people import SYSTEM, may, may_act_alone, may_ask, role_of, system_person, why_not
from evaluator.policy.promotion import ApprovalsSection, PromotionRules
from evaluator.records.intents import Action, Person, PersonRole

ROLES = {"viewer": ("*",), "analyst": ("ana",), "approver": ("app", "group:sre"), "admin": ("root",)}
RULES = PromotionRules(roles=ROLES)
NAMES = {"viewer": "eve", "analyst": "ana", "approver": "app", "admin": "root"}


@pytest.mark.parametrize("role", PersonRole)
def test_each_role_may_do_what_those_before_it_may(role):
    order = list(PersonRole)
    names = (NAMES[role],)
    assert role_of(RULES, names) is role
    assert [person_role for person_role in order if may(RULES, names, person_role)] == order[: order.index(role) + 1]


def test_the_highest_role_of_all_names_counts():
    assert role_of(RULES, ("eve", "ana", "app")) is PersonRole.APPROVER
    assert role_of(RULES, ("ana", "group:sre")) is PersonRole.APPROVER
    assert role_of(PromotionRules(roles={"analyst": ("ana",)}), ("eve",)) is PersonRole.VIEWER
    assert role_of(PromotionRules(roles={"admin": ("*",), "viewer": ("eve",)}), ("eve",)) is PersonRole.ADMIN


def test_without_roles_accounts_of_this_machine_do_everything_and_others_read():
    bare = PromotionRules()
    assert role_of(bare, ("eve", f"{SYSTEM}eve")) is PersonRole.ADMIN
    assert role_of(bare, ("eve",)) is PersonRole.VIEWER
    assert role_of(bare, ()) is PersonRole.VIEWER
    assert role_of(PromotionRules(roles={}), (f"{SYSTEM}eve",)) is PersonRole.VIEWER


@pytest.mark.parametrize(
    ("action", "needed", "able"),
    [
        (Action.PROMOTE, 0, ["approver", "admin"]),
        (Action.PROMOTE, 1, ["analyst", "approver", "admin"]),
        (Action.ROLLBACK, 0, ["approver", "admin"]),
        (Action.ROLLBACK, 1, ["analyst", "approver", "admin"]),
        (Action.HOLD, 0, ["analyst", "approver", "admin"]),
        (Action.HOLD, 2, ["analyst", "approver", "admin"]),
        (Action.BREAK_GLASS, 2, ["analyst", "approver", "admin"]),
    ],
)
def test_a_request_is_executed_where_no_approval_is_needed(action, needed, able):
    rules = PromotionRules(roles=ROLES, approvals=ApprovalsSection(**{action.value: needed}))
    assert [role.value for role in PersonRole if may_ask(rules, (NAMES[role],), action)] == able
    alone = ["analyst", "approver", "admin"] if action is Action.HOLD else ["approver", "admin"]
    assert [role.value for role in PersonRole if may_act_alone(rules, (NAMES[role],), action)] == alone


def test_why_not_names_the_role_and_the_role_that_is_needed():
    eve, ana = Person("eve", ("eve",)), Person("ana", ("ana",))
    assert why_not(RULES, eve, PersonRole.ANALYST, "a note") == (
        "eve is a viewer, and a note needs an analyst (by the policy's roles)"
    )
    assert why_not(RULES, ana, PersonRole.APPROVER, "promoting").startswith("ana is an analyst, and promoting needs an")
    assert why_not(PromotionRules(), eve, PersonRole.VIEWER, "x").endswith("needs a viewer (the policy has no roles)")


def test_the_account_of_this_process_is_known_by_the_system(monkeypatch):
    monkeypatch.setattr("evaluator.intents.people.os.getuid", lambda: 0)
    monkeypatch.setenv("USER", "mallory")
    assert system_person() == Person("root", ("root", f"{SYSTEM}root"))
    monkeypatch.setattr("evaluator.intents.people.os.getuid", lambda: 654321)
    assert system_person().name == "uid-654321"


def test_approvals_needed_of_a_sensitive_service():
    """At least two for what promotes."""
    needed = {
        action: PromotionRules(sensitive=True, approvals=ApprovalsSection(**{action.value: stated})).needed(action)
        for action, stated in ((Action.PROMOTE, 1), (Action.BREAK_GLASS, 3), (Action.HOLD, 1), (Action.ROLLBACK, 0))
    }
    assert list(needed.values()) == [2, 3, 1, 0]
