from __future__ import annotations


def show_promote() -> None:
    return None
