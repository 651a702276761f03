"""A judge that writes behind the server's routes: its queue, and what it said of a record in place of what a model read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from prefrep.errors import ConfigError, DataError
from prefrep.judges.generative import GenerativeJudge
from prefrep.judges.writing.judgments import BudgetError, Judgment, rewards_of
from prefrep.records import RankedResponses
from prefrep.server.engine import Answer, Engine, Meter, QueueFull
from prefrep.server.refusals import Refusal
from prefrep.web import ServerError

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Heard:
    """What a judge said of one record; stands where a `scoring.reading.Reading` does.

    Args:
        judge: The judge.
        count: K, the number of responses.
        judgments: One for each question.
    """

    judge: GenerativeJudge
    count: int
    judgments: list[Judgment]

    def known(self) -> Floats:
        """Return log-odds [K, K] that row beats column; NaN: no verdict."""
        return self.judge.log_odds(self.judgments, self.count)

    def silences(self) -> list[dict[str, Any]]:
        """Return which questions have no verdict: the places of their responses in the order shown, and why."""
        return [{"responses": list(each.places), "why": each.why} for each in self.judgments if each.values is None]

    def table(self) -> Floats:
        """Return log-odds [K, K].

        Raises:
            DataError: A question has no verdict.
        """
        self._whole()
        return self.known()

    def rewards(self) -> Floats:
        """Return one number per response, [K].

        Raises:
            ConfigError: The judge compares answers.
            DataError: A question has no verdict.
        """
        found = self.known_rewards()
        self._whole()
        return found

    def known_rewards(self) -> Floats:
        """Return one number per response, [K]; NaN: no verdict.

        Raises:
            ConfigError: The judge compares answers.
        """
        if self.judge.pairwise:
            raise ConfigError("this judge compares responses and gives no reward to a single one; use rule group or anchor, or tables")
        return rewards_of(self.judgments, self.count)

    def blocks(self) -> None:
        """None: verdicts have no blocks."""

    def bilinear(self) -> NoReturn:
        """Raise ConfigError: a judge that writes embeds nothing."""
        raise ConfigError("a judge that writes embeds nothing; ask /v1/table")

    def _whole(self) -> None:
        if found := self.silences():
            raise DataError(f"the judge has no verdict on {len(found)} of {len(self.judgments)} questions ({found[0]['why']}), and that is "
                            "no tie; /v1/compare and /v1/table say which")  # fmt: skip


class _Job(NamedTuple):
    record: RankedResponses
    finish: Callable[[Heard], Any]
    future: Future[Answer]


class Interviewer:
    """The queue of a judge that writes, with the interface of `engine.Engine`. Records that wait are asked about together, in one thread.

    Args:
        judge: The judge.
        meter: Counts the work.
        limit: Questions that may wait; more raise `QueueFull`. A single record is always taken by an empty queue.
    """

    def __init__(self, judge: GenerativeJudge, meter: Meter, limit: int = 20_000) -> None:
        self.scorer, self._meter, self._limit = judge, meter, limit
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock, self._waiting = Lock(), 0
        self._thread = Thread(target=self._work, name="judge", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of questions that are not answered yet."""
        return self._waiting

    def submit(self, records: Sequence[RankedResponses], finish: Callable[[Heard], Any], rendered: bool = False) -> list[Future[Answer]]:
        """Queue records, all of them or none; see `Engine.submit`.

        Raises:
            QueueFull: Too many questions wait.
            ConfigError: The texts are rendered.
        """
        if rendered:
            raise ConfigError("rendered: a judge that writes reads conversations; leave it out")
        asked = [len(self.scorer.shown(record)) for record in records]
        with self._lock:
            if self._waiting and self._waiting + sum(asked) > self._limit:
                raise QueueFull("the queue is full; try again a little later, or start the server with a larger --queue")
            self._waiting += sum(asked)
        futures = []
        for record, count in zip(records, asked, strict=True):
            future: Future[Answer] = Future()
            future.add_done_callback(partial(self._leave, count))
            self._jobs.put(_Job(record, finish, future))
            futures.append(future)
        return futures

    def close(self) -> None:
        """Answer what is queued, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _leave(self, count: int, future: Future[Answer]) -> None:
        with self._lock:
            self._waiting -= count

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs, ends = [first], False
            while not self._jobs.empty() and not ends:
                if (more := self._jobs.get()) is None:
                    ends = True
                else:
                    jobs.append(more)
            begun = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if len(begun) < len(jobs):
                self._meter.dropped(len(jobs) - len(begun))
            self._ask(begun)
            if sentence := self.scorer.tally.sentence():
                log.warning("%s: %s", self.scorer.name, sentence)
            self.scorer.forget()
            if ends:
                return

    def _ask(self, jobs: list[_Job]) -> None:
        """Answer records. Where one cannot be asked about, or exceeds the budget, the others are asked about without it."""
        rest = list(jobs)
        try:
            for record, judgments in self.scorer.heard([job.record for job in jobs]):
                tokens = sum(each.tokens for each in judgments)
                self._meter.batch(len(judgments), tokens, tokens)
                job = rest.pop(0)
                try:
                    job.future.set_result(Answer(job.finish(Heard(self.scorer, len(record.responses), judgments)), {}))
                except Exception as error:
                    job.future.set_exception(error)
        except Exception as error:
            if len(rest) > 1 and not isinstance(error, ServerError):  # which is gone for all
                for job in rest:
                    self._ask([job])
                return
            said = _unavailable(error)
            for job in rest:
                job.future.set_exception(said)


def _unavailable(error: Exception) -> Exception:
    """Return what clients are told where a judge answers nobody."""
    if isinstance(error, BudgetError):
        log.error("%s", error)
        return Refusal(402, "the budget of the judge (max_requests, max_total_tokens) is spent; start the server with a larger one")
    if isinstance(error, ServerError):
        log.error("%s", error)
        return Refusal(502, "the endpoint of the judge does not answer, which the server's log explains", retry_after="5")
    return error


Queue = Engine | Interviewer
