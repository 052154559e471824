"""Hooks, approvals and roles of the policy: what they mean, and what is wrong with them, with its place."""

import json
from pathlib import Path

import jsonschema
import pytest

from evaluator.errors import PolicyError
from evaluator.policy import load_policy, parse_policy, policy_schema, with_learnt
from evaluator.records import Learnt
from evaluator.records.intents import Action

FULL_POLICY = """
sensitive: true
hooks:
  promote:
    - haproxy: {socket: /run/h.sock, backend: shop, servers: {baseline: b1, canary: c1}, required: true}
    - webhook: {url: "https://deploy.example.org/h", secret: "${HOOK_SECRET}", allow_hosts: [deploy.example.org]}
  rollback:
    - undo
    - command: {run: [./told.sh]}
  announce:
    - command: {run: [./told.sh, "${action}", "${outcome}"]}
approvals: {promote: 1, hold: 1, expires: 30m, max_age: 2h, self_approval: false}
roles: {approver: ["group:sre", ann@example.org], analyst: "*"}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "evaluator.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_section_means_what_it_says(tmp_path):
    rules = load_policy(write(tmp_path, FULL_POLICY)).promotion
    assert [entry.kind for entry in rules.hooks["promote"]] == ["haproxy", "webhook"]
    assert [entry.options.get("required") for entry in rules.hooks["promote"]] == [True, None]
    assert [entry.kind for entry in rules.hooks["rollback"]] == ["undo", "command"]
    assert (rules.approvals.expires, rules.approvals.max_age) == (1800, 7200)
    assert rules.roles["analyst"] == ("*",)
    assert (rules.needed(Action.PROMOTE), rules.needed(Action.HOLD), rules.needed(Action.BREAK_GLASS)) == (2, 1, 2)
    assert rules.distinct(Action.HOLD)


def test_without_them_a_promotion_takes_one_approval_and_a_rollback_undoes(tmp_path):
    rules = load_policy(write(tmp_path, "")).promotion
    assert (rules.needed(Action.PROMOTE), rules.needed(Action.ROLLBACK)) == (1, 0)
    assert not rules.distinct(Action.PROMOTE)
    assert [entry.kind for entry in rules.hooks["rollback"]] == ["undo"]
    assert rules.roles is None


def test_what_happens_afterwards_is_no_part_of_what_judged(tmp_path):
    plain, full = load_policy(), load_policy(write(tmp_path, FULL_POLICY))
    assert plain.hash == full.hash
    assert plain.promotion.hash != full.promotion.hash
    assert "hooks" not in full.effective
    assert with_learnt(full, Learnt(0.01, 0.001, 20, 20, df=20.0)).promotion == full.promotion


def test_roles_are_looked_up_again_and_change_no_agreement(tmp_path):
    first = load_policy(write(tmp_path, FULL_POLICY)).promotion
    second = load_policy(write(tmp_path, FULL_POLICY.replace("ann@example.org", "bob@example.org"))).promotion
    assert first.hash == second.hash


def test_a_policy_that_is_shown_whole_reads_the_same(tmp_path):
    policy = load_policy(write(tmp_path, FULL_POLICY))
    again = parse_policy({**policy.effective, **policy.afterwards})
    assert again.promotion == policy.promotion
    jsonschema.validate(json.loads(json.dumps({**policy.effective, **policy.afterwards})), policy_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"hooks": {"promote": [{"haproxy": {"backnd": "shop"}}]}}, policy_schema())


MISTAKES = [
    (
        "hooks:\n  promote:\n    - haproxy: {backend: b, servers: {baseline: a, canary: c}}\n",
        3,
        "promote[0].haproxy: needs socket or",
    ),
    ("hooks:\n  promote:\n    - command:\n        runs: [x]\n", 4, "no key 'runs'; did you mean 'run'?"),
    ("hooks:\n  promote:\n    - webhok: {}\n", 3, "there is no hook 'webhok'; did you mean 'webhook'?"),
    ("hooks:\n  promote: [undo]\n", 2, "undo is allowed only among the hooks of rollback"),
    ("hooks:\n  promote: [{command: {run: [x]}, http: {}}]\n", 2, "must be one hook with its options"),
    ("hooks:\n  deploy: []\n", 2, "there is no key 'deploy'"),
    (
        "hooks:\n  promote:\n    - webhook: {url: 'https://x', secret: hunter2}\n",
        3,
        "must name an environment",
    ),
    ("hooks:\n  promote:\n    - http: {url: 'https://x', headers: {Authorization: abc}}\n", 3, "no secrets here"),
    ("approvals: {break_glass: 1}\n", 1, "must be from 2 to 6, not 1"),
    ("approvals: {promote: two}\n", 1, "must be a whole number"),
    ("approvals: {expires: 0s}\n", 1, "must be more than 0s"),
    ("roles: {approvers: [ann]}\n", 1, "did you mean 'approver'?"),
    ("roles: {approver: [3]}\n", 1, "must be text"),
    ("sensitive: 1\n", 1, "must be true or false"),
]


@pytest.mark.parametrize(("text", "line", "says"), MISTAKES)
def test_mistakes_are_named_with_their_place(tmp_path, text, line, says):
    path = write(tmp_path, text)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    assert any(
        message.startswith(f"{path}:{line}:") and says in message for message in caught.value.message.splitlines()
    ), caught.value.message
    assert "hunter2" not in caught.value.message
