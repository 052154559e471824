"""What strategies share: the steps of one stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evaluator.policy.rollout import ActSection, RolloutSection, StageSection
from evaluator.records.rollouts import Act, Observe, Step, StepNeeds

SHIFT_RETRY_S = 30.0
"""How long a shift is tried again that changed nothing: a router finds by its own checks that new servers can serve."""


def list_acts(section: RolloutSection, stage: str, *, final: bool = False) -> Iterator[Act]:
    """List the acts before a stage, or those of `end` and `always`."""
    for act in section.acts.get(stage, ()):
        yield _to_act(act, stage, final=final)


def _to_act(act: ActSection, stage: str, *, final: bool) -> Act:
    """Make the step of an act of the policy."""
    return Act(
        name=act.name,
        stage=stage,
        hooks=tuple(act.hooks),
        arm=act.arm or "",
        retry_for_s=act.retry_for,
        agree=act.agree,
        final=final,
        irreversible=act.irreversible,
        verify=tuple(act.verify),
        keeps_baseline=act.keeps_baseline,
    )


def list_without_traffic(section: RolloutSection, services: Sequence[str]) -> Iterator[Step]:
    """List the steps of the stages in which no user meets the candidate, with all services at once."""
    for stage in section.stages:
        if not stage.has_users:
            yield from list_acts(section, stage.name)
            yield observe(stage, services)


def list_with_traffic(section: RolloutSection, services: Sequence[str]) -> Iterator[Step]:
    """List the steps of the stages in which users meet the candidates of some services."""
    for stage in section.stages:
        if stage.user_share is not None:
            yield from list_acts(section, stage.name)
            yield shift(stage, services)
            yield observe(stage, services)


def shift(stage: StageSection, services: Sequence[str]) -> Act:
    """Make the act that gives the candidate, or each of several, its share of a stage."""
    share = stage.user_share or 0.0
    arms = ", ".join(f"{arm} {100 * part:g} %" for arm, part in stage.shares.items())
    return Act(
        name=f"{', '.join(services)} to {arms or f'{100 * share:g} %'}",
        stage=stage.name,
        services=tuple(services),
        share=share,
        arm_shares=dict(stage.shares),
        retry_for_s=SHIFT_RETRY_S,
        agree=stage.agree,
    )


def list_by_group(section: RolloutSection, groups: Sequence[Sequence[str]]) -> tuple[Step, ...]:
    """List all steps: stages without traffic with all services at once, then each group's stages with traffic."""
    services = [service for group in groups for service in group]
    with_traffic = [step for group in groups for step in list_with_traffic(section, group)]
    return (*list_without_traffic(section, services), *with_traffic, *list_last(section))


def list_last(section: RolloutSection) -> Iterator[Act]:
    """List the acts after the last stage: those of a promotion, then those that are executed whatever happened."""
    yield from list_acts(section, "end")
    yield from list_acts(section, "always", final=True)


def observe(stage: StageSection, services: Sequence[str], share: float = 0.0) -> Observe:
    """Make the observation of a stage. `share`: of the traffic, where the stage does not name one."""
    bake_s = stage.bake
    if bake_s is None:
        bake_s = stage.load.run_time * stage.load.replicates if stage.load else 0.0
    return Observe(
        name=stage.name,
        stage=stage.name,
        environment=stage.environment,
        services=tuple(services),
        needs=StepNeeds(stage.needs),
        bake_s=bake_s,
        deadline_s=bake_s if stage.deadline is None else max(stage.deadline, bake_s),
        share=share if stage.user_share is None else stage.user_share,
        arm_shares=dict(stage.shares),
        least=stage.least,
        load=stage.load.model_dump(mode="json") if stage.load else None,
    )
