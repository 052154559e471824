"""The analysts' app, the only package that serves pages. One module a page; every read of the store is in `reads`.

A page reads from top to bottom: controls, one cached read, figures. Every choice is in the address, so that a link
shows what its sender saw. Pages work on copies of what they read: nothing here keeps the
store open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from evaluator.ui.audit import show_audit
from evaluator.ui.compare import show_compare
from evaluator.ui.frame import guarded, open_frame
from evaluator.ui.plan import show_plan
from evaluator.ui.promote import show_promote
from evaluator.ui.release import show_release
from evaluator.ui.releases import show_releases
from evaluator.ui.rollout import show_rollout

__all__ = ["ICON", "PAGES", "open_frame"]

ICON = Path(__file__).with_name("icon.svg")

PAGES: tuple[tuple[Callable[[], None], Mapping[str, str | bool]], ...] = (
    (guarded(show_releases), {"title": "Releases", "icon": ":material/grid_on:", "url_path": "", "default": True}),
    (guarded(show_release, "Release"), {"title": "Release", "icon": ":material/fact_check:", "url_path": "release"}),
    (guarded(show_rollout, "Rollout"), {"title": "Rollout", "icon": ":material/stairs:", "url_path": "rollout"}),
    (guarded(show_compare), {"title": "Compare", "icon": ":material/compare_arrows:", "url_path": "compare"}),
    (guarded(show_plan), {"title": "Plan", "icon": ":material/timer:", "url_path": "plan"}),
    (guarded(show_promote, "Promote"), {"title": "Promote", "icon": ":material/rocket_launch:", "url_path": "promote"}),
    (guarded(show_audit), {"title": "Audit", "icon": ":material/history_edu:", "url_path": "audit"}),
)
"""What each page runs, and how the navigation lists it."""
