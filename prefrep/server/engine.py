"""A model and its queue: one thread encodes, one thread reads, and the event loop waits for neither."""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from math import comb
from threading import Condition, Thread
from typing import Any, NamedTuple, Protocol

from prefrep.errors import ConfigError, PrefrepError, RecordError
from prefrep.records import RankedResponses
from prefrep.scoring.reading import Reading
from prefrep.scoring.scorer import Scorer
from prefrep.server.batches import Batch, Job

log = logging.getLogger(__name__)

# Clients that ask at once arrive one after the other. A batch is begun when nothing has arrived for a twentieth of what the last batch
# took, within bounds; or after four times as long in any case.
QUIET, SHARE, MOST_QUIET, GATHERING = 0.002, 1 / 20, 0.05, 4
COUNTED = 50_000  # characters that are counted at a time


class QueueFull(PrefrepError):
    """A queue that takes no more requests at present."""


class Meter(Protocol):
    """What counts the engine's work; see `server.metrics`."""

    def batch(self, sequences: int, read: int, asked: int) -> None:
        """Count a forward pass: sequences, tokens read, and tokens of the requests that it answered."""

    def dropped(self, count: int) -> None:
        """Count requests whose clients have gone before their work began."""


class Answer(NamedTuple):
    """An answer, and what encoding its record counted (`Encoder.counts`: truncated prompts and responses)."""

    value: Any
    encoded: dict[str, int]


class Engine:
    """Answers questions about records with one model.

    Args:
        scorer: The model.
        meter: Counts the work.
        limit: Sequences that may wait; more raise `QueueFull`. A single record is always taken by an empty queue.
        text_tokens: Longest prompt or response in tokens; the model truncates below that as `Scorer` does.
    """

    def __init__(self, scorer: Scorer, meter: Meter, limit: int = 20_000, text_tokens: int = 32_768) -> None:
        self.scorer, self._meter, self._limit, self._text_tokens = scorer, meter, limit, text_tokens
        self._jobs: deque[Job] = deque()
        self._wake = Condition()
        self._waiting = 0
        self._unencoded = 0
        self._arrived, self._quiet = 0.0, QUIET
        self._closing = False
        self._encoding = ThreadPoolExecutor(1, "encode")
        self._thread = Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of sequences that are not answered yet."""
        return self._waiting

    def reads(self, count: int) -> int:
        """Return the number of sequences that a record of K = `count` responses costs."""
        return 2 * comb(count, 2) if self.scorer.model.head.layout == "pair" else count

    def submit(self, records: Sequence[RankedResponses], finish: Callable[[Reading], Any], rendered: bool = False) -> list[Future[Answer]]:
        """Queue records, all of them or none.

        Args:
            records: Prompts and responses; `source` names a record in errors.
            finish: Makes the answer of what was read of a record; runs in the model's thread.
            rendered: See `Scorer.encoded`.

        Returns:
            A future of each answer. Cancelling it drops the record, unless its reading has begun.

        Raises:
            QueueFull: Too many sequences wait.
            ConfigError: Texts are rendered, and the model renders pairs itself.
        """
        if rendered and self.scorer.model.head.layout == "pair":
            raise ConfigError("rendered: this model reads pairs and renders both responses itself")
        reads = [self.reads(len(record.responses)) for record in records]
        with self._wake:
            if self._waiting and self._waiting + sum(reads) > self._limit:
                raise QueueFull("the queue is full; try again a little later, or start the server with a larger --queue")
            self._waiting += sum(reads)
            self._unencoded += len(records)
            self._arrived = time.monotonic()
        futures = []
        for record, cost in zip(records, reads, strict=True):
            future: Future[Answer] = Future()
            future.add_done_callback(partial(self._leave, cost))
            self._encoding.submit(self._encode, record, finish, rendered, future)
            futures.append(future)
        return futures

    def close(self) -> None:
        """Answer what is queued, then end the threads."""
        self._encoding.shutdown()
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    # ---- the encoding thread

    def _encode(self, record: RankedResponses, finish: Callable[[Reading], Any], rendered: bool, future: Future[Answer]) -> None:
        job = None if future.cancelled() else self._job(record, finish, rendered, future)
        with self._wake:
            self._unencoded -= 1
            if job:
                self._jobs.append(job)
            self._wake.notify()
        if future.cancelled() and not job:
            self._meter.dropped(1)

    def _job(self, record: RankedResponses, finish: Callable[[Reading], Any], rendered: bool, future: Future[Answer]) -> Job | None:
        """Return a record that is ready to be read; None: it was answered here."""
        try:
            self._check_tokens(record)
            before = Counter(self.scorer.encode_counts)
            datum = self.scorer.encoded(record, rendered)
            encoded = dict(Counter(self.scorer.encode_counts) - before)
        except Exception as error:
            self._fail(future, error)
            return None
        job = Job(len(record.responses), datum, lambda reading: Answer(finish(reading), encoded), future)
        if job.size:
            return job
        self._finish(job)  # a single response makes no pair, so a pair model has nothing to read
        return None

    def _check_tokens(self, record: RankedResponses) -> None:
        """Raise RecordError if a text has more tokens than the server accepts."""
        texts = [("prompt", record.prompt), *((f"responses[{i}]", each) for i, each in enumerate(record.responses))]
        for name, messages in texts:
            content = "\n".join(message.content for message in messages)
            # A token has at least one byte, so most texts need no counting.
            if len(content.encode()) > self._text_tokens:
                tokens = 0
                for start in range(0, len(content), COUNTED):  # a tokenizer can need minutes for megabytes without a blank
                    part = content[start : start + COUNTED]
                    tokens += len(self.scorer.model.tokenizer(part, add_special_tokens=False)["input_ids"])
                    if tokens > self._text_tokens:
                        raise RecordError(
                            f"{record.source}.{name}" if record.source else name, f"it is longer than the {self._text_tokens} tokens that "
                            "this server reads of one text", "shorten it, or start the server with a larger --text-tokens",
                        )  # fmt: skip

    # ---- the model's thread

    def _work(self) -> None:
        while batch := self._next():
            self._answer(batch)

    def _next(self) -> Batch | None:
        """Return what is read next; None: the engine is closed and nothing is left.

        What arrives together may share a prompt, so a batch is begun when it is full, or when all that has arrived is in it and no
        more arrives.
        """
        batch, latest = Batch(self.scorer.batch_tokens, self.scorer.shares_prefixes), 0.0
        with self._wake:
            while True:
                self._drop_cancelled()
                batch.take(self._jobs)
                self._jobs = deque(job for job in self._jobs if job.units)
                now = time.monotonic()
                latest = latest or (now + GATHERING * self._quiet if len(batch) else 0.0)
                begin = min(self._arrived + self._quiet, latest)
                if len(batch) and (self._jobs or (not self._unencoded and (self._closing or begin <= now))):
                    return batch
                if self._closing and not self._unencoded:
                    return None
                self._wake.wait(begin - now if len(batch) and not self._unencoded else None)

    def _drop_cancelled(self) -> None:
        before = len(self._jobs)
        self._jobs = deque(job for job in self._jobs if not job.future.cancelled())
        if gone := before - len(self._jobs):
            self._meter.dropped(gone)

    def _answer(self, batch: Batch) -> None:
        jobs = batch.jobs
        if not jobs:
            return
        started = time.monotonic()
        try:
            read = batch.read(self.scorer)
        except Exception as error:
            for job in jobs:
                job.units.clear()  # a job that is read in parts fails as a whole
                self._fail(job.future, error)
            return
        self._quiet = min(max(QUIET, SHARE * (time.monotonic() - started)), MOST_QUIET)
        self._meter.batch(len(batch), read, batch.asked)
        for job in jobs:
            if job.complete:
                self._finish(job)

    def _finish(self, job: Job) -> None:
        try:
            answer = job.finish(job.reading(self.scorer))
        except Exception as error:
            self._fail(job.future, error)
            return
        if job.future.set_running_or_notify_cancel():
            job.future.set_result(answer)

    # ---- both

    def _leave(self, reads: int, future: Future[Answer]) -> None:
        with self._wake:
            self._waiting -= reads

    @staticmethod
    def _fail(future: Future[Answer], error: Exception) -> None:
        if not isinstance(error, PrefrepError):
            # Where it happened, but not its message, which may quote a user's text.
            log.error("%s while scoring\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
