"""Two corrections of Ray Tune, for the releases whose private code is known; other releases run as they are.

Every private name of Ray that this project uses is in this module.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ray

__all__ = ["KNOWN_RELEASES", "TuneInternals", "find_internals", "patched_tune"]

KNOWN_RELEASES = ("2.60",)  # add a release after tests/service/cluster/test_tune_patches.py passes with it


class TuneInternals:
    """The private places of Tune that are replaced.

    Raises:
        ImportError, AttributeError: If this Ray does not have them.
    """

    def __init__(self) -> None:
        from ray.air.execution._internal.actor_manager import RayActorManager
        from ray.tune.execution import tune_controller

        self.actor_manager: Any = RayActorManager
        self.controller: Any = tune_controller
        self.task_failed = RayActorManager._actor_task_failed
        self.object_cache = tune_controller._ObjectCache
        for name in ("cache_object", "flush_cached_objects", "pop_cached_object", "increase_max"):
            getattr(self.object_cache, name)


def find_internals(version: str = ray.__version__) -> TuneInternals | None:
    """The private places of this Ray, or None, with a warning, if its release is unknown or lacks them."""
    try:
        if version.startswith(tuple(f"{release}." for release in KNOWN_RELEASES)):
            return TuneInternals()
        reason = f"known releases are {', '.join(KNOWN_RELEASES)}"
    except (ImportError, AttributeError) as error:
        reason = str(error)
    warnings.warn(
        f"Ray {version}: Tune runs uncorrected ({reason}), so a worker that is killed for lack of memory may end the "
        "sweep, and workers are started anew more often",
        stacklevel=2,
    )
    return None


@contextlib.contextmanager
def patched_tune(num_left: Callable[[], int], internals: TuneInternals | None) -> Iterator[None]:
    """Correct Tune inside the `with` block.

    Ray reports a worker that it killed for lack of memory with an error that Tune does not know, and Tune gives the
    whole sweep up: report it as a worker that died. And Tune ends idle workers although trials are left: keep them.

    Args:
        num_left: Returns the number of trials that Tune does not know of yet.
        internals: See `find_internals`; None changes nothing.
    """
    if internals is None:
        yield
        return

    @functools.wraps(internals.task_failed)
    def also_for_memory(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, ray.exceptions.OutOfMemoryError):
            message = " ".join(str(exception).partition(", which exceeds")[0].split())[:300]
            exception = ray.exceptions.RayActorError(error_msg=message)
        internals.task_failed(self, tracked_actor_task, exception)

    internals.actor_manager._actor_task_failed = also_for_memory
    internals.controller._ObjectCache = warm_cache(internals.object_cache, num_left)
    try:
        yield
    finally:
        internals.actor_manager._actor_task_failed = internals.task_failed
        internals.controller._ObjectCache = internals.object_cache


def warm_cache(object_cache: Any, num_left: Callable[[], int]) -> Any:
    """Tune's cache of idle workers, which keeps as many as there are trials to come.

    Tune's own keeps one worker that no trial is ready for and ends the others, so trials that end together, or that
    wait for the last of the search, would pay for imports again.
    """

    class WarmCache(object_cache):
        def cache_object(self, key: Any, obj: Any) -> bool:
            if self._num_cached_objects >= self._num_wanted():
                return False
            self._cached_objects[key].append(obj)
            self._num_cached_objects += 1
            return True

        def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
            num_kept = 0 if force_all else self._num_wanted()
            for workers in self._cached_objects.values():
                while workers and self._num_cached_objects > num_kept:
                    self._num_cached_objects -= 1
                    yield workers.pop(0)

        def _num_wanted(self) -> int:
            return self.total_max_objects + num_left()

    return WarmCache
