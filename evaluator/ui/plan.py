from __future__ import annotations
def show_plan() -> None:
    return None
