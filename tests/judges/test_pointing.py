"""The next action names where a candidate fails, as far as that is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluator.judges import Judgement, point_to_faults
from evaluator.records import Fault, FaultOnset, FaultPlace, Reason, Rulebook, VerdictWord

NO_GO = Judgement(VerdictWord.NO_GO, (Reason("regression", "", "latency_p95", "canary"),), "generic", ())
OPEN = Judgement(VerdictWord.INCONCLUSIVE, (Reason("not_shown", "", "latency_p95", "canary"),), "load for longer", ())
ALL, NOWHERE = FaultPlace("all", count=4), FaultPlace("not_known", count=4)
ONE = FaultPlace("some", ("canary-3",), 4, others_fine=True)


def fault(what="failures", endpoints=NOWHERE, instances=NOWHERE, arm="canary"):
    return Fault(arm, what, endpoints, instances, FaultOnset("not_known"))


def point(judgement, *faults):
    return point_to_faults(judgement, faults, Rulebook(()), "cart@2").next_action


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (fault(endpoints=FaultPlace("some", ("GET /a",), 9), instances=ONE), "GET /a fails more often on canary-3"),
        (fault(endpoints=FaultPlace("some", ("a", "b"), 9)), "a and b fail more often on canary"),
        (fault(endpoints=FaultPlace("some", tuple("abcd"), 9)), "4 endpoints fail more often on canary"),
        (
            fault("response_time", ALL, FaultPlace("all", count=3)),
            "all 4 endpoints take longer on all 3 instances of canary",
        ),
        (fault("response_time", FaultPlace("all", count=1)), "the only endpoint takes longer on canary"),
        (fault("response_time", instances=FaultPlace("all", count=1)), "requests take longer on canary"),
    ],
)
def test_after_a_no_go_it_is_the_place_whose_cause_is_looked_for(found, cause):
    text = f"do not promote cart@2; find out why {cause}, and fix it, then load and judge again"
    assert point(NO_GO, found) == text
    assert point(NO_GO, fault("not_known"), found) == text
    generic = "do not promote cart@2; find and fix the cause in canary, then load and judge again"
    assert point(NO_GO, fault("not_known")) == generic
    assert point(NO_GO, replace(found, arm="other")) == generic
    assert point(NO_GO) == "generic"


def test_after_inconclusive_it_is_the_instance_that_is_unlike_the_others():
    assert point(OPEN, fault(instances=ONE)) == (
        "1 of 4 instances decides this: look at canary-3, the others are as on the baseline; "
        "if nothing is wrong there, load for longer"
    )
    two = replace(ONE, names=("a", "b"))
    assert point(OPEN, fault(instances=two)).startswith("2 of 4 instances decide this: look at a and b, the others")
    others_unknown = fault(endpoints=FaultPlace("some", ("GET /a",), 9), instances=replace(ONE, others_fine=False))
    assert point(OPEN, others_unknown) == (
        "find out why GET /a fails more often on canary-3; if nothing is wrong there, load for longer"
    )


@pytest.mark.parametrize(
    "found",
    [
        fault(instances=ALL),
        fault(instances=replace(ONE, count=1)),
        fault(instances=ONE, arm="other"),
    ],
)
def test_nothing_is_pointed_at_that_is_not_shown(found):
    assert point(OPEN, found) == "load for longer"
    assert point_to_faults(OPEN, None, Rulebook(()), "cart@2") is OPEN


@pytest.mark.parametrize("code", ["no_data", "health", "hold_breached", "not_final", "unjudged_endpoints"])
def test_what_has_to_be_done_first_stays_first(code):
    judgement = replace(OPEN, reasons=(Reason(code, "", arm="canary"), *OPEN.reasons))
    assert point(judgement, fault(instances=ONE)) == "load for longer"
