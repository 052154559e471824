"""Is this release safe to promote? Load runs become a GO, NO-GO or INCONCLUSIVE verdict.

Names resolve when they are used: a Locust worker must not pay for what it does not need.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes as long as all the rest of a start before Ctrl-C is listened to
    from typing import Any

_LAZY = {"Recorder": "evaluator.sources.locust", "open": "evaluator.api"}
"""Name → the module that it comes from."""

__all__ = ["Recorder", "__version__", "open"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
