"""The store: the only room that knows DuckDB."""

from evaluator.store.base import Store

__all__ = ["Store"]
