"""Users for every arm of a run, made from the user classes of one locustfile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from locust.dispatch import UsersDispatcher, _kl_generator
from locust.env import Environment
from locust.shape import LoadTestShape
from locust.user.users import User

from evaluator.records import Arm
from evaluator.sources.arms import Lanes, interleave
from evaluator.sources.recording import Recording


def use_arms(environment: Environment, recording: Recording) -> None:
    """Replace the user classes by their copies for each arm, spawned in equal numbers."""
    if not recording.arms:
        return
    originals = list(environment.user_classes)
    lanes = make_arm_users(originals, recording.arms, recording.release)
    environment.user_classes = [copy for arms in lanes.values() for copies in arms for copy in copies]
    environment.host = None  # it would override the hosts of the copies
    names = {name: tuple(tuple(copy.__name__ for copy in copies) for copies in arms) for name, arms in lanes.items()}
    environment.dispatcher_class = type("Dispatcher", (PairedDispatcher,), {"lanes": names, "originals": originals})
    if environment.shape_class is not None:
        _shape_all_arms(environment.shape_class, lanes, len(recording.arms))


def make_arm_users(
    user_classes: Sequence[type[User]], arms: Sequence[Arm], release: str
) -> dict[str, tuple[tuple[type[User], ...], ...]]:
    """Make a copy of each user class for each instance of each arm: its host set, its context tagged."""
    return {
        cls.__name__: tuple(tuple(_copy_user(cls, arm, url, release) for url in arm.urls) for arm in arms)
        for cls in user_classes
    }


def _copy_user(cls: type[User], arm: Arm, url: str, release: str) -> type[User]:
    tags = {"arm": arm.name, "release": release}
    if len(arm.urls) > 1:
        tags["instance"] = urlsplit(url).netloc
    plain = cls.context is User.context

    def context(self: User) -> dict[str, Any]:
        return tags if plain else {**cls.context(self), **tags}

    name = f"{cls.__name__}_{arm.name}_{arm.urls.index(url)}"
    attributes = {"host": url, "context": context, "evaluator_arm": arm.name, "__module__": cls.__module__}
    metaclass: Any = type(cls)
    copy: type[User] = metaclass(name, (cls,), attributes)
    return copy


def _shape_all_arms(shape: LoadTestShape, lanes: Mapping[str, Any], arms: int) -> None:
    """Make the users of a shape count per arm, as `--users` does."""
    if shape.use_common_options:
        return
    tick: Callable[[], Any] = shape.tick

    def tick_all() -> Any:
        target = tick()
        if target is None:
            return None
        users, rate, *classes = target
        copies = [copy for cls in (classes or [None])[0] or () for lane in lanes[cls.__name__] for copy in lane]
        return (users * arms, rate * arms, copies) if copies else (users * arms, rate * arms)

    shape.tick = tick_all  # type: ignore[method-assign]


class PairedDispatcher(UsersDispatcher):
    """Spawns one user for each arm at a time, so that the arms carry the same load at every moment."""

    lanes: ClassVar[Lanes]
    originals: ClassVar[Sequence[type[User]]]

    def new_dispatch(
        self, target_user_count: int, spawn_rate: float, user_classes: list[type[User]] | None = None
    ) -> None:
        """Start a cycle whose steps are whole blocks."""
        super().new_dispatch(target_user_count, spawn_rate, user_classes)
        arms = len(next(iter(self.lanes.values())))
        step = max(self._user_count_per_dispatch_iteration // arms, 1) * arms
        self._user_count_per_dispatch_iteration = step
        self._wait_between_dispatch = step / spawn_rate

    def _user_gen(self) -> Iterator[str | None]:
        return interleave(self._original_gen(), self.lanes, len(self._worker_nodes))

    def _original_gen(self) -> Iterator[str | None]:
        requested = {cls.__name__ for cls in self._user_classes}
        classes = [cls for cls in self.originals if requested & {n for lane in self.lanes[cls.__name__] for n in lane}]
        weighted = _kl_generator((cls.__name__, cls.weight) for cls in classes if not cls.fixed_count)
        while True:
            if self._try_dispatch_fixed:
                self._try_dispatch_fixed = False
                missing = {}
                for cls in classes:
                    if cls.fixed_count:  # users on the first arm; the others have as many
                        running = sum(map(self._get_user_current_count, self.lanes[cls.__name__][0]))
                        missing[cls.__name__] = cls.fixed_count - running
                yield from (name for name, count in missing.items() for _ in range(count))
            else:
                yield next(weighted)
