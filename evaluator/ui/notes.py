from __future__ import annotations

from evaluator.ui.reads import Place

__all__ = ["show_notes"]


def show_notes(place: Place, release_id: str) -> None:
    """Notes."""
