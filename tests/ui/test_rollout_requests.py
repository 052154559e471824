"""The page Promote while a rollout asks people."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evaluator.intents.rollout_steps import request_step
from evaluator.policy import parse_policy
from evaluator.records.intents import IntentState
from evaluator.records.rollouts import Rollout, to_plain
from evaluator.rollout.planning import make_plan
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

RELEASE = "cart@1.9.0"
VALUES = {
    "service": "cart",
    "rollout": {
        "strategy": "big_bang",
        "router": {"cart": {"command": {"set": ["true", "${shares}"], "get": ["cat", "HERE/shares"]}}},
        "live": {"access_log": "x.log"},
        "stages": [{"name": "all", "share": "100%", "needs": "nothing", "bake": "9s", "agree": 1}],
    },
}


@pytest.fixture
def asking(judged_store, tmp_path, monkeypatch) -> Path:
    """A store with a rollout that asks about its shift, and about its observation."""
    folder = tmp_path / "place"
    shutil.copytree(judged_store.parent, folder)
    monkeypatch.chdir(folder)
    (folder / "shares").write_text('{"baseline": 1, "canary": 0}')
    (folder / "evaluator.yaml").write_text("service: cart\n")
    values = json.loads(json.dumps(VALUES).replace("HERE", str(folder)))
    plan = make_plan(parse_policy(values), RELEASE)
    store = Store.open(folder / "evaluator.duckdb")
    draft = Rollout("", RELEASE, to_plain(plan), plan.hash(), values, "ann", ("ann",), "now", datetime.now(UTC))
    rollout = Rollouts(store.control.file).start(draft)
    request_step(store, rollout, plan, 0)
    request_step(store, rollout, plan, 1, "all has not shown what it needs")
    return folder / "evaluator.duckdb"


def test_what_is_asked_can_be_read_and_answered(asking, page, text):
    test = page("promote", asking, release=RELEASE)
    shown = "\n".join([text(test), *(element.value for element in test.markdown)])
    assert "ann asks to execute step 1 of the rollout r1 of cart@1.9.0. Approve?" in shown
    assert "Who declines it turns the rollout r1 back: all traffic to the baseline, and its acts undone." in shown
    assert "the rollout r1 of cart@1.9.0 asks whether it goes on with step 2. Approve?" in shown
    assert "all has not shown what it needs. With an agreement the rollout goes on all the same" in shown
    assert "to baseline 0 %, canary 100 %" in shown
    assert "Who declines it turns the rollout r1 back: all traffic to the baseline, and its acts undone." in shown
    assert "the rollout r1 of cart@1.9.0 has not ended" in shown
    test.text_input(key="typed-i2").input(RELEASE)
    test.button(key="yes-i2").click().run()
    assert not test.exception
    store = Store.open(asking)
    assert store.control.intent("i2").state is IntentState.ACKNOWLEDGED
    assert store.control.intent("i1").state is IntentState.REQUESTED
