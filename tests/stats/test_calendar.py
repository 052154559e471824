"""When the next look is due."""

import math

import pytest

from evaluator.records import Monitoring
from evaluator.stats.inference.calendar import plan_looks


@pytest.mark.parametrize(
    ("mode", "covered_s", "planned_s", "due_s"),
    [
        ("auto", 0, 600, 240),
        ("auto", 240, 600, 300),
        ("auto", 299, 600, 300),
        ("auto", 545, 600, 600),
        ("auto", 600, 600, math.inf),
        ("auto", 30, 120, 120),
        ("fixed", 30, 600, 600),
        ("fixed", 600, 600, math.inf),
        ("auto", 10, None, 240),
        ("auto", 700, None, 720),
    ],
)
def test_the_next_look_is_known(mode, covered_s, planned_s, due_s):
    calendar = plan_looks(Monitoring(mode), bucket_s=5, covered_s=covered_s, planned_s=planned_s)
    assert calendar.next_s == due_s
    assert all(look <= covered_s for look in calendar.interim)
