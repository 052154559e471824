"""Load shapes. A locustfile uses the one that it imports; under `evaluator load` its users are those of each arm."""

from __future__ import annotations

from locust import LoadTestShape


class Ramp(LoadTestShape):
    """Grows to `users` within `ramp_s`, stays for `hold_s`, then ends."""

    users = 50
    ramp_s = 20.0
    hold_s = 60.0

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users at this time and the users to start per second; `None` ends the load."""
        elapsed_s: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if elapsed_s > self.ramp_s + self.hold_s:
            return None
        share = min(1.0, elapsed_s / self.ramp_s) if self.ramp_s else 1.0
        users_now = max(1, round(self.users * share))
        spawn_rate = max(1.0, self.users / max(self.ramp_s, 1.0))
        return users_now, spawn_rate
