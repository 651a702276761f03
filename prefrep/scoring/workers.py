"""Scoring in several processes: `--workers N` of `prefrep score` and `prefrep eval`, on this machine or on those of a Ray cluster.

The main process reads, writes and keeps the order; the workers score windows of records. So there is nothing to merge, an interrupted file
resumes whatever the number of workers, and code that takes a `Scorer` also takes `Workers`.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TYPE_CHECKING, Any

from prefrep.annotators import Annotators
from prefrep.errors import ConfigError, PrefrepError
from prefrep.parts import import_modules, imported
from prefrep.records import Comparison, RankedResponses
from prefrep.scoring.cluster import Answer, RayPool
from prefrep.scoring.interface import WINDOW, PreferenceScorer
from prefrep.scoring.loading import Scoring, is_url, remote
from prefrep.writers import leave

if TYPE_CHECKING:
    from prefrep.scoring.forward import Floats


def open_scorer(model: str, loading: Scoring) -> PreferenceScorer:
    """Return the scorer of an exported folder, in this process or over several, or a client of the server at a URL.

    Raises:
        CheckpointError: The folder cannot be read.
        ServerError: The server cannot be reached.
    """
    if is_url(model):
        return remote(model, loading)
    return loading.here(model) if loading.workers == 1 and loading.engine == "processes" else Workers(model, loading)


class Workers:
    """A `Scorer` over several processes. Results keep the order of the records; at most two windows per process are in memory.

    Args:
        model: Exported folder.
        loading: How each process loads it, and how many there are. `device: auto` assigns the GPUs round-robin, or else an equal share of
            the CPU cores to each process; under Ray, see `RayPool`.

    Raises:
        PrefrepError: Loading fails, or a process dies.
    """

    def __init__(self, model: str, loading: Scoring) -> None:
        self._count = loading.workers
        self._pool: Any = _processes(model, loading) if loading.engine == "processes" else RayPool(_load, model, loading)
        self._encoded: Counter[str] = Counter()
        one_order, self._described, self.annotators = _result(self._pool.submit(_describe))
        if one_order:  # only a `PairScorer` has this method, and evaluation checks for it
            self.compare_one_order = partial(self._stream, "compare_one_order")

    @property
    def pairwise(self) -> bool:
        """See `Scorer.pairwise`."""
        return bool(self._described["pairwise"])

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """See `Scorer.compare`."""
        return self._stream("compare", comparisons, progress)

    def compare_rewards(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[tuple[float, float, float]]:
        """See `Scorer.compare_rewards`."""
        if self.pairwise:
            raise ConfigError("this model compares responses and gives no reward to a single one; use compare")
        return self._stream("compare_rewards", comparisons, progress)

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """See `Scorer.tables`."""
        return self._stream("tables", records, progress)

    def tables_of(self, records: Iterable[RankedResponses], annotators: Sequence[str], *, progress: str | None = None) -> Iterator[Floats]:
        """See `Scorer.tables_of`."""
        return self._stream("tables_of", records, progress, annotators)

    @property
    def objectives(self) -> tuple[str, ...]:
        """See `Scorer.objectives`."""
        return tuple(self._described.get("objectives", ()))

    def objective_rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """See `Scorer.objective_rewards`."""
        return self._stream("objective_rewards", records, progress)

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """See `Scorer.rewards`."""
        if self.pairwise:
            raise ConfigError("this model compares responses and gives no reward to a single one; use tables")
        return self._stream("rewards", records, progress)

    def describe(self) -> dict[str, Any]:
        """See `Scorer.describe`; `encoded` counts over all processes."""
        return {**self._described, "encoded": dict(self._encoded)}

    def _stream(self, question: str, records: Iterable[Any], progress: str | None, *more: Any) -> Iterator[Any]:
        from tqdm import tqdm

        records, waiting = iter(records), deque[Future[tuple[list[Any], Counter[str]]] | Answer]()
        try:
            with tqdm(desc=progress, unit=" prompts", disable=progress is None) as bar:
                while True:
                    while len(waiting) < 2 * self._count and (window := list(islice(records, WINDOW))):
                        with _alive():
                            waiting.append(self._pool.submit(_answer, question, window, *more))
                    if not waiting:
                        return
                    answers, encoded = _result(waiting.popleft())
                    self._encoded.update(encoded)
                    bar.update(len(answers))
                    yield from answers
        finally:  # the consumer stopped early
            for future in waiting:
                future.cancel()


# ---- worker processes


def _processes(model: str, loading: Scoring) -> ProcessPoolExecutor:
    context = get_context("spawn")  # CUDA cannot be used in a forked process
    ranks = context.Queue()
    for rank in range(loading.workers):
        ranks.put(rank)
    return ProcessPoolExecutor(loading.workers, mp_context=context, initializer=_begin, initargs=(model, loading, ranks, imported()))


_scorer: PreferenceScorer | None = None
_failure: Exception | None = None


def _begin(model: str, loading: Scoring, ranks: Any, modules: Sequence[str]) -> None:
    """Load the model in a process of this machine, with its share of the GPUs or cores."""
    import torch

    for number in (signal.SIGINT, signal.SIGUSR1):  # sent to the whole process group: the parent finishes the window
        signal.signal(number, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    rank = ranks.get()
    device = loading.device
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{rank % torch.cuda.device_count()}"
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // loading.workers))
    _load(model, replace(loading, device=device), modules)


def _load(model: str, loading: Scoring, modules: Sequence[str]) -> None:
    """Load the model. An error waits for the first question: where a process begins, it would reach the parent as a broken pool only."""
    global _scorer, _failure
    try:
        import_modules(modules)  # this process has not imported them yet
        _scorer = loading.here(model)
    except PrefrepError as error:
        _failure = error
    except Exception as error:  # a defect, which may not survive the way to the parent
        _failure = RuntimeError("".join(traceback.format_exception(error)))


def _end_with_parent() -> None:
    """Exit with the parent, so that no orphan holds a GPU after the parent is killed."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _loaded() -> PreferenceScorer:
    if _failure is not None:
        raise _failure
    assert _scorer is not None
    return _scorer


def _describe() -> tuple[bool, dict[str, Any], Annotators | None]:
    scorer = _loaded()
    return hasattr(scorer, "compare_one_order"), scorer.describe(), scorer.annotators


def _answer(question: str, window: list[Any], *more: Any) -> tuple[list[Any], Counter[str]]:
    """Return the answers to a window of records, and the encoder's counts."""
    scorer = _loaded()
    before = Counter(scorer.describe()["encoded"])
    answers = list(getattr(scorer, question)(window, *more))
    return answers, Counter(scorer.describe()["encoded"]) - before


def _result(future: Future[Any] | Answer) -> Any:
    with _alive():
        return future.result()


@contextmanager
def _alive() -> Iterator[None]:
    """Convert a broken pool, which both submitting and waiting can raise, to an error with a remedy."""
    try:
        yield
    except BrokenProcessPool:
        leave()  # a scheduler may terminate the workers together with this process
        raise PrefrepError("a worker process has died, probably out of memory; use fewer --workers and run again to resume") from None
