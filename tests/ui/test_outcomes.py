"""The page of an A/B/C test: its arms, and nothing that only requests have."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from evaluator.pipeline.importing import import_outcomes
from evaluator.pipeline.judging import judge_release
from evaluator.policy import parse_policy
from evaluator.records import OutcomeOptions, Release, Service
from evaluator.store import Store

POLICY = {"metrics": [{"name": "conversion", "type": "outcome_proportion", "outcome": "bought", "margin": "5pp"}]}
SHARES = {"control": 0.30, "blue": 0.45, "<b>page": 0.15}


def test_the_arms_of_a_test_with_their_words_and_chances(page, text, tmp_path):
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    rows = [
        f"{arm}-{number},{arm},{int(number < 1000 * share)}" for arm, share in SHARES.items() for number in range(1000)
    ]
    (tmp_path / "users.csv").write_text("\n".join(["unit,variant,bought", *rows]))
    release = Release("shop@2", (Service("shop", "1", "2"),))
    import_outcomes(store, release, [str(tmp_path / "users.csv")], OutcomeOptions())
    verdict = judge_release(store, "shop@2", parse_policy(POLICY, origin="a test"), judged_at=datetime.now(UTC))
    assert verdict.word.value == "go"
    shown = page("release", tmp_path / "evaluator.duckdb", release="shop@2")
    page_text = text(shown)
    assert not shown.exception
    table = page_text.split('aria-label="arms by conversion"')[1].split("</table>")[0]
    cells = [re.sub(r"<[^>]+>", " ", row) for row in table.split("<tr>")[2:]]
    by_arm = {re.search(r"baseline|blue|&lt;b&gt;page", cell)[0]: cell for cell in cells}
    assert "45 %" in by_arm["blue"]
    assert "better" in by_arm["blue"]
    assert "improved by 15 pp; a drop of up to 5 pp was allowed" in by_arm["blue"]
    assert "&gt; 99.9 %" in by_arm["blue"]
    assert "worse by 15 pp" in by_arm["&lt;b&gt;page"]
    assert "&lt; 0.1 %" in by_arm["baseline"]
    assert "1,000 + 1,000 + 1,000 users" in page_text
    assert "not chosen: &lt;b&gt;page, 1 worse" in page_text
    titles = [element.value for element in shown.header]
    assert "Arms" in titles
    assert not {"Metric by metric", "Endpoints", "Look closer", "What happened when"} & set(titles)
