"""Record every request of a Locust run.

One line in a locustfile is enough, or none: `python -m evaluator.sources.locust` takes every option of `locust` and
records. It works alone, with `--processes`, and with `--master` and `--worker` (then on all of them).

```python
from evaluator.sources.locust import Recorder

Recorder(release="cart@1.5.0", arm="canary")
```

A request's arm is the `arm` of its context (override `context()` of the user class), else the recorder's own.
"""

from __future__ import annotations

from evaluator.sources.locust.recorder import Recorder

__all__ = ["Recorder"]
