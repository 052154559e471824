"""Cases of `evaluator.stats.inference` and `evaluator.stats.variance`: functions of plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evaluator.records import InstanceSpread, Monitoring
from evaluator.stats.estimators.estimate import (
    Answers,
    GroupAnswers,
    Tolerance,
    build_untested,
    compute_answers,
    compute_loadings,
    decide_nothing,
    find_trend,
)
from evaluator.stats.inference.assignment import log_wealth_of_excess, log_wealth_of_ratio
from evaluator.stats.inference.calendar import plan_looks
from evaluator.stats.inference.score import (
    difference_interval,
    difference_z,
    one_sample_z,
    ratio_interval,
    ratio_z,
    share_variance,
    wilson_interval,
)
from evaluator.stats.inference.sequential import (
    ALPHAS,
    anytime_critical,
    anytime_p,
    anytime_z,
    boundaries,
    boundary_z,
    information,
    sequential_p,
    spent,
    spent_by_first,
)
from evaluator.stats.inference.student import critical_value, t_below, t_quantile
from evaluator.stats.variance.history import InstanceHistory, add_between_arms, convert_history, pool_instances
from evaluator.stats.variance.instances import InstanceVariance, find_replicating
from evaluator.stats.variance.longrun import TimeVariance, cosine_count, cosines, time_scores, time_variance
from evaluator.stats.variance.uncertainty import (
    Uncertainty,
    centre,
    combine,
    replicate_uncertainty,
    time_only,
)

NAN = float("nan")
COUNTS = {
    "none": (0.0, 100.0, 0.0, 90.0),
    "all": (100.0, 100.0, 90.0, 90.0),
    "one arm": (7.0, 100.0, 0.0, 90.0),
    "opposite": (100.0, 100.0, 0.0, 90.0),
    "few": (1.0, 3.0, 2.0, 4.0),
    "not whole": (3.7, 120.5, 2.2, 340.1),
    "many": (1.0e6, 1.0e9, 0.9e6, 0.8e9),
    "unlike": (5.0, 12.0, 300.0, 90_000.0),
}


def _score(counts: tuple[float, ...]) -> Any:
    x_c, n_c, _, _ = counts
    deltas, ratios = np.array([-0.9, -0.01, 0.0, 0.003, 0.2]), np.array([0.01, 0.8, 1.0, 1.25, 40.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "difference_z": difference_z(*counts, deltas),
            "ratio_z": ratio_z(*counts, ratios),
            "difference": [np.stack(difference_interval(*counts, critical)) for critical in (0.3, 1.645, 4.0)],
            "ratio": [np.stack(ratio_interval(*counts, critical)) for critical in (0.3, 1.645, 4.0)],
            "one_sample": one_sample_z(x_c, n_c, np.array([0.0, 0.001, 0.4, 1.0])),
            "variance": share_variance(x_c / n_c, n_c),
            "wilson": [wilson_interval(x_c / n_c, n_c, critical) for critical in (0.5, 1.96)],
        }


def _score_together() -> Any:
    x_c, n_c, x_b, n_b = (np.array(column) for column in zip(*COUNTS.values(), strict=True))
    critical = np.linspace(1, 3, x_c.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "difference": np.stack(difference_interval(x_c, n_c, x_b, n_b, critical)),
            "ratio": np.stack(ratio_interval(x_c, n_c, x_b, n_b, critical)),
            "z": difference_z(x_c, n_c, x_b, n_b, 0.01 * critical),
        }


def _sequential() -> Any:
    p = np.array([1e-310, 1e-12, 1e-4, 0.003, 0.01, 0.02, 0.04, 0.2, 0.6, 1.0, NAN])
    out: dict[str, Any] = {"alphas": ALPHAS}
    for kind in ("linear", "obrien_fleming"):
        for fraction in (0.005, 0.1, 0.49, 0.5, 0.999, 1.0, 1.2):
            for persistent in (0.0, 0.03, 0.5, 0.93, 1.0):
                out[f"{kind} {fraction} {persistent}"] = sequential_p(p, fraction, np.full(p.size, persistent), kind)
        out[f"{kind} z"] = [boundary_z(level, 0.4, 0.2, kind) for level in (1e-9, 1e-3, 0.05, 0.3)]
        out[f"{kind} spent"] = spent(kind, 0.05, np.array([0.01, 0.3, 1.0]))
    out["default"] = sequential_p(p, 0.3, np.linspace(0, 1, p.size)), boundary_z(0.05, 0.3, 0.1)
    for at in (10.0, 600.0, 7200.0):
        out[f"anytime {at}"] = anytime_p(p, np.linspace(0, 1, p.size), at, 600.0)
        out[f"anytime z {at}"] = anytime_z(np.array([1e-6, 0.05, 0.29]), at, 600.0, 0.3)
        out[f"anytime critical {at}"] = anytime_critical(0.05, at, 1800.0)
    out["first"] = [spent_by_first(0.05, runs) for runs in (1, 2, 5)]
    out["information"] = information(np.array([0.1, 0.5, 1.0]), 0.25)
    return out


def _boundaries() -> Any:
    even, uneven = np.arange(1, 6) / 5, np.array([0.05, 0.3, 0.31, 1.0])
    return {
        "linear": boundaries(even, spent("linear", 0.05, even)),
        "late": boundaries(uneven, spent("obrien_fleming", 0.01, uneven)),
        "persistent": boundaries(information(even, 0.3), spent("linear", 0.2, even)),
        "nothing spent": boundaries(even, np.array([0.0, 0.0, 0.01, 0.01, 0.05])),
        "all at once": boundaries(np.array([0.5, 1.0]), np.array([0.9999, 0.99995])),
        "more than all": boundaries(np.array([1.0]), np.array([1.5])),
    }


def _calendar() -> Any:
    out = {}
    for mode in ("auto", "fixed", "group_sequential", "anytime"):
        for burn_in in (None, 90.0) if mode == "auto" else (None,):
            monitoring = Monitoring(mode=mode, max_duration_s=1500.0, burn_in_s=burn_in)
            for bucket_s, covered, planned in (
                (5, 100.0, 299.0),
                (5, 300.0, 300.0),
                (5, 296.0, 300.0),
                (5, 295.0, 300.0),
                (1, 130.0, 600.0),
                (5, 845.0, 900.0),
                (5, 880.0, 900.0),
                (15, 3000.0, 3600.0),
                (15, 3585.0, 3600.0),
                (15, 600.0, 600.0),
                (15, 9000.0, 20_000.0),
                (15, 1200.0, None),
                (15, 1490.0, None),
                (60, 10_000.0, None),
            ):
                name = f"{mode} {burn_in} {bucket_s} {covered} {planned}"
                out[name] = plan_looks(monitoring, bucket_s=bucket_s, covered_s=covered, planned_s=planned)
    return out


def _waves(rows: int, size: int) -> np.ndarray:
    """Series that depend on their past, each with mean 0."""
    steps = np.random.default_rng(size).normal(size=(rows, size))
    for k in range(1, size):
        steps[:, k] += 0.6 * steps[:, k - 1]
    return steps - steps.mean(axis=1, keepdims=True)


def _longrun() -> Any:
    out: dict[str, Any] = {}
    for size in (7, 8, 9, 29, 30, 31, 60, 240):
        out[str(size)] = time_variance(_waves(2, size))
        out[f"{size} scores"] = time_scores(_waves(2, max(size, 8)))
        out[f"{size} count"] = cosine_count(size)
    return out | {"cosines": cosines(30, 7)}


def _instance(variance: Any, within: Any, effective: Any, instances: int = 6) -> InstanceVariance:
    parts = [np.asarray(part, float) for part in (variance, within, effective)]
    return InstanceVariance(*parts, np.zeros((instances, parts[0].shape[1])))


def _uncertainty() -> Any:
    time = TimeVariance(np.array([0.01, 0.0, 0.004, 0.02]), 7.0, np.array([0.006, 0.0, 0.009, 0.001]), 30)
    observed = {
        "both": _instance(
            [[0.02, 0.0, 0.001, 0.3]] * 2, [[0.004, 0.0, 0.01, 0.1]] * 2, [[3.0, 3, 3, 3], [4, 2, 6.1, 1]]
        ),
        "candidate alone": _instance(
            [[0.02, 0, 0.1, 1]] * 1 + [[NAN] * 4], [[0.004] * 4, [NAN] * 4], [[3.0] * 4, [1] * 4]
        ),
        "one a side": _instance([[NAN] * 4] * 2, [[NAN] * 4] * 2, [[1.0] * 4] * 2, 2),
    }
    prior = np.array([[0.0025] * 4, [0.0016] * 4])
    short, long = (
        InstanceHistory(np.full(4, 0.03), count, np.full(4, 0.002), between_arms_count)
        for count, between_arms_count in ((4, 4), (7, 5))
    )
    distance = np.array([0.3, 0.0, -0.05, 1e-13])
    out: dict[str, Any] = {}
    for name, instance in observed.items():
        for by, history in (("", None), (" short history", short), (" history", long)):
            for arms in ((0, 1), (1,)):
                combined = combine(time, instance, prior, arms=arms, history=history)
                out[f"{name}{by} {len(arms)}"] = {
                    "found": combined,
                    "p": combined.p_values(distance),
                    "reach": combined.half_width(0.05),
                    "binding": combined.find_widest(0.05),
                    "se": combined.find_widest(0.01).se,
                }
    out["also"] = time_only(time).also(np.full(4, 0.02), 3.0).also(np.full(4, 0.001))
    values = np.array([[0.1, 0.2, 0.4], [0.1, NAN, 0.3], [NAN, 1.0, NAN], [NAN, NAN, NAN]])
    out["replicates"] = replicate_uncertainty(values, time)
    out["centre"] = centre(values)
    out["unknown"] = Uncertainty(np.full((1, 4), NAN), np.ones((1, 4)), np.zeros(4)).p_values(distance)
    return out


def _history() -> Any:
    variance = np.array([[0.02, NAN, 0.05], [0.03, 0.01, NAN]])
    within, effective = variance / 3, np.array([[3.0, 1.0, 0.5], [5.0, 2.5, 1.0]])
    out: dict[str, Any] = {}
    for count in (0, 4, 5, 9, 10, 11):
        on_file = InstanceHistory(np.array([0.01, 0.02, 0.03]), count, np.array([0.001, 0.0, 0.04]), count)
        out[f"pooled {count}"] = pool_instances(variance, within, effective, on_file)
        out[f"between arms {count}"] = [
            add_between_arms(np.array([0.01, 0.0, 0.2]), np.array([3.0, 7.0, 20.0]), on_file, arms=arms)
            for arms in (1, 2)
        ]
        out[f"weight {count}"] = on_file.weight
    on_file = convert_history(InstanceSpread(0.2, 8, 0.1, 6), np.array([1.0, 3.0]))
    return out | {
        "scaled": on_file,
        "twice": on_file and on_file.times(np.array([2.0, 0.5])),
        "default": add_between_arms(np.array([0.1]), np.array([5.0]), InstanceHistory(np.ones(1), 9, np.ones(1), 9)),
    }


def _answers() -> Any:
    uncertainty = Uncertainty(np.array([[0.01, 0.02], [0.03, 0.001]]), np.array([[4.0, 30.0], [9.0, 1e9]]), np.zeros(2))
    beyond, doubt = np.array([0.2, -0.1]), np.array([0.05, 0.0])
    tolerance = Tolerance(np.array([0.1, 0.3, 0.0]), np.array([0.02, 0.0, 0.5]), 0.4)
    level = np.array([0.1, 2.0, 0.0])
    return {
        "plain": compute_answers(beyond, uncertainty),
        "doubt": compute_answers(beyond, uncertainty, doubt),
        "no doubt": compute_answers(beyond, uncertainty, 0 * doubt),
        "nothing": decide_nothing(compute_answers(beyond, uncertainty), np.array([True, False])),
        "of group": GroupAnswers(beyond, beyond + 1, beyond + 2).of_group(1),
        "answers": [Answers.of(1.3), Answers.of(-0.4, 3.0), Answers.of(NAN)],
        "ratio": tolerance.as_ratio(level),
        "difference": tolerance.as_difference(level),
        "not worse": build_untested(np.array([1.0, 2.0]), np.array([0.9, 1.5]), 2),
        "group": build_untested(np.array([1.0, 2.0]), np.array([0.9, 1.5]), 1).of_group(1),
    }


def _trends() -> Any:
    out: dict[str, Any] = {}
    for slots in (1, 2, 3, 8, 29, 30, 31, 90):
        position = (np.arange(slots) + 0.5) / slots
        influence = _waves(2, slots) + np.array([[0.0], [0.3]]) * (position - 0.5)
        out[f"trend {slots}"] = find_trend(influence, position, np.array([0.1, -0.2]))
    out["no late slot"] = find_trend(_waves(1, 4), np.array([0.1, 0.2, 0.3, 0.6]), np.array([1.0]))
    out["still"] = find_trend(np.zeros((1, 9)), np.linspace(0, 1, 9), np.array([1.0]))
    scores = np.random.default_rng(3).normal(size=(5, 2))
    for slots in (8, 40):
        waves = _waves(2, slots)
        out[f"loadings {slots}"] = compute_loadings(waves, None, np.array([3.0, 0.0]))
        out[f"loadings with instances {slots}"] = compute_loadings(waves, scores, np.array([3.0, 1e-6]))
    return out


def _assignment() -> Any:
    return {
        "ratio": [
            log_wealth_of_ratio(counts, shares)
            for counts, shares in (
                ((500, 500), (0.5, 0.5)),
                ((600, 400), (1, 1)),
                ((0, 0), (0.5, 0.5)),
                ((10, 40, 900), (1, 5, 94)),
            )
        ],
        "excess": [
            log_wealth_of_excess(*case)
            for case in ((0, 0, 0.5), (5, 5, 0.5), (0, 5, 0.5), (30, 40, 0.2), (0, 20_000, 0.9), (3, 9, 0.99))
        ],
    }


def _student() -> Any:
    return {
        "below": t_below(np.array([-2.0, 0.3, NAN, np.inf]), np.array([3.0, np.inf, 4.0, 5.0])),
        "quantile": t_quantile(np.array([0.05, 0.9, 0.99]), np.array([3.0, np.inf, 0.5])),
        "critical": [critical_value(2.1, df) for df in (3.0, 50.0, np.inf)],
        "replicating": find_replicating(np.array([4000.0, 30.0, 29.0, 100.0, 0.0])),
    }


CASES: Mapping[str, Callable[[], Any]] = {
    **{f"score: {name}": lambda counts=counts: _score(counts) for name, counts in COUNTS.items()},
    "score: together": _score_together,
    "sequential": _sequential,
    "boundaries": _boundaries,
    "calendar": _calendar,
    "variation over time": _longrun,
    "uncertainty": _uncertainty,
    "history": _history,
    "answers": _answers,
    "trends and loadings": _trends,
    "assignment": _assignment,
    "student": _student,
}
