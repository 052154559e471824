"""Shares, times and coverage from the records of one design."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from truth import derive_truth

from arena.grid import METRICS, Mode
from arena.results import Record
from arena.shares import Tally, Times, tally
from evaluator.metrics.latency import LatencyQuantile
from evaluator.simulate import SCENARIOS

__all__ = ["Reading"]


@functools.lru_cache(maxsize=512)
def find_truth(design: str, metric: str) -> float:
    """Return the true effect on the scale of the metric's interval."""
    rule, truth = METRICS[metric], derive_truth(SCENARIOS[design])
    if isinstance(rule.metric, LatencyQuantile):
        return truth.quantiles[rule.metric.quantile]
    return truth.mean if rule.type == "latency_mean" else truth.failures


@dataclass(frozen=True, slots=True)
class Reading:
    """Records of one design."""

    design: str
    records: tuple[Record, ...]

    @property
    def crashes(self) -> int:
        """Number of releases that ended with an error."""
        return sum("error" in record for record in self.records)

    def asked(self, mode: Mode) -> list[Record]:
        """The judge's answers with one kind of monitoring."""
        return [record["ours"][mode] for record in self.records if mode in record.get("ours", {})]

    def words(self, mode: Mode, book: str, word: str) -> Tally:
        """How often the verdict was `word`."""
        return tally(answer[book]["word"] == word for answer in self.asked(mode))

    def passed(self, mode: Mode, metric: str) -> Tally:
        """How often a metric of the policy was shown to be within its margin."""
        return tally(answer["policy"]["status"][metric] == "pass" for answer in self.asked(mode))

    def no_go_times(self, mode: Mode, book: str) -> Times:
        """Minutes until the NO-GO."""
        minutes = [answer[book]["minute"] for answer in self.asked(mode)]
        return Times(tuple(math.inf if minute is None else minute for minute in minutes))

    def worse(self, mode: Mode, metric: str) -> Tally:
        """How often a metric by itself was shown to be worse at margin 0."""
        return tally(answer["alone"].get(metric, {}).get("worse") for answer in self.asked(mode))

    def worse_times(self, mode: Mode, metric: str) -> Times:
        """Minutes until it was shown to be worse."""
        minutes = [answer["alone"].get(metric, {}).get("minute") for answer in self.asked(mode)]
        return Times(tuple(math.inf if minute is None else minute for minute in minutes))

    def covered(self, metric: str) -> Tally:
        """How often the interval at the end contains the truth."""
        if metric not in METRICS or math.isnan(find_truth(self.design, metric)):
            return Tally(0, 0)
        return tally(self._covers(answer["alone"].get(metric, {}), metric) for answer in self.asked("fixed"))

    def _covers(self, found: Record, metric: str) -> bool | None:
        if "estimate" not in found:
            return None
        truth = find_truth(self.design, metric)
        low, high = found["low"], found["high"]
        return (low is None or low <= truth) and (high is None or truth <= high)

    def peers(self) -> list[str]:
        """Names of the peers that have answers."""
        return list(dict.fromkeys(name for record in self.records for name in record.get("peers", {})))

    def flagged_at_end(self, peer: str) -> Tally:
        """How often a peer flags with one look, at the end."""
        return tally(answer[0] for answer in self._answers(peer))

    def flagged_ever(self, peer: str) -> Tally:
        """How often a peer flags with a look each minute."""
        return tally(answer[1] is not None for answer in self._answers(peer))

    def flag_times(self, peer: str) -> Times:
        """Minutes until a peer flags."""
        return Times(tuple(math.inf if answer[1] is None else float(answer[1]) for answer in self._answers(peer)))

    def _answers(self, peer: str) -> list[tuple[bool, int | None]]:
        return [record["peers"][peer] for record in self.records if peer in record.get("peers", {})]
