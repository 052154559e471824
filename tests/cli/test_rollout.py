"""`evaluator rollout plan`: the steps of a policy, and what contradicts itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from steps import land

from evaluator.__main__ import run
from evaluator.simulate import SCENARIOS, simulate
from evaluator.store import Store

ROOT = Path(__file__).parents[2]
STAGES = """\
    - {name: test, environment: test, load: {locustfile: users.py, run_time: 5m, replicates: 5, baseline: ["http://b"],
       canary: ["http://c"]}}
    - {name: "5 %", share: 5%, needs: no_harm, bake: 10m, least: 500}
    - {name: "50 %", share: 50%, needs: go, bake: 60m, deadline: 3h, agree: 1}
    - {name: full, share: 100%, needs: nothing, bake: 1h}
"""
POLICY = f"""\
service: cart
rollout:
  strategy: canary
  router:
    cart: {{haproxy: {{socket: /run/hap, backend: cart, servers: {{baseline: [b1, b2, b3], canary: [c1, c2, c3]}}}}}}
  live: {{access_log: /var/log/haproxy/cart.log}}
  stages:
{STAGES}
  acts:
    test: [{{name: deploy, retry_for: 60s, hooks: [{{command: {{run: [./deploy.sh]}}}}]}}]
    end: [{{name: dns, irreversible: true, hooks: [{{command: {{run: [./dns.sh]}}}}]}}]
    always: [{{name: teardown, hooks: [{{command: {{run: [./teardown.sh]}}}}]}}]
"""


@pytest.fixture
def plan(tmp_path, monkeypatch, capsys):
    """Prints the plan of a policy; returns the exit code, and what was printed."""
    monkeypatch.chdir(tmp_path)

    def print_plan(policy, *options):
        (tmp_path / "evaluator.yaml").write_text(policy)
        code = run(["rollout", "plan", "cart@1.5.0", *options])
        printed = capsys.readouterr()
        return code, printed.out or printed.err

    return print_plan


def test_each_step_is_shown_with_what_it_needs(plan):
    code, text = plan(POLICY)
    assert code == 0
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert rows[0] == "rollout of cart@1.5.0: canary, cart; 2.58 h at least"
    assert rows[1] == "4.58 h if every step takes until its deadline; then people are asked"
    assert rows[4:14] == [
        "1 deploy before test – tried for 60 s – – –",
        "2 observe test under load test – GO 25 min not known no users",
        "3 cart to 5 % before 5 % 5 % tried for 30 s – – –",
        "4 observe 5 % production 5 % no harm in 500 requests of each arm 10 min not known 50 of 1,000 requests",
        "5 cart to 50 % before 50 % 50 % 1 agreement, tried for 30 s – – –",
        "6 observe 50 % production 50 % GO 60 min, a person is asked after 3 h not known 500 of 1,000 requests",
        "7 cart to 100 % before full 100 % tried for 30 s – – –",
        "8 observe full production 100 % nothing 60 min – 1,000 of 1,000 requests",
        "9 dns after all stages – no way back after it – – –",
        "10 teardown always, at the end – – – – –",
    ]
    assert "cart: chances are not known: no history of cart" in text
    assert re.search(r"guard: .* within 15 s from 1.6 of (its|them)", text)
    assert "by its requests a second: 0.1: not seen, 0.5: about 42 s, 1: about 22 s, 5: about 6 s, 20: " in text
    assert "alpha 0.0167 each" in text  # 0.05 over three judged stages


def test_the_hash_is_of_what_the_plan_does(plan):
    first, again, other = (
        json.loads(plan(policy, "--json")[1])
        for policy in (POLICY, f"# a comment\n{POLICY}", POLICY.replace("bake: 10m", "bake: 11m"))
    )
    assert first["hash"] == again["hash"] != other["hash"]
    assert [step["kind"] for step in first["steps"]][:3] == ["act", "observe", "act"]


def test_services_go_one_after_the_other_or_together(plan):
    several = POLICY.replace("service: cart", "services: [cart, shop]").replace(
        "  live: {access_log: /var/log/haproxy/cart.log}",
        "    shop: {command: {set: [./route.sh], get: [./shares.sh]}}\n"
        "  live: {access_log: {cart: /var/log/haproxy/cart.log, shop: /var/log/haproxy/shop.log}}",
    )
    for order, shifts in (
        ("", ["cart", "cart", "cart", "shop", "shop", "shop"]),
        ("  order: [shop, cart]\n", ["shop", "shop", "shop", "cart", "cart", "cart"]),
        ("  order: [[cart, shop]]\n", ["cart, shop", "cart, shop", "cart, shop"]),
    ):
        policy = several.replace("  strategy: canary\n", f"  strategy: canary\n{order}")
        steps = json.loads(plan(policy, "--json")[1])["steps"]
        assert [", ".join(step["services"]) for step in steps if step.get("share") and step["kind"] == "act"] == shifts


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("share: 50%", "share: 4%", ":11: rollout.stages[2]: the share has to rise, but 4% follows 5%"),
        ("share: 50%", "share: 5%", ":11: rollout.stages[2]: the share has to rise, but 5% follows 5%"),
        ("share: 100%", "share: 99%", ":12: rollout.stages[3]: the last stage needs share: 100%"),
        ("needs: nothing", "needs: go", ":12: rollout.stages[3]: no request reaches the baseline at a share of 100 %"),
        ("deadline: 3h", "deadline: 3m", ":11: rollout.stages[2].deadline: must be at least bake (60m), not 3m"),
        ("    always:", "    allways:", "rollout.acts: there is no stage 'allways'; did you mean 'always'?"),
        ("name: dns", "name: deploy", "rollout.acts: two acts have the name deploy"),
        ("{access_log: /var/log/haproxy/cart.log}", "{}", ":10: rollout.stages[1]: users meet the candidate"),
        ("strategy: canary", "strategy: blue_green", ":10: rollout.stages[1]: this strategy moves all traffic at once"),
        ("strategy: canary", "strategy: ab", "must be 'canary', 'blue_green', 'rolling', 'ab_test' or 'big_bang'"),
        ('name: "50 %"', 'name: "5 %"', ":11: rollout.stages[2]: the name 5 % is taken"),
        ("bake: 10m, ", "", ":10: rollout.stages[1]: 5 % needs no_harm, so it needs a time: bake: 10m"),
        ("share: 5%, ", "", ":10: rollout.stages[1]: 5 % has neither a load nor a share of the users"),
        ("    cart: {haproxy", "    shop: {haproxy", "rollout.router names shop, which is not rolled out"),
        ("service: cart\n", "", "names no service to roll out"),
        ("service: cart", "services: [cart, shop]", "rollout.router has no router of shop"),
        ("run: [./dns.sh]", "ran: [./dns.sh]", "there is no key 'ran'; did you mean 'run'?"),
        ("hooks: [{command: {run: [./dns.sh]}}]", "hooks: [undo]", "undo is allowed only among the hooks of rollback"),
        ("{haproxy: {socket: /run/hap, backend: cart, servers: {baseline: [b1, b2, b3], canary: [c1, c2, c3]}}}",
         "{command: {run: [x]}}", ":4: rollout.router: cart: command with these options does not share requests"),
        ("needs: no_harm", "needs: noharm", "did you mean 'no_harm'?"),
        ("retry_for: 60s", "irreversible: true", "deploy is irreversible and stands before users have left"),
        ("[c1, c2, c3]", "c1", ":11: rollout.stages[2]: 50 % needs go, but cart has 3 servers of the baseline"),
        ("baseline: [b1", "stable: [b1", ":5: rollout.router.cart: its servers are those of stable, canary, but the"),
        ("  live:", "  lease: 2s\n  live:", "rollout.lease: must be at least 10s, or a driver that is only slow"),
        ("share: 5%", "share: 5", "share: must be from 0 to 1, not 5: write 5% if that is meant"),
        ("  live:", "  guard: {failures: 0%}\n  live:", "rollout.guard.failures: must be between 0 and 1, not 0"),
        ("share: 50%", "share: 25%", ":11: rollout.stages[2]: 50 % needs go, but at 25 % a server of the baseline"),
        ("bake: 10m", "bake: 10s", ":10: rollout.stages[1].bake: 10 s are too short"),
        ("least: 500", "policy: {alpha: 90%}", ":10: rollout.stages[1].policy.alpha: must be between 0 and 0.5"),
        ("least: 500", "policy: {hooks: {}}", ":10: rollout.stages[1].policy.hooks: a stage cannot override it"),
        ("least: 500", "policy: {metrics: [{name: latency_p96, margin: 9%}]}", "there is no metric 'latency_p96'; did"),
        ("least: 500", "policy: {metrics: [{name: latency_p95, margin: -9%}]}", "policy.metrics[0].margin: must"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_with_its_line(plan, old, new, sentence):
    assert old in POLICY
    code, text = plan(POLICY.replace(old, new, 1))
    assert code == 2
    assert sentence in text


ROLLING = next(
    block
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "rollouts.md").read_text(), re.DOTALL)
    if "strategy: rolling" in block
)
"""The example of the documentation."""


def test_a_rolling_rollout_is_planned_batch_by_batch(plan):
    code, text = plan(ROLLING)
    assert code == 0, text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert rows[0] == "rollout of cart@1.5.0: rolling, cart; 100 min at least"
    names = [row.split(maxsplit=1)[1].split(" before ")[0] for row in rows if re.match(r"\d+ (un)?drain|\d+ rep", row)]
    assert names == [
        *("drain s1 of cart", "replace s1 of cart", "undrain s1 of cart"),
        *("drain s2, s3 of cart", "replace s2, s3 of cart", "undrain s2, s3 of cart"),
        *("drain s4, s5, s6 of cart", "replace s4, s5, s6 of cart", "undrain s4, s5, s6 of cart"),
    ]
    assert "the last batch is not compared, because no instance has the old version then" in text
    steps = json.loads(plan(ROLLING, "--json")[1])["steps"]
    assert [round(step["share"], 3) for step in steps if step["kind"] == "observe"] == [0.167, 0.5, 1.0]
    assert [round(step["share"], 3) for step in steps if step.get("work") == "drain"] == [0.0, 0.25, 1.0]
    second = next(step for step in steps if step.get("work") == "drain" and len(step["instances"]) == 2)
    assert second["arms"] == {"baseline": ["s4", "s5", "s6"], "canary": ["s1"]}, "a drained server is of no arm"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[s1, s2, s3, s4, s5, s6]", "[s1]", "instances.least_serving: cart has 1 instance, and 3 have to serve"),
        ("[s1, s2, s3, s4, s5, s6]", "[s1, s2, s2]", "must name each instance once"),
        ("least_serving: 3", "least_serving: 4", "stages[2]: rest takes 3 of 6 instances of cart at once, and 4 have"),
        ("replace: 1", "replace: 4", "stages[0]: first takes 4 of 6 instances of cart at once"),
        ("replace: 1", "replace: 7", "stages[0]: first takes 6 of 6 instances of cart at once"),
        ("replace: 1", "share: 10%", "stages[0]: first has a share: strategy rolling has replace"),
        ("replace: 1", "replace: half", "stages[0].replace: must be a number of instances such as 2, a share of"),
        ("replace: rest", "replace: 3", "stages[2]: the last stage needs replace: rest"),
        ("replace: 1", "replace: rest", "stages[0]: first replaces the rest, so nothing is left for a later stage"),
        ("needs: nothing", "needs: go", "stages[2]: no instance has the old version then, so nothing can be compared"),
        ("replace: 1, needs: no_harm", "replace: 1, needs: go", "first needs go, but cart has 5 servers of the"),
        (', undo: [./deploy.sh, "${instance}", "${baseline}"]', "", "command cannot bring back the old version"),
        ("instances: [s1, s2, s3, s4, s5, s6]", "servers: {baseline: [s1], canary: [s2]}", "drains single instances"),
        ("strategy: rolling", "strategy: canary", "first replaces instances, which only strategy: rolling does"),
        ("service: cart\nrollout:", "services: [cart, shop]\nrollout:\n  order: [[cart, shop]]", "one service after"),
        ("service: cart", "service: cart\nsources: {access_log: {arms: {baseline: [b], canary: [c]}}}", "names arms"),
        ("least_serving: 3", "least_serving: 0", "least_serving: must be"),
    ],
)  # fmt: skip
def test_batches_that_cannot_be_are_refused(plan, old, new, sentence):
    assert old in ROLLING
    code, text = plan(ROLLING.replace(old, new, 1))
    assert code == 2, text
    assert sentence in text


def test_a_policy_without_the_section_says_where_to_read(plan):
    code, text = plan("service: cart\n")
    assert code == 2
    assert "has no section `rollout`" in text
    assert "docs/rollouts.md" in text


def test_chances_come_from_production_requests_of_the_service(plan, tmp_path):
    """At 5 % the loads of single servers differ, so only failures decide; three servers a side may be GO at 50 %."""
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    design = replace(SCENARIOS["AA"], duration_s=300.0, rate_per_s=20.0)
    land(store, simulate(design, 1), release="cart@1.4.0")
    code, text = plan(POLICY.replace("least: 500", "least: 1000"))
    assert code == 0
    rows = [" ".join(line.split()) for line in text.splitlines()]
    table = "\n".join(rows)
    assert re.search(r"4 observe 5 % .* 1,000 requests of each arm 10 min \d+ % no harm 1,\d+ requests", table)
    assert re.search(r"6 observe 50 % .* after 3 h \d+ % GO, \d+ % by 3 h 7\d,\d+ requests", table)
    assert "step 4, cart: response times decide nothing" in text
    assert "As far as earlier comparisons show, an unchanged release has all users" in rows[0]
    outlook = json.loads(plan(POLICY, "--json")[1])["outlook"]
    assert outlook["requests_per_s"]["cart"] == pytest.approx(40, rel=0.1)
    code, text = plan(POLICY.replace("least: 500", "least: 5000"))
    assert code == 2
    assert ":10: rollout.stages[1].least: 5 % needs 5,000 requests of each arm, and about 1," in text
