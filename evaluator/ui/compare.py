from __future__ import annotations
def show_compare() -> None:
    return None
