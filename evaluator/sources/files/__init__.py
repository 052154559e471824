"""Request files of other tools: recognised, checked as far as their first lines go, and planned for landing."""

from evaluator.sources.files.planning import FORMATS, plan_landing

__all__ = ["FORMATS", "plan_landing"]
