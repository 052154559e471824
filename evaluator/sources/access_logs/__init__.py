"""Access logs of routers: which format a file has, and how its lines are read."""

from evaluator.sources.access_logs.recognising import FORMATS, find_layout

__all__ = ["FORMATS", "find_layout"]
