"""The store: the only room that knows DuckDB."""

import evaluator.store.library  # noqa: F401 - before whatever else imports DuckDB
from evaluator.store.base import Store
from evaluator.store.engine import Relation

__all__ = ["Relation", "Store"]
