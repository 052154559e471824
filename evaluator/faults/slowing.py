"""Look for longer response times: mean logarithms against those of the baseline (Gaussian likelihood ratios)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_ndtr

from evaluator.faults.grid import FaultGrid
from evaluator.faults.scanning import Scope, choose_scope, sum_from_end
from evaluator.records.arrays import BoolArray, FloatArray

PRIOR_DF = 2.0
"""Degrees of freedom that the policy's assumption about instances counts as, next to the instances of the baseline."""
DRIFT_SD = 0.02
"""Least standard deviation of the drift of one instance."""
LEAST_VARIANCE = 0.02
"""Least variance of the logarithm of single response times within an endpoint."""
LEAST_LONG_RUN = 3.0
"""Least factor on the variance of the drift in a mean over many slots: slots that follow each other are alike."""
DRIFT_S = 60.0
"""Time over which the drift of an instance is alike, at least: the same factor is at least twice this in slots."""
NOISE_FACTOR = 1.5
"""Factor on the variance by sampling: requests of a slot are not quite independent."""
MOST_LONG_RUN = 40.0
WINDOWS = (4, 8, 16)
FEWEST_WINDOWS = 2
BEYOND_WINDOW = 1.5
"""Slots of the means from which the long run is estimated, how many means there must be, and a factor for what is alike
over a longer time."""
PARTS = 4
"""Parts of a slot between which an onset is distinguished."""
SIZE_SD = 0.7
"""Standard deviation of the sizes of faults, as rises of the mean logarithm: a third more than doubles the time."""
APART = 4
"""Slots between which the drift of arms with one instance is measured."""
FEWEST_RESPONSES = 30
"""Responses of a place from which its times are looked at: the mean of fewer is that of the slowest of them."""
FADED_ROOT = 3.0
"""Standard errors by which a rise must fall over its time, before it is said to fade."""
ROBUST = 1.4826
"""Ratio of the standard deviation of a normal distribution to the median of its absolute values."""
LEAST_EFFECT = 0.1
"""Smallest rise of the mean logarithm (about 10 %) that is called a fault, unless the verdict says that there is one.

Smaller ones have many causes."""


@dataclass(frozen=True, slots=True)
class TimeSpread:
    """How much times vary where nothing is wrong; variances of logarithms."""

    of_request: float
    """Of single requests within an endpoint."""
    of_drift: float
    """Of the drift of one instance, in one slot."""
    of_level: float
    """Of the levels of instances."""
    level_df: float
    """Degrees of freedom of `of_level`."""
    long_run: float
    """Factor on the variance of the drift in a mean over many slots."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Estimates of a step at each slot: score and information, and the degrees of freedom; of one shape (…, slots)."""

    score: FloatArray
    information: FloatArray
    df: FloatArray

    @property
    def effects(self) -> FloatArray:
        """Estimated rises of the mean logarithm."""
        return np.divide(self.score, self.information, out=np.zeros_like(self.score), where=self.information > 0)

    @property
    def roots(self) -> FloatArray:
        """Standard errors of each rise, as of a normal distribution with the same p-value."""
        t = np.divide(self.score, np.sqrt(self.information), out=np.zeros_like(self.score), where=self.information > 0)
        return _to_normal(t, self.df)


@dataclass(frozen=True, slots=True)
class TimeModel:
    """Differences of the candidate's mean logarithm from the baseline's at the same time."""

    ok: FloatArray
    """Successes of the candidate, shape (endpoints, instances, slots)."""
    log_sums: FloatArray
    baseline_means: FloatArray
    """Mean logarithm of the baseline, shape (endpoints, slots); 0 where it has no success."""
    baseline_ok: FloatArray
    """Its successes, shape (endpoints, slots)."""
    baseline_instances: int
    spread: TimeSpread
    slot_s: int

    @property
    def slots(self) -> int:
        """Number of slots."""
        return int(self.ok.shape[2])

    def find_scope(self, *, given: bool) -> Scope | None:
        """Find where and since when times are longest for their noise; see `choose_scope`."""
        instances = self.ok.shape[1]
        least = 0.0 if given else LEAST_EFFECT
        responses = sum_from_end(self.ok)
        gains = [self._gain(self._find_steps(*self._difference(), instances=1), least, responses)]
        for all_endpoints, together in ((False, True), (True, False), (True, True)):
            difference, noise = self._difference(together=together)
            counted = responses.sum(axis=1, keepdims=True) if together else responses
            if all_endpoints:
                difference, noise = _pool(difference, noise)
                counted = counted.sum(axis=0, keepdims=True)
            steps = self._find_steps(difference, noise, instances=instances if together else 1)
            gains.append(self._gain(steps, least, counted))
        return choose_scope(gains, self.find_dispersion, slot_s=self.slot_s, given=given)

    def find_dispersion(self, scope: Scope) -> float:
        """Return 1 if the times of a scope stay longer; infinite if few slots make the mean long, or it fades.

        A pause makes the mean of many slots longer: of a fault that lasts, half of the slots have at least half. A cold
        start fades.
        """
        difference, noise, instances = self.series(scope)
        weight = 1 / noise
        since = slice(scope.slot, None)
        usable = np.flatnonzero(weight[since] > 0) + scope.slot
        if not usable.size:
            return math.inf
        # The level before the step, as in `_find_steps`: of few slots little is known of it.
        level = self.spread.of_level * (1 / instances + 1 / self.baseline_instances)
        precision = self._weigh(noise, instances)[: scope.slot]
        before = float((difference[: scope.slot] * precision).sum() / (1 / level + precision.sum()))
        rise = float(np.average(difference[since], weights=weight[since])) - before
        if np.median(difference[usable]) - before < rise / 2:
            return math.inf
        # The line through the slots falls, and ends below half.
        weights = self._weigh(noise, instances)[usable]
        time = usable - np.average(usable, weights=weights)
        information = float((weights * time**2).sum())
        slope = float((weights * time * difference[usable]).sum()) / max(information, 1e-12)
        has_faded = -slope * math.sqrt(information) > FADED_ROOT and rise + slope * time[-1] < rise / 2
        return math.inf if has_faded else 1.0

    def _gain(self, steps: Steps, least: float, responses: FloatArray) -> FloatArray:
        """Return the log likelihood ratio of each rise; 0 where it is not above `least`, or is of few responses."""
        is_shown = (steps.effects > least) & (responses >= FEWEST_RESPONSES)
        return np.where(is_shown, steps.roots, 0.0) ** 2 / 2

    def _difference(
        self, *, together: bool = False, instances: BoolArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return differences from the baseline and their variance by sampling, shape (endpoints, instances, slots).

        `together`: all instances (or those chosen) as one. The variance is infinite where an arm has no success.
        """
        ok, log_sums = self.ok, self.log_sums
        if instances is not None:
            ok, log_sums = ok[:, instances], log_sums[:, instances]
        if together:
            ok, log_sums = ok.sum(axis=1, keepdims=True), log_sums.sum(axis=1, keepdims=True)
        baseline_ok = self.baseline_ok[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            known = (ok > 0) & (baseline_ok > 0)
            difference = np.where(known, log_sums / ok - self.baseline_means[:, None], 0.0)
            noise = np.where(known, self.spread.of_request * (1 / ok + 1 / baseline_ok), np.inf)
        return difference, noise

    def _find_steps(
        self, difference: FloatArray, noise: FloatArray, *, instances: int, level: float | None = None
    ) -> Steps:
        """Estimate a step at each slot of each series; `instances` are averaged in a series.

        The level of a series before the step is unknown: a random one with the variance of instances' levels. So a
        step at the first slot is measured against the baseline, a later one also against the time before.
        """
        spread = self.spread
        weight = self._weigh(noise, instances)
        if level is None:
            level = spread.of_level * (1 / instances + 1 / self.baseline_instances)
        sums, weights = sum_from_end(difference * weight), sum_from_end(weight)
        shrunk = weights / (1 / level + weights[..., :1])
        score = sums - shrunk * sums[..., :1]
        information = weights - shrunk * weights
        # Share of the variance that is due to the level, of which little is known.
        share = weights**2 * level / np.maximum((1 + level * weights[..., :1]) ** 2 * information, 1e-12)
        return Steps(score, information, spread.level_df / np.clip(share, 1e-3, 1.0) ** 2)

    def _weigh(self, noise: FloatArray, instances: int) -> FloatArray:
        """Return the inverse variance of each slot, from that by sampling; drift of both arms' instances is added."""
        drift = self.spread.of_drift * (1 / instances + 1 / self.baseline_instances)
        return np.asarray(1 / (NOISE_FACTOR * noise + self.spread.long_run * drift))

    def series(self, scope: Scope) -> tuple[FloatArray, FloatArray, int]:
        """Return the difference of a scope in each slot, its variance by sampling, and of how many instances it is."""
        difference, noise = self._difference(together=True, instances=scope.instances)
        pooled, pooled_noise = _pool(difference[scope.endpoints], noise[scope.endpoints])
        return pooled[0, 0], pooled_noise[0, 0], int(scope.instances.sum())

    def weigh_onsets(self, scope: Scope) -> tuple[FloatArray, float]:
        """Return the log likelihood of a step in each part of a slot, and of a slow growth, compared with no fault.

        In the slot of its onset a step is there for a part of the time. Its size is normal with `SIZE_SD`, and above 0.

        Returns:
            Log likelihoods of shape (slots × PARTS,), and that of a growth.
        """
        difference, noise, instances = self.series(scope)
        weight = self._weigh(noise, instances)
        level = self.spread.of_level * (1 / instances + 1 / self.baseline_instances)
        total = 1 / level + weight.sum()

        def weigh(score: FloatArray, exposed: FloatArray, information: FloatArray) -> FloatArray:
            """Return the log likelihood ratio of a shape, given its sums with the differences, 1 and itself."""
            score = score - exposed / total * (weight * difference).sum()
            precision = information - exposed**2 / total + SIZE_SD**-2
            root = score / np.sqrt(precision)
            return np.asarray(root**2 / 2 + log_ndtr(root) + math.log(2) - np.log(precision * SIZE_SD**2) / 2)

        parts = 1 - (np.arange(PARTS) + 0.5) / PARTS
        score, exposed = (sum_from_end(values) - values for values in (weight * difference, weight))
        steps = weigh(
            score[:, None] + parts * (weight * difference)[:, None],
            exposed[:, None] + parts * weight[:, None],
            exposed[:, None] + parts**2 * weight[:, None],
        )
        grown = (np.arange(weight.size) + 0.5) / weight.size
        sums = ((values * weight).sum() for values in (grown * difference, grown, grown**2))
        return steps.reshape(-1), float(weigh(*map(np.asarray, sums)))

    def profile(self, scope: Scope, *, over: str) -> TimeProfile:
        """Compare the units of a scope since its slot: its endpoints or its instances (`over`)."""
        if over == "endpoints":
            difference, noise = self._difference(together=True, instances=scope.instances)
            # The level of an instance is common to its endpoints, so it cannot make them differ.
            steps = self._find_steps(difference, noise, instances=int(scope.instances.sum()), level=DRIFT_SD**2)
            index: tuple[slice | int, ...] = (slice(None), 0, scope.slot)
            responses = self.ok[:, scope.instances, scope.slot :].sum(axis=(1, 2))
        else:
            difference, noise = self._difference()
            difference, noise = _pool(difference[scope.endpoints], noise[scope.endpoints])
            steps = self._find_steps(difference, noise, instances=1)
            index = (0, slice(None), scope.slot)
            responses = self.ok[scope.endpoints][..., scope.slot :].sum(axis=(0, 2))
        # A few responses, one of which hangs, show nothing.
        roots = np.where(responses >= FEWEST_RESPONSES, steps.roots[index], 0.0)
        return TimeProfile(steps.effects[index], roots, steps.information[index], steps.df[index])


@dataclass(frozen=True, slots=True)
class TimeProfile:
    """How much longer the times of each endpoint or instance are since the onset; arrays of shape (units,)."""

    effects: FloatArray
    roots: FloatArray
    information: FloatArray
    """Inverse variance of each effect."""
    df: FloatArray
    """Degrees of freedom of this variance."""

    def find_dispersion(self, units: BoolArray) -> float:
        """Return 1: the variance over time is a part of the roots."""
        del units
        return 1.0

    def contrast(self, members: BoolArray) -> float:
        """Standard errors by which the others' rise is below half of that of `members`."""
        means, variances = [], []
        for chosen in (members, ~members):
            information = self.information[chosen]
            if not information.sum():
                return 0.0
            means.append((self.effects[chosen] * information).sum() / information.sum())
            variances.append(1 / information.sum())
        difference = means[0] / 2 - abs(means[1])
        t = np.array(difference / np.sqrt(variances[0] / 4 + variances[1]))
        return float(_to_normal(t, self.df[self.information > 0].min()))


def _to_normal(t: FloatArray, df: FloatArray) -> FloatArray:
    """Return the normal quantiles with the p-values of Student's t (Wallace's formula), elementwise."""
    z = np.sqrt(df * np.log1p(t**2 / df)) * (8 * df + 1) / (8 * df + 3)
    return np.asarray(np.sign(t) * z)


def _pool(difference: FloatArray, noise: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Average differences over endpoints, weighted by their inverse variance; shape (1, instances, slots)."""
    weight = 1 / noise
    total = weight.sum(axis=0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, (difference * weight).sum(axis=0, keepdims=True) / total, 0.0), 1 / total


def model_times(grid: FaultGrid, assumed_sd: float) -> TimeModel:
    """Compare the candidate's times with those of the baseline.

    `assumed_sd`: standard deviation of the levels of instances that the policy assumes.
    """
    ok = grid.n - grid.failures
    baseline_ok = grid.baseline_n - grid.baseline_failures
    total_ok, total_logs = baseline_ok.sum(axis=1), grid.baseline_log_sums.sum(axis=1)
    if not grid.paired:  # at another time: one mean for all slots
        total_ok = np.broadcast_to(total_ok.sum(axis=1, keepdims=True), total_ok.shape)
        total_logs = np.broadcast_to(total_logs.sum(axis=1, keepdims=True), total_logs.shape)
    means = np.divide(total_logs, total_ok, out=np.zeros_like(total_logs), where=total_ok > 0)
    spread = _measure_spread(baseline_ok, grid.baseline_log_sums, means, total_ok, assumed_sd, grid.slot_s)
    model = TimeModel(
        ok=ok,
        log_sums=grid.log_sums,
        baseline_means=means,
        baseline_ok=total_ok,
        baseline_instances=grid.baseline_n.shape[1],
        spread=spread,
        slot_s=grid.slot_s,
    )
    return model if grid.baseline_n.shape[1] > 1 else replace(model, spread=_measure_alone(model))


def _measure_alone(model: TimeModel) -> TimeSpread:
    """Measure the drift where the baseline has one instance: by how much the difference changes over `APART` slots.

    The median of these changes: a step of a fault is in few of them.
    """
    everything = Scope(np.ones(model.ok.shape[0], dtype=bool), np.ones(model.ok.shape[1], dtype=bool), slot=0)
    difference, noise, instances = model.series(everything)
    changes = np.abs(difference[APART:] - difference[:-APART])[np.isfinite(noise[APART:] + noise[:-APART])]
    if changes.size < APART:
        return model.spread
    of_difference = (ROBUST * float(np.median(changes))) ** 2 / 2
    return replace(model.spread, of_drift=max(model.spread.of_drift, of_difference / (1 + 1 / instances)))


def _measure_spread(
    ok: FloatArray, log_sums: FloatArray, means: FloatArray, total_ok: FloatArray, assumed_sd: float, slot_s: float
) -> TimeSpread:
    """Measure the spread of times between the baseline's instances.

    Args:
        ok: Successes of the baseline, shape (endpoints, instances, slots).
        log_sums: Sums of the logarithms of their times.
        means: Mean logarithm over all instances, shape (endpoints, slots).
        total_ok: Successes over all instances, of the same shape.
        assumed_sd: Assumed standard deviation of the levels of instances.
        slot_s: Length of a slot.
    """
    instances = ok.shape[1]
    if instances < 2:
        return TimeSpread(0.4, 4 * DRIFT_SD**2, assumed_sd**2, PRIOR_DF, max(LEAST_LONG_RUN, 2 * DRIFT_S / slot_s))
    with np.errstate(divide="ignore", invalid="ignore"):
        residual = np.where(ok > 0, log_sums / ok - means[:, None], 0.0)
        gap = np.where(ok > 0, 1 / ok - 1 / total_ok[:, None], 0.0)  # variance of the residual, per `of_request`
    weight = np.divide(1.0, gap, out=np.zeros_like(gap), where=gap > 0)
    total = weight.sum(axis=0)
    series = np.divide((residual * weight).sum(axis=0), total, out=np.zeros_like(total), where=total > 0)
    level = (series * total).sum(axis=1) / np.maximum(total.sum(axis=1), 1e-9)
    df = instances - 1
    of_level = (PRIOR_DF * assumed_sd**2 + (level**2).sum()) / (PRIOR_DF + df)
    used = gap > 0
    squares, gaps = ((residual - level[None, :, None])[used]) ** 2, gap[used]
    few = gaps >= np.median(gaps) if gaps.size else np.zeros(0, dtype=bool)
    of_request = max(float(squares[few].sum() / gaps[few].sum()) if few.any() else 0.4, LEAST_VARIANCE)
    centred = series - level[:, None]
    busy = total > 0
    own = (centred**2 * busy).sum() / max(busy.sum() - instances, 1)
    sampled = (of_request / np.where(busy, total, np.inf)).sum() / max(busy.sum(), 1)
    of_drift = max(float(own - sampled), DRIFT_SD**2)
    long_run = max(LEAST_LONG_RUN, 2 * DRIFT_S / slot_s)
    for window in WINDOWS:
        windows = centred.shape[1] // window
        if windows >= FEWEST_WINDOWS:
            means_of_windows = centred[:, : windows * window].reshape(instances, windows, window).mean(axis=2)
            drifted = float(means_of_windows.var()) - float(sampled) / window
            long_run = max(long_run, BEYOND_WINDOW * window * drifted / of_drift)
    return TimeSpread(
        of_request=of_request,
        of_drift=of_drift,
        of_level=float(of_level),
        level_df=PRIOR_DF + df,
        long_run=min(long_run, MOST_LONG_RUN),
    )
