"""Remedies name keys of the policy that exist."""

from __future__ import annotations

import re
from pathlib import Path

import evaluator
from evaluator.sources.prometheus.options import PrometheusSource, Tls

NAMED = re.compile(r"sources\.prometheus\.([a-z_]+)(?:\.([a-z_]+))?")


def test_every_key_of_the_metrics_server_that_is_named_exists():
    texts = {path: path.read_text() for path in Path(evaluator.__file__).parent.rglob("*.py")}
    code = re.compile(r"^(from|import) .*$|evaluator\.sources\.prometheus\S*", re.MULTILINE)
    named = {(path.name, *keys) for path, text in texts.items() for keys in NAMED.findall(code.sub("", text))}
    assert len({key for _, key, _ in named}) > 5
    for where, key, below in named:
        assert key in PrometheusSource.model_fields, where
        assert not below or below in Tls.model_fields or key != "tls", where
