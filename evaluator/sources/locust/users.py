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
    """Replace the user classes of Locust by copies for each arm of the recording, spawned in equal numbers."""
    if not recording.arms:
        return
    originals = list(environment.user_classes)
    # Name of an original class → for each arm → for each of its URLs the copy.
    copies = make_arm_users(originals, recording.arms, recording.release)
    environment.user_classes = [
        copy for class_copies in copies.values() for arm_copies in class_copies for copy in arm_copies
    ]
    environment.host = None  # it would override the hosts of the copies
    lanes = {  # the same with names of the copies
        original: tuple(tuple(copy.__name__ for copy in arm_copies) for arm_copies in class_copies)
        for original, class_copies in copies.items()
    }
    environment.dispatcher_class = type("Dispatcher", (PairedDispatcher,), {"lanes": lanes, "originals": originals})
    if environment.shape_class is not None:
        _shape_all_arms(environment.shape_class, copies, len(recording.arms))


def make_arm_users(
    user_classes: Sequence[type[User]], arms: Sequence[Arm], release: str
) -> dict[str, tuple[tuple[type[User], ...], ...]]:
    """Make a copy of each user class for each instance (URL) of each arm: its host set, its context tagged.

    Returns the name of each class → for each arm → for each of its URLs the copy.
    """
    return {
        cls.__name__: tuple(tuple(_copy_user(cls, arm, url, release) for url in arm.urls) for arm in arms)
        for cls in user_classes
    }


def _copy_user(cls: type[User], arm: Arm, url: str, release: str) -> type[User]:
    """Make a subclass of a user class that sends to `url`, and whose requests carry arm, release and instance.

    The address is the instance only where the arm has several; one address may be in front of several instances.
    """
    tags = {"arm": arm.name, "release": release}
    if len(arm.urls) > 1:
        tags["instance"] = urlsplit(url).netloc
    has_no_context = cls.context is User.context

    def context(self: User) -> dict[str, Any]:
        return tags if has_no_context else {**cls.context(self), **tags}

    name = f"{cls.__name__}_{arm.name}_{arm.urls.index(url)}"
    attributes = {"host": url, "context": context, "evaluator_arm": arm.name, "__module__": cls.__module__}
    metaclass: Any = type(cls)  # it sets up a class of users
    copy: type[User] = metaclass(name, (cls,), attributes)
    return copy


def _shape_all_arms(shape: LoadTestShape, copies: Mapping[str, Any], arms: int) -> None:
    """Let the numbers of a load shape be users of one arm, as `--users` is: `arms` times as many are spawned.

    Where the shape restricts the classes of users, their copies take the place of the classes. `copies`: name of a
    class → for each arm → its copies.
    """
    if shape.use_common_options:  # the shape takes its numbers from `--users`, which is multiplied already
        return
    original_tick: Callable[[], Any] = shape.tick

    def tick_all_arms() -> Any:
        """Return what the shape wants now, for all arms together; None once the shape has ended.

        It is a tuple: users, users spawned a second and, if the shape restricts the classes of users, those classes.
        """
        target = original_tick()
        if target is None:
            return None
        users, spawn_rate, *further = target
        classes = further[0] if further else None
        class_copies = [copy for cls in classes or () for arm_copies in copies[cls.__name__] for copy in arm_copies]
        totals = users * arms, spawn_rate * arms
        return (*totals, class_copies) if class_copies else totals

    shape.tick = tick_all_arms  # type: ignore[method-assign]


class PairedDispatcher(UsersDispatcher):
    """Spawns one user for each arm at a time, so that the arms carry the same load at every moment."""

    lanes: ClassVar[Lanes]
    originals: ClassVar[Sequence[type[User]]]

    def new_dispatch(
        self, target_user_count: int, spawn_rate: float, user_classes: list[type[User]] | None = None
    ) -> None:
        """Start to spawn users up to a number, in steps that hold the same number of users of every arm."""
        super().new_dispatch(target_user_count, spawn_rate, user_classes)
        arms = len(next(iter(self.lanes.values())))
        # Locust's own step, rounded down to a multiple of the number of arms; the pause between steps follows from it.
        users_per_step = max(self._user_count_per_dispatch_iteration // arms, 1) * arms
        self._user_count_per_dispatch_iteration = users_per_step
        self._wait_between_dispatch = users_per_step / spawn_rate

    def _user_gen(self) -> Iterator[str | None]:
        return interleave(self._choose_originals(), self.lanes, len(self._worker_nodes))

    def _choose_originals(self) -> Iterator[str | None]:
        """Choose, without end, the class of the next users (one of every arm): by weight, as Locust's dispatcher does.

        Yields the name of an original class. Classes with a `fixed_count` come first, whenever Locust asks for them by
        setting `_try_dispatch_fixed`, until so many of their users run on each arm.
        """
        # Locust names the copies of the classes that it wants; these are the originals of the copies.
        requested = {cls.__name__ for cls in self._user_classes}
        classes = [
            cls
            for cls in self.originals
            if any(name in requested for arm_copies in self.lanes[cls.__name__] for name in arm_copies)
        ]
        by_weight = _kl_generator((cls.__name__, cls.weight) for cls in classes if not cls.fixed_count)
        while True:
            if self._try_dispatch_fixed:
                self._try_dispatch_fixed = False
                missing_by_class = {}  # counted for all classes before one of them is spawned
                for cls in classes:
                    if cls.fixed_count:  # counted on the first arm; the others have as many users
                        copies_of_first_arm = self.lanes[cls.__name__][0]
                        running = sum(self._get_user_current_count(name) for name in copies_of_first_arm)
                        missing_by_class[cls.__name__] = cls.fixed_count - running
                for class_name, count in missing_by_class.items():
                    for _ in range(count):
                        yield class_name
            else:
                yield next(by_weight)
