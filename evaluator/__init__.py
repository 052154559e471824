"""Is this release safe to promote? Load runs become a GO, NO-GO or INCONCLUSIVE verdict.

Names are imported on first use: a Locust worker does not load what it does not need.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing doubles the time until Ctrl-C is handled
    from typing import Any

    from evaluator.api import open  # noqa: A004 - `evaluator.open` is how it is meant to read
    from evaluator.sources.locust import Recorder

    __version__: str

_PLACES = {"Recorder": "evaluator.sources.locust:Recorder", "open": "evaluator.api:open"}

__all__ = ["Recorder", "__version__", "open"]


def __getattr__(name: str) -> Any:
    """Import a name of this package at its first use. Python calls this for names that the module does not have."""
    if name in _PLACES:
        from evaluator.extensions import load_object

        return load_object(_PLACES[name])
    if name == "__version__":
        from evaluator.version import find_version

        return find_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
