"""Rolling: each batch of instances is drained, replaced and undrained, and compared with those not yet replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from evaluator.policy.rollout import REST, RolloutSection, StageSection
from evaluator.records import BASELINE, CANDIDATE
from evaluator.records.rollouts import Act, InstanceWork, Step
from evaluator.rollout.strategies.stages import SHIFT_RETRY_S, list_acts, list_last, list_without_traffic, observe


def list_steps(section: RolloutSection, groups: Sequence[Sequence[str]]) -> tuple[Step, ...]:
    """List the steps: stages without users, then the batches of each service, one service after the other."""
    services = [service for group in groups for service in group]
    batches = [step for service in services for step in _list_batches(section, service)]
    # No act can take down servers of the baseline where there are none: going back restores the instances.
    last = (replace(act, keeps_baseline=True) for act in list_last(section))
    return (*list_without_traffic(section, services), *batches, *last)


def split_batches(section: RolloutSection, instances: Sequence[str]) -> list[tuple[StageSection, tuple[str, ...]]]:
    """Split the instances of a service into the batches of the stages; one for which nothing is left is empty.

    A share of them is rounded down, but a batch has one instance at least.
    """
    batches: list[tuple[StageSection, tuple[str, ...]]] = []
    left = list(instances)
    for stage in section.stages:
        if stage.replace is None:
            continue
        size = len(left)
        if stage.replace.endswith("%"):
            size = max(int(len(instances) * float(stage.replace[:-1]) / 100), 1)
        elif stage.replace != REST:
            size = int(stage.replace)
        batches.append((stage, tuple(left[:size])))
        left = left[size:]
    return batches


def list_instances(section: RolloutSection, service: str) -> tuple[str, ...]:
    """List the instances of a service, as the options of its router name them; empty: they name none."""
    entry = section.router.get(service)
    names = entry.options.get("instances") if entry is not None else None
    return tuple(str(name) for name in names) if isinstance(names, list | tuple) else ()


def _list_batches(section: RolloutSection, service: str) -> Iterator[Step]:
    """List the steps of the batches of a service."""
    instances = list_instances(section, service)
    how = section.instances
    if how is None:
        raise ValueError("a rolling rollout has a section `instances`")
    new: tuple[str, ...] = ()
    for stage, batch in split_batches(section, instances):
        old = tuple(name for name in instances if name not in (*new, *batch))
        names, of_service = ", ".join(batch), (service,)
        yield from list_acts(section, stage.name)
        yield Act(
            name=f"drain {names} of {service}",
            stage=stage.name,
            services=of_service,
            share=len(new) / max(len(old) + len(new), 1),
            retry_for_s=SHIFT_RETRY_S,
            agree=stage.agree,
            work=InstanceWork.DRAIN,
            instances=batch,
            arms={BASELINE: old, CANDIDATE: new},
        )
        yield Act(
            name=f"replace {names} of {service}",
            stage=stage.name,
            hooks=tuple(how.replace),
            services=of_service,
            work=InstanceWork.REPLACE,
            instances=batch,
        )
        if how.health:
            yield Act(
                name=f"health of {names} of {service}",
                stage=stage.name,
                hooks=tuple(how.health),
                services=of_service,
                retry_for_s=how.healthy_within,
                work=InstanceWork.HEALTH,
                instances=batch,
            )
        new = (*new, *batch)
        share = len(new) / len(instances)
        yield Act(
            name=f"undrain {names} of {service}",
            stage=stage.name,
            services=of_service,
            share=share,
            retry_for_s=max(SHIFT_RETRY_S, how.healthy_within),
            work=InstanceWork.UNDRAIN,
            instances=batch,
            arms={BASELINE: old, CANDIDATE: new},
        )
        yield observe(stage, of_service, share)
