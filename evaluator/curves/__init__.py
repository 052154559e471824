"""Numbers behind the figures of a report: how a verdict came about, in time, over the distribution and by instance.

Pure: from the same cells, runs and rulebook as the verdict. What comes out is plain JSON, bounded in size whatever the
size of the release: at most `MOST_POINTS` points a line and `MOST_UNITS` instances an arm. The forest of all metrics
and the ranking of endpoints need nothing beyond the comparisons that the verdict has anyway.
"""

from __future__ import annotations

from evaluator.curves.base import MOST_POINTS, MOST_UNITS
from evaluator.curves.draw import trace_release

__all__ = ["MOST_POINTS", "MOST_UNITS", "trace_release"]
