"""Several processes that score as one: `--workers N` of bin/score and bin/eval.

One process reads, writes and keeps the order; the others only score windows of records. So nothing has to be merged, an interrupted file
goes on as if one process had written it, and whatever takes a `Scorer` takes `Workers`.
"""

from __future__ import annotations

import os
import signal
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TYPE_CHECKING, Any

from prefrep.cli.options import positive
from prefrep.errors import ConfigError, PrefrepError
from prefrep.records import Comparison, RankedResponses

if TYPE_CHECKING:
    from prefrep.scoring import Floats, Scorer

WINDOW = 128  # records that a process is handed at a time: as many as a Scorer sorts by size, so batches are those of one process


@dataclass(frozen=True)
class Loading:
    """How each process loads the model; the arguments of `Scorer.from_pretrained`."""

    path: str
    device: str = "auto"
    dtype: Any = None
    attention: str = "auto"
    batch_tokens: int = 4096
    layout: Any = "auto"

    def scorer(self) -> Scorer:
        """Loads the model into this process."""
        from prefrep.scoring import Scorer

        return Scorer.from_pretrained(self.path, self.device, self.dtype, self.attention, self.batch_tokens, self.layout)


def add_option(parser: Any) -> None:
    """Adds `--workers`."""
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive,
        default=1,
        help="processes that score, one GPU each where there are any; what is written does not depend on it (default: 1)",
    )


def start(loading: Loading, workers: int) -> Scorer | Workers:
    """A scorer in this process, or several processes that act as one."""
    if workers == 1:
        return loading.scorer()
    return Workers(loading, workers)


class Workers:
    """Scores as a `Scorer` does, in several processes. Results come in the order of the records; few windows are in memory at a time.

    Args:
        loading: The model. `device: auto` gives the processes the GPUs in turn, or equal shares of the CPU's cores.
        workers: Number of processes.

    Raises:
        PrefrepError: What loading raises, or a process dies.
    """

    def __init__(self, loading: Loading, workers: int) -> None:
        context = get_context("spawn")  # CUDA cannot be used in a forked process
        ranks = context.Queue()
        for rank in range(workers):
            ranks.put(rank)
        self._count = workers
        self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(loading, workers, ranks))
        self._encoded: Counter[str] = Counter()
        one_order, self._described = _result(self._pool.submit(_describe))
        if one_order:  # evaluation asks a scorer whether it has this method, see `PairScorer`
            self.compare_one_order = partial(self._stream, "compare_one_order")

    @property
    def pairwise(self) -> bool:
        """See `Scorer.pairwise`."""
        return bool(self._described["pairwise"])

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """See `Scorer.compare`."""
        return self._stream("compare", comparisons, progress)

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """See `Scorer.tables`."""
        return self._stream("tables", records, progress)

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """See `Scorer.rewards`."""
        if self.pairwise:
            raise ConfigError("this model compares responses and has no reward for one alone; ask for tables")
        return self._stream("rewards", records, progress)

    def describe(self) -> dict[str, Any]:
        """See `Scorer.describe`; what was encoded is counted over all processes."""
        return {**self._described, "encoded": dict(self._encoded)}

    def _stream(self, question: str, records: Iterable[Any], progress: str | None) -> Iterator[Any]:
        from tqdm import tqdm

        records, waiting = iter(records), deque[Future[tuple[list[Any], Counter[str]]]]()
        try:
            with tqdm(desc=progress, unit=" prompts", disable=progress is None) as bar:
                while True:
                    while len(waiting) < 2 * self._count and (window := list(islice(records, WINDOW))):
                        with _alive():
                            waiting.append(self._pool.submit(_answer, question, window))
                    if not waiting:
                        return
                    answers, encoded = _result(waiting.popleft())
                    self._encoded.update(encoded)
                    bar.update(len(answers))
                    yield from answers
        finally:  # interrupted: do not work on what nobody waits for
            for future in waiting:
                future.cancel()


# ---- in the processes

_scorer: Scorer | None = None
_failure: PrefrepError | None = None


def _begin(loading: Loading, workers: int, ranks: Any) -> None:
    """Loads the model. An error is kept for the first question: raised here, all that the parent hears is that a process died."""
    global _scorer, _failure
    import torch

    from prefrep.cli.main import quiet

    quiet()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says that it was interrupted, once
    Thread(target=_end_with_parent, daemon=True).start()
    rank = ranks.get()
    device = loading.device
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{rank % torch.cuda.device_count()}"
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    try:
        _scorer = replace(loading, device=device).scorer()
    except PrefrepError as error:
        _failure = error


def _end_with_parent() -> None:
    """A killed parent must not leave processes that hold a GPU."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _loaded() -> Scorer:
    if _failure is not None:
        raise _failure
    assert _scorer is not None
    return _scorer


def _describe() -> tuple[bool, dict[str, Any]]:
    scorer = _loaded()
    return hasattr(scorer, "compare_one_order"), scorer.describe()


def _answer(question: str, window: list[Any]) -> tuple[list[Any], Counter[str]]:
    """Answers to a window of records, and what encoding them counted."""
    scorer = _loaded()
    before = Counter(scorer.describe()["encoded"])
    answers = list(getattr(scorer, question)(window))
    return answers, Counter(scorer.describe()["encoded"]) - before


def _result(future: Future[Any]) -> Any:
    with _alive():
        return future.result()


@contextmanager
def _alive() -> Iterator[None]:
    """Says in a sentence that a process has died: asking one more question is when one hears of it, as well as waiting for an answer."""
    try:
        yield
    except BrokenProcessPool:
        raise PrefrepError(
            "a process that scores has died, most likely out of memory; take fewer --workers, and what is written is gone on with"
        ) from None
