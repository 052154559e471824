"""The store: the only room that knows DuckDB."""

from evaluator.store.base import Store
from evaluator.store.engine import Relation

__all__ = ["Relation", "Store"]
