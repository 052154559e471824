"""NO-GO at a level of its own: fewer false alarms, and the same GO."""

from __future__ import annotations

from dataclasses import replace

import pytest
from judging import RULEBOOK, SMALL, evidence, judge

from evaluator.planning.gates import find_level
from evaluator.planning.precision import History
from evaluator.records import MetricStatus, Role, VerdictWord
from evaluator.simulate import Change, simulate_cells

WORSE = simulate_cells(replace(SMALL, changes=(Change(latency=0.2),)), 4)


def smallest_p(judgement) -> float:
    """Smallest p-value of "worse" of all gates and endpoints; looks before the last count with theirs."""
    return min(c.p_value_adjusted for c in judgement.comparisons if c.p_value_adjusted is not None)


def test_no_go_needs_its_own_level():
    judgement = judge(WORSE)
    assert judgement.word is VerdictWord.NO_GO
    p = smallest_p(judgement)
    assert 0 < p < 0.05
    above, below = (judge(WORSE, replace(RULEBOOK, alpha_no_go=p * factor)) for factor in (1.01, 0.99))
    assert above.word is VerdictWord.NO_GO
    assert below.word is VerdictWord.INCONCLUSIVE
    assert not [c for c in below.comparisons if c.status is MetricStatus.FAIL and c.rule.role is Role.GATE]


def test_what_is_within_its_margin_is_so_at_alpha():
    cells = simulate_cells(SMALL, 3)
    strict = judge(cells, replace(RULEBOOK, alpha_no_go=1e-6))
    assert [c.status for c in strict.comparisons] == [c.status for c in judge(cells).comparisons]


def test_a_hold_prevents_a_go_at_alpha():
    holds = tuple(replace(rule, role=Role.HOLD) if rule.name == "latency_p50" else rule for rule in RULEBOOK.rules)
    rulebook = replace(RULEBOOK, rules=holds, alpha_no_go=1e-9, scan=replace(RULEBOOK.scan, enabled=False))
    judgement = judge(WORSE, rulebook)
    assert judgement.word is VerdictWord.INCONCLUSIVE
    assert judgement.reasons[0].code == "hold_breached"


@pytest.mark.parametrize("alpha_no_go", [0.01, 0.001])
def test_the_interval_agrees_with_the_decision(alpha_no_go):
    """Only the end that decides NO-GO moves, of gates and endpoints only."""
    plain, strict = (evidence(WORSE, replace(RULEBOOK, alpha_no_go=level)) for level in (None, alpha_no_go))
    pairs = [pair for pair in zip(plain.comparisons, strict.comparisons, strict=True) if pair[0].effect is not None]
    assert pairs
    for before, after in pairs:
        assert after.effect.upper == pytest.approx(before.effect.upper)
        assert after.effect.lower <= before.effect.lower + 1e-12
        if before.rule.role is Role.WATCH:
            assert after.effect == before.effect
        elif before.rule.name.startswith("latency"):
            assert after.effect.lower < before.effect.lower


def test_it_is_the_level_of_plans_too():
    history = History((), (), 1.0, 4, 1)
    assert find_level(history, replace(RULEBOOK, alpha_no_go=0.01)) == pytest.approx(
        0.2 * find_level(history, RULEBOOK)
    )
