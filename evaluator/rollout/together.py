"""All services of a step together: harm that none of them shows alone (method B.9)."""

from __future__ import annotations

from collections.abc import Mapping

from evaluator.health.per_instance_load import find_differing
from evaluator.pipeline.assessing import Judged
from evaluator.records import EvidenceKind
from evaluator.stats.estimators.services import JointChange, ServicePanel, compare_services, explain_missing
from evaluator.wording import format_number

MOST_NAMED = 3
"""Services that are named in a NO-GO, those with the largest change first."""


def judge_together(services: Mapping[str, Judged | None], margin: float) -> tuple[str, bool]:
    """Say how the geometric means of all services have changed together, and whether that is shown to be harm.

    `services`: what was judged of each; None: nothing could be. If one of them cannot be compared, the question is not
    answered, which is no harm; what that service lacks is said by its own verdict.
    """
    panels: dict[str, ServicePanel] = {}
    level = 0.0
    for name, judged in services.items():
        part = _find_panel(judged)
        why = part if isinstance(part, str) else explain_missing(name, part)
        if why is not None:
            return f"the services are not judged together: {why}", False
        if judged is not None and isinstance(part, ServicePanel):
            panels[name], level = part, judged.rulebook.no_go_level
    change = compare_services(panels, alpha=level, margin=margin)
    is_harm = change.p_worse < level
    return _describe(change, margin, is_harm=is_harm), is_harm


def _find_panel(judged: Judged | None) -> ServicePanel | str | None:
    """Find the requests of a service; a sentence if its times decide nothing; None: it has none to compare."""
    requests = judged.requests if judged is not None else None
    if judged is None or requests is None:
        return None
    if requests.kind is not EvidenceKind.LIVE:
        return "a load runs as well, and only requests of users are judged together"
    candidates = requests.cells.arms[1:]
    if len(candidates) != 1 or candidates[0] not in requests.panels:
        return None
    arm = candidates[0]
    if arm in find_differing(requests):
        return "instances of baseline and candidate get different loads, so response times decide nothing"
    return ServicePanel(requests.panels[arm], requests.designs[arm], judged.rulebook.prior.sd_latency)


def _describe(change: JointChange, margin: float, *, is_harm: bool) -> str:
    """Describe the change of all services together."""
    interval = f"{_write_change(change.lower)} … {_write_change(change.upper)}"
    text = (
        f"all {len(change.by_service)} services together: geometric means {_write_change(change.effect)} % ({interval})"
    )
    allowed = f"{format_number(100 * margin)} %"
    if not is_harm:
        return f"{text}; up to {allowed} is allowed (joint_margin)"
    largest = sorted(change.by_service, key=change.by_service.__getitem__, reverse=True)[:MOST_NAMED]
    named = ", ".join(f"{name} {_write_change(change.by_service[name])} %" for name in largest)
    return f"{text}, more than the {allowed} allowed (joint_margin); most: {named}"


def _write_change(change: float) -> str:
    """Write a relative change in percent, with its sign, to a hundredth of a percent."""
    return format_number(round(100 * change, 2), sign=True)
