"""Fixtures of the whole suite, and the order of its modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))  # `import judging`: modules that tests of several packages share

LONGEST = (
    "test_ci.py",
    "test_notebooks.py",
    "intents/test_overtaking.py",
    "ui/test_browser.py",
    "ui/test_promote.py",
    "intents/test_executing.py",
    "test_first_verdict.py",
    "ui/test_journeys.py",
    "cli/test_promote.py",
    "sources/test_load.py",
    "pipeline/test_collecting.py",
    "cli/test_load.py",
    "sources/test_silence.py",
    "cli/test_watch.py",
    "cli/test_collect.py",
    "intents/test_asking.py",
    "test_contributing.py",
    "cli/test_import_and_data.py",
    "reports/test_html_browser.py",
    "sources/prometheus/test_live.py",
    "golden/test_golden.py",
    "ui/test_snippets.py",
    "ui/test_release.py",
    "stats/test_sensitivity.py",
    "sources/test_recorder.py",
    "reports/test_html.py",
    "metrics/test_readings.py",
)
"""Modules of half a minute and more. They start first, so that no process is left with a long one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the longest modules to the front; all others keep their order."""
    rank = {TESTS / name: position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
