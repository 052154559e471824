"""The users of the sample service."""

from __future__ import annotations

import random

import gevent
from locust import FastHttpUser, constant_throughput, task

PACE_PER_S = 4.0
"""Requests of one user per second. A steady pace: a slow arm gets as many requests as a fast one."""


class Shopper(FastHttpUser):
    """Looks around a lot and buys now and then."""

    wait_time = constant_throughput(PACE_PER_S)

    def on_start(self) -> None:
        """Wait for a random part of the pace: users are spawned together, and would send their requests in waves."""
        gevent.sleep(random.uniform(0, 1 / PACE_PER_S))

    @task(6)
    def browse(self) -> None:
        """Open the list."""
        self.client.get("/products")

    @task(6)
    def look(self) -> None:
        """Open one product."""
        self.client.get(f"/products/{random.randint(1, 500)}", name="/products/{id}")

    @task(3)
    def collect(self) -> None:
        """Put a product into the cart."""
        self.client.post("/cart", json={"product": random.randint(1, 500)})

    @task(2)
    def buy(self) -> None:
        """Check out."""
        self.client.post("/checkout", json={"pay": "invoice"})
