from __future__ import annotations


def show_audit() -> None:
    return None
