"""Objects for notebooks: a store that keeps no file open, its releases, and judgements that display themselves.

    import evaluator

    store = evaluator.open("evaluator.duckdb")
    release = store.release("cart@1.5.0")
    release.judgement()                                      # the newest verdict that was kept
    release.compare()                                        # the policy's metrics, on the newest load
    release.compare(metrics=[{"name": "p90", "type": "latency_quantile", "quantile": 0.9, "margin": "5%"}])
    release.compare(endpoints=["POST /orders"], start=noon)  # a part of it
    release.compare().plot.timeline()                        # an Altair chart, as in report and app
    release.sql("SELECT instance, count(*) FROM requests GROUP BY ALL")

Every call opens the file, reads what it needs and closes it: an open notebook blocks no other program from writing.
`store` and `release` in the examples of this package are of a simulated release whose canary is 30 % slower.

>>> store.releases
('cart@1.5.0',)
>>> release
<release cart@1.5.0: 1 run>
>>> found = release.compare()
>>> found.word, found["latency_p95"].status.value
('no_go', 'fail')
"""

from __future__ import annotations

from pathlib import Path

from evaluator.api.judgements import ReleaseJudgement
from evaluator.api.releases import Snapshot, StoredRelease
from evaluator.pipeline.adopting import adopt_recordings, open_store

__all__ = ["ReleaseJudgement", "Snapshot", "StoredRelease", "open"]


def open(path: str | Path = "evaluator.duckdb") -> Snapshot:  # noqa: A001 - `evaluator.open` is how it is meant to read
    """Open the store at `path` for reading.

    If there is none, but requests were recorded next to it by hand, the store is made of them. Raises StoreError if
    there is nothing.
    """
    is_new = not Path(path).exists()
    store = open_store(Path(path))
    if is_new:
        adopt_recordings(store)
    return Snapshot(store)
