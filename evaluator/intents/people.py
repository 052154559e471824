"""Who acts, and what the policy's roles let them do."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence

from evaluator.policy.promotion import PromotionRules
from evaluator.records.intents import Action, Person, PersonRole

SYSTEM = "account:"
"""Prefix of an account of this machine, where it must not be taken for a name from a login."""

_ROLES = tuple(PersonRole)
"""The lowest role first."""
_ROLE_TO_ACT_ALONE = {Action.HOLD: PersonRole.ANALYST}
"""Role that may do an action that needs no approval; approver for actions that are not listed."""


def system_person() -> Person:
    """Return the person who runs this process, by their account of the operating system.

    The account is not taken from environment variables, which anyone can set. One without a name is called uid-NUMBER.
    """
    user_id = os.getuid()
    try:
        name = pwd.getpwuid(user_id).pw_name
    except KeyError:
        name = f"uid-{user_id}"
    return Person(name, (name, f"{SYSTEM}{name}"))


def role_of(rules: PromotionRules, names: Sequence[str]) -> PersonRole:
    """Return the highest role that the policy gives to any of a person's names; viewer if it gives none.

    If the policy has no `roles`, accounts of this machine may do everything (they can change the files anyway), and
    people who signed in may read.
    """
    if rules.roles is None:
        return PersonRole.ADMIN if any(name.startswith(SYSTEM) for name in names) else PersonRole.VIEWER
    names_and_everyone = {*names, "*"}
    # The lowest role first, as in `_ROLES`.
    own_roles = [role for role in _ROLES if names_and_everyone & set(rules.roles.get(role.value, ()))]
    return own_roles[-1] if own_roles else PersonRole.VIEWER


def may(rules: PromotionRules, names: Sequence[str], role: PersonRole) -> bool:
    """Does the person with these names have a role, or a higher one?"""
    return _ROLES.index(role_of(rules, names)) >= _ROLES.index(role)


def may_ask(rules: PromotionRules, names: Sequence[str], action: Action) -> bool:
    """May the person with these names request an action?

    An analyst may if others have to approve it. Without approvals, the request is executed at once, so the person needs
    the role to act alone, too.
    """
    if not may(rules, names, PersonRole.ANALYST):
        return False
    return rules.needed(action) > 0 or may_act_alone(rules, names, action)


def may_act_alone(rules: PromotionRules, names: Sequence[str], action: Action) -> bool:
    """Does the person with these names have the role to do an action that needs no approval?"""
    return may(rules, names, _ROLE_TO_ACT_ALONE.get(action, PersonRole.APPROVER))


def why_not(rules: PromotionRules, person: Person, role: PersonRole, activity: str) -> str:
    """Say that a person may not do something: their own role, the role that `activity` needs, and who sets roles."""
    own_role = role_of(rules, person.names)
    source = "the policy has no roles" if rules.roles is None else "by the policy's roles"
    return f"{person.name} is {_with_article(own_role)}, and {activity} needs {_with_article(role)} ({source})"


def _with_article(role: PersonRole) -> str:
    """Write a role with its article: `a viewer`, `an approver`."""
    return f"{'a' if role is PersonRole.VIEWER else 'an'} {role}"
