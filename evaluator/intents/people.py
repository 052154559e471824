"""Who acts, and what the policy's roles let them do."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence

from evaluator.policy.promotion import PromotionRules
from evaluator.records.intents import Action, Person, PersonRole

SYSTEM = "account:"
"""Prefix of an account of this machine, where it must not be taken for a name from a login."""

_RANKS = tuple(PersonRole)
_ALONE = {Action.HOLD: PersonRole.ANALYST}
"""Role that may do an action that needs no approval; approver for actions that are not listed."""


def system_person() -> Person:
    """The person who runs this process, by the account that the system knows, not by the environment."""
    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = f"uid-{number}"
    return Person(name, (name, f"{SYSTEM}{name}"))


def role_of(rules: PromotionRules, names: Sequence[str]) -> PersonRole:
    """The highest role that a person has by any of their names.

    Where the policy has no `roles`, accounts of this machine may do everything (the files are theirs anyway), and
    people who signed in may read.
    """
    if rules.roles is None:
        return PersonRole.ADMIN if any(name.startswith(SYSTEM) for name in names) else PersonRole.VIEWER
    held = [role for role in _RANKS if {*names, "*"} & set(rules.roles.get(role.value, ()))]
    return held[-1] if held else PersonRole.VIEWER


def may(rules: PromotionRules, names: Sequence[str], role: PersonRole) -> bool:
    """Does a person have a role, or a higher one?"""
    return _RANKS.index(role_of(rules, names)) >= _RANKS.index(role)


def may_ask(rules: PromotionRules, names: Sequence[str], action: Action) -> bool:
    """May a person request an action? Where it needs no approval, the request is executed at once."""
    return may(rules, names, PersonRole.ANALYST) and (rules.needed(action) > 0 or may_act_alone(rules, names, action))


def may_act_alone(rules: PromotionRules, names: Sequence[str], action: Action) -> bool:
    """May a person do an action alone, where it needs no approval?"""
    return may(rules, names, _ALONE.get(action, PersonRole.APPROVER))


def why_not(rules: PromotionRules, person: Person, role: PersonRole, what: str) -> str:
    """Why a person may not do something: their role, the role that it needs, and where roles are set."""
    has = role_of(rules, person.names)
    where = "the policy has no roles" if rules.roles is None else "by the policy's roles"
    return f"{person.name} is {_with_article(has)}, and {what} needs {_with_article(role)} ({where})"


def _with_article(role: PersonRole) -> str:
    return f"{'a' if role is PersonRole.VIEWER else 'an'} {role}"
