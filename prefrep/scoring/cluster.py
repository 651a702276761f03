"""Scoring on the machines of a Ray cluster: `--engine ray` of the programs that take `--workers`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

from prefrep.errors import ConfigError, PrefrepError, UsageError, first_line
from prefrep.parts import imported

if TYPE_CHECKING:
    from prefrep.scoring.loading import Scoring


RETRIES = 5  # times that a window is scored again after its actor died: one that always runs out of memory must end


class RayPool:
    """Actors that score windows of records, each with a GPU where the cluster has some, or else a core.

    An actor that dies, alone or with its machine, starts again where there is room, and its windows are scored again, `RETRIES` times at
    most. Only the process that asks reads and writes (`scoring.workers`), so nothing is lost or written twice. The cluster is that of
    `RAY_ADDRESS`; without one, Ray starts on this machine. Every machine must have prefrep installed, and the model in a folder of the same
    path or on the hub.

    Args:
        begin: Called in each actor, with model, loading and imported modules; loads the model.
        model: Exported folder or hub id.
        loading: How each actor loads it, and how many there are.

    Raises:
        ConfigError: Ray is not installed.
        UsageError: The cluster has fewer GPUs or cores.
        PrefrepError: No cluster answers.
    """

    def __init__(self, begin: Callable[[str, Scoring, Sequence[str]], None], model: str, loading: Scoring) -> None:
        if find_spec("ray") is None:
            raise ConfigError("--engine ray: Ray is not installed; pip install 'prefrep[ray]', or leave the option out")
        ray = import_module("ray")  # an optional dependency
        if not ray.is_initialized():
            try:
                ray.init(log_to_driver=False, logging_level="warning")
            except ConnectionError as error:
                raise PrefrepError(
                    f"--engine ray: no cluster answers ({first_line(error)}); unset RAY_ADDRESS, or start Ray there"
                ) from error
        there = ray.cluster_resources()
        kind = "GPU" if there.get("GPU") and loading.device != "cpu" else "CPU"
        if loading.workers > (room := int(there.get(kind, 0))):
            raise UsageError(f"--workers {loading.workers}: the cluster has {room} {kind}s; use as many or fewer")
        needs = {f"num_{kind.lower()}s": 1}
        remote = ray.remote(max_restarts=-1, max_task_retries=RETRIES, **needs)(_Actor)
        self._actors = [remote.remote(begin, model, loading, imported()) for _ in range(loading.workers)]
        self._next = cycle(self._actors)

    def submit(self, question: Callable[..., Any], *more: Any) -> Answer:
        """Ask the next actor; see `concurrent.futures.Executor.submit`."""
        return Answer(next(self._next).run.remote(question, *more))


class Answer(NamedTuple):
    """An answer to come, like `concurrent.futures.Future`.

    Args:
        reference: Ray's reference to it.
    """

    reference: Any

    def result(self) -> Any:
        """Wait for the answer. Raises what the question raised, or PrefrepError: the cluster cannot answer."""
        ray = import_module("ray")
        try:
            return ray.get(self.reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise PrefrepError(
                f"the Ray cluster does not answer ({first_line(error)}); if memory is short, lower --batch-tokens; run again to resume"
            ) from error

    def cancel(self) -> None:
        """Do not wait for the answer."""
        import_module("ray").cancel(self.reference)


class _Actor:
    """Keeps a loaded model in a process of the cluster, in the module of the questions."""

    def __init__(self, begin: Callable[[str, Scoring, Sequence[str]], None], model: str, loading: Scoring, modules: Sequence[str]) -> None:
        begin(model, loading, modules)

    def run(self, question: Callable[..., Any], *more: Any) -> Any:
        return question(*more)
