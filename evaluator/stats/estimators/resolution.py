"""How far the steps of the recorded times may have moved a comparison (method B.2, steps of recorded times).

A time that is recorded in steps of h may be up to h/2 away from its number. If times spread over several steps, this
averages out: with a standard deviation of h/2 the mean of a normal distribution moves by at most 0.3 % of h (Widrow,
Kollár and Liu 1996). If all times are on one step, it does not: all of them may be at the edge of the step. In between,
on two steps with shares P and 1 - P, the true mean or median is between the recorded one and the border of both steps.

If the store keeps runs in different units, times between the steps of the coarser runs hide how many of these are on a
step. Rounding moves each time, so also a mean or a quantile, by at most half a step, which is then the doubt of an arm.
"""

from __future__ import annotations

import numpy as np

from evaluator.records import find_bin_edges
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.estimators.distribution import Distribution
from evaluator.stats.shaping.bins import bin_limits_ms
from evaluator.stats.shaping.groups import Groups
from evaluator.stats.shaping.panel import Panel

LONE_SHARE = 0.25
"""A step with a smaller share of the requests is one of many, and rounding averages out."""
FINE_SHARE = 0.002
"""A step below this share of the mean does not matter."""
LEAST_PART = 0.05
"""Part of a step to which a time that is recorded as 0 or 1 step may go down: 50 ns if times are whole microseconds."""
FEW_STEPS = 10
"""Logarithms of times above this many steps are not in doubt: half a step is at most 5 % of each."""


def step_of_arms_ms(panel: Panel) -> FloatArray:
    """Return the step (ms) in which the times of baseline and candidate were recorded, shape (2,).

    Endpoints have their own steps. An arm's step is the coarsest such that at least a quarter of the arm's successes
    are of endpoints with this step or a coarser step.
    """
    successes = panel.ok.sum(axis=2)  # shape (2, endpoints)
    arm_steps_ms = np.empty(2)
    for arm in (0, 1):
        coarsest_first = np.argsort(-panel.steps_ms[arm], kind="stable")
        quarter = LONE_SHARE * max(float(successes[arm].sum()), 1.0)
        is_enough = np.cumsum(successes[arm][coarsest_first]) >= quarter
        first_enough = int(np.argmax(is_enough))  # the first true element; 0 without successes
        arm_steps_ms[arm] = panel.steps_ms[arm][coarsest_first[first_enough]]
    return arm_steps_ms


def steps_of(panel: Panel, endpoint: str | None = None) -> tuple[float, float]:
    """Return the step (ms) of the times of baseline and candidate, of one endpoint or (`None`) of all requests."""
    if endpoint in panel.endpoints:
        steps_ms = panel.steps_ms[:, panel.endpoints.index(endpoint)]
    else:
        steps_ms = step_of_arms_ms(panel)
    return float(steps_ms[0]), float(steps_ms[1])


def find_doubt_ms(panel: Panel, groups: Groups) -> FloatArray:
    """Find how much (ms) rounding may have moved the difference of mean times of each group, shape (groups,).

    Times are recorded as multiples of a step (for example whole milliseconds). For each arm the doubt is half a step
    for requests on a single step, and nothing for requests on several steps. If the arms have different steps, half of
    the larger one is added, because a tool may round or cut off. A step that is small against the mean does not matter.
    If the store keeps runs in different units, the doubt is at least the coarser unit, half of it for each arm.
    """
    steps_ms, successes = panel.steps_ms, panel.ok.sum(axis=2)  # both of shape (2, endpoints)
    larger_step = steps_ms.max(axis=0)
    mean_ms = panel.totals["time_ms"].sum(axis=(0, 2)) / np.maximum(successes.sum(axis=0), 1)
    is_coarse = (larger_step > FINE_SHARE * mean_ms) & (successes > 0).all(axis=0)
    if not is_coarse.any():
        return np.zeros(groups.count)
    from_unequal_steps = np.where(steps_ms[0] != steps_ms[1], larger_step / 2, 0.0)
    hidden_ms = np.maximum(_find_hidden_ms(panel, is_coarse).sum(axis=0), panel.mixed_unit_ms)
    return _average(panel, groups, np.where(is_coarse, hidden_ms + from_unequal_steps, 0.0))


def _average(panel: Panel, groups: Groups, doubt: FloatArray) -> FloatArray:
    """Average a doubt of each endpoint, shape (endpoints,), over the endpoints of each group, shape (groups,)."""
    successes = panel.ok.sum(axis=2)  # shape (2, endpoints)
    # Endpoints have the weights of the comparison of means.
    weight = successes[0] * successes[1] / np.maximum(successes[0] + successes[1], 1)
    total = groups.sum_totals(weight)
    return np.divide(groups.sum_totals(weight * doubt), total, out=np.zeros(groups.count), where=total > 0)


def find_log_doubt(panel: Panel, groups: Groups) -> FloatArray:
    """Find how far rounding may have moved the difference of mean logarithms of times of each group, shape (groups,).

    A mean of logarithms depends on short times as much as on long ones: of an endpoint that answers half of its
    requests from a cache in less than a step, the step may be small against the mean time, but not against these.

    For each arm and endpoint, a request on step k of at most `FEW_STEPS` may be off by half a step: by
    ln(k / (k - 1/2)); on the steps 0 and 1, which a histogram of whole units does not distinguish, by half of the range
    of logarithms from `LEAST_PART` to 1.5 steps. How much of this is hidden depends on the next step, as for means
    (`_find_hidden_part`): of times that spread over several steps, nothing. All of it counts if the store keeps runs in
    different units.
    """
    share = _find_shares_of_few_steps(panel)
    hidden = np.ones_like(share)
    if not panel.mixed_unit_ms:
        with_neighbours = share.copy()
        with_neighbours[..., 1:] += share[..., :-1]
        with_neighbours[..., :-1] += share[..., 1:]
        hidden = 2 * _find_hidden_part(share / np.maximum(with_neighbours, 1e-300))  # 1: all is hidden
        hidden[..., 1:] *= share[..., 1:] >= LONE_SHARE
    # By how much the logarithm of a time may be off: on step 0 or 1, on step 2, …
    steps = np.arange(2, FEW_STEPS + 1)
    off = np.append(np.log(1.5 / LEAST_PART) / 2, np.log(steps / (steps - 0.5)))
    doubt = (share * hidden)[..., :FEW_STEPS] @ off  # shape (2, endpoints)
    has_both = (panel.ok.sum(axis=2) > 0).all(axis=0)
    return _average(panel, groups, np.where(has_both, doubt.sum(axis=0), 0.0))


def _find_shares_of_few_steps(panel: Panel) -> FloatArray:
    """Return the share of the successes of each arm and endpoint on step 0 or 1, on step 2, …, `FEW_STEPS` + 1.

    The shape is (2, endpoints, `FEW_STEPS` + 1). Times between steps count to the nearest.
    """
    bins, owners = panel.bins, panel.steps_ms.size
    shape = (*panel.steps_ms.shape, FEW_STEPS + 1)
    longest_ms = (FEW_STEPS + 1.5) * float(panel.steps_ms.max(initial=0))
    # The limits of bins in ms; the first rows of the histogram are those of the shortest times.
    edges_ms = find_bin_edges(0, bins.last) / panel.units_per_ms
    short_bins = min(int(np.searchsorted(edges_ms[:-1], longest_ms)), bins.sizes.size)
    rows = slice(0, int(bins.sizes[:short_bins].sum()))
    owner, slot = np.divmod(bins.cell[rows], panel.stride)
    bin_of_row = np.repeat(np.arange(short_bins), bins.sizes[:short_bins])
    middle_ms = np.sqrt(edges_ms[:-1] * edges_ms[1:])[bin_of_row]
    step = np.maximum(np.rint(middle_ms / panel.steps_ms.ravel()[owner]).astype(np.int64), 1) - 1
    kept = np.flatnonzero((slot < panel.slots) & (step <= FEW_STEPS))
    key = owner[kept] * (FEW_STEPS + 1) + step[kept]
    counts = np.bincount(key, weights=bins.n[rows][kept], minlength=owners * (FEW_STEPS + 1)).reshape(shape)
    return np.asarray(counts / np.maximum(panel.ok.sum(axis=2), 1)[..., None])


def log_doubt(doubt: FloatArray, level: FloatArray) -> FloatArray:
    """Convert a doubt in the unit of the level to a difference of logarithms; all arrays have shape (groups,)."""
    return np.asarray(np.log1p(np.divide(doubt, level, out=np.zeros_like(doubt), where=level > 0)))


def _find_hidden_ms(panel: Panel, is_coarse: BoolArray) -> FloatArray:
    """Find how far (ms) the mean time of each arm and endpoint may be off because requests are on single steps.

    Times are recorded as multiples of a step. Only a multiple with at least the share `LONE_SHARE` of an endpoint's
    requests hides something; how much depends on the requests on its two neighbours. Endpoints for which `is_coarse`
    (endpoints,) is false get 0. Returns shape (2, endpoints).
    """
    bins = panel.bins
    # Of each row of the histogram: its owner (arm × endpoint, as one number), its slot, and its bin.
    owner, slot = np.divmod(bins.cell, panel.stride)
    bin_of_row = np.repeat(np.arange(bins.sizes.size), bins.sizes)
    hidden_ms = np.zeros(panel.steps_ms.size)  # of each owner
    # Owners with the same width of steps are handled together.
    for step_ms in np.unique(panel.steps_ms[:, is_coarse]):
        has_step = ((panel.steps_ms == step_ms) & is_coarse).ravel()
        rows = np.flatnonzero(has_step[owner] & (slot < panel.slots))
        # Bins are logarithmic, their limits moved so that bins without a multiple of the step have no width. The bins
        # with a multiple are numbered: adjacent ones differ by 1.
        step_of_bin = np.cumsum(np.diff(bin_limits_ms(bins.last, step_ms, panel.units_per_ms)) > 0)
        # One more than there are steps, so that the last step of an owner does not adjoin the first of the next.
        steps = int(step_of_bin[-1]) + 2
        # Requests of each owner on each step: an element for each `key`, in the order of owners and steps.
        key, key_of_row = np.unique(owner[rows] * steps + step_of_bin[bin_of_row[rows]], return_inverse=True)
        count: FloatArray = np.bincount(key_of_row, weights=bins.n[rows], minlength=key.size).astype(float)
        key_owner = key // steps
        owner_count = np.bincount(key_owner, weights=count, minlength=hidden_ms.size)
        share_of_owner = count / np.maximum(owner_count, 1)[key_owner]
        count_with_neighbours = count.copy()
        has_next = np.flatnonzero(np.diff(key) == 1)  # keys whose next step has requests too
        count_with_neighbours[has_next] += count[has_next + 1]
        count_with_neighbours[has_next + 1] += count[has_next]
        share_of_neighbours = count / np.maximum(count_with_neighbours, 1)
        hidden_part = np.where(
            share_of_owner >= LONE_SHARE, share_of_owner * _find_hidden_part(share_of_neighbours), 0.0
        )
        hidden_ms += np.bincount(key_owner, weights=hidden_part, minlength=hidden_ms.size) * step_ms
    return hidden_ms.reshape(panel.steps_ms.shape)


def _find_hidden_part(share: FloatArray) -> FloatArray:
    """Return the part of a step (0 to 1/2) by which rounding to it may hide a change.

    `share`: requests on the step, divided by those on the step and both its neighbours. If all are on it, half a step
    is hidden; if at most half of them are, nothing.
    """
    return np.asarray(np.maximum(1 - 0.5 / np.maximum(share, 1e-300), 0.0))


def find_quantile_doubt_ms(curve: Distribution, quantile_ms: float, step_ms: float) -> float:
    """Find how much (ms) the quantile of one arm may be off, because many requests are on the same step.

    Times within one bin of the histogram cannot be distinguished, so a step is at least as wide as its bin. `curve` is
    the distribution of the arm's times, `quantile_ms` its quantile, `step_ms` the step of its recorded times.
    """
    limits = curve.limits
    if not np.isfinite(quantile_ms) or quantile_ms >= limits[-1]:
        return 0.0
    next_limit = int(np.searchsorted(limits, quantile_ms, side="right"))
    start, width = float(limits[next_limit - 1]), float(limits[next_limit] - limits[next_limit - 1])
    if step_ms > width:
        # A recorded time, a multiple of the step, stands for the interval of half a step on each side of it.
        nearest_multiple = np.floor(quantile_ms / step_ms + 0.5)
        start, width = float((nearest_multiple - 0.5) * step_ms), step_ms
    # Shares of requests on the step before, on the step with the quantile, and on the step after. If few are on the
    # step itself, it is one of many, and rounding averages out.
    before, on_step, after = np.diff(curve.at(start + width * np.arange(-1.0, 3.0))).tolist()
    if on_step < LONE_SHARE * float(curve.cumulative[-1]):
        return 0.0
    return width * float(_find_hidden_part(np.array(on_step / (before + on_step + after))))
