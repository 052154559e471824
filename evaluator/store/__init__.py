"""The store: the only package that uses DuckDB."""

import evaluator.store.library  # noqa: F401 - before whatever else imports DuckDB
from evaluator.store.base import Stamp, Store, stamp_of
from evaluator.store.engine import Relation

__all__ = ["Relation", "Stamp", "Store", "stamp_of"]
