"""Why a query finds nothing: whether it could have found something, and which labels exist instead.

A failure that never happened has no series, and neither has a label that has another name. Only the first is 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from evaluator.records import Answer, metric_name
from evaluator.sources.prometheus.queries import matchers_of

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
    own: Sequence[Labels],
    look_back: Callable[[], Sequence[Labels]] = lambda: (),
    of_others: Callable[[], Sequence[Labels]] = lambda: (),
) -> str:
    """Explain why a query can match nothing on an arm, whatever happens there; empty where it can, or is not known.

    `own`: the series of its metric on the arm. `look_back`: series that match it on any arm, over a longer time.
    `of_others`: the series of its metric on the other arms, over that time. A value that they never had may be this
    arm's name for the value in the query.
    """
    name = metric_name(query)
    if not own or not name:
        return ""
    names = sorted({label for labels in own for label in labels} - {"__name__", "le"})
    for matcher in matchers_of(query):
        if matcher.label not in names:
            return f"no series of {name} on {arm} has the label {matcher.label}; they have {', '.join(names)}"
    for matcher in matchers_of(query):
        label = matcher.label
        values = {labels[label] for labels in own if label in labels}
        vocabularies = [vocabulary for vocabulary in _VOCABULARIES if values and values <= vocabulary]
        if any(matcher.fits(value) for value in values.union(*vocabularies)):
            continue
        shown = list_some(sorted(values))
        if not look_back():
            return f"no series of {name} ever had {matcher.text}; on {arm} its {label} is {shown}"
        unseen = values - {labels[label] for labels in of_others() if label in labels}
        if unseen:
            return (
                f"no series of {name} on {arm} has {matcher.text}; its {label} is {shown}, and "
                f"{list_some(sorted(unseen))} was never seen on another arm: it may be its name for {matcher.value}"
            )
    return ""


def find_form(answer: Answer, labels: Callable[[], Sequence[Labels]]) -> str:
    """Find the form of an answer to a histogram's query; empty where it has no series. `labels`: of its bare name."""
    if not answer.series:
        return ""
    if any("vmrange" in series.labels for series in answer.series):
        return "VictoriaMetrics' buckets (vmrange)"
    if len(answer.sent) > len(("bucket", "sum", "count")):
        return "native"
    if any(series.part == "bucket" for series in answer.series):
        return "classic"
    return "a summary (quantile)" if any("quantile" in names for names in labels()) else "a sum without buckets"


def explain_labels(name: str, query: str, series: Sequence[Labels]) -> str:
    """Describe the labels that a metric has: those that the query names, or all."""
    if not series:
        return f"there is no metric {name} in that window: is it scraped, and is this its full name?"
    by_label: dict[str, set[str]] = {}
    for labels in series:
        for label, value in labels.items():
            by_label.setdefault(label, set()).add(value)
    by_label.pop("__name__", None)
    requested = [label for label in sorted(by_label) if re.search(rf"\b{label}\s*[=!]", query)] or sorted(by_label)
    shown = "; ".join(f"{label} is {list_some(sorted(by_label[label]))}" for label in requested)
    return f"{name} exists, but with other labels: {shown}"


def list_some(names: Sequence[str]) -> str:
    """The first eight names, and how many more there are."""
    shown = ", ".join(names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
