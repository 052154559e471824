"""Visitors of the sample service: each keeps its cookie, and buys or does not; a file has what each of them did.

    VISITS_FILE=visits.csv locust -f loadtests/visitors.py --host http://localhost:8000

The row of a visitor is written when the visit is over: its cookie, the arm that answered, 1 if it has bought, and when
it came (seconds since 1970). An answer names the arm by its instance, such as `canary-2`, and in X-Buyers the share of
the visitors that buy. A visitor whose first request had no answer is in no arm, and has no row.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path

import gevent
from locust import FastHttpUser, constant_throughput, events, task

VISITS_FILE = "VISITS_FILE"
"""Variable of the environment with the path of the file."""
COLUMNS = ("user_id", "variant", "bought", "seen")
COOKIE = "shop_user"
VISITS_PER_S = 4 / 3
"""Visits of one user of Locust per second; each has three requests. One visitor comes after the other."""


@events.init.add_listener
def write_head(**_: object) -> None:
    """Begin the file with the names of its columns."""
    Path(os.environ[VISITS_FILE]).write_text(",".join(COLUMNS) + "\n", encoding="utf-8")


class Visitor(FastHttpUser):
    """Looks at the list and at a product, then buys or puts it into the cart."""

    wait_time = constant_throughput(VISITS_PER_S)

    def on_start(self) -> None:
        """Wait for a random part of a visit: users are spawned together, and would send their requests in waves."""
        gevent.sleep(random.uniform(0, 1 / VISITS_PER_S))

    @task
    def visit(self) -> None:
        """Come without a cookie, as a new visitor does."""
        self.client.cookiejar.clear()
        seen = time.time()
        answer = self.client.get("/products")
        headers: Mapping[str, str] = answer.headers or {}  # these know no upper and lower case
        arm = headers.get("X-Instance", "").rpartition("-")[0]
        wants_to_buy = random.random() < float(headers.get("X-Buyers", "0"))
        self.client.get(f"/products/{random.randint(1, 500)}", name="/products/{id}")
        bought = 0
        if wants_to_buy:
            bought = int(self.client.post("/checkout", json={"pay": "invoice"}).status_code == 200)
        else:
            self.client.post("/cart", json={"product": random.randint(1, 500)})
        user = next((cookie.value for cookie in self.client.cookiejar if cookie.name == COOKIE), "")
        if arm and user:
            with Path(os.environ[VISITS_FILE]).open("a", encoding="utf-8") as visits:
                visits.write(f"{user},{arm},{bought},{seen:.3f}\n")
