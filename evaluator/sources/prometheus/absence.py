"""Why a query finds nothing: whether it could have found something, and which labels exist instead.

A failure that never happened has no series, and neither has a label that has another name. Only the first is 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from evaluator.records import Answer, metric_name
from evaluator.sources.prometheus.queries import list_matchers

Labels = Mapping[str, str]

_GRPC = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
    "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented",
    "Internal", "Unavailable", "DataLoss", "Unauthenticated",
)  # fmt: skip
_VOCABULARIES: tuple[frozenset[str], ...] = (
    frozenset(str(code) for code in range(100, 600)),
    frozenset(f"{code}xx" for code in range(1, 6)),
    frozenset(_GRPC),
    frozenset(str(code) for code in range(len(_GRPC))),
)
"""Values that belong together: where one of them was seen, another may appear."""


def find_impossible(
    query: str,
    arm: str,
    arm_series: Sequence[Labels],
    list_matches_anywhere: Callable[[], Sequence[Labels]] = lambda: (),
    list_series_of_others: Callable[[], Sequence[Labels]] = lambda: (),
) -> str:
    """Explain why a query can match nothing on an arm, whatever happens there; empty if it can, or may be able to.

    `arm_series`: labels of the series that the query's metric has on the arm. Two lists are fetched only if they are
    needed, and cover a longer time: `list_matches_anywhere`, the series on any arm that match the query, and
    `list_series_of_others`, the series of its metric on the other arms.
    """
    metric = metric_name(query)
    if not arm_series or not metric:
        return ""
    label_names = sorted({label for labels in arm_series for label in labels} - {"__name__", "le"})
    for matcher in list_matchers(query):
        if matcher.label not in label_names:
            return f"no series of {metric} on {arm} has the label {matcher.label}; they have {', '.join(label_names)}"
    for matcher in list_matchers(query):
        label = matcher.label
        values = {labels[label] for labels in arm_series if label in labels}  # that the label has on the arm
        # A vocabulary is a set of values that belong together, such as the status codes of HTTP. Where some of them
        # were seen, any other may appear.
        vocabularies = [vocabulary for vocabulary in _VOCABULARIES if values and values <= vocabulary]
        if any(matcher.fits(value) for value in values.union(*vocabularies)):
            continue  # this condition can be met
        shown = join_some(sorted(values))
        if not list_matches_anywhere():
            return f"no series of {metric} ever had {matcher.text}; on {arm} its {label} is {shown}"
        # Another arm had the value of the query. A value that none of them ever had may be this arm's name for it;
        # without such a value, that of the query may still appear on this arm.
        unseen = values - {labels[label] for labels in list_series_of_others() if label in labels}
        if unseen:
            return (
                f"no series of {metric} on {arm} has {matcher.text}; its {label} is {shown}, and "
                f"{join_some(sorted(unseen))} was never seen on another arm: it may be its name for {matcher.value}"
            )
    return ""


_CLASSIC_QUERIES = 3
"""Queries for a classic histogram: its buckets, its sum and its count."""


def find_form(answer: Answer, list_series_by_name: Callable[[], Sequence[Labels]]) -> str:
    """Find the form of the histogram in an answer (native, classic, …); empty if the answer has no series.

    `list_series_by_name`: fetches the labels of the series that have the query's own name, without `_bucket`, `_sum` or
    `_count`.
    """
    if not answer.series:
        return ""
    if any("vmrange" in series.labels for series in answer.series):
        return "VictoriaMetrics' buckets (vmrange)"
    if len(answer.sent) > _CLASSIC_QUERIES:  # a further query was sent, which asks for a native histogram
        return "native"
    if any(series.part == "bucket" for series in answer.series):
        return "classic"
    if any("quantile" in labels for labels in list_series_by_name()):
        return "a summary (quantile)"
    return "a sum without buckets"


def explain_labels(metric: str, query: str, series: Sequence[Labels]) -> str:
    """Explain why a query found nothing: which values its labels have in `series`, those of its metric.

    If the query names none of these labels, all labels are listed.
    """
    if not series:
        return f"there is no metric {metric} in that window: is it scraped, and is this its full name?"
    values_by_label: dict[str, set[str]] = {}
    for labels in series:
        for label, value in labels.items():
            values_by_label.setdefault(label, set()).add(value)
    values_by_label.pop("__name__", None)
    labels_of_query = [label for label in sorted(values_by_label) if re.search(rf"\b{label}\s*[=!]", query)]
    shown = "; ".join(
        f"{label} is {join_some(sorted(values_by_label[label]))}"
        for label in labels_of_query or sorted(values_by_label)
    )
    return f"{metric} exists, but with other labels: {shown}"


def join_some(names: Sequence[str]) -> str:
    """The first eight names, and how many more there are."""
    shown = ", ".join(names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
