"""Samples that are lifted out of an answer are those that JSON has there."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.sources.prometheus.samples import lift_samples

NUMBERS = st.floats() | st.sampled_from([0.1, 1e-300, 1.7976931348623157e308, -0.0])
TIMES = st.integers(0, 2_000_000_000_000).map(lambda ms: ms / 1000)
LABELS = st.dictionaries(st.text(min_size=1), st.text(), max_size=3)


def to_text(number: float) -> str:
    """As the API writes numbers."""
    if math.isnan(number):
        return "NaN"
    return repr(number) if math.isfinite(number) else ("+Inf" if number > 0 else "-Inf")


def to_body(series) -> bytes:
    result = [{"metric": labels, "values": [[ts, to_text(value)] for ts, value in pairs]} for labels, pairs in series]
    plain = {"status": "success", "data": {"resultType": "matrix", "result": result}}
    return json.dumps(plain, separators=(",", ":")).encode()


@given(st.lists(st.tuples(LABELS, st.lists(st.tuples(TIMES, NUMBERS), min_size=1, max_size=5)), min_size=1, max_size=4))
def test_what_is_lifted_is_what_json_has(series):
    skeleton, lifted = lift_samples(to_body(series))
    result = json.loads(skeleton)["data"]["result"]
    assert [row["metric"] for row in result] == [labels for labels, _ in series]
    for row, (_, pairs) in zip(result, series, strict=True):
        ts, values = lifted[row["values"]]
        np.testing.assert_array_equal(ts, [pair[0] for pair in pairs])
        np.testing.assert_array_equal(values, [pair[1] for pair in pairs])


@pytest.mark.parametrize("trick", ['"values":[[1,"2"]]', "]]", '\\"values":[[', "],[", "\n", '"'])
def test_labels_that_look_like_samples_are_labels(trick):
    skeleton, lifted = lift_samples(to_body([({"handler": trick}, [(1.0, 2.0), (3.0, 4.0)])]))
    (row,) = json.loads(skeleton)["data"]["result"]
    assert row["metric"] == {"handler": trick}
    assert lifted[row["values"]][1].tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"data":{"result":[{"metric":{},"values":[[1,"2"]',
        b'{"data":{"result":[{"metric":{},"values":[[1,"two"]]}]}}',
        b'{"data":{"result":[{"metric":{},"values":[[1,"2",3]]}]}}',
        b'{"data":{"result":[{"metric":{},"values":[]}]}}',
        b'{"data": {"result": [{"metric": {}, "values": [[1, "2"]]}]}}',
    ],
)
def test_an_answer_of_another_form_is_not_changed(body):
    assert lift_samples(body) == (body, [])
